"""DuckDB attached to the server by name: the catalogue over HTTP, the rows from the files that it
names."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

from support.data import numbered
from support.duck import connect
from support.flight import Lake
from support.server import LakebedServer
from support.waiting import wait_until


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = connect()
    yield connection
    connection.close()


def attach(duck: duckdb.DuckDBPyConnection, server: LakebedServer, name: str, *more: str) -> None:
    """The tables of the root of a database as `name`."""
    options = ", ".join(["TYPE LANCE", f"ENDPOINT 'http://{server.http_address}'", *more])
    duck.execute(f"ATTACH '$' AS {name} ({options})")


@pytest.fixture
def own(server: LakebedServer, table: str, duck: duckdb.DuckDBPyConnection) -> Iterator[Lake]:
    """A database of this test's own, with three tables, that DuckDB has attached as `lake`."""
    lake = server.lake(database=table)
    lake.create("numbers", numbered(1_000))
    lake.create("few", numbered(3, more=pa.array([None, 1, 2], pa.int8())))
    vectors = pa.array([[0.0, 1.0], [4.0, 5.0]], pa.list_(pa.float32(), 2))
    lake.create("vectors", pa.table({"id": pa.array([1, 2], pa.int64()), "v": vectors}))
    header = f"x-api-key={server.admin_key};x-lancedb-database={table}"
    attach(duck, server, "lake", f"HEADER '{header}'")
    # It learns the tables when it is asked for them, and makes new ones right only after that.
    duck.execute("SHOW TABLES FROM lake")
    yield lake
    lake.close()


