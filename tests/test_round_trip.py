"""What goes in through Flight comes out again: types, shapes, versions, projections, endpoints."""

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import flight

from support.data import COLUMNS, bulk, numbered, same_rows, wide
from support.flight import Lake
from support.server import LakebedServer

# ---- modes and descriptors ------------------------------------------------------------------


def test_create_append_and_overwrite_give_receipts(lake: Lake, table: str) -> None:
    first = lake.create(table, numbered(3))
    assert first["version"] == 1
    assert first["rows"] == 3
    assert first["bytes"] > 0
    second = lake.write(table, numbered(2, start=3))
    assert (second["version"], second["rows"]) == (2, 2)
    assert lake.read(table).equals(numbered(5))
    third = lake.write(table, pa.table({"other": ["x"]}), "overwrite")
    assert (third["version"], third["rows"]) == (3, 1)
    assert lake.read(table).equals(pa.table({"other": ["x"]}))
    assert lake.read(table, version=2).equals(numbered(5))


def test_overwrite_makes_a_missing_table(lake: Lake, table: str) -> None:
    assert lake.write(table, numbered(2), "overwrite")["version"] == 1
    assert lake.read(table).equals(numbered(2))


def test_a_path_descriptor_appends_and_reads(lake: Lake, table: str) -> None:
    path = flight.FlightDescriptor.for_path(table)
    with lake.refuses("not_found", table):
        lake.put(path, numbered(1))
    lake.create(table, numbered(3))
    assert lake.put(path, numbered(2, start=3))["version"] == 2
    info = lake.client.get_flight_info(path, lake.options())
    assert pa.concat_tables(map(lake.fetch, info.endpoints)).equals(numbered(5))
    assert info.total_records == 5


def test_a_table_in_a_namespace(server: LakebedServer, lake: Lake, table: str) -> None:
    name = f"team$cars${table}"
    lake.create(name, numbered(3))
    assert server.table_path(name).is_dir()
    path = flight.FlightDescriptor.for_path("team", "cars", table)
    lake.put(path, numbered(2, start=3))
    assert lake.read(name).equals(numbered(5))
    assert name in lake.tables()


def test_databases_are_apart(server: LakebedServer, table: str) -> None:
    ours, theirs = server.lake(), server.lake(database="team/theirs")
    ours.create(table, numbered(1))
    theirs.create(table, numbered(2))
    assert ours.read(table).num_rows == 1
    assert theirs.read(table).num_rows == 2
    assert server.table_path(table, "team/theirs").is_dir()


def test_the_list_of_flights_names_tables(lake: Lake, table: str) -> None:
    names = [f"{table}_{i}" for i in range(3)]
    for name in names:
        lake.create(name, numbered(1))
    listed = lake.tables()
    assert set(names) <= set(listed)
    assert listed == sorted(listed)


def test_names_are_case_sensitive(lake: Lake, table: str) -> None:
    lake.create(table, pa.table({"Id": [1], "id": [2]}))
    lake.create(table.upper(), numbered(1))
    assert lake.read(table, columns=["id"]).column_names == ["id"]
    assert lake.read(table, columns=["Id"])["Id"].to_pylist() == [1]
    assert lake.read(table.upper()).equals(numbered(1))


# ---- types and shapes -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_type_survives(lake: Lake, table: str, kind: str) -> None:
    rows = pa.table({"id": [0, 1, 2], "value": COLUMNS[kind]})
    lake.create(table, rows)
    answer = lake.read(table)
    assert answer.schema.equals(rows.schema)
    assert answer.equals(rows)


def test_all_types_in_one_table_many_batches(lake: Lake, table: str) -> None:
    one = pa.table(COLUMNS)
    rows = pa.concat_tables([one] * 50)
    lake.create(table, rows)
    lake.write(table, one)
    answer = lake.read(table)
    assert answer.num_rows == 153
    assert same_rows(answer.slice(0, 150), rows)
    assert same_rows(answer.slice(150), one)


