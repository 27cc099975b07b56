"""The worker as a whole: what it tells the server, what the server tells it, and its end.

Two threads sync. `poll` waits at the server for something to say, so that assignments and queries
come at once. `beat` speaks when something has ended here, and at least as often as the server asks.
Either may be late or lost: the next one says what is true then.
"""

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lakebed._retry import pause_s
from lakebed.errors import LakebedError, Unavailable
from lakebed.models.model import Input, Model, RowError
from lakebed.worker.pipeline import Pipeline
from lakebed.worker.protocol import Server, is_fatal
from lakebed.worker.queues import Closed
from lakebed.worker.stages import Stages
from lakebed.worker.state import Attempt, Holdings
from lakebed.worker.v1 import worker_pb2 as pb

if TYPE_CHECKING:
    from lakebed.worker.function_runs import FunctionOptions, FunctionRuns
    from lakebed.worker.registered_models import ModelOptions, RegisteredModels
    from lakebed.worker.resources import Offered

log = logging.getLogger("lakebed.worker")

POLL_MS = 10_000
SYNC_MS_DEFAULT = 2_000
LEAVE_S_MAX = 10.0
WAKE_S = 0.1
LAST_BEAT_S_MAX = 2.0
QUERY_THREADS = 2
# A job of which nothing is held and nothing came for so long is over for this worker.
JOB_QUIET_S = 1.0
# Processes of functions that are idle may close.
FUNCTIONS_STOP_S_MAX = 6.0
# Between two polls that were answered at once, so that a confused server is not flooded.
POLL_PAUSE_S = 0.02
INPUTS = {Input.TEXT: pb.INPUT_TEXT, Input.PICTURE: pb.INPUT_PICTURE}


class Refused(Exception):
    """The server will not have this worker; the message says why."""


