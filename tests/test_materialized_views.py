"""Materialized views: made, refreshed from what changed, guarded and dropped."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from lancedb.remote.errors import HttpError

from support.flight import Lake
from support.http import Http
from support.lancedb import connect
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until

OWN = "__source_row_id"
KEY = "lakebed.materialized_view"


@pytest.fixture
def people(lake: Lake, table: str) -> str:
    """A table of ten rows."""
    lake.create(table, rows_of(range(10)))
    return table


def rows_of(ids: range) -> pa.Table:
    """Rows with a number, a name and a vector."""
    vectors = pa.array([[n, -n] for n in ids], pa.list_(pa.float32(), 2))
    return pa.table({"id": list(ids), "name": [f"n{n}" for n in ids], "v": vectors})


def same(sql: Sql, view: str, query: str) -> int:
    """The rows of a view, which have to be those of the query."""
    shown = sql.query(query)
    columns = ", ".join(f'"{name}"' for name in shown.column_names)
    stored = sql.rows(f"SELECT {columns} FROM {view}")
    assert sorted(stored, key=repr) == sorted(shown.to_pylist(), key=repr)
    return len(stored)


def folder_of(server: LakebedServer, table: str) -> str:
    """Where a table of the root namespace lies."""
    return str(Path(server.data) / "default" / f"{table}.lance")


def job_of(http: Http, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The record of a job that a route begins, once it has ended."""
    answer = http.post(path, body)
    assert answer.status == 202, answer.text
    return ended(http, answer.json()["job_id"])


def ended(http: Http, job: str) -> dict[str, Any]:
    """A job once it has ended."""

    def record() -> dict[str, Any] | None:
        found = http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()
        return found if found["job_state"] != "IN_PROGRESS" else None

    return wait_until(record, "the end of a job", 120)


# ---- by the client of LanceDB -----------------------------------------------------------------


def test_the_client_makes_and_refreshes_a_view(
    server: LakebedServer, sql: Sql, people: str
) -> None:
    db = connect(server)
    name = f"{people}_mv"
    select = {"id": "id", "shout": "upper(name)", "v": "v"}
    view = db.create_materialized_view(name, people, select=select, where="id >= 4")
    query = f"SELECT id, upper(name) AS shout, v FROM {people} WHERE id >= 4"
    assert view.table.count_rows() == 6
    assert view.table.schema.names == ["id", "shout", "v", OWN]
    assert "WHERE id >= 4" in view.definition.query
    assert same(sql, name, query) == 6
    source = db.open_table(people)
    source.add(rows_of(range(10, 13)))
    source.update(where="id = 5", values={"name": "five"})
    source.delete("id IN (4, 6, 11)")
    done = view.refresh()
    assert (done.mode, done.rows_written) == ("incremental", 3)
    assert done.source_version == source.version
    assert same(sql, name, query) == 6
    assert (view.refresh().mode, view.refresh().rows_written) == ("no_op", 0)
    # What the view does not show is no reason to write it.
    source.update(where="id = 0", values={"name": "zero"})
    done = view.refresh()
    assert (done.mode, done.source_version) == ("no_op", source.version)
    done = view.refresh(full=True)
    assert (done.mode, done.rows_written) == ("rebuild", 6)
    assert same(sql, name, query) == 6
    assert view.table.search([12.0, -12.0]).limit(1).to_list()[0]["shout"] == "N12"
    assert name in db.list_materialized_views()
    assert people not in db.list_materialized_views()
    assert db.open_materialized_view(name).definition == view.definition
    db.drop_materialized_view(name)
    assert name not in db.list_materialized_views()
    assert name not in db.table_names(limit=1000)
    assert source.count_rows() == 10


def test_a_view_without_data_is_filled_by_its_refresh(
    server: LakebedServer, sql: Sql, people: str
) -> None:
    db = connect(server)
    view = db.create_materialized_view(f"{people}_mv", people, with_no_data=True)
    assert view.table.count_rows() == 0
    assert view.table.schema.names == ["id", "name", "v", OWN]
    done = view.refresh()
    assert (done.mode, done.rows_written) == ("rebuild", 10)
    assert same(sql, view.name, f"SELECT id, name, v FROM {people}") == 10
    job = view.refresh_async(full=True)
    assert job.wait().mode == "rebuild"
    job.refresh()
    assert job.result["rows_deleted"] == 10