def test_views_are_stored_as_plain_types(lake: Lake, table: str) -> None:
    """A table with view types is shut to the LanceDB SDKs; polars sends nothing else."""
    views = {"text": pa.array(["x", None], pa.string_view()), "bytes": [b"y", b""]}
    rows = pa.table(views).cast(
        pa.schema([("text", pa.string_view()), ("bytes", pa.binary_view())])
    )
    lake.create(table, rows)
    answer = lake.read(table)
    assert answer.schema.types == [pa.string(), pa.binary()]
    assert answer.to_pylist() == rows.to_pylist()
    lake.write(table, rows)
    assert lake.read(table).to_pylist() == rows.to_pylist() * 2


def test_metadata_and_nullability_survive(lake: Lake, table: str) -> None:
    field = pa.field("id", pa.int64(), nullable=False, metadata={b"unit": b"m"})
    schema = pa.schema([field], metadata={b"source": b"camera 7"})
    lake.create(table, pa.table([[1, 2]], schema=schema))
    answer = lake.read(table).schema
    assert answer.field("id").nullable is False
    assert answer.field("id").metadata[b"unit"] == b"m"
    assert answer.metadata[b"source"] == b"camera 7"


def test_an_empty_table(lake: Lake, table: str) -> None:
    schema = numbered(0).schema
    receipt = lake.create(table, [], schema=schema)
    assert (receipt["version"], receipt["rows"]) == (1, 0)
    assert lake.info(table).total_records == 0
    answer = lake.read(table)
    assert answer.num_rows == 0
    assert answer.schema.equals(schema)
    lake.write(table, numbered(2))
    assert lake.read(table).equals(numbered(2))


def test_empty_batches_between_full_ones(lake: Lake, table: str) -> None:
    rows = numbered(4)
    empty = rows.slice(0, 0).to_batches()[0:1] or [pa.RecordBatch.from_pylist([], rows.schema)]
    batches = [*empty, *rows.slice(0, 2).to_batches(), *empty, *rows.slice(2).to_batches()]
    assert lake.create(table, batches, schema=rows.schema)["rows"] == 4
    assert lake.read(table).equals(rows)


def test_a_wide_table(lake: Lake, table: str) -> None:
    rows = wide(1_000)
    lake.create(table, rows)
    assert lake.read(table).equals(rows)
    assert lake.read(table, columns=["c999", "c0"]).equals(rows.select(["c999", "c0"]))


def test_sliced_and_offset_batches(lake: Lake, table: str) -> None:
    rows = pa.concat_tables([pa.table(COLUMNS)] * 10)
    lake.create(table, [rows.combine_chunks().slice(7, 11).to_batches()[0]], schema=rows.schema)
    assert lake.read(table).equals(rows.slice(7, 11))


def test_columns_are_matched_by_name(lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    lake.write(table, numbered(1, start=1).select(["name", "id"]))
    assert lake.read(table).equals(numbered(2))


def test_a_missing_nullable_column_is_null(lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    lake.write(table, pa.table({"id": [7]}))
    assert lake.read(table).to_pylist()[1] == {"id": 7, "name": None}


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        (pa.int64(), pa.int8()),
        (pa.int64(), pa.uint32()),
        (pa.float64(), pa.float32()),
        (pa.float64(), pa.int32()),
        (pa.large_string(), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.int64(), pa.null()),
    ],
    ids=str,
)
def test_lossless_widening_converts(
    lake: Lake, table: str, stored: pa.DataType, sent: pa.DataType
) -> None:
    sample = {pa.string(): "x", pa.binary(): b"x", pa.null(): None}.get(sent, 5)
    lake.create(table, pa.table({"v": pa.array([None], stored)}))
    lake.write(table, pa.table({"v": pa.array([sample], sent)}))
    answer = lake.read(table)
    assert answer.schema.field("v").type == stored
    assert answer["v"].to_pylist() == [None, sample]


# ---- versions -------------------------------------------------------------------------------


def test_versions_tags_and_times(server: LakebedServer, lake: Lake, table: str) -> None:
    times = []
    for i in range(4):
        mode = "create" if i == 0 else "append"
        lake.write(table, numbered(1, start=i), mode)
        times.append(dt.datetime.now(dt.UTC))
    for version in range(1, 5):
        assert lake.read(table, version=version).equals(numbered(version))
        at = times[version - 1].isoformat()
        assert lake.read(table, as_of=at).equals(numbered(version))
    server.http().ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 2})
    assert lake.read(table, tag="gold").equals(numbered(2))
    server.http().ok("POST", f"/v1/table/{table}/tags/update", {"tag": "gold", "version": 3})
    assert lake.read(table, tag="gold").equals(numbered(3))
    tags = server.http().ok("POST", f"/v1/table/{table}/tags/list/").json()
    assert tags["gold"]["version"] == 3
    server.http().ok("POST", f"/v1/table/{table}/tags/delete", {"tag": "gold"})
    with lake.refuses("not_found", "gold"):
        lake.read(table, tag="gold")
    assert lake.read(table).equals(numbered(4))


