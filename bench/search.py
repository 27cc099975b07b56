"""Vector search by the LanceDB client: over HTTP against inside this process."""

import math
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np

from bench.rounds import Comparison, compare
from bench.rows import VECTOR_WIDTH, make_batches, rows_in
from support.server import LakebedServer

BAR = 0.7
QUERIES = 50
K = 10


def run(server: LakebedServer, _folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """Both sides search the same files through the same index and find the same rows."""
    rows = rows_in(min(table_mb, 250))
    batches = make_batches(rows)
    address = f"http://{server.http_address}"
    remote = lancedb.connect("db://default", api_key=server.admin_key, host_override=address)
    ours = remote.create_table("search", batches, schema=batches[0].schema)
    ours.create_index(
        metric="l2",
        vector_column_name="vector",
        index_type="IVF_PQ",
        num_partitions=math.isqrt(rows) // 4,
        num_sub_vectors=VECTOR_WIDTH // 8,
        wait_timeout=timedelta(minutes=10),
    )
    local = lancedb.connect(str(server.table_path("search").parent))
    theirs = local.open_table("search")
    dice = np.random.default_rng(3)
    queries = [dice.random(VECTOR_WIDTH, dtype=np.float32) for _ in range(QUERIES)]

    def search(table: lancedb.table.Table) -> list[list[int]]:
        found = []
        for query in queries:
            search = table.search(query, vector_column_name="vector").select(["id"])
            found.append(search.nprobes(20).limit(K).to_arrow()["id"].to_pylist())
        return found

    assert search(ours) == search(theirs), "both search the same index"
    what = f"{QUERIES} searches of {rows:,} rows by IVF_PQ, {K} rows each, one client"
    return [
        compare(
            "search",
            f"lancedb {lancedb.__version__} in process",
            what,
            BAR,
            rounds,
            lambda: search(ours),
            lambda: search(theirs),
        )
    ]
