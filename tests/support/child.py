"""Programs that tests start, and that end by themselves."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from support.server import LakebedServer


def printed(
    command: list[str | Path],
    environment: dict[str, str],
    *,
    folder: Path | None = None,
    given: str = "",
    timeout_s: float = 100.0,
) -> str:
    """Runs a program that has to succeed; what it printed."""
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(server: LakebedServer, command: list[str | Path], **variables: str) -> Any:
    """Runs a client's program against a server; what it prints, which is JSON."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(server.work / "home"),
        "LAKEBED_URL": f"http://{server.http_address}",
        "LAKEBED_KEY": server.admin_key,
        **variables,
    }
    return json.loads(printed(command, environment))