def test_a_view_shows_the_version_that_is_asked_for(
    server: LakebedServer, sql: Sql, people: str
) -> None:
    db = connect(server)
    view = db.create_materialized_view(f"{people}_mv", people, select=["id"])
    source = db.open_table(people)
    first = source.version
    source.delete("id < 3")
    second = source.version
    source.add(rows_of(range(20, 22)))
    done = view.refresh(source_version=second)
    assert (done.mode, done.source_version) == ("incremental", second)
    assert same(sql, view.name, f"SELECT id FROM {people} VERSION AS OF {second}") == 7
    done = view.refresh(source_version=first)
    assert (done.mode, done.source_version) == ("rebuild", first)
    assert same(sql, view.name, f"SELECT id FROM {people} VERSION AS OF {first}") == 10
    assert view.refresh().mode == "incremental"
    assert same(sql, view.name, f"SELECT id FROM {people}") == 9


def test_a_limit_makes_the_view_anew(server: LakebedServer, sql: Sql, people: str) -> None:
    db = connect(server)
    view = db.create_materialized_view(f"{people}_mv", people, select=["id"], limit=3)
    assert view.table.count_rows() == 3
    assert view.definition.query.endswith("LIMIT 3")
    db.open_table(people).delete("true")
    done = view.refresh()
    assert (done.mode, view.table.count_rows()) == ("rebuild", 0)
    top = f"{people}_top"
    sql.change(f"INSERT INTO {people} (id) VALUES (1), (9), (5)")
    query = f"SELECT id FROM {people} ORDER BY id DESC LIMIT 2"
    sql.change(f"CREATE MATERIALIZED VIEW {top} AS {query}")
    sql.change(f"INSERT INTO {people} (id) VALUES (7)")
    sql.change(f"REFRESH MATERIALIZED VIEW {top}")
    assert sorted(row["id"] for row in sql.rows(f"SELECT id FROM {top}")) == [7, 9]


def test_columns_of_any_name_and_tables_in_namespaces(
    server: LakebedServer, sql: Sql, lake: Lake, table: str
) -> None:
    lake.create(f"deep${table}", pa.table({"order": [1, 2], "Two Words": ["a", "b"]}))
    http = server.http()
    columns = '`Two Words` AS "Two Words", `order` AS "order"'
    query = f'SELECT {columns} FROM "{table}" WHERE `order` > 1'
    path = f"/v1/materialized_view/deep${table}_mv"
    done = job_of(http, f"{path}/create", {"query": query, "with_no_data": False})
    assert done["job_state"] == "DONE", done
    assert sql.rows(f'SELECT "Two Words", "order" FROM deep.{table}_mv') == [
        {"Two Words": "b", "order": 2}
    ]
    described = http.ok("POST", f"{path}/describe").json()
    assert described["source_namespace"] == ["deep"]
    assert described["projections"] == [["Two Words", "`Two Words`"], ["order", "`order`"]]
    assert described["filter"] == "`order` > 1"
    listed = http.ok("GET", "/v1/namespace/deep/materialized_view/list").json()
    assert listed["views"] == [f"{table}_mv"]
    all_columns = job_of(
        http,
        f"/v1/materialized_view/deep${table}_all/create",
        {"query": f'SELECT * FROM "{table}"'},
    )
    assert all_columns["result"]["rows_written"] == 2


# ---- in SQL -----------------------------------------------------------------------------------


