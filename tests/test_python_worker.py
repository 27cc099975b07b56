"""The worker's own parts: what it holds, its pipeline, and what it does when things break.

Most tests run an agent in this process with a small model, against a stand-in for the server that
can break by name. The real models and the real server have their own files.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lakebed._retry import pause_s
from lakebed._target import target
from lakebed.models.model import Input, OutOfMemory, Precision, Prepared, RowError, Vectors
from lakebed.worker.agent import Agent, Refused
from lakebed.worker.pipeline import DECODED_BYTES_MAX
from lakebed.worker.protocol import Server
from lakebed.worker.queues import ByteQueue, Closed
from lakebed.worker.resources import parse_gpus
from lakebed.worker.state import RESULT_BYTES_MAX, Attempt, Holdings
from lakebed.worker.v1 import worker_pb2 as pb
from support.waiting import wait_until
from support.worker_server import WorkerServer

ONE = Attempt("j", 1, 5)


def answer(**fields: Sequence[Attempt]) -> pb.SyncResponse:
    """A response with attempts in its lists."""
    response = pb.SyncResponse()
    for name, attempts in fields.items():
        for attempt in attempts:
            if name == "assign":
                response.assign.append(pb.Assignment(attempt=attempt.message()))
            else:
                getattr(response, name).append(attempt.message())
    return response


def said(held: Holdings) -> pb.SyncRequest:
    """What the next Sync would say."""
    request = pb.SyncRequest()
    held.fill(request)
    return request


# ---- what it holds ----------------------------------------------------------------------------


def test_an_assignment_is_begun_once() -> None:
    held = Holdings()
    assert len(held.apply(answer(assign=[ONE])).begin) == 1
    assert held.apply(answer(assign=[ONE])).begin == []
    assert [Attempt.of(a) for a in said(held).running] == [ONE]


def test_what_has_ended_is_said_until_it_is_recorded() -> None:
    held = Holdings()
    held.apply(answer(assign=[ONE]))
    assert held.done(ONE, [1.0, 2.0])
    for _ in range(2):
        request = said(held)
        assert not request.running
        assert [list(done.vector) for done in request.done] == [[1.0, 2.0]]
    held.apply(answer(recorded=[ONE]))
    assert not said(held).done
    # A late answer to an early poll names it once more.
    assert held.apply(answer(assign=[ONE])).begin == []


def test_a_report_has_results_up_to_some_bytes() -> None:
    held = Holdings()
    attempts = [Attempt("j", task, 1) for task in range(3)]
    held.apply(answer(assign=attempts))
    for attempt in attempts:
        assert held.done(attempt, took_ms=7, results=bytes(RESULT_BYTES_MAX // 2))
    request = said(held)
    assert [Attempt.of(it.attempt) for it in request.done] == attempts[:2]
    assert [Attempt.of(block.attempts[0]) for block in request.results] == attempts[:2]
    assert {it.took_ms for it in request.done} == {7}
    # The third is told later; until then its lease goes on.
    assert [Attempt.of(it) for it in request.running] == attempts[2:]
    held.apply(answer(recorded=attempts[:2]))
    assert [Attempt.of(it.attempt) for it in said(held).done] == attempts[2:]


def test_what_the_driver_says_of_gpus() -> None:
    told = "NVIDIA H200, 143771, 512, 97\nTesla, old, 16000, [N/A], [N/A]\nOther, 8, [N/A], 3\n"
    found = [(gpu.name, gpu.memory_mb, gpu.busy_percent) for gpu in parse_gpus(told)]
    assert found == [("NVIDIA H200", 143_771, 97), ("Other", 8, 3)]


def test_a_stop_drops_and_a_late_end_is_not_said() -> None:
    held = Holdings()
    held.apply(answer(assign=[ONE]))
    assert held.apply(answer(stop=[ONE])).drop == [ONE]
    assert not held.done(ONE)
    assert not held.failed(ONE, "x", retryable=True)
    assert not said(held).done
    assert not said(held).failed


def test_a_higher_attempt_makes_the_lower_void() -> None:
    held = Holdings()
    held.apply(answer(assign=[ONE]))
    newer = Attempt("j", 1, 6)
    change = held.apply(answer(assign=[newer]))
    assert change.drop == [ONE]
    assert [Attempt.of(a) for a in said(held).running] == [newer]


def test_nothing_is_taken_while_leaving() -> None:
    held = Holdings()
    held.apply(answer(assign=[ONE]))
    held.leave()
    assert held.apply(answer(assign=[Attempt("j", 2, 1)])).begin == []
    request = said(held)
    assert request.leaving
    assert len(request.running) == 1


# ---- queues -----------------------------------------------------------------------------------


def test_a_queue_is_bounded_by_bytes_and_lets_one_giant_in() -> None:
    queue: ByteQueue[str] = ByteQueue(10)
    queue.put("giant", 100)
    done = threading.Event()

    def second() -> None:
        queue.put("next", 1)
        done.set()

    threading.Thread(target=second, daemon=True).start()
    assert not done.wait(0.1)
    assert queue.get() == "giant"
    assert done.wait(5)
    assert queue.nbytes == 1


def test_a_closed_queue_wakes_who_waits() -> None:
    queue: ByteQueue[str] = ByteQueue(1)
    ended = []

    def wait() -> None:
        with pytest.raises(Closed):
            queue.get()
        ended.append(1)

    thread = threading.Thread(target=wait)
    thread.start()
    queue.close()
    thread.join(5)
    assert ended == [1]
    with pytest.raises(Closed):
        queue.put("x")


# ---- the whole worker -------------------------------------------------------------------------


def test_pauses_do_not_outgrow_numbers() -> None:
    """A server may be away for hours."""
    assert 0 < pause_s(5_000) <= 5


class Lengths:
    """A model whose vector is the length of a text, so that a wrong row would show."""

    name = "lengths"
    digest = "sha256:00"
    dimensions = 2
    input = Input.TEXT
    batch_rows = 16
    batch_cost = 16 * 64
    device = "cpu"
    precision = Precision.FP32
    lanes = 2

    def __init__(self) -> None:
        self.pause_s = 0.0
        self.breaks = 0
        self.nbytes: int | None = None
        # Memory, in letters after padding.
        self.room: int | None = None

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        if "poison" in cells:
            raise ValueError("poisoned")
        return [
            RowError("bad text")
            if cell == "bad"
            else Prepared(len(cell), self.nbytes or 8, max(2, len(cell)))
            for cell in cells
        ]

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        time.sleep(self.pause_s)
        if self.breaks > 0:
            self.breaks -= 1
            raise RuntimeError("out of something")
        if self.room is not None and len(rows) * max(row.cost for row in rows) > self.room:
            raise OutOfMemory("too much")
        return np.array([[row.value, -row.value] for row in rows], np.float32)


def rows(count: int, start: int = 0) -> pa.Table:
    """Texts with a few nulls and a bad one."""
    texts: list[str | None] = ["x" * (n % 37) for n in range(count)]
    if count > 20:
        texts[3], texts[11], texts[17] = None, "bad", "poison"
    ids = pa.array(range(start, start + count), pa.uint64())
    schema = pa.schema([pa.field("_rowid", pa.uint64(), False), pa.field("input", pa.string())])
    return pa.table([ids, pa.array(texts)], schema=schema)


def check(given: pa.Table, result: pa.Table) -> None:
    """Every row came once, with its own vector or its own error."""
    by_id = {row["_rowid"]: row for row in result.to_pylist()}
    assert len(by_id) == result.num_rows == given.num_rows
    for row in given.to_pylist():
        found, text = by_id[row["_rowid"]], row["input"]
        if text is None:
            assert found["value"] is None
            assert found["error"] is None
        elif text in {"bad", "poison"}:
            assert found["value"] is None
            assert {"bad": "bad text", "poison": "poisoned"}[text] in found["error"]
        else:
            assert found["value"] == [len(text), -len(text)]
            assert found["error"] is None


@pytest.fixture
def stand_in() -> Iterator[WorkerServer]:
    server = WorkerServer()
    yield server
    server.close()


@pytest.fixture
def model() -> Lengths:
    return Lengths()


@pytest.fixture
def start(stand_in: WorkerServer, model: Lengths) -> Iterator[Callable[..., Agent]]:
    """Starts agents; they leave at the end of the test."""
    begun: list[tuple[Agent, threading.Thread]] = []

    def start(key: str = "k", slots: int = 2) -> Agent:
        server = Server(target(stand_in.url, key))
        agent = Agent(server, {model.name: model}, name="w", slots=slots, decoders=2)
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        begun.append((agent, thread))
        return agent

    yield start
    for agent, thread in begun:
        agent.stop()
        thread.join(20)
        assert not thread.is_alive(), "the agent did not leave"


def test_rows_get_their_vectors(stand_in: WorkerServer, start: Callable[..., Agent]) -> None:
    tasks = [stand_in.add("lengths", rows(n, n * 1_000)) for n in (250, 1, 0, 40)]
    start()
    stand_in.wait_recorded()
    for task in tasks:
        check(task.rows, task.results[task.recorded])
    # The next Sync says where time went.
    wait_until(lambda: stand_in.syncs[-1].stages[2].rows > 0, "the stages' times")
    stages = {stage.stage: stage.rows for stage in stand_in.syncs[-1].stages}
    assert stages["read"] == 291
    # Null, bad and poisoned ones are not computed.
    assert stages["compute"] == 291 - 6


def test_small_results_travel_with_the_report(
    stand_in: WorkerServer, start: Callable[..., Agent]
) -> None:
    stand_in.result_bytes_max = 4_096
    small = stand_in.add("lengths", rows(20))
    large = stand_in.add("lengths", rows(2_000))
    start()
    stand_in.wait_recorded()
    assert stand_in.fired["results in a report"] >= 1
    for task in (small, large):
        check(task.rows, task.results[task.recorded])


def test_a_task_that_comes_later_is_begun_at_once(
    stand_in: WorkerServer, start: Callable[..., Agent]
) -> None:
    start()
    wait_until(lambda: stand_in.syncs, "a first sync")
    begun = time.monotonic()
    stand_in.add("lengths", rows(10))
    stand_in.wait_recorded()
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "fault",
    [
        "sync_unavailable",
        "sync_answer_lost",
        "read_unavailable",
        "read_breaks",
        "put_unavailable",
        "put_answer_lost",
    ],
)
def test_a_fault_costs_nothing_but_time(
    stand_in: WorkerServer, start: Callable[..., Agent], fault: str
) -> None:
    tasks = [stand_in.add("lengths", rows(230, n * 1_000)) for n in range(3)]
    stand_in.break_next(fault, 2)
    start()
    stand_in.wait_recorded()
    assert stand_in.fired[fault] == 2
    for task in tasks:
        check(task.rows, task.results[task.recorded])
    if not fault.startswith("sync"):
        assert [task.attempt for task in tasks] == [1, 1, 1]


def test_a_model_that_fails_fails_the_task_and_may_be_tried_again(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    model.breaks = 1
    task = stand_in.add("lengths", rows(50))
    start()
    stand_in.wait_recorded()
    assert "out of something" in task.failures[0]
    check(task.rows, task.results[task.recorded])


def test_a_job_ends_with_the_name_of_its_bottleneck(
    stand_in: WorkerServer,
    start: Callable[..., Agent],
    model: Lengths,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "lakebed.worker")
    model.pause_s = 0.05
    for number in range(2):
        stand_in.add("lengths", rows(400, number * 1_000))
    start()
    stand_in.wait_recorded()
    [line] = wait_until(
        lambda: [it for it in caplog.messages if "bottleneck" in it], "the end of the job"
    )
    assert line.startswith("job job-1: 800 rows here in ")
    assert "bottleneck: compute, which is the device" in line


def test_rows_that_do_not_fit_into_memory_are_halved_to_the_row(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    """The longest texts alone are too much; all others have their vectors."""
    model.room = 30
    given = rows(250)
    task = stand_in.add("lengths", given)
    start()
    stand_in.wait_recorded()
    assert task.failures == []
    result = task.results[task.recorded]
    by_id = {row["_rowid"]: row for row in result.to_pylist()}
    assert len(by_id) == result.num_rows == 250
    too_long = [row for row in given.to_pylist() if len(row["input"] or "") > 30]
    assert too_long
    for row in too_long:
        assert by_id[row["_rowid"]]["value"] is None
        assert "does not fit into the memory" in by_id[row["_rowid"]]["error"]
    others = given.filter(pc.less_equal(pc.fill_null(pc.utf8_length(given["input"]), 0), 30))
    check(others, result.filter(pc.is_in(result["_rowid"], others["_rowid"].combine_chunks())))


def test_a_model_that_it_does_not_have_is_refused(
    stand_in: WorkerServer, start: Callable[..., Agent]
) -> None:
    stand_in.digests["lengths"] = "sha256:ff"
    task = stand_in.add("lengths", rows(5))
    start()
    stand_in.wait_recorded()
    assert len(task.failures) == 3
    assert "sha256:00 of model lengths sha256:ff" in task.failures[0]


def test_input_of_another_type_fails_the_task(
    stand_in: WorkerServer, start: Callable[..., Agent]
) -> None:
    table = pa.table({"_rowid": pa.array([1], pa.uint64()), "input": [1.5]})
    task = stand_in.add("lengths", table)
    start()
    stand_in.wait_recorded()
    assert "double" in task.failures[0]


def test_what_is_stopped_is_dropped(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    model.pause_s = 0.05
    slow = stand_in.add("lengths", rows(2_000))
    start(slots=1)
    wait_until(lambda: slow.holder is not None, "the slow task to be taken")
    with stand_in.lock:
        slow.is_over = True
    quick = stand_in.add("lengths", rows(30))
    stand_in.wait_recorded()
    assert slow.results == {}
    check(quick.rows, quick.results[quick.recorded])


def test_results_under_an_old_attempt_are_dropped(
    stand_in: WorkerServer, start: Callable[..., Agent]
) -> None:
    """The lease ran out while results were on their way: refused, dropped, and done by somebody."""
    stand_in.put_pause_s, stand_in.sync_ms = 0.3, 60_000
    task = stand_in.add("lengths", rows(30))
    start()
    wait_until(lambda: task.attempt > 0, "the task to be taken")
    with stand_in.lock:
        task.attempt, task.holder = 2, None
    stand_in.wait_recorded()
    assert list(task.results) == [task.recorded]
    assert task.recorded > 2
    check(task.rows, task.results[task.recorded])


def test_it_goes_on_over_a_restart_of_the_server(model: Lengths) -> None:
    """The new server is another process with empty hands, on another Flight port."""
    first = WorkerServer()
    model.pause_s = 0.02
    task = first.add("lengths", rows(1_200))
    http_port = first._http.server_port
    agent = Agent(
        Server(target(first.url, "k")), {model.name: model}, name="w", slots=1, decoders=2
    )
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    wait_until(lambda: task.holder is not None, "the task to be taken")
    first.close()
    time.sleep(0.5)
    second = WorkerServer(http_port=http_port)
    again = second.add("lengths", rows(1_200))
    with second.lock:
        # As a ledger has it: given away under this attempt before.
        again.attempt, again.holder, again.until_s = 1, "unknown", time.monotonic() + 10
    second.wait_recorded()
    assert again.recorded == 1
    check(again.rows, again.results[1])
    agent.stop()
    thread.join(20)
    second.close()


def test_queries_pass_rows_by(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    model.pause_s = 0.1
    stand_in.add("lengths", rows(3_000))
    start()
    wait_until(lambda: stand_in.tasks[1].holder is not None, "the task to be taken")
    begun = time.monotonic()
    done = stand_in.ask("lengths", text="four")
    assert list(done.vector) == [4, -4]
    assert time.monotonic() - begun < 3
    refused = stand_in.ask("lengths", picture=b"x")
    assert "reads text, not picture" in refused.error
    assert not refused.retryable
    with stand_in.lock:
        stand_in.tasks[1].is_over = True


def test_leaving_gives_back_at_once(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    stand_in.lease_ms = 60_000
    model.pause_s = 0.1
    task = stand_in.add("lengths", rows(5_000))
    agent = start()
    wait_until(lambda: task.holder is not None, "the task to be taken")
    agent.stop()
    wait_until(lambda: task.holder is None, "the task to be given back", 5)
    assert any(sync.leaving for sync in stand_in.syncs)


def test_a_wrong_key_is_refused(stand_in: WorkerServer, model: Lengths) -> None:
    agent = Agent(
        Server(target(stand_in.url, "wrong")), {model.name: model}, name="w", slots=1, decoders=1
    )
    with pytest.raises(Refused, match="not known"):
        agent.run()


def test_memory_is_bounded_by_bytes(
    stand_in: WorkerServer, start: Callable[..., Agent], model: Lengths
) -> None:
    """Rows that claim to be huge once decoded: a partial batch is computed rather than none for
    ever."""
    model.nbytes = DECODED_BYTES_MAX // 4
    task = stand_in.add("lengths", rows(200))
    start()
    stand_in.wait_recorded()
    check(task.rows, task.results[task.recorded])
