"""What a server does with its store, one operation at a time, each on a database of its own.

An operation is prepared, looked at, run and looked at again. What a look shows depends on nothing
but what was done, so that looks of different databases can be compared.
"""

import hashlib
import io
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from support.data import blob_field
from support.flight import Failure, Lake
from support.server import LakebedServer

LARGE = bytes(range(256)) * (68 << 10)  # 17 MiB: large blobs lie outside of tables
MARK_BYTES = 16  # at the beginning of each, so that no two cases share one
SMALL = b"small" * 40


class Refused(Exception):
    """The server said no, and of what kind."""

    def __init__(self, kind: str | None, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def rows(start: int, count: int, text: str = "row") -> pa.Table:
    """Rows with an id, a text and a number."""
    ids = pa.array(range(start, start + count), pa.int64())
    names = [f"{text} {number}" for number in range(start, start + count)]
    return pa.table({"id": ids, "name": names, "v": pa.array([1] * count, pa.int64())})


def blob_rows(start: int, count: int) -> pa.Table:
    """The same rows with a picture each."""
    cells = pa.array([SMALL] * count, pa.large_binary())
    return rows(start, count).append_column(blob_field(), cells)


class Case:
    """A database, and a client of it."""

    def __init__(self, server: LakebedServer, database: str) -> None:
        self.server = server
        self.database = database
        self.lake: Lake = server.lake(database=database)
        self.upload = ""
        self.large = secrets.token_bytes(MARK_BYTES) + LARGE

    def reconnected(self) -> "Case":
        """The same through a new connection, of a server that was started again."""
        self.lake.close()
        self.lake = self.server.lake(database=self.database)
        return self

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """What a request over HTTP answers."""
        sent = {"x-lancedb-database": self.database}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.server.http().request("POST", path, body, sent)
        if answer.status >= 400:
            raise Refused(answer.headers.get("x-lakebed-error-kind"), answer.text)
        return answer.json() if answer.body else None

    def table(self, verb: str, table: str = "t", **body: Any) -> Any:
        """A verb of a table."""
        return self.post(f"/v1/table/{table}/{verb}", body)

    def write(self, data: pa.Table, mode: str = "append", **fields: Any) -> Any:
        """A write to `t`."""
        try:
            return self.lake.write(fields.pop("table", "t"), data, mode, **fields)
        except Failure as error:
            raise Refused(self.lake.received.get("x-lakebed-error-kind"), str(error)) from error

    def read(self, table: str = "t", **fields: Any) -> pa.Table:
        """Rows of a table, in the order of their ids."""
        try:
            found = self.lake.read(table, **fields)
        except Failure as error:
            raise Refused(self.lake.received.get("x-lakebed-error-kind"), str(error)) from error
        return found.sort_by("id") if "id" in found.column_names else found

    # ---- what can be seen ---------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """All that readers can see."""
        return {name: self.look_at(name) for name in self.lake.tables()}

    def look_at(self, table: str) -> dict[str, Any]:
        """All that readers can see of a table, but how old it is."""
        found = self.read(table, blobs="bytes").to_pydict()
        for name, cells in found.items():
            if cells and isinstance(cells[0], bytes):
                found[name] = [hashlib.sha256(cell[MARK_BYTES:]).hexdigest()[:8] for cell in cells]
        tags = self.table("tags/list", table)["tags"]
        listed = self.table("cursors/list", table)["cursors"]
        return {
            "rows": found,
            "tags": {name: tag["version"] for name, tag in tags.items()},
            "cursors": {cursor["name"]: cursor["version"] for cursor in listed},
            "indexes": sorted(
                index["index_name"] for index in self.table("index/list", table)["indexes"]
            ),
        }

    def versions(self, table: str = "t") -> list[int]:
        """The versions of a table, which have no gaps but where they were cleaned."""
        listed = self.table("version/list", table)["versions"]
        return sorted(version["version"] for version in listed)

    def wait_for(self, job: str) -> None:
        """The end of a job."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                found = self.post("/v1/jobs/describe", {"job_id": job})
            except Refused as refused:
                # The question was met by a fault, and the job goes on.
                if refused.kind != "unavailable":
                    raise
                continue
            if found["job_state"] == "DONE":
                return
            if found["job_state"] != "IN_PROGRESS":
                raise Refused("job", str(found))
            time.sleep(0.01)
        raise AssertionError(f"the job {job} does not end")


@dataclass(frozen=True)
class Operation:
    """Something to do, on what `prepare` made."""

    name: str
    prepare: Callable[[Case], Any]
    run: Callable[[Case], Any]
    # Whether it may be sent again whatever came of it: it has a write id, or does nothing twice.
    is_repeatable: bool = True
    # Whether an error that does not say "unknown" may leave it done, because it has a write id.
    has_write_id: bool = False
    # Whether it does more than one thing, and the rows last; a second run completes it.
    has_steps: bool = False


def small_table(case: Case) -> None:
    case.write(rows(0, 5), "create")
    case.write(rows(5, 5))


def fragmented(case: Case) -> None:
    case.write(rows(0, 2), "create")
    for number in range(1, 8):
        case.write(rows(number * 2, 2))


def pictures(case: Case) -> None:
    case.write(blob_rows(0, 5), "create")


def tagged(case: Case) -> None:
    small_table(case)
    case.table("tags/create", tag="gold", version=1)


def with_cursor(case: Case) -> None:
    small_table(case)
    case.table("cursors/create", name="c", version=1)


def overwritten(case: Case) -> None:
    case.write(rows(0, 2), "create")
    for number in range(1, 4):
        case.write(rows(number, 2), "overwrite")


def uploaded(case: Case) -> None:
    """An upload that has its bytes and is not complete."""
    case.write(blob_rows(0, 2), "create")
    case.upload = case.post("/v1/uploads")["id"]
    answer = case.server.http().request("PUT", f"/v1/uploads/{case.upload}?offset=0", case.large)
    assert answer.status == 200, answer.text


def complete(case: Case) -> None:
    claim = {"size": len(case.large), "sha256": hashlib.sha256(case.large).hexdigest()}
    case.post(f"/v1/uploads/{case.upload}/complete", claim)


def complete_and_refer(case: Case) -> None:
    complete(case)
    storage = pa.struct([("data", pa.large_binary()), ("uri", pa.string())])
    field = pa.field("data", storage, metadata={b"ARROW:extension:name": b"lance.blob.v2"})
    cells = pa.array([{"data": None, "uri": f"upload:{case.upload}"}], storage)
    case.write(rows(2, 1).append_column(field, cells), write_id="w")


def begun_in_parts(case: Case) -> None:
    small_table(case)
    case.upload = case.table("multipart_write/create")["upload_id"]


def write_in_parts(case: Case) -> None:
    """Two parts that become one version."""
    for part in range(2):
        data = rows(10 + 3 * part, 3)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, data.schema) as stream:
            stream.write_table(data)
        path = f"/v1/table/t/insert?upload_id={case.upload}&upload_part_id=p{part}"
        case.post(path, sink.getvalue(), content_type="application/vnd.apache.arrow.stream")
    case.post(f"/v1/table/t/multipart_write/complete?upload_id={case.upload}")


def partial(case: Case) -> None:
    changed = pa.table({"id": [1, 2], "name": ["changed", "changed"]})
    case.write(changed, "upsert", on=["id"], write_id="w")


def index(case: Case) -> None:
    case.wait_for(case.table("create_index", column="id", index_type="BTREE")["job_id"])


def read_all(case: Case) -> None:
    """Every read gives what is there, or says that it could not."""
    for fields in ({}, {"version": 1}, {"filter": "id = 3"}, {"columns": ["id", "name"]}):
        found = case.read("t", **fields)
        expected = {3} if "filter" in fields else set(range(5 if "version" in fields else 10))
        assert set(found["id"].to_pylist()) == expected, fields
        assert found["name"].to_pylist() == [f"row {i}" for i in sorted(expected)]
    assert case.post("/v1/table/t/count_rows", {}) == 10


UPDATE = {"predicate": "id < 3", "updates": [["v", "v + 1"]]}
CHANGED = rows(3, 4, "changed")

OPERATIONS = [
    Operation(
        "create",
        lambda case: None,  # noqa: ARG005
        lambda c: c.write(rows(0, 5), "create", write_id="w"),
        has_write_id=True,
    ),
    Operation(
        "append", small_table, lambda c: c.write(rows(10, 3), write_id="w"), has_write_id=True
    ),
    Operation(
        "overwrite",
        small_table,
        lambda c: c.write(rows(10, 3), "overwrite", write_id="w"),
        has_write_id=True,
    ),
    Operation(
        "upsert",
        small_table,
        lambda c: c.write(CHANGED, "upsert", on=["id"], write_id="w"),
        has_write_id=True,
    ),
    # The index on its key comes first, in a version of its own.
    Operation("partial upsert", pictures, partial, has_write_id=True, has_steps=True),
    Operation(
        "write in parts", begun_in_parts, write_in_parts, is_repeatable=False, has_steps=True
    ),
    Operation("update", small_table, lambda c: c.table("update", **UPDATE), is_repeatable=False),
    Operation("delete", small_table, lambda c: c.table("delete", predicate="id < 2")),
    Operation(
        "add column",
        small_table,
        lambda c: c.table("add_columns", new_columns=[{"name": "w", "expression": "v * 2"}]),
        is_repeatable=False,
    ),
    Operation(
        "rename column",
        small_table,
        lambda c: c.table("alter_columns", alterations=[{"path": "name", "rename": "title"}]),
        is_repeatable=False,
    ),
    Operation(
        "drop column",
        small_table,
        lambda c: c.table("drop_columns", columns=["v"]),
        is_repeatable=False,
    ),
    Operation("index", small_table, index, is_repeatable=False),
    Operation("compaction", fragmented, lambda c: c.table("compact"), has_steps=True),
    Operation(
        "tag",
        small_table,
        lambda c: c.table("tags/create", tag="gold", version=1),
        is_repeatable=False,
    ),
    Operation("moved tag", tagged, lambda c: c.table("tags/update", tag="gold", version=2)),
    Operation(
        "deleted tag", tagged, lambda c: c.table("tags/delete", tag="gold"), is_repeatable=False
    ),
    Operation("restore", small_table, lambda c: c.table("restore", version=1)),
    Operation("upload", uploaded, complete_and_refer, has_steps=True),
    Operation(
        "cursor",
        small_table,
        lambda c: c.table("cursors/create", name="c", version=1),
        is_repeatable=False,
    ),
    Operation(
        "cursor step",
        with_cursor,
        lambda c: c.table("cursors/advance", name="c", version=2, expected=1),
        is_repeatable=False,
    ),
    Operation(
        "rename", small_table, lambda c: c.table("rename", new_table_name="u"), is_repeatable=False
    ),
    Operation("drop", small_table, lambda c: c.table("drop"), is_repeatable=False),
    Operation(
        "cleaning",
        overwritten,
        lambda c: c.table("gc", keep_age_ms=0, keep_versions=1),
        has_steps=True,
    ),
    Operation("read", small_table, read_all),
]
