"""Updates by SQL over HTTP: what they change, what they cost beside blobs, and what they refuse."""

import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.data import blobs, numbered
from support.flight import Lake
from support.http import Http, Response
from support.server import LakebedServer

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def http(server: LakebedServer) -> Http:
    """An HTTP client with the admin key."""
    return server.http()


def update(
    http: Http, table: str, updates: dict[str, str], predicate: str | None = None, **fields: object
) -> Response:
    """The request as the SDKs send it."""
    body = {"predicate": predicate, "updates": [list(pair) for pair in updates.items()], **fields}
    return http.post(f"/v1/table/{table}/update/", body)


def updated(http: Http, table: str, *args: object, **fields: object) -> tuple[int, int]:
    """Rows and version of an update that has to succeed."""
    answer = update(http, table, *args, **fields)
    assert answer.status == 200, answer.text
    body = answer.json()
    assert "updated_rows" not in body, "the SDK for Rust refuses an answer with both names"
    assert answer.headers["x-lancedb-version"] == str(body["version"])
    return body["rows_updated"], body["version"]


def by_id(rows: pa.Table) -> list[dict[str, object]]:
    """Rows as dicts, in the order of their ids."""
    return rows.sort_by("id").to_pylist()


def test_cells_change_and_nothing_else(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(5, age=pa.array([1, 2, None, 4, 5], pa.int32())))
    assert updated(http, table, {"age": "age + 10", "name": "'x' || name"}, "id >= 3") == (2, 2)
    assert by_id(lake.read(table)) == [
        {"id": 0, "name": "name 0", "age": 1},
        {"id": 1, "name": "name 1", "age": 2},
        {"id": 2, "name": "name 2", "age": None},
        {"id": 3, "name": "xname 3", "age": 14},
        {"id": 4, "name": "xname 4", "age": 15},
    ]
    assert by_id(lake.read(table, version=1))[3] == {"id": 3, "name": "name 3", "age": 4}


def test_all_rows_without_a_predicate(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(3))
    lake.write(table, numbered(3, start=3))
    assert updated(http, table, {"name": "'same'"}) == (6, 3)
    assert set(lake.read(table)["name"].to_pylist()) == {"same"}


def test_assignments_see_the_old_row(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, pa.table({"id": [1, 2], "a": [10, 20], "b": [100, 200]}))
    assert updated(http, table, {"a": "b", "b": "a"}, "id = 1") == (1, 2)
    assert by_id(lake.read(table))[0] == {"id": 1, "a": 100, "b": 10}


def test_nothing_is_committed_when_no_row_matches(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(3))
    assert updated(http, table, {"name": "'x'"}, "id > 99") == (0, 1)
    versions = http.ok("POST", f"/v1/table/{table}/version/list/").json()["versions"]
    assert [version["version"] for version in versions] == [1]


def test_null_and_values_of_other_types(lake: Lake, http: Http, table: str) -> None:
    rows = {
        "id": pa.array([1, 2]),
        "small": pa.array([1, 2], pa.int8()),
        "half": pa.array([1.0, 2.0], pa.float32()),
        "vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
        "tags": pa.array([["a"], ["b", "c"]]),
        "place": pa.array([{"x": 1}, {"x": 2}]),
        "when": pa.array([0, 1], pa.timestamp("us")),
    }
    lake.create(table, pa.table(rows))
    changes = {
        "small": "100.0",
        "half": "id",
        "vector": "[7.0, 8.5]",
        "tags": "NULL",
        "when": "timestamp '2026-01-01 00:00:00'",
    }
    assert updated(http, table, changes, "id = 2") == (1, 2)
    changed = by_id(lake.read(table))[1]
    assert changed["small"] == 100
    assert changed["half"] == 2.0
    assert changed["vector"] == [7.0, 8.5]
    assert changed["tags"] is None
    assert changed["place"] == {"x": 2}
    assert str(changed["when"]) == "2026-01-01 00:00:00"
    assert by_id(lake.read(table))[0]["tags"] == ["a"]


def test_an_expression_is_evaluated_for_matching_rows_only(
    lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, pa.table({"id": [1, 2], "text": ["7", "seven"], "n": [0, 0]}))
    assert updated(http, table, {"n": "CAST(text AS bigint)"}, "id = 1") == (1, 2)
    assert lake.read(table).sort_by("id")["n"].to_pylist() == [7, 0]
    answer = update(http, table, {"n": "CAST(text AS bigint)"})
    assert answer.status == 400
    assert "`n`" in answer.json()["error"]


