"""Statements that change tables, through ADBC's update and query paths."""

import pyarrow as pa

from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql

# ---- tables ---------------------------------------------------------------------------------


def test_tables_are_created_with_types(sql: Sql, lake: Lake, table: str) -> None:
    columns = (
        "id BIGINT NOT NULL, small SMALLINT, flag BOOLEAN, x FLOAT, y DOUBLE, name VARCHAR, "
        "raw VARBINARY, day DATE, at TIMESTAMP, price DECIMAL(10, 2), emb FLOAT[3], tags TEXT[], "
        "img BLOB"
    )
    assert sql.change(f"CREATE TABLE {table} ({columns})") == 0
    schema = lake.read(table).schema
    assert schema.field("id").type == pa.int64()
    assert not schema.field("id").nullable
    assert schema.field("emb").type == pa.list_(pa.float32(), 3)
    assert schema.field("price").type == pa.decimal128(10, 2)
    assert pa.types.is_struct(schema.field("img").type)
    with sql.refuses("ALREADY_EXISTS"):
        sql.change(f"CREATE TABLE {table} (id BIGINT)")
    assert sql.change(f"CREATE TABLE IF NOT EXISTS {table} (id BIGINT)") == 0
    for clause in ("id INT PRIMARY KEY", "id INT DEFAULT 7", "id INT UNIQUE"):
        with sql.refuses("UNIMPLEMENTED"):
            sql.change(f"CREATE TABLE other ({clause})")


def test_rows_are_inserted_by_value_and_by_query(sql: Sql, table: str) -> None:
    sql.change(f"CREATE TABLE {table} (id BIGINT NOT NULL, name VARCHAR, emb FLOAT[2], img BLOB)")
    assert (
        sql.change(f"INSERT INTO {table} VALUES (1, 'a', [1, 2], X'0102'), (2, NULL, NULL, NULL)")
        == 2
    )
    assert sql.change(f"INSERT INTO {table} (name, id) VALUES ('c', 3)") == 1
    again = f"INSERT INTO {table} SELECT id + 10, name, emb, blob_bytes(img) FROM {table}"
    assert sql.change(again) == 3
    rows = sql.rows(f"SELECT id, name, emb, blob_bytes(img) AS img FROM {table} ORDER BY id")
    assert [row["id"] for row in rows] == [1, 2, 3, 11, 12, 13]
    assert rows[0] == {"id": 1, "name": "a", "emb": [1.0, 2.0], "img": b"\1\2"}
    assert rows[3] == {**rows[0], "id": 11}
    assert rows[1] == {"id": 2, "name": None, "emb": None, "img": None}
    with sql.refuses("NOT_FOUND", "nope"):
        sql.change(f"INSERT INTO {table} (id, nope) VALUES (1, 2)")
    with sql.refuses("INVALID_ARGUMENT", "id"):
        sql.change(f"INSERT INTO {table} (name) VALUES ('x')")
    with sql.refuses("INVALID_ARGUMENT"):
        sql.change(f"INSERT INTO {table} (id) VALUES (1, 2)")
    with sql.refuses("NOT_FOUND", "missing"):
        sql.change("INSERT INTO missing VALUES (1)")
    assert sql.value(f"SELECT count(*) FROM {table}") == 6


