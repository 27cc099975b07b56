"""Definitions of functions as a server sends them, made by LanceDB's own client."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakebed.functions import arrow_types
from lakebed.functions.definition import Definition, parse
from lakebed.functions.environment import Environment, Environments, Interpreter
from lakebed.functions.evaluate import Evaluator
from lakebed.functions.instance import Limits
from lakebed.functions.pool import Instances

DIGEST = "sha256:f"
OWN_VERSION = Interpreter.own().version


def described(
    function: Any,
    *,
    digest: str = DIGEST,
    initialization: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """What the server answers for a function of `lancedb.udf`. Changes are of its runtime."""
    request = json.loads(function.registration_request.to_canonical_json())
    signature = request["signature"]
    row = None
    if fields := signature.get("initialization"):
        schema = pa.schema(
            [pa.field(f["name"], arrow_types.parse(f["arrow_type"]), f["nullable"]) for f in fields]
        )
        values = {name: (initialization or {}).get(name) for name in schema.names}
        row = base64.b64encode(stream(pa.RecordBatch.from_pylist([values], schema))).decode()
    return {
        "name": f"default/{request['name']}@1",
        "digest": digest,
        "artifact": request["artifact"],
        "signature": signature,
        "runtime": {**request["runtime"], **changes},
        "initialization": row,
        "secrets": dict(secrets or {}),
    }


def defined(function: Any, **given: Any) -> Definition:
    """The same, parsed."""
    value = described(function, **given)
    return parse(json.dumps(value).encode(), value["digest"])


def needing(*packages: str, kind: str = "pip", python_version: str = OWN_VERSION) -> Definition:
    """A function with nothing but an environment."""
    return Definition(
        name="f",
        digest=DIGEST,
        entrypoint="f",
        files={"user_function.py": "def f(): pass"},
        inputs=(),
        output=(),
        is_struct=False,
        initialization=None,
        python_version=python_version,
        gpu=False,
        environment_kind=kind,
        packages=packages,
        env={},
        secrets={},
    )


def stream(batch: pa.RecordBatch) -> bytes:
    """A batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def rows(**columns: Any) -> pa.RecordBatch:
    """A task's rows: `_rowid` counts from 0."""
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value) for value in columns.values()
    ]
    ids = pa.array(range(len(arrays[0])), pa.uint64())
    return pa.RecordBatch.from_arrays([ids, *arrays], ["_rowid", *columns])


class Collected:
    """A sink: what came, by row."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.errors: dict[int, tuple[str, str, str | None]] = {}

    def take(self, row_ids: pa.Array, results: pa.RecordBatch) -> None:
        """Values, or errors row by row."""
        names = results.schema.names[3:]
        columns = [column.to_pylist() for column in results.columns]
        for n, row in enumerate(row_ids.to_pylist()):
            assert row not in self.values, f"row {row} came twice"
            assert row not in self.errors, f"row {row} came twice"
            error, kind, stack = (column[n] for column in columns[:3])
            if error is not None:
                self.errors[row] = (error, kind, stack)
            elif names == ["value"]:
                self.values[row] = columns[3][n]
            else:
                self.values[row] = {name: columns[3 + m][n] for m, name in enumerate(names)}

    def fail(self, row_ids: pa.Array, error: str, kind: str, stack: str | None) -> None:
        """One error for all."""
        for row in row_ids.to_pylist():
            assert row not in self.values, f"row {row} came twice"
            assert row not in self.errors, f"row {row} came twice"
            self.errors[row] = (error, kind, stack)


class Bench:
    """Environments and processes for one test."""

    def __init__(self, cache: Path, **limits: Any) -> None:
        self.environments = Environments(cache, [Interpreter.own()])
        self.instances = Instances(Limits(**limits), idle_seconds=60)

    def environment(self, definition: Definition) -> Environment:
        """Built, or from the cache."""
        return self.environments.get(definition)

    def run(self, definition: Definition, *batches: pa.RecordBatch) -> Collected:
        """All rows through a function."""
        found = Collected()
        where = self.environment(definition)
        evaluator = Evaluator(self.instances, definition, where, lambda: False, found)
        try:
            for batch in batches:
                evaluator.evaluate(batch)
        finally:
            evaluator.close()
        assert len(found.values) + len(found.errors) == sum(batch.num_rows for batch in batches)
        return found

    def close(self) -> None:
        """Ends all processes."""
        self.environments.stop()
        self.instances.stop()
