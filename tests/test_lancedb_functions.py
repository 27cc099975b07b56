"""Functions as users of the LanceDB client write them: registered, bound to columns, run."""

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import lancedb
import pyarrow as pa
import pytest
from lancedb import col, udf
from lancedb.exceptions import JobFailedError
from lancedb.remote.errors import HttpError

from support.backup import Make, ok, served
from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until
from support.worker import Jobs, Worker

SOON = timedelta(seconds=60)
SCALE = 100.0
ITEM = pa.field("item", pa.float32(), nullable=False)


@udf
def score(text: str, stars: int | None) -> float:
    if text == "bad":
        raise ValueError(f"no score for {text}")
    return len(text) * (stars or 0) / SCALE


@udf(
    input_schema=pa.schema([pa.field("text", pa.string())]),
    output_schema=pa.list_(ITEM, 4),
)
class embed:
    def __init__(self, model: str, seed: int = 7) -> None:
        self.shift = len(model) + seed

    def __call__(self, text: str) -> list[float]:
        return [float((len(text) * (k + 1) + self.shift) % 10) for k in range(4)]


@udf(
    input_schema=pa.schema([pa.field("text", pa.string())]),
    output_schema=pa.schema([("normalized", pa.string()), ("tokens", pa.int64())]),
)
def features(text: str) -> dict[str, Any]:
    return {"normalized": text.lower(), "tokens": len(text.split())}


@udf
def twice(value: int) -> Annotated[int, pa.int64()]:
    return value * 2


def a_vector(text: str, shift: int) -> list[float]:
    return [float((len(text) * (k + 1) + shift) % 10) for k in range(4)]


@pytest.fixture(scope="module")
def workers(module_server: LakebedServer) -> Iterator[list[Worker]]:
    """Two workers."""
    made = [Worker(module_server, name).start() for name in ("f1", "f2")]
    Jobs(module_server).wait_for_workers(2)
    yield made
    for worker in made:
        worker.kill()


@pytest.fixture
def db(server: LakebedServer) -> lancedb.DBConnection:
    """The stock client."""
    return opened(server)


TEXTS = ["Hello World", "Foo", "Bar baz qux"]


@pytest.fixture
def docs(db: lancedb.DBConnection, table: str) -> Any:
    """Three rows."""
    rows = {"id": [1, 2, 3], "text": TEXTS, "stars": [5, None, 3]}
    return db.create_table(table, pa.table(rows))


def rows_of(lake: Lake, table: Any) -> list[dict[str, Any]]:
    return lake.read(table.name).sort_by("id").to_pylist()


@pytest.mark.usefixtures("workers")
def test_a_script_of_a_user(db: lancedb.DBConnection, lake: Lake, docs: Any) -> None:
    scored = db.create_function(score)
    assert (scored.name, scored.version) == ("score", "1")
    docs.add_columns({"score": scored(text=col("text"), stars=col("stars"))})
    embedded = db.create_function(embed)
    docs.add_columns({"vec": embedded(text=col("text"), model="small")})
    featured = db.create_function(features)
    docs.add_columns(featured(text=col("text")).rename(columns={"normalized": "norm"}))
    docs.add_columns({"feat": featured(text=col("text"))})
    for column in ("score", "vec", "norm", "feat"):
        done = docs.refresh_column_async(column).wait(SOON)
        assert (done.rows_assigned, done.rows_failed, done.rows_remaining) == (3, 0, 0)

    rows = rows_of(lake, docs)
    assert [row["score"] for row in rows] == [0.55, 0.0, 0.33]
    assert [row["vec"] for row in rows] == [a_vector(text, 12) for text in TEXTS]
    assert [row["norm"] for row in rows] == [text.lower() for text in TEXTS]
    assert [row["tokens"] for row in rows] == [2, 1, 3]
    assert [row["feat"] for row in rows] == [
        {"normalized": text.lower(), "tokens": len(text.split())} for text in TEXTS
    ]
    found = docs.search(a_vector("Foo", 12), vector_column_name="vec").limit(1).to_arrow()
    assert found["id"].to_pylist() == [2]

    # The client looks at every binding of the schema before it adds rows.
    docs.add(pa.table({"id": [4], "text": ["New row"], "stars": [1]}))
    assert rows_of(lake, docs)[3]["vec"] is None
    assert docs.refresh_column_async("vec").wait(SOON).rows_assigned == 1
    assert rows_of(lake, docs)[3]["vec"] == a_vector("New row", 12)


