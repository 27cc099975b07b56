"""The page on SQL runs as printed against a fresh server."""

from collections.abc import Callable

import pytest

from support import readme
from support.server import LakebedServer

PAGE = readme.ROOT / "docs/sql.md"
ADDRESS = 'FLIGHT = "grpc://127.0.0.1:10025"'


@pytest.mark.timeout(200)
def test_the_page_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    assert len(readme.blocks(PAGE)) >= 7
    own = f'FLIGHT = "grpc://{server.flight_address}"'
    printed = readme.run_with(PAGE, server.work / "home", ADDRESS, own)
    for expected in ("[(2,)]", "b.png", "LanceRead", "d.png", "76", "a.png.new"):
        assert expected in printed, f"{expected} not in {printed}"
