"""The clocks of the stages: where the time of a worker went, and of each job.

A stage has several threads. What is counted is the time for which the stage as a whole was busy: a
block of one of `lanes` threads that could work at that moment counts for its share. So stages can
be compared, and with the time that has passed: the one that was busy all the time is what the
others waited for.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

NAMES = ("read", "decode", "compute", "write")
# A stage that was busy for less of the time than this has kept nobody waiting for long.
BOTTLENECK_SHARE = 0.5
# What to do about each, for people.
MEANS = {
    "read": "the server or the network to it",
    "decode": "this worker's processor",
    "compute": "the device",
    "write": "the server or the network to it",
}


@dataclass
class StageTime:
    """Nanoseconds for which a stage was busy, and rows that it did."""

    busy_ns: int = 0
    rows: int = 0


@dataclass
class JobTime:
    """What a worker did for one job, from its first work for it to its last."""

    job: str
    begun_ns: int
    until_ns: int
    stages: dict[str, StageTime] = field(default_factory=lambda: {n: StageTime() for n in NAMES})

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(self.until_ns - self.begun_ns, 1) / 1e9

    def shares(self) -> dict[str, float]:
        """Of the time, what each stage was busy for."""
        return {name: it.busy_ns / 1e9 / self.seconds for name, it in self.stages.items()}

    @property
    def bottleneck(self) -> str | None:
        """The stage that the others waited for, where there was one."""
        shares = self.shares()
        busiest = max(shares, key=lambda name: shares[name])
        return busiest if shares[busiest] >= BOTTLENECK_SHARE else None

    def line(self) -> str:
        """All of it in one line for people."""
        # Few results may travel with a report and are not written by themselves.
        rows = max(self.stages["write"].rows, self.stages["compute"].rows)
        busy = ", ".join(f"{name} {share:.0%}" for name, share in self.shares().items())
        which = self.bottleneck
        said = "none, it waited for tasks" if which is None else f"{which}, which is {MEANS[which]}"
        return (
            f"job {self.job}: {rows} rows here in {self.seconds:.2f} s, "
            f"{rows / self.seconds:.0f} a second; busy: {busy}; bottleneck: {said}"
        )


class Stages:
    """The clocks of all stages since the start, and of the jobs that are under way."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times = {name: StageTime() for name in NAMES}
        self._jobs: dict[str, JobTime] = {}

    @contextmanager
    def busy(self, stage: str, rows: int = 0, *, job: str, lanes: int = 1) -> Iterator[None]:
        """Counts the time of the block, and `rows` once it has ended well.

        Args:
            job: whose rows they are.
            lanes: blocks of this stage that may run at this moment.
        """
        begun = self._clock()
        done = 0
        try:
            yield
            done = rows
        finally:
            self._count(stage, job, begun, self._clock(), lanes, done)

    def rows(self, stage: str, rows: int, *, job: str) -> None:
        """Counts rows alone."""
        now = self._clock()
        self._count(stage, job, now, now, 1, rows)

    def _count(self, stage: str, job: str, begun: int, ended: int, lanes: int, rows: int) -> None:
        with self._lock:
            if job not in self._jobs:
                self._jobs[job] = JobTime(job, begun, ended)
            of_job = self._jobs[job]
            of_job.begun_ns = min(of_job.begun_ns, begun)
            of_job.until_ns = max(of_job.until_ns, ended)
            for time_ in (self._times[stage], of_job.stages[stage]):
                time_.busy_ns += (ended - begun) // max(lanes, 1)
                time_.rows += rows

    def read(self) -> dict[str, tuple[int, int]]:
        """Busy milliseconds and rows by stage, since the start."""
        with self._lock:
            return {name: (t.busy_ns // 1_000_000, t.rows) for name, t in self._times.items()}

    def over(self, held: set[str], quiet_s: float) -> list[JobTime]:
        """Jobs of which nothing is held and nothing was done for so long; they are forgotten."""
        with self._lock:
            before = self._clock() - int(quiet_s * 1e9)
            over = [it for it in self._jobs.values() if it.job not in held and it.until_ns < before]
            for it in over:
                del self._jobs[it.job]
            return over
