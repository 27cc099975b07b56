"""A pytest plugin: what `lancedb.connect` opens in memory or in a folder is a database of a server.

`LANCEDB_TESTS_URL` and `LANCEDB_TESTS_KEY` name the server. What only an embedded database
understands (`storage_options`, `session`, `manifest_enabled`) is left out; what is connected to by
name already stays, and so do the tables in memory that the client makes for itself.
"""

import hashlib
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import lancedb

URL, KEY = os.environ["LANCEDB_TESTS_URL"], os.environ["LANCEDB_TESTS_KEY"]
EMBEDDED_ONLY = {"storage_options", "session", "manifest_enabled"}
# Opens tables in memory for the order of rows that it keeps, and reads them by batches of a size.
OWN_TABLES = "lancedb.permutation"
connect, connect_async = lancedb.connect, lancedb.connect_async


def database(uri: object) -> str | None:
    """What stands for memory, a new database each time, or for a folder; nothing for others."""
    text = str(uri)
    if text.startswith("memory:"):
        return f"db://memory-{secrets.token_hex(8)}"
    if "://" in text:
        return None
    folder = str(Path(text).expanduser().absolute())
    return f"db://folder-{hashlib.sha256(folder.encode()).hexdigest()[:16]}"


def remote(uri: object, more: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    """Where to connect to, and how."""
    name = None if uri is None or "api_key" in more else database(uri)
    if name is None:
        return uri, more
    kept = {key: value for key, value in more.items() if key not in EMBEDDED_ONLY}
    return name, kept | {"api_key": KEY, "host_override": URL}


def connect_here(uri: object = None, **more: Any) -> Any:
    if sys._getframe(1).f_globals.get("__name__") != OWN_TABLES:
        uri, more = remote(uri, more)
    return connect(uri, **more)


async def connect_async_here(uri: object = None, **more: Any) -> Any:
    uri, more = remote(uri, more)
    return await connect_async(uri, **more)


lancedb.connect, lancedb.connect_async = connect_here, connect_async_here