def test_keys(
    server: LakebedServer, lake: Lake, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    lake.create(table, numbered(3))
    with pytest.raises(duckdb.Error, match="no API key was given"):
        attach(duck, server, "nobody")
    with pytest.raises(duckdb.Error, match="the API key is not known"):
        attach(duck, server, "nobody", "API_KEY 'lb_nobody'")
    for number, option in enumerate(("API_KEY", "BEARER_TOKEN")):
        attach(duck, server, f"by_{number}", f"{option} '{server.admin_key}'")
        count = duck.execute(f"SELECT count(*) FROM by_{number}.main.{table}").fetchone()
        assert count == (3,)
        duck.execute(f"DETACH by_{number}")


@pytest.mark.usefixtures("own")
def test_reading(duck: duckdb.DuckDBPyConnection) -> None:
    def rows(text: str) -> list[tuple]:
        return duck.execute(text).fetchall()

    assert rows("SHOW TABLES FROM lake") == [("few",), ("numbers",), ("vectors",)]
    described = rows("DESCRIBE lake.main.few")
    assert [column[:2] for column in described] == [
        ("id", "BIGINT"),
        ("name", "VARCHAR"),
        ("more", "TINYINT"),
    ]
    assert rows("SELECT id, name FROM lake.few WHERE id > 0 ORDER BY id DESC LIMIT 1") == [
        (2, "name 2")
    ]
    assert rows("SELECT count(*), max(id) FROM lake.numbers WHERE name LIKE 'name 9%'") == [
        (111, 999)
    ]
    joined = "SELECT f.id FROM lake.few f JOIN lake.numbers n USING (id) WHERE f.more IS NOT NULL"
    assert sorted(rows(joined)) == [(1,), (2,)]
    grouped = "SELECT id % 2 AS odd, count(*) FROM lake.numbers GROUP BY odd ORDER BY odd"
    assert rows(grouped) == [(0, 500), (1, 500)]
    near = "lance_vector_search('lake.main.vectors', 'v', [4, 5]::FLOAT[], k = 1)"
    assert rows(f"SELECT id, _distance FROM {near}") == [(2, 0.0)]
    assert duck.execute("SELECT * FROM lake.few ORDER BY id").to_arrow_table()[
        "id"
    ].to_pylist() == [
        0,
        1,
        2,
    ]
    duck.execute("DETACH lake")
    with pytest.raises(duckdb.Error):
        duck.execute("SELECT * FROM lake.main.few")


def test_writing(own: Lake, duck: duckdb.DuckDBPyConnection) -> None:
    def change(text: str) -> tuple | None:
        return duck.execute(text).fetchone()

    duck.execute("CREATE TABLE lake.main.made (id BIGINT, name VARCHAR)")
    assert change("INSERT INTO lake.made SELECT range, 'n' || range FROM range(100)") == (100,)
    assert change("UPDATE lake.made SET name = 'x' WHERE id < 10") == (10,)
    assert change("DELETE FROM lake.made WHERE id >= 50") == (50,)
    merge = """
        MERGE INTO lake.main.made USING (VALUES (1::BIGINT, 'one'), (500, 'new')) s(id, name)
        ON made.id = s.id WHEN MATCHED THEN UPDATE SET name = s.name
        WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.name)
    """
    assert change(merge) == (2,)
    assert change("INSERT INTO lake.few (id, name) VALUES (9, 'nine')") == (1,)
    for text in ("ADD COLUMN size INTEGER", "RENAME COLUMN size TO bytes"):
        duck.execute(f"ALTER TABLE lake.main.made {text}")
    wait_until(lambda: "bytes" in own.read("made").column_names, "another writer's columns")
    assert own.count("made", filter="bytes IS NULL") == 51
    assert own.read("made", filter="id = 1")["name"].to_pylist() == ["one"]
    assert own.read("few", filter="id = 9").num_rows == 1
    own.write("made", pa.table({"id": pa.array([1_000], pa.int64())}))
    assert own.count("made") == 52
    duck.execute("DROP TABLE lake.main.made")
    with own.refuses("not_found"):
        own.count("made")


def test_a_table_out_of_a_query(
    server: LakebedServer, own: Lake, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    duck.execute("CREATE TABLE lake.main.big AS SELECT * FROM lake.main.numbers WHERE id >= 990")
    assert own.read("big").sort_by("id").equals(numbered(10, start=990))
    # Its own connection knows the columns of such a table once it attaches again.
    duck.execute("DETACH lake")
    header = f"x-api-key={server.admin_key};x-lancedb-database={table}"
    attach(duck, server, "lake", f"HEADER '{header}'")
    assert duck.execute("SELECT min(id), count(*) FROM lake.main.big").fetchone() == (990, 10)


def test_a_folder_of_the_lake(
    server: LakebedServer, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    """Without the server's help: a database is a folder of tables."""
    lake = server.lake(database=table)
    lake.create("numbers", numbered(7))
    folder = server.table_path("numbers", table).parent
    duck.execute(f"ATTACH '{folder}' AS folder (TYPE LANCE)")
    assert duck.execute("SELECT count(*) FROM folder.main.numbers").fetchone() == (7,)
    lake.close()


def test_a_namespace(server: LakebedServer, table: str, duck: duckdb.DuckDBPyConnection) -> None:
    """DuckDB sends the whole id of a table as one element."""
    lake = server.lake()
    lake.create(f"{table}$numbers", numbered(5))
    address, key = f"http://{server.http_address}", server.admin_key
    duck.execute(f"ATTACH '{table}' AS inner_ (TYPE LANCE, ENDPOINT '{address}', API_KEY '{key}')")
    duck.execute("SHOW TABLES FROM inner_")
    assert duck.execute("SELECT count(*) FROM inner_.main.numbers").fetchone() == (5,)
    duck.execute("CREATE TABLE inner_.main.made (id BIGINT)")
    http = server.http()
    assert http.post(f"/v1/table/{table}$made/describe/").status == 200
    assert http.post("/v1/table/made/describe/").status == 404
    body = {"id": [f"{table}$numbers"]}
    for route in ("describe", "exists", "count_rows", "version/list"):
        path = f"/v1/table/{table}%24numbers/{route}?delimiter=%24"
        assert http.post(path, body).status == 200
    wrong = {"id": [f"{table}$others"]}
    assert http.post(f"/v1/table/{table}%24numbers/describe?delimiter=%24", wrong).status == 400
    lake.close()
