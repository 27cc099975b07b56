"""The metadata half of the LanceDB protocol, through the unmodified client and on the wire."""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Iterator

import lance
import lancedb
import pyarrow as pa
import pytest

from support.data import COLUMNS, blobs, numbered
from support.flight import Lake
from support.http import Http
from support.server import LakebedServer


@pytest.fixture
def http(server: LakebedServer) -> Http:
    """An HTTP client with the admin key."""
    return server.http()


@pytest.fixture
def db(server: LakebedServer) -> lancedb.DBConnection:
    """The SDK's connection."""
    return connect(server)


def connect(server: LakebedServer, **options: object) -> lancedb.DBConnection:
    """A connection of the SDK to the default database."""
    url = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=url, **options)


def test_a_table_is_opened_and_described(
    server: LakebedServer, lake: Lake, db: lancedb.DBConnection, table: str
) -> None:
    lake.create(table, numbered(5))
    lake.write(table, numbered(5, start=5))
    opened = db.open_table(table)
    assert opened.schema == lake.read(table).schema
    assert (opened.version, opened.count_rows(), opened.count_rows("id > 6")) == (2, 10, 3)
    assert opened.uri == str(server.table_path(table))
    with pytest.raises(ValueError, match="not found"):
        db.open_table(f"{table}_missing")


def test_every_type_is_described_as_it_is(lake: Lake, db: lancedb.DBConnection, table: str) -> None:
    nested = {"blob": blobs([b"x"] * 3)["data"]}
    lake.create(table, pa.table({**COLUMNS, **nested}))
    stored = lake.read(table).schema
    described = db.open_table(table).schema
    assert described.names == stored.names
    for field in stored:
        if field.name != "blob":
            assert described.field(field.name).equals(field, check_metadata=True), field.name


def test_a_blob_column_is_described_with_its_metadata(
    lake: Lake, db: lancedb.DBConnection, table: str
) -> None:
    lake.create(table, blobs([b"x"]))
    field = db.open_table(table).schema.field("data")
    # pylance, which is loaded here, takes the name of the extension for a type of its own.
    assert field.type.extension_name == "lance.blob.v2"
    assert field.type.storage_type.field("data").type == pa.large_binary()


def test_a_type_without_a_name_is_refused_by_its_column(
    server: LakebedServer, lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, numbered(1))
    cells = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32()))
    lance.write_dataset(pa.table({"odd": cells}), server.table_path(f"{table}_map"))
    answer = http.post(f"/v1/table/{table}_map/describe/")
    assert answer.status == 400
    assert "`odd`" in answer.json()["error"]
    body = {"load_detailed_metadata": True}
    described = http.ok("POST", f"/v1/table/{table}_map/describe?delimiter=%24", body).json()
    assert described["schema"]["fields"][0]["type"]["type"] == "map"


def test_both_dialects_of_describe(
    server: LakebedServer, lake: Lake, http: Http, table: str
) -> None:
    lake.create(table, pa.table({"name": ["a"], "x": [1.5]}))
    sdk = http.ok("POST", f"/v1/table/{table}/describe/")
    assert sdk.headers["x-lancedb-version"] == "1"
    assert [field["type"]["type"] for field in sdk.json()["schema"]["fields"]] == [
        "string",
        "double",
    ]
    assert http.ok("POST", f"/v1/table/{table}/describe/", {"version": None}).json() == sdk.json()
    plain = http.ok("POST", f"/v1/table/{table}/describe?delimiter=%24", {"id": [table]}).json()
    assert plain["location"] == str(server.table_path(table))
    assert "schema" not in plain
    assert "storage_options" not in plain
    query = "load_detailed_metadata=true&with_table_uri=true"
    spec = http.ok("POST", f"/v1/table/{table}/describe?{query}", {}).json()
    assert [field["type"]["type"] for field in spec["schema"]["fields"]] == ["utf8", "float64"]
    assert (spec["table"], spec["namespace"], spec["version"]) == (table, [], 1)
    assert spec["is_only_declared"] is False
    assert spec["stats"] == {"num_fragments": 1, "num_deleted_rows": 0}
    assert spec["table_uri"] == spec["location"]
    assert http.post(f"/v1/table/{table}/describe", {"vend_credentials": True}).status == 501
    assert http.post(f"/v1/table/{table}/describe", {"id": ["other"]}).status == 400