def test_a_view_in_sql(sql: Sql, people: str) -> None:
    view = f"{people}_mv"
    query = f"SELECT id, name || '!' AS loud FROM {people} AS p WHERE p.id % 2 = 0"
    assert sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}") == 5
    assert same(sql, view, query) == 5
    with sql.refuses("ALREADY_EXISTS", view):
        sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}")
    assert sql.change(f"CREATE MATERIALIZED VIEW IF NOT EXISTS {view} AS {query}") == 0
    sql.change(f"DELETE FROM {people} WHERE id = 2")
    sql.change(f"UPDATE {people} SET name = 'x' WHERE id = 4")
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}") == 1
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}") == 0
    assert same(sql, view, query) == 4
    assert sql.change(f"REFRESH MATERIALIZED VIEW public.{view} FULL") == 4
    assert sql.change(f'REFRESH MATERIALIZED VIEW "{view}" WITH (full = true)') == 4
    kind = f"SELECT table_type FROM information_schema.tables WHERE table_name = '{view}'"
    assert sql.value(kind) == "BASE TABLE"
    assert sql.rows(f"SELECT name, source FROM materialized_views() WHERE name = '{view}'") == [
        {"name": view, "source": people}
    ]
    shown = f"SHOW MATERIALIZED VIEWS WHERE name >= '{view}' LIMIT 1"
    assert sql.rows(shown) == [{"name": view}]
    assert sql.value(f'DESCRIBE MATERIALIZED VIEW "{view}"') == query
    with sql.refuses("NOT_FOUND", "no materialized view"):
        sql.query(f"DESCRIBE MATERIALIZED VIEW {people}")
    # Its rows say what they were made of.
    rows = f"SELECT count(*) FROM {view} AS v JOIN (SELECT _rowid AS r, id FROM {people}) AS s"
    assert sql.value(f"{rows} ON v.{OWN} = s.r AND v.id = s.id") == 4
    sql.change(f"DROP MATERIALIZED VIEW {view}")
    with sql.refuses("NOT_FOUND", view):
        sql.change(f"DROP MATERIALIZED VIEW {view}")
    sql.change(f"DROP MATERIALIZED VIEW IF EXISTS {view}")
    with sql.refuses("INVALID_ARGUMENT", "no materialized view"):
        sql.change(f"DROP MATERIALIZED VIEW {people}")


def test_with_no_data_in_sql(sql: Sql, people: str) -> None:
    view = f"{people}_mv"
    options = "WITH (auto_refresh_enabled = false, auto_refresh_interval_seconds = 60.0)"
    text = f"CREATE MATERIALIZED VIEW {view} {options} AS SELECT id FROM {people}"
    assert sql.change(f"{text} WITH NO DATA") == 0
    assert sql.value(f"SELECT count(*) FROM {view}") == 0
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}") == 10
    with sql.refuses("UNIMPLEMENTED", "refreshed by itself"):
        sql.change(text.replace("false", "true").replace(view, f"{view}2"))


def test_a_view_of_a_view_and_an_index_on_it(server: LakebedServer, sql: Sql, people: str) -> None:
    one, two = f"{people}_one", f"{people}_two"
    sql.change(f"CREATE MATERIALIZED VIEW {one} AS SELECT id, name FROM {people}")
    sql.change(f"CREATE MATERIALIZED VIEW {two} AS SELECT * FROM {one} WHERE id > 3")
    db = connect(server)
    for column in ("id", OWN):
        db.open_table(one).create_scalar_index(column, replace=True)
    sql.change(f"UPDATE {people} SET name = 'x' WHERE id IN (3, 4)")
    sql.change(f"DELETE FROM {people} WHERE id = 9")
    sql.change(f"INSERT INTO {people} (id, name) VALUES (50, 'fifty')")
    assert sql.change(f"REFRESH MATERIALIZED VIEW {one}") == 3
    assert same(sql, one, f"SELECT id, name FROM {people}") == 10
    # A row of the view that is written again keeps its row id: the second view sees an update.
    changes = f"SELECT _change, id FROM changes('{one}', 4) ORDER BY id"
    kinds = {row["id"]: row["_change"] for row in sql.rows(changes)}
    assert kinds == {3: "update", 4: "update", 9: "delete", 50: "insert"}
    assert sql.change(f"REFRESH MATERIALIZED VIEW {two}") == 2
    assert same(sql, two, f"SELECT id, name FROM {people} WHERE id > 3") == 6
    assert sql.rows(f"SELECT name FROM {one} WHERE id = 50") == [{"name": "fifty"}]
    indexes = {index.name for index in db.open_table(one).list_indices()}
    assert indexes == {"id_idx", f"{OWN}_idx"}


