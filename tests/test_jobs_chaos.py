"""SIGKILL of workers and of the server in the middle of a job: nothing is lost, nothing is doubled.

Each kill is made while the process has tasks in its hands, as the server itself says. What stands
in the column at the end is what an undisturbed run gives, row by row.
"""

import random
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from lakebed.models import load
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import CACHE, TEXT_MODEL, Jobs, Worker

ROWS = 400
FRAGMENTS = 4
TASK_ROWS = 8
KILLS_PER_JOB = 3
LEASE_MS = 2_000


def texts() -> list[str]:
    """The rows' texts, of different lengths."""
    return [f"row {n} " + "word " * (n % 17) for n in range(ROWS)]


def vectors_undisturbed() -> np.ndarray:
    """The column as one process without a server computes it."""
    model = load(TEXT_MODEL, CACHE, device="cpu")
    prepared = model.prepare(texts())
    parts = [prepared[n : n + TASK_ROWS] for n in range(0, ROWS, TASK_ROWS)]
    return np.concatenate([model.compute(part) for part in parts])


def make_table(server: LakebedServer, name: str) -> None:
    """A table of some fragments."""
    rows = pa.table({"id": range(ROWS), "text": texts()})
    size = ROWS // FRAGMENTS
    for part in range(FRAGMENTS):
        server.lake().write(name, rows.slice(part * size, size), "append" if part else "create")


class Killer:
    """Kills one of two workers, or the server, while it has work, and starts it again."""

    def __init__(self, server: LakebedServer, workers: list[Worker], seed: int) -> None:
        self.server = server
        self.jobs = Jobs(server)
        self.workers = workers
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()

    def kill_one(self, job: str) -> bool:
        """Waits until somebody has work and kills him; false when the job is over before."""
        victim = self.dice.choice(["server", *(worker.name for worker in self.workers)])
        deadline = time.monotonic() + 60
        while not self.has_work(victim, job):
            if self.jobs.describe(job)["job_state"] != "IN_PROGRESS":
                return False
            assert time.monotonic() < deadline, f"{victim} gets no work"
            time.sleep(0.01)
        if victim == "server":
            self.server.kill()
            self.server.start()
        else:
            worker = next(worker for worker in self.workers if worker.name == victim)
            worker.kill()
            worker.start()
        self.kills[victim] += 1
        return True

    def has_work(self, victim: str, job: str) -> bool:
        """Whether it has tasks in its hands, as the server says."""
        if victim == "server":
            return self.jobs.progress(job).get("tasks_held", 0) > 0
        return any(it["worker"] == victim and it["running"] > 0 for it in self.jobs.workers())


@pytest.mark.timeout(900)
def test_kills_lose_and_double_nothing(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    kills_wanted = 30 if soak else KILLS_PER_JOB
    expected = vectors_undisturbed()
    port = make_server().start()
    ports = (port.http_address, port.flight_address)
    port.kill()
    # At fixed ports, so that workers find a server that was started again.
    arguments = ["--http-addr", ports[0], "--flight-addr", ports[1]]
    environment = {"LAKEBED_LIMITS_TASK_LEASE_MS": str(LEASE_MS)}
    server = make_server("chaos", args=arguments, env=environment).start()
    workers = [Worker(server, name).start() for name in ("first", "second")]
    jobs = Jobs(server)
    jobs.wait_for_workers(2)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    killer = Killer(server, workers, seed)
    try:
        rounds = 0
        while killer.kills.total() < kills_wanted:
            table = f"t{rounds}"
            make_table(server, table)
            job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=TASK_ROWS)
            for _ in range(KILLS_PER_JOB):
                if not killer.kill_one(job):
                    break
            ended = jobs.wait(job, 200)
            assert ended["job_state"] == "DONE", ended
            assert (ended["result"]["rows"], ended["result"]["errors"]) == (ROWS, 0)
            check_column(server, table, expected, ended["result"])
            wait_until(lambda job=job: not ledger_of(server, job), "the ledger to go", 30)
            rounds += 1
    finally:
        for worker in workers:
            worker.kill()
    print(f"killed: {dict(killer.kills)}")


def ledger_of(server: LakebedServer, job: str) -> list[str]:
    """The files of a job's ledger."""
    return list(server.files(f"_lakebed/job_ledgers/{job}"))


def check_column(
    server: LakebedServer, table: str, expected: np.ndarray, result: dict[str, int]
) -> None:
    """Every row has its vector, and every fragment was filled once."""
    found = server.lake().read(table).sort_by("id")
    assert found["id"].to_pylist() == list(range(ROWS))
    assert found["vector"].null_count == 0
    numbers = np.array(found["vector"].to_pylist(), dtype=np.float32)
    assert np.abs(numbers - expected).max() < 1e-5
    # One version at most for each fragment, and one for what is noted on the column.
    assert result["version"] - result["source_version"] <= FRAGMENTS + 1
