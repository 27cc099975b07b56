"""The binary of tests/rust, which runs the unmodified Rust client against a server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from support.server import LakebedServer

VARIABLE = "LAKEBED_RUST_CLIENT"


def binary() -> Path:
    """What `make rust-client-tests` built."""
    found = Path(os.environ[VARIABLE])
    assert found.is_file(), f"{found} is missing; run `make rust-client-tests`"
    return found


def run(server: LakebedServer, case: str, *arguments: str, timeout_s: float = 100.0) -> Any:
    """What a case prints, which is JSON."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(server.work / "home"),
        "LAKEBED_URL": f"http://{server.http_address}",
        "LAKEBED_SQL_URL": f"grpc://{server.flight_address}",
        "LAKEBED_KEY": server.admin_key,
    }
    ran = subprocess.run(
        [binary(), case, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