def test_blobs_and_json_are_copied(sql: Sql, lake: Lake, table: str) -> None:
    blob = pa.field("img", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    document = pa.field("j", pa.string(), metadata={"ARROW:extension:name": "arrow.json"})
    schema = pa.schema([pa.field("id", pa.int64()), blob, document])
    rows = [[1, 2], [b"one", b"two"], ['{"a":1}', None]]
    lake.create(table, pa.table(rows, schema=schema))
    view = f"{table}_mv"
    query = f"SELECT *, json_get_int(j, 'a') AS a FROM {table}"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}")
    read = f"SELECT id, blob_bytes(img) AS img, j, a FROM {view} ORDER BY id"
    two = {"id": 2, "img": b"two", "j": None, "a": None}
    assert sql.rows(read) == [{"id": 1, "img": b"one", "j": '{"a":1}', "a": 1}, two]
    lake.write(table, pa.table([[3], [b"three"], ['{"a":3}']], schema=schema))
    sql.change(f"DELETE FROM {table} WHERE id = 1")
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}") == 1
    assert sql.rows(read) == [two, {"id": 3, "img": b"three", "j": '{"a":3}', "a": 3}]
    assert sql.value(f"SELECT id FROM {view} WHERE json_get_int(j, 'a') = 3") == 3


# ---- what is kept -----------------------------------------------------------------------------


def test_pylance_reads_the_view_and_what_it_shows(
    server: LakebedServer, sql: Sql, people: str
) -> None:
    view = f"{people}_mv"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS SELECT id, name FROM {people} WHERE id < 5")
    sql.change(f"DELETE FROM {people} WHERE id = 1")
    sql.change(f"REFRESH MATERIALIZED VIEW {view}")
    stored = lance.dataset(folder_of(server, view))
    assert sorted(stored.to_table().column("id").to_pylist()) == [0, 2, 3, 4]
    definition = json.loads(stored.config()[KEY])
    source = lance.dataset(folder_of(server, people))
    assert definition["source_version"] == source.version
    assert definition["source"] == people
    assert definition["projections"] == [["id", "id"], ["name", "name"]]
    # Each version says what it shows.
    for version in stored.versions():
        old = lance.dataset(folder_of(server, view), version=version["version"])
        shown = json.loads(old.config()[KEY]).get("source_version")
        ids = {} if shown is None else source.checkout_version(shown).to_table(filter="id < 5")
        expected = [] if shown is None else sorted(ids.column("id").to_pylist())
        assert sorted(old.to_table().column("id").to_pylist()) == expected


def test_nobody_but_a_refresh_changes_a_view(
    server: LakebedServer, sql: Sql, lake: Lake, people: str
) -> None:
    view = f"{people}_mv"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS SELECT id, name FROM {people}")
    before = lance.dataset(folder_of(server, view)).version
    for text in (
        f"INSERT INTO {view} (id, {OWN}) VALUES (1, 1)",
        f"UPDATE {view} SET name = 'x'",
        f"DELETE FROM {view} WHERE id = 1",
        f"ALTER TABLE {view} ADD COLUMN c INT",
        f"ALTER TABLE {view} ADD COLUMN c INT AS (id + 1)",
        f"ALTER TABLE {view} DROP COLUMN name",
        f"ALTER TABLE {view} RENAME COLUMN name TO title",
        f"CREATE OR REPLACE TABLE {view} AS SELECT 1 AS a",
        f"CALL restore('{view}', 1)",
    ):
        with sql.refuses("INVALID_ARGUMENT", "materialized view"):
            sql.change(text)
    table = connect(server).open_table(view)
    row = pa.table({"id": [1], "name": ["x"], OWN: pa.array([1], pa.uint64())})
    for write in (
        lambda: table.add(row),
        lambda: table.delete("id = 1"),
        lambda: table.merge_insert("id").when_matched_update_all().execute(row),
        lambda: table.add_columns({"c": "id + 1"}),
    ):
        with pytest.raises(HttpError, match="materialized view"):
            write()
    with lake.refuses("invalid_argument", "materialized view"):
        lake.write(view, row)
    assert lance.dataset(folder_of(server, view)).version == before
    # Where its bytes lie, and what is said about it, is not its rows.
    sql.change(f"CALL create_tag('{view}', 'gold')")
    server.http().ok("POST", f"/v1/table/{view}/compact", {})
    sql.change(f"ALTER TABLE {view} RENAME TO {view}_2")
    sql.change(f"DELETE FROM {people} WHERE id = 1")
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}_2") == 0
    assert same(sql, f"{view}_2", f"SELECT id, name FROM {people}") == 9
    # A branch and a clone are tables of their own.
    db = connect(server)
    branch = db.open_table(f"{view}_2").branches.create("exp")
    branch.delete("id = 2")
    assert branch.count_rows() == 8
    clone = db.clone_table(f"{view}_3", db.open_table(f"{view}_2").uri)
    clone.delete("id = 2")
    assert f"{view}_3" not in db.list_materialized_views()
    assert same(sql, f"{view}_2", f"SELECT id, name FROM {people}") == 9


