"""Who gets which rows of which job, and how many: sizes, results in reports, splits, priorities,
labels, resources and deadlines, with workers by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakebed.worker.v1 import worker_pb2 as pb
from support.cli import Cli
from support.fleet import MODEL, Fleet
from support.hand import Hand, results, stream
from support.killer import at_fixed_ports
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Jobs, Worker


def texts(rows: int) -> pa.Table:
    """A table of texts."""
    return pa.table({"id": range(rows), "text": [f"row {n}" for n in range(rows)]})


def finish(hand: Hand, given: pb.Assignment, took_ms: int = 0) -> pb.SyncResponse:
    """Does a task; its results go with the report."""
    rows = hand.read(given.attempt)
    block = pb.Results(attempts=[given.attempt], stream=stream(results(rows)))
    done = pb.TaskDone(attempt=given.attempt, took_ms=took_ms)
    return hand.sync(done=[done], results=[block])


def leave(*hands: Hand) -> None:
    """They give back what they hold."""
    for hand in hands:
        hand.sync(leaving=True)


def test_a_task_gets_as_many_rows_as_its_worker_does_in_some_seconds(
    server: LakebedServer, table: str
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, texts(3_000))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL)
    fast, slow = Hand(lake, "fast"), Hand(lake, "slow")
    (given,) = fast.sync(wait_ms=5_000).assign
    (other,) = slow.sync(wait_ms=5_000).assign
    sizes = []
    for _ in range(4):
        sizes.append(given.rows.rows)
        # A row takes a millisecond.
        fast.put(given.attempt, results(fast.read(given.attempt)))
        done = pb.TaskDone(attempt=given.attempt, took_ms=given.rows.rows)
        (given,) = fast.sync(done=[done]).assign
    # It grows step by step, and not beyond its share of what is left.
    assert sizes[:3] == [16, 64, 256]
    assert 256 < sizes[3] < 1_024
    # One that needs a second for a row gets a few.
    (other,) = finish(slow, other, took_ms=16_000).assign
    assert other.rows.rows == 3
    assert jobs.progress(job)["workers"] == ["hand", "hand"]
    server.http().ok("POST", "/v1/jobs/cancel", {"job_id": job})
    jobs.wait(job)
    leave(fast, slow)


def test_results_travel_with_the_report(server: LakebedServer, table: str) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, texts(40))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=10)
    hand = Hand(lake, "reports")
    answer = hand.sync(slots=4, wait_ms=5_000)
    assert answer.result_bytes_max >= 48 << 10
    given = [one.attempt for one in answer.assign]
    assert len(given) == 4
    # The rows of several tasks are read together, and their results come as one stream.
    rows = hand.read_all(given)
    assert rows["input"].to_pylist() == [f"row {n}" for n in range(40)]
    wrong = results(rows).slice(0, 39)
    done = [pb.TaskDone(attempt=attempt) for attempt in given]
    block = pb.Results(attempts=given, stream=stream(wrong))
    answer = hand.sync(slots=0, done=done, results=[block])
    assert list(answer.recorded) == given
    assert jobs.progress(job)["rows_done"] == 0
    assert jobs.progress(job)["retries"] == 4
    # They failed, and come again after a while.
    given = []
    while len(given) < 4:
        given += [one.attempt for one in hand.sync(slots=4, running=given, wait_ms=2_000).assign]
    rows = hand.read_all(given)
    first = pb.Results(attempts=given[:2], stream=stream(results(rows.slice(0, 20), 0.25)))
    second = pb.Results(attempts=given[2:], stream=stream(results(rows.slice(20), 0.75)))
    done = [pb.TaskDone(attempt=attempt) for attempt in given]
    for _ in range(2):
        answer = hand.sync(slots=0, done=done, results=[first, second])
        assert sorted(it.task for it in answer.recorded) == sorted(it.task for it in given)
    assert jobs.wait(job)["result"]["rows"] == 40
    column = lake.read(table)["vector"].to_pylist()
    assert [vector[0] for vector in column] == [0.25] * 20 + [0.75] * 20
    leave(hand)


def test_a_report_with_rows_of_several_fragments(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = at_fixed_ports(make_server, {})
    lake, jobs = server.lake(), Jobs(server)
    for n in range(4):
        (lake.write if n else lake.create)("t", texts(10))
    job = jobs.submit("t", "text", "vector", TEXT_MODEL, task_rows=5)
    hand = Hand(lake, "fragments")
    given = [one.attempt for one in hand.sync(slots=7, wait_ms=5_000).assign]
    assert [(it.task >> 16, it.task & 0xFFFF) for it in given] == [(5 * n, 4) for n in range(7)]
    # Three fragments and half of the last, side by side in one segment of the ledger.
    block = pb.Results(attempts=given, stream=stream(results(hand.read_all(given))))
    done = [pb.TaskDone(attempt=attempt) for attempt in given]
    assert len(hand.sync(slots=0, done=done, results=[block]).recorded) == 7

    def filled() -> int:
        column = lake.read("t")["vector"]
        return len(column) - column.null_count

    wait_until(lambda: filled() == 30, "three fragments", 30)
    # What is known of the last one is still known after a restart.
    server.kill()
    server.start()
    hand = Hand(server.lake(), "fragments")
    (last,) = hand.sync(slots=7, wait_ms=5_000).assign
    assert (last.attempt.task >> 16, last.rows.rows) == (35, 5)
    finish(hand, last)
    assert jobs.wait(job)["result"]["rows"] == 40
    assert filled() == 40
    leave(hand)


def test_a_report_with_too_much_is_refused(server: LakebedServer) -> None:
    hand = Hand(server.lake(), "much")
    attempt = pb.AttemptId(job_id="j", task=1, attempt=1)
    for size in (65_537, 5 << 20):
        block = pb.Results(attempts=[attempt], stream=bytes(size))
        with hand.lake.refuses("invalid_argument", "bytes"):
            hand.sync(slots=0, results=[block])
    leave(hand)


def test_a_task_that_fails_is_split_down_to_the_row(server: LakebedServer, table: str) -> None:
    lake, jobs = server.lake(), Jobs(server)
    rows = texts(16).set_column(1, "text", pa.array(["bad" if n == 11 else "x" for n in range(16)]))
    lake.create(table, rows)
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=16)
    hand = Hand(lake, "splits")
    sizes = []
    while jobs.describe(job)["job_state"] == "IN_PROGRESS":
        for given in hand.sync(wait_ms=500).assign:
            sizes.append(given.rows.rows)
            if "bad" in hand.read(given.attempt)["input"].to_pylist():
                failed = pb.TaskFailed(attempt=given.attempt, error="no memory", retryable=True)
                hand.sync(slots=0, failed=[failed])
            else:
                rows = hand.read(given.attempt)
                block = pb.Results(attempts=[given.attempt], stream=stream(results(rows)))
                done = pb.TaskDone(attempt=given.attempt)
                hand.sync(slots=0, done=[done], results=[block])
    ended = jobs.describe(job)
    assert (ended["result"]["rows"], ended["result"]["errors"]) == (16, 1), sizes
    assert sizes[:3] == [16, 16, 16]
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16]
    found = lake.read(table)
    assert [n for n, vector in enumerate(found["vector"]) if not vector.is_valid] == [11]
    errors = lake.read("job_errors", filter=f"job_id = '{job}'")
    assert errors["error"].to_pylist() == ["no memory"]
    leave(hand)


def test_priorities_labels_resources_and_numbers_of_workers(
    server: LakebedServer, table: str
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    terms: dict[str, dict[str, Any]] = {
        "low": {"priority": -1},
        "plain": {},
        "high": {"priority": 5, "max_workers": 1},
        "picky": {
            "priority": 100,
            "labels": {"zone": "a"},
            "resources": {"gpus": 1, "gpu_memory_mb": 400},
        },
    }
    asked = {}
    for name, more in terms.items():
        lake.create(f"{table}_{name}", texts(4))
        asked[jobs.submit(f"{table}_{name}", "text", "vector", TEXT_MODEL, task_rows=2, **more)] = (
            name
        )
    for job in asked:
        wait_until(lambda job=job: jobs.progress(job).get("tasks_ready") == 2, "tasks")
    plain, other, rich = Hand(lake, "plain"), Hand(lake, "other"), Hand(lake, "rich")
    first = [asked[one.attempt.job_id] for one in plain.sync(slots=3).assign]
    assert first == ["high", "high", "plain"]
    # It was the one worker of the job of high priority.
    second = [asked[one.attempt.job_id] for one in other.sync(slots=9).assign]
    assert second == ["plain", "low", "low"]
    picky = next(job for job, name in asked.items() if name == "picky")
    assert jobs.progress(picky)["waits_for"] == (
        "a worker with zone=a, 1 GPUs, 400 MiB of GPU memory"
    )
    has = pb.Resources(cpus=1, gpus=2, gpu_memory_mb=500)
    labels = [pb.Label(name="zone", value="a")]
    third = rich.sync(slots=9, resources=has, labels=labels).assign
    assert [asked[one.attempt.job_id] for one in third] == ["picky"]
    assert jobs.progress(picky)["waits_for"] is None
    listed = next(it for it in jobs.workers() if it["instance"] == "rich")
    assert (listed["labels"], listed["resources"]["gpus"]) == ({"zone": "a"}, 2)
    spec = jobs.describe(picky)["spec"]["terms"]
    assert (spec["priority"], spec["labels"]) == (100, {"zone": "a"})
    for job in asked:
        server.http().ok("POST", "/v1/jobs/cancel", {"job_id": job})
        jobs.wait(job)
    leave(plain, other, rich)


def test_a_job_that_takes_too_long_is_called_off(server: LakebedServer, table: str) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, texts(4))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, timeout_s=1)
    ended = jobs.wait(job)
    assert ended["job_state"] == "TIMED_OUT"
    assert "timeout_s" in ended["failure"]["message"]
    assert ended["ended_ms"] - ended["creation_ms"] >= 1_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"priority": 101}, "priority"),
        ({"max_workers": 0}, "max_workers"),
        ({"labels": {"": "a"}}, "labels"),
        ({"resources": {"gpu": 1}}, "gpu"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_terms_that_cannot_be_kept(
    server: LakebedServer, table: str, change: dict[str, Any], words: str
) -> None:
    server.lake().create(table, texts(1))
    body = {"table": table, "input": "text", "output": "vector", "model": TEXT_MODEL, **change}
    answer = server.http().post("/v1/jobs/submit", body)
    assert answer.status == 400, answer.text
    assert words in answer.text


def test_what_was_acknowledged_is_never_given_again(
    make_server: Callable[..., LakebedServer],
) -> None:
    """SIGKILL of the server while many tasks of one row are given away and recorded."""
    server = at_fixed_ports(make_server, {})
    rows = 6_000
    lake, jobs = server.lake(), Jobs(server)
    lake.create("t", texts(rows))
    fleet = Fleet(server, 8, 32)
    try:
        jobs.wait_for_workers(8)
        job = jobs.submit("t", "text", "length", MODEL, task_rows=1)
        for kill in range(1, 4):
            fleet.wait_recorded(kill * rows // 5)
            server.kill()
            acknowledged = len(fleet.acknowledged)
            fleet.starts += 1
            server.start()
            assert jobs.progress(job).get("rows_done", rows) <= rows
        ended = jobs.wait(job)
        assert ended["job_state"] == "DONE", ended
        assert acknowledged < rows, "the last kill came too late"
        assert not fleet.repeated, len(fleet.repeated)
    finally:
        fleet.stop()
    found = server.lake().read("t")
    lengths = [vector[0] for vector in found["length"].to_pylist()]
    assert lengths == [len(text) for text in found["text"].to_pylist()]


def test_a_worker_with_flags(make_server: Callable[..., LakebedServer], tmp_path: Path) -> None:
    """Labels and resources of a real worker, and tasks that grow with its speed."""
    server = make_server().start()
    lake, jobs = server.lake(), Jobs(server)
    lake.create("t", texts(600))
    flags = ["--label", "zone=a", "--label", "disk=fast", "--cpus", "3", "--gpus", "0"]
    worker = Worker(server, "w", arguments=flags).start()
    try:
        jobs.wait_for_workers(1)
        (listed,) = jobs.workers()
        assert listed["labels"] == {"zone": "a", "disk": "fast"}
        assert listed["resources"]["cpus"] == 3
        arguments = ["--table", "t", "--input", "text", "--output", "vector"]
        arguments += ["--model", TEXT_MODEL, "--label", "zone=a", "--cpus", "1", "--priority", "-3"]
        told = Cli(server, tmp_path).run("jobs", "submit", *arguments, "--wait")
        assert told.returncode == 0, told.stderr
    finally:
        worker.kill()
    begun = [line for line in worker.log().splitlines() if "begun," in line]
    sizes = [int(line.split("begun, ")[1].split()[0]) for line in begun]
    assert sizes[0] == 16
    assert max(sizes) > 16
    assert lake.read("t")["vector"].null_count == 0