class Agent:
    """One worker process attached to one server."""

    def __init__(
        self,
        server: Server,
        models: Mapping[str, Model],
        *,
        name: str,
        slots: int,
        decoders: int,
        device: str = "cpu",
        labels: Mapping[str, str] | None = None,
        resources: "Offered | None" = None,
        functions: "FunctionOptions | None" = None,
        registered: "ModelOptions | None" = None,
        lanes: int = 1,
    ) -> None:
        """
        Args:
            device: what it says it runs on where it has no model.
            labels: what jobs may ask for.
            resources: what tasks may take of it; nothing without it.
            functions: how it runs functions; None where it runs models only.
            registered: how it runs registered models; None where it runs its own only.
            lanes: threads that compute, where it has no model that says how many.
        """
        self._server = server
        self._models = dict(models)
        self._name = name
        self._instance = uuid.uuid4().hex
        self._slots = slots
        self._device = next((model.device for model in models.values()), device)
        self._labels = dict(labels or {})
        self._resources = resources
        self._stages = Stages()
        self._held = Holdings()
        lanes = max((model.lanes for model in models.values()), default=lanes)
        self._pipeline = Pipeline(server, self, self._stages, decoders, lanes)
        self._interpreters: list[pb.Interpreter] = []
        self._functions: FunctionRuns | None = None
        if functions is not None:
            # Late, because it needs what not every system has.
            from lakebed.worker import function_runs

            self._interpreters = [
                pb.Interpreter(python_version=each.version, gpu=functions.cuda is not None)
                for each in functions.interpreters
            ]
            self._functions = function_runs.FunctionRuns(
                server, self, self._stages, functions, lanes=slots
            )
        self._runners: list[str] = []
        self._registered: RegisteredModels | None = None
        if registered is not None:
            from lakebed.worker import registered_models

            self._runners = [registered_models.RUNNER]
            self._registered = registered_models.RegisteredModels(server, self, registered)
        self._queries = ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="query")
        self._something_ended = threading.Event()
        self._stop = threading.Event()
        self._refusal: str | None = None
        self._sync_ms = SYNC_MS_DEFAULT
        self._result_bytes_max = 0

    # ---- life ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until `stop` is called.

        Raises:
            Refused: the key is wrong, or the server does not speak the protocol.
        """
        self._pipeline.start()
        if self._functions is not None:
            self._functions.start()
        beat = threading.Thread(target=self._beat, name="beat", daemon=True)
        poll = threading.Thread(target=self._poll, name="poll", daemon=True)
        beat.start()
        poll.start()
        # A signal that the system gave to another thread is handled here when this one wakes; and
        # its handler must not find the event's lock held by the thread that it interrupts.
        while not self._stop.is_set():
            time.sleep(WAKE_S)
            self._report_jobs(JOB_QUIET_S)
        if self._refusal is not None:
            raise Refused(self._refusal)
        # What a beat says while it is under way must not arrive after the word that all is given
        # back.
        beat.join(LAST_BEAT_S_MAX)
        self._leave()

    def stop(self) -> None:
        """Ends `run`: what is held is given back. May be called from a signal handler."""
        self._stop.set()
        self._something_ended.set()

    def _report_jobs(self, quiet_s: float) -> None:
        """Says where the time of jobs went that are over for this worker."""
        held = {attempt.job_id for attempt in self._held.running} if quiet_s else set()
        for job in self._stages.over(held, quiet_s):
            log.info("%s", job.line())

    def _leave(self) -> None:
        self._held.leave()
        if self._registered is not None:
            self._registered.stop()
        self._pipeline.stop()
        self._report_jobs(0)
        if self._functions is not None:
            ending = threading.Thread(target=self._functions.stop, name="functions", daemon=True)
            ending.start()
            try:
                self._give_back()
            finally:
                ending.join(FUNCTIONS_STOP_S_MAX)
        else:
            self._give_back()

    def _give_back(self) -> None:
        given_back = self._held.running
        deadline = time.monotonic() + LEAVE_S_MAX
        failures = 0
        while time.monotonic() < deadline:
            try:
                self._sync(0)
            except LakebedError as error:
                log.warning("leave: %s", error)
                time.sleep(pause_s(failures, error))
                failures += 1
                continue
            if self._held.unrecorded == 0:
                log.info("left; %d tasks were given back", len(given_back))
                return
            time.sleep(0.1)
        # The leases run out by themselves.
        log.warning("left without the server's word")

    # ---- sync ---------------------------------------------------------------------------------

    def _request(self, wait_ms: int) -> pb.SyncRequest:
        request = pb.SyncRequest(
            worker=self._name,
            instance=self._instance,
            slots=self._slots,
            device=self._device,
            wait_ms=wait_ms,
            interpreters=self._interpreters,
            runners=self._runners,
        )
        for label, value in self._labels.items():
            request.labels.append(pb.Label(name=label, value=value))
        if self._resources is not None:
            request.resources.CopyFrom(self._resources.message())
            request.gpus.extend(self._resources.gpus_in_use())
        for model in self._models.values():
            request.models.append(
                pb.Model(
                    name=model.name,
                    digest=model.digest,
                    dimensions=model.dimensions,
                    input=INPUTS[model.input],
                )
            )
        for stage, (busy_ms, rows) in self._stages.read().items():
            request.stages.append(pb.StageTime(stage=stage, busy_ms=busy_ms, rows=rows))
        self._held.fill(request)
        return request

    def _sync(self, wait_ms: int) -> bool:
        """One Sync; whether its answer brought something."""
        response = self._server.sync(self._request(wait_ms))
        if response.sync_ms:
            self._sync_ms = response.sync_ms
            self._result_bytes_max = response.result_bytes_max
        change = self._held.apply(response)
        for attempt in change.drop:
            log.info("%s: dropped", attempt)
            self._pipeline.drop(attempt)
            if self._functions is not None:
                self._functions.drop(attempt)
        for assignment in change.begin:
            self._begin(assignment)
        return bool(change.begin or change.drop or response.recorded)

    def _poll(self) -> None:
        self._keep_syncing(POLL_MS)

    def _beat(self) -> None:
        self._keep_syncing(0)

    def _keep_syncing(self, wait_ms: int) -> None:
        failures = 0
        while not self._stop.is_set():
            if wait_ms == 0:
                self._something_ended.wait(self._sync_ms / 1_000)
                self._something_ended.clear()
                if self._stop.is_set():
                    return
            begun = time.monotonic()
            try:
                news = self._sync(wait_ms)
                if failures:
                    log.info("the server at %s answers again", self._server.url)
                failures = 0
                if wait_ms and not news and time.monotonic() - begun < POLL_PAUSE_S:
                    self._stop.wait(POLL_PAUSE_S)
            except Closed:
                # Work came while the pipeline was stopped.
                return
            except LakebedError as error:
                if self._stop.is_set():
                    return
                if is_fatal(error):
                    self._refusal = str(error)
                    self.stop()
                    return
                failures += 1
                # A beat and a poll fail together; one line is enough.
                if wait_ms:
                    log.warning("sync with %s: %s", self._server.url, error)
                if isinstance(error, Unavailable):
                    self._server.look_again()
                self._stop.wait(pause_s(min(failures - 1, 4), error))
                if wait_ms == 0:
                    self._something_ended.set()

    # ---- work ---------------------------------------------------------------------------------

    def _begin(self, assignment: pb.Assignment) -> None:
        attempt = Attempt.of(assignment.attempt)
        if assignment.HasField("function"):
            self._begin_function(attempt, assignment)
            return
        if assignment.registered:
            self._begin_registered(attempt, assignment)
            return
        model = self._models.get(assignment.model)
        if model is None or (assignment.digest and model.digest != assignment.digest):
            has = "does not have" if model is None else f"has {model.digest} of"
            text = f"worker {self._name} {has} model {assignment.model} {assignment.digest}"
            self.failed(attempt, text, retryable=True)
        else:
            self._begin_model(attempt, model, assignment)

    def _begin_registered(self, attempt: Attempt, assignment: pb.Assignment) -> None:
        if self._registered is None:
            text = f"worker {self._name} runs no registered models"
            self.failed(attempt, text, retryable=True)
            return

        def go_on(model: Model) -> None:
            # It may have been dropped while its model was fetched.
            if self._held.holds(attempt):
                self._begin_model(attempt, model, assignment)

        self._registered.with_model(attempt, assignment.digest, go_on)

    def _begin_model(self, attempt: Attempt, model: Model, assignment: pb.Assignment) -> None:
        if assignment.WhichOneof("work") == "query":
            self._queries.submit(self._answer, attempt, model, assignment.query)
        elif assignment.WhichOneof("work") == "rows":
            log.info(
                "%s: begun, %d rows of %s", attempt, assignment.rows.rows, assignment.rows.table
            )
            self._pipeline.begin(attempt, model, assignment.rows.rows)
        else:
            self.failed(attempt, "the assignment's work is of an unknown kind", retryable=False)

    def _begin_function(self, attempt: Attempt, assignment: pb.Assignment) -> None:
        name, digest = assignment.function.name, assignment.function.digest
        work = assignment.WhichOneof("work")
        if self._functions is None:
            self.failed(attempt, f"worker {self._name} runs no functions", retryable=True)
        elif work == "rows":
            log.info("%s: begun, %d rows for %s", attempt, assignment.rows.rows, name)
            self._functions.begin(attempt, name, digest)
        elif work == "check":
            log.info("%s: begun, a check of %s", attempt, name)
            self._functions.check(attempt, name, digest)
        else:
            self.failed(attempt, "the assignment's work is of an unknown kind", retryable=False)

    def _answer(self, attempt: Attempt, model: Model, query: pb.QueryTask) -> None:
        """Computes the vector of a search. Not queued behind rows: somebody waits for it."""
        kind = query.WhichOneof("input")
        try:
            fits = {"text": Input.TEXT, "picture": Input.PICTURE}.get(kind or "")
            if fits is not model.input:
                raise RowError(f"model {model.name} reads {model.input.value}, not {kind}")
            [row] = model.prepare([query.text if kind == "text" else query.picture])
            if isinstance(row, RowError):
                raise row
            found = self._pipeline.batches.compute(model, [row])
            for error in found.errors.values():
                raise error
            vector = found.vectors[0]
        except RowError as error:
            self.failed(attempt, str(error), retryable=False)
        except Exception as error:
            log.exception("%s: the query failed", attempt)
            self.failed(attempt, f"model failed: {type(error).__name__}: {error}", retryable=True)
        else:
            if self._held.done(attempt, vector.tolist()):
                self._something_ended.set()

    # ---- how attempts end ---------------------------------------------------------------------

    @property
    def result_bytes_max(self) -> int:
        """Bytes of the results of one task that may go with a report, as the server says."""
        return self._result_bytes_max

    def holds(self, attempt: Attempt) -> bool:
        """Whether the attempt is still wanted."""
        return self._held.holds(attempt)

    def done(self, attempt: Attempt, *, took_ms: int = 0, results: bytes | None = None) -> None:
        """Results of an attempt are durable, or go with the next report."""
        if self._held.done(attempt, took_ms=took_ms, results=results):
            self._something_ended.set()

    def failed(self, attempt: Attempt, error: str, *, retryable: bool) -> None:
        """The whole attempt failed."""
        if self._held.failed(attempt, error, retryable=retryable):
            self._something_ended.set()

    def dropped(self, attempt: Attempt) -> None:
        """It is somebody else's."""
        self._held.drop(attempt)
        self._something_ended.set()
