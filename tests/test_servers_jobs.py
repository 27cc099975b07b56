"""Jobs of a lake with several servers: one runs them, whoever that is by then."""

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_jobs_chaos import FRAGMENTS, ROWS, TASK_ROWS, make_table, texts, vectors_undisturbed
from test_servers import TTL_S, opened, start_three

from support.s3 import S3Server
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Jobs, Worker

Make = Callable[..., LakebedServer]


def check_column(server: LakebedServer, expected: np.ndarray) -> None:
    """Every row has its vector once."""
    found = server.lake().read("t").sort_by("id")
    assert found["id"].to_pylist() == list(range(ROWS))
    assert found["text"].to_pylist() == texts()
    numbers = np.array(found["vector"].to_pylist(), dtype=np.float32)
    assert np.abs(numbers - expected).max() < 1e-5


@pytest.mark.timeout(900)
def test_a_job_outlives_the_server_that_runs_it(
    store: S3Server, make_server: Make, table: str
) -> None:
    """The table is led by another one, and the workers are attached to others, too."""
    servers = start_three(store, make_server, table, LAKEBED_LIMITS_TASK_LEASE_MS="2000")
    for server in servers:
        server.expect_log(".")
    first, second, third = servers
    expected = vectors_undisturbed()
    make_table(second, "t")
    workers = [Worker(server, server.work.name).start() for server in (second, third)]
    try:
        Jobs(third).wait_for_workers(2)
        job = Jobs(third).submit("t", "text", "vector", TEXT_MODEL, task_rows=TASK_ROWS)
        # Whichever server is asked tells the same.
        assert Jobs(second).describe(job)["job_state"] == "IN_PROGRESS"
        began = time.monotonic()

        def has_work() -> bool:
            progress = Jobs(third).progress(job)
            return progress.get("tasks_held", 0) > 0 and progress["rows_done"] > 0

        wait_until(has_work, "work in flight", 60)
        first.kill()
        killed = time.monotonic()
        ended = Jobs(third).wait(job, 200)
        print(f"{killed - began:.1f} s before the kill, {time.monotonic() - killed:.1f} s after")
        assert ended["job_state"] == "DONE", ended
        assert (ended["result"]["rows"], ended["result"]["errors"]) == (ROWS, 0)
        check_column(second, expected)
        dataset = opened(store, second)
        dataset.validate()
        assert dataset.to_table(columns=["vector"]).column("vector").null_count == 0
        # Whoever was away sees the job that ended without it.
        first.start()
        wait_until(lambda: Jobs(first).describe(job)["job_state"] == "DONE", "the job", 5 * TTL_S)
        # A text is embedded where workers are attached, whoever is asked.
        for server in servers:
            query = {"embed": {"text": texts()[7]}, "k": 1, "vector_column": "vector"}
            answer = server.http().ok("POST", "/v1/table/t/query", query)
            assert answer.status == 200
            call = f"SELECT id, embed('{TEXT_MODEL}', text) AS v FROM t WHERE id < 9 ORDER BY id"
            called = np.array(Sql(server).query(call)["v"].to_pylist(), dtype=np.float32)
            assert np.abs(called - expected[:9]).max() < 1e-5
    finally:
        for worker in workers:
            worker.kill()


def described(server: LakebedServer, job: str) -> dict[str, Any]:
    """What a server says of a job, once another one leads where its leader was killed."""
    answers: list[Any] = []

    def is_answered() -> bool:
        answers.append(server.http().post("/v1/jobs/describe", {"job_id": job}))
        assert answers[-1].status in {200, 503}, answers[-1].body
        return answers[-1].status == 200

    wait_until(is_answered, "a server that leads", 5 * TTL_S)
    return answers[-1].json()


@pytest.mark.skipif(not os.environ.get("LAKEBED_SOAK"), reason="the long form")
@pytest.mark.timeout(1800)
def test_jobs_while_each_server_is_killed(store: S3Server, make_server: Make, table: str) -> None:
    """One after the other, in the middle of the work."""
    servers = start_three(store, make_server, table, LAKEBED_LIMITS_TASK_LEASE_MS="2000")
    for server in servers:
        server.expect_log(".")
        server.args += ["--http-addr", server.http_address]
        server.args += ["--flight-addr", server.flight_address]
    expected = vectors_undisturbed()
    make_table(servers[0], "t")
    workers = [Worker(server, server.work.name).start() for server in servers]
    try:
        Jobs(servers[1]).wait_for_workers(3)
        for round_ in range(3):
            job = Jobs(servers[1]).submit(
                "t", "text", "vector", TEXT_MODEL, task_rows=TASK_ROWS, recompute=True
            )
            kills = 0
            for victim in servers:
                asked = next(server for server in servers if server is not victim)
                wait_until(
                    lambda asked=asked, job=job: (
                        described(asked, job).get("progress", {}).get("tasks_held", 0) > 0
                        or described(asked, job)["job_state"] == "DONE"
                    ),
                    "work in flight",
                    60,
                )
                if described(asked, job)["job_state"] == "DONE":
                    break
                victim.kill()
                kills += 1
                time.sleep(TTL_S)
                victim.start()
            wait_until(
                lambda job=job: described(servers[0], job)["job_state"] != "IN_PROGRESS",
                "the end of the job",
                200,
            )
            ended = described(servers[0], job)
            assert ended["job_state"] == "DONE", ended
            print(f"round {round_}: {kills} kills")
            check_column(servers[2], expected)
            assert FRAGMENTS > 1
    finally:
        for worker in workers:
            worker.kill()