@pytest.mark.parametrize(
    ("query", "fragment"),
    [
        ("SELECT count(*) AS n FROM {t}", "aggregates"),
        ("SELECT sum(id) AS n FROM {t}", "aggregates"),
        ("SELECT id FROM {t} GROUP BY id", "GROUP BY"),
        ("SELECT DISTINCT id FROM {t}", "DISTINCT"),
        ("SELECT a.id FROM {t} AS a JOIN {t} AS b ON a.id = b.id", "joins"),
        ("SELECT a.id FROM {t} AS a, {t} AS b", "joins"),
        ("SELECT id FROM {t} ORDER BY id", "ORDER BY"),
        ("SELECT id FROM {t} LIMIT 2 OFFSET 1", "OFFSET"),
        ("SELECT row_number() OVER () AS n FROM {t}", "windows"),
        ("SELECT random() AS r, id FROM {t}", "random"),
        ("SELECT id FROM {t} WHERE now() > '2026-01-01'", "now"),
        ("SELECT id FROM {t} WHERE id IN (SELECT 1)", "subqueries"),
        ("SELECT id FROM (SELECT id FROM {t}) AS q", "reads a table"),
        ("SELECT id FROM vector_search('{t}', 'v', ARRAY[1, 0], 1)", "reads a table"),
        ("SELECT id FROM {t} VERSION AS OF 1", "version"),
        ("SELECT id + 1 FROM {t}", "AS"),
        ("SELECT id, id FROM {t}", "two columns"),
        ("SELECT id AS __source_row_id FROM {t}", "system's"),
        ("SELECT _rowaddr AS a, id FROM {t}", "_rowaddr"),
        ("SELECT 1 AS one FROM {t}", "read a column"),
        ("SELECT unnest(v) AS x FROM {t}", "UNNEST"),
        ("WITH q AS (SELECT 1) SELECT id FROM {t}", "WITH"),
        ("SELECT id FROM {t} WHERE id = $1", "parameters"),
        ("SELECT nope FROM {t}", "nope"),
        ("SELECT id FROM no_such_table", "no_such_table"),
        ("SELECT id FROM other.public.{t}", "database"),
        ("SELECT id FROM {t}_mv", "itself"),
        ("DELETE FROM {t}", "query"),
        ("SELECT id FRM {t}", "Line: 1"),
    ],
)
def test_what_no_view_is_made_of_is_refused_before_a_job(
    server: LakebedServer, people: str, query: str, fragment: str
) -> None:
    http = server.http()
    body = {"query": query.format(t=people)}
    answer = http.post(f"/v1/materialized_view/{people}_mv/create", body)
    assert answer.status == 400, answer.text
    assert fragment in answer.json()["error"]
    jobs = http.ok("POST", "/v1/jobs/list", {}).json()["jobs"]
    assert not [job for job in jobs if job.get("table") == f"{people}_mv"]
    assert http.post(f"/v1/table/{people}_mv/exists").status == 404


def test_a_query_that_fails_leaves_no_view(server: LakebedServer, sql: Sql, people: str) -> None:
    view = f"{people}_mv"
    query = f"SELECT 10 / id AS tenth FROM {people}"
    with sql.refuses("INVALID_ARGUMENT", "zero"):
        sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}")
    done = job_of(server.http(), f"/v1/materialized_view/{view}/create", {"query": query})
    assert done["job_state"] == "FAILED"
    assert "zero" in done["failure"]["message"]
    with sql.refuses("NOT_FOUND"):
        sql.query(f"SELECT * FROM {view}")
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query} WHERE id > 0")
    sql.change(f"UPDATE {people} SET id = 0 WHERE id = 3")
    assert sql.change(f"REFRESH MATERIALIZED VIEW {view}") == 0
    assert same(sql, view, f"{query} WHERE id > 0") == 8


