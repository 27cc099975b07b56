"""Indexes that are built, and waited for."""

from typing import Any

from support.server import LakebedServer
from support.waiting import wait_until


def build(server: LakebedServer, table: str, kinds: dict[str, dict[str, Any]]) -> None:
    """An index of such a kind on each of these columns, one after the other."""
    http = server.http()
    for column, kind in kinds.items():
        http.ok("POST", f"/v1/table/{table}/create_index", {"column": column, **kind})
        stats = f"/v1/table/{table}/index/{column}_idx/stats"
        wait_until(lambda path=stats: http.post(path).status == 200, f"the index on {column}")
