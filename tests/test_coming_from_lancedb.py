"""The page for people who come from LanceDB runs as printed against a fresh server."""

from collections.abc import Callable

import pytest

from support import node, readme
from support.server import LakebedServer

PAGE = readme.ROOT / "docs/coming-from-lancedb.md"


@pytest.mark.timeout(200)
def test_the_page_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    home = server.work / "home"
    (home / ".config").mkdir(parents=True, exist_ok=True)
    printed = readme.run(server.http_address, home, PAGE).splitlines()
    assert printed[0] == "1000 ['frames']"
    assert len(printed[1].split(",")) == 3
    assert printed[2:5] == ["5", "a zeppelin", "2"]
    assert printed[5] == "1000"
    assert printed[6] == "901 ['id', 'caption', 'speed', 'vector', 'fast']"


@pytest.mark.timeout(200)
def test_the_page_runs_in_node(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    address = 'const SERVER = "http://127.0.0.1:10024";'
    own = address.replace("127.0.0.1:10024", server.http_address)
    printed = node.run_page(server, PAGE, address, own).splitlines()
    assert printed[0] == "1000 [ 'frames' ]"
    assert len(printed[1].split(",")) == 3
    assert printed[2:5] == ["5", "a zeppelin", "2"]
    assert printed[5] == "1000"
    assert printed[6] == "901 [ 'id', 'caption', 'speed', 'vector', 'fast' ]"