@pytest.mark.usefixtures("workers")
def test_a_row_that_fails_stays_empty(db: lancedb.DBConnection, lake: Lake, docs: Any) -> None:
    docs.add(pa.table({"id": [4, 5], "text": ["bad", "good"], "stars": [1, 1]}))
    scored = db.create_function(score)
    docs.add_columns({"score": scored(text=col("text"), stars=col("stars"))})
    done = docs.refresh_column_async("score").wait(SOON)
    assert (done.rows_assigned, done.rows_failed, done.rows_remaining) == (4, 1, 1)
    assert [row["score"] for row in rows_of(lake, docs)] == [0.55, 0.0, 0.33, None, 0.04]
    found = docs.function_errors(column="score")
    [record] = found.records
    assert (record.error_type, record.error_message) == ("ValueError", "no score for bad")
    assert (record.column, record.function, record.function_version) == ("score", "score", "1")
    assert docs.function_errors(column="other").records == []


@pytest.mark.usefixtures("workers")
def test_what_changed_is_computed_again_and_nothing_else(
    db: lancedb.DBConnection, lake: Lake, docs: Any
) -> None:
    scored = db.create_function(score)
    docs.add_columns({"score": scored(text=col("text"), stars=col("stars"))})
    assert docs.refresh_column_async("score").wait(SOON).rows_assigned == 3
    assert docs.refresh_column_async("score").wait(SOON).rows_assigned == 0
    docs.update(where="id = 2", values={"stars": 9})
    docs.update(where="id = 3", values={"id": 30})
    assert docs.refresh_column_async("score").wait(SOON).rows_assigned == 1
    assert [row["score"] for row in rows_of(lake, docs)] == [0.55, 0.27, 0.33]
    docs.merge_insert("id").when_matched_update_all().execute(
        pa.table({"id": [1], "text": ["four"], "stars": [1]})
    )
    assert docs.refresh_column_async("score").wait(SOON).rows_assigned == 1
    assert [row["score"] for row in rows_of(lake, docs)] == [0.04, 0.27, 0.33]


@pytest.mark.usefixtures("workers")
def test_a_refresh_of_some_rows_hides_no_stale_ones(
    db: lancedb.DBConnection, server: LakebedServer, lake: Lake, docs: Any
) -> None:
    scored = db.create_function(score)
    docs.add_columns({"score": scored(text=col("text"), stars=col("stars"))})
    path = f"/v1/table/{docs.name}/backfill_column"

    def refresh(**fields: Any) -> dict[str, int]:
        asked = server.http().ok("POST", path, {"column": "score", **fields}).json()
        return Jobs(server).wait(asked["job_id"])["result"]

    assert refresh(where="id = 1")["rows_assigned"] == 1
    docs.update(values={"stars": 2})
    assert refresh(where="id > 1")["rows_assigned"] == 2
    assert refresh()["rows_assigned"] >= 1
    assert [row["score"] for row in rows_of(lake, docs)] == [0.22, 0.06, 0.22]
    assert refresh()["rows_assigned"] == 0
    assert refresh(recompute=True)["rows_assigned"] == 3


def test_a_declaration_says_what_was_registered(
    db: lancedb.DBConnection, server: LakebedServer, docs: Any
) -> None:
    featured = db.create_function(features)
    text = {"parameter": "text", "kind": "column", "value": {"path": "text"}}
    function = {
        name: getattr(featured, name) for name in ("name", "object_id", "location", "version")
    }
    names = ("normalized", "tokens")
    declared = {
        "application": {
            "function": {**function, "manifest_digest": featured.image.manifest_digest},
            "inputs": [text],
            "output": json.loads(featured.signature.output.to_canonical_json()),
        },
        "binding_metadata_version": 1,
        "input_bindings": [
            {"parameter": "text", "field_path": "text", "arrow_type": "utf8", "nullable": True}
        ],
        "input_schema": {"fields": []},
        "output_schema": {"fields": []},
        "outputs": [
            {"result_field": name, "output_name": name, "output_ordinal": at}
            for at, name in enumerate(names)
        ],
    }

    def says(words: str, **changed: Any) -> None:
        application = {**declared["application"], **changed}
        body = {
            "new_columns": [{"name": name, "all_null": True} for name in names],
            "function": {**declared, "application": application},
        }
        answer = server.http().post(f"/v1/table/{docs.name}/add_columns/", body)
        assert (answer.status, words in answer.text) == (400, True), answer.text

    says("output", output={"kind": "scalar", "arrow_type": "utf8", "nullable": False})
    says("disagree", columns={"tokens": "count"})
    says("another", function={**function, "manifest_digest": "sha256:00"})
    says("given a column", inputs=[{**text, "kind": "literal", "value": "x"}])
    assert docs.schema.names == ["id", "text", "stars"]


