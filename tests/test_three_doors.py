"""Flight, SQL and HTTP give the same rows of the same table."""

import numpy as np
import pyarrow as pa
import pytest

from support.flight import Lake
from support.lancedb import connect
from support.server import LakebedServer
from support.sql import Sql

ROWS = 3_000
WIDTH = 8
REPORT = b"lakebed:search"


@pytest.fixture
def filled(server: LakebedServer, table: str) -> str:
    """A table of several versions with nulls, deletions, updates and fresh rows."""
    dice = np.random.default_rng(2)
    vectors = pa.array(dice.random(ROWS * WIDTH, dtype=np.float32))
    rows = pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "name": [None if n % 7 == 0 else f"name {n}" for n in range(ROWS)],
            "speed": dice.random(ROWS),
            "at": pa.array(range(ROWS), pa.timestamp("us", "UTC")),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, WIDTH),
        }
    )
    made = connect(server).create_table(table, rows.slice(0, 2_000))
    made.create_fts_index("name")
    made.add(rows.slice(2_000))
    made.delete("id % 11 = 3")
    made.update(where="id < 50", values={"name": "young"})
    return table


def in_order(rows: pa.Table) -> pa.Table:
    plain = pa.schema([field.remove_metadata() for field in rows.schema])
    return rows.sort_by("id").combine_chunks().cast(plain).replace_schema_metadata(None)


def test_all_rows(server: LakebedServer, lake: Lake, sql: Sql, filled: str) -> None:
    flight = in_order(lake.read(filled))
    http = in_order(connect(server).open_table(filled).search().to_arrow())
    by_sql = in_order(sql.query(f'SELECT * FROM "{filled}"'))
    assert flight.num_rows == http.num_rows == by_sql.num_rows > 2_000
    assert flight.equals(http)
    assert flight.equals(by_sql)


@pytest.mark.parametrize(
    "condition",
    ["id > 1000 AND speed < 0.25", "name IS NULL", "name = 'young'", "id IN (1, 5, 2500, 9999)"],
)
def test_rows_by_a_filter(
    server: LakebedServer, lake: Lake, sql: Sql, filled: str, condition: str
) -> None:
    columns = ["id", "name", "speed"]
    flight = in_order(lake.read(filled, columns=columns, filter=condition))
    table = connect(server).open_table(filled)
    http = in_order(table.search().where(condition).select(columns).to_arrow())
    by_sql = sql.query(f'SELECT id, name, speed FROM "{filled}" WHERE {condition}')
    assert flight.num_rows > 0
    assert flight.equals(http)
    assert flight.equals(in_order(by_sql))
    counted = sql.query(f'SELECT count(*) AS n FROM "{filled}" WHERE {condition}')
    assert counted["n"].to_pylist() == [flight.num_rows]
    assert table.count_rows(condition) == flight.num_rows


def test_rows_of_an_old_version(server: LakebedServer, lake: Lake, sql: Sql, filled: str) -> None:
    flight = in_order(lake.read(filled, version=1))
    table = connect(server).open_table(filled)
    table.checkout(1)
    assert flight.equals(in_order(table.search().to_arrow()))
    by_sql = sql.query(f'SELECT * FROM "{filled}" VERSION AS OF 1')
    assert flight.equals(in_order(by_sql))
    assert flight.num_rows == 2_000


def test_the_same_search(server: LakebedServer, lake: Lake, sql: Sql, filled: str) -> None:
    query = [0.5] * WIDTH
    table = connect(server).open_table(filled)
    http = table.search(query).where("speed > 0.5").select(["id"]).limit(9).to_arrow()
    command = {"table": filled, "vector": query, "filter": "speed > 0.5", "k": 9}
    flight = lake.search({**command, "columns": ["id"]})
    numbers = ", ".join(str(number) for number in query)
    by_sql = sql.query(
        f"SELECT id, _distance FROM vector_search('{filled}', 'vector', ARRAY[{numbers}], 9, "
        """'{"filter": "speed > 0.5"}') ORDER BY _distance, id""",
    )
    assert http["id"].to_pylist() == flight["id"].to_pylist() == by_sql["id"].to_pylist()
    assert http["_distance"].to_pylist() == flight["_distance"].to_pylist()
    assert b'"rows_scanned"' in flight.schema.metadata[REPORT]


def test_the_same_search_by_text(server: LakebedServer, lake: Lake, sql: Sql, filled: str) -> None:
    table = connect(server).open_table(filled)
    http = table.search("young", query_type="fts").limit(100).select(["id"]).to_arrow()
    words = {"query": "young", "columns": []}
    command = {"table": filled, "full_text_query": words, "k": 100, "columns": ["id"]}
    flight = lake.search(command)
    by_sql = sql.query(f"SELECT id FROM text_search('{filled}', 'young', 100)")
    assert http.num_rows == 45, "50 rows of which 5 were deleted"
    assert set(http["id"].to_pylist()) == set(flight["id"].to_pylist())
    assert set(http["id"].to_pylist()) == set(by_sql["id"].to_pylist())


def test_a_search_joins(sql: Sql, filled: str) -> None:
    query = (
        f"SELECT t.id, t.name, s._distance FROM vector_search('{filled}', 'vector', "
        f"'{[0.5] * WIDTH}', 5) s JOIN \"{filled}\" t ON t.id = s.id ORDER BY s._distance"
    )
    joined = sql.query(query)
    assert joined.num_rows == 5
    assert joined["_distance"].to_pylist() == sorted(joined["_distance"].to_pylist())
    with sql.refuses("not_found", "speeed"):
        sql.query(f"""SELECT * FROM text_search('{filled}', 'x', 5, '{{"filter":"speeed > 1"}}')""")
