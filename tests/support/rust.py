"""The binary of tests/rust, which runs the unmodified Rust client against a server."""

import os
from pathlib import Path
from typing import Any

from support import child
from support.server import LakebedServer

VARIABLE = "LAKEBED_RUST_CLIENT"


def binary() -> Path:
    """What `make rust-client-tests` built."""
    found = Path(os.environ[VARIABLE])
    assert found.is_file(), f"{found} is missing; run `make rust-client-tests`"
    return found


def run(server: LakebedServer, case: str, *arguments: str) -> Any:
    """What a case prints, which is JSON."""
    sql = f"grpc://{server.flight_address}"
    return child.seen(server, [binary(), case, *arguments], LAKEBED_SQL_URL=sql)