@pytest.mark.usefixtures("workers")
def test_functions_are_listed_and_dropped(db: lancedb.DBConnection) -> None:
    first = db.create_function(twice)
    assert db.create_function(twice) == first, "the same function is the same version"
    changed = udf(pip=[], env={"MODE": "new"}, name="twice")(twice._function)
    second = db.create_function(changed)
    assert (second.version, second.object_id) == ("2", first.object_id)
    assert db.get_function("twice", version="1") == first
    names = [(it.name, it.version) for it in db.list_functions() if it.name == "twice"]
    assert names == [("twice", "1"), ("twice", "2")]
    with pytest.raises(HttpError, match="no version 9"):
        db.get_function("twice", version="9")
    assert not db.drop_function("twice", version="9")
    assert db.drop_function("twice", version="1")
    assert not db.drop_function("twice", version="1")
    with pytest.raises(HttpError, match="does not exist"):
        db.get_function("twice", version="2")


@pytest.mark.usefixtures("workers")
def test_what_cannot_run_is_not_registered(db: lancedb.DBConnection) -> None:
    lost = udf(pip=["surely-no-such-package-7a3c==9.9.9"], name="lost")(twice._function)
    with pytest.raises(JobFailedError, match="surely-no-such-package"):
        db.create_function(lost)
    conda = udf(conda=["numpy"], name="conda")(twice._function)
    with pytest.raises(HttpError, match="conda"):
        db.create_function(conda)
    assert {"lost", "conda"}.isdisjoint(it.name for it in db.list_functions())


@pytest.mark.usefixtures("workers")
def test_computed_columns_take_no_values(db: lancedb.DBConnection, lake: Lake, docs: Any) -> None:
    featured = db.create_function(features)
    docs.add_columns(featured(text=col("text")))
    with pytest.raises(Exception, match="computed"):
        docs.update(where="id = 1", values={"tokens": 7})
    with pytest.raises(pa.ArrowInvalid, match="computed"):
        rows = {"id": [9], "text": ["x"], "stars": [1], "tokens": pa.array([7], pa.int64())}
        lake.write(docs.name, pa.table(rows))
    with pytest.raises(Exception, match="read by computed column `normalized`"):
        docs.drop_columns(["text"])
    with pytest.raises(Exception, match="normalized"):
        docs.drop_columns(["tokens"])
    docs.drop_columns(["tokens", "normalized"])
    assert docs.schema.names == ["id", "text", "stars"]
    docs.add(pa.table({"id": [4], "text": ["x"], "stars": [1]}))
    docs.drop_columns(["text"])


@pytest.mark.usefixtures("workers")
def test_a_function_that_was_dropped_is_said_to_be(db: lancedb.DBConnection, docs: Any) -> None:
    doubled = db.create_function(twice)
    docs.add_columns({"double": doubled(value=col("id"))})
    db.drop_function("twice", version=doubled.version)
    with pytest.raises(HttpError, match="twice"):
        docs.refresh_column_async("double")
    with pytest.raises(HttpError, match="twice"):
        docs.add_columns({"other": doubled(value=col("id"))})
    again = db.create_function(twice)
    assert again.object_id != doubled.object_id
    with pytest.raises(HttpError, match="another"):
        docs.refresh_column_async("double")


def test_columns_of_sql(lake: Lake, docs: Any) -> None:
    docs.add_columns(computed={"double": "id * 2", "shout": "upper(text)"})
    assert docs.schema.field("double").metadata[b"computed_column.expression"] == b"id * 2"
    assert [row["double"] for row in rows_of(lake, docs)] == [None, None, None]
    done = docs.refresh_column_async("double").wait(SOON)
    assert (done.rows_assigned, done.rows_failed, done.rows_remaining) == (3, 0, 0)
    docs.add(pa.table({"id": [4], "text": ["new"], "stars": [1]}))
    docs.update(where="id = 1", values={"id": 10})
    assert docs.refresh_column_async("double").wait(SOON).rows_assigned == 2
    assert docs.refresh_column_async("double").wait(SOON).rows_assigned == 0
    assert docs.refresh_column_async("shout").wait(SOON).rows_assigned == 4
    rows = rows_of(lake, docs)
    assert [row["double"] for row in rows] == [4, 6, 8, 20]
    assert [row["shout"] for row in rows] == ["FOO", "BAR BAZ QUX", "NEW", "HELLO WORLD"]
    with pytest.raises(Exception, match="takes no values"):
        docs.update(values={"double": 1})
    with pytest.raises(Exception, match="not a computed column"):
        docs.refresh_column_async("text")
    with pytest.raises(Exception, match="would read computed column"):
        docs.add_columns(computed={"more": "double + 1"})


