"""SQL never ends the server: deep chains and functions without a bound are refused.

A stack that overflows and an allocation that fails end the process; neither can be caught. So each
text goes to every place that takes SQL, and the server has to answer the next request.
"""

import pyarrow as pa
import pytest

from support.data import numbered
from support.flight import Lake
from support.server import LakebedServer

DEEP = {
    "sums": "id = 1" + " + 1" * 8_000,
    "is null": "id" + " IS NULL" * 5_000,
    "casts": "id" + "::int" * 10_000,
    "joined strings": "'a'" + " || 'a'" * 8_000 + " = 'x'",
    "in": "id" + " IN (1)" * 8_000,
    "between": "id" + " BETWEEN 1 AND 2" * 3_000,
    "not": "NOT " * 10_000 + "id = 1",
    "minus": "id = " + "- " * 20_000 + "1",
    "calls": "abs(" * 5_000 + "id" + ")" * 5_000 + " = 1",
    "subscripts": "id" + "[1]" * 10_000,
    "like": "'a'" + " LIKE 'a'" * 5_000,
    "at": "id" + " AT TIME ZONE 'UTC'" * 3_000,
    "mixed": "((" + "id + 1 + " * 200 + "1" + ") * (" + "1 - " * 200 + "1)) = 1",
    "or": "id=1" + " OR id=1" * 8_000,
    "and": "id=1" + " AND id=1" * 7_000,
}
UNBOUNDED = [
    "repeat('a', 4000000000) = 'x'",
    "lpad('a', 2000000000, 'b') = 'x'",
    "rpad('a', 2000000000) = 'x'",
    "array_repeat('x', 4000000000) IS NOT NULL",
    "array_length(range(1, 100000000000)) > 3",
    "array_length(generate_series(1, 100000000000)) > 3",
    "array_resize([1], 4000000000) IS NOT NULL",
    "`repeat`('a', 4000000000) = 'x'",
    "Repeat ('a', 4000000000) = 'x'",
]


def refused_everywhere(server: LakebedServer, lake: Lake, sql: str, *words: str) -> None:
    with lake.refuses("invalid_argument", "filter", *words):
        lake.read("t", filter=sql)
    with lake.refuses("invalid_argument", "columns", *words):
        lake.read("t", columns={"x": sql})
    http = server.http()
    for route in ("delete", "count_rows"):
        answer = http.post(f"/v1/table/t/{route}", {"predicate": sql})
        assert answer.status == 400, answer.json()
        for word in words:
            assert word in answer.json()["error"], answer.json()


@pytest.fixture(scope="module")
def prepared(module_server: LakebedServer) -> LakebedServer:
    module_server.lake().create("t", numbered(3))
    return module_server


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_text_is_refused(prepared: LakebedServer, lake: Lake, name: str) -> None:
    limit = "sql_terms_max" if name in ("or", "and") else "sql_depth_max"
    refused_everywhere(prepared, lake, DEEP[name], limit)
    assert lake.read("t").equals(numbered(3))


@pytest.mark.parametrize("sql", UNBOUNDED)
def test_a_function_without_a_bound_is_refused(
    prepared: LakebedServer, lake: Lake, sql: str
) -> None:
    refused_everywhere(prepared, lake, sql, "not allowed")
    assert lake.read("t").equals(numbered(3))


@pytest.mark.parametrize(
    "sql",
    [
        "id >= 0" + " OR id = 1" * 4_990,
        "id >= 0" + " AND id < 9" * 4_990,
        "id IN (" + ",".join(map(str, range(10_000))) + ")",
        "id" + " + 0" * 240 + " >= 0",
        "(" * 40 + "id >= 0" + ")" * 40,
        "abs(" * 45 + "id" + ")" * 45 + " >= 0",
    ],
    ids=["or", "and", "in", "sum", "parentheses", "calls"],
)
def test_a_text_below_the_limits_is_answered(prepared: LakebedServer, lake: Lake, sql: str) -> None:
    assert lake.read("t", filter=sql).equals(numbered(3))
    answer = lake.read("t", columns={"x": sql})
    assert answer["x"].to_pylist() == [True, True, True]
    http = prepared.http()
    assert http.ok("POST", "/v1/table/t/count_rows", {"predicate": sql}).json() == 3
    lake.create("gone", numbered(3))
    http.ok("POST", "/v1/table/gone/delete", {"predicate": sql})
    assert lake.read("gone").num_rows == 0
    http.ok("POST", "/v1/table/gone/drop")


@pytest.mark.parametrize(
    "data_type",
    [
        pa.list_(pa.string(), 2),
        pa.list_(pa.binary(), 2),
        pa.list_(pa.list_(pa.string(), 2)),
        pa.struct([("f", pa.list_(pa.string(), 2))]),
        pa.struct([("m", pa.map_(pa.string(), pa.string()))]),
        pa.list_(pa.map_(pa.string(), pa.int8())),
        pa.month_day_nano_interval(),
    ],
    ids=str,
)
def test_a_type_that_cannot_be_stored_is_refused_by_column(
    prepared: LakebedServer, lake: Lake, data_type: pa.DataType
) -> None:
    assert prepared
    with lake.refuses("invalid_argument", "column `wrong`", "cannot be stored"):
        lake.create("wrong", pa.table({"id": [1], "wrong": pa.nulls(1, data_type)}))
    assert "wrong" not in lake.tables()
