"""Compaction of small fragments against pylance's, and what readers feel of it."""

import shutil
from pathlib import Path

import lance
import pyarrow as pa

from bench.readers import Readers, percentile
from bench.rounds import Comparison, Measure, compare, measure
from bench.rows import BATCH_ROWS, make_batches
from bench.upserts import sync_new
from support.server import LakebedServer

BAR = 1.0
# By how much the p99 of reads may rise.
RISE_MOST = 50.0
FRAGMENTS = 200
CLIENTS = 4
# Readers who ask fifty times a second each, and readers who ask again at once and so keep two cores
# busy by themselves.
PACES_S = {"paced": 0.02, "back to back": 0.0}
# Windows without a compaction are as long as one, and no shorter than this.
WINDOW_S = 1.0


def run(
    server: LakebedServer, folder: Path, rounds: int, table_mb: int
) -> list[Comparison | Measure]:
    """Both sides start from the same files: those that small appends made."""
    table = SmallFiles(server, folder / "peer" / "compaction.lance", max(16, 4 * table_mb))
    what = f"{FRAGMENTS} fragments of {table.rows:,} rows, {table.megabytes:,.0f} MB"
    peer = f"pylance {lance.__version__} compact_files, fsync"
    try:
        found = compare(
            "compaction", peer, what, BAR, rounds, table.compact, table.compact_peer, table.reset
        )
        window_s = max(WINDOW_S, sorted(found.ours_s)[len(found.ours_s) // 2])
        figures: list[Comparison | Measure] = [found]
        for pace, interval_s in PACES_S.items():
            figures += beside(table, rounds, window_s, pace, interval_s)
        return figures
    finally:
        shutil.rmtree(folder / "peer", ignore_errors=True)


class SmallFiles:
    """A table of many small fragments, and a copy of its files for the peer."""

    def __init__(self, server: LakebedServer, copy: Path, rows: int) -> None:
        self.server, self.rows = server, rows
        self.http = server.http()
        whole = pa.Table.from_batches(make_batches(-(-FRAGMENTS * rows // BATCH_ROWS) * BATCH_ROWS))
        lake = server.lake()
        for number in range(FRAGMENTS):
            some = whole.slice(number * rows, rows)
            mode = "append" if number else "create"
            self.version = lake.write("compaction", some, mode)["version"]
        lake.close()
        path = server.table_path("compaction")
        self.megabytes = sum(file.stat().st_size for file in path.rglob("data/*")) / 1e6
        shutil.copytree(path, copy)
        self.copy = copy
        self.known = set(copy.rglob("*"))

    def reset(self) -> None:
        """Makes the version with the small fragments the newest one again, on both sides."""
        self.reset_ours()
        lance.dataset(str(self.copy), version=self.version).restore()
        self.known |= sync_new(self.copy, self.known)

    def reset_ours(self) -> None:
        """The same on Lakebed's alone."""
        self.http.ok("POST", "/v1/table/compaction/restore", {"version": self.version})

    def compact(self) -> None:
        """Lakebed's compaction answers when its version is durable."""
        done = self.http.ok("POST", "/v1/table/compaction/compact", {}, timeout_s=600).json()
        assert (done["fragments_removed"], done["lost"]) == (FRAGMENTS, 0), done

    def compact_peer(self) -> None:
        """pylance's, with all its threads, and a sync of what it wrote."""
        done = lance.dataset(str(self.copy)).optimize.compact_files()
        assert done.fragments_removed == FRAGMENTS, done
        self.known |= sync_new(self.copy, self.known)


def beside(
    table: SmallFiles, rounds: int, window_s: float, pace: str, interval_s: float
) -> list[Comparison | Measure]:
    """The p99 of reads while a compaction runs, and in a window without one before it."""
    quiet, busy, rises = [], [], []
    total = FRAGMENTS * table.rows
    with Readers(table.server, "compaction", total, CLIENTS, interval_s) as readers:
        for _ in range(rounds):
            table.reset_ours()
            readers.during(lambda: readers.wait(WINDOW_S / 2))  # the restored version is opened
            before = readers.during(lambda: readers.wait(window_s))
            while_it_runs = readers.during(table.compact)
            quiet.append(percentile(before, 99))
            busy.append(percentile(while_it_runs, 99))
            rises.append(100 * (busy[-1] / quiet[-1] - 1))
    what = f"{CLIENTS} clients taking 16 random rows, {pace}, over {rounds} compactions"
    limit = RISE_MOST if interval_s > 0 else None
    return [
        measure(f"p99 of reads, {pace}, rise by compaction", what, "%", limit, rises),
        measure(f"p99 of reads, {pace}, quiet", what, "ms", None, [1e3 * it for it in quiet]),
        measure(f"p99 of reads, {pace}, compaction", what, "ms", None, [1e3 * it for it in busy]),
    ]