def test_nothing_says_where_the_lake_lies(make_server: Callable[..., LakebedServer]) -> None:
    """Where the operator wants it so. That clients of other machines are not told of a folder is
    tested with the router, which no such client reaches here."""
    server = make_server(env={"LAKEBED_HIDE_LOCATIONS": "true"}).start()
    lake, http = server.lake(), server.http()
    lake.create("t", numbered(1))
    details = "describe?load_detailed_metadata=true&with_table_uri=true"
    for path in ("describe/", details, "version/list", "version/describe", "stats"):
        assert str(server.work) not in http.ok("POST", f"/v1/table/t/{path}").text
    assert (
        http.ok("POST", "/v1/table/t/describe/").json()["location"] == "lakebed:///default/t.lance"
    )


def test_versions_tags_and_restore(lake: Lake, db: lancedb.DBConnection, table: str) -> None:
    lake.create(table, numbered(2))
    lake.write(table, numbered(2, start=2))
    opened = db.open_table(table)
    listed = opened.list_versions()
    assert [entry["version"] for entry in listed] == [1, 2]
    assert all(isinstance(entry["timestamp"], dt.datetime) for entry in listed)

    opened.tags.create("first", 1)
    with pytest.raises(Exception, match="exists"):
        opened.tags.create("first", 2)
    assert opened.tags.get_version("first") == 1
    assert opened.tags.list()["first"]["version"] == 1
    opened.tags.update("first", 2)
    assert opened.tags.get_version("first") == 2
    opened.tags.update("first", 1)

    opened.checkout(1)
    assert (opened.version, opened.count_rows()) == (1, 2)
    with pytest.raises(ValueError, match="99"):
        opened.checkout(99)
    opened.checkout_latest()
    assert (opened.version, opened.count_rows()) == (2, 4)
    opened.checkout("first")
    assert opened.count_rows() == 2
    opened.restore()
    assert (opened.version, opened.count_rows()) == (3, 2)
    opened.tags.delete("first")
    assert opened.tags.list() == {}
    with pytest.raises(Exception, match="400"):
        opened.restore()


def test_rows_are_updated_and_deleted(lake: Lake, db: lancedb.DBConnection, table: str) -> None:
    lake.create(table, numbered(10))
    opened = db.open_table(table)
    result = opened.update(where="id < 3", values={"name": "it's"})
    assert (result.rows_updated, result.version) == (3, 2)
    result = opened.update(values_sql={"name": "upper(name)"})
    assert (result.rows_updated, result.version) == (10, 3)
    result = opened.delete("id >= 8")
    assert (result.num_deleted_rows, result.version) == (2, 4)
    rows = lake.read(table).sort_by("id")["name"].to_pylist()
    assert rows == ["IT'S"] * 3 + [f"NAME {i}" for i in range(3, 8)]
    for bad in ({"where": "nmae = 1", "values": {"name": "x"}}, {"values": {"nmae": "x"}}):
        with pytest.raises(Exception, match=r"400 Bad Request.*name"):
            opened.update(**bad)
    with pytest.raises(Exception, match="400 Bad Request"):
        opened.delete("nmae = 1")
    with pytest.raises(Exception, match="400 Bad Request"):
        opened.count_rows("nmae = 1")


