"""Rows that the Python client is given: which shapes fit, which are refused, and by what error."""

import datetime
import enum
from collections.abc import Iterator

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lakebed
from lakebed import errors
from lakebed.table import sql_literal
from support.server import LakebedServer

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


@pytest.fixture
def db(server: LakebedServer) -> Iterator[lakebed.Connection]:
    """A connection with the admin key."""
    with lakebed.connect(f"http://{server.http_address}", server.admin_key) as db:
        yield db


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["guessed", "given"])
def test_dicts_bring_all_of_their_names(
    db: lakebed.Connection, table: str, schema: pa.Schema | None
) -> None:
    made = db.create_table(table, [{"id": 1}, {"name": "b", "id": 2}, {}], schema=schema)
    assert made.schema().names == ["id", "name"]
    assert made.scan().to_list() == [
        {"id": 1, "name": None},
        {"id": 2, "name": "b"},
        {"id": None, "name": None},
    ]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([{"id": 1}, {"id": 2, "nmae": "b"}], id="dicts"),
        pytest.param(({"id": 1, "nmae": "b"},), id="a tuple of dicts"),
        pytest.param({"id": [1], "name": ["a"], "nmae": ["b"]}, id="columns"),
        pytest.param(pd.DataFrame({"id": [1], "name": ["a"], "nmae": ["b"]}), id="pandas"),
        pytest.param(pl.DataFrame({"id": [1], "name": ["a"], "nmae": ["b"]}), id="polars"),
        pytest.param(pa.table({"id": [1], "name": ["a"], "nmae": ["b"]}), id="table"),
    ],
)
def test_a_name_that_the_schema_lacks_is_refused(
    db: lakebed.Connection, table: str, data: object
) -> None:
    with pytest.raises(errors.InvalidArgument, match="nmae"):
        db.create_table(table, data, schema=SCHEMA)
    assert table not in db.tables()


def test_an_upsert_sets_nothing_to_null_by_itself(db: lakebed.Connection, table: str) -> None:
    rows = [{"id": 1, "name": "a", "n": 1}, {"id": 2, "name": "b", "n": 2}]
    made = db.create_table(table, rows)
    with pytest.raises(errors.InvalidArgument, match="row 1 has no `name`"):
        made.upsert([{"id": 1, "name": "x"}, {"id": 2}], on="id")
    assert made.scan().to_list() == rows
    made.upsert([{"id": 1, "name": None}, {"name": "y", "id": 2}], on="id")
    assert made.scan().to_pandas().sort_values("id")["n"].tolist() == [1, 2]
    assert {row["id"]: row["name"] for row in made.scan().to_list()} == {1: None, 2: "y"}


# ---- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_generator", [False, True])
def test_a_later_batch_may_have_another_order(
    db: lakebed.Connection, table: str, is_generator: bool
) -> None:
    first = pa.record_batch({"id": [1], "name": ["a"]})
    second = pa.record_batch({"name": ["b"], "id": [2]})
    made = db.create_table(table, iter([first, second]) if is_generator else [first, second])
    assert made.scan().to_list() == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(pa.record_batch({"id": [2]}), id="a column is missing"),
        pytest.param(pa.record_batch({"id": [2], "x": ["b"]}), id="another column"),
        pytest.param(pa.record_batch({"id": [2], "name": [[1]]}), id="another type"),
        pytest.param({"id": [2]}, id="no batch"),
    ],
)
def test_a_later_batch_that_does_not_fit_writes_nothing(
    db: lakebed.Connection, table: str, second: object
) -> None:
    made = db.create_table(table, schema=SCHEMA)
    first = pa.record_batch({"id": [1], "name": ["a"]})
    with pytest.raises(errors.InvalidArgument, match="do not fit"):
        made.add(batch for batch in (first, second))
    assert made.count() == 0


# ---- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"id": [1]}, id="a column is missing"),
        pytest.param({"id": 1, "name": "a"}, id="no lists"),
        pytest.param({"id": [1 << 70], "name": ["a"]}, id="a number too large"),
        pytest.param([{"id": 1 << 70}], id="a number too large in a dict"),
        pytest.param(pa.table({"id": [[1]], "name": ["a"]}), id="another type"),
        pytest.param(pa.table({"id": [1]}), id="a table without a column"),
        pytest.param(pd.DataFrame({"id": [1]}), id="a frame without a column"),
        pytest.param(pd.Series([1]), id="a series"),
        pytest.param(pl.LazyFrame({"id": [1]}), id="a lazy frame"),
    ],
)
def test_rows_that_do_not_fit(db: lakebed.Connection, table: str, data: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        db.create_table(table, data, schema=SCHEMA)


def test_a_column_that_is_no_blob(db: lakebed.Connection, table: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="do not fit"):
        db.create_table(table, {"id": [[1]]}, blobs=["id"])


class Level(enum.IntEnum):
    """A number whose `repr` is not one."""

    LOW = 1


NANOSECONDS = np.datetime64("2026-01-02T03:04:05.000000006", "ns")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1.5), "1.5"),
        (np.float32(0.5), "0.5"),
        (np.int64(-3), "-3"),
        (np.uint8(3), "3"),
        (np.bool_(True), "TRUE"),
        (np.str_("it's"), "'it''s'"),
        (np.datetime64("2026-01-02", "D"), "DATE '2026-01-02'"),
        (np.array(2), "2"),
        (Level.LOW, "1"),
        (datetime.date(2026, 1, 2), "DATE '2026-01-02'"),
        (1e300, "1e+300"),
    ],
)
def test_literals(value: object, text: str) -> None:
    assert sql_literal(value) == text


@pytest.mark.parametrize("value", [np.float64("nan"), np.float32("inf"), NANOSECONDS, np.ones(1)])
def test_values_without_a_literal(value: object) -> None:
    with pytest.raises(errors.InvalidArgument, match="literal"):
        sql_literal(value)


def test_an_update_by_scalars_of_numpy(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, {"id": [1], "x": [0.0]})
    assert made.update(values={"id": np.int64(7), "x": np.float64(2.5)}) == 1
    assert made.scan().to_list() == [{"id": 7, "x": 2.5}]
