"""Clients that read rows of a table all the time, and how long each read took."""

import math
import threading
import time
from collections.abc import Callable

import numpy as np

from support.flight import Lake
from support.server import LakebedServer
from support.waiting import wait_until

TAKEN = 16


def percentile(seconds: list[float], share: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    assert seconds, "nothing was read"
    return sorted(seconds)[math.ceil(len(seconds) * share / 100) - 1]


class Readers:
    """So many clients, each of which takes random rows by row id, every `interval_s` or again at
    once with 0. A read is counted from the moment that it was due: one that waits behind a slow one
    is slow itself."""

    def __init__(
        self, server: LakebedServer, table: str, rows: int, clients: int, interval_s: float
    ) -> None:
        self.table, self.rows, self.interval_s = table, rows, interval_s
        self.lakes = [server.lake() for _ in range(clients)]
        self.reads: list[tuple[float, float]] = []
        self.windows = 0
        # The read of each client that is awaited; those before it have ended.
        self.due = [0.0] * clients
        self.problems: list[BaseException] = []
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(lake, number))
            for number, lake in enumerate(self.lakes)
        ]

    def __enter__(self) -> "Readers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        for lake in self.lakes:
            lake.close()
        if self.problems:
            raise self.problems[0]

    def _run(self, lake: Lake, number: int) -> None:
        dice = np.random.default_rng(number)
        window = -1
        due = 0.0
        try:
            while not self.stop.is_set():
                now = time.perf_counter()
                # Each window begins with nobody behind.
                due = now if self.interval_s == 0 or window != self.windows else due
                window = self.windows
                self.due[number] = due
                time.sleep(max(0.0, due - now))
                ids = dice.integers(0, self.rows, TAKEN).tolist()
                assert lake.read(self.table, row_ids=ids).num_rows == TAKEN
                self.reads.append((due, time.perf_counter() - due))
                due += self.interval_s
        except BaseException as problem:
            self.problems.append(problem)
            self.stop.set()

    def wait(self, seconds: float) -> None:
        """Lets them read for a while."""
        self.stop.wait(seconds)

    def during(self, work: Callable[[], None]) -> list[float]:
        """How long the reads took that were due, or under way, while something was done."""
        self.windows += 1
        began = time.perf_counter()
        work()
        ended = time.perf_counter()
        wait_until(lambda: min(self.due) > ended or self.problems, "the reads that were due", 300)
        reads = list(self.reads)
        return [seconds for due, seconds in reads if due < ended and began < due + seconds]
