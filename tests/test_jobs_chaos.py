"""SIGKILL of workers and of the server in the middle of a job: nothing is lost, nothing is doubled.

Each kill is made while the process has tasks in its hands, as the server itself says. What stands
in the column at the end is what an undisturbed run gives, row by row.
"""

import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from lakebed.models import load
from support.killer import Killer, at_fixed_ports
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


@pytest.mark.timeout(900)
def test_kills_lose_and_double_nothing(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    kills_wanted = 30 if soak else KILLS_PER_JOB
    expected = vectors_undisturbed()
    server = at_fixed_ports(make_server, {"LAKEBED_LIMITS_TASK_LEASE_MS": str(LEASE_MS)})
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