def test_an_unknown_tag_names_its_neighbours(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    for tag in ("gold", "golden", "unlike"):
        server.http().ok("POST", f"/v1/table/{table}/tags/create", {"tag": tag, "version": 1})
    for wrong in ("gild", "Gold", "golde"):
        with lake.refuses("not_found", table, f"`{wrong}`", "nearest", "gold"):
            lake.read(table, tag=wrong)
    with lake.refuses("not_found", "`gold.1`"):
        lake.read(table, tag="gold.1")
    with lake.refuses("not_found", table, "version"):
        lake.read(table, version=99)


def test_tags_are_made_and_kept_over_http(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(1))
    own_server.http().ok("POST", "/v1/table/t/tags/create", {"tag": "first", "version": 1})
    lake.write("t", numbered(1, start=1))
    own_server.restart()
    assert own_server.lake().read("t", tag="first").equals(numbered(1))
    assert own_server.lake().read("t").equals(numbered(2))


# ---- projections, filters, rows -------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(module_server: LakebedServer) -> str:
    """A table of 1,000 rows in three versions, for reads only."""
    lake = module_server.lake()
    ids = np.arange(1_000)
    rows = pa.table({"id": ids, "score": ids % 10, "half": ids / 2})
    lake.create("scores", rows.slice(0, 400))
    lake.write("scores", rows.slice(400, 300))
    lake.write("scores", rows.slice(700))
    return "scores"


def test_columns_come_in_the_order_asked_for(lake: Lake, scores: str) -> None:
    answer = lake.read(scores, columns=["half", "id"])
    assert answer.column_names == ["half", "id"]
    assert answer["id"].to_pylist() == list(range(1_000))


def test_expressions_under_aliases(lake: Lake, scores: str) -> None:
    columns = {"double": "id * 2", "id": "id", "big": "score > 5"}
    answer = lake.read(scores, columns=columns, limit=8)
    assert answer.column_names == ["double", "id", "big"]
    assert answer["double"].to_pylist() == [i * 2 for i in range(8)]
    assert answer["big"].to_pylist() == [i > 5 for i in range(8)]


def test_a_filter(lake: Lake, scores: str) -> None:
    answer = lake.read(scores, filter="score = 3 AND id < 500", columns=["id"])
    assert answer["id"].to_pylist() == list(range(3, 500, 10))
    assert lake.read(scores, filter="id < 0").num_rows == 0


def test_limit_and_offset(lake: Lake, scores: str) -> None:
    ids = lambda **fields: lake.read(scores, **fields)["id"].to_pylist()  # noqa: E731
    assert ids(limit=5) == [0, 1, 2, 3, 4]
    assert ids(offset=995) == [995, 996, 997, 998, 999]
    assert ids(limit=3, offset=399) == [399, 400, 401]
    assert ids(limit=0) == []
    assert ids(offset=2_000) == []
    assert ids(filter="score = 7", limit=2, offset=3) == [37, 47]


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"limit": 3, "offset": 399}, 3),
        ({"limit": 0}, 0),
        ({"limit": 5_000}, 1_000),
        ({"offset": 990}, 10),
        ({"offset": 2_000}, 0),
        ({"limit": 10, "offset": 995}, 5),
        ({"version": 2, "limit": 900}, 700),
        ({"order": "any"}, 1_000),
        ({"columns": ["id"]}, 1_000),
        ({"columns": {"x": "id + 1"}, "limit": 7}, 7),
    ],
    ids=str,
)
def test_the_number_of_rows_is_known_without_a_filter(
    lake: Lake, scores: str, fields: dict[str, Any], rows: int
) -> None:
    """`total_records` is exact, and is what then comes."""
    assert lake.info(scores, **fields).total_records == rows
    assert lake.count(scores, **fields) == rows


