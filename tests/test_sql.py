"""Queries in SQL through ADBC: answers, names, versions, push-down, parameters, limits."""

import datetime as dt
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until

ROWS = 50_000


@pytest.fixture(scope="module")
def points(module_server: LakebedServer) -> pa.Table:
    """The table `points`: numbers, text, times, lists and a null now and then."""
    random = np.random.default_rng(7)
    table = pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "k": pa.array([n % 7 for n in range(ROWS)], pa.int32()),
            "v": pa.array(random.normal(size=ROWS)),
            "Name": pa.array([None if n % 11 == 0 else f"n{n % 100}" for n in range(ROWS)]),
            "at": pa.array(
                [dt.datetime(2026, 1, 1) + dt.timedelta(seconds=n) for n in range(ROWS)],
                pa.timestamp("us"),
            ),
            "tags": pa.array([["a", "b"][: n % 3] for n in range(ROWS)], pa.list_(pa.string())),
            "vec": pa.array(
                list(random.normal(size=(ROWS, 4)).astype("f4")), pa.list_(pa.float32(), 4)
            ),
        }
    )
    lake = module_server.lake()
    lake.create("points", table)
    lake.create("deep$er$points", table.slice(0, 10))
    lake.close()
    return table


# ---- answers and names ----------------------------------------------------------------------


def test_rows_are_those_of_do_get(sql: Sql, lake: Lake, points: pa.Table) -> None:
    answered = sql.query("SELECT * FROM points").sort_by("id")
    assert answered.combine_chunks().equals(lake.read("points").combine_chunks())
    assert answered.column_names == points.column_names


def test_an_aggregate_is_right(sql: Sql, points: pa.Table) -> None:
    found = sql.rows(
        "SELECT k, COUNT(*) AS n, Avg(v) AS mean FROM points WHERE v > 0.5 GROUP BY k ORDER BY k"
    )
    kept = points.filter(pc.field("v") > 0.5)
    expected = (
        kept.group_by("k").aggregate([("v", "count"), ("v", "mean")]).sort_by("k").to_pylist()
    )
    assert [row["n"] for row in found] == [row["v_count"] for row in expected]
    assert [row["mean"] for row in found] == pytest.approx([row["v_mean"] for row in expected])


def test_names_are_case_sensitive_and_have_three_parts(sql: Sql, points: pa.Table) -> None:
    assert sql.value("SELECT Name FROM points WHERE id = 1") == points["Name"][1].as_py()
    with sql.refuses("NOT_FOUND", "column `name`", "Name"):
        sql.query("SELECT name FROM points")
    for name in ("deep$er.points", '"deep$er".points', 'default."deep$er"."points"'):
        assert sql.value(f"SELECT count(*) FROM {name}") == 10
    with sql.refuses("NOT_FOUND", "`pointz` does not exist", "points"):
        sql.query("SELECT * FROM pointz")
    with sql.refuses("INVALID_ARGUMENT", "Line: 2, Column: 1"):
        sql.query("SELECT *\nFORM points")


@pytest.mark.usefixtures("points")
def test_headers_choose_database_and_namespace(server: LakebedServer) -> None:
    inside = Sql(server, namespace="deep$er")
    assert inside.value("SELECT count(*) FROM points") == 10
    assert inside.value("SELECT count(*) FROM public.points") == ROWS
    inside.close()
    other = server.lake(database="elsewhere")
    other.create("only", pa.table({"a": [1, 2]}))
    other.close()
    there = Sql(server, database="elsewhere")
    assert there.value("SELECT sum(a) FROM only") == 3
    joined = "SELECT count(*) FROM only JOIN default.public.points AS p ON p.id = only.a"
    assert there.value(joined) == 2
    with there.refuses("NOT_FOUND", "points"):
        there.query("SELECT * FROM points")
    there.close()


