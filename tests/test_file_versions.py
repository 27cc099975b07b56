"""Tables of other tools whose files are of an older version stay open to those who made them."""

from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pytest

from support.data import numbered
from support.duck import connect
from support.server import LakebedServer

VERSIONS = ["2.0", "2.1", "2.2"]


def made(server: LakebedServer, version: str) -> Path:
    """A table that pylance wrote into its place before the server was asked for it."""
    path = server.table_path("t")
    lance.write_dataset(numbered(3), str(path), data_storage_version=version)
    return path


def is_open(server: LakebedServer, path: Path, rows: int) -> None:
    """Older readers, and the server's own care."""
    http = server.http()
    assert http.ok("GET", "/v1/table/t/show").json()["profile"] == "open"
    assert http.post("/v1/table/t/gc", {"dry_run": True}).status == 200
    duck = connect()
    assert duck.execute(f"SELECT count(*) FROM '{path}'").fetchone() == (rows,)
    duck.close()
    assert lance.dataset(str(path)).count_rows() == rows


@pytest.mark.parametrize("version", VERSIONS)
def test_an_append(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    own_server.lake().write("t", numbered(2, start=3))
    is_open(own_server, path, 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upsert(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    own_server.lake().upsert("t", numbered(3, start=2), ["id"])
    is_open(own_server, path, 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_upsert_of_some_columns(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    rows = numbered(3).select(["id"]).append_column("name", pa.array(["x", "y", "z"]))
    own_server.lake().upsert("t", rows, ["id"])
    is_open(own_server, path, 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_overwrite(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    own_server.lake().write("t", numbered(7), "overwrite")
    is_open(own_server, path, 7)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_update(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    update = {"updates": [["name", "'new'"]], "predicate": "id = 1"}
    own_server.http().ok("POST", "/v1/table/t/update", update)
    is_open(own_server, path, 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_sdk(own_server: LakebedServer, version: str) -> None:
    path = made(own_server, version)
    url = f"http://{own_server.http_address}"
    sdk = lancedb.connect("db://default", api_key=own_server.admin_key, host_override=url)
    table = sdk.open_table("t")
    table.add(numbered(2, start=3))
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(
        numbered(3, start=4)
    )
    is_open(own_server, path, 7)


def test_a_table_of_duckdb(own_server: LakebedServer) -> None:
    duck = connect()
    address, key = f"http://{own_server.http_address}", own_server.admin_key
    duck.execute(f"ATTACH '$' AS lake (TYPE LANCE, ENDPOINT '{address}', API_KEY '{key}')")
    duck.execute("SHOW TABLES FROM lake")
    duck.execute("CREATE TABLE lake.main.t (id BIGINT, name VARCHAR)")
    duck.execute("INSERT INTO lake.main.t VALUES (1, 'a')")
    own_server.lake().write("t", numbered(2, start=3))
    is_open(own_server, own_server.table_path("t"), 3)