def test_tables_are_made_of_queries(sql: Sql, lake: Lake, table: str) -> None:
    blob = pa.field("img", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    lake.create(table, pa.table([[1, 2], [b"one", b"two"]], schema=schema))
    copy = f"{table}_c"
    text = f"TABLE {copy} AS SELECT id, blob_bytes(img) AS img FROM {table}"
    assert sql.change(f"CREATE {text}") == 2
    assert pa.types.is_struct(lake.read(copy).schema.field("img").type)
    assert sql.rows(f"SELECT blob_bytes(img) AS b FROM {copy} ORDER BY id") == [
        {"b": b"one"},
        {"b": b"two"},
    ]
    with sql.refuses("ALREADY_EXISTS"):
        sql.change(f"CREATE {text}")
    with sql.refuses("INVALID_ARGUMENT", "blob_bytes(img)"):
        sql.change(f"CREATE TABLE other AS SELECT * FROM {table}")
    assert sql.change(f"CREATE OR REPLACE TABLE {copy} AS SELECT id * 2 AS twice FROM {table}") == 2
    assert sql.rows(f"SELECT * FROM {copy} ORDER BY 1") == [{"twice": 2}, {"twice": 4}]
    assert sql.value(f"SELECT count(*) FROM {copy} VERSION AS OF 1") == 2


def test_tables_are_renamed_and_dropped(sql: Sql, table: str) -> None:
    sql.change(f"CREATE TABLE {table} AS SELECT 1 AS a")
    sql.change(f"ALTER TABLE {table} RENAME TO {table}_n")
    assert sql.value(f"SELECT a FROM {table}_n") == 1
    sql.change(f"DROP TABLE {table}_n")
    with sql.refuses("NOT_FOUND"):
        sql.change(f"DROP TABLE {table}_n")
    sql.change(f"DROP TABLE IF EXISTS {table}_n")


# ---- rows and columns -----------------------------------------------------------------------


def test_rows_are_updated_and_deleted(sql: Sql, table: str) -> None:
    sql.change(
        f"CREATE TABLE {table} AS SELECT value AS id, 'n' || value AS Name "
        "FROM generate_series(1, 100)"
    )
    assert (
        sql.change(f"UPDATE {table} SET Name = 'big', id = id + 1000 WHERE {table}.id > 90") == 10
    )
    assert sql.value(f"SELECT count(*) FROM {table} WHERE Name = 'big' AND id > 1090") == 10
    assert sql.change(f"DELETE FROM {table} WHERE \"Name\" = 'big' OR id <= 10") == 20
    with sql.refuses("NOT_FOUND", "nope"):
        sql.change(f"DELETE FROM {table} WHERE nope = 1")
    with sql.refuses("UNIMPLEMENTED", "subquery"):
        sql.change(f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table})")
    with sql.refuses("UNIMPLEMENTED", "UPDATE"):
        sql.change(f"UPDATE {table} SET id = 1 FROM {table} AS o WHERE o.id = 1")
    assert sql.value(f"SELECT count(*) FROM {table}") == 80
    assert sql.change(f"DELETE FROM {table}") == 80


def test_columns_are_added_altered_and_dropped(sql: Sql, table: str) -> None:
    sql.change(f"CREATE TABLE {table} AS SELECT value AS id FROM generate_series(1, 3)")
    sql.change(f"ALTER TABLE {table} ADD COLUMN note VARCHAR")
    sql.change(f"ALTER TABLE {table} ADD COLUMN twice BIGINT AS (id * 2)")
    rows = sql.rows(f"SELECT * FROM {table} ORDER BY id")
    assert rows == [{"id": n, "note": None, "twice": n * 2} for n in (1, 2, 3)]
    sql.change(f"ALTER TABLE {table} RENAME COLUMN twice TO double")
    sql.change(f"ALTER TABLE {table} DROP COLUMN note")
    assert sql.query(f"SELECT * FROM {table}").column_names == ["id", "double"]
    with sql.refuses("UNIMPLEMENTED", "one operation"):
        sql.change(f"ALTER TABLE {table} ADD COLUMN a INT, ADD COLUMN b INT")


# ---- versions and tags ------------------------------------------------------------------------


def test_versions_and_tags_are_listed_and_changed(sql: Sql, table: str) -> None:
    sql.change(f"CREATE TABLE {table} AS SELECT 1 AS a")
    sql.change(f"INSERT INTO {table} VALUES (2)")
    versions = sql.rows(f"SELECT * FROM versions('{table}') ORDER BY version")
    assert [row["version"] for row in versions] == [1, 2]
    assert versions[0]["committed_at"] < versions[1]["committed_at"]
    assert sql.rows(f"SELECT * FROM tags('{table}')") == []
    assert sql.change(f"CALL create_tag('{table}', 'gold', 1)") == 0
    sql.change(f"CALL Create_Tag('{table}', 'newest')")
    tags = f"SELECT name, t.version, branch FROM tags('{table}') AS t ORDER BY name"
    assert sql.rows(tags) == [
        {"name": "gold", "version": 1, "branch": None},
        {"name": "newest", "version": 2, "branch": None},
    ]
    assert sql.value(f"SELECT count(*) FROM {table} VERSION AS OF 'gold'") == 1
    sql.change(f"CALL move_tag('{table}', 'gold', 2)")
    sql.change(f"CALL delete_tag('{table}', 'newest')")
    assert sql.rows(tags) == [{"name": "gold", "version": 2, "branch": None}]
    sql.change(f"CALL restore('{table}', 1)")
    assert sql.value(f"SELECT sum(a) FROM {table}") == 1
    assert sql.value(f"SELECT max(version) FROM versions('{table}')") == 3
    for text, code, fragment in [
        (f"CALL create_tag('{table}', 'gold', 1)", "ALREADY_EXISTS", "gold"),
        (f"CALL create_tag('{table}', 'silver', 9)", "NOT_FOUND", "9"),
        (f"CALL delete_tag('{table}', 'silver')", "NOT_FOUND", "silver"),
        (f"CALL restore('{table}')", "INVALID_ARGUMENT", "restore"),
        ("CALL create_tag('nowhere', 'gold', 1)", "NOT_FOUND", "nowhere"),
        ("CALL vacuum('t')", "UNIMPLEMENTED", "CALL"),
    ]:
        with sql.refuses(code, fragment):
            sql.change(text)
    with sql.refuses("NOT_FOUND", "nowhere"):
        sql.query("SELECT * FROM tags('nowhere')")