def test_deleted_rows_stay_deleted(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(2_000))
    http.ok("POST", f"/v1/table/{table}/delete/", {"predicate": "id % 3 = 0 OR id < 1200"})
    left = [i for i in range(1_200, 2_000) if i % 3]
    assert updated(http, table, {"name": "upper(name)"}, "id >= 1500")[0] == sum(
        i >= 1_500 for i in left
    )
    rows = by_id(lake.read(table))
    assert [row["id"] for row in rows] == left
    assert all(
        row["name"] == (f"NAME {row['id']}" if row["id"] >= 1_500 else f"name {row['id']}")
        for row in rows
    )


@pytest.mark.parametrize(
    ("updates", "predicate", "says"),
    [
        ({"small": "300"}, None, "`small`"),
        ({"small": "1.5"}, None, "`small`"),
        ({"small": "'many'"}, None, "`small`"),
        ({"must": "NULL"}, None, "`must`"),
        ({"nmae": "'x'"}, None, "nearest: name"),
        ({"name": "nmae"}, None, "nmae"),
        ({"name": "upper("}, None, "`name`"),
        ({"name": "repeat('x', 1000000000)"}, None, "not allowed"),
        ({"name": "'x'"}, "nmae = 1", "filter"),
        ({"name": "'x'"}, "id =", "filter"),
        ({"name": "'x'"}, "repeat(name, 1000000) = 'x'", "not allowed"),
        ({"place.x": "1"}, None, "place.x"),
        ({"_rowid": "1"}, None, "_rowid"),
        ({"data": "x'00'"}, None, "`data`"),
        ({"name": "data"}, None, "`data`"),
        ({"name": ""}, None, "`name`"),
        ({}, None, "column"),
    ],
)
def test_what_is_refused(
    lake: Lake, http: Http, table: str, updates: dict[str, str], predicate: str | None, says: str
) -> None:
    columns = {
        "name": pa.array(["a", "b"]),
        "small": pa.array([1, 2], pa.int8()),
        "must": pa.array([1, 2]),
        "place": pa.array([{"x": 1}, {"x": 2}]),
    }
    rows = blobs([b"1", b"2"], **columns)
    at = rows.schema.get_field_index("must")
    schema = rows.schema.set(at, rows.schema.field(at).with_nullable(False))
    lake.create(table, rows.cast(schema))
    answer = update(http, table, updates, predicate)
    assert answer.status == (501 if "place.x" in updates else 400), answer.text
    assert says in answer.json()["error"]
    versions = http.ok("POST", f"/v1/table/{table}/version/list/").json()["versions"]
    assert len(versions) == 1


def test_one_column_is_not_assigned_twice(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(2))
    body = {"predicate": None, "updates": [["name", "'a'"], ["name", "'b'"]]}
    answer = http.post(f"/v1/table/{table}/update/", body)
    assert answer.status == 400
    assert "`name`" in answer.json()["error"]
    assert http.post(f"/v1/table/{table}/update/", body | {"upsert": 1}).status == 400


def test_an_unknown_table_and_branch(lake: Lake, http: Http, table: str) -> None:
    answer = update(http, table, {"a": "1"})
    assert (answer.status, answer.json()["code"]) == (404, 4)
    lake.create(table, numbered(1))
    answer = update(http, table, {"name": "'x'"}, branch="nowhere")
    assert (answer.status, answer.json()["code"]) == (404, 22)


def test_pictures_are_not_written_again(server: LakebedServer, lake: Lake, http: Http) -> None:
    noise = np.random.default_rng(3)
    pictures = [noise.bytes(size) for size in [20 * KIB] * 400 + [300 * KIB] * 8 + [5 * MIB]]
    captions = pa.array([f"caption {i}" for i in range(len(pictures))])
    lake.create("pictures", blobs(pictures, caption=captions))
    before = server.files("default/pictures.lance")
    assert sum(before.values()) > 15 * MIB
    assert updated(http, "pictures", {"caption": "upper(caption)"}, "id % 2 = 0") == (205, 2)
    after = server.files("default/pictures.lance")
    assert before.items() <= after.items()
    written = sum(size for path, size in after.items() if path not in before)
    assert written < 100 * KIB, f"{written} bytes were written"
    assert lake.read("pictures", blobs="bytes")["data"].to_pylist() == pictures
    names = lake.read("pictures", columns=["caption"])["caption"].to_pylist()
    assert names[:3] == ["CAPTION 0", "caption 1", "CAPTION 2"]


