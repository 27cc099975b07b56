"""A column by a function, in one call: registered, bound, computed by the workers, and waited
for."""

import base64
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lancedb
import pyarrow as pa
from lancedb import col
from lancedb.remote import ClientConfig, TlsConfig

from lakebed._http import quoted
from lakebed.connection import Connection
from lakebed.errors import InvalidArgument
from lakebed.jobs import Job, JobStatus

if TYPE_CHECKING:
    from lancedb.functions import UdfDefinition

BINDINGS = b"lancedb::function_bindings"
BINDING_ID = b"computed_column.function.binding_id"
# Rows of a task: these functions take some ten microseconds a row.
TASK_ROWS = 2_048


def compute(
    db: Connection,
    table: str,
    function: "UdfDefinition",
    inputs: Mapping[str, str],
    output: str,
    *,
    constants: Mapping[str, Any] | None = None,
    recompute: bool = False,
    task_rows: int | None = None,
    timeout_s: float | None = None,
) -> JobStatus:
    """Fills a column with what a function gives for each row, and waits for it.

    The column is made where it is missing, which registers the function and needs a key of the role
    `admin`. Where it is there, the rows are computed that have no value or whose inputs changed.

    Args:
        function: of `lancedb.udf`, such as those of `lakebed.operators`.
        inputs: the column for each parameter of the function.
        output: the column; one of structs where the function gives several values.
        constants: for the function's class.
        recompute: whether rows that have a value get another.
        task_rows: rows of one task.

    Raises:
        InvalidArgument: the column is there and is of something else.
        JobFailed: the job ended otherwise than by being done.
        DeadlineExceeded: it had not ended in time; it goes on.
    """
    opened = open_remote(db)
    *namespace, name = table.split("$")
    remote = opened.open_table(name, namespace_path=namespace)
    constants = dict(constants or {})
    schema = remote.schema
    if output in schema.names:
        check_bound(schema, output, function, inputs, constants)
    else:
        registered = opened.create_function(function, namespace_path=namespace)
        columns = {parameter: col(column) for parameter, column in inputs.items()}
        remote.add_columns({output: registered(**columns, **constants)})
    body: dict[str, Any] = {"column": output, "task_rows": task_rows or TASK_ROWS}
    if recompute:
        body["recompute"] = True
    return begin(db, table, "backfill_column", body).wait(timeout_s, progress=False)


def begin(db: Connection, table: str, verb: str, body: dict[str, Any]) -> Job:
    """Begins a job of a table."""
    answer = db._http.request("POST", f"/v1/table/{quoted(table)}/{verb}", body, changes=True)
    return db.jobs.get(str(answer.json()["job_id"]))


def open_remote(db: Connection) -> Any:
    """The same server and key by LanceDB's client, which knows how functions are packed."""
    target = db.target
    tls = TlsConfig(ssl_ca_cert=target.ca_file) if target.ca_file else None
    return lancedb.connect(
        f"db://{target.database}",
        api_key=db._http.key() or "none",
        host_override=target.url,
        client_config=ClientConfig(tls_config=tls),
    )


def check_bound(
    schema: pa.Schema,
    column: str,
    function: "UdfDefinition",
    inputs: Mapping[str, str],
    constants: Mapping[str, Any],
) -> None:
    """Refuses a column that the function does not fill from these inputs with these constants.

    Raises:
        InvalidArgument: it is of something else.
    """
    name = function.registration_request.name
    binding_id = (schema.field(column).metadata or {}).get(BINDING_ID, b"").decode()
    known = json.loads((schema.metadata or {}).get(BINDINGS, b'{"bindings":[]}'))
    bound = next((it for it in known["bindings"] if it["binding_id"] == binding_id), None)
    if bound is None or bound["function"]["name"] != name:
        raise InvalidArgument(f"column `{column}` is there and is not computed by `{name}`")
    reads = {each["parameter"]: each["field_path"] for each in bound["inputs"]}
    if reads != dict(inputs):
        raise InvalidArgument(f"column `{column}` is computed from {reads}; drop it for another")
    # A constant that was not given takes the default of its parameter.
    given = _defaults(function) | _constants(bound.get("initialization"))
    differing = {key: given.get(key) for key, value in constants.items() if given.get(key) != value}
    if differing:
        raise InvalidArgument(f"column `{column}` is computed with {differing}; drop it for others")


def _constants(stream: str | None) -> dict[str, Any]:
    if not stream:
        return {}
    reader = pa.ipc.open_stream(base64.b64decode(stream))
    [row] = reader.read_all().to_pylist()
    return {name: value for name, value in row.items() if value is not None}


def _defaults(function: "UdfDefinition") -> dict[str, Any]:
    parameters = inspect.signature(function._function).parameters.values()
    return {it.name: it.default for it in parameters if it.default is not it.empty}
