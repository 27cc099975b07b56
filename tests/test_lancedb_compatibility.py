"""The page about compatibility says of every route what the server really does."""

import re
from pathlib import Path

import pytest

from support.server import LakebedServer

PAGE = Path(__file__).parent.parent / "docs/lancedb-compatibility.md"
ROW = re.compile(r"^\| `(GET|POST) (/\S+)` \| (built|not built|none) \|", re.MULTILINE)
ROUTES = ROW.findall(PAGE.read_text())


def test_the_page_has_the_whole_protocol() -> None:
    assert len(ROUTES) == len(set(ROUTES))
    assert len(ROUTES) >= 100


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(("method", "route", "state"), ROUTES)
def test_a_route_does_what_the_page_says(
    server: LakebedServer, method: str, route: str, state: str, slash: str
) -> None:
    # What these names stand for does not exist: nothing may be changed by asking.
    path = route.replace("{id}", "no_such_table").replace("{name}", "no_such_index")
    path = path.replace("{column}", "data").replace("{row_id}", "0") + slash
    answer = server.http().request(method, path, b"" if method == "POST" else None)
    if state == "not built":
        assert answer.status == 501, answer.body
        assert "not built" in answer.json()["error"]
    else:
        assert answer.status not in {405, 500, 501, 503}, answer.body
        if answer.status == 404:
            assert answer.json()["code"] in {1, 4}, "missing is the table, not the route"
