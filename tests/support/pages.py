"""Commands of a page as a person would type them, with what the page says they print."""

import re
import subprocess
from pathlib import Path

from support.cli import Cli
from support.server import built_binary

# What differs from run to run: seconds, rates, ids of jobs, versions.
TIMES = re.compile(r"\d[\d.]*(?= (?:s\b|files/s|[KMG]?i?B/s))|(?<=\"seconds\": )[\d.]+")
# Writes that meet at the same moment share a version.
VERSION = re.compile(r"\bversion \d+")
JOB = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def commands(page: Path) -> list[tuple[str, str]]:
    """Each command of a page, without `lakebed`, with what it printed."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.M | re.S):
        for part in block.split("$ lakebed ")[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


def run_command(cli: Cli, folder: Path, command: list[str]) -> str:
    """Runs a command in a folder; what it printed."""
    done = subprocess.run(
        [str(built_binary()), *command],
        env=cli.environment(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def without_times(text: str) -> str:
    """Text whose times, rates, versions and ids of jobs are all the same."""
    text = VERSION.sub("version N", TIMES.sub("T", JOB.sub("J", text)))
    return re.sub(r"T [KMG]?i?B/s", "T B/s", text).strip()
