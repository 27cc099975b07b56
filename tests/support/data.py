"""Sample data: every Arrow type that a table takes, and rows that can be told apart."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa

NOON = dt.datetime(2026, 1, 2, 12, 34, 56)
NUMBER = decimal.Decimal

# Three rows of each type with a null in the middle, where the type is an everyday one.
COLUMNS: dict[str, pa.Array] = {
    "bool": pa.array([True, None, False]),
    "int8": pa.array([1, None, -(2**7)], pa.int8()),
    "int16": pa.array([1, None, -(2**15)], pa.int16()),
    "int32": pa.array([1, None, -(2**31)], pa.int32()),
    "int64": pa.array([1, None, -(2**63)], pa.int64()),
    "uint8": pa.array([1, None, 2**8 - 1], pa.uint8()),
    "uint16": pa.array([1, None, 2**16 - 1], pa.uint16()),
    "uint32": pa.array([1, None, 2**32 - 1], pa.uint32()),
    "uint64": pa.array([1, None, 2**64 - 1], pa.uint64()),
    "float16": pa.array(np.array([1, 2, 3], dtype=np.float16)),
    "float32": pa.array([1.5, None, float("inf")], pa.float32()),
    "float64": pa.array([1e300, None, float("-inf")], pa.float64()),
    "decimal128": pa.array([NUMBER("1.23"), None, NUMBER("-9.99")], pa.decimal128(38, 2)),
    "decimal256": pa.array([NUMBER("1.23"), None, NUMBER("-9.99")], pa.decimal256(60, 2)),
    "string": pa.array(["a", None, "ä€😀"]),
    "large_string": pa.array(["a", None, ""], pa.large_string()),
    "binary": pa.array([b"\x00\xff", None, b""], pa.binary()),
    "large_binary": pa.array([b"\x00\xff", None, b""], pa.large_binary()),
    "fixed_size_binary": pa.array([b"abc", None, b"xyz"], pa.binary(3)),
    "date32": pa.array([NOON.date(), None, NOON.date()], pa.date32()),
    "date64": pa.array([NOON.date(), None, NOON.date()], pa.date64()),
    "time32": pa.array([1, None, 3], pa.time32("ms")),
    "time64": pa.array([1, None, 3], pa.time64("us")),
    "duration": pa.array([1, None, -3], pa.duration("us")),
    "timestamp_s": pa.array([NOON, None, NOON], pa.timestamp("s")),
    "timestamp_ms": pa.array([NOON, None, NOON], pa.timestamp("ms")),
    "timestamp_us_utc": pa.array([NOON, None, NOON], pa.timestamp("us", "UTC")),
    "timestamp_ns_zone": pa.array([NOON, None, NOON], pa.timestamp("ns", "Europe/Berlin")),
    "vector": pa.array([[1, 2], None, [5, 6]], pa.list_(pa.float32(), 2)),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
    "large_list": pa.array([["a"], None, []], pa.large_list(pa.string())),
    "struct": pa.array(
        [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}],
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
    ),
    "list_of_struct": pa.array([[{"a": 1}], None, []], pa.list_(pa.struct([("a", pa.int32())]))),
    "struct_of_list": pa.array(
        [{"a": [1]}, {"a": None}, {"a": []}], pa.struct([("a", pa.list_(pa.int64()))])
    ),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "null": pa.nulls(3),
}


def numbered(rows: int, start: int = 0, **more: pa.Array) -> pa.Table:
    """Rows with an `id` that counts from `start` and a `name` made from it."""
    ids = range(start, start + rows)
    names = pa.array([f"name {i}" for i in ids], pa.string())
    return pa.table({"id": pa.array(ids, pa.int64()), "name": names, **more})


def wide(columns: int, rows: int = 3) -> pa.Table:
    """A table with many columns of one type."""
    return pa.table({f"c{i}": pa.array(range(i, i + rows), pa.int32()) for i in range(columns)})


def bulk(rows: int, row_bytes: int, seed: int = 7) -> pa.Table:
    """Rows of `row_bytes` incompressible bytes each, behind a counting `id`."""
    noise = np.random.default_rng(seed).integers(0, 256, rows * row_bytes, dtype=np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int64) * row_bytes
    payload = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(noise)]
    )
    return pa.table({"id": pa.array(np.arange(rows, dtype=np.int64)), "payload": payload})


# ---- blobs ----------------------------------------------------------------------------------

BLOB_METADATA = {b"lance-encoding:blob": b"true"}
EXTENSION_METADATA = {b"ARROW:extension:name": b"lance.blob.v2"}


def blob_field(name: str = "data", nullable: bool = True) -> pa.Field:
    """A blob column as a plain client declares it: LargeBinary with lance's metadata."""
    return pa.field(name, pa.large_binary(), nullable=nullable, metadata=BLOB_METADATA)


def extension_field(name: str = "data") -> pa.Field:
    """A blob column by the extension type, for a client that knows only its name."""
    storage = pa.struct([("data", pa.large_binary()), ("uri", pa.string())])
    return pa.field(name, storage, metadata=EXTENSION_METADATA)


def blobs(cells: list[bytes | None], start: int = 0, **more: pa.Array) -> pa.Table:
    """Rows with an `id` and a blob column `data` of plain bytes."""
    columns = {"id": pa.array(range(start, start + len(cells)), pa.int64()), **more}
    fields = [pa.field(name, array.type) for name, array in columns.items()]
    return pa.table(
        [*columns.values(), pa.array(cells, pa.large_binary())],
        schema=pa.schema([*fields, blob_field()]),
    )


def blob_cells(cells: list[dict[str, object] | None], start: int = 0) -> pa.Table:
    """Rows with an `id` and a blob column `data` of `{"data": …}` or `{"uri": …}` cells."""
    field = extension_field()
    ids = pa.array(range(start, start + len(cells)), pa.int64())
    schema = pa.schema([pa.field("id", pa.int64()), field])
    return pa.table([ids, pa.array(cells, field.type)], schema=schema)
