"""Blobs through the unmodified LanceDB client: written, fetched whole, read by ranges."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.flight import Lake
from support.lancedb import connect
from support.server import LakebedServer

MIB = 1 << 20
CELLS = [b"small", None, b"", b"x" * 100_000, bytes(range(256)) * 20_000, b"last"]


def cells(values: list[bytes | None]) -> pa.Table:
    blob = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    arrays = [pa.array(range(len(values)), pa.int64()), pa.array(values, pa.large_binary())]
    return pa.table(arrays, schema=schema)


@pytest.fixture
def made(server: LakebedServer, lake: Lake, table: str) -> Any:
    """A table with blobs of every placement, a null and an empty one."""
    lake.create(table, cells(CELLS))
    return connect(server).open_table(table)


def row_ids(made: Any) -> list[int]:
    found = made.search().with_row_id(True).select(["id"]).to_arrow().sort_by("id")
    return found["_rowid"].to_pylist()


def test_fetch(made: Any) -> None:
    ids = row_ids(made)
    assert made.fetch_blobs("data", ids).to_pylist() == CELLS
    order = [4, 0, 1, 0, 5]
    fetched = made.fetch_blobs("data", [ids[number] for number in order])
    assert fetched.to_pylist() == [CELLS[number] for number in order], "in the order asked for"
    assert made.fetch_blobs("data", []).to_pylist() == []


def test_a_query_shows_descriptors(made: Any) -> None:
    found = made.search().select(["id", "data"]).to_arrow().sort_by("id")
    sizes = [None if cell is None else cell["size"] for cell in found["data"].to_pylist()]
    assert [size for size in sizes if size is not None] == [5, 0, 100_000, 5_120_000, 4]


def test_files_that_seek(made: Any) -> None:
    files = made.fetch_blob_files("data", row_ids(made))
    assert files[1] is None
    assert files[0].read() == b"small"
    assert files[2].read() == b""
    large = files[4]
    large.seek(4_000_000)
    assert large.read(1_000) == CELLS[4][4_000_000:4_001_000]
    large.seek(-3, 2)
    assert large.read() == CELLS[4][-3:]
    large.seek(0)
    assert large.read() == CELLS[4]


def test_more_than_one_answer_holds(server: LakebedServer, lake: Lake, table: str) -> None:
    """The client is told to ask for fewer, and gets every byte."""
    dice = np.random.default_rng(1)
    values = [dice.bytes(12 * MIB) for _ in range(7)]
    lake.create(table, cells(values[:3]))
    for number in range(3, 7):
        more = cells(values).slice(number, 1)
        lake.write(table, more)
    made = connect(server).open_table(table)
    ids = row_ids(made)
    body = {"column": "data", "row_ids": ids, "version": None}
    answer = server.http().post(f"/v1/table/{table}/fetch_blobs/", body)
    assert answer.status == 400
    assert "fetch_blobs accepts at most" in answer.text
    assert "total blob bytes" in answer.text
    assert made.fetch_blobs("data", ids).to_pylist() == values


def test_blobs_beside_an_update(made: Any) -> None:
    ids = row_ids(made)
    made.update(where="id = 4", values_sql={"id": "id + 100"})
    made.add_columns({"twice": "id * 2"})
    assert made.fetch_blobs("data", ids).to_pylist() == CELLS
    made.checkout(1)
    assert made.fetch_blobs("data", ids).to_pylist() == CELLS


def test_what_is_wrong(server: LakebedServer, made: Any) -> None:
    for body, says in [
        ({"column": "id", "row_ids": [0]}, "not a blob column"),
        ({"column": "nothing", "row_ids": [0]}, "nothing"),
        ({"column": "data", "row_ids": [10**12]}, "does not exist"),
        ({"column": "data", "row_ids": list(range(2_000))}, "1024"),
        ({"column": "data"}, "row_ids"),
    ]:
        answer = server.http().post(f"/v1/table/{made.name}/fetch_blobs/", body)
        assert answer.status == 400, answer.text
        assert says in answer.json()["error"]
