"""The page on SQL runs as printed against a fresh server."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.server import LakebedServer

PAGE = Path(__file__).parents[1] / "docs/sql.md"
ADDRESS = 'FLIGHT = "grpc://127.0.0.1:10025"'


@pytest.mark.timeout(200)
def test_the_page_runs(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    program = "\n".join(blocks)
    assert program.count(ADDRESS) == 1
    # A test may not take the port that a person's own server has.
    program = program.replace(ADDRESS, f'FLIGHT = "grpc://{server.flight_address}"')
    home = server.work / "home"
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in ("[(2,)]", "b.png", "LanceRead", "d.png", "76"):
        assert expected in done.stdout, f"{expected} not in {done.stdout}"
