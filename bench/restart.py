"""How long a lake of many versions takes from the start of a killed server to its first answers."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from bench.importing import forget
from bench.rounds import Comparison, Measure, measure
from support.server import LakebedServer

SECONDS_MOST = 2.0
TABLES = 100
WRITERS = 16


def row(number: int) -> pa.Table:
    """One row."""
    return pa.table({"id": pa.array([number], pa.int64()), "label": [f"label {number}"]})


def make_many_tables(server: LakebedServer, versions: int) -> list[str]:
    """A hundred tables, each of whose versions is an append of a row."""

    def fill(number: int) -> str:
        lake, name = server.lake(), f"t{number:03}"
        lake.create(name, row(0))
        for at in range(1, versions):
            assert lake.write(name, row(at))["version"] == at + 1
        lake.close()
        return name

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(fill, range(TABLES)))


def make_one_table(server: LakebedServer, versions: int) -> list[str]:
    """One table each of whose versions took the place of the one before: with appends, manifests
    would name as many files, and making them would take hours."""
    lake = server.lake()
    lake.create("one", row(0))
    for at in range(1, versions):
        assert lake.write("one", row(at), "overwrite")["version"] == at + 1
    lake.close()
    return ["one"]


def run(
    _server: LakebedServer, folder: Path, rounds: int, table_mb: int
) -> list[Comparison | Measure]:
    """Lakes and servers of their own."""
    found: list[Comparison | Measure] = []
    versions = max(1, table_mb // 10)
    server = LakebedServer(folder / "restart").start()
    tables = make_many_tables(server, versions)
    what = f"{TABLES} tables of {versions:,} versions each, one row appended in each"
    found += restarts(server, tables, "many tables", what, rounds)
    server = LakebedServer(folder / "restart-one").start()
    tables = make_one_table(server, TABLES * versions)
    what = f"one table of {TABLES * versions:,} versions, each an overwrite of one row"
    found += restarts(server, tables, "one table", what, rounds)
    return found


def restarts(
    server: LakebedServer, tables: list[str], name: str, what: str, rounds: int
) -> list[Comparison | Measure]:
    """Kills the server, takes the lake's files out of the page cache, and starts it again."""
    dice = random.Random(9)
    ready, answered = [], []
    try:
        for _ in range(rounds):
            server.kill()
            for path in Path(server.data).rglob("*"):
                if path.is_file():
                    forget(path)
            began = time.perf_counter()
            server.start()
            http = server.http()
            while http.get("/readyz").status != 200:
                time.sleep(0.001)
            ready.append(time.perf_counter() - began)
            lake = server.lake()
            assert lake.read(dice.choice(tables)).num_rows >= 1
            answered.append(time.perf_counter() - began)
            lake.close()
    finally:
        server.kill()
    most = SECONDS_MOST
    what = f"{what}; after SIGKILL, files not in the page cache"
    return [
        measure(f"restart, {name}, ready", f"/readyz says 200; {what}", "s", most, ready),
        measure(
            f"restart, {name}, first rows", f"and a table is read; {what}", "s", most, answered
        ),
    ]
