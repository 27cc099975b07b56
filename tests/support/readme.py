"""A page's Python as a person would run it: every block, as printed, in one session."""

import os
import re
import sys
from pathlib import Path

from support import child

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
URL = 'URL = "http://127.0.0.1:10024"'


def blocks(page: Path) -> list[str]:
    """The Python blocks in their order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def run(http_address: str, home: Path, page: Path = README) -> str:
    """Runs all blocks against a server; what they printed. Only the address is changed, because a
    test may not take the port that a person's own server has."""
    return run_with(page, home, URL, f'URL = "http://{http_address}"')


def run_with(page: Path, home: Path, address: str, own: str) -> str:
    """Runs all blocks of a page with its line `address` replaced by `own`."""
    program = "\n".join(blocks(page))
    assert program.count(address) == 1
    program = program.replace(address, own)
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    if "PYTHONPATH" in os.environ:
        # Who tests another copy of the package means that.
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    command = [sys.executable, "-"]
    return child.printed(command, environment, folder=home, given=program, timeout_s=300)
