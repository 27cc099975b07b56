"""MERGE: rows of a query update, insert and delete rows of a table, in one version."""

from typing import Any

import adbc_driver_manager
import pyarrow as pa
import pytest

from support.data import blobs
from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql


@pytest.fixture
def labels(lake: Lake, table: str) -> str:
    """Four rows with a key."""
    rows = {"id": pa.array([1, 2, 3, 4], pa.int32()), "label": ["a", "b", "c", "d"]}
    lake.create(table, pa.table({**rows, "speed": [1.0, 2.0, 3.0, 4.0]}))
    return table


@pytest.fixture
def news(lake: Lake, table: str) -> str:
    """What changed, under other names, and types that are wider."""
    name = f"{table}_news"
    rows = {"key": pa.array([2, 4, 9], pa.int64()), "l": ["B", "D", "I"], "v": [20.0, 0.5, 90.0]}
    lake.create(name, pa.table(rows))
    return name


def all_rows(sql: Sql, table: str) -> list[tuple[Any, ...]]:
    found = sql.rows(f"SELECT id, label, speed FROM {table} ORDER BY id")
    return [tuple(row.values()) for row in found]


def test_rows_are_updated_and_inserted(
    server: LakebedServer, sql: Sql, labels: str, news: str
) -> None:
    def version() -> int:
        return server.http().ok("POST", f"/v1/table/{labels}/describe/").json()["version"]

    before = version()
    touched = sql.change(
        f"MERGE INTO {labels} AS t USING {news} AS s ON t.id = s.key "
        "WHEN MATCHED THEN UPDATE SET label = lower(s.l) || '!', speed = s.v "
        "WHEN NOT MATCHED THEN INSERT (id, label, speed) VALUES (s.key, lower(s.l) || '!', s.v)"
    )
    assert touched == 3
    assert all_rows(sql, labels) == [
        (1, "a", 1.0),
        (2, "b!", 20.0),
        (3, "c", 3.0),
        (4, "d!", 0.5),
        (9, "i!", 90.0),
    ]
    assert version() == before + 1
    schema = sql.query(f"SELECT id FROM {labels}").schema
    assert schema.field("id").type == pa.int32()


def test_conditions_decide(sql: Sql, labels: str, news: str) -> None:
    sql.change(
        f"MERGE INTO {labels} USING (SELECT key, v FROM {news} WHERE key < 9) AS s "
        f"ON s.key = {labels}.id "
        f"WHEN MATCHED AND {labels}.speed < s.v THEN UPDATE SET speed = s.v "
        f"WHEN NOT MATCHED BY SOURCE AND {labels}.label = 'a' THEN DELETE"
    )
    assert all_rows(sql, labels) == [(2, "b", 20.0), (3, "c", 3.0), (4, "d", 4.0)]


def test_what_is_new_alone(sql: Sql, labels: str) -> None:
    statement = (
        f"MERGE INTO {labels} AS t USING (VALUES (1, 'x'), (7, ?)) AS s(k, l) ON t.id = s.k "
        "WHEN NOT MATCHED THEN INSERT (id, label) VALUES (s.k, s.l)"
    )
    with sql.connection.cursor() as cursor:
        cursor.execute(statement, ["seven"])
    assert all_rows(sql, labels)[-1] == (7, "seven", None)
    assert len(all_rows(sql, labels)) == 5


def test_cells_change_beside_pictures(lake: Lake, sql: Sql, table: str) -> None:
    pictures = [b"one" * 1_000, b"two" * 1_000]
    lake.create(table, blobs(pictures, start=1, label=pa.array(["a", "b"])))
    sql.change(
        f"MERGE INTO {table} AS t USING (VALUES (2, 'B')) AS s(k, l) ON t.id = s.k "
        "WHEN MATCHED THEN UPDATE SET label = s.l"
    )
    found = sql.rows(f"SELECT id, label, blob_bytes(data) AS p FROM {table} ORDER BY id")
    assert [row["label"] for row in found] == ["a", "B"]
    assert [row["p"] for row in found] == pictures


@pytest.mark.parametrize(
    ("clauses", "named"),
    [
        ("WHEN MATCHED THEN DELETE", "not built"),
        ("WHEN MATCHED THEN UPDATE SET speed = t.speed + s.v", "t.speed"),
        ("WHEN MATCHED THEN UPDATE SET nothing = s.v", "nothing"),
        ("WHEN MATCHED THEN UPDATE SET speed = s.nothing", "nothing"),
        ("WHEN NOT MATCHED THEN INSERT (id, speed) VALUES (s.key, s.l)", "cast"),
    ],
)
def test_what_does_not_fit_is_named(
    sql: Sql, labels: str, news: str, clauses: str, named: str
) -> None:
    before = all_rows(sql, labels)
    text = f"MERGE INTO {labels} AS t USING {news} AS s ON t.id = s.key {clauses}"
    with pytest.raises(adbc_driver_manager.Error, match=f"(?i){named}"):
        sql.change(text)
    with pytest.raises(adbc_driver_manager.Error, match="missing"):
        sql.change(text.replace(labels, "missing"))
    assert all_rows(sql, labels) == before


def test_a_row_cannot_match_twice(sql: Sql, labels: str) -> None:
    with pytest.raises(adbc_driver_manager.Error, match="id"):
        sql.change(
            f"MERGE INTO {labels} AS t USING (VALUES (1, 'x'), (1, 'y')) AS s(k, l) ON t.id = s.k "
            "WHEN MATCHED THEN UPDATE SET label = s.l"
        )
    assert all_rows(sql, labels)[0] == (1, "a", 1.0)