@pytest.mark.usefixtures("points")
def test_the_information_schema_lists_tables_and_columns(sql: Sql) -> None:
    shown = {(row["table_schema"], row["table_name"]) for row in sql.rows("SHOW TABLES")}
    assert {("public", "points"), ("deep$er", "points")} <= shown
    columns = sql.rows(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = 'points' ORDER BY ordinal_position"
    )
    assert [row["column_name"] for row in columns][:4] == ["id", "k", "v", "Name"]
    described = sql.rows("DESCRIBE points")
    assert described[0]["column_name"] == "id"


# ---- what tools ask when they connect ---------------------------------------------------------


def test_a_statement_has_one_moment(sql: Sql, points: pa.Table) -> None:  # noqa: ARG001
    before = dt.datetime.now(dt.UTC)
    (row,) = sql.rows("SELECT now() AS a, CURRENT_TIMESTAMP AS b, CURRENT_DATE AS day")
    assert row["a"] == row["b"]
    # A timestamp without a zone is UTC.
    moment = row["a"].to_pydatetime().replace(tzinfo=dt.UTC)
    assert before <= moment <= dt.datetime.now(dt.UTC)
    assert row["day"] in {before.date(), dt.datetime.now(dt.UTC).date()}
    assert sql.value("SELECT count(*) FROM points WHERE at < now() OR at >= now()") == ROWS


def test_a_statement_knows_where_it_runs(server: LakebedServer, sql: Sql) -> None:
    assert sql.value("SELECT version()").startswith("Lakebed ")
    inside = Sql(server, namespace="deep$er")
    text = "SELECT current_database() AS a, current_schema() AS b, current_catalog AS c"
    assert inside.rows(text) == [{"a": "default", "b": "deep$er", "c": "default"}]
    inside.close()


# ---- row ids and blobs ----------------------------------------------------------------------


def test_row_ids_can_be_selected_and_filtered(sql: Sql, points: pa.Table) -> None:
    rows = sql.rows("SELECT _rowid, id FROM points WHERE _rowid IN (3, 5) ORDER BY id")
    assert rows == [{"_rowid": 3, "id": 3}, {"_rowid": 5, "id": 5}]
    table = sql.query("SELECT *, _rowid AS r FROM points WHERE _rowid < 4")
    assert table.column_names == [*points.column_names, "r"]
    table = sql.query("SELECT a._rowid AS r, * FROM points a JOIN deep$er.points b ON a.id = b.id")
    assert table.column_names == ["r", *points.column_names, *points.column_names]


