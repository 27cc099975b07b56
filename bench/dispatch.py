"""Tasks of one row: how many a second are given to 64 workers and recorded, durably, and how long a
job takes from its submission to its first task at a worker."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.rounds import Comparison, Measure, compare, measure
from support.fleet import MODEL, Fleet
from support.server import LakebedServer
from support.worker import Jobs

WORKERS = 64
SLOTS = 256
TASKS = 10_000
# dask runs some hundred tasks a second on a small machine.
FEW_TASKS = 2_000
# For 10,000 tasks: 10,000 a second.
SECONDS_MOST = 1.0
STARTS = 40
START_MS_MOST = 5.0


def number(value: int) -> int:
    """What the peers' tasks do."""
    return value


def now(_: int) -> float:
    """When a task of a peer started, by the clock of the machine that all of them run on."""
    return time.time()


class Lakebed:
    """Jobs of a fleet."""

    def __init__(self, server: LakebedServer) -> None:
        self.jobs = Jobs(server)
        lake = server.lake()
        for name, rows in (("many", TASKS), ("few", FEW_TASKS), ("one", 1)):
            texts = [f"row {n}" for n in range(rows)]
            lake.create(f"dispatch_{name}", pa.table({"id": range(rows), "text": texts}))
        lake.close()
        self.fleet = Fleet(server, WORKERS, SLOTS)
        self.jobs.wait_for_workers(WORKERS)
        self.under_way: list[str] = []

    def submit(self, name: str) -> str:
        """Begins a job whose tasks have one row."""
        table = f"dispatch_{name}"
        job = self.jobs.submit(table, "text", "length", MODEL, task_rows=1, recompute=True)
        self.under_way.append(job)
        return job

    def dispatch(self, name: str, tasks: int) -> None:
        """A job until all its tasks are recorded. Filling the column comes after that."""
        before = self.fleet.recorded
        self.submit(name)
        self.fleet.wait_recorded(before + tasks)

    def settle(self) -> None:
        """Waits until the columns are filled."""
        for job in self.under_way:
            ended = self.jobs.wait(job)
            assert ended["job_state"] == "DONE", ended
        self.under_way.clear()

    def start_s(self) -> float:
        """From a submission to the first task at a worker."""
        self.settle()
        began = time.perf_counter()
        job = self.submit("one")
        return self.fleet.start_of(job) - began


class Ray:
    """Ray with as many workers, each a process."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        import ray

        self.ray = ray
        ray.init(
            num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        self.number, self.now = ray.remote(number), ray.remote(now)

    def dispatch(self, tasks: int) -> None:
        """Tasks until all answers are here."""
        self.ray.get([self.number.remote(n) for n in range(tasks)])

    def start_s(self) -> float:
        """From a submission to the task at a worker."""
        began = time.time()
        started: float = self.ray.get(self.now.remote(0))
        return started - began

    def close(self) -> None:
        """Ends it."""
        self.ray.shutdown()


class Dask:
    """dask.distributed with as many workers, each a thread of this process."""

    def __init__(self) -> None:
        from distributed import Client, LocalCluster

        # Its workers share this process, whose memory it would take for that of each.
        self.cluster = LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=False,
            memory_limit=None,
            dashboard_address=None,
        )
        self.client = Client(self.cluster)

    def dispatch(self, tasks: int) -> None:
        """Tasks until all answers are here."""
        self.client.gather(self.client.map(number, range(tasks), pure=False))

    def start_s(self) -> float:
        """From a submission to the task at a worker."""
        began = time.time()
        started: float = self.client.submit(now, 0, pure=False).result()
        return started - began

    def close(self) -> None:
        """Ends it."""
        self.client.close()
        self.cluster.close()


def starts(of: Callable[[], float]) -> list[float]:
    """How long starts took, in milliseconds, after some that count for nobody."""
    for _ in range(3):
        of()
    return [of() * 1_000 for _ in range(STARTS)]


def run(
    server: LakebedServer, _folder: Path, rounds: int, _table_mb: int
) -> list[Comparison | Measure]:
    """The same number of tasks on each side. Lakebed's are durable, the peers' are not."""
    lakebed = Lakebed(server)
    found: list[Comparison | Measure] = []
    peers: list[tuple[Any, str, str, int]] = [
        (Ray, "ray", "many", TASKS),
        (Dask, "dask", "few", FEW_TASKS),
    ]
    try:
        what = f"{WORKERS} workers wait; a job of one row"
        ours = starts(lakebed.start_s)
        found.append(measure("submit to start", what, "ms", START_MS_MOST, ours))
        for make, name, table, tasks in peers:
            peer = make()
            try:
                theirs = starts(peer.start_s)
                found.append(
                    measure(f"submit to start, {name}", "the same in it", "ms", None, theirs)
                )
                result = compare(
                    f"dispatch, {name}",
                    name,
                    f"{tasks:,} tasks of one row, {WORKERS} workers; {name} makes none durable",
                    None,
                    rounds,
                    lambda table=table, tasks=tasks: lakebed.dispatch(table, tasks),
                    lambda peer=peer, tasks=tasks: peer.dispatch(tasks),
                    lakebed.settle,
                )
                found.append(result)
                if tasks == TASKS:
                    what = f"{TASKS:,} tasks, {WORKERS} workers, durably recorded"
                    times = result.ours_s
                    found.append(measure("dispatch", what, "s", SECONDS_MOST, times))
                    rate = TASKS / statistics.median(times)
                    print(f"dispatch: {rate:,.0f} tasks a second", flush=True)
            finally:
                peer.close()
        lakebed.settle()
    finally:
        lakebed.fleet.stop()
    return found
