"""The page for people who come from LanceDB runs as printed against a fresh server."""

from collections.abc import Callable

import pytest

from support import readme
from support.server import LakebedServer


@pytest.mark.timeout(200)
def test_the_page_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    home = server.work / "home"
    (home / ".config").mkdir(parents=True, exist_ok=True)
    page = readme.ROOT / "docs/coming-from-lancedb.md"
    printed = readme.run(server.http_address, home, page).splitlines()
    assert printed[0] == "1000 ['frames']"
    assert len(printed[1].split(",")) == 3
    assert printed[2:5] == ["5", "a zeppelin", "2"]
    assert printed[5] == "1000"
    assert printed[6] == "901 ['id', 'caption', 'speed', 'vector', 'fast']"
