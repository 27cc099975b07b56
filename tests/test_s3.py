"""A lake in a bucket: the same promises over a real S3 server."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from support.cli import Cli
from support.data import blob_cells, blobs, bulk, numbered
from support.flight import Lake, finish, write_command
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, new_key
from support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def in_bucket(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> LakebedServer:
    """A server on an empty prefix of the bucket."""
    data = f"s3://{BUCKET}/{table}"
    return make_server(data=data, env=store.environment()).start()


def test_create_append_upsert_and_read(in_bucket: LakebedServer) -> None:
    lake = in_bucket.lake()
    assert lake.create("ns$t", numbered(100))["version"] == 1
    assert lake.write("ns$t", numbered(100, start=100), write_id="w")["version"] == 2
    lake.upsert("ns$t", pa.table({"id": [5, 500], "name": ["five", "new"]}), ["id"])
    answer = lake.read("ns$t").sort_by("id")
    assert answer.num_rows == 201
    assert answer["name"][5].as_py() == "five"
    assert lake.read("ns$t", version=2).equals(numbered(200))
    tag = {"tag": "gold", "version": 1}
    in_bucket.http().ok("POST", "/v1/table/ns$t/tags/create", tag)
    assert lake.read("ns$t", tag="gold").equals(numbered(100))
    assert lake.write("ns$t", numbered(100, start=100), write_id="w")["version"] == 2
    assert lake.tables() == ["ns$t"]


def test_old_versions_are_cleaned(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> None:
    """What is deleted is gone from the bucket, and what stays reads as before."""
    young = {"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0", **store.environment()}
    server = make_server(data=f"s3://{BUCKET}/{table}", env=young).start()
    lake = server.lake()
    lake.create("t", numbered(10))
    for start in range(10, 60, 10):
        lake.write("t", numbered(10, start=start), "overwrite")
    lake.write("t", numbered(10))
    server.http().ok("POST", "/v1/table/t/tags/create", {"tag": "gold", "version": 2})
    body = {"keep_age_ms": 0, "keep_versions": 1}
    done = server.http().ok("POST", "/v1/table/t/gc", body).json()
    assert done["versions"] == [1, 3, 4, 5, 6]
    assert done["files"] == {"manifest": 5, "data": 4, "transaction": 5}
    assert lake.count("t") == 20
    assert lake.read("t", tag="gold").equals(numbered(10, start=10))
    with lake.refuses("not_found", "cleaned"):
        lake.read("t", version=3)
    again = server.http().ok("POST", "/v1/table/t/gc", body).json()
    assert (again["versions"], again["files"]) == ([], {})


def test_one_step_of_a_cursor_is_taken_once(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> None:
    """Also where the steps go through two servers, which share nothing but the bucket."""
    place = f"s3://{BUCKET}/{table}"
    shared = {"data": place, "env": store.environment(), "admin_key": new_key()}
    servers = [make_server(name, **shared).start() for name in ("a", "b")]
    lake = servers[0].lake()
    lake.create("t", numbered(1))
    for start in range(1, 9):
        lake.write("t", numbered(1, start=start))
    doors = [server.http() for server in servers]
    doors[0].ok("POST", "/v1/table/t/cursors/create", {"name": "c", "version": 1})

    def step(number: int, expected: int) -> int:
        body = {"name": "c", "version": expected + 1, "expected": expected}
        return servers[number % 2].http().post("/v1/table/t/cursors/advance", body).status

    with ThreadPoolExecutor(8) as pool:
        for expected in range(1, 9):
            answers = list(pool.map(lambda n, e=expected: step(n, e), range(8)))
            # Whoever comes after the step finds the cursor elsewhere.
            assert answers.count(200) == 1, answers
            assert set(answers) <= {200, 409}
    [cursor] = doors[1].ok("POST", "/v1/table/t/cursors/list", {}).json()["cursors"]
    assert cursor["version"] == 9


def test_pylance_opens_the_table(in_bucket: LakebedServer, store: S3Server) -> None:
    in_bucket.lake().create("t", numbered(100))
    options = {
        name.removeprefix("AWS_").lower(): value
        for name, value in store.environment().items()
        if name not in {"AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL"}
    }
    options = {f"aws_{name}": value for name, value in options.items()}
    dataset = lance.dataset(f"{in_bucket.data}/default/t.lance", storage_options=options)
    dataset.validate()
    assert dataset.to_table().equals(numbered(100))


def test_blobs_and_uploads(in_bucket: LakebedServer) -> None:
    lake, http = in_bucket.lake(), in_bucket.http()
    cells = [b"", b"small", os.urandom(70_000), os.urandom(5 * MIB), os.urandom(17 * MIB), None]
    lake.create("t", blobs(cells))
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == cells
    data = os.urandom(20 * MIB)
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    for offset in range(0, len(data), 8 * MIB):
        http.ok("PUT", f"{url}?offset={offset}", data[offset : offset + 8 * MIB])
    claim = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    http.ok("POST", f"{url}/complete", claim)
    cell = {"data": None, "uri": f"upload:{url.rsplit('/', 1)[1]}"}
    lake.write("t", blob_cells([cell], start=10))
    rows = lake.read("t", columns=["id", "_rowid"]).to_pylist()
    row_id = next(row["_rowid"] for row in rows if row["id"] == 10)
    answer = http.get(f"/v1/table/t/blob/data/{row_id}/bytes", range="bytes=10000000-10000099")
    assert answer.status == 206
    assert answer.body == data[10_000_000:10_000_100]


def test_a_large_table_in_parallel(in_bucket: LakebedServer) -> None:
    lake = in_bucket.lake()
    rows = bulk(20_000, 4_096)
    lake.create("t", rows.to_batches(max_chunksize=4_000), schema=rows.schema)
    endpoints = lake.info("t").endpoints
    assert len(endpoints) > 1
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda e: lake.client.do_get(e.ticket, lake.options()).read_all(), endpoints
        )
        assert pa.concat_tables(parts).equals(rows)


def test_many_writers(in_bucket: LakebedServer) -> None:
    in_bucket.lake().create("t", numbered(0))

    def write(writer: int) -> None:
        lake = in_bucket.lake()
        for i in range(5):
            lake.write("t", numbered(2, start=writer * 100 + 2 * i), write_id=f"{writer}-{i}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    ids = in_bucket.lake().read("t")["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 80


def test_kill_and_restart(in_bucket: LakebedServer) -> None:
    lake = in_bucket.lake()
    receipts = [lake.create("t", numbered(10), write_id="0")]
    for i in range(1, 6):
        receipts.append(lake.write("t", numbered(10, start=10 * i), write_id=str(i)))
    in_bucket.kill()
    in_bucket.start()
    lake = in_bucket.lake()
    assert lake.read("t").equals(numbered(60))
    assert lake.write("t", numbered(10, start=30), write_id="3") == receipts[3]
    assert lake.read("t").num_rows == 60


def test_a_store_that_is_away_is_a_clear_error(
    make_server: Callable[..., LakebedServer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Requests fail by name while the store is gone, and the server itself lives on."""
    own = S3Server(tmp_path_factory.mktemp("away")).start()
    try:
        server = make_server(data=f"s3://{BUCKET}/x", env=own.environment()).start()
        lake = server.lake()
        lake.create("t", numbered(1))
        own.stop()
        server.expect_log("store|s3|object|connect|maintenance|unavailable|audit")
        with lake.refuses("unavailable"):
            lake.write("t", numbered(1, start=1), timeout_s=110)
        assert server.http().get("/livez").status == 200
        assert server.http().get("/readyz").status == 503
        server.kill()
    finally:
        own.stop()


