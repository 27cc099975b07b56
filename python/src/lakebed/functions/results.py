"""The results of a task until the server has them: in memory, and beyond a bound in a file.

They are kept because handing them in may have to be done again, and computing them again would cost
far more.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakebed.functions.definition import Definition, FunctionFailed
from lakebed.functions.runner_function import ERRORS

MEMORY_BYTES_MAX = 32 << 20
BYTES_MAX = 4 << 30
# One message of the stream, unless a single row has more.
MESSAGE_BYTES = 8 << 20
MESSAGE_ROWS = 8_192
# Of the rows of a task that failed: a function that always raises would send nothing else.
TRACEBACKS_MAX = 256


class Results:
    """The sink of one task. Not for several threads at once."""

    def __init__(self, definition: Definition) -> None:
        errors = [pa.field(name, pa.string()) for name in ERRORS]
        values = list(definition.output_schema())
        self.schema = pa.schema([pa.field("_rowid", pa.uint64(), False), *errors, *values])
        self.rows = 0
        self.errors = 0
        self._bytes = 0
        self._file: Any = tempfile.SpooledTemporaryFile(MEMORY_BYTES_MAX)  # noqa: SIM115
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, mode="w"), self.schema)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it in memory."""
        return self._bytes

    def take(self, row_ids: pa.Array, results: pa.RecordBatch) -> None:
        """Rows with three columns of errors, and the values."""
        failed = pc.is_valid(results.column(0))
        if not pc.any(failed).as_py():
            self._write(row_ids, results.columns)
            return
        good = pc.invert(failed)
        found = results.filter(good)
        if found.num_rows:
            self._write(row_ids.filter(good), found.columns)
        ids = row_ids.filter(failed)
        texts = [column.filter(failed) for column in results.columns[: len(ERRORS)]]
        self._write_errors(ids, texts)

    def fail(self, row_ids: pa.Array, error: str, kind: str, stack: str | None) -> None:
        """Rows with one error."""
        rows = len(row_ids)
        texts = [pa.array([text] * rows, pa.string()) for text in (error, kind, stack)]
        self._write_errors(row_ids, texts)

    def finish(self) -> None:
        """Nothing comes any more."""
        self._writer.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All of it, as often as is asked for, once it is finished."""
        self._file.seek(0)
        with pa.ipc.open_stream(pa.PythonFile(self._file, mode="r")) as reader:
            yield from reader

    def _write_errors(self, row_ids: pa.Array, texts: list[pa.Array]) -> None:
        rows = len(row_ids)
        *others, stacks = texts
        room = max(0, min(rows, TRACEBACKS_MAX - self.errors))
        if room < rows:
            stacks = pa.concat_arrays([stacks.slice(0, room), pa.nulls(rows - room, pa.string())])
        self._write(row_ids, [*others, stacks, *self._nothing(rows)])
        self.errors += rows

    def _nothing(self, rows: int) -> list[pa.Array]:
        return [pa.nulls(rows, field.type) for field in list(self.schema)[1 + len(ERRORS) :]]

    def _write(self, row_ids: pa.Array, columns: list[pa.Array]) -> None:
        batch = pa.RecordBatch.from_arrays([row_ids, *columns], schema=self.schema)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes > BYTES_MAX:
            most = BYTES_MAX >> 30
            raise FunctionFailed(f"the results of one task take more than {most} GiB")
        for piece in _pieces(batch):
            self._writer.write_batch(piece)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = batch.num_rows
    if rows > MESSAGE_ROWS or (rows > 1 and batch.nbytes > MESSAGE_BYTES):
        half = rows // 2
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))
    else:
        yield batch
