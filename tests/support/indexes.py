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


def build_each(server: LakebedServer, table: str, key: str) -> None:
    """An index of each family: on the column `key`, and on `label`, `words` and `vector`."""
    vector = {"index_type": "IVF_FLAT", "num_partitions": 2, "distance_type": "l2"}
    kinds: dict[str, dict[str, Any]] = {
        key: {"index_type": "BTREE"},
        "label": {"index_type": "BITMAP"},
        "words": {"index_type": "FTS"},
        "vector": vector,
    }
    build(server, table, kinds)
