"""1 % of the cells of one column: by a partial upsert and by UPDATE, against deltalake's merge."""

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from bench.do_put import sync_all
from bench.rounds import Comparison, Measure, compare, measure
from bench.upserts import sync_new
from bench.written import bytes_of
from support.data import blob_field
from support.server import LakebedServer
from support.sql import Sql
from support.stored_files import look

BAR = 5.0
# What an update writes, in sizes of the column that it changes, and in the extended profile in
# sizes of the cells that it changes.
COLUMNS_MOST = 1.1
CELLS_MOST = 2.0
CELL_BYTES = 8
PICTURE_BYTES = 10_000
MERGE = "deltalake merge, fsync"

# Does one update, by its number.
Work = Callable[[int], None]


@dataclass
class Case:
    """One table, with or without pictures."""

    name: str
    rows: int
    pictures: bool
    extended: bool = False

    @property
    def beside(self) -> str:
        """What tells it from the other ones in a name."""
        pictures = " beside pictures" if self.pictures else ""
        return pictures + (", extended" if self.extended else "")

    @property
    def what(self) -> str:
        """It in words."""
        beside = f", beside {PICTURE_BYTES:,} bytes each" if self.pictures else ""
        return f"{self.rows // 100:,} scores of {self.rows:,} rows{beside}"

    def table(self) -> pa.Table:
        """The rows as both sides get them."""
        dice = np.random.default_rng(23)
        ids = np.arange(self.rows)
        fields = [
            pa.field("id", pa.int64()),
            pa.field("site", pa.string()),
            pa.field("note", pa.string()),
            pa.field("speed", pa.float64()),
            pa.field("score", pa.float64()),
        ]
        columns = [
            pa.array(ids, pa.int64()),
            pa.array([f"site {number % 100}" for number in ids]),
            pa.array([f"what was seen at {number}" for number in ids]),
            pa.array(dice.random(self.rows)),
            pa.array(dice.random(self.rows)),
        ]
        if self.pictures:
            fields.append(blob_field())
            cells = [dice.bytes(PICTURE_BYTES) for _ in ids]
            columns.append(pa.array(cells, pa.large_binary()))
        return pa.table(columns, schema=pa.schema(fields))

    def changed(self, turn: int) -> pa.Table:
        """The cells of one upsert: of rows anywhere, other ones in each turn."""
        ids = np.random.default_rng(turn).choice(self.rows, self.rows // 100, replace=False)
        return pa.table({"id": pa.array(ids, pa.int64()), "score": ids * 0.5 + turn})

    def in_sql(self, turn: int) -> tuple[str, str]:
        """Value and predicate of one UPDATE: every hundredth row, other ones in each turn."""
        return f"id * 0.5 + {turn}", f"id % 100 = {turn % 100}"

    def of_sql(self, turn: int) -> pa.Table:
        """The same cells for a merge."""
        ids = np.arange(turn % 100, self.rows, 100)
        return pa.table({"id": pa.array(ids, pa.int64()), "score": ids * 0.5 + turn})


class DeltaPeer:
    """deltalake in this process; what it wrote is synced, as Lakebed's answer says of its own."""

    def __init__(self, path: Path, case: Case, rows: pa.Table) -> None:
        self.path, self.case = path, case
        # Its blob column is one like any other.
        plain = [field.remove_metadata() for field in rows.schema]
        write_deltalake(str(path), rows.cast(pa.schema(plain)))
        sync_all(path)
        self.known = set(path.rglob("*"))

    def merge(self, cells: pa.Table) -> None:
        """The cells by key."""
        merge = DeltaTable(str(self.path)).merge(
            cells, "t.id = s.id", source_alias="s", target_alias="t"
        )
        done = merge.when_matched_update({"score": "s.score"}).execute()
        assert done["num_target_rows_updated"] == cells.num_rows, done
        self.known |= sync_new(self.path, self.known)

    def update(self, turn: int) -> None:
        """The cells by a predicate."""
        value, predicate = self.case.in_sql(turn)
        done = DeltaTable(str(self.path)).update(updates={"score": value}, predicate=predicate)
        assert done["num_updated_rows"] == self.case.rows // 100, done
        self.known |= sync_new(self.path, self.known)

    def scores(self) -> pa.Table:
        """What it has in the end."""
        return DeltaTable(str(self.path)).to_pyarrow_table(columns=["id", "score"])


class Rows:
    """A table on both sides, which one way of updating has for itself, and what changes it."""

    def __init__(self, server: LakebedServer, folder: Path, case: Case, way: str) -> None:
        self.case, self.name = case, f"{case.name}_{way}"
        self.lake, self.sql = server.lake(), Sql(server)
        self.table = server.table_path(self.name)
        rows = case.table()
        batches = rows.to_batches(max_chunksize=1_000 if case.pictures else 50_000)
        self.lake.write(self.name, batches, "create", schema=rows.schema, timeout_s=600)
        if case.extended:
            path = f"/v1/table/{self.name}/profile"
            server.http().ok("POST", path, {"profile": "extended"})
        # The column that changes, in a table of its own: how large it is.
        self.lake.create(f"{self.name}_column", rows.select(["score"]), timeout_s=600)
        alone = server.table_path(f"{self.name}_column")
        self.column_bytes = sum(file.bytes for file in look(alone / "data").values())
        self.peer = DeltaPeer(folder / self.name, case, rows)

    def upsert(self, turn: int) -> None:
        """Key and score."""
        receipt = self.lake.upsert(self.name, self.case.changed(turn), ["id"])
        assert receipt["rows"] == self.case.rows // 100, receipt

    def update(self, turn: int) -> None:
        """By SQL."""
        value, predicate = self.case.in_sql(turn)
        done = self.sql.change(f"UPDATE {self.name} SET score = {value} WHERE {predicate}")
        assert done == self.case.rows // 100, done

    def check(self) -> None:
        """Refuses to compare two sides that did different things."""
        ours = self.lake.read(self.name, columns=["id", "score"]).sort_by("id")
        theirs = self.peer.scores().sort_by("id")
        assert np.array_equal(ours["id"].to_numpy(), theirs["id"].to_numpy())
        assert np.array_equal(ours["score"].to_numpy(), theirs["score"].to_numpy())

    def bytes_written(
        self, name: str, rounds: int, work: Callable[[], None], peer_work: Callable[[], None]
    ) -> list[Measure]:
        """The files of each of the first updates, in sizes of the column. The peer does the same
        ones, so that both go on from the same cells."""
        pictures = "data" if self.case.pictures else None
        updates = []
        for _ in range(rounds):
            updates.append(bytes_of(self.table, work, pictures))
            peer_work()
        size, unit, most = self.column_bytes, "columns", COLUMNS_MOST
        what = f"over the {size:,} bytes of a table of the column alone"
        if self.case.extended:
            size, unit, most = self.case.rows // 100 * CELL_BYTES, "cells", CELLS_MOST
            what = f"over the {size:,} bytes of the cells"
        shares = [update.all / size for update in updates]
        data = [update.data / size for update in updates]
        found = [
            measure(f"{name}, files written", f"all {what}", unit, most, shares),
            measure(f"{name}, data written", f"those of data {what}", unit, None, data),
        ]
        if self.case.pictures:
            of_pictures = [float(update.pictures) for update in updates]
            what = "new files that hold pictures"
            found.append(measure(f"{name}, pictures written", what, "bytes", 0, of_pictures))
        return found

    def close(self) -> None:
        """Ends the connections and takes the peer's files away."""
        self.lake.close()
        self.sql.close()
        shutil.rmtree(self.peer.path, ignore_errors=True)


def run(
    server: LakebedServer, folder: Path, rounds: int, table_mb: int
) -> list[Comparison | Measure]:
    """A million rows of some columns, and pictures of 200 MB."""
    # So that pylance, which looks into the files, opens tables with overlays.
    os.environ.setdefault("LANCE_ENABLE_UNSTABLE_DATA_OVERLAY_FILES", "1")
    cases = [
        Case("update_cells", max(1_000, 1_000 * table_mb), False),
        Case("update_beside", max(1_000, 20 * table_mb), True),
        Case("update_extended", max(1_000, 1_000 * table_mb), False, extended=True),
        Case("update_extended_beside", max(1_000, 20 * table_mb), True, extended=True),
    ]
    found: list[Comparison | Measure] = []
    for case in cases:
        found += upserts(server, folder / "peer", rounds, case)
        found += updates(server, folder / "peer", rounds, case)
    return found


def in_turn(work: Work, start: int = 0) -> Callable[[], None]:
    """Does the next turn each time."""
    numbers = itertools.count(start)
    return lambda: work(next(numbers))


def upserts(
    server: LakebedServer, folder: Path, rounds: int, case: Case
) -> list[Comparison | Measure]:
    """Partial upserts against merges of the same cells."""
    rows = Rows(server, folder, case, "by_key")
    name = "upsert of cells" + case.beside
    ours = in_turn(rows.upsert)
    theirs = in_turn(lambda turn: rows.peer.merge(case.changed(turn)))
    try:
        if case.pictures:
            # The first one makes the index on the key, once and for all.
            ours()
            theirs()
        written = rows.bytes_written(name, rounds, ours, theirs)
        found = compare(name, MERGE, case.what, BAR, rounds, ours, theirs)
        rows.check()
        return [found, *written]
    finally:
        rows.close()


def updates(
    server: LakebedServer, folder: Path, rounds: int, case: Case
) -> list[Comparison | Measure]:
    """UPDATE against merges of the same cells, and against deltalake's own update."""
    rows = Rows(server, folder, case, "in_sql")
    name = "UPDATE of cells" + case.beside
    peer = rows.peer
    ours = in_turn(rows.update)
    merged = in_turn(lambda turn: peer.merge(case.of_sql(turn)))
    try:
        written = rows.bytes_written(name, rounds, ours, merged)
        with_merge = compare(name, MERGE, case.what, BAR, rounds, ours, merged)
        rows.check()
        updated = in_turn(peer.update, 2 * rounds + 1)
        with_update = compare(
            name, "deltalake update, fsync", case.what, None, rounds, ours, updated
        )
        rows.check()
        return [with_merge, with_update, *written]
    finally:
        rows.close()