def test_rows_by_id_come_in_the_order_asked_for(lake: Lake, scores: str) -> None:
    all_rows = lake.read(scores, columns=["_rowid", "id"])
    row_id_of = dict(zip(all_rows["id"].to_pylist(), all_rows["_rowid"].to_pylist(), strict=True))
    assert len(set(row_id_of.values())) == 1_000
    wanted = [999, 0, 512, 3, 700]
    answer = lake.read(scores, row_ids=[row_id_of[i] for i in wanted])
    assert answer["id"].to_pylist() == wanted
    assert answer.column_names == ["id", "score", "half"]
    answer = lake.read(scores, row_ids=[row_id_of[5]], columns=["half", "_rowid"])
    assert answer.to_pylist() == [{"half": 2.5, "_rowid": row_id_of[5]}]


def test_row_ids_stay_through_writes(lake: Lake, table: str) -> None:
    lake.create(table, numbered(100))
    before = lake.read(table, columns=["_rowid", "id"])
    lake.upsert(table, pa.table({"id": [5, 50], "name": ["five", "fifty"]}), ["id"])
    lake.write(table, numbered(10, start=100))
    after = lake.read(table, columns=["_rowid", "id"]).sort_by("id")
    assert after.slice(0, 100).equals(before)
    changed = before["_rowid"][50].as_py()
    assert lake.read(table, row_ids=[changed])["name"].to_pylist() == ["fifty"]


def test_order_any_gives_the_same_rows(lake: Lake, scores: str) -> None:
    info = lake.info(scores, order="any")
    assert info.ordered is False
    assert lake.info(scores).ordered is True
    answer = lake.read(scores, order="any")
    assert answer.sort_by("id").equals(lake.read(scores))


def test_the_schema_without_rows(lake: Lake, scores: str) -> None:
    path = flight.FlightDescriptor.for_path(scores)
    whole = lake.client.get_schema(path, lake.options()).schema
    assert whole.equals(lake.read(scores).schema)
    assert lake.info(scores, columns=["half"]).schema.names == ["half"]


def test_total_records_are_exact(lake: Lake, scores: str) -> None:
    assert lake.info(scores).total_records == 1_000
    assert lake.info(scores, version=1).total_records == 400
    filtered = lake.info(scores, filter="score = 3").total_records
    assert filtered in {100, -1}


# ---- endpoints and tickets ------------------------------------------------------------------


def test_a_large_table_has_parallel_endpoints(lake: Lake, table: str) -> None:
    rows = bulk(rows=20_000, row_bytes=4_096)  # 80 MB
    lake.create(table, rows.to_batches(max_chunksize=4_000), schema=rows.schema)
    info = lake.info(table)
    assert len(info.endpoints) > 1
    assert info.total_records == 20_000
    with ThreadPoolExecutor(4) as pool:
        parts = list(
            pool.map(
                lambda e: lake.client.do_get(e.ticket, lake.options()).read_all(), info.endpoints
            )
        )
    assert all(part.num_rows for part in parts)
    assert pa.concat_tables(parts).equals(rows), "in the order of the endpoints, each row once"


def wire_sizes(lake: Lake, table: str, **fields: Any) -> list[list[int]]:
    """The decoded bytes of every batch, by endpoint."""
    return [
        [chunk.data.nbytes for chunk in lake.stream(endpoint.ticket)]
        for endpoint in lake.info(table, **fields).endpoints
    ]