def test_a_copy_has_values_and_computes_nothing(sql: Sql, lake: Lake, docs: Any) -> None:
    docs.add_columns(computed={"double": "id * 2"})
    docs.refresh_column_async("double").wait(SOON)
    sql.change(f"CREATE TABLE {docs.name}_copy AS SELECT * FROM {docs.name}")
    copied = lake.read(f"{docs.name}_copy")
    assert copied.schema.field("double").metadata is None
    sql.change(f"UPDATE {docs.name}_copy SET double = 1 WHERE id = 1")
    assert sorted(lake.read(f"{docs.name}_copy").column("double").to_pylist()) == [1, 4, 6]


def opened(server: LakebedServer) -> lancedb.DBConnection:
    address = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=address)


def test_functions_wait_for_a_worker_and_are_backed_up(make_server: Make, tmp_path: Path) -> None:
    server = make_server("first", data=tmp_path / "lake").start()
    docs = opened(server).create_table("docs", pa.table({"id": [1, 2]}))
    doubled = opened(server).create_function(twice)
    docs.add_columns({"double": doubled(value=col("id"))})
    job = docs.refresh_column_async("double")
    jobs = Jobs(server)
    assert jobs.describe(job.id)["job_type"] == "refresh_function_columns"
    wait_until(lambda: jobs.progress(job.id).get("waits_for"), "what it waits for", 20)
    assert "Python 3." in jobs.progress(job.id)["waits_for"]
    worker = Worker(server, "late").start()
    assert job.wait(SOON).rows_assigned == 2
    assert worker.stop() == 0
    assert server.terminate() == 0

    there, back = tmp_path / "there", tmp_path / "back"
    ok(tmp_path, "backup", "--data", str(tmp_path / "lake"), "--to", str(there))
    ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    second = served(make_server, "second", back, server)
    assert opened(second).get_function("twice", version="1") == doubled
    worker = Worker(second, "later").start()
    docs = opened(second).open_table("docs")
    docs.add(pa.table({"id": [7]}))
    assert docs.refresh_column_async("double").wait(SOON).rows_assigned == 1
    assert sorted(second.lake().read("docs").column("double").to_pylist()) == [2, 4, 14]
    worker.kill()


def registration(**changed: Any) -> dict[str, Any]:
    code = b"def f(a: int) -> int:\n    return a\n"
    return {
        "artifact": {
            "kind": "python_callable",
            "digest": f"sha256:{hashlib.sha256(code).hexdigest()}",
            "entrypoint": "f",
            "content": {"encoding": "base64", "data": base64.b64encode(code).decode()},
            "adapter": {"kind": "scalar_to_arrow_batch", "version": 1},
        },
        "signature": {
            "inputs": [{"name": "a", "arrow_type": "int64", "nullable": False}],
            "output": {"kind": "scalar", "arrow_type": "int64", "nullable": False},
        },
        "runtime": {
            "kind": "python",
            "python_version": "3.11",
            "environment": {"kind": "pip"},
        },
        **changed,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"artifact": {"digest": "sha256:00"}}, "digest"),
        ({"artifact": {"content": {"encoding": "base64", "data": "??"}}}, "base64"),
        ({"artifact": {"entrypoint": "os.system"}}, "entrypoint"),
        ({"artifact": {"kind": "pickle"}}, "pickle"),
        ({"runtime": {"python_version": "weird"}}, "python_version"),
        ({"runtime": {"environment": {"kind": "pip", "packages": ["--index-url=x"]}}}, "index-url"),
        ({"runtime": {"environment": {"kind": "docker"}}}, "docker"),
        ({"signature": {"output": {"kind": "scalar", "arrow_type": "wat"}}}, "wat"),
        (
            {
                "signature": {
                    "output": {
                        "kind": "named_struct",
                        "fields": [{"name": "error", "arrow_type": "utf8", "nullable": True}],
                    }
                }
            },
            "`error`",
        ),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_registrations_are_checked(
    server: LakebedServer, change: dict[str, Any], says: str
) -> None:
    body = registration()
    for part, fields in change.items():
        body[part] = {**body[part], **fields} if part in body else fields
    answer = server.http().post("/v1/function/f/create", body)
    assert answer.status in (400, 501), answer.text
    assert says in answer.text


def test_who_may_register(server: LakebedServer) -> None:
    made = server.http().ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()
    writer = server.http(made["key"])
    assert writer.post("/v1/function/f/create", registration()).status == 403
