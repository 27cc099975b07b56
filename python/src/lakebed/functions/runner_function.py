"""The second file inside the process of a function: the loaded function, its results as columns.

Apart from `runner.py` because it cannot be imported before pyarrow can.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

# Of a message of an error.
TEXT_CHARACTERS = 1_000
# The columns before the values: what went wrong with a row.
ERRORS = ("error", "error_type", "traceback")
ENTRY_MODULE = "user_function"
READERS = re.compile(r"\b(BlobFile|BinaryIO|BytesIO|RawIOBase|BufferedIOBase|BufferedReader)\b")


# ---- values into columns ------------------------------------------------------------------------


class Misfit(Exception):
    """A value that is not of the declared type."""


def plain(value: Any) -> Any:
    """What arrays, tensors and scalars of libraries hold, in Python's own types."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if hasattr(value, "tolist") and not isinstance(value, (bytes, bytearray, memoryview)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def has_integers(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(has_integers(kind.field(n).type) for n in range(kind.num_fields))
    if is_list(kind):
        return has_integers(kind.value_type)
    return bool(pa.types.is_integer(kind))


def check_whole(value: Any, kind: pa.DataType) -> None:
    """pyarrow cuts 1.5 down to 1 where an integer is declared, without a word; this does not."""
    if value is None or type(value) is int:
        return
    if pa.types.is_integer(kind):
        number = value.item() if hasattr(value, "item") else value
        number = number.as_py() if hasattr(number, "as_py") else number
        if isinstance(number, float) and not number.is_integer():
            raise Misfit(f"{number!r} is not a whole number, and {kind} is declared")
    elif is_list(kind) and has_integers(kind):
        if getattr(getattr(value, "dtype", None), "kind", "f") in "iub":
            return
        for each in plain(value):
            check_whole(each, kind.value_type)
    elif pa.types.is_struct(kind) and isinstance(value, Mapping):
        for n in range(kind.num_fields):
            check_whole(value.get(kind.field(n).name), kind.field(n).type)


def hole(array: Any, kind: pa.DataType) -> str | None:
    """The name of a field inside of values that is null and must not be. pyarrow lets it pass."""
    if pa.types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        valid = array.drop_null()
        children = [valid.field(n) for n in range(kind.num_fields)]
    elif is_list(kind):
        fields = [kind.value_field]
        children = [array.drop_null().flatten()]
    else:
        return None
    for field, child in zip(fields, children, strict=True):
        if not field.nullable and child.null_count:
            return str(field.name)
        if (inner := hole(child, field.type)) is not None:
            return inner
    return None


def whole(array: Any, kind: pa.DataType) -> Any:
    if (name := hole(array, kind)) is not None:
        raise Misfit(f"`{name}` inside of the value is null, and must not be")
    return array


def from_values(values: Sequence[Any], kind: pa.DataType) -> Any:
    """Python's values as an array of the declared type."""
    if has_integers(kind):
        for value in values:
            check_whole(value, kind)
    try:
        return whole(pa.array(values, type=kind), kind)
    except Exception:
        again = [plain(value) for value in values]
        if all(new is old for new, old in zip(again, values, strict=True)):
            raise
        return whole(pa.array(again, type=kind), kind)


