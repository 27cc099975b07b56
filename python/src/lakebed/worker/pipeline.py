"""Rows through the stages: read, decode, compute, write.

Each stage has threads of its own and a queue before it that is bounded by bytes, so the next tasks
are read and decoded while the model computes, and memory stays bounded whatever the rows are. A run
is one try at one attempt. It may be cancelled at any moment; what belongs to it is passed over
wherever it is.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakebed._retry import pause_s
from lakebed.errors import Conflict, Denied, LakebedError
from lakebed.models.model import Model, Prepared, RowError
from lakebed.worker.batches import Batches
from lakebed.worker.pool import Pool
from lakebed.worker.queues import ByteQueue, Closed
from lakebed.worker.stages import Stages
from lakebed.worker.state import Attempt

log = logging.getLogger("lakebed.worker")

READERS = 2
WRITERS = 2
# Encoded cells that wait to be decoded, and decoded ones that wait to be computed.
ENCODED_BYTES_MAX = 64 << 20
DECODED_BYTES_MAX = 128 << 20
# Rows and bytes that are decoded as one piece.
PIECE_ROWS = 64
PIECE_BYTES = 8 << 20
RESULT_BYTES_MAX = 1 << 30
RESULT_ROWS = 1_024
ERROR_CHARACTERS_MAX = 1_000
# How often reading or writing is tried again while the attempt is held; Sync says when it is not.
RETRY_KINDS = {"unavailable", "deadline_exceeded", "busy", "cancelled"}
# What another attempt may find otherwise.
RETRYABLE_KINDS = RETRY_KINDS | {"internal", "conflict"}


class Source(Protocol):
    """Where rows come from and results go; see `lakebed.worker.protocol.Server`."""

    def read(self, attempt: Attempt) -> Iterator[pa.RecordBatch]:
        """The rows of a task."""
        ...

    def put(
        self,
        attempt: Attempt,
        schema: pa.Schema,
        batches: Callable[[], Iterator[pa.RecordBatch]],
    ) -> None:
        """Hands in results."""
        ...


class Outcome(Protocol):
    """Who is told how attempts end; see `lakebed.worker.agent.Agent`."""

    @property
    def result_bytes_max(self) -> int:
        """Bytes of the results of one task that may be given to `done`."""
        ...

    def holds(self, attempt: Attempt) -> bool:
        """Whether the attempt is still wanted."""
        ...

    def done(self, attempt: Attempt, *, took_ms: int = 0, results: bytes | None = None) -> None:
        """Results are durable, or they are given here as an Arrow stream."""
        ...

    def failed(self, attempt: Attempt, error: str, *, retryable: bool) -> None:
        """The whole attempt failed."""
        ...

    def dropped(self, attempt: Attempt) -> None:
        """It is somebody else's."""
        ...


