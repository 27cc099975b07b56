"""The type names of function signatures, read.

LanceDB's client writes what is flat in a short form, such as `int64` or
`fixed_size_list<float32, 8>`, and everything else as exact JSON. In the short form the items of a
list are never null.

A blob travels as its bytes, here and between worker and server: its stored form, a descriptor, is
of no use to a function.
"""

import json
import re
from typing import Any

import pyarrow as pa

BLOB = "blob_v2"
BLOB_EXTENSION = "lance.blob.v2"
DEPTH_MAX = 64

_FLAT: dict[str, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "utf8": pa.string(),
    "large_utf8": pa.large_string(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "date32": pa.date32(),
    "date64": pa.date64(),
    BLOB: pa.large_binary(),
}
_LIST = re.compile(r"(list|large_list)<(.*)>", re.DOTALL)
_FIXED = re.compile(r"fixed_size_list<(.*), ?([1-9][0-9]{0,9})>", re.DOTALL)
_LENGTH_MAX = 2**31 - 1


class UnknownType(ValueError):
    """A type that a signature names and this worker does not know."""


def parse(text: str) -> pa.DataType:
    """The type that a signature names.

    Raises:
        UnknownType: it is not of the grammar.
    """
    if text.startswith("{"):
        try:
            return _exact(json.loads(text), DEPTH_MAX)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnknownType):
                raise
            raise UnknownType(f"type {text[:200]!r} is not JSON") from None
    return _short(text, DEPTH_MAX)


def _short(text: str, depth: int) -> pa.DataType:
    if (flat := _FLAT.get(text)) is not None:
        return flat
    if depth == 0:
        raise UnknownType("a type is nested too deep")
    if (found := _LIST.fullmatch(text)) is not None:
        item = pa.field("item", _short(found[2], depth - 1), nullable=False)
        return pa.list_(item) if found[1] == "list" else pa.large_list(item)
    if (found := _FIXED.fullmatch(text)) is not None:
        item = pa.field("item", _short(found[1], depth - 1), nullable=False)
        return pa.list_(item, _length(int(found[2])))
    raise UnknownType(f"type {text[:200]!r} is not known")


def _exact(value: Any, depth: int) -> pa.DataType:
    if not isinstance(value, dict) or not isinstance(kind := value.get("type"), str):
        raise UnknownType("a type in JSON needs a `type`")
    if depth == 0:
        raise UnknownType("a type is nested too deep")
    if (flat := _FLAT.get(kind)) is not None:
        return flat
    fields = value.get("fields")
    if kind not in {"struct", "list", "large_list", "fixed_size_list"} or not (
        isinstance(fields, list) and fields
    ):
        raise UnknownType(f"type {kind[:200]!r} is not known, or has no fields")
    children = [_field(field, depth - 1) for field in fields]
    if kind == "struct":
        return pa.struct(children)
    if len(children) != 1:
        raise UnknownType(f"a {kind} has one field")
    if kind == "list":
        return pa.list_(children[0])
    if kind == "large_list":
        return pa.large_list(children[0])
    return pa.list_(children[0], _length(value.get("length")))


def _field(value: Any, depth: int) -> pa.Field:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        raise UnknownType("a field in JSON needs a `name`")
    nullable = value.get("nullable", True)
    metadata = value.get("metadata") or {}
    if not isinstance(nullable, bool) or not isinstance(metadata, dict):
        raise UnknownType(f"field {name[:200]!r} is not as the grammar has it")
    if metadata.get("ARROW:extension:name") == BLOB_EXTENSION:
        return pa.field(name, pa.large_binary(), nullable=nullable)
    return pa.field(name, _exact(value.get("type"), depth), nullable=nullable)


def _length(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _LENGTH_MAX:
        raise UnknownType("the length of a fixed_size_list is a positive number")
    return value