# ---- both paths -----------------------------------------------------------------------------


def test_a_change_over_the_query_path_answers_with_its_count(sql: Sql, table: str) -> None:
    assert sql.rows(f"CREATE TABLE {table} AS SELECT 1 AS a UNION ALL SELECT 2") == [{"count": 2}]
    assert sql.rows(f"DELETE FROM {table} WHERE a = 1") == [{"count": 1}]
    with sql.connection.cursor() as cursor:
        # Nothing is fetched: the change is over, and its error known, when `execute` returns.
        cursor.execute(f"INSERT INTO {table} VALUES (7)")
        with sql.refuses("NOT_FOUND"):
            cursor.execute("DROP TABLE not_there")
    assert sql.value(f"SELECT sum(a) FROM {table}") == 9


def test_many_sets_of_parameters_are_one_write(sql: Sql, lake: Lake, table: str) -> None:
    sql.change(f"CREATE TABLE {table} (id BIGINT, name VARCHAR)")
    with sql.connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} VALUES (?, upper(?))", [(n, f"n{n}") for n in range(1_000)]
        )
        assert cursor.rowcount == 1_000
        cursor.execute(f"INSERT INTO {table} (name) VALUES (?)", ["it's"])
        cursor.fetchall()
        cursor.executemany(f"UPDATE {table} SET name = ? WHERE id = ?", [("a'b", 1), (None, 2)])
        assert cursor.rowcount == 2
    assert sql.value(f"SELECT count(*) FROM {table} WHERE id >= 990") == 10
    assert sql.rows(f"SELECT name FROM {table} WHERE id IN (1, 2, 3) ORDER BY id") == [
        {"name": "a'b"},
        {"name": None},
        {"name": "N3"},
    ]
    assert sql.value(f"SELECT count(*) FROM {table} WHERE name = 'it''s'") == 1
    # The table, the thousand, the single row, two updates.
    assert lake.info(table).app_metadata == b'{"version":5}'


def test_bulk_ingest_has_four_modes(sql: Sql, lake: Lake, table: str) -> None:
    rows = pa.table({"id": list(range(1_000)), "t": ["x"] * 1_000})
    with sql.connection.cursor() as cursor:
        assert cursor.adbc_ingest(table, rows, mode="create") == 1_000
        with sql.refuses("ALREADY_EXISTS"):
            cursor.adbc_ingest(table, rows, mode="create")
        assert cursor.adbc_ingest(table, rows.to_batches()[0], mode="append") == 1_000
        assert lake.read(table).num_rows == 2_000
        assert cursor.adbc_ingest(table, rows.slice(0, 5), mode="replace") == 5
        assert (
            cursor.adbc_ingest(f"{table}_n", rows, mode="create_append", db_schema_name="a$b")
            == 1_000
        )
        assert (
            cursor.adbc_ingest(f"{table}_n", rows, mode="create_append", db_schema_name="a$b")
            == 1_000
        )
        with sql.refuses("NOT_FOUND"):
            cursor.adbc_ingest(f"{table}_missing", rows, mode="append")
    assert lake.read(table).num_rows == 5
    assert sql.value(f"SELECT count(*) FROM a$b.{table}_n") == 2_000


def test_changes_leave_audit_lines(server: LakebedServer, sql: Sql, table: str) -> None:
    sql.change(f"CREATE TABLE {table} AS SELECT 1 AS a")
    sql.change(f"DELETE FROM {table}")
    sql.change(f"DROP TABLE {table}")
    server.terminate()
    lines = "".join(
        path.read_text()
        for path in (server.work / "lake/_lakebed/audit").rglob("*")
        if path.is_file()
    )
    server.start()
    for verb in ("create", "delete", "drop"):
        assert any(table in line and f'"{verb}"' in line for line in lines.splitlines()), verb