def test_a_backup_says_which_bucket_refuses_it(
    own_server: LakebedServer, store: S3Server, tmp_path: Path
) -> None:
    own_server.lake().create("t", numbered(1))
    assert own_server.terminate() == 0
    wrong = store.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    place = f"s3://{BUCKET}/backup"
    verb = ["backup", "--data", str(own_server.data), "--to", place]
    done = Cli(own_server, tmp_path).run(*verb, **wrong)
    assert done.returncode != 0
    assert f"`{place}` does not answer, or not to this process' credentials" in done.stderr


def test_a_store_that_comes_back(
    make_server: Callable[..., LakebedServer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The server lives through an outage of its store and needs no restart afterwards: nothing that
    was acknowledged is gone, and what was refused succeeds under the same write id, once."""
    own = S3Server(tmp_path_factory.mktemp("back")).start()
    try:
        server = make_server(data=f"s3://{BUCKET}/x", env=own.environment()).start()
        lake, http = server.lake(), server.http()
        lake.create("t", numbered(100))
        first = lake.write("t", numbered(10, start=100), write_id="before")
        data = os.urandom(9 * MIB)
        url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
        http.ok("PUT", f"{url}?offset=0", data[: 6 * MIB])
        server.expect_log("store|s3|object|connect|maintenance|unavailable|audit")
        own.stop()
        tag = {"tag": "gold", "version": 1}
        late = numbered(5, start=500)

        def refused(ask: Callable[[Lake], object]) -> None:
            own_lake = server.lake()
            with own_lake.refuses("unavailable"):
                ask(own_lake)

        asked = [
            lambda lake: lake.write("t", late, write_id="during"),
            lambda lake: lake.write("t", late, "overwrite"),
            lambda lake: lake.create("new", numbered(1), write_id="make"),
            lambda lake: lake.read("t"),
        ]
        with ThreadPoolExecutor(8) as pool:
            flights = pool.map(refused, asked)
            put = pool.submit(http.request, "PUT", f"{url}?offset={6 * MIB}", data[6 * MIB :])
            tagged = pool.submit(http.post, "/v1/table/t/tags/create", tag)
            assert len(list(flights)) == len(asked)
            assert (put.result().status, tagged.result().status) == (503, 503)
        assert http.get("/readyz").status == 503
        assert http.get("/livez").status == 200
        own.start()
        wait_until(lambda: http.get("/readyz").status == 200, "a server that is ready again")
        assert lake.read("t").equals(numbered(110))
        assert lake.write("t", numbered(10, start=100), write_id="before") == first
        done = lake.write("t", late, write_id="during")
        assert done["version"] == 3
        assert lake.write("t", late, write_id="during") == done
        assert lake.create("new", numbered(1), write_id="make")["version"] == 1
        assert lake.count("t") == 115
        http.ok("POST", "/v1/table/t/tags/create", tag)
        offset = http.ok("GET", url).json()["offset"]
        assert offset == 6 * MIB
        http.ok("PUT", f"{url}?offset={offset}", data[offset:])
        claim = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        http.ok("POST", f"{url}/complete", claim)
        cell = {"data": None, "uri": f"upload:{url.rsplit('/', 1)[1]}"}
        lake.create("media", blob_cells([cell]))
        assert lake.read("media", blobs="bytes")["data"][0].as_py() == data
        assert lake.tables() == ["media", "new", "t"]
    finally:
        own.stop()


def test_a_store_that_goes_away_under_an_upsert(
    make_server: Callable[..., LakebedServer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An upsert has read the table's newest version and not yet its rows when the store goes: that
    is an unavailable store too, and no fault of the server's."""
    own = S3Server(tmp_path_factory.mktemp("under")).start()
    try:
        server = make_server(data=f"s3://{BUCKET}/x", env=own.environment()).start()
        lake = server.lake()
        lake.create("t", numbered(100))
        rows = numbered(5, start=98)
        lake.upsert("t", numbered(1), ["id"])
        stream = lake.begin(write_command("t", "upsert", on=["id"]), rows.schema)
        stream[0].write_table(rows)
        server.expect_log("store|s3|object|connect|maintenance|unavailable|audit")
        server.lake().write("t", numbered(1, start=200))
        own.stop()
        with lake.refuses("unavailable"):
            finish(*stream)
    finally:
        own.stop()


def test_cells_columns_and_namespaces_change(in_bucket: LakebedServer) -> None:
    lake, http = in_bucket.lake(), in_bucket.http()
    lake.create("t", blobs([b"x" * 100] * 50, name=pa.array([f"n{i}" for i in range(50)])))
    body = {"predicate": "id >= 40", "updates": [["name", "upper(name)"]]}
    assert http.ok("POST", "/v1/table/t/update/", body).json()["rows_updated"] == 10
    new = {"new_columns": [{"name": "twice", "expression": "id * 2"}]}
    http.ok("POST", "/v1/table/t/add_columns/", new)
    cast = {"alterations": [{"path": "id", "data_type": {"type": "int32"}, "rename": "key"}]}
    http.ok("POST", "/v1/table/t/alter_columns/", cast)
    http.ok("POST", "/v1/table/t/drop_columns/", {"columns": ["name"]})
    rows = lake.read("t", blobs="bytes").sort_by("key")
    assert set(rows.column_names) == {"key", "data", "twice"}
    assert rows["twice"].to_pylist() == list(range(0, 100, 2))
    assert rows["data"].to_pylist() == [b"x" * 100] * 50
    assert lake.read("t", version=2, filter="id = 45")["name"].to_pylist() == ["N45"]
    http.ok("POST", "/v1/namespace/a/create", {"properties": {"k": "v"}})
    assert http.ok("GET", "/v1/namespace/$/list").json() == {"namespaces": ["a"]}


def test_two_servers_answer_as_new_as_asked(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> None:
    data = f"s3://{BUCKET}/{table}"
    one = make_server(
        "one", data=data, env=store.environment(), admin_key=(key := new_key())
    ).start()
    other = make_server("other", data=data, env=store.environment(), admin_key=key).start()
    one.lake().create("t", numbered(1))
    path = "/v1/table/t/count_rows/"
    wait_until(lambda: other.http().post(path).status == 200, "the table at the other server")
    for rows in range(2, 12):
        assert other.http().ok("POST", path).status == 200
        version = one.lake().write("t", numbered(1, start=rows))["version"]
        asked = {"x-lancedb-min-version": str(version)}
        assert other.http().request("POST", path, {"version": None}, asked).json() == rows