def test_columns_change(lake: Lake, db: lancedb.DBConnection, table: str) -> None:
    lake.create(table, numbered(10))
    opened = db.open_table(table)
    assert opened.add_columns({"twice": "id * 2"}).version == 2
    assert opened.add_columns(pa.field("note", pa.string())).version == 3
    assert opened.add_columns([pa.field("a", pa.int8()), pa.field("b", pa.float32())]).version == 4
    changes = {"path": "twice", "rename": "double", "data_type": pa.int32(), "nullable": True}
    assert opened.alter_columns(changes).version == 5
    assert opened.drop_columns(["a", "b"]).version == 6
    assert opened.schema == pa.schema(
        [("id", pa.int64()), ("name", pa.string()), ("double", pa.int32()), ("note", pa.string())]
    )
    assert lake.read(table).sort_by("id")["double"].to_pylist() == list(range(0, 20, 2))


def test_stats(lake: Lake, http: Http, db: lancedb.DBConnection, table: str) -> None:
    lake.create(table, numbered(100))
    lake.write(table, numbered(50, start=100))
    http.ok("POST", f"/v1/table/{table}/delete/", {"predicate": "id < 10"})
    stats = db.open_table(table).stats()
    assert (stats["num_rows"], stats["num_indices"]) == (140, 0)
    assert stats["total_bytes"] > 1_000
    assert stats["fragment_stats"]["num_fragments"] == 2
    assert stats["fragment_stats"]["num_small_fragments"] == 2
    assert stats["fragment_stats"]["lengths"] == {
        "min": 50,
        "max": 100,
        "mean": 75,
        "p25": 50,
        "p50": 100,
        "p75": 100,
        "p99": 100,
    }
    wire = http.ok("POST", f"/v1/table/{table}/stats/").json()
    assert set(wire) == {
        "total_bytes",
        "num_rows",
        "num_deleted_rows",
        "num_indices",
        "fragment_stats",
    }
    assert wire["num_deleted_rows"] == 10
    lake.upsert(table, pa.table({"id": [50], "name": ["x"]}), ["id"])
    lake.create(f"{table}_0", numbered(0))
    assert http.ok("POST", f"/v1/table/{table}_0/stats/").json()["num_rows"] == 0


def test_an_index_counts_once(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, blobs([b"x"] * 4, name=pa.array(list("abcd"))))
    lake.upsert(table, pa.table({"id": [1], "name": ["x"]}), ["id"])
    assert http.ok("POST", f"/v1/table/{table}/stats/").json()["num_indices"] == 1


def test_tables_are_listed_in_pages(own_server: LakebedServer) -> None:
    lake, db = own_server.lake(), connect(own_server)
    names = [f"t{i:02}" for i in range(25)]
    for name in names:
        lake.create(name, numbered(1))
    lake.create("ns$hidden", numbered(1))
    lake.close()
    assert db.list_tables().tables == names
    with pytest.warns(DeprecationWarning, match="list_tables"):
        assert list(db.table_names()) == names[:10]
    with pytest.warns(DeprecationWarning, match="list_tables"):
        assert list(db.table_names(page_token="t03", limit=3)) == names[4:7]
    page = own_server.http().ok("GET", "/v1/table/?limit=20").json()
    assert page["tables"] == names[:20]
    rest = own_server.http().ok("GET", f"/v1/table/?page_token={page['page_token']}").json()
    assert rest == {"tables": names[20:]}


def test_tables_are_renamed_and_dropped(lake: Lake, db: lancedb.DBConnection, table: str) -> None:
    lake.create(table, numbered(3))
    db.rename_table(table, f"{table}_2")
    db.rename_table(f"{table}_2", table, new_namespace_path=["shelf"])
    assert db.open_table(table, namespace_path=["shelf"]).count_rows() == 3
    lake.create(f"{table}_3", numbered(1))
    lake.create(f"{table}_4", numbered(1))
    with pytest.raises(Exception, match="exists"):
        db.rename_table(f"{table}_3", f"{table}_4")
    db.drop_table(table, namespace_path=["shelf"])
    with pytest.raises(ValueError, match="not found"):
        db.open_table(table, namespace_path=["shelf"])


