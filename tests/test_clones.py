"""Clones: tables that begin with a version of another, whose files nothing takes away from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import lancedb
import pytest

from support.backup import examined, ok
from support.data import blobs, numbered
from support.flight import Lake
from support.server import LakebedServer
from support.waiting import wait_until

Make = Callable[..., LakebedServer]

# Nothing is kept for its age, and tickets are short.
NOW = {
    "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0",
    "LAKEBED_LIMITS_TICKET_TTL_MS": "1000",
    "LAKEBED_LIMITS_ORPHAN_AGE_MS": "0",
    "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
}


def connect(server: LakebedServer) -> lancedb.DBConnection:
    url = f"http://{server.http_address}"
    return lancedb.connect("db://default", api_key=server.admin_key, host_override=url)


def ids(lake: Lake, table: str) -> list[int]:
    return sorted(lake.read(table, columns=["id"])["id"].to_pylist())


def clean(server: LakebedServer, table: str) -> dict[str, Any]:
    body = {"keep_age_ms": 0, "keep_versions": 1}
    return server.http().ok("POST", f"/v1/table/{table}/gc", body).json()


def records(server: LakebedServer) -> list[Path]:
    return list((server.data / "_lakebed" / "clones").rglob("*.json"))


def test_the_sdk_clones(own_server: LakebedServer) -> None:
    db = connect(own_server)
    source = db.create_table("source", numbered(3))
    source.add(numbered(2, start=3))
    source.create_scalar_index("id")
    source.tags.create("gold", 1)
    whole = db.clone_table("whole", source.uri)
    old = db.clone_table("old", source.uri, source_version=1)
    tagged = db.clone_table("tagged", source.uri, source_tag="gold")
    assert [table.count_rows() for table in (whole, old, tagged)] == [5, 3, 3]
    # Each goes its own way.
    whole.add(numbered(1, start=9))
    whole.update(where="id = 0", values={"name": "cloned"})
    whole.delete("id = 1")
    whole.merge_insert("id").when_matched_update_all().execute(numbered(1, start=2))
    source.delete("id = 4")
    assert (whole.count_rows(), source.count_rows(), old.count_rows()) == (5, 4, 3)
    assert source.count_rows("name = 'cloned'") == 0
    assert whole.search().where("id = 0").limit(1).to_list()[0]["name"] == "cloned"
    # A clone of a clone, and what is refused.
    again = db.clone_table("again", whole.uri)
    assert again.count_rows("name = 'cloned'") == 1
    http = own_server.http()
    for body, status in [
        ({"source_location": source.uri, "source_version": 99}, 404),
        ({"source_location": source.uri, "source_tag": "none"}, 404),
        ({"source_location": "default/none.lance"}, 404),
        ({"source_location": "/tmp/t.lance"}, 403),
        ({"source_location": source.uri, "source_version": 1, "source_tag": "gold"}, 400),
        ({"source_location": source.uri, "is_shallow": False}, 501),
        ({}, 400),
    ]:
        answer = http.post("/v1/table/new/clone", body)
        assert answer.status == status, f"{body}: {answer.status} {answer.text}"
    assert http.post("/v1/table/old/clone", {"source_location": source.uri}).status == 409
    assert http.post("/v1/table/new/describe/").status == 404
    lance.dataset(whole.uri).validate()


def test_what_a_clone_shares_stays(make_server: Make) -> None:
    """Whatever is cleaned, compacted, purged or dropped at the source."""
    server = make_server(env=NOW).start()
    lake, http = server.lake(), server.http()
    large = b"large" * (4 << 20)
    lake.create("source", blobs([large, b"small"]))
    lake.write("source", blobs([b"third"], start=2))
    location = str(server.table_path("source"))
    cloned = http.ok("POST", "/v1/table/copy/clone", {"source_location": location}).json()
    assert cloned["location"] == str(server.table_path("copy"))
    before = lake.read("copy", blobs="bytes")
    assert before["data"].to_pylist() == [large, b"small", b"third"]

    http.ok("POST", "/v1/table/source/delete/", {"predicate": "id < 2"})
    lake.write("source", blobs([b"new"], start=7))
    http.ok("POST", "/v1/table/source/compact", {})
    told = wait_until(lambda: clean(server, "source"), "a cleaning")
    assert "the clone in `default/copy.lance`" in json.dumps(told)
    refused = http.post("/v1/table/source/purge", {})
    assert (refused.status, "the clone in `default/copy.lance`" in refused.text) == (409, True)
    http.ok("POST", "/v1/blobs/gc", {})
    assert lake.read("copy", blobs="bytes").equals(before)

    server.kill()
    server.start()
    lake, http = server.lake(), server.http()
    http.ok("POST", "/v1/table/source/drop/")
    assert http.post("/v1/table/source/describe/").status == 404
    lake.create("other", numbered(1))
    wait_until(lambda: len(records(server)) == 1, "the record")
    assert lake.read("copy", blobs="bytes").equals(before)
    # A new table of the old name lies elsewhere, and the folder goes with the last clone.
    lake.create("source", numbered(1))
    assert Path(location).is_dir()
    http.ok("POST", "/v1/table/copy/drop/")
    wait_until(lambda: not Path(location).exists(), "the end of the source's folder")
    wait_until(lambda: not records(server), "the end of the record")
    assert ids(lake, "source") == [0]


def test_a_clone_is_a_table_like_any_other(make_server: Make) -> None:
    server = make_server(env=NOW).start()
    lake, http = server.lake(), server.http()
    lake.create("source", numbered(10))
    for first in range(10, 40, 10):
        lake.write("source", numbered(10, start=first))
    body = {"source_location": str(server.table_path("source"))}
    http.ok("POST", "/v1/table/copy/clone", body)
    http.ok("POST", "/v1/table/copy/rename/", {"new_table_name": "moved"})
    http.ok("POST", "/v1/table/moved/branches/create/", {"name": "exp"})
    http.ok("POST", "/v1/table/moved/delete/?branch=exp", {"predicate": "id < 5"})
    http.ok("POST", "/v1/table/moved/branches/merge", {"from_branch": "exp"})
    http.ok("POST", "/v1/table/moved/compact", {})
    assert ids(lake, "moved") == list(range(5, 40))
    assert ids(lake, "source") == list(range(40))
    wait_until(lambda: clean(server, "moved"), "a cleaning")
    assert ids(lake, "moved") == list(range(5, 40))
    lance.dataset(str(server.table_path("copy"))).validate()


def test_a_clone_that_stopped_half_way(make_server: Make) -> None:
    """A record without a clone keeps nothing for ever; a clone without a name is adopted by it."""
    server = make_server(env=NOW).start()
    lake, http = server.lake(), server.http()
    lake.create("source", numbered(2))
    body = {"source_location": str(server.table_path("source"))}
    http.ok("POST", "/v1/table/copy/clone", body)
    [record] = records(server)
    server.kill()
    # As if it had died before the name was entered, and another one before the clone was made.
    catalog = sorted((server.data / "_lakebed/catalog/default").iterdir())[-1]
    state = json.loads(catalog.read_text())
    del state["tables"]["copy"]
    catalog.write_text(json.dumps(state))
    lost = json.loads(record.read_text()) | {"location": "default/never.lance", "created_at_ms": 0}
    (record.parent / "lost.json").write_text(json.dumps(lost))
    server.start()
    wait_until(lambda: records(server) == [record], "the end of the lost record")
    lake = server.lake()
    assert ids(lake, "copy") == [0, 1]
    server.http().ok("POST", "/v1/table/source/drop/")
    assert ids(lake, "copy") == [0, 1]


@pytest.mark.parametrize("verb", ["backup", "relocate"])
def test_clones_come_along(make_server: Make, tmp_path: Path, verb: str) -> None:
    server = make_server(env=NOW).start()
    lake, http = server.lake(), server.http()
    lake.create("source", numbered(3))
    body = {"source_location": str(server.table_path("source"))}
    http.ok("POST", "/v1/table/copy/clone", body)
    lake.write("copy", numbered(1, start=8))
    server.kill()
    target = tmp_path / "target"
    if verb == "backup":
        ok(tmp_path, "backup", "--data", str(server.data), "--to", str(target))
    else:
        server.data.rename(target)
        ok(tmp_path, "relocate", "--data", str(target), "--yes")
    examined(tmp_path, target)
    other = make_server("other", data=target, admin_key=server.admin_key, env=NOW).start()
    lake, http = other.lake(), other.http()
    assert ids(lake, "copy") == [0, 1, 2, 8]
    http.ok("POST", "/v1/table/source/drop/")
    assert ids(lake, "copy") == [0, 1, 2, 8]
