"""A new column beside pictures of 100 KB: by SQL over HTTP against a Parquet file written anew."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.rounds import Comparison, Measure, compare, measure
from bench.written import bytes_of
from support.data import blob_field
from support.server import LakebedServer

BAR = 50.0
PICTURE_BYTES = 100_000
# 100 MB, so that neither side holds the table in memory.
GROUP_ROWS = 1_000

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("label", pa.string()),
        blob_field(),
    ]
)


def make_batches(rows: int) -> list[pa.RecordBatch]:
    """Pictures, as far as a disk can tell: bytes that do not compress."""
    dice = np.random.default_rng(17)
    batches = []
    for start in range(0, rows, 100):
        ids = range(start, min(start + 100, rows))
        columns = [
            pa.array(ids, pa.int64()),
            pa.array([f"label {number % 10}" for number in ids]),
            pa.array([dice.bytes(PICTURE_BYTES) for _ in ids], pa.large_binary()),
        ]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return batches


class ParquetFile:
    """The peer: a file whose every row group is read and written, the pictures among them, and that
    takes the old one's place once it is on the disk. Pictures are neither compressed nor looked
    through for repetitions: pyarrow is faster so."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """A new file in place of the old one, durable."""
        new = self.path.with_suffix(".new")
        small = [name for name in schema.names if name != "data"]
        with pq.ParquetWriter(new, schema, compression="none", use_dictionary=small) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=GROUP_ROWS)
        sync(new)
        new.replace(self.path)
        sync(self.path.parent)

    def add_column(self, name: str) -> None:
        """The rewrite."""
        old = pq.ParquetFile(self.path, memory_map=True)
        field = pa.field(name, pa.int64())

        def groups() -> Iterator[pa.Table]:
            for number in range(old.num_row_groups):
                table = old.read_row_group(number)
                yield table.append_column(field, computed(table["id"]))

        self.write(old.schema_arrow.append(field), groups())
        old.close()


def computed(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """What the new column holds; in SQL it is `id % 7 + 1`."""
    sevenths = pc.multiply(pc.divide(ids, 7), 7)
    return pc.add(pc.subtract(ids, sevenths), 1)


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def run(
    server: LakebedServer, folder: Path, rounds: int, table_mb: int
) -> list[Comparison | Measure]:
    """Each round adds another column to the same table, and to the same file."""
    rows = max(10, 4 * table_mb)
    lake, http = server.lake(), server.http()
    batches = make_batches(rows)
    lake.write("add_column", batches, "create", schema=SCHEMA, timeout_s=600)
    peer = ParquetFile(folder / "add_column.parquet")
    peer.write(SCHEMA, [pa.Table.from_batches(batches)])
    del batches
    our_number, peer_number = itertools.count(), itertools.count()

    def ours() -> None:
        column = {"name": f"added_{next(our_number)}", "expression": "id % 7 + 1"}
        http.ok("POST", "/v1/table/add_column/add_columns", {"new_columns": [column]})

    def theirs() -> None:
        peer.add_column(f"added_{next(peer_number)}")

    what = f"{rows:,} rows with {PICTURE_BYTES:,} bytes each"
    name = f"pyarrow {pa.__version__} writing the Parquet file anew, fsync"
    table = server.table_path("add_column")
    try:
        found = compare("add column", name, what, BAR, rounds, ours, theirs)
        ours_added = lake.read("add_column", columns=["id", "added_0"]).sort_by("id")
        assert ours_added.equals(pq.read_table(peer.path, columns=["id", "added_0"]))
        changes = [bytes_of(table, ours, "data") for _ in range(rounds)]
        pictures = [float(change.pictures) for change in changes]
        files = [float(change.all) for change in changes]
        return [
            found,
            measure("add column, pictures written", what, "bytes of their files", 0, pictures),
            measure("add column, files written", what, "bytes of all files", None, files),
        ]
    finally:
        lake.close()
        peer.path.unlink()