def test_a_view_outlives_its_table(
    server: LakebedServer, sql: Sql, lake: Lake, people: str
) -> None:
    view = f"{people}_mv"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS SELECT id FROM {people}")
    # Another name is the same table.
    sql.change(f"ALTER TABLE {people} RENAME TO {people}_2")
    sql.change(f"DELETE FROM {people}_2 WHERE id = 0")
    http = server.http()
    path = f"/v1/materialized_view/{view}"
    assert job_of(http, f"{path}/refresh", {})["result"]["mode"] == "incremental"
    assert http.ok("POST", f"{path}/describe").json()["source_table"] == f"{people}_2"
    sql.change(f"DROP TABLE {people}_2")
    answer = http.post(f"{path}/refresh", {})
    assert answer.status == 400
    assert "was dropped" in answer.json()["error"]
    with sql.refuses("INVALID_ARGUMENT", "was dropped"):
        sql.change(f"REFRESH MATERIALIZED VIEW {view}")
    assert sql.value(f"SELECT count(*) FROM {view}") == 9
    # Another table of the name takes its place, all of it.
    lake.create(f"{people}_2", rows_of(range(3)))
    result = job_of(http, f"{path}/refresh", {})["result"]
    assert result["mode"] == "rebuild"
    assert "replaced" in result["reason"]
    assert same(sql, view, f"SELECT id FROM {people}_2") == 3
    # So do other columns of that table, as far as they fit.
    sql.change(f"CREATE OR REPLACE TABLE {people}_2 AS SELECT CAST(7 AS BIGINT) AS id")
    assert job_of(http, f"{path}/refresh", {})["job_state"] == "DONE"
    assert same(sql, view, f"SELECT id FROM {people}_2") == 1
    sql.change(f"CREATE OR REPLACE TABLE {people}_2 AS SELECT 'x' AS id")
    done = job_of(http, f"{path}/refresh", {})
    assert done["job_state"] == "FAILED"
    assert "make it anew" in done["failure"]["message"]
    sql.change(f"CREATE OR REPLACE TABLE {people}_2 AS SELECT 1 AS other")
    done = job_of(http, f"{path}/refresh", {})
    assert done["job_state"] == "FAILED"
    assert "id" in done["failure"]["message"]


