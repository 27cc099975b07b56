"""The page of the first ten minutes: its commands and its Python run as printed."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from support import readme
from support.cli import Cli
from support.pages import commands, run_command, without_times
from support.server import LakebedServer
from support.worker import Jobs, Worker

PAGE = readme.ROOT / "docs/first-ten-minutes.md"


@pytest.mark.timeout(300)
def test_the_page_runs(
    make_server: Callable[..., LakebedServer], tmp_path: Path, stamps: Path
) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""})
    (server.work / "home/.config").mkdir(parents=True, exist_ok=True)
    server.start()
    [key_file] = (server.work / "home/.config/lakebed").glob("*.key")
    server.admin_key = key_file.read_text().strip()
    work = tmp_path / "work"
    work.mkdir()
    (work / "animals").symlink_to(stamps / "animals")
    cli = Cli(server, tmp_path)
    worker = Worker(server, "w").start()
    Jobs(server).wait_for_workers(1)
    found = commands(PAGE)
    assert len(found) >= 6
    for command, printed in found:
        said = run_command(cli, work, shlex.split(command))
        assert without_times(said) == without_times(printed), command
    printed = readme.run(server.http_address, server.work / "home", PAGE).splitlines()
    assert printed == EXPECTED.splitlines()
    worker.kill()


EXPECTED = """\
0.44 A sea lion.
0.46 A seahorse.
0.48 A dolphinfish.
0.49 A coral trout.
0.50 A whale.
['A penguin.', 'A duck.', 'A pigeon.']
['An Adelaide Rosella.', 'A cuckoo.', 'A rainbow lorikeet.', 'A crow.']
      kind  pictures       width
0  mammals        67  216.358209
1    birds        38  209.763158
2  insects        20  300.350000
0 480
"""
