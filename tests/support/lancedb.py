"""The unmodified LanceDB client against a server."""

from typing import Any

import lancedb

from support.server import LakebedServer


def connect(server: LakebedServer, database: str = "default", **options: Any) -> Any:
    """A connection of the synchronous client."""
    return lancedb.connect(f"db://{database}", **_options(server, options))


async def connect_async(server: LakebedServer, database: str = "default", **options: Any) -> Any:
    """A connection of the asynchronous client."""
    return await lancedb.connect_async(f"db://{database}", **_options(server, options))


def _options(server: LakebedServer, options: dict[str, Any]) -> dict[str, Any]:
    address = f"http://{server.http_address}"
    return {"api_key": server.admin_key, "host_override": address, **options}