def test_what_exists(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(1))
    answer = http.post(f"/v1/table/{table}/exists?delimiter=%24", {"id": [table]})
    assert (answer.status, answer.body) == (200, b"")
    answer = http.post(f"/v1/table/{table}x/exists", {})
    assert (answer.status, answer.json()["code"]) == (404, 4)
    answer = http.post(f"/v1/table/{table}/exists", {"version": 9})
    assert (answer.status, answer.json()["code"]) == (404, 11)


def test_a_table_has_no_real_time_writes(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(1))
    for verb, key in (
        ("get_rte_spec", "rte_spec"),
        ("get_rte_stats", "rte_stats"),
        ("get_lsm_write_spec", "lsm_write_spec"),
        ("get_lsm_stats", "lsm_stats"),
    ):
        assert http.ok("POST", f"/v1/table/{table}/{verb}/").json() == {key: None}
        assert http.post(f"/v1/table/{table}x/{verb}/").status == 404


async def use_the_async_client(server: LakebedServer) -> None:
    """The verbs of a table, one after the other."""
    db = await lancedb.connect_async(
        "db://default", api_key=server.admin_key, host_override=f"http://{server.http_address}"
    )
    table = await db.open_table("asynchronous")
    assert await table.count_rows() == 4
    assert (await table.update({"name": "upper(name)"}, where="id = 1")).rows_updated == 1
    assert (await table.add_columns({"twice": "id * 2"})).version == 3
    assert (await table.delete("id = 0")).num_deleted_rows == 1
    await table.checkout(1)
    assert await table.count_rows() == 4
    await table.restore()
    assert await table.version() == 5
    assert (await table.schema()).names == ["id", "name"]
    await table.tags.create("t", 1)
    assert await table.tags.get_version("t") == 1


def test_the_async_client(server: LakebedServer, lake: Lake) -> None:
    lake.create("asynchronous", numbered(4))
    asyncio.run(use_the_async_client(server))


# ---- freshness ------------------------------------------------------------------------------


def count(http: Http, table: str, **headers: str) -> tuple[int, str]:
    """Status and body of a count."""
    sent = {f"x-lancedb-{name.replace('_', '-')}": value for name, value in headers.items()}
    answer = http.request("POST", f"/v1/table/{table}/count_rows/", {"version": None}, sent)
    return answer.status, answer.text


@pytest.fixture
def changed(server: LakebedServer, lake: Lake, http: Http, table: str) -> Iterator[str]:
    """A table whose newest version another tool just committed, behind the server's back."""
    lake.create(table, numbered(1))
    assert count(http, table) == (200, "1")
    lance.write_dataset(numbered(1, start=1), server.table_path(table), mode="append")
    return table


def test_a_version_that_was_seen_elsewhere_is_looked_for(changed: str, http: Http) -> None:
    assert count(http, changed, min_version="2") == (200, "2")


def test_a_version_that_was_read_elsewhere_is_looked_for(changed: str, http: Http) -> None:
    assert count(http, changed, min_version="1", min_read_version="2") == (200, "2")


def test_an_answer_is_as_new_as_asked_for(changed: str, http: Http) -> None:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    assert count(http, changed, min_timestamp=now.replace("+00:00", "123+00:00")) == (200, "2")


def test_a_version_that_is_not_there_is_a_conflict(changed: str, http: Http) -> None:
    status, text = count(http, changed, min_version="99")
    assert (status, "99" in text) == (409, True)
    body = {"predicate": "id = 0"}
    sent = {"x-lancedb-min-version": "99"}
    answer = http.request("POST", f"/v1/table/{changed}/delete/", body, sent)
    assert (answer.status, answer.json()["code"]) == (409, 14)
    assert count(http, changed, min_version="nine")[0] == 400
    assert count(http, changed, min_timestamp="yesterday")[0] == 400


