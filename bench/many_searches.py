"""Vector search by many clients at once: rate and latency, over HTTP and in process."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from bench.rounds import Curve, Point
from support.server import LakebedServer
from support.vectors import Clusters

WIDTH = 128
CENTERS = 1_000
QUERIES = 200
K = 10
CLIENTS = [1, 4, 16, 64]
SECONDS = 6.0
# Reaches the recall below on these rows.
NPROBES = 20
REFINE = 10
RECALL = 0.95


@dataclass(frozen=True)
class Data:
    """Vectors in clusters, as embeddings are, queries of the same kind, and what is nearest."""

    rows: pa.Table
    queries: np.ndarray
    nearest: list[set[int]]


def make_data(rows: int) -> Data:
    """The exact answers are found by comparing everything."""
    clusters = Clusters(np.random.default_rng(5), CENTERS, WIDTH, noise=0.6)
    vectors, queries = clusters.draw(rows), clusters.draw(QUERIES)
    squares = (vectors**2).sum(1)
    nearest = []
    for query in queries:
        distances = squares - 2 * vectors @ query
        nearest.append(set(np.argpartition(distances, K)[:K].tolist()))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    return Data(pa.table({"id": np.arange(rows), "vector": column}), queries, nearest)


def run(server: LakebedServer, _folder: Path, _rounds: int, table_mb: int) -> list[Curve]:
    """One index, the same searches; both sides are asked by as many tasks of one process."""
    data = make_data(table_mb * 1_000_000 // (4 * WIDTH) // 4)
    address = f"http://{server.http_address}"
    remote = lancedb.connect("db://default", api_key=server.admin_key, host_override=address)
    remote.create_table("many", data.rows).create_index(
        metric="l2",
        vector_column_name="vector",
        index_type="IVF_PQ",
        num_sub_vectors=WIDTH // 4,
        wait_timeout=timedelta(minutes=10),
    )
    local = str(server.table_path("many").parent)
    points = asyncio.run(measured(data, address, server.admin_key, local))
    remote.drop_table("many")
    what = (
        f"{data.rows.num_rows:,} vectors of {WIDTH} floats by IVF_PQ, {K} rows each at a recall of "
        f"{RECALL} or more; clients and server share the machine"
    )
    return [Curve("searches by many clients", what, "clients", points)]


async def measured(data: Data, address: str, key: str, local: str) -> list[Point]:
    """Both sides at each number of clients, in turn."""
    sides: dict[str, Any] = {
        "Lakebed, over HTTP": await (
            await lancedb.connect_async("db://default", api_key=key, host_override=address)
        ).open_table("many"),
        f"lancedb {lancedb.__version__} in process": await (
            await lancedb.connect_async(local)
        ).open_table("many"),
    }
    for name, table in sides.items():
        found = [await search(table, query) for query in data.queries]
        hits = sum(len(set(ids) & near) for ids, near in zip(found, data.nearest, strict=True))
        recall = hits / (K * QUERIES)
        assert recall >= RECALL, f"{name}: recall {recall:.3f}"
    points = []
    for clients in CLIENTS:
        for name, table in sides.items():
            point = await load(name, table, data.queries, clients)
            print(point.line(), flush=True)
            points.append(point)
    return points


async def search(table: Any, query: np.ndarray) -> list[int]:
    """The ids that are found."""
    wanted = table.query().nearest_to(query).column("vector").distance_type("l2")
    wanted = wanted.nprobes(NPROBES).refine_factor(REFINE).limit(K).select(["id"])
    return (await wanted.to_arrow())["id"].to_pylist()


async def load(name: str, table: Any, queries: np.ndarray, clients: int) -> Point:
    """So many tasks ask, each again as soon as it was answered."""
    times: list[float] = []
    until = time.perf_counter() + SECONDS

    async def client(number: int) -> None:
        at = number
        while time.perf_counter() < until:
            began = time.perf_counter()
            ids = await search(table, queries[at % len(queries)])
            times.append(time.perf_counter() - began)
            assert len(ids) == K
            at += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number * 7) for number in range(clients)))
    took = time.perf_counter() - began
    p50, p99 = np.percentile(times, [50, 99])
    return Point(name, clients, len(times) / took, p50 * 1_000, p99 * 1_000)
