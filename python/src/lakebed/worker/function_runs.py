"""Tasks of functions through their stages: prepare, read, compute, write.

```text
  begin ──► prepare ──► read ──► [bytes of the run] ──► compute ──► results ──► write ──► done
            definition,                                 a lane: one process
            environment                                 of the function at a time
```

As in `pipeline.py` the next tasks are prepared and read, and results written, while functions
compute. A run has a queue of its own: a lane stays with its run, so that runs could starve each
other in a common one. A run may be cancelled at any moment.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lakebed._retry import pause_s
from lakebed.errors import Conflict, Denied, LakebedError
from lakebed.functions import definition as definitions
from lakebed.functions.definition import Definition, FunctionFailed
from lakebed.functions.environment import (
    Environment,
    EnvironmentFailed,
    Environments,
    Interpreter,
)
from lakebed.functions.evaluate import Evaluator
from lakebed.functions.instance import Cancelled, Limits
from lakebed.functions.pool import IDLE_SECONDS, LIVE_MAX, Instances
from lakebed.functions.results import Results
from lakebed.worker.pipeline import RETRY_KINDS, RETRYABLE_KINDS, Outcome, Source, inline
from lakebed.worker.queues import ByteQueue, Closed
from lakebed.worker.stages import Stages
from lakebed.worker.state import Attempt

log = logging.getLogger("lakebed.worker")

T = TypeVar("T")

WRITERS = 2
# Rows of one run that wait to be computed.
INPUT_BYTES_MAX = 32 << 20
ERROR_CHARACTERS_MAX = 4_000
# A definition that nobody used for so long is asked for again.
DEFINITION_SECONDS = 600.0
DEFINITIONS_MAX = 64


class FunctionSource(Source, Protocol):
    """Where functions, rows and results come from and go; see `lakebed.worker.protocol.Server`."""

    def function(self, attempt: Attempt) -> bytes:
        """The definition of the function of an attempt."""
        ...


@dataclass(frozen=True)
class FunctionOptions:
    """How a worker runs functions."""

    # Environments are kept below it.
    cache: Path
    limits: Limits = field(default_factory=Limits)
    interpreters: tuple[Interpreter, ...] = ()
    # What functions with a GPU see as CUDA_VISIBLE_DEVICES; None without a GPU.
    cuda: str | None = None
    idle_seconds: float = IDLE_SECONDS


class _Over(Exception):
    """The run has come to its end already."""


class _Run:
    """One attempt."""

    def __init__(self, attempt: Attempt, name: str, digest: str, *, is_check: bool) -> None:
        self.attempt = attempt
        self.name = name
        self.digest = digest
        self.is_check = is_check
        self.begun_s = time.monotonic()
        # How long its rows were computed, and its results where they are small.
        self.took_ms = 0
        self.inline: bytes | None = None
        self.input: ByteQueue[pa.RecordBatch | None] = ByteQueue(INPUT_BYTES_MAX)
        self.results: Results | None = None
        # Whether it was given to the lanes. Only its reader asks.
        self.is_computed = False
        self._cancelled = threading.Event()
        self._prepared: tuple[Definition, Environment] | None = None
        # Row ids that were read, for a read that has to begin again.
        self._seen: list[pa.Array] = []

    def cancel(self) -> None:
        self._cancelled.set()
        self.input.close()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def pause(self, seconds: float) -> None:
        self._cancelled.wait(seconds)

    @property
    def prepared(self) -> tuple[Definition, Environment]:
        assert self._prepared is not None
        return self._prepared

    def prepare(self, definition: Definition, environment: Environment) -> None:
        self._prepared = definition, environment

    def unseen(self, batch: pa.RecordBatch, *, again: bool) -> pa.RecordBatch:
        """The rows of a batch that did not come before."""
        if again and self._seen:
            seen = pa.concat_arrays(self._seen)
            batch = batch.filter(pc.invert(pc.is_in(batch.column(0), value_set=seen)))
        self._seen.append(batch.column(0))
        return batch


class FunctionRuns:
    """The threads of all stages, and the processes and environments of functions."""

    def __init__(
        self,
        source: FunctionSource,
        outcome: Outcome,
        stages: Stages,
        options: FunctionOptions,
        lanes: int,
    ) -> None:
        self._source = source
        self._outcome = outcome
        self._stages = stages
        self._lanes = lanes
        self._has_gpu = options.cuda is not None
        self._environments = Environments(options.cache, options.interpreters)
        self._instances = Instances(
            options.limits,
            cuda=options.cuda or "",
            idle_seconds=options.idle_seconds,
            live_max=max(LIVE_MAX, lanes),
        )
        # The memory of a GPU is not shared: one function has it at a time.
        self._gpu = threading.Lock()
        self._definitions: OrderedDict[str, tuple[float, Definition]] = OrderedDict()
        self._definitions_lock = threading.Lock()
        self._begun: ByteQueue[_Run] = ByteQueue(1)
        self._todo: ByteQueue[_Run] = ByteQueue(1)
        self._ready: ByteQueue[_Run] = ByteQueue(1)
        self._computed: ByteQueue[_Run] = ByteQueue(1)
        self._runs: dict[Attempt, _Run] = {}
        self._lock = threading.Lock()
        # A run that is computed and not read to its end holds a reader: with one more than lanes,
        # somebody always reads ahead.
        loops: list[tuple[str, ByteQueue[_Run], Callable[[_Run], None], int]] = [
            # Building an environment may take minutes, and must not keep others waiting.
            ("prepare", self._begun, self._prepare, lanes),
            ("read", self._todo, self._read, lanes + 1),
            ("compute", self._ready, self._compute, lanes),
            ("write", self._computed, self._write, WRITERS),
        ]
        self._threads = [
            threading.Thread(
                target=self._loop, args=(queue, step), name=f"function-{name}-{n}", daemon=True
            )
            for name, queue, step, count in loops
            for n in range(count)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all runs, the threads, and every process of a function."""
        with self._lock:
            for run in self._runs.values():
                run.cancel()
            self._runs.clear()
        for queue in (self._begun, self._todo, self._ready, self._computed):
            queue.close()
        self._environments.stop()
        self._instances.stop()

    def begin(self, attempt: Attempt, name: str, digest: str) -> None:
        """Takes on a task of rows."""
        self._take_on(_Run(attempt, name, digest, is_check=False))

    def check(self, attempt: Attempt, name: str, digest: str) -> None:
        """Takes on making the environment of a function and loading it."""
        self._take_on(_Run(attempt, name, digest, is_check=True))

    def drop(self, attempt: Attempt) -> None:
        """Stops working on a task; what was computed is thrown away."""
        with self._lock:
            run = self._runs.pop(attempt, None)
        if run is not None:
            run.cancel()

    def _lanes_now(self, threads: int) -> int:
        """Threads of a stage that can work now: a task has one of each."""
        with self._lock:
            return max(1, min(threads, len(self._runs)))

    def _take_on(self, run: _Run) -> None:
        with self._lock:
            self._runs[run.attempt] = run
        self._begun.put(run)

    def _loop(self, queue: ByteQueue[_Run], step: Callable[[_Run], None]) -> None:
        while True:
            try:
                run = queue.get()
            except Closed:
                return
            try:
                if not run.is_cancelled():
                    step(run)
            except (_Over, Cancelled, Closed):
                # Of the run, or of all of them: then the next look at the queue says so.
                pass
            except FunctionFailed as error:
                self._fail(run, str(error), retryable=error.retryable)
            except Exception as error:
                # Of this worker, not of the function's author.
                log.exception("%s: failed", run.attempt)
                text = f"the worker failed: {type(error).__name__}: {error}"
                self._fail(run, text, retryable=True)

    # ---- stages -------------------------------------------------------------------------------

    def _prepare(self, run: _Run) -> None:
        definition = self._definition(run)
        if definition.gpu and not self._has_gpu:
            raise FunctionFailed("the function needs a GPU; this worker has none", retryable=True)
        try:
            environment = self._environments.get(definition)
        except EnvironmentFailed as error:
            raise FunctionFailed(str(error), retryable=not run.is_check) from error
        if run.is_check:
            with self._device(definition):
                self._instances.check(definition, environment, run.is_cancelled)
            self._done(run, "checked")
            return
        run.prepare(definition, environment)
        run.results = Results(definition)
        self._todo.put(run)

    def _definition(self, run: _Run) -> Definition:
        """Asked for once for a digest, for as long as it is in use; with secrets, which may be
        altered, for each task."""
        with self._definitions_lock:
            now = time.monotonic()
            for digest, (used_s, _) in list(self._definitions.items()):
                if now - used_s > DEFINITION_SECONDS:
                    del self._definitions[digest]
            found = self._definitions.get(run.digest)
            if found is not None:
                definition = found[1]
            else:
                body = self._patiently(
                    run, "function", lambda _: self._source.function(run.attempt)
                )
                definition = definitions.parse(body, run.digest)
            if definition.secrets:
                return definition
            self._definitions[run.digest] = (now, definition)
            self._definitions.move_to_end(run.digest)
            while len(self._definitions) > DEFINITIONS_MAX:
                self._definitions.popitem(last=False)
            return definition

    def _read(self, run: _Run) -> None:
        self._patiently(run, "read", lambda tries: self._read_once(run, tries))
        run.input.put(None)
        self._begin_to_compute(run)

    def _read_once(self, run: _Run, tries: int) -> None:
        batches = self._source.read(run.attempt)
        job = run.attempt.job_id
        while True:
            with self._stages.busy("read", job=job, lanes=self._lanes_now(self._lanes + 1)):
                batch = next(batches, None)
            if batch is None:
                return
            if run.is_cancelled():
                raise _Over
            batch = run.unseen(batch, again=tries > 0)
            self._stages.rows("read", batch.num_rows, job=job)
            if batch.num_rows:
                run.input.put(batch, batch.nbytes)
                self._begin_to_compute(run)

    def _begin_to_compute(self, run: _Run) -> None:
        """Once, as soon as there is something: the rest is read meanwhile."""
        if not run.is_computed:
            run.is_computed = True
            self._ready.put(run)

    def _compute(self, run: _Run) -> None:
        definition, environment = run.prepared
        assert run.results is not None
        begun_s = time.monotonic()
        with self._device(definition):
            evaluator = Evaluator(
                self._instances, definition, environment, run.is_cancelled, run.results
            )
            try:
                job = run.attempt.job_id
                while (batch := run.input.get()) is not None:
                    lanes = self._lanes_now(1 if definition.gpu else self._lanes)
                    with self._stages.busy("compute", batch.num_rows, job=job, lanes=lanes):
                        evaluator.evaluate(batch)
            finally:
                evaluator.close()
        run.results.finish()
        run.took_ms = max(1, round((time.monotonic() - begun_s) * 1_000))
        self._computed.put(run)

    def _write(self, run: _Run) -> None:
        results = run.results
        assert results is not None

        def put(_: int) -> None:
            job, lanes = run.attempt.job_id, self._lanes_now(WRITERS)
            bytes_max = self._outcome.result_bytes_max
            with self._stages.busy("write", results.rows, job=job, lanes=lanes):
                if results.nbytes < bytes_max:
                    run.inline = inline(results.schema, results.batches(), bytes_max)
                if run.inline is None:
                    self._source.put(run.attempt, results.schema, results.batches)

        self._patiently(run, "write", put)
        passed = time.monotonic() - run.begun_s
        self._done(run, f"{results.rows} rows, {results.errors} with an error, in {passed:.2f} s")

    def _device(self, definition: Definition) -> AbstractContextManager[object]:
        return self._gpu if definition.gpu else nullcontext()

    # ---- how runs end -------------------------------------------------------------------------

    def _patiently(self, run: _Run, what: str, call: Callable[[int], T]) -> T:
        """What `call` gives, which gets the number of tries before. Tried again while the attempt
        is held and the server cannot be reached.

        Raises:
            _Over: the run has ended, or it is somebody else's.
        """
        tries = 0
        while not run.is_cancelled():
            try:
                return call(tries)
            except LakebedError as error:
                if run.is_cancelled() or not self._outcome.holds(run.attempt):
                    break
                if isinstance(error, (Conflict, Denied)):
                    log.info("%s: is somebody else's: %s", run.attempt, error)
                    self.drop(run.attempt)
                    self._outcome.dropped(run.attempt)
                elif error.kind in RETRY_KINDS:
                    log.warning("%s: %s again after: %s", run.attempt, what, error)
                    run.pause(pause_s(min(tries, 6), error))
                    tries += 1
                else:
                    retryable = error.kind in RETRYABLE_KINDS
                    self._fail(run, f"{what}: {error}", retryable=retryable)
        self.drop(run.attempt)
        raise _Over

    def _done(self, run: _Run, what: str) -> None:
        with self._lock:
            self._runs.pop(run.attempt, None)
        log.info("%s of %s: %s", run.attempt, run.name, what)
        self._outcome.done(run.attempt, took_ms=run.took_ms, results=run.inline)

    def _fail(self, run: _Run, error: str, *, retryable: bool) -> None:
        was_wanted = not run.is_cancelled()
        self.drop(run.attempt)
        run.cancel()
        if was_wanted:
            log.error("%s of %s: failed: %s", run.attempt, run.name, error)
            self._outcome.failed(run.attempt, error[:ERROR_CHARACTERS_MAX], retryable=retryable)