SHAPES = {
    "2 KiB rows": lambda: bulk(rows=20_000, row_bytes=2_048),
    "narrow": lambda: pa.table({"id": np.arange(2_000_000)}),
    "wide rows": lambda: bulk(rows=40, row_bytes=500_000),
    "texts": lambda: numbered(300_000, more=pa.array([f"text {i}" * 5 for i in range(300_000)])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_batches_on_the_wire_have_a_bounded_size(lake: Lake, table: str, shape: str) -> None:
    """No message is larger than what clients take by default, and most are worth their cost."""
    lake.create(table, SHAPES[shape]())
    sizes = [size for endpoint in wire_sizes(lake, table) for size in endpoint]
    assert max(sizes) <= 4 << 20
    assert np.median(sizes) >= 1 << 19


@pytest.mark.parametrize("shape", SHAPES)
def test_all_batches_on_the_wire_but_the_last_are_full(lake: Lake, table: str, shape: str) -> None:
    """1 to 4 MiB each, so that a reader does not pay a message for a few rows in between."""
    lake.create(table, SHAPES[shape]())
    for endpoint in wire_sizes(lake, table):
        assert all(1 << 20 <= size <= 4 << 20 for size in endpoint[:-1]), endpoint


def test_small_files_are_gathered_on_the_wire(lake: Lake, table: str) -> None:
    """A table of many small appends comes in batches as large as any other."""
    lake.create(table, bulk(100, 2_048))
    for _ in range(19):
        lake.write(table, bulk(100, 2_048))
    for endpoint in wire_sizes(lake, table):
        assert all(1 << 20 <= size <= 4 << 20 for size in endpoint[:-1]), endpoint


def test_a_ticket_keeps_its_version(lake: Lake, table: str) -> None:
    lake.create(table, numbered(10))
    endpoints = lake.info(table).endpoints
    before = pa.concat_tables(map(lake.fetch, endpoints))
    lake.write(table, numbered(10, start=10))
    lake.upsert(table, pa.table({"id": [1], "name": ["changed"]}), ["id"])
    lake.write(table, pa.table({"x": [1]}), "overwrite")
    again = pa.concat_tables(map(lake.fetch, endpoints))
    assert again.equals(before)
    assert again.equals(numbered(10))


def test_a_ticket_outlives_the_name_of_its_table(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    lake.create(table, numbered(10))
    endpoints = lake.info(table).endpoints
    renamed = f"{table}_2"
    server.http().ok("POST", f"/v1/table/{table}/rename", {"new_table_name": renamed})
    assert pa.concat_tables(map(lake.fetch, endpoints)).equals(numbered(10))
    lake.create(table, numbered(3))
    assert pa.concat_tables(map(lake.fetch, endpoints)).equals(numbered(10))


def test_a_ticket_keeps_a_dropped_table(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(10))
    endpoints = lake.info(table).endpoints
    server.http().ok("POST", f"/v1/table/{table}/drop")
    with lake.refuses("not_found", table):
        lake.read(table)
    lake.create(table, numbered(3))
    assert pa.concat_tables(map(lake.fetch, endpoints)).equals(numbered(10))
    assert lake.read(table).equals(numbered(3))


def test_a_ticket_of_a_table_that_is_gone(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(10))
    endpoint = lake.info("t").endpoints[0]
    own_server.http().ok("POST", "/v1/table/t/drop")
    own_server.restart()
    assert own_server.files("default") == {}
    lake = own_server.lake()
    with lake.refuses("not_found", "t", "dropped"):
        lake.fetch(endpoint)


def test_a_listed_ticket_keeps_its_version(lake: Lake, table: str) -> None:
    lake.create(table, numbered(10))
    [listed] = lake.client.list_flights(table.encode(), lake.options())
    lake.write(table, numbered(10, start=10))
    assert listed.total_records == 10
    assert pa.concat_tables(map(lake.fetch, listed.endpoints)).equals(numbered(10))


def test_a_ticket_holds_after_a_restart(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(10))
    endpoint = own_server.lake().info("t").endpoints[0]
    own_server.lake().write("t", pa.table({"x": [1]}), "overwrite")
    own_server.restart()
    assert own_server.lake().fetch(endpoint).equals(numbered(10))


def test_what_is_acknowledged_is_visible_at_once(lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    for i in range(1, 20):
        receipt = lake.write(table, numbered(1, start=i))
        assert receipt["version"] == i + 1
        assert pc.max(lake.read(table)["id"]).as_py() == i


def test_many_clients_write_one_table(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(0))

    def write(writer: int) -> list[int]:
        mine = server.lake()
        return [
            mine.write(table, numbered(10, start=writer * 1_000 + i * 10))["version"]
            for i in range(10)
        ]

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(write, range(8)))
    answer = lake.read(table)
    assert answer.num_rows == 800
    assert len(pc.unique(answer["id"])) == 800
    for own in versions:
        assert own == sorted(own)
    assert max(max(own) for own in versions) <= 81, "grouped commits never make more versions"