def test_a_version_that_was_cleaned_makes_the_view_anew(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server(env={"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}).start()
    lake, sql, http = server.lake(), Sql(server), server.http()
    lake.create("t", rows_of(range(10)))
    sql.change("CREATE MATERIALIZED VIEW v AS SELECT id FROM t WHERE id > 2")
    for n in range(3):
        sql.change(f"DELETE FROM t WHERE id = {n + 4}")
    keep = {"keep_versions": 1, "keep_age_ms": 0}
    assert 1 in http.ok("POST", "/v1/table/t/gc", keep).json()["versions"]
    result = job_of(http, "/v1/materialized_view/v/refresh", {})["result"]
    assert result["mode"] == "rebuild", result
    assert "cleaned" in result["reason"]
    assert same(sql, "v", "SELECT id FROM t WHERE id > 2") == 4
    sql.close()
    lake.close()


# ---- chance and force -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_changes_gives_the_rows_of_the_query(
    server: LakebedServer, sql: Sql, lake: Lake, table: str, seed: int
) -> None:
    dice = random.Random(seed)
    http = server.http()
    schema = pa.schema([("id", pa.int64()), ("a", pa.int64()), ("b", pa.string())])
    lake.create(table, pa.table([list(range(50)), [0] * 50, ["x"] * 50], schema=schema))
    view = f"{table}_mv"
    query = f"SELECT id, a * 2 AS twice, coalesce(b, '-') AS b FROM {table} WHERE a % 3 <> 1"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}")
    next_id = 50
    modes = []
    for _ in range(25):
        low = dice.randrange(next_id)
        span = f"id BETWEEN {low} AND {low + dice.randrange(8)}"
        action = dice.choice(["insert", "update", "update", "delete", "upsert", "compact", "look"])
        if action == "insert":
            count = dice.randrange(1, 6)
            ids = list(range(next_id, next_id + count))
            values = [dice.randrange(6) for _ in ids]
            lake.write(table, pa.table([ids, values, [None] * count], schema=schema))
            next_id += count
        elif action == "update":
            column = dice.choice([f"a = {dice.randrange(6)}", f"b = 'b{dice.randrange(9)}'"])
            sql.change(f"UPDATE {table} SET {column} WHERE {span}")
        elif action == "delete":
            sql.change(f"DELETE FROM {table} WHERE {span}")
        elif action == "upsert":
            ids = sorted(dice.sample(range(next_id + 3), 4))
            next_id = max(next_id, ids[-1] + 1)
            rows = pa.table([ids, [dice.randrange(6) for _ in ids], ["u"] * 4], schema=schema)
            lake.write(table, rows, mode="upsert", on=["id"])
        elif action == "compact":
            http.ok("POST", f"/v1/table/{dice.choice([table, view])}/compact", {})
        if action == "look" or dice.random() < 0.3:
            done = job_of(http, f"/v1/materialized_view/{view}/refresh", {})
            modes.append(done["result"]["mode"])
            same(sql, view, query)
    done = job_of(http, f"/v1/materialized_view/{view}/refresh", {})
    same(sql, view, query)
    assert modes.count("incremental") >= 3
    assert "rebuild" not in modes
    sources = sql.query(f"SELECT {OWN} FROM {view}").column(0).to_pylist()
    assert len(sources) == len(set(sources))


def test_refreshes_beside_each_other_write_no_row_twice(
    server: LakebedServer, sql: Sql, people: str
) -> None:
    view = f"{people}_mv"
    query = f"SELECT id, name FROM {people}"
    sql.change(f"CREATE MATERIALIZED VIEW {view} AS {query}")
    http = server.http()
    jobs = []
    for n in range(6):
        sql.change(f"INSERT INTO {people} (id, name) VALUES ({n + 100}, 'new')")
        answer = http.post(f"/v1/materialized_view/{view}/refresh", {"full": n == 3})
        jobs.append(answer.json()["job_id"])
        sql.change(f"REFRESH MATERIALIZED VIEW {view}")
    for job in jobs:
        assert ended(http, job)["job_state"] == "DONE"
    assert same(sql, view, query) == 16


def test_a_killed_refresh_leaves_what_was_shown_and_the_next_is_exact(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server().start()
    dice = random.Random(7)
    lake = server.lake()
    rows = 60_000
    lake.create("t", pa.table({"id": list(range(rows)), "a": [0] * rows}))
    lake.close()
    query = "SELECT id, a + 1 AS b FROM t WHERE a % 5 <> 3"
    sql = Sql(server)
    sql.change(f"CREATE MATERIALIZED VIEW v AS {query}")
    kills = 0
    for turn in range(6):
        sql.change(f"UPDATE t SET a = a + {turn + 1} WHERE id % 3 = {turn % 3}")
        sql.change(f"DELETE FROM t WHERE id % 97 = {turn}")
        sql.change(f"INSERT INTO t VALUES ({rows + turn}, {turn})")
        sql.close()
        http = server.http()
        full = turn == 4
        job = http.post("/v1/materialized_view/v/refresh", {"full": full}).json()["job_id"]
        time.sleep(dice.random() * 0.4)
        state = http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()["job_state"]
        server.kill()
        kills += state == "IN_PROGRESS"
        server.start()
        sql, http = Sql(server), server.http()
        shown = http.ok("POST", "/v1/materialized_view/v/describe").json()["source_version"]
        same(sql, "v", query.replace("FROM t", f"FROM t VERSION AS OF {shown}"))
        result = job_of(http, "/v1/materialized_view/v/refresh", {})["result"]
        assert result["mode"] in {"incremental", "no_op"}, result
        same(sql, "v", query)
    sql.close()
    assert kills >= 2, "no kill hit a refresh"
