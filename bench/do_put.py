"""Durable DoPut against pylance's write of the same batches, then fsync of all it made."""

import itertools
import os
import shutil
from pathlib import Path

import lance
import pyarrow as pa

from bench.rounds import Comparison, compare
from bench.rows import SCHEMA, make_batches, rows_in
from support.server import LakebedServer

BAR = 1.0


def sync_all(folder: Path) -> None:
    """fsync of every file below `folder`, then of every directory, and of the one above."""
    for path in [*sorted(folder.rglob("*")), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def run(server: LakebedServer, folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """Each round writes a new table of half the size."""
    rows = rows_in(table_mb // 2)
    batches = make_batches(rows)
    lake = server.lake()
    numbers = itertools.count()

    def ours() -> None:
        name = f"do_put_{next(numbers)}"
        receipt = lake.write(name, batches, "create", schema=SCHEMA, timeout_s=600)
        assert receipt["rows"] == rows

    def theirs() -> None:
        path = folder / "peer" / f"do_put_{next(numbers)}.lance"
        path.parent.mkdir(exist_ok=True)
        reader = pa.RecordBatchReader.from_batches(SCHEMA, batches)
        lance.write_dataset(
            reader, str(path), data_storage_version="2.2", enable_stable_row_ids=True
        )
        sync_all(path)

    what = f"{rows:,} rows, {table_mb // 2} MB a round"
    try:
        return [compare("durable DoPut", "pylance + fsync", what, BAR, rounds, ours, theirs)]
    finally:
        lake.close()
        shutil.rmtree(folder / "peer", ignore_errors=True)
