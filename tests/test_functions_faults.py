"""What functions and workers do wrong, seen by the user of the stock client."""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import lancedb
import pyarrow as pa
import pytest
from lancedb import col, udf
from lancedb.exceptions import JobFailedError

from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import CACHE, Jobs, Worker

SOON = timedelta(seconds=90)
Make = Callable[..., LakebedServer]


@udf
class leaky:
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def __call__(self, value: int) -> Annotated[int, pa.int64()]:
        # Kept between the rows of a process, 40 MiB each; one row wants more than there is.
        size = 4_000 if value == 3 else 40
        self.kept.append(b"x" * (size << 20))
        return value


@udf
def endless(value: int) -> Annotated[int, pa.int64()]:
    while value == 3:
        pass
    return value


@udf
def slow(value: int) -> Annotated[int, pa.int64()]:
    import time

    time.sleep(0.02)
    return value + 1


@pytest.fixture(scope="module")
def worker(module_server: LakebedServer) -> Iterator[Worker]:
    """One with small limits."""
    flags = ("--function-seconds", "2", "--function-memory-mb", "400")
    # Its functions start in folders of their own, and find what lies below this one nevertheless.
    relative = Path(os.path.relpath(CACHE))
    made = Worker(module_server, "small", arguments=flags, cache=relative).start()
    Jobs(module_server).wait_for_workers(1)
    yield made
    made.kill()


def connected(server: LakebedServer) -> lancedb.DBConnection:
    address = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=address)


def filled(server: LakebedServer, table: str, function: Any, rows: int) -> tuple[Any, Any]:
    """A table with a column of a function after its refresh, and what the job says."""
    db = connected(server)
    registered = db.create_function(function)
    numbers = db.create_table(table, pa.table({"value": pa.array(range(rows), pa.int64())}))
    numbers.add_columns({"made": registered(value=col("value"))})
    done = numbers.refresh_column_async("made").wait(SOON)
    return numbers, done


def made_of(server: LakebedServer, table: str) -> list[int | None]:
    rows = server.lake().read(table).sort_by("value")
    return rows["made"].to_pylist()


@pytest.mark.usefixtures("worker")
def test_a_function_that_leaks_costs_the_row_that_is_too_much(
    server: LakebedServer, table: str
) -> None:
    numbers, done = filled(server, table, leaky, 24)
    assert (done.rows_assigned, done.rows_failed) == (23, 1)
    assert made_of(server, table) == [None if n == 3 else n for n in range(24)]
    [record] = numbers.function_errors(column="made").records
    assert "memory" in record.error_message.lower()


@pytest.mark.usefixtures("worker")
def test_a_function_that_never_returns_costs_the_row(server: LakebedServer, table: str) -> None:
    numbers, done = filled(server, table, endless, 24)
    assert (done.rows_assigned, done.rows_failed) == (23, 1)
    assert made_of(server, table) == [None if n == 3 else n for n in range(24)]
    [record] = numbers.function_errors(column="made").records
    assert "2 s" in record.error_message


@pytest.mark.usefixtures("worker")
def test_an_environment_that_cannot_be_built_is_said_where_it_is_registered(
    server: LakebedServer,
) -> None:
    lost = udf(pip=["surely-no-such-package-7a3c==9.9.9"], name="unbuilt")(slow._function)
    with pytest.raises(JobFailedError, match="surely-no-such-package"):
        connected(server).create_function(lost)


def test_a_worker_with_a_wrong_key_ends_and_says_so(server: LakebedServer) -> None:
    forged = Worker(server, "forged", key=f"lb_{'0' * 12}_{'0' * 64}").start()
    asked = server.http().post("/v1/keys", {"name": "reader", "role": "read"})
    reader = asked.json()
    lowly = Worker(server, "lowly", key=reader["key"]).start()
    for it in (forged, lowly):
        assert it.process is not None
        assert it.process.wait(60) == 1
        assert "key" in it.log()
    assert {"forged", "lowly"}.isdisjoint(one["worker"] for one in Jobs(server).workers())


def test_a_stale_worker_that_comes_back_changes_nothing(make_server: Make) -> None:
    """It sleeps while its leases run out and another one does its tasks, and then it goes on."""
    server = make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "2000"}).start()
    jobs = Jobs(server)
    stale = Worker(server, "stale").start()
    jobs.wait_for_workers(1)
    db = connected(server)
    registered = db.create_function(slow)
    numbers = db.create_table("numbers", pa.table({"value": pa.array(range(600), pa.int64())}))
    numbers.add_columns({"made": registered(value=col("value"))})
    path = "/v1/table/numbers/backfill_column"
    asked = {"column": "made", "task_rows": 100}
    job = server.http().ok("POST", path, asked).json()["job_id"]
    wait_until(lambda: jobs.progress(job).get("tasks_held", 0) > 0, "it works", 60)
    assert stale.process is not None
    os.kill(stale.process.pid, signal.SIGSTOP)
    fresh = Worker(server, "fresh").start()
    try:
        done = jobs.wait(job)
        assert (done["job_state"], done["result"]["rows_assigned"]) == ("DONE", 600)
        version = numbers.version
        os.kill(stale.process.pid, signal.SIGCONT)
        # It is heard of again, finds nothing of its own, and is given other work.
        numbers.add(pa.table({"value": pa.array(range(600, 700), pa.int64())}))
        fresh.kill()
        assert numbers.refresh_column_async("made").wait(SOON).rows_assigned == 100
    finally:
        os.kill(stale.process.pid, signal.SIGCONT)
        stale.kill()
        fresh.kill()
    assert made_of(server, "numbers") == list(range(1, 701))
    assert numbers.version > version
