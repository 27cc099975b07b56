"""The page on importing: its commands run as printed, and print what it says but for the times."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cli import Cli
from support.readme import ROOT
from support.server import LakebedServer, built_binary

PAGE = ROOT / "docs/importing.md"
# What differs from run to run: seconds and rates.
TIMES = re.compile(r"\d[\d.]*(?= (?:s\b|files/s|[KMG]?i?B/s))|(?<=\"seconds\": )[\d.]+")


def commands() -> list[tuple[list[str], str]]:
    """Each command of the page with what it printed."""
    found: list[tuple[list[str], str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        for part in block.split("$ lakebed ")[1:]:
            command, _, printed = part.partition("\n")
            found.append((command.split(), printed))
    return found


def without_times(text: str) -> str:
    """Text whose times and rates are all the same."""
    return re.sub(r"T [KMG]?i?B/s", "T B/s", TIMES.sub("T", text)).strip()


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
    environment = Cli(server, tmp_path).environment()
    found = commands()
    assert len(found) >= 8
    for command, printed in found:
        done = subprocess.run(
            [str(built_binary()), *command],
            env=environment,
            cwd=work,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert without_times(done.stdout + done.stderr) == without_times(printed), command
