"""Columns of JSON in SQL: text goes in and comes out, functions look inside."""

import adbc_driver_manager
import pyarrow as pa
import pytest

from support.flight import Lake
from support.sql import Sql

JSON = {"ARROW:extension:name": "arrow.json"}


@pytest.fixture
def documents(lake: Lake, table: str) -> str:
    """One row of a key and a document."""
    schema = pa.schema([("id", pa.int64()), pa.field("j", pa.string(), metadata=JSON)])
    lake.create(table, pa.table({"id": [1], "j": ['{"a":5}']}, schema=schema))
    return table


def test_documents_come_as_text(sql: Sql, lake: Lake, documents: str) -> None:
    found = sql.query(f"SELECT j, json_get_int(j, 'a') AS a FROM {documents}")
    assert found.to_pylist() == [{"j": '{"a":5}', "a": 5}]
    assert found.schema.field("j").type == pa.json_()
    assert lake.read(documents).column("j").to_pylist() == ['{"a":5}']


def test_text_is_inserted(sql: Sql, lake: Lake, documents: str) -> None:
    sql.change(f"""INSERT INTO {documents} VALUES (2, '{{"a": 1}}'), (3, NULL)""")
    sql.change(f"""INSERT INTO {documents} (j, id) SELECT '{{"a": [2]}}', 4""")
    sql.change(f"INSERT INTO {documents} SELECT id + 4, j FROM {documents} WHERE id = 1")
    sql.query(f"INSERT INTO {documents} VALUES (?, ?)", [6, '{"a":6}'])
    rows = sql.rows(f"SELECT id, j, json_extract(j, '$.a') AS a FROM {documents} ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        (1, '{"a":5}', "5"),
        (2, '{"a":1}', "1"),
        (3, None, None),
        (4, '{"a":[2]}', "[2]"),
        (5, '{"a":5}', "5"),
        (6, '{"a":6}', "6"),
    ]
    found = lake.read(documents, filter="json_extract(j, '$.a') = '6'")
    assert found.column("id").to_pylist() == [6]


def test_text_is_merged(sql: Sql, documents: str) -> None:
    rows = """(VALUES (1, '{"a": 9}'), (2, '[]')) AS s (k, v)"""
    sql.change(
        f"MERGE INTO {documents} AS t USING {rows} ON t.id = s.k "
        "WHEN MATCHED THEN UPDATE SET j = s.v "
        "WHEN NOT MATCHED THEN INSERT (id, j) VALUES (s.k, s.v)"
    )
    assert sql.rows(f"SELECT id, j FROM {documents} ORDER BY id") == [
        {"id": 1, "j": '{"a":9}'},
        {"id": 2, "j": "[]"},
    ]
    sql.change(f"CREATE TABLE {documents}_copy AS SELECT * FROM {documents}")
    assert sql.value(f"SELECT json_get_int(j, 'a') FROM {documents}_copy WHERE id = 1") == 9


@pytest.mark.parametrize("text", ["no JSON", "[" * 200_000 + "]" * 200_000], ids=["word", "deep"])
def test_what_is_no_json_is_refused(sql: Sql, documents: str, text: str) -> None:
    for statement in (
        f"INSERT INTO {documents} VALUES (2, '{text}')",
        f"MERGE INTO {documents} AS t USING (VALUES (1, '{text}')) AS s (k, v) ON t.id = s.k "
        "WHEN MATCHED THEN UPDATE SET j = s.v",
        f"UPDATE {documents} SET j = '{text}'",
    ):
        with pytest.raises(adbc_driver_manager.Error, match="`j`"):
            sql.change(statement)
    assert sql.value(f"SELECT count(*) FROM {documents}") == 1


def test_documents_come_by_row_id_and_in_changes(sql: Sql, lake: Lake, documents: str) -> None:
    sql.change(f"""INSERT INTO {documents} VALUES (2, '{{"a": 1}}')""")
    sql.change(f"""UPDATE {documents} SET id = 3 WHERE id = 1""")
    ids = sql.query(f"SELECT _rowid FROM {documents} WHERE id = 3").column(0).to_pylist()
    assert lake.read(documents, row_ids=ids).column("j").to_pylist() == ['{"a":5}']
    changed = f"SELECT id, j, json_get_int(j, 'a') AS a FROM changes('{documents}', 1) ORDER BY id"
    assert sql.rows(changed) == [
        {"id": 2, "j": '{"a":1}', "a": 1},
        {"id": 3, "j": '{"a":5}', "a": 5},
    ]
