"""Columns are added, altered and dropped over HTTP; nothing of the others is written for it."""

import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.data import blob_field, blobs, numbered
from support.flight import Lake
from support.http import Http, Response
from support.server import LakebedServer

KIB = 1 << 10
ARROW_STREAM = "application/vnd.apache.arrow.stream"


@pytest.fixture
def http(server: LakebedServer) -> Http:
    """An HTTP client with the admin key."""
    return server.http()


def ipc(schema: pa.Schema, *batches: pa.RecordBatch) -> bytes:
    """An Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def add_null(http: Http, table: str, schema: pa.Schema, branch: str = "") -> Response:
    """Adds columns of nulls as the SDKs ask for them."""
    path = f"/v1/table/{table}/add_columns/" + (f"?branch={branch}" if branch else "")
    return http.request("POST", path, ipc(schema), {"content-type": ARROW_STREAM})


def add_sql(http: Http, table: str, columns: dict[str, str], **fields: object) -> Response:
    """Adds computed columns."""
    new = [{"name": name, "expression": sql} for name, sql in columns.items()]
    return http.post(f"/v1/table/{table}/add_columns/", {"new_columns": new, **fields})


def alter(http: Http, table: str, *alterations: dict[str, object], **fields: object) -> Response:
    """Alters columns."""
    body = {"alterations": list(alterations), **fields}
    return http.post(f"/v1/table/{table}/alter_columns/", body)


def drop(http: Http, table: str, *columns: str, **fields: object) -> Response:
    """Drops columns."""
    return http.post(f"/v1/table/{table}/drop_columns/", {"columns": list(columns), **fields})


def done(answer: Response) -> int:
    """The version of a change that has to succeed."""
    assert answer.status == 200, answer.text
    version = answer.json()["version"]
    assert answer.headers["x-lancedb-version"] == str(version)
    return version


def versions(http: Http, table: str) -> list[int]:
    """The versions of a table."""
    listing = http.ok("POST", f"/v1/table/{table}/version/list/").json()
    return [entry["version"] for entry in listing["versions"]]


def test_null_columns_are_metadata(server: LakebedServer, lake: Lake, http: Http) -> None:
    lake.create("nulls", numbered(1_000))
    before = server.files("default/nulls.lance/data")
    added = pa.schema(
        [
            pa.field("score", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), 4)),
            pa.field("note", pa.string(), metadata={"unit": "none"}),
        ]
    )
    assert done(add_null(http, "nulls", added)) == 2
    assert server.files("default/nulls.lance/data") == before
    rows = lake.read("nulls")
    assert rows.column_names == ["id", "name", "score", "vector", "note"]
    assert rows["score"].null_count == rows["vector"].null_count == 1_000
    assert rows.schema.field("note").metadata[b"unit"] == b"none"
    row = {"id": [5000], "name": ["z"], "score": [1.5], "vector": [[1, 2, 3, 4]]}
    lake.write(
        "nulls",
        pa.table(
            row,
            schema=added.remove(2)
            .insert(0, numbered(0).schema.field(0))
            .insert(1, numbered(0).schema.field(1)),
        ),
    )
    assert lake.read("nulls", filter="score > 1")["id"].to_pylist() == [5000]
    lance.dataset(server.table_path("nulls")).validate()


def test_a_null_blob_column(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(3))
    done(add_null(http, table, pa.schema([blob_field("picture")])))
    rows = lake.read(table, blobs="bytes")
    assert rows["picture"].to_pylist() == [None] * 3
    more = pa.table(
        [pa.array([9]), pa.array([b"p" * 100], pa.large_binary())],
        schema=pa.schema([pa.field("id", pa.int64()), blob_field("picture")]),
    )
    lake.write(table, more)
    rows = lake.read(table, blobs="bytes").sort_by("id")
    assert rows["picture"].to_pylist() == [None] * 3 + [b"p" * 100]
    updated = http.post(
        f"/v1/table/{table}/update/", {"predicate": "id = 9", "updates": [["name", "'nine'"]]}
    )
    assert updated.status == 200, updated.text
    assert lake.read(table, blobs="bytes").sort_by("id")["picture"].to_pylist()[3] == b"p" * 100


def test_null_columns_of_an_empty_table(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(0))
    done(add_null(http, table, pa.schema([pa.field("x", pa.int32())])))
    done(add_sql(http, table, {"twice": "id * 2"}))
    done(alter(http, table, {"path": "x", "data_type": {"type": "int64"}}))
    rows = lake.read(table)
    assert rows.schema.field("twice").type == rows.schema.field("x").type == pa.int64()
    lake.write(table, pa.table({"id": [1], "name": ["a"], "x": [7], "twice": [2]}))
    assert lake.read(table).to_pylist() == [{"id": 1, "name": "a", "x": 7, "twice": 2}]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([pa.field("name", pa.string())], "`name` exists"),
        ([pa.field("new", pa.string(), nullable=False)], "`new`"),
        ([pa.field("_rowid", pa.uint64())], "_rowid"),
        ([pa.field("m", pa.map_(pa.string(), pa.string()))], "`m`"),
        ([pa.field("a", pa.int8()), pa.field("a", pa.int8())], "`a`"),
        ([], "column"),
    ],
)
def test_null_columns_that_are_refused(
    lake: Lake, http: Http, table: str, fields: list[pa.Field], says: str
) -> None:
    lake.create(table, numbered(2))
    answer = add_null(http, table, pa.schema(fields))
    assert answer.status == 400, answer.text
    assert says in answer.json()["error"]
    assert versions(http, table) == [1]


def test_an_arrow_body_with_rows_or_garbage(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(2))
    schema = pa.schema([pa.field("x", pa.int32())])
    rows = ipc(schema, pa.record_batch([pa.array([1, 2], pa.int32())], schema=schema))
    path, kind = f"/v1/table/{table}/add_columns/", {"content-type": ARROW_STREAM}
    answer = http.request("POST", path, rows, kind)
    assert answer.status == 400
    assert "rows" in answer.json()["error"]
    for garbage in (b"", b"garbage", b"\xff\xff\xff\xff\xff\xff\xff\x7f", ipc(schema)[:40]):
        assert http.request("POST", path, garbage, kind).status == 400, garbage
    assert versions(http, table) == [1]


def test_computed_columns(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(3_000))
    http.ok("POST", f"/v1/table/{table}/delete/", {"predicate": "id < 100 OR id = 2000"})
    assert done(add_sql(http, table, {"twice": "id * 2", "label": "upper(name)", "one": "1"})) == 3
    rows = lake.read(table).to_pylist()
    assert len(rows) == 2_899
    assert all(row["twice"] == row["id"] * 2 for row in rows)
    assert all(row["label"] == f"NAME {row['id']}" and row["one"] == 1 for row in rows)
    lake.write(table, numbered(1, start=9_000))
    assert lake.read(table, filter="id = 9000")["twice"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("columns", "status", "says"),
    [
        ({"x": "nmae"}, 400, "nmae"),
        ({"x": "id +"}, 400, "`x`"),
        ({"x": "repeat(name, 100000000)"}, 400, "not allowed"),
        ({"x": "CAST(name AS int)"}, 400, "`x`"),
        ({"x": "length(data)"}, 400, "`data`"),
        ({"name": "id"}, 400, "`name` exists"),
        ({"x": ""}, 400, "`x`"),
        ({"": "1"}, 400, "not allowed"),
        ({}, 400, "new_columns"),
    ],
)
def test_computed_columns_that_are_refused(
    server: LakebedServer,
    lake: Lake,
    http: Http,
    table: str,
    columns: dict[str, str],
    status: int,
    says: str,
) -> None:
    lake.create(table, blobs([b"x"] * 3, name=pa.array(["a", "b", "c"])))
    before = server.files(f"default/{table}.lance")
    answer = add_sql(http, table, columns)
    assert answer.status == status, answer.text
    assert says in answer.json()["error"]
    assert versions(http, table) == [1]
    assert server.files(f"default/{table}.lance") == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"new_columns": [{"name": "x", "virtual_column": {}}]}, 501),
        (
            {
                "new_columns": [{"name": "x", "computed": "id * 2"}],
                "auto_refresh_interval_seconds": 5,
            },
            400,
        ),
        (
            {"new_columns": [{"name": "x", "all_null": True}], "function": {"application": "f"}},
            400,
        ),
        ({"new_columns": [{"name": "x", "expression": "1"}], "auto_refresh_enabled": True}, 400),
        (
            {
                "new_columns": [
                    {"name": "x", "computed": "id * 2"},
                    {"name": "y", "expression": "id"},
                ]
            },
            400,
        ),
    ],
)
def test_what_is_not_acted_on_is_refused(
    lake: Lake, http: Http, table: str, body: dict, status: int
) -> None:
    lake.create(table, numbered(1))
    answer = http.post(f"/v1/table/{table}/add_columns/", body)
    assert answer.status == status, answer.text
    assert versions(http, table) == [1]


def test_names_and_nulls(server: LakebedServer, lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(3, place=pa.array([{"x": 1}, {"x": 2}, None])))
    before = server.files(f"default/{table}.lance/data")
    changes = [
        {"path": "name", "rename": "title"},
        {"path": "id", "nullable": False},
        {"path": "place.x", "rename": "east"},
    ]
    assert done(alter(http, table, *changes)) == 2
    schema = lake.read(table).schema
    assert schema.names == ["id", "title", "place"]
    assert not schema.field("id").nullable
    assert schema.field("place").type.field(0).name == "east"
    assert server.files(f"default/{table}.lance/data") == before
    assert lake.read(table, filter="title = 'name 1'")["id"].to_pylist() == [1]
    with lake.refuses("invalid_argument", "id"):
        lake.write(table, pa.table({"title": ["x"]}))
    done(alter(http, table, {"path": "id", "nullable": True}))
    lake.write(table, pa.table({"title": ["x"]}))
    answer = alter(http, table, {"path": "id", "nullable": False})
    assert answer.status == 400
    assert "`id`" in answer.json()["error"]


def test_types(server: LakebedServer, lake: Lake, http: Http, table: str) -> None:
    rows = {
        "id": pa.array(range(5_000), pa.int64()),
        "half": pa.array([0.5] * 5_000, pa.float32()),
        "text": pa.array([f"t{i}" for i in range(5_000)]),
        "vector": pa.array([[1.0, 2.0]] * 5_000, pa.list_(pa.float32(), 2)),
        "other": pa.array(range(5_000)),
    }
    lake.create(table, pa.table(rows))
    http.ok("POST", f"/v1/table/{table}/delete/", {"predicate": "id < 10"})
    vector = {"name": "item", "nullable": True, "type": {"type": "halffloat"}}
    changes = [
        {"path": "id", "data_type": {"type": "int32"}, "rename": "number", "nullable": None},
        {"path": "half", "data_type": "float64"},
        {"path": "text", "data_type": {"type": "large_string"}},
        {
            "path": "vector",
            "data_type": {"type": "fixed_size_list", "fields": [vector], "length": 2},
        },
    ]
    assert done(alter(http, table, *changes)) == 3
    found = lake.read(table)
    assert found.column_names == ["number", "half", "text", "vector", "other"]
    assert [field.type for field in found.schema] == [
        pa.int32(),
        pa.float64(),
        pa.large_string(),
        pa.list_(pa.float16(), 2),
        pa.int64(),
    ]
    assert found["number"].to_pylist() == found["other"].to_pylist() == list(range(10, 5_000))
    assert set(found["half"].to_pylist()) == {0.5}
    lake.write(table, pa.table({"number": pa.array([9_999], pa.int32()), "other": [9_999]}))
    assert lake.read(table, filter="number = 9999")["text"].to_pylist() == [None]
    assert lake.read(table, version=1).schema.field("id").type == pa.int64()
    lance.dataset(server.table_path(table)).validate()


@pytest.mark.parametrize(
    ("alteration", "status", "says"),
    [
        ({"path": "id", "data_type": {"type": "int8"}}, 400, "`id`"),
        ({"path": "id", "data_type": {"type": "string"}}, 400, "`id`"),
        ({"path": "id", "data_type": {"type": "integer"}}, 400, "integer"),
        ({"path": "id", "data_type": {"type": "list"}}, 400, "fields"),
        ({"path": "data", "data_type": {"type": "large_binary"}}, 400, "`data`"),
        ({"path": "place.x", "data_type": {"type": "int32"}}, 501, "place.x"),
        ({"path": "nmae", "rename": "x"}, 400, "nearest: name"),
        ({"path": "name", "rename": "id"}, 400, "`id`"),
        ({"path": "name", "rename": "_rowid"}, 400, "_rowid"),
        ({"path": "name", "rename": "a\nb"}, 400, "not allowed"),
        ({"path": "name"}, 400, "`name`"),
        ({"path": "name", "virtual_column": {"a": 1}}, 501, "virtual"),
    ],
)
def test_alterations_that_are_refused(
    lake: Lake, http: Http, table: str, alteration: dict[str, object], status: int, says: str
) -> None:
    columns = {"name": pa.array(["a", "b"]), "place": pa.array([{"x": 1}, {"x": 2}])}
    lake.create(table, blobs([b"1", b"2"], start=1_000, **columns))
    answer = alter(http, table, alteration)
    assert answer.status == status, answer.text
    assert says in answer.json()["error"]
    assert versions(http, table) == [1]


def test_an_indexed_column_keeps_its_type(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, blobs([b"1"], label=pa.array(["a"])))
    lake.upsert(table, pa.table({"id": [0], "label": ["b"]}), ["id"])
    answer = alter(http, table, {"path": "id", "data_type": {"type": "int32"}})
    assert answer.status == 400
    assert "index" in answer.json()["error"]
    done(alter(http, table, {"path": "id", "rename": "key"}))
    assert lake.read(table, filter="key = 0")["label"].to_pylist() == ["b"]


def test_columns_are_dropped(server: LakebedServer, lake: Lake, http: Http, table: str) -> None:
    lake.create(table, blobs([b"x" * KIB] * 5, name=pa.array(list("abcde"))))
    before = server.files(f"default/{table}.lance/data")
    assert done(drop(http, table, "data")) == 2
    assert lake.read(table).column_names == ["id", "name"]
    assert server.files(f"default/{table}.lance/data") == before
    answer = drop(http, table, "id", "name")
    assert answer.status == 400, answer.text
    answer = drop(http, table, "data")
    assert (answer.status, answer.json()["code"]) == (400, 12), answer.text
    assert drop(http, table).status == 400
    # A new column of that name has none of the old values.
    done(add_null(http, table, pa.schema([blob_field("data")])))
    assert lake.read(table, blobs="bytes")["data"].null_count == 5
    assert lake.read(table, version=1, blobs="bytes")["data"].to_pylist() == [b"x" * KIB] * 5


def test_pictures_are_not_written_again(server: LakebedServer, lake: Lake, http: Http) -> None:
    noise = np.random.default_rng(5)
    pictures = [noise.bytes(20 * KIB) for _ in range(300)]
    lake.create("heavy", blobs(pictures, caption=pa.array([f"c{i}" for i in range(300)])))
    before = server.files("default/heavy.lance")
    done(add_sql(http, "heavy", {"long": "caption || '!'"}))
    done(add_null(http, "heavy", pa.schema([pa.field("score", pa.float32())])))
    done(alter(http, "heavy", {"path": "id", "data_type": {"type": "int32"}}))
    done(alter(http, "heavy", {"path": "data", "rename": "picture"}))
    done(drop(http, "heavy", "caption"))
    after = server.files("default/heavy.lance")
    assert before.items() <= after.items()
    written = sum(size for path, size in after.items() if path not in before)
    assert written < 150 * KIB, f"{written} bytes were written"
    rows = lake.read("heavy", blobs="bytes")
    assert rows.column_names == ["id", "picture", "long", "score"]
    assert rows["picture"].to_pylist() == pictures


def test_metadata_of_fields_and_schema(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, blobs([b"x"], name=pa.array(["a"])))
    path = f"/v1/table/{table}/update_field_metadata/"
    update = {"path": "name", "metadata": {"unit": "m", "note": "x"}, "replace": False}
    assert done(http.post(path, {"updates": [update]})) == 2
    update = {"path": "name", "metadata": {"note": None, "by": "me"}, "replace": False}
    done(http.post(path, {"updates": [update]}))
    field = lake.read(table).schema.field("name")
    assert field.metadata == {b"unit": b"m", b"by": b"me"}
    done(http.post(path, {"updates": [{"path": "name", "metadata": {"a": "b"}, "replace": True}]}))
    assert lake.read(table).schema.field("name").metadata == {b"a": b"b"}
    for bad in (
        {"path": "data", "metadata": {"ARROW:extension:name": None}, "replace": False},
        {"path": "data", "metadata": {"a": "b"}, "replace": True},
        {"path": "name", "metadata": {"lance-encoding:blob": "true"}, "replace": False},
        {"path": "nmae", "metadata": {"a": "b"}, "replace": False},
    ):
        assert http.post(path, {"updates": [bad]}).status == 400, bad
    path = f"/v1/table/{table}/schema_metadata/update"
    answer = http.ok("POST", path, {"owner": "me", "kind": "stamps"})
    assert answer.json() == {"owner": "me", "kind": "stamps"}
    assert http.ok("POST", path, {"owner": "you"}).json() == {"owner": "you"}
    assert lake.read(table).schema.metadata[b"owner"] == b"you"


def test_a_primary_key_is_noted_once(lake: Lake, http: Http, table: str) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("v", pa.int64())])
    lake.create(table, pa.table([[1], [2]], schema=schema))
    path = f"/v1/table/{table}/update_field_metadata/"
    key = {"lance-schema:unenforced-primary-key:position": "1"}
    done(http.post(path, {"updates": [{"path": "id", "metadata": key, "replace": False}]}))
    answer = http.post(path, {"updates": [{"path": "id", "metadata": key, "replace": False}]})
    assert answer.status == 400, answer.text


def test_branches_have_their_own_columns(server: LakebedServer, lake: Lake, http: Http) -> None:
    lake.create("branched", numbered(3))
    lance.dataset(server.table_path("branched")).create_branch("exp")
    done(add_sql(http, "branched", {"twice": "id * 2"}, branch="exp"))
    done(add_null(http, "branched", pa.schema([pa.field("x", pa.int8())]), branch="exp"))
    done(alter(http, "branched", {"path": "name", "rename": "title"}, branch="exp"))
    done(drop(http, "branched", "x", branch="exp"))
    assert lake.read("branched").column_names == ["id", "name"]
    rows = lake.read("branched", branch="exp")
    assert rows.column_names == ["id", "title", "twice"]
    assert rows["twice"].to_pylist() == [0, 2, 4]


def test_appends_beside_new_columns_lose_nothing(
    server: LakebedServer, lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, numbered(10))
    stop, appended, errors = threading.Event(), [10], []

    def append() -> None:
        writer = server.lake()
        try:
            while not stop.is_set():
                writer.write(table, numbered(1, start=1_000 + appended[0]))
                appended[0] += 1
        except Exception as error:
            errors.append(error)
        finally:
            writer.close()

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for i in range(6):
            done(add_sql(http, table, {f"c{i}": "id + 1"}))
            done(add_null(http, table, pa.schema([pa.field(f"n{i}", pa.int32())])))
        done(drop(http, table, "c0", "n0"))
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert appended[0] > 12
    rows = lake.read(table)
    assert rows.num_rows == len(set(rows["id"].to_pylist())) == appended[0]
    assert rows.column_names == ["id", "name", *(f"{x}{i}" for i in range(1, 6) for x in "cn")]
    assert all(row["c1"] in (None, row["id"] + 1) for row in rows.to_pylist())


def test_a_change_survives_a_restart(own_server: LakebedServer) -> None:
    lake, http = own_server.lake(), own_server.http()
    lake.create("kept", numbered(3))
    done(add_sql(http, "kept", {"twice": "id * 2"}))
    done(alter(http, "kept", {"path": "id", "data_type": {"type": "int32"}}))
    lake.close()
    own_server.kill()
    own_server.start()
    rows = own_server.lake().read("kept")
    assert rows["twice"].to_pylist() == [0, 2, 4]
    assert rows.schema.field("id").type == pa.int32()
