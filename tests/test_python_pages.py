"""The pages about Python and about workers run as printed against a fresh server."""

from collections.abc import Callable

import pytest

from support import readme
from support.server import LakebedServer
from support.worker import WHEELS, Jobs, Worker


def fresh(make_server: Callable[..., LakebedServer]) -> LakebedServer:
    """A server that writes its own key, as a person's does."""
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""})
    (server.work / "home/.config").mkdir(parents=True, exist_ok=True)
    return server.start()


@pytest.mark.timeout(200)
def test_the_page_about_python_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = fresh(make_server)
    page = readme.ROOT / "docs/python.md"
    printed = readme.run(server.http_address, server.work / "home", page).splitlines()
    assert printed[0] == "2 2000"
    assert printed[1] == "180 500"
    assert "2500 332 1000" in printed
    assert "[{'id': 3}]" in printed
    assert "[1, 3]" in printed
    assert "b'hello from inside'" in printed
    assert "not_found True" in printed
    assert printed[-2:] == ["[2500, 3]", "100 167 67"]


@pytest.mark.timeout(200)
def test_the_page_about_workers_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = fresh(make_server)
    [key_file] = (server.work / "home/.config/lakebed").glob("*.key")
    server.admin_key = key_file.read_text().strip()
    worker = Worker(server, "w").start()
    Jobs(server).wait_for_workers(1)
    page = readme.ROOT / "docs/workers.md"
    printed = readme.run(server.http_address, server.work / "home", page).splitlines()
    assert printed[:2] == ["DONE 4", "[]"]
    assert "a black cat on a sofa" in printed[2]
    assert "two kittens asleep" in printed[2]
    assert worker.stop() == 0


@pytest.mark.timeout(200)
def test_the_page_about_operators_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = fresh(make_server)
    [key_file] = (server.work / "home/.config/lakebed").glob("*.key")
    server.admin_key = key_file.read_text().strip()
    worker = Worker(server, "w", wheels=WHEELS).start()
    Jobs(server).wait_for_workers(1)
    page = readme.ROOT / "docs/operators.md"
    printed = readme.run(server.http_address, server.work / "home", page).splitlines()
    assert printed == ["4 2 2", "[1, 2]", "DONE"]
    assert worker.stop() == 0
