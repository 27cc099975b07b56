"""Writes of rows: any shape of data in, one commit out, safe to send again.

Every write has a write id and commits only by its last message. So a generator that raises half way
has written nothing, and a write whose answer was lost is sent again without doubling its rows.
"""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from lakebed._commands import encode, without_none
from lakebed._flight import FlightDoor
from lakebed._retry import SAFE_WITH_WRITE_ID, retried
from lakebed.errors import InvalidArgument, LakebedError

if TYPE_CHECKING:
    import pandas
    import polars

BLOB_KEY = b"lance-encoding:blob"
# Rows of one message, at most; and their bytes, unless one row alone is larger. The server takes 64
# MiB.
BATCH_ROWS = 16_384
BATCH_BYTES = 8 << 20

Rowlike: TypeAlias = (
    "pa.Table | pa.RecordBatch | pa.RecordBatchReader | Mapping[str, Any]"
    " | Sequence[Mapping[str, Any]] | Iterable[pa.RecordBatch]"
    " | pandas.DataFrame | polars.DataFrame"
)


@dataclass(frozen=True)
class Receipt:
    """The rows of a write are durable and visible.

    Attributes:
        version: the first version that shows them.
        rows: how many were received.
        bytes: how large they were, blobs included.
    """

    version: int
    rows: int
    bytes: int
    write_id: str | None = None


@dataclass(frozen=True)
class Source:
    """Rows to be written. `batches` gives them from the start each time, if `is_repeatable`."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    is_repeatable: bool


def source_of(
    data: "Rowlike", schema: pa.Schema | None, blobs: Sequence[str], *, is_even: bool = False
) -> Source:
    """Rows of any shape that this package takes.

    Args:
        schema: what the rows have to fit, where it cannot or should not be guessed.
        blobs: columns that are to be stored out of line.
        is_even: whether rows that are dicts must all have the same names. Otherwise one that lacks
            a name has null there.

    Raises:
        InvalidArgument: the shape is not known, a value does not fit, a name is not in the schema,
            or a blob column is missing.
    """
    with _fitting():
        table = _table_of(data, schema, is_even)
        if table is not None:
            table = _declare_blobs(table, blobs)
            return Source(table.schema, lambda: _cut(table), True)
    is_text = isinstance(data, (str, bytes))
    if is_text or not isinstance(data, Iterable):
        raise InvalidArgument(f"rows of type {type(data).__name__} are not understood")
    return _stream_source(data, schema, blobs)


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Raises `InvalidArgument` for whatever Arrow says of rows that do not fit in the block."""
    try:
        yield
    # Beside its own kinds Arrow raises these bare ones.
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        raise InvalidArgument(f"the rows do not fit their schema: {error}") from error


def _table_of(data: Any, schema: pa.Schema | None, is_even: bool) -> pa.Table | None:
    """The data as one table, or None where it is a stream of batches."""
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    elif isinstance(data, Mapping):
        _refuse_unknown(data, schema)
        return pa.table(dict(data), schema=schema)
    elif isinstance(data, (list, tuple)) and all(isinstance(row, Mapping) for row in data):
        return _table_of_dicts(data, schema, is_even)
    elif (module := _module_of(data)) == "pandas" and hasattr(data, "columns"):
        _refuse_unknown(map(str, data.columns), schema)
        return pa.Table.from_pandas(data, schema=schema, preserve_index=False)
    elif module == "polars" and hasattr(data, "to_arrow"):
        data = data.to_arrow()
    if not isinstance(data, pa.Table):
        return None
    return data if schema is None else _fitted(data, schema)