def test_blobs_are_descriptors_and_blob_bytes_gives_them(sql: Sql, lake: Lake, table: str) -> None:
    blob = pa.field("img", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    cells = [b"", None, b"small", bytes(range(256)) * 400, b"x" * (6 << 20)]
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    lake.create(table, pa.table([list(range(len(cells))), cells], schema=schema))
    plain = sql.query(f"SELECT img FROM {table} WHERE id = 3")
    assert pa.types.is_struct(plain.schema.field("img").type)
    assert plain["img"][0].as_py()["size"] == 102_400
    shown = sql.rows(f"SELECT id, blob_bytes(img) AS img FROM {table}")
    assert {row["id"]: row["img"] for row in shown} == dict(enumerate(cells))
    lengths = sql.rows(
        f"SELECT id, length(encode(BLOB_BYTES(t.img), 'hex')) / 2 AS n FROM {table} AS t"
    )
    expected = {n: None if cell is None else len(cell) for n, cell in enumerate(cells)}
    assert {row["id"]: row["n"] for row in lengths} == expected
    assert sql.value(f"SELECT id FROM {table} WHERE blob_bytes(img) = X'{b'small'.hex()}'") == 2
    assert sql.query(f"SELECT *, blob_bytes(img) AS b FROM {table}").column_names == [
        "id",
        "img",
        "b",
    ]
    with sql.refuses("INVALID_ARGUMENT", "blob_bytes(id)"):
        sql.query(f"SELECT blob_bytes(id) FROM {table}")
    with sql.refuses("INVALID_ARGUMENT", "one blob column"):
        sql.query(f"SELECT blob_bytes(1 + 1) FROM {table}")


def test_a_blob_above_the_limit_is_refused_by_name(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server(env={"LAKEBED_LIMITS_SQL_BLOB_BYTES_MAX": "1000"}).start()
    lake, sql = server.lake(), Sql(server)
    blob = pa.field("img", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    cells = [b"x" * 1001, b"y" * 1000, b"z" * 1001]
    lake.create("t", pa.table([[1, 2, 3], cells], schema=schema))
    # Only the rows of the answer have their blobs fetched, also where they are sorted first.
    text = "SELECT blob_bytes(t.img) AS img FROM t ORDER BY abs(id - 2), id LIMIT 1"
    assert sql.value(text) == cells[1]
    table = sql.query("SELECT *, blob_bytes(img) AS b FROM t WHERE id = 2")
    assert table.column_names == ["id", "img", "b"]
    assert table.schema.field("b").metadata == {b"lance-encoding:blob": b"true"}
    with sql.refuses("INVALID_ARGUMENT", "sql_blob_bytes_max", "1001"):
        sql.query("SELECT blob_bytes(img) FROM t")
    sql.close()


# ---- versions -------------------------------------------------------------------------------


def test_versions_are_read_by_number_tag_and_time(
    server: LakebedServer, sql: Sql, lake: Lake, table: str
) -> None:
    lake.create(table, pa.table({"a": [1]}))
    time.sleep(0.01)
    between = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    time.sleep(0.01)
    lake.write(table, pa.table({"a": [2, 3]}))
    done = server.http().post(f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 1})
    assert done.status == 200
    for then in (
        "VERSION AS OF 1",
        "FOR VERSION AS OF 1",
        "VERSION AS OF 'gold'",
        f"TIMESTAMP AS OF '{between}'",
    ):
        assert sql.value(f"SELECT sum(a) FROM {table} {then}") == 1, then
    assert sql.value(f"SELECT sum(a) FROM {table}") == 6
    both = (
        f"SELECT count(*) FROM {table} AS now JOIN {table} VERSION AS OF 1 AS old ON now.a = old.a"
    )
    assert sql.value(both) == 1
    qualified = f"SELECT {table}.a FROM {table} VERSION AS OF 1 WHERE {table}.a = 1"
    assert sql.value(qualified) == 1
    with sql.refuses("NOT_FOUND", "version 9"):
        sql.query(f"SELECT * FROM {table} VERSION AS OF 9")
    with sql.refuses("NOT_FOUND", "tag"):
        sql.query(f"SELECT * FROM {table} VERSION AS OF 'silver'")


# ---- push-down ------------------------------------------------------------------------------


def test_projection_filter_and_limit_reach_the_scan(sql: Sql, points: pa.Table) -> None:  # noqa: ARG001
    plan = sql.plan("SELECT v FROM points WHERE id > 10 AND k = 3")
    read = next(line for line in plan.splitlines() if "LanceRead" in line)
    assert "projection=[id, k, v]" in read
    assert "id > Int64(10) AND k = Int32(3)" in read
    assert "FilterExec" not in plan
    limited = sql.plan("SELECT id FROM points LIMIT 5")
    assert "range_before=Some(0..5)" in limited
    assert "fetch=5" in sql.plan("SELECT id FROM points WHERE k = 1 LIMIT 5")


def test_a_count_without_a_filter_reads_nothing(sql: Sql, points: pa.Table) -> None:  # noqa: ARG001
    plan = sql.plan("SELECT count(*) FROM points")
    assert "LanceRead" not in plan
    assert str(ROWS) in plan


def test_a_scalar_index_is_used(server: LakebedServer, sql: Sql, lake: Lake, table: str) -> None:
    lake.create(table, pa.table({"id": list(range(10_000)), "v": [1.5] * 10_000}))
    body = {"column": "id", "index_type": "BTREE"}
    assert server.http().post(f"/v1/table/{table}/create_scalar_index/", body).status in (200, 202)
    wait_until(
        lambda: "ScalarIndexQuery" in sql.plan(f"SELECT v FROM {table} WHERE id = 77"),
        "the index is used",
    )
    assert sql.value(f"SELECT count(*) FROM {table} WHERE id BETWEEN 10 AND 19") == 10


def test_plans_do_not_say_where_the_lake_lies(
    server: LakebedServer,
    sql: Sql,
    points: pa.Table,  # noqa: ARG001
) -> None:
    for text in ("EXPLAIN", "EXPLAIN ANALYZE", "EXPLAIN VERBOSE"):
        shown = str(sql.rows(f"{text} SELECT * FROM points WHERE id = 1"))
        assert "points.lance" in shown
        assert str(server.work).strip("/") not in shown


# ---- parameters -----------------------------------------------------------------------------


def test_parameters_are_bound(sql: Sql, points: pa.Table) -> None:
    assert sql.value("SELECT k FROM points WHERE id = ?", [5]) == 5
    found = sql.rows("SELECT id FROM points WHERE id < $1 AND Name = $2", [300, "n7"])
    expected = points.slice(0, 300).filter(pc.field("Name") == "n7")["id"].to_pylist()
    assert sorted(row["id"] for row in found) == expected
    assert (
        sql.value("SELECT count(*) FROM points WHERE at < ?", [dt.datetime(2026, 1, 1, 0, 1)]) == 60
    )
    with sql.refuses("INVALID_ARGUMENT", "parameter $1 has no value"):
        sql.query("SELECT k FROM points WHERE id = $1")


def test_a_prepared_statement_says_its_types(sql: Sql, points: pa.Table) -> None:  # noqa: ARG001
    with sql.connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT v FROM points WHERE id = $1 AND Name = $2")
        assert schema is not None
        assert schema.types == [pa.int64(), pa.string()]
        cursor.execute("SELECT v FROM points WHERE id = $1 AND Name = $2", [1, "n1"])
        first = cursor.fetch_arrow_table()
        cursor.execute("SELECT v FROM points WHERE id = $1 AND Name = $2", [2, "n2"])
        second = cursor.fetch_arrow_table()
    assert (first.num_rows, second.num_rows) == (1, 1)
    assert first != second


# ---- limits ---------------------------------------------------------------------------------

# Numbers without order, so that sorting and grouping them takes memory.
MANY = "SELECT value * 7919 % 3000017 AS x, value AS y FROM generate_series(1, 3000000)"


def test_a_sort_spills_within_its_memory_and_cleans_up(
    make_server: Callable[..., LakebedServer],
) -> None:
    memory = str(32 << 20)
    server = make_server(env={"LAKEBED_LIMITS_SQL_QUERY_MEMORY_BYTES_MAX": memory}).start()
    sql = Sql(server)
    folder = server.work / "lake/_lakebed/tmp/sql"
    analyzed = str(sql.rows(f"EXPLAIN ANALYZE SELECT * FROM ({MANY}) ORDER BY x, y"))
    assert "spill_count=" in analyzed
    assert any(f"spill_count={n}," in analyzed for n in range(1, 100))
    table = sql.query(f"SELECT * FROM ({MANY}) ORDER BY x, y")
    assert pc.all(pc.greater_equal(table["x"][1:], table["x"][:-1])).as_py()
    left = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    assert left == []
    sql.close()


COUNTING = "SELECT count(*) FROM generate_series(1, 100000000000)"
JOINED = f"SELECT count(*) FROM ({MANY}) a JOIN ({MANY}) b USING (x)"
SORTED = f"SELECT * FROM ({MANY}) ORDER BY x, y"
TOO_MUCH = "RESOURCE_EXHAUSTED"
WRONG = "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("limit", "value", "text", "code"),
    [
        ("SQL_QUERY_MEMORY_BYTES_MAX", 2 << 20, JOINED, TOO_MUCH),
        ("SQL_TIME_MS_MAX", 200, COUNTING, "DEADLINE_EXCEEDED"),
        ("SQL_RESULT_BYTES_MAX", 100_000, "SELECT * FROM generate_series(1, 1000000)", TOO_MUCH),
        ("SQL_SPILL_BYTES_MAX", 100_000, SORTED, TOO_MUCH),
        ("SQL_STATEMENT_BYTES_MAX", 20, "SELECT 1 AS a_long_name_for_one", WRONG),
        ("SQL_TABLES_MAX", 1, "SELECT 1 FROM (SELECT 1) a, (SELECT 2) b", WRONG),
    ],
)
def test_limits_are_refused_by_name(
    make_server: Callable[..., LakebedServer], limit: str, value: int, text: str, code: str
) -> None:
    env = {f"LAKEBED_LIMITS_{limit}": str(value)}
    if limit == "SQL_SPILL_BYTES_MAX":
        env["LAKEBED_LIMITS_SQL_QUERY_MEMORY_BYTES_MAX"] = str(16 << 20)
    server = make_server(env=env).start()
    sql = Sql(server)
    with sql.refuses(code, limit.lower()):
        sql.query(text)
    assert sql.value("SELECT 1") == 1
    sql.close()


def test_deep_statements_do_not_end_the_server(sql: Sql) -> None:
    for text in (
        "SELECT 1" + " + 1" * 5_000,
        "SELECT 1" + " UNION ALL SELECT 1" * 5_000,
        "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
        "SELECT 1 FROM " + "(SELECT * FROM " * 1_000 + "t" + ")" * 1_000,
        "SELECT 1 FROM t" + ", t" * 5_000,
    ):
        with sql.refuses("INVALID_ARGUMENT"):
            sql.query(text)
    nested = "SELECT 1 AS a"
    for _ in range(15):
        nested = f"SELECT a FROM ({nested}) AS t"
    assert sql.value(nested) == 1
    assert sql.query("SELECT 1" + " UNION ALL SELECT 1" * 200).num_rows == 201


def cpu_seconds(server: LakebedServer) -> float:
    """What the server's threads have worked so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_query_stops_when_its_client_goes_away(server: LakebedServer) -> None:
    sql = Sql(server)
    cursor = sql.connection.cursor()
    cursor.execute("SELECT value, value * 2 AS b FROM generate_series(1, 100000000000)")
    reader = cursor.fetch_record_batch()
    assert reader.read_next_batch().num_rows > 0
    closing = threading.Thread(target=lambda: (cursor.adbc_cancel(), cursor.close()))
    closing.start()
    closing.join(timeout=20)
    assert not closing.is_alive()
    sql.close()

    def is_idle() -> bool:
        before = cpu_seconds(server)
        time.sleep(0.5)
        return cpu_seconds(server) - before < 0.1

    wait_until(is_idle, "the query to stop")


# ---- who may --------------------------------------------------------------------------------


def test_roles_and_what_is_not_built(
    server: LakebedServer, lake: Lake, sql: Sql, table: str
) -> None:
    lake.create(table, pa.table({"a": [1]}))
    made = server.http().post("/v1/keys", {"name": "r", "role": "read"}).json()
    reader = Sql(server, key=made["key"])
    assert reader.value(f"SELECT count(*) FROM {table}") == 1
    with reader.refuses("PERMISSION_DENIED", "write"):
        reader.change(f"DELETE FROM {table}")
    reader.close()
    for text in ("BEGIN", "SET a = 1", "CREATE SCHEMA s", "COPY t TO 'x'"):
        with sql.refuses("UNIMPLEMENTED"):
            sql.query(text)
    with sql.refuses("INVALID_ARGUMENT", "one statement"):
        sql.query("SELECT 1; SELECT 2")
