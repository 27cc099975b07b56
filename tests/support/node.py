"""Scripts of tests/node, which run the unmodified Node client against a server."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from support import child
from support.server import LakebedServer

FOLDER = Path(__file__).parent.parent / "node"


def packages() -> Path:
    """Where `make setup` put the packages of the lock."""
    cache = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
    lock = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = cache / f"data/node-{lock}/node_modules"
    assert folder.is_dir(), f"{folder} is missing; run `make setup`"
    return folder


def run_page(server: LakebedServer, page: Path, address: str, own: str) -> str:
    """Runs the JavaScript of a page, as printed, as one module; what it printed. Only the line
    `address` is changed."""
    blocks = re.findall(r"^```js\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    program = "\n".join(blocks)
    assert program.count(address) == 1
    folder = server.work / "node"
    folder.mkdir()
    (folder / "page.mjs").write_text(program.replace(address, own))
    # A module looks for packages beside itself.
    (folder / "node_modules").symlink_to(packages())
    environment = {"PATH": os.environ["PATH"], "HOME": str(server.work / "home")}
    return child.printed(["node", "page.mjs"], environment, folder=folder)


def run(server: LakebedServer, script: str, *arguments: str) -> Any:
    """What a script prints, which is JSON."""
    command = ["node", FOLDER / script, *arguments]
    return child.seen(server, command, NODE_PATH=str(packages()))
