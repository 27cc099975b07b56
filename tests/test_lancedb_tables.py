"""Tables through the unmodified LanceDB client: made, opened, filled, merged, changed."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.lancedb import connect, connect_async
from support.server import LakebedServer


@pytest.fixture
def db(server: LakebedServer) -> Any:
    """A connection to the database that the tests of this module share."""
    return connect(server)


def people(first: int, rows: int) -> pa.Table:
    """Rows with a key, a text and a vector of two numbers."""
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": [f"name {number}" for number in ids],
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(np.stack([ids, ids * 2], axis=1).astype(np.float32).ravel()), 2
            ),
        }
    )


def test_create_from_what_users_have(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    assert made.count_rows() == 3
    assert made.schema == people(0, 3).schema
    records = [{"id": 1, "vector": [0.5, 1.5]}, {"id": 2, "vector": [2.5, 3.5]}]
    of_records = db.create_table(f"{table}_records", records)
    assert of_records.search([0.5, 1.5]).limit(1).to_list()[0]["id"] == 1

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, 50, 10):
            yield from people(first, 10).to_batches()

    of_batches = db.create_table(f"{table}_batches", batches(), schema=people(0, 1).schema)
    assert of_batches.count_rows() == 50
    empty = db.create_table(f"{table}_empty", schema=people(0, 1).schema)
    assert empty.count_rows() == 0
    empty.add(people(0, 4))
    assert empty.count_rows() == 4


def test_create_modes(db: Any, server: LakebedServer, table: str) -> None:
    db.create_table(table, people(0, 3))
    with pytest.raises(ValueError, match="already exists"):
        db.create_table(table, people(0, 5))
    assert db.create_table(table, people(0, 5), exist_ok=True).count_rows() == 3
    for other in (
        people(0, 5).drop_columns(["id"]),
        people(0, 5).rename_columns(["id", "text", "vector"]),
    ):
        with pytest.raises(Exception, match="does not match existing table schema"):
            db.create_table(table, other, exist_ok=True)
    assert db.create_table(table, people(0, 5), mode="overwrite").count_rows() == 5
    # A fresh connection knows nothing of all that.
    assert connect(server).open_table(table).count_rows() == 5
    with pytest.raises(ValueError, match="was not found"):
        db.open_table(f"{table}_missing")


def test_list_drop_rename(db: Any, table: str) -> None:
    for suffix in "abc":
        db.create_table(f"{table}_{suffix}", people(0, 1))
    mine = [name for name in db.table_names(limit=1_000) if name.startswith(table)]
    assert mine == [f"{table}_{suffix}" for suffix in "abc"]
    assert db.table_names(page_token=f"{table}_a", limit=1) == [f"{table}_b"]
    db.drop_table(f"{table}_b")
    db.rename_table(f"{table}_c", f"{table}_d")
    mine = [name for name in db.table_names(limit=1_000) if name.startswith(table)]
    assert mine == [f"{table}_a", f"{table}_d"]


def test_add_in_both_modes(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    before = made.version
    made.add(people(3, 1))
    made.add(iter(people(4, 100).to_batches(max_chunksize=10)))
    assert made.count_rows() == 104
    assert made.version == before + 2
    made.add(people(0, 7), mode="overwrite")
    assert made.count_rows() == 7
    made.add(people(0, 0))
    assert made.count_rows() == 7


def test_a_row_that_does_not_fit_writes_nothing(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    version = made.version
    wrong = people(0, 3).append_column("extra", pa.array([1, 2, 3]))
    with pytest.raises((ValueError, RuntimeError, OSError)):
        made.add(wrong)
    assert (made.version, made.count_rows()) == (version, 3)


def test_merge_insert(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 10))
    new = people(5, 10).set_column(1, "name", pa.array([f"new {n}" for n in range(10)]))
    merge = made.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = merge.execute(new)
    assert (done.num_updated_rows, done.num_inserted_rows, done.num_deleted_rows) == (5, 5, 0)
    assert made.count_rows() == 15
    assert made.count_rows("name LIKE 'new %'") == 10

    only_new = made.merge_insert("id").when_not_matched_insert_all().execute(people(10, 10))
    assert (only_new.num_updated_rows, only_new.num_inserted_rows) == (0, 5)
    conditional = made.merge_insert("id").when_matched_update_all(where="target.id < 2")
    done = conditional.execute(people(0, 4))
    assert (done.num_updated_rows, done.num_inserted_rows) == (2, 0)
    replaced = made.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = replaced.when_not_matched_by_source_delete("id >= 15").execute(people(0, 3))
    assert done.num_deleted_rows == 5
    assert made.count_rows() == 15


def test_merge_by_two_keys(db: Any, table: str) -> None:
    rows = pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"], "n": [1, 2, 3]})
    made = db.create_table(table, rows)
    source = pa.table({"a": [1, 2], "b": ["y", "y"], "n": [20, 30]})
    merge = made.merge_insert(["a", "b"]).when_matched_update_all().when_not_matched_insert_all()
    done = merge.execute(source)
    assert (done.num_updated_rows, done.num_inserted_rows) == (1, 1)
    found = made.search().to_arrow().sort_by([("a", "ascending"), ("b", "ascending")])
    assert found["n"].to_pylist() == [1, 20, 3, 30]


def test_update_and_delete(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 10))
    done = made.update(where="id < 3", values={"name": "young"})
    assert done.rows_updated == 3
    assert made.count_rows("name = 'young'") == 3
    done = made.update(values_sql={"id": "id + 100"})
    assert done.rows_updated == 10
    done = made.delete("id >= 105")
    assert done.num_deleted_rows == 5
    assert made.count_rows() == 5


def test_a_write_in_parts(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    version = made.version
    made.add(people(100, 40_000), write_parallelism=4)
    assert made.count_rows() == 40_003
    assert made.version == version + 1, "all parts are one version"


def test_versions(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    first = made.version
    made.add(people(3, 2))
    assert [entry["version"] for entry in made.list_versions()] == [first, first + 1]
    made.checkout(first)
    assert made.count_rows() == 3
    with pytest.raises((ValueError, RuntimeError)):
        made.add(people(9, 1))
    made.checkout_latest()
    assert made.count_rows() == 5
    made.restore(first)
    assert made.count_rows() == 3
    with pytest.raises(ValueError, match="999"):
        made.checkout(999)


def test_tags(db: Any, table: str) -> None:
    made = db.create_table(table, people(0, 3))
    made.tags.create("gold", made.version)
    made.add(people(3, 2))
    assert made.tags.get_version("gold") == 1
    made.checkout("gold")
    assert made.count_rows() == 3
    made.checkout_latest()
    made.tags.update("gold", made.version)
    assert made.tags.list()["gold"]["version"] == made.version
    made.tags.delete("gold")
    assert made.tags.list() == {}


def test_the_asynchronous_client(server: LakebedServer, table: str) -> None:
    async def walk() -> None:
        db = await connect_async(server)
        made = await db.create_table(table, people(0, 20))
        await made.add(people(20, 5))
        assert await made.count_rows("id >= 10") == 15
        found = await made.query().where("id < 4").select(["id"]).to_arrow()
        assert found["id"].to_pylist() == [0, 1, 2, 3]
        nearest = await (await made.search([7.0, 14.0])).limit(2).to_arrow()
        assert nearest["id"].to_pylist()[0] == 7
        await db.drop_table(table)
        assert table not in await db.table_names(limit=1_000)

    asyncio.run(walk())


def test_databases_are_apart(server: LakebedServer, table: str) -> None:
    one, other = connect(server, "one"), connect(server, "other")
    one.create_table(table, people(0, 3))
    assert table not in other.table_names(limit=1_000)
    other.create_table(table, people(0, 5))
    assert one.open_table(table).count_rows() == 3