class Run:
    """One try at one attempt: what is on its way, and what is ready."""

    def __init__(self, attempt: Attempt, model: Model, rows: int, tries: int = 0) -> None:
        self.attempt = attempt
        self.model = model
        self.rows = rows
        self.tries = tries
        self.begun_s = time.monotonic()
        # When the model began with the first of its rows, and ended with the last so far.
        self._computed_s: tuple[float, float] | None = None
        self._is_cancelled = False
        self.lock = threading.Lock()
        # Rows that were read and have no result yet, the reader's own share among them until its
        # end.
        self._open = 1
        # Pieces that are read and not decoded yet; the reader counts as one.
        self._decoding = 1
        self._row_ids: list[npt.NDArray[np.uint64]] = []
        self._values: list[npt.NDArray[np.float32]] = []
        self._bare: list[tuple[int, str | None]] = []

    def cancel(self) -> None:
        """What is on its way is passed over from now on."""
        self._is_cancelled = True

    def is_cancelled(self) -> bool:
        """Whether nobody wants the results any more."""
        return self._is_cancelled

    def begin_piece(self, rows: int, *, decodes: bool) -> None:
        """Rows were read, and wait to be decoded where they have input."""
        with self.lock:
            self._open += rows
            self._decoding += decodes

    def end_piece(self) -> bool:
        """A piece is decoded, or reading has ended; whether nothing more will come to be
        computed."""
        with self.lock:
            self._decoding -= 1
            return self._decoding == 0

    def add_vectors(self, row_ids: Sequence[int], vectors: npt.NDArray[np.float32]) -> bool:
        """Vectors of rows; whether this was the last."""
        with self.lock:
            self._row_ids.append(np.array(row_ids, np.uint64))
            self._values.append(vectors)
            return self._less(len(row_ids))

    def computed(self, begun_s: float) -> None:
        """The model was at work on its rows since then."""
        with self.lock:
            first = begun_s if self._computed_s is None else min(self._computed_s[0], begun_s)
            self._computed_s = (first, time.monotonic())

    @property
    def took_ms(self) -> int:
        """How long its rows were computed; 0 where none were."""
        if self._computed_s is None:
            return 0
        return max(1, round((self._computed_s[1] - self._computed_s[0]) * 1_000))

    def add_bare(self, rows: Sequence[tuple[int, str | None]]) -> bool:
        """Rows without a vector, with the error or None for rows without input; whether they were
        the last."""
        with self.lock:
            self._bare += rows
            return self._less(len(rows))

    def end_reading(self) -> bool:
        """All rows are read; whether all have their result too."""
        with self.lock:
            return self._less(1)

    def _less(self, rows: int) -> bool:
        self._open -= rows
        assert self._open >= 0, "a row has two results"
        return self._open == 0

    @property
    def errors(self) -> int:
        """Rows that have an error."""
        return sum(error is not None for _, error in self._bare)

    @property
    def rows_read(self) -> int:
        """Rows that have their result."""
        return sum(map(len, self._row_ids)) + len(self._bare)

    def schema(self) -> pa.Schema:
        """The schema of results, as the protocol has it."""
        return pa.schema(
            [
                pa.field("_rowid", pa.uint64(), nullable=False),
                pa.field("value", pa.list_(pa.float32(), self.model.dimensions)),
                pa.field("error", pa.string()),
            ]
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The results, in batches that fit into messages."""
        schema, width = self.schema(), self.model.dimensions
        for row_ids, values in zip(self._row_ids, self._values, strict=True):
            for start in range(0, len(row_ids), RESULT_ROWS):
                part = np.ascontiguousarray(values[start : start + RESULT_ROWS], np.float32)
                ids = pa.array(row_ids[start : start + RESULT_ROWS])
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), width)
                errors = pa.nulls(len(part), pa.string())
                yield pa.RecordBatch.from_arrays([ids, vectors, errors], schema=schema)
        for start in range(0, len(self._bare), RESULT_ROWS):
            some = self._bare[start : start + RESULT_ROWS]
            ids = pa.array([row_id for row_id, _ in some], pa.uint64())
            vectors = pa.nulls(len(some), schema.field("value").type)
            errors = pa.array([error for _, error in some], pa.string())
            yield pa.RecordBatch.from_arrays([ids, vectors, errors], schema=schema)


@dataclass
class _Piece:
    """Encoded cells of one run."""

    run: Run
    row_ids: list[int]
    cells: list[str | bytes]


class Pipeline:
    """The threads of all stages and the queues between them.

    Attributes:
        batches: computes what fits into memory at once.
    """

    def __init__(
        self, source: Source, outcome: Outcome, stages: Stages, decoders: int, lanes: int
    ) -> None:
        self._source = source
        self._outcome = outcome
        self._stages = stages
        self._todo: ByteQueue[Run] = ByteQueue(1)
        self._encoded: ByteQueue[_Piece] = ByteQueue(ENCODED_BYTES_MAX)
        self._pool: Pool[Run] = Pool(DECODED_BYTES_MAX, lanes)
        self.batches = Batches()
        self._decoders = decoders
        self._computers = lanes
        self._results: ByteQueue[Run] = ByteQueue(1)
        self._runs: dict[Attempt, Run] = {}
        self._lock = threading.Lock()
        loops: list[tuple[str, Callable[[], None], int]] = [
            ("read", self._read, READERS),
            ("decode", self._decode, decoders),
            ("compute", self._compute, lanes),
            ("write", self._write, WRITERS),
        ]
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"{name}-{n}", daemon=True)
            for name, step, count in loops
            for n in range(count)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all runs and the threads. What a thread is in the middle of ends by itself."""
        with self._lock:
            for run in self._runs.values():
                run.cancel()
            self._runs.clear()
        for queue in (self._todo, self._encoded, self._results):
            queue.close()
        self._pool.close()

    def begin(self, attempt: Attempt, model: Model, rows: int) -> None:
        """Takes on a task."""
        if rows * model.dimensions * 4 > RESULT_BYTES_MAX:
            self._outcome.failed(
                attempt, f"task has {rows} rows, too many for one answer", retryable=False
            )
            return
        self._queue(Run(attempt, model, rows))

    def drop(self, attempt: Attempt) -> None:
        """Stops working on a task; what was computed is thrown away."""
        with self._lock:
            run = self._runs.pop(attempt, None)
        if run is not None:
            run.cancel()

    def _lanes(self, threads: int) -> int:
        """Threads of a stage that can work now: a task is read, and written, by one."""
        with self._lock:
            return max(1, min(threads, len(self._runs)))

    def _queue(self, run: Run) -> None:
        with self._lock:
            self._runs[run.attempt] = run
        self._todo.put(run)

    def _loop(self, step: Callable[[], None]) -> None:
        try:
            while True:
                step()
        except Closed:
            return

    # ---- stages -------------------------------------------------------------------------------

    def _read(self) -> None:
        run = self._todo.get()
        if run.is_cancelled():
            return
        job = run.attempt.job_id
        try:
            batches = self._source.read(run.attempt)
            while True:
                with self._stages.busy("read", job=job, lanes=self._lanes(READERS)):
                    batch = next(batches, None)
                if batch is None:
                    break
                if run.is_cancelled():
                    return
                self._stages.rows("read", batch.num_rows, job=job)
                self._split(run, batch)
        except LakebedError as error:
            self._give_up_or_again(run, error, "read")
            return
        except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
            self._fail(run, f"rows are not as the protocol has them: {error}", retryable=False)
            return
        if run.end_piece():
            self._pool.complete(run)
        if run.end_reading():
            self._results.put(run)

    def _split(self, run: Run, batch: pa.RecordBatch) -> None:
        """Cuts a batch into pieces for the decoders; rows without input are ready at once."""
        row_ids = batch.column("_rowid").to_pylist()
        column = batch.column("input")
        kind = column.type
        if not (_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise TypeError(f"column `input` is {kind}; text or bytes are understood")
        start = 0
        while start < len(row_ids):
            stop, nbytes = start, 0
            cells: list[str | bytes] = []
            ids: list[int] = []
            bare: list[tuple[int, str | None]] = []
            while stop < len(row_ids) and stop - start < PIECE_ROWS and nbytes < PIECE_BYTES:
                cell = column[stop].as_py()
                if cell is None:
                    bare.append((row_ids[stop], None))
                else:
                    cells.append(cell)
                    ids.append(row_ids[stop])
                    nbytes += len(cell)
                stop += 1
            start = stop
            run.begin_piece(len(cells) + len(bare), decodes=bool(cells))
            if bare:
                run.add_bare(bare)
            if cells:
                self._encoded.put(_Piece(run, ids, cells), nbytes)

    def _decode(self) -> None:
        piece = self._encoded.get()
        run = piece.run
        if run.is_cancelled():
            return
        job, cells = run.attempt.job_id, len(piece.cells)
        with self._stages.busy("decode", cells, job=job, lanes=self._decoders):
            prepared = _prepare(run.model, piece.cells)
        rows = zip(piece.row_ids, prepared, strict=True)
        good: list[tuple[int, Prepared]] = []
        bad: list[tuple[int, str | None]] = []
        for row_id, row in rows:
            if isinstance(row, RowError):
                bad.append((row_id, str(row)[:ERROR_CHARACTERS_MAX]))
            else:
                good.append((row_id, row))
        if good:
            self._pool.put(run, good)
        if run.end_piece():
            self._pool.complete(run)
        if bad and run.add_bare(bad):
            self._results.put(run)

    def _compute(self) -> None:
        run, rows = self._pool.take()
        if run.is_cancelled():
            return
        begun_s = time.monotonic()
        job = run.attempt.job_id
        try:
            with self._stages.busy("compute", len(rows), job=job, lanes=self._computers):
                found = self.batches.compute(run.model, [row for _, row in rows])
        except Exception as error:
            # Whatever the runtime raises concerns the batch, and with it the task.
            log.exception("%s: the model failed", run.attempt)
            self._fail(run, f"model failed: {type(error).__name__}: {error}", retryable=True)
            return
        run.computed(begun_s)
        is_last = False
        # Nothing is added where there is nothing: whether it was the last is asked once.
        if found.errors:
            is_last = run.add_bare([(rows[at][0], str(it)) for at, it in found.errors.items()])
        if found.places:
            is_last = run.add_vectors([rows[at][0] for at in found.places], found.vectors)
        if is_last:
            self._results.put(run)

    def _write(self) -> None:
        run = self._results.get()
        tries = 0
        bytes_max = self._outcome.result_bytes_max
        while not run.is_cancelled():
            results = None
            try:
                job, lanes = run.attempt.job_id, self._lanes(WRITERS)
                with self._stages.busy("write", run.rows_read, job=job, lanes=lanes):
                    if run.rows_read * run.model.dimensions * 4 < bytes_max:
                        results = inline(run.schema(), run.batches(), bytes_max)
                    if results is None:
                        self._source.put(run.attempt, run.schema(), run.batches)
            except LakebedError as error:
                if error.kind not in RETRY_KINDS:
                    self._give_up_or_again(run, error, "write")
                    return
                log.warning("%s: write again after: %s", run.attempt, error)
                time.sleep(pause_s(tries, error))
                tries += 1
                if not self._outcome.holds(run.attempt):
                    return
                continue
            with self._lock:
                self._runs.pop(run.attempt, None)
            passed = time.monotonic() - run.begun_s
            words = "%s: %d rows, %d with an error, in %.2f s"
            log.info(words, run.attempt, run.rows_read, run.errors, passed)
            self._outcome.done(run.attempt, took_ms=run.took_ms, results=results)
            return

    # ---- what goes wrong ----------------------------------------------------------------------

    def _give_up_or_again(self, run: Run, error: LakebedError, what: str) -> None:
        if run.is_cancelled() or not self._outcome.holds(run.attempt):
            return
        if isinstance(error, (Conflict, Denied)):
            log.info("%s: is somebody else's: %s", run.attempt, error)
            self.drop(run.attempt)
            self._outcome.dropped(run.attempt)
        elif error.kind in RETRY_KINDS:
            run.cancel()
            log.warning("%s: %s again after: %s", run.attempt, what, error)
            time.sleep(pause_s(min(run.tries, 6), error))
            if self._outcome.holds(run.attempt):
                self._queue(Run(run.attempt, run.model, run.rows, run.tries + 1))
        else:
            self._fail(run, f"{what}: {error}", retryable=error.kind in RETRYABLE_KINDS)

    def _fail(self, run: Run, error: str, *, retryable: bool) -> None:
        self.drop(run.attempt)
        run.cancel()
        log.error("%s: failed: %s", run.attempt, error)
        self._outcome.failed(run.attempt, error[:ERROR_CHARACTERS_MAX], retryable=retryable)


def inline(schema: pa.Schema, batches: Iterator[pa.RecordBatch], bytes_max: int) -> bytes | None:
    """Results as an Arrow stream, if they are small enough to travel with a report."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            if sink.tell() > bytes_max:
                return None
    stream: bytes = sink.getvalue().to_pybytes()
    return stream if len(stream) <= bytes_max else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _prepare(model: Model, cells: Sequence[Any]) -> list[Prepared | RowError]:
    """Decodes cells; where a decoder fails in a way nobody foresaw, only its row is lost."""
    try:
        return model.prepare(cells)
    except Exception as error:
        if len(cells) == 1:
            return [RowError(f"cannot be decoded: {type(error).__name__}: {error}")]
        return [row for cell in cells for row in _prepare(model, [cell])]
