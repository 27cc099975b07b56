"""A stand-in for the server's side of the worker protocol, for tests that need to break things.

It keeps jobs in memory, gives tasks away under leases, and takes results, as
docs/worker-protocol.md has it. Faults are asked for by name and each counts how often it fired. Not
a double of the scheduler: the tests against the built server are in test_worker_end_to_end.py.
"""

import http.server
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import flight

from lakebed.worker.v1 import worker_pb2 as pb

SYNC = "lakebed.worker.v1.Sync"
FUNCTION = "lakebed.worker.v1.Function"


@dataclass
class Task:
    """Rows to compute, and how far they got."""

    number: int
    model: str
    rows: pa.Table
    attempt: int = 0
    holder: str | None = None
    until_s: float = 0.0
    results: dict[int, pa.Table] = field(default_factory=dict)
    recorded: int | None = None
    failures: list[str] = field(default_factory=list)
    is_over: bool = False
    # Of a function, what the worker is told of it; `model` is empty then.
    function: dict[str, Any] | None = None
    is_check: bool = False
    retryable: bool | None = None


class WorkerServer(flight.FlightServerBase):
    """The Flight port, with `/version` on an HTTP port beside it."""

    JOB = "job-1"

    def __init__(self, port: int = 0, http_port: int = 0, key: str = "k") -> None:
        super().__init__(f"grpc://127.0.0.1:{port}", middleware={"key": _KeyFactory(key)})
        self.lock = threading.Condition()
        self.tasks: dict[int, Task] = {}
        self.queries: dict[int, pb.QueryTask] = {}
        self.answers: dict[int, pb.TaskDone | pb.TaskFailed] = {}
        self.given_queries: set[int] = set()
        self.lease_ms = 3_000
        self.sync_ms = 200
        # Bytes of results that may come with a report.
        self.result_bytes_max = 0
        self.digests: dict[str, str] = {}
        self.left: set[str] = set()
        self.syncs: list[pb.SyncRequest] = []
        self.faults: dict[str, int] = {}
        self.fired: Counter[str] = Counter()
        self.read_batch_rows = 100
        self.put_pause_s = 0.0
        self._http = _http_server(self, http_port)

    @property
    def url(self) -> str:
        """What a worker is given."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        """Ends both ports."""
        self._http.shutdown()
        self._http.server_close()
        self.shutdown()

    # ---- what tests say and ask ---------------------------------------------------------------

    def add(self, model: str, rows: pa.Table) -> Task:
        """A task of rows."""
        with self.lock:
            task = Task(len(self.tasks) + 1, model, rows)
            self.tasks[task.number] = task
            self.lock.notify_all()
            return task

    def add_function(self, function: dict[str, Any], rows: pa.Table | None) -> Task:
        """A task of rows for a function, or a check of it."""
        with self.lock:
            number = len(self.tasks) + 1
            empty = pa.table({"_rowid": pa.array([], pa.uint64())})
            is_check = rows is None
            task = Task(number, "", empty if rows is None else rows, is_check=is_check)
            task.function = function
            self.tasks[number] = task
            self.lock.notify_all()
            return task

    def ask(self, model: str, timeout_s: float = 20.0, **given: Any) -> Any:
        """A query; what came back."""
        with self.lock:
            number = 1_000 + len(self.queries)
            self.queries[number] = pb.QueryTask(**given)
            self.digests.setdefault(f"query-{number}", model)
            self.lock.notify_all()
            assert self.lock.wait_for(lambda: number in self.answers, timeout_s), "no answer came"
            return self.answers[number]

    def wait_recorded(self, timeout_s: float = 30.0) -> None:
        """Until every task is recorded or over."""

        def all_ended() -> bool:
            return all(t.recorded is not None or t.is_over for t in self.tasks.values())

        with self.lock:
            assert self.lock.wait_for(all_ended, timeout_s), f"not done: {self.tasks}"

    def break_next(self, name: str, times: int = 1) -> None:
        """Asks for a fault."""
        with self.lock:
            self.faults[name] = times

    def _fires(self, name: str) -> bool:
        with self.lock:
            if self.faults.get(name, 0) < 1:
                return False
            self.faults[name] -= 1
            self.fired[name] += 1
            return True

    # ---- the protocol -------------------------------------------------------------------------

    def do_action(self, _: Any, action: flight.Action) -> Any:
        if action.type == FUNCTION:
            return [self._function(pb.AttemptId.FromString(action.body.to_pybytes()))]
        if action.type != SYNC:
            raise flight.FlightServerError(f"action `{action.type}` is not known")
        if self._fires("sync_unavailable"):
            raise flight.FlightUnavailableError("shutting down")
        request = pb.SyncRequest.FromString(action.body.to_pybytes())
        deadline = time.monotonic() + min(request.wait_ms, 1_000) / 1_000
        with self.lock:
            self.syncs.append(request)
            response = self._answer(request)
            while not _says_something(response) and (left := deadline - time.monotonic()) > 0:
                self.lock.wait(left)
                response = self._answer(request)
        if self._fires("sync_answer_lost"):
            raise flight.FlightUnavailableError("the answer is lost")
        return [pa.py_buffer(response.SerializeToString())]

    def _function(self, attempt: pb.AttemptId) -> Any:
        if self._fires("function_unavailable"):
            raise flight.FlightUnavailableError("not now")
        task = self._task({"task": attempt.task, "attempt": attempt.attempt})
        self.fired["function"] += 1
        return pa.py_buffer(json.dumps(task.function).encode())

    def _answer(self, request: pb.SyncRequest) -> pb.SyncResponse:
        response = pb.SyncResponse(
            lease_ms=self.lease_ms, sync_ms=self.sync_ms, result_bytes_max=self.result_bytes_max
        )
        now = time.monotonic()
        if request.leaving:
            self.left.add(request.instance)
        # Also for a Sync that was under way when its worker left.
        is_leaving = request.instance in self.left
        for block in request.results:
            self.fired["results in a report"] += 1
            [attempt] = block.attempts
            assert len(block.stream) <= self.result_bytes_max
            task = self.tasks[attempt.task]
            task.results[attempt.attempt] = pa.ipc.open_stream(block.stream).read_all()
        for done in request.done:
            self._end(done.attempt, done, response)
        for failed in request.failed:
            self._end(failed.attempt, failed, response)
        for attempt in request.running:
            task = self.tasks.get(attempt.task)
            if task is None:
                continue
            if task.is_over or attempt.attempt < task.attempt:
                response.stop.append(attempt)
            elif not is_leaving:
                # Taken back after a restart as well.
                task.attempt, task.holder = attempt.attempt, request.instance
                task.until_s = now + self.lease_ms / 1_000
        if is_leaving:
            # All of it, also what an answer that is still under way gave to it.
            for task in self.tasks.values():
                if task.holder == request.instance:
                    task.holder = None
            return response
        models = {model.name: model.digest for model in request.models}
        named = {attempt.task for attempt in request.running}
        mine = [t for t in self.tasks.values() if t.holder == request.instance and t.until_s > now]
        held = sum(task.recorded is None and not task.is_over for task in mine)
        for task in self.tasks.values():
            can = request.interpreters if task.function is not None else task.model in models
            if task.recorded is not None or task.is_over or not can:
                continue
            # One that it should hold and does not name: the answer that gave it away was lost.
            is_lost = task in mine and task.number not in named
            is_free = held < request.slots and (task.holder is None or task.until_s <= now)
            if is_free:
                task.attempt += 1
                task.holder, task.until_s = request.instance, now + self.lease_ms / 1_000
                held += 1
            if (is_free or is_lost) and task.function is not None:
                response.assign.append(self._function_assignment(task))
            elif is_free or is_lost:
                response.assign.append(
                    pb.Assignment(
                        attempt=self._id(task),
                        model=task.model,
                        digest=self.digests.get(task.model, models[task.model]),
                        rows=pb.RowsTask(rows=task.rows.num_rows, table="t", input="input"),
                    )
                )
        for number, query in self.queries.items():
            if number not in self.given_queries:
                self.given_queries.add(number)
                model = self.digests[f"query-{number}"]
                attempt = pb.AttemptId(task=number, attempt=1)
                response.assign.append(
                    pb.Assignment(
                        attempt=attempt, model=model, digest=models.get(model, ""), query=query
                    )
                )
        return response

    def _function_assignment(self, task: Task) -> pb.Assignment:
        assert task.function is not None
        name, digest = task.function["name"], task.function["digest"]
        given = pb.Assignment(
            attempt=self._id(task), function=pb.Function(name=name, digest=digest)
        )
        if task.is_check:
            given.check.SetInParent()
        else:
            given.rows.CopyFrom(pb.RowsTask(rows=task.rows.num_rows, table="t"))
        return given

    def _id(self, task: Task) -> pb.AttemptId:
        return pb.AttemptId(job_id=self.JOB, task=task.number, attempt=task.attempt)

    def _end(self, attempt: pb.AttemptId, ended: Any, response: pb.SyncResponse) -> None:
        response.recorded.append(attempt)
        if attempt.task in self.queries:
            self.answers[attempt.task] = ended
        elif (task := self.tasks.get(attempt.task)) is None or attempt.attempt != task.attempt:
            pass
        elif task.holder is None or task.recorded is not None:
            pass  # said again before it was recorded
        elif isinstance(ended, pb.TaskFailed):
            task.failures.append(ended.error)
            task.retryable = ended.retryable
            task.holder = None
            task.is_over = not ended.retryable or len(task.failures) >= 3
        else:
            is_put = task.is_check or attempt.attempt in task.results
            assert is_put, "done was said before the results were put"
            task.recorded = attempt.attempt
        self.lock.notify_all()

    def _task(self, fields: dict[str, Any]) -> Task:
        with self.lock:
            task = self.tasks.get(fields["task"])
            if task is None or task.is_over or fields["attempt"] < task.attempt:
                # pyarrow's servers cannot send ABORTED; the kind rides in no trailer here either.
                raise flight.FlightUnauthorizedError("the attempt is not held any more")
            return task

    def do_get(self, _: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        if self._fires("read_unavailable"):
            raise flight.FlightUnavailableError("not now")
        task = self._task(json.loads(ticket.ticket)["task"])

        def batches() -> Any:
            for batch in task.rows.to_batches(max_chunksize=self.read_batch_rows):
                yield batch
                if self._fires("read_breaks"):
                    raise flight.FlightUnavailableError("the stream broke")

        return flight.GeneratorStream(task.rows.schema, batches())

    def do_put(self, _: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        fields = json.loads(descriptor.command)["result"]
        task = self._task(fields)
        batches, marker = [], None
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                break
            if chunk.data is not None:
                batches.append(chunk.data)
            if chunk.app_metadata is not None:
                marker = json.loads(chunk.app_metadata.to_pybytes())
        time.sleep(self.put_pause_s)
        if self._fires("put_unavailable"):
            raise flight.FlightUnavailableError("not now")
        table = pa.Table.from_batches(batches, reader.schema)
        if marker != {"commit": True, "rows": table.num_rows}:
            raise flight.FlightServerError(f"no commit marker but {marker}")
        with self.lock:
            self._task(fields)
            task.results[fields["attempt"]] = table
        if self._fires("put_answer_lost"):
            raise flight.FlightUnavailableError("the answer is lost")
        writer.write(pa.py_buffer(b"{}"))


def _says_something(response: pb.SyncResponse) -> bool:
    return bool(response.assign or response.stop or response.recorded)


class _KeyFactory(flight.ServerMiddlewareFactory):
    def __init__(self, key: str) -> None:
        self._key = key

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:  # noqa: ARG002
        if headers.get("authorization") != [f"Bearer {self._key}"]:
            raise flight.FlightUnauthenticatedError("the API key is not known")


def _http_server(owner: WorkerServer, port: int) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"version": "0", "lake_id": "l", "flight": f"127.0.0.1:{owner.port}"})
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