def from_array(array: Any, kind: pa.DataType) -> Any:
    """An array as one of the declared type."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type != kind:
        try:
            array = array.cast(kind)
        except (pa.ArrowNotImplementedError, TypeError):
            # Versions of pyarrow that do not cast what is nested.
            array = from_values(array.to_pylist(), kind)
    return whole(array, kind)


class Column:
    """One column of results in the making: what does not fit is an error of its row alone."""

    def __init__(self, field: pa.Field, nullable: bool, label: str, errors: dict[int, Any]) -> None:
        self._kind = field.type
        self._nullable = nullable
        self._label = label
        self._errors = errors

    def of(self, found: Any, convert: Callable[[Any, Any], Any], empty: Callable[[], Any]) -> Any:
        """`found` is something that can be sliced: a list, or an array."""
        rows = len(found)
        try:
            array = convert(found, self._kind)
        except Exception:
            pieces = []
            for row in range(rows):
                try:
                    pieces.append(convert(found[row : row + 1], self._kind))
                except Exception as error:
                    self._blame(row, error)
                    pieces.append(convert(empty(), self._kind))
            array = pa.concat_arrays(pieces)
        if not self._nullable and array.null_count:
            for row, is_null in enumerate(array.is_null().to_pylist()):
                if is_null:
                    text = f"{self._label} is None, and null is not declared"
                    self._errors.setdefault(row, (text, "TypeError", None))
        return array

    def of_values(self, values: Sequence[Any]) -> Any:
        return self.of(values, from_values, lambda: [None])

    def of_array(self, array: Any) -> Any:
        return self.of(array, from_array, lambda: pa.nulls(1, self._kind))

    def _blame(self, row: int, error: Exception) -> None:
        text = f"{self._label} is not {self._kind}: {error}"[:TEXT_CHARACTERS]
        self._errors.setdefault(row, (text, "TypeError", None))


# ---- the function -------------------------------------------------------------------------------


class Reader(io.BytesIO):
    """A blob for functions that ask for something to read from."""

    def size(self) -> int:
        return len(self.getbuffer())


class Function:
    """The loaded function, and how it wants to be called."""

    def __init__(self, load: dict[str, Any], parts: Sequence[bytes], folder: str) -> None:
        inputs, output, initialization, files = parts
        self.inputs = pa.ipc.read_schema(pa.py_buffer(inputs))
        self.output = pa.ipc.read_schema(pa.py_buffer(output))
        self.nullable: list[bool] = load["nullable"]
        self.is_struct: bool = load["struct"]
        self.output_bytes: int = load["output_bytes"]
        self.reply = pa.schema([*(pa.field(name, pa.string()) for name in ERRORS), *self.output])
        module = _import(json.loads(files), folder)
        target = getattr(module, load["entrypoint"], None)
        if not callable(target):
            raise TypeError(f"the artifact has no function or class `{load['entrypoint']}`")
        self._is_class = inspect.isclass(target)
        if inspect.iscoroutinefunction(target.__call__ if self._is_class else target):
            raise TypeError(f"`{load['entrypoint']}` is asynchronous, and is not awaited here")
        self._initialization = initialization
        self._target: Any = target
        # What the annotations stand on.
        called = target.__call__ if self._is_class else target
        parameters = list(inspect.signature(called).parameters.values())
        self._parameters = parameters[1:] if self._is_class else parameters
        self.form = self._form(module)
        self._blobs = {
            name
            for name in load["blobs"]
            for parameter in self._parameters
            if parameter.name == name and READERS.search(str(parameter.annotation))
        }

    def _form(self, module: Any) -> str:
        """`rows`, `arrays` or `batch`, by the annotations. They are text in an artifact, and what
        they name need not be imported there."""
        kinds = [_arrow_kind(each.annotation, vars(module)) for each in self._parameters]
        if kinds == ["RecordBatch"]:
            return "batch"
        if len(kinds) != len(self.inputs.names) or {each.name for each in self._parameters} != set(
            self.inputs.names
        ):
            has = [each.name for each in self._parameters]
            raise TypeError(
                f"the function's parameters are {has}, and its signature has {self.inputs.names}"
            )
        if kinds and all(kind == "Array" for kind in kinds):
            return "arrays"
        if any(kinds):
            raise TypeError("either all parameters are annotated as pyarrow.Array, or none is")
        return "rows"

    def instantiate(self) -> None:
        """Makes the instance of a class with its constants. A null takes the default, if there is
        one."""
        if not self._is_class:
            return
        values: dict[str, Any] = {}
        if self._initialization:
            reader = pa.ipc.open_stream(pa.py_buffer(self._initialization))
            [values] = reader.read_all().to_pylist()
        parameters = inspect.signature(self._target.__init__).parameters
        given = {
            name: value
            for name, value in values.items()
            if value is not None
            or name not in parameters
            or parameters[name].default is inspect.Parameter.empty
        }
        self._target = self._target(**given)

    def close(self) -> None:
        if self._is_class and hasattr(self._target, "close"):
            self._target.close()

    def call_row(self, columns: Sequence[tuple[str, Any]], row: int) -> Any:
        values = {name: column[row].as_py() for name, column in columns}
        for name in self._blobs:
            if values[name] is not None:
                values[name] = Reader(values[name])
        return self._target(**values)

    def call_batch(self, table: Any) -> Any:
        arrays = [
            column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
            for column in table.columns
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema)
        if self.form == "batch":
            return self._target(batch)
        return self._target(**dict(zip(batch.schema.names, batch.columns, strict=True)))

    def read(self, body: Any) -> Any:
        """The rows of a command."""
        return pa.ipc.open_stream(pa.py_buffer(body)).read_all()

    def write(self, batch: Any) -> Any:
        """Results as they are sent."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue()

    # ---- results --------------------------------------------------------------------------------

    def from_rows(self, results: Sequence[Any], errors: dict[int, Any]) -> Any:
        """Results of single rows as one batch. `errors` is by row, and gets what does not fit."""
        if self.is_struct:
            results = [self._checked(row, result, errors) for row, result in enumerate(results)]
            columns = [[result.get(field.name) for result in results] for field in self.output]
        else:
            columns = [list(results)]
        arrays = [self._column(n, errors).of_values(column) for n, column in enumerate(columns)]
        return self._batch(arrays, errors, len(results))

    def _checked(self, row: int, result: Any, errors: dict[int, Any]) -> Mapping[str, Any]:
        if row in errors:
            return {}
        if result is None and all(self.nullable):
            return {}
        if not isinstance(result, Mapping):
            text = f"the result is a {type(result).__name__}; a dict with the fields is declared"
            errors[row] = (text, "TypeError", None)
            return {}
        more = [name for name in result if name not in self.output.names]
        if more:
            text = f"the result has fields that are not declared: {more}"[:TEXT_CHARACTERS]
            errors[row] = (text, "TypeError", None)
            return {}
        return result

    def from_batch(self, result: Any, rows: int) -> Any:
        """The result of a whole batch as one batch."""
        errors: dict[int, Any] = {}
        if isinstance(result, (list, tuple)):
            self._check_length(len(result), rows, "the result")
            return self.from_rows(result, errors)
        columns = self._columns(result) if self.is_struct else [result]
        arrays = []
        for n, column in enumerate(columns):
            label = self._label(n)
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks) if column.num_chunks else []
            if isinstance(column, pa.Array):
                self._check_length(len(column), rows, label)
                arrays.append(self._column(n, errors).of_array(column))
            elif hasattr(column, "__len__") and not isinstance(column, (str, bytes, Mapping)):
                self._check_length(len(column), rows, label)
                arrays.append(self._column(n, errors).of_values(list(column)))
            else:
                raise TypeError(f"{label} is a {type(column).__name__}; an array is expected")
        return self._batch(arrays, errors, rows)

    def _columns(self, result: Any) -> list[Any]:
        """The fields of a struct for a whole batch: an array of structs, a RecordBatch, or a dict
        of arrays."""
        if isinstance(result, pa.ChunkedArray):
            result = result.combine_chunks()
        if isinstance(result, pa.StructArray):
            names = [result.type.field(n).name for n in range(result.type.num_fields)]
            # With the struct's own nulls.
            found = dict(zip(names, result.flatten(), strict=True))
        elif isinstance(result, (pa.RecordBatch, pa.Table)):
            found = dict(zip(result.schema.names, result.columns, strict=True))
        elif isinstance(result, Mapping):
            found = dict(result)
        else:
            kind = type(result).__name__
            raise TypeError(f"the result is a {kind}; an array of structs is expected")
        names = list(self.output.names)
        if sorted(found) != sorted(names):
            raise TypeError(f"the result has the fields {list(found)}; declared are {names}")
        return [found[name] for name in names]

    @staticmethod
    def _check_length(found: int, rows: int, label: str) -> None:
        if found != rows:
            raise ValueError(f"{label} has {found} values for {rows} rows")

    def _label(self, n: int) -> str:
        return f"field `{self.output.names[n]}` of the result" if self.is_struct else "the result"

    def _column(self, n: int, errors: dict[int, Any]) -> Column:
        return Column(self.output.field(n), self.nullable[n], self._label(n), errors)

    def _batch(self, arrays: Sequence[Any], errors: dict[int, Any], rows: int) -> Any:
        texts = [[None] * rows for _ in ERRORS]
        for row, error in errors.items():
            for column, text in zip(texts, error, strict=True):
                column[row] = text
        columns = [*(pa.array(column, pa.string()) for column in texts), *arrays]
        return pa.RecordBatch.from_arrays(columns, schema=self.reply)


def _import(files: dict[str, str], folder: str) -> Any:
    """Imported from files, so that tracebacks have lines and `code=` modules find each other."""
    for path, source in files.items():
        target = os.path.join(folder, *path.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(source)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    return importlib.import_module(ENTRY_MODULE)


def _arrow_kind(annotation: Any, namespace: dict[str, Any]) -> str:
    """`Array`, `RecordBatch`, or nothing."""
    if isinstance(annotation, str):
        try:
            known = {"pa": pa, "pyarrow": pa, **namespace}
            annotation = eval(annotation, known)
            if isinstance(annotation, str):
                annotation = eval(annotation, known)
        except Exception:
            last = str(annotation).strip("'\" ").rpartition(".")[2]
            return last if last in {"Array", "RecordBatch"} else ""
    if annotation is inspect.Parameter.empty or not inspect.isclass(annotation):
        return ""
    if issubclass(annotation, pa.RecordBatch):
        return "RecordBatch"
    return "Array" if issubclass(annotation, (pa.Array, pa.ChunkedArray)) else ""
