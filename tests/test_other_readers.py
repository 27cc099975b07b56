"""The lake's directories opened by tools that know nothing of Lakebed, row by row."""

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import lance
import lancedb
import pyarrow as pa
import pytest

from support.data import COLUMNS, blobs, numbered, same_rows
from support.duck import connect
from support.flight import Lake
from support.server import LakebedServer

# DuckDB has no such type, and a table with one column of it is shut to it as a whole.
NOT_IN_DUCKDB = {"decimal256"}
# DuckDB shows these as types of its own, whose Python values are others.
OTHER_IN_DUCKDB = {"duration"}


@pytest.fixture
def mixed(server: LakebedServer, lake: Lake, table: str) -> str:
    """A table of every type in four versions."""
    return make_mixed(server, lake, table, set())


def make_mixed(server: LakebedServer, lake: Lake, table: str, without: set[str]) -> str:
    """A table of four versions: created, appended to, upserted in part, and rows deleted."""
    columns = {name: array for name, array in COLUMNS.items() if name not in without}
    rows = pa.table({"id": pa.array([1, 2, 3], pa.int64()), **columns})
    lake.create(table, rows)
    lake.write(table, rows.set_column(0, "id", pa.array([4, 5, 6], pa.int64())))
    lake.upsert(table, pa.table({"id": [2, 7], "string": ["two", "seven"]}), ["id"])
    server.http().ok("POST", f"/v1/table/{table}/delete", {"predicate": "id = 5"})
    server.http().ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 2})
    return table


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the lance extension out of its package."""
    connection = connect()
    yield connection
    connection.close()


def in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by("id").combine_chunks()


def test_pylance_agrees_at_every_version(server: LakebedServer, lake: Lake, mixed: str) -> None:
    dataset = lance.dataset(str(server.table_path(mixed)))
    dataset.validate()
    assert dataset.version == 4
    assert dataset.has_stable_row_ids
    assert dataset.data_storage_version == "2.2"
    for version in range(1, 5):
        theirs = dataset.checkout_version(version).to_table()
        assert same_rows(in_order(theirs), in_order(lake.read(mixed, version=version)))
    theirs = dataset.to_table(with_row_id=True).select(["id", "_rowid"])
    assert in_order(theirs).equals(in_order(lake.read(mixed, columns=["id", "_rowid"])))


def test_pylance_sees_the_tags(server: LakebedServer, lake: Lake, mixed: str) -> None:
    dataset = lance.dataset(str(server.table_path(mixed)))
    assert dataset.tags.list()["gold"]["version"] == 2
    tagged = dataset.checkout_version("gold").to_table()
    assert same_rows(in_order(tagged), in_order(lake.read(mixed, tag="gold")))


def test_pylance_filters_alike(server: LakebedServer, lake: Lake, mixed: str) -> None:
    dataset = lance.dataset(str(server.table_path(mixed)))
    condition = "int8 IS NULL OR string = 'seven'"
    theirs = dataset.to_table(filter=condition, columns=["id", "string"])
    ours = lake.read(mixed, filter=condition, columns=["id", "string"])
    assert in_order(theirs).equals(in_order(ours))


def test_local_lancedb_agrees(server: LakebedServer, lake: Lake, mixed: str) -> None:
    database = lancedb.connect(Path(server.data) / "default")
    assert mixed in database.table_names(limit=1_000)
    table = database.open_table(mixed)
    assert same_rows(in_order(table.to_arrow()), in_order(lake.read(mixed)))
    assert [version["version"] for version in table.list_versions()] == [1, 2, 3, 4]
    assert table.tags.list()["gold"]["version"] == 2
    table.checkout("gold")
    assert same_rows(in_order(table.to_arrow()), in_order(lake.read(mixed, tag="gold")))


def test_duckdb_agrees(
    server: LakebedServer, lake: Lake, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    path = server.table_path(make_mixed(server, lake, table, NOT_IN_DUCKDB))
    theirs = duck.execute(f"SELECT * FROM '{path}' ORDER BY id").to_arrow_table()
    ours = in_order(lake.read(table))
    assert theirs.column_names == ours.column_names
    for name in set(ours.column_names) - OTHER_IN_DUCKDB:
        assert theirs[name].to_pylist() == ours[name].to_pylist(), name
    assert duck.execute(f"SELECT count(*) FROM '{path}' WHERE id > 3").fetchone() == (3,)


def test_a_table_in_a_namespace(
    server: LakebedServer, lake: Lake, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    name = f"team$cars${table}"
    lake.create(name, numbered(100))
    path = server.table_path(name)
    assert lance.dataset(str(path)).to_table().equals(numbered(100))
    database = lancedb.connect(Path(server.data) / "default/team/cars")
    assert database.open_table(table).to_arrow().equals(numbered(100))
    assert duck.execute(f"SELECT max(id) FROM '{path}'").fetchone() == (99,)


def test_blobs_by_pylance_and_lancedb(server: LakebedServer, lake: Lake, table: str) -> None:
    """Inline, packed, dedicated and external blobs; the last by way of a registered base."""
    sizes = (5, 70_000, 5 << 20, 17 << 20)
    cells = [b"", *(os.urandom(size) for size in sizes), None]
    lake.create(table, blobs(cells))
    lake.write(table, blobs([b"later"], start=len(cells)))
    expected = [*cells, b"later"]
    dataset = lance.dataset(str(server.table_path(table)))
    dataset.validate()
    read = dataset.read_blobs("data", indices=list(range(len(expected))), preserve_order=True)
    assert [cell for _, cell in read] == expected
    opened = dataset.take_blobs("data", indices=[4])[0]
    opened.seek(1_000_000)
    assert opened.read(10) == expected[4][1_000_000:1_000_010]
    local = lancedb.connect(Path(server.data) / "default").open_table(table)
    assert local.count_rows() == len(expected)
    sizes_there = [cell and cell["size"] for cell in local.to_arrow()["data"].to_pylist()]
    assert sizes_there == [cell if cell is None else len(cell) for cell in expected]


def test_a_table_with_blobs_and_an_index_stays_open_to_all(
    server: LakebedServer, lake: Lake, table: str, duck: duckdb.DuckDBPyConnection
) -> None:
    """The open profile: a partial upsert beside blobs, which makes an index, shuts nobody out."""
    lake.create(table, blobs([b"a", b"b"], label=pa.array([None, None], pa.string())))
    lake.upsert(table, pa.table({"id": [0, 2], "label": ["x", "y"]}), ["id"])
    path = server.table_path(table)
    expected = [(0, "x"), (1, None), (2, "y")]
    rows = lance.dataset(str(path)).to_table(columns=["id", "label"]).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == expected
    local = lancedb.connect(Path(server.data) / "default").open_table(table)
    rows = local.search().select(["id", "label"]).to_list()
    assert sorted((row["id"], row["label"]) for row in rows) == expected
    assert duck.execute(f"SELECT id, label FROM '{path}' ORDER BY id").fetchall() == expected