def test_row_ids_and_indexes_stay_right(server: LakebedServer, lake: Lake, http: Http) -> None:
    table = "indexed"
    lake.create(table, blobs([b"x"] * 3_000, label=pa.array(["old"] * 3_000)))
    ids = lake.read(table, columns={"id": "id", "row": "_rowid"}).to_pylist()
    # A partial upsert beside blobs makes an index on its key, here on the column that changes next.
    lake.upsert(table, pa.table({"id": [5], "label": ["fifth"]}), ["id"])
    lake.write(table, blobs([b"y"] * 10, start=3_000, label=pa.array(["new"] * 10)))
    assert updated(http, table, {"id": "id + 10000"}, "id BETWEEN 100 AND 199")[0] == 100
    for predicate, rows in [
        ("id = 150", 0),
        ("id = 10150", 1),
        ("id = 99", 1),
        ("id >= 10000", 100),
        ("id < 3000", 2_900),
        ("id = 3005", 1),
    ]:
        counted = http.ok("POST", f"/v1/table/{table}/count_rows/", {"predicate": predicate})
        assert counted.json() == rows, predicate
    moved = {row["id"]: row["row"] for row in ids}
    for row in lake.read(table, columns={"id": "id", "row": "_rowid"}).to_pylist():
        if row["id"] < 3_000 or row["id"] >= 10_000:
            assert moved[row["id"] % 10_000] == row["row"]
    assert updated(http, table, {"label": "'seen'"}, "id = 10150")[0] == 1
    found = lake.read(table, filter="id = 10150", columns=["id", "label"])
    assert found.to_pylist() == [{"id": 10150, "label": "seen"}]
    lance.dataset(server.table_path(table)).validate()


def test_only_changed_rows_count_as_changed(
    server: LakebedServer, lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, numbered(100))
    updated(http, table, {"name": "'x'"}, "id IN (3, 50)")
    columns = ["id", "_row_last_updated_at_version", "_row_created_at_version"]
    rows = lance.dataset(server.table_path(table)).to_table(columns=columns).to_pylist()
    assert {row["id"] for row in rows if row["_row_last_updated_at_version"] == 2} == {3, 50}
    assert {row["_row_created_at_version"] for row in rows} == {1}


def test_a_branch_is_updated_alone(server: LakebedServer, lake: Lake, http: Http) -> None:
    lake.create("branched", numbered(4))
    lance.dataset(server.table_path("branched")).create_branch("exp")
    assert updated(http, "branched", {"name": "'b'"}, "id < 2", branch="exp")[0] == 2
    assert lake.read("branched", branch="exp")["name"].to_pylist()[:2] == ["b", "b"]
    assert lake.read("branched")["name"].to_pylist()[:2] == ["name 0", "name 1"]
    body = {"predicate": "id = 3", "branch": "exp"}
    assert http.ok("POST", "/v1/table/branched/delete/", body).json()["num_deleted_rows"] == 1
    count = http.ok("POST", "/v1/table/branched/count_rows/", {"branch": "exp"}).json()
    assert (count, lake.read("branched").num_rows) == (3, 4)


def test_concurrent_appends_and_updates_lose_nothing(
    server: LakebedServer, lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, pa.table({"id": [0, 1, 2, 3], "n": [0, 0, 0, 0]}))
    rounds, errors = 12, []

    def guarded(work: object) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def count(row: int) -> None:
        for _ in range(rounds):
            updated(http, table, {"n": "n + 1"}, f"id = {row}")

    def append(start: int) -> None:
        writer = server.lake()
        for i in range(rounds):
            writer.write(table, pa.table({"id": [start + i], "n": [0]}))
        writer.close()

    threads = [guarded(lambda row=row: count(row)) for row in range(4)]
    threads += [guarded(lambda start=start: append(start)) for start in (100, 200)]
    for thread in threads:
        thread.join()
    assert errors == []
    rows = {row["id"]: row["n"] for row in lake.read(table).to_pylist()}
    assert [rows[row] for row in range(4)] == [rounds] * 4
    assert len(rows) == 4 + 2 * rounds


def test_a_reader_may_not_update(server: LakebedServer, lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(1))
    key = http.ok("POST", "/v1/keys", {"name": "r", "role": "read"}).json()["key"]
    answer = update(server.http(key), table, {"name": "'x'"})
    assert (answer.status, answer.json()["code"]) == (403, 15)