def _module_of(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _table_of_dicts(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None, is_even: bool
) -> pa.Table:
    # Arrow itself looks at the names of the first row alone.
    names = list(dict.fromkeys(name for row in rows for name in row))
    _refuse_unknown(names, schema)
    if is_even:
        for number, row in enumerate(rows):
            if len(row) < len(names):
                lacking = next(name for name in names if name not in row)
                raise InvalidArgument(
                    f"row {number} has no `{lacking}`, which others have; the write would set it "
                    "to null, so write rows of different shapes one after the other"
                )
    if schema is not None:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def _refuse_unknown(names: Iterable[str], schema: pa.Schema | None) -> None:
    """Arrow drops what a schema does not name without a word."""
    if schema is None:
        return
    unknown = [f"`{name}`" for name in names if name not in schema.names]
    if unknown:
        raise InvalidArgument(f"{', '.join(unknown)} is not in the schema of the rows")


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema, whatever their order was."""
    names = table.column_names
    if names != schema.names and sorted(names) == sorted(schema.names):
        table = table.select(schema.names)
    return table.cast(schema)


def _stream_source(data: Any, schema: pa.Schema | None, blobs: Sequence[str]) -> Source:
    is_repeatable = iter(data) is not data and not isinstance(data, pa.RecordBatchReader)
    batches = iter(data)
    first: list[pa.RecordBatch] = []
    if schema is None:
        if isinstance(data, pa.RecordBatchReader):
            schema = data.schema
        else:
            first = [batch for _, batch in zip(range(1), batches, strict=False)]
            if not first:
                raise InvalidArgument("there is no batch, so a schema has to be given")
            if not isinstance(first[0], pa.RecordBatch):
                raise InvalidArgument("an iterable has to give record batches of Arrow")
            schema = first[0].schema
    with _fitting():
        declared = _declare_blobs(schema.empty_table(), blobs).schema

    def again() -> Iterator[pa.RecordBatch]:
        fresh = iter(data) if is_repeatable else _chain(first, batches)
        for batch in fresh:
            # Not around the iterator: its errors are the caller's own.
            with _fitting():
                table = _fitted(pa.Table.from_batches([batch]), declared)
            yield from _cut(table)

    return Source(declared, again, is_repeatable)


def _chain(first: list[pa.RecordBatch], rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from first
    yield from rest


def _declare_blobs(table: pa.Table, blobs: Sequence[str]) -> pa.Table:
    """The table with its blob columns marked, and their cells as large binary."""
    schema = table.schema
    for name in blobs:
        at = schema.get_field_index(name)
        if at < 0:
            raise InvalidArgument(f"blob column `{name}` is not among {', '.join(schema.names)}")
        field = schema.field(at)
        marked = {**(field.metadata or {}), BLOB_KEY: b"true"}
        schema = schema.set(at, pa.field(name, pa.large_binary(), field.nullable, marked))
    return table if schema is table.schema else table.cast(schema)


def _cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows in batches that fit into messages."""
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        rows = batch.num_rows
        if rows == 0:
            continue
        a_row = max(1, batch.nbytes // rows)
        step = max(1, min(rows, BATCH_BYTES // a_row))
        for start in range(0, rows, step):
            yield from _halved(batch.slice(start, step))


def _halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut again where rows differ so much in size that an even cut was too large."""
    if batch.nbytes <= 4 * BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half))
    yield from _halved(batch.slice(half))


def write(
    door: FlightDoor,
    table: str,
    mode: str,
    source: Source,
    *,
    on: Sequence[str] = (),
    write_id: str | None = None,
) -> Receipt:
    """Writes rows and waits until they are durable and visible.

    A lost connection, a full server or a lost race is answered by sending the same write again,
    where the rows can be had again. The write id in the error says how to do so by hand.

    Raises:
        LakebedError: by kind. After `CommitUnknown`, `Unavailable`, `DeadlineExceeded`, `Cancelled`
            and `Internal` the rows may have been written; after all others nothing was.
    """
    write_id = write_id or f"py-{uuid.uuid4()}"
    fields = {"table": table, "mode": mode, "on": list(on) or None}
    command = {**without_none(fields), "write_id": write_id, "commit": "explicit"}
    body = encode({"write": command})
    try:
        answer = retried(
            lambda: door.put(body, source.schema, source.batches),
            on=SAFE_WITH_WRITE_ID if source.is_repeatable else (),
        )
    except LakebedError as error:
        error.write_id = write_id
        raise
    receipt = json.loads(answer)
    known = {"version", "rows", "bytes", "write_id"}
    return Receipt(**{name: value for name, value in receipt.items() if name in known})
