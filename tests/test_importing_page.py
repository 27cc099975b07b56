"""The page on importing: its commands run as printed, and print what it says but for the times."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cli import Cli
from support.pages import commands, run_command, without_times
from support.readme import ROOT
from support.server import LakebedServer

PAGE = ROOT / "docs/importing.md"


def prepare(folder: Path, stamps: Path, videos: Path, bags: Path) -> None:
    """The folder in which the page's commands are run."""
    (folder / "stamps").symlink_to(stamps)
    (folder / "films").symlink_to(videos)
    (folder / "bags").symlink_to(bags)
    people = ["Ada,36", "Grace,85", "Linus,"]
    (folder / "people.csv").write_text("\n".join(["name,age", *people]) + "\n")


@pytest.mark.timeout(300)
def test_the_page_runs(
    make_server: Callable[..., LakebedServer],
    tmp_path: Path,
    stamps: Path,
    videos: Path,
    bags: Path,
) -> None:
    server = make_server().start()
    work = tmp_path / "work"
    work.mkdir()
    prepare(work, stamps, videos, bags)
    cli = Cli(server, tmp_path)
    found = commands(PAGE)
    assert len(found) >= 8
    for command, printed in found:
        said = run_command(cli, work, shlex.split(command))
        assert without_times(said) == without_times(printed), command
