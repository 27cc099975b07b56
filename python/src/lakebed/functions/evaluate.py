"""Rows of a task through a function: every row ends with its values or with its own error.

```text
  rows ──► nulls where none may be: an error, without a call
       ──► a call of as many rows as take about a second
             ├─ values, and errors of single rows
             ├─ a batch raised ──► its halves, down to the row that raises
             └─ the process is gone ──► the row that it was at, or halves, in a new process
```

A row is blamed for the end of its process when the call took too long, or when it was the first
that a fresh process had. Otherwise something that earlier rows left behind may be the cause, such
as memory that leaks: then it is tried once more in a fresh process, alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lakebed.functions.definition import Definition, FunctionFailed
from lakebed.functions.environment import Environment
from lakebed.functions.instance import Cancelled, Cause, Died, Instance, Raised
from lakebed.functions.pool import Instances

ROWS_FIRST = 64
ROWS_MAX = 8_192
CALL_BYTES_MAX = 16 << 20
# A call is to take between these, so that ends come soon and little is lost with a process.
CALL_S_LOW = 0.5
CALL_S_HIGH = 1.0
# So many rows may end their process in one task, and one more for so many that did not. A function
# that ends with every row comes to an end itself that way.
KILLS_MAX = 20
ROWS_PER_KILL = 50
NULL_INPUT = "NullInput"
OTHER_ROWS = "rows are not as the protocol has them"


class Sink(Protocol):
    """Where results go. Every row comes once, to one of the two."""

    def take(self, row_ids: pa.Array, results: pa.RecordBatch) -> None:
        """Three columns of errors, and the values. Where there is an error, values mean nothing."""
        ...

    def fail(self, row_ids: pa.Array, error: str, kind: str, stack: str | None) -> None:
        """Rows that have one error in common."""
        ...


class Pace:
    """How many rows a call gets: few at first, then what takes about a second."""

    def __init__(self) -> None:
        self.rows = ROWS_FIRST

    def take(self, batch: pa.RecordBatch, start: int) -> int:
        """How many rows from `start` on are one call: within bytes as well, and at least one."""
        rows: int = min(self.rows, batch.num_rows - start)
        while rows > 1 and batch.slice(start, rows).nbytes > CALL_BYTES_MAX:
            rows //= 2
        return rows

    def note(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        if seconds > CALL_S_HIGH:
            self.rows = max(1, int(rows * CALL_S_LOW / seconds))
        elif seconds < CALL_S_LOW and rows >= self.rows:
            self.rows = min(ROWS_MAX, 2 * rows)

    def shrink(self, rows: int) -> None:
        """A call of so many rows was too much."""
        self.rows = max(1, min(self.rows, rows // 2))


@dataclass(frozen=True)
class _Piece:
    row_ids: pa.Array
    arguments: pa.RecordBatch
    # Alone, in a fresh process, because it was there when the last one ended.
    is_trial: bool = False

    @property
    def rows(self) -> int:
        return len(self.row_ids)

    def part(self, start: int, stop: int, *, is_trial: bool = False) -> "_Piece":
        count = stop - start
        return _Piece(
            self.row_ids.slice(start, count), self.arguments.slice(start, count), is_trial
        )

    def halves(self) -> list["_Piece"]:
        """The second half first: pieces are taken from the end."""
        half = self.rows // 2
        return [self.part(half, self.rows), self.part(0, half)]


class Evaluator:
    """Computes the rows of one task. Holds a process between the batches; `close` gives it back."""

    def __init__(
        self,
        instances: Instances,
        definition: Definition,
        environment: Environment,
        is_cancelled: Callable[[], bool],
        sink: Sink,
    ) -> None:
        self._instances = instances
        self._definition = definition
        self._environment = environment
        self._is_cancelled = is_cancelled
        self._sink = sink
        self._pace = Pace()
        self._instance: Instance | None = None
        self._done = 0
        self._kills = 0

    def evaluate(self, batch: pa.RecordBatch) -> None:
        """Computes all rows of a batch: `_rowid`, and a column for each parameter.

        Raises:
            FunctionFailed: the batch has other columns, or the function cannot be loaded, or ends
                its process too often.
            Cancelled: nobody wants the result any more.
        """
        row_ids, arguments = split(batch, self._definition)
        row_ids, arguments = self._without_nulls(row_ids, arguments)
        start = 0
        while start < len(row_ids):
            rows = self._pace.take(arguments, start)
            piece = _Piece(row_ids.slice(start, rows), arguments.slice(start, rows))
            self._compute(piece)
            start += rows

    def close(self) -> None:
        """Gives the process back."""
        instance, self._instance = self._instance, None
        if instance is not None:
            self._instances.release(instance)

    def _without_nulls(
        self, row_ids: pa.Array, arguments: pa.RecordBatch
    ) -> tuple[pa.Array, pa.RecordBatch]:
        """Rows with a null that the function does not take have an error, and are not computed."""
        for n, parameter in enumerate(self._definition.inputs):
            column = arguments.column(n)
            if parameter.nullable or not column.null_count:
                continue
            text = f"parameter `{parameter.name}` is null, and its function does not take null"
            self._sink.fail(row_ids.filter(column.is_null()), text, NULL_INPUT, None)
            valid = column.is_valid()
            row_ids, arguments = row_ids.filter(valid), arguments.filter(valid)
        return row_ids, arguments

    def _compute(self, piece: _Piece) -> None:
        todo = [piece]
        while todo:
            if self._is_cancelled():
                raise Cancelled
            todo += self._call(todo.pop())

    def _call(self, piece: _Piece) -> list[_Piece]:
        """One call; what is still to be computed of its rows, the next at the end."""
        instance = self._ready(piece)
        is_fresh, taken = instance.calls == 0, 0

        def take(start: int, results: pa.RecordBatch) -> None:
            nonlocal taken
            self._sink.take(piece.row_ids.slice(start, results.num_rows), results)
            taken = start + results.num_rows

        begun = time.monotonic()
        try:
            instance.call(piece.arguments, self._is_cancelled, take)
        except Raised as raised:
            if piece.rows > 1:
                return piece.halves()
            self._sink.fail(piece.row_ids, str(raised), raised.kind, raised.stack)
            self._done += 1
            return []
        except Died as died:
            self._let_go()
            if self._is_cancelled() or instance.was_interrupted:
                raise Cancelled from None
            return self._after_death(piece, taken, died, is_fresh and taken == 0)
        except Cancelled:
            # It stopped between two rows and is good, or it was killed.
            self.close()
            raise
        finally:
            self._done += taken
        self._pace.note(piece.rows, time.monotonic() - begun)
        if instance.is_spent:
            self.close()
        return []

    def _ready(self, piece: _Piece) -> Instance:
        if piece.is_trial and self._instance is not None and self._instance.calls:
            self.close()
        if self._instance is None:
            self._instance = self._instances.acquire(
                self._definition, self._environment, self._is_cancelled, fresh=piece.is_trial
            )
        return self._instance

    def _let_go(self) -> None:
        """Of a process that is dead."""
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.kill()
            self._instances.release(instance)

    def _after_death(self, piece: _Piece, taken: int, died: Died, was_fresh: bool) -> list[_Piece]:
        left = piece.part(taken, piece.rows, is_trial=piece.is_trial)
        row = None if died.row is None else died.row - taken
        if row is None or not 0 <= row < left.rows:
            if left.rows > 1:
                self._pace.shrink(left.rows)
                return left.halves()
            row = 0
        others = [left.part(row + 1, left.rows), left.part(0, row)]
        bad = left.part(row, row + 1, is_trial=True)
        if not piece.is_trial:
            self._kills += 1
            if self._kills > KILLS_MAX + self._done // ROWS_PER_KILL:
                raise FunctionFailed(
                    f"the function's process ended {self._kills} times in {self._done} rows, "
                    f"at last because {died}"
                )
        if died.cause is Cause.TIME or (was_fresh and row == 0):
            self._sink.fail(bad.row_ids, str(died), died.cause.value, died.stack)
            self._done += 1
        else:
            others.append(bad)
        return [each for each in others if each.rows]


def split(batch: pa.RecordBatch, definition: Definition) -> tuple[pa.Array, pa.RecordBatch]:
    """Row ids, and the arguments as the signature has them, in its order.

    Raises:
        FunctionFailed: the batch has other columns.
    """
    names = batch.schema.names
    wanted = [parameter.name for parameter in definition.inputs]
    # By place first: a parameter may have any name.
    if not names or names[0] != "_rowid" or sorted(names[1:]) != sorted(wanted):
        raise FunctionFailed(f"{OTHER_ROWS}: the columns are {names}, the parameters {wanted}")
    if batch.column(0).type != pa.uint64() or batch.column(0).null_count:
        raise FunctionFailed(f"{OTHER_ROWS}: `_rowid` is not a uint64 in every row")
    schema = definition.input_schema()
    columns = []
    for name, kind in zip(wanted, schema.types, strict=True):
        column = batch.column(1 + names[1:].index(name))
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowException as error:
                raise FunctionFailed(
                    f"{OTHER_ROWS}: `{name}` is {column.type}, its parameter {kind}: {error}"
                ) from error
        columns.append(column)
    # A null in the column of a parameter that takes none is sorted out later.
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    if not columns:
        # Keeps the number of rows, which nothing else would tell.
        return batch.column(0), batch.select([])
    return batch.column(0), pa.RecordBatch.from_arrays(columns, schema=nullable)
