"""Places: columns of geometries, an R-tree over them, and questions about where."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.flight import Lake
from support.http import Http
from support.lancedb import connect
from support.server import LakebedServer
from support.sql import Sql

ROWS = 5_000
# A part of a city, as longitude and latitude.
WEST, EAST, SOUTH, NORTH = 13.3, 13.5, 52.45, 52.55
CROSSING = "POLYGON((13.40 52.50, 13.42 52.50, 13.42 52.52, 13.40 52.52, 13.40 52.50))"
INSIDE = f"st_intersects(place, st_geomfromtext('{CROSSING}'))"


def drives(first: int, rows: int) -> tuple[pa.Table, np.ndarray]:
    """Rows with a point each, and which of them lie in the crossing."""
    dice = np.random.default_rng(first)
    x, y = dice.uniform(WEST, EAST, rows), dice.uniform(SOUTH, NORTH, rows)
    points = pa.StructArray.from_arrays(
        [pa.array(x), pa.array(y)],
        fields=[pa.field("x", pa.float64(), False), pa.field("y", pa.float64(), False)],
    )
    schema = pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("place", points.type, metadata={"ARROW:extension:name": "geoarrow.point"}),
        ]
    )
    ids = pa.array(np.arange(first, first + rows))
    is_inside = (x > 13.40) & (x < 13.42) & (y > 52.50) & (y < 52.52)
    return pa.table([ids, points], schema=schema), np.flatnonzero(is_inside) + first


@pytest.fixture
def made(server: LakebedServer, table: str) -> tuple[Any, list[int]]:
    """A table with an R-tree, and rows that came after it."""
    rows, inside = drives(0, ROWS)
    made = connect(server).create_table(table, rows)
    body = {"column": "place", "index_type": "RTREE", "name": "places"}
    server.http().ok("POST", f"/v1/table/{table}/create_index", body)
    more, more_inside = drives(ROWS, 100)
    assert len(more_inside) > 0
    made.add(more)
    return made, sorted([*inside.tolist(), *more_inside.tolist()])


def test_points_are_found_by_where_they_lie(
    lake: Lake, sql: Sql, made: tuple[Any, list[int]]
) -> None:
    table, inside = made
    listed = {index.name: index.index_type for index in table.list_indices()}
    assert listed == {"places": "RTree"}
    assert table.index_stats("places").num_indexed_rows == ROWS
    search = table.search().where(INSIDE).select(["id"]).limit(ROWS)
    assert sorted(search.to_arrow()["id"].to_pylist()) == inside
    assert "ScalarIndexQuery" in search.explain_plan(verbose=True)
    assert table.count_rows(INSIDE) == len(inside)
    found = lake.read(table.name, filter=INSIDE, columns=["id"])
    assert sorted(found["id"].to_pylist()) == inside
    rows = sql.rows(f"SELECT id FROM {table.name} WHERE {INSIDE} ORDER BY id")
    assert [row["id"] for row in rows] == inside
    plan = str(sql.rows(f"EXPLAIN SELECT id FROM {table.name} WHERE {INSIDE}"))
    assert "ScalarIndexQuery" in plan


def test_statements_compute_with_geometries(sql: Sql, made: tuple[Any, list[int]]) -> None:
    table, _ = made
    near = sql.rows(
        f"SELECT id, st_x(place) AS x, st_y(place) AS y, "
        f"st_distance(place, st_point(13.4, 52.5)) AS far FROM {table.name} ORDER BY far LIMIT 3"
    )
    for row in near:
        assert row["far"] == pytest.approx(np.hypot(row["x"] - 13.4, row["y"] - 52.5))
    assert sql.value(f"SELECT st_area(st_geomfromtext('{CROSSING}'))") == pytest.approx(0.0004)


def test_what_is_no_geometry_gets_no_r_tree(server: LakebedServer, table: str) -> None:
    connect(server).create_table(table, pa.table({"id": [1], "pair": [{"x": 1.0, "y": 2.0}]}))
    http: Http = server.http()
    for column in ("id", "pair"):
        body = {"column": column, "index_type": "RTREE"}
        answer = http.post(f"/v1/table/{table}/create_index", body)
        assert answer.status == 400
        assert column in answer.text
    wrong = {"predicate": "st_intersects(id, st_geomfromtext('POINT(1 2)'))"}
    assert http.post(f"/v1/table/{table}/count_rows", wrong).status == 400