def test_the_client_reads_what_it_has_to(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    strict = connect(server, client_config=None)
    opened = strict.open_table(table)
    opened.checkout_latest()
    for rows in range(2, 6):
        lance.write_dataset(numbered(1, start=rows), server.table_path(table), mode="append")
        opened.checkout_latest()
        assert opened.count_rows() == rows
        assert opened.update(where=f"id = {rows}", values={"name": "x"}).rows_updated == 1
        time.sleep(0.01)


# ---- every route ----------------------------------------------------------------------------

TABLE_ROUTES = """
create describe drop rename clone stats insert multipart_write/create multipart_write/complete
multipart_write/abort merge_insert update delete query explain_plan analyze_plan count_rows
version/list restore tags/list tags/version tags/create tags/update tags/delete
branches/create branches/list branches/delete branches/diff branches/cherry_pick
add_columns alter_columns drop_columns update_field_metadata create_index index/list
index/i/stats index/i/drop index/i/prewarm page_cache/prewarm fetch_blobs backfill_column errors
enable_rte disable_rte get_rte_spec get_rte_stats flush_rte compact_rte set_lsm_write_spec
unset_lsm_write_spec get_lsm_write_spec get_lsm_stats flush_lsm compact_lsm
register exists deregister declare schema_metadata/update create_scalar_index
version/create version/describe version/delete
"""

OTHER_ROUTES = """
GET /v1/namespace/$/list
POST /v1/namespace/every/create
POST /v1/namespace/every/describe
POST /v1/namespace/every/exists
GET /v1/namespace/every/list
GET /v1/namespace/every/table/list
POST /v1/namespace/every/drop
GET /v1/table/
GET /v1/table
GET /v1/table/{t}/blob/data/0/bytes
POST /v1/table/{t}/blob/data/0/sign
POST /v1/table/version/batch-create
POST /v1/table/batch-commit
POST /v1/transaction/x/describe
POST /v1/transaction/x/alter
POST /v1/function/f/create
POST /v1/function/f/describe
POST /v1/function/f/drop
GET /v1/namespace/$/function/list
POST /v1/functions/create
POST /v1/functions/get
POST /v1/secret/s/create
POST /v1/secret/s/alter
GET /v1/namespace/$/secret/list
POST /v1/view/v/create
POST /v1/view/v/drop
GET /v1/namespace/$/view/list
POST /v1/materialized_view/v/create
GET /v1/namespace/$/materialized_view/list
POST /v1/jobs/list
POST /admin/authz/acl/list
POST /admin/authz/acl/add
POST /admin/authz/acl/delete
POST /admin/authz/role_binding/list
POST /admin/authz/role_binding/add
POST /admin/authz/role_binding/delete
POST /admin/authz/principal
POST /admin/authz/group
"""


# Routes on things of a table that are not there; 404 says so with the code of the thing.
THINGS = {"index/i/stats", "index/i/drop", "index/i/prewarm"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_no_route_reads_as_a_missing_table(lake: Lake, http: Http, slash: str) -> None:
    for at, verb in enumerate(TABLE_ROUTES.split()):
        table = f"routes{at}{'s' if slash else ''}"
        lake.create(table, blobs([b"x"]))
        answer = http.post(f"/v1/table/{table}/{verb}{slash}")
        if verb in THINGS and answer.status == 404:
            assert answer.json()["code"] == 6, verb
            continue
        assert answer.status not in (404, 405), f"{verb}: {answer.text}"
        assert answer.status < 500 or answer.status == 501, f"{verb}: {answer.text}"
        if answer.status == 501:
            assert answer.json()["code"] == 0, verb
    for line in OTHER_ROUTES.split("\n"):
        if line:
            method, path = line.replace("{t}", "routes0").split()
            answer = http.request(method, path.rstrip("/") + slash)
            assert answer.status not in (404, 405), f"{line}: {answer.text}"
    for verb in ("describe", "cancel", "pause", "resume", "query_events"):
        answer = http.post(f"/v1/jobs/{verb}", {"job_id": "j"})
        assert answer.status != 405, verb
