"""Compaction of small fragments against pylance's, and what readers feel of it.

Cores that share their caches are slower when another one works, whoever it works for. So the
readers are measured a second time beside a process of the lowest class of the scheduler that
compacts a copy of the table: what they feel of that is the machine's, not the server's.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
# Readers who ask 25 times a second each, and readers who ask again at once and so keep two cores
# busy by themselves.
PACES_S = {"paced": 0.04, "back to back": 0.0}
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
    """The p99 of reads while a compaction runs, ours and another process's, and without one."""
    total = FRAGMENTS * table.rows
    with (
        Readers(table.server, "compaction", total, CLIENTS, interval_s) as readers,
        idle_process(table.copy) as compact_elsewhere,
    ):
        windows = {
            "a compaction": (table.reset_ours, table.compact),
            "an idle-class process": (table.reset, compact_elsewhere),
        }
        figures: list[Comparison | Measure] = []
        for cause, (reset, work) in windows.items():
            found = rises(readers, rounds, window_s, reset, work)
            what = f"{CLIENTS} clients taking 16 random rows, {pace}, over {rounds} windows"
            limit = RISE_MOST if interval_s > 0 and work == table.compact else None
            name = f"p99 of reads, {pace}"
            figures += [
                measure(f"{name}, rise by {cause}", what, "%", limit, found["rises"]),
                measure(f"{name}, quiet before {cause}", what, "ms", None, found["quiet"]),
                measure(f"{name}, beside {cause}", what, "ms", None, found["busy"]),
            ]
    return figures


def rises(
    readers: Readers,
    rounds: int,
    window_s: float,
    reset: Callable[[], None],
    work: Callable[[], None],
) -> dict[str, list[float]]:
    """The p99 in milliseconds, quiet and beside the work, and by how many percent it rose."""
    found: dict[str, list[float]] = {"quiet": [], "busy": [], "rises": []}
    for _ in range(rounds):
        reset()
        readers.during(lambda: readers.wait(WINDOW_S / 2))  # the restored version is opened
        quiet = percentile(readers.during(lambda: readers.wait(window_s)), 99)
        busy = percentile(readers.during(work), 99)
        found["quiet"].append(1e3 * quiet)
        found["busy"].append(1e3 * busy)
        found["rises"].append(100 * (busy / quiet - 1))
    return found


@contextmanager
def idle_process(copy: Path) -> Iterator[Callable[[], None]]:
    """A process that compacts a data set when it is told to, and runs when nobody else wants to."""
    script = (
        "import lance, os, sys\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        "for _ in sys.stdin:\n"
        "    lance.dataset(sys.argv[1]).optimize.compact_files()\n"
        "    print(flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told, answers = process.stdin, process.stdout

    def compact() -> None:
        told.write("go\n")
        told.flush()
        assert answers.readline(), "the process that compacts has ended"

    try:
        yield compact
    finally:
        told.close()
        process.wait()
