"""Tables that other tools write by themselves, told where by the server: declared names, tables
that leave the catalogue and come back, through pylance's client of the specification."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import lancedb
import pyarrow as pa
import pytest
from lance.namespace import RestNamespace
from lance_namespace import (
    DeclareTableRequest,
    DeregisterTableRequest,
    DescribeTableRequest,
    ListTablesRequest,
    ListTableVersionsRequest,
    RegisterTableRequest,
    TableExistsRequest,
)

from support.data import blobs, numbered
from support.server import LakebedServer
from support.waiting import wait_until

Make = Callable[..., LakebedServer]


def namespace(server: LakebedServer) -> RestNamespace:
    key = {"header.x-api-key": server.admin_key}
    return RestNamespace(uri=f"http://{server.http_address}", **key)


def ids(server: LakebedServer, table: str) -> list[int]:
    lake = server.lake()
    return sorted(lake.read(table, columns=["id"])["id"].to_pylist())


def listed(client: RestNamespace, *path: str, **more: Any) -> list[str]:
    return client.list_tables(ListTablesRequest(id=list(path), **more)).tables


def test_a_declared_table_is_written_by_another_tool(own_server: LakebedServer) -> None:
    client = namespace(own_server)
    declared = client.declare_table(DeclareTableRequest(id=["a", "t"]))
    assert declared.location == str(own_server.table_path("a$t"))
    assert declared.storage_options is None
    described = client.describe_table(DescribeTableRequest(id=["a", "t"], check_declared=True))
    assert (described.location, described.is_only_declared) == (declared.location, True)
    client.table_exists(TableExistsRequest(id=["a", "t"]))
    assert listed(client, "a") == ["t"]
    assert listed(client, "a", include_declared=False) == []
    with pytest.raises(Exception, match="exists"):
        client.declare_table(DeclareTableRequest(id=["a", "t"]))
    # Without data it is no table to anybody else.
    http = own_server.http()
    assert http.post("/v1/table/a$t/describe/").status == 404
    assert http.ok("GET", "/v1/namespace/a/list").json()["namespaces"] == []
    assert http.post("/v1/namespace/a/drop", {}).status == 409

    data = numbered(3)
    lance.write_dataset(data, declared.location)
    assert ids(own_server, "a$t") == [0, 1, 2]
    described = client.describe_table(DescribeTableRequest(id=["a", "t"], check_declared=True))
    assert described.is_only_declared is False
    # From here on it is a table like any other.
    lake = own_server.lake()
    lake.write("a$t", numbered(2, start=3))
    assert ids(own_server, "a$t") == [0, 1, 2, 3, 4]
    assert lance.dataset(declared.location).count_rows() == 5


def test_what_is_declared_is_made_or_given_up(make_server: Make) -> None:
    server = make_server().start()
    client = namespace(server)
    for name in ("made", "dropped", "inside$t", "kept"):
        client.declare_table(DeclareTableRequest(id=name.split("$")))
    server.kill()
    server.start()
    client, http = namespace(server), server.http()
    lake = server.lake()
    lake.create("made", numbered(1))
    assert ids(server, "made") == [0]
    assert server.table_path("made").is_dir()
    http.ok("POST", "/v1/table/dropped/drop", {})
    http.ok("POST", "/v1/namespace/inside/drop", {"behavior": "Cascade"})
    assert sorted(listed(client)) == ["kept", "made"]
    assert http.post("/v1/table/inside$t/exists", {}).status == 404
    lake = server.lake()
    lake.create("dropped", numbered(2))
    assert http.post("/v1/table/made/rename", {"new_table_name": "kept"}).status == 409
    refused = http.post("/v1/table/x/declare", {"location": "/tmp/x.lance"})
    assert (refused.status, "location" in refused.text) == (400, True)
    assert http.post("/v1/table/x/declare", {"properties": {"a": "b"}}).status == 400
    assert http.post("/v1/table/x/declare", {"vend_credentials": True}).status == 501


def test_a_table_leaves_and_comes_back(make_server: Make) -> None:
    # Blobs that nobody refers to may go at once.
    env = {"LAKEBED_LIMITS_ORPHAN_AGE_MS": "0", "LAKEBED_LIMITS_TICKET_TTL_MS": "1000"}
    server = make_server(env=env).start()
    client, http = namespace(server), server.http()
    large = b"large" * (4 << 20)
    lake = server.lake()
    lake.create("t", blobs([large, b"small"]))
    lake.write("t", blobs([b"later"], start=2))
    before = lake.read("t", columns=["id"])
    left = client.deregister_table(DeregisterTableRequest(id=["t"]))
    assert (left.id, left.location) == (["t"], str(server.table_path("t")))
    # It stands where its name would be looked for, and is not adopted.
    assert http.post("/v1/table/t/describe/").status == 404
    assert listed(client) == []
    assert lance.dataset(left.location).count_rows() == 3
    server.kill()
    server.start()
    client, http = namespace(server), server.http()
    assert http.post("/v1/table/t/describe/").status == 404
    # What it refers to stays.
    http.ok("POST", "/v1/blobs/gc", {})
    # A new table of its name lies elsewhere.
    lake = server.lake()
    lake.create("t", numbered(1))
    with pytest.raises(Exception, match="exists"):
        client.register_table(RegisterTableRequest(id=["t"], location=left.location))

    found = client.register_table(RegisterTableRequest(id=["b", "u"], location=left.location))
    assert found.location == left.location
    lake = server.lake()
    assert lake.read("b$u", columns=["id"]).equals(before)
    assert lake.read("b$u", blobs="bytes", filter="id = 0")["data"].to_pylist() == [large]
    lake.write("b$u", blobs([b"more"]))
    assert lake.count("b$u") == 4
    again = client.register_table
    with pytest.raises(Exception, match="another table"):
        again(RegisterTableRequest(id=["c"], location="default/t.lance"))
    # `t` is replaced, and what was `t` can be registered in its turn.
    client.deregister_table(DeregisterTableRequest(id=["b", "u"]))
    with pytest.raises(Exception, match="exists"):
        again(RegisterTableRequest(id=["t"], location="default/t.lance"))
    again(RegisterTableRequest(id=["t"], location="default/t.lance", mode="Overwrite"))
    again(RegisterTableRequest(id=["numbers"], location="default/t~2.lance"))
    lake = server.lake()
    assert (lake.count("t"), lake.count("numbers")) == (4, 1)


def test_what_cannot_be_registered(own_server: LakebedServer, tmp_path: Path) -> None:
    http = own_server.http()
    outside = tmp_path / "outside.lance"
    lance.write_dataset(numbered(1), str(outside))
    inside = own_server.table_path("t").parent / "other.lance"
    for location, status in [
        (str(outside), 403),
        (f"file://{outside}", 403),
        ("s3://bucket/t.lance", 403),
        ("../outside.lance", 400),
        ("default/../../outside.lance", 400),
        ("default/t.lance/tree/branch.lance", 400),
        ("_lakebed/t.lance", 400),
        ("t.lance", 400),
        ("default/t", 400),
        ("default/\0.lance", 400),
        ("", 400),
        ("default/missing.lance", 404),
    ]:
        answer = http.post("/v1/table/x/register", {"location": location})
        assert answer.status == status, f"{location!r}: {answer.status} {answer.text}"
        assert str(tmp_path) not in answer.text
    assert http.post("/v1/table/x/register", {"location": "a", "mode": "Maybe"}).status == 400
    inside.mkdir(parents=True)
    (inside / "_versions").mkdir()
    (inside / "_versions" / "1.manifest").write_bytes(b"no manifest")
    assert http.post("/v1/table/x/register", {"location": "default/other.lance"}).status >= 400
    assert http.post("/v1/table/x/describe/").status == 404
    assert http.post("/v1/table/x/deregister", {}).status == 404


def test_versions_say_where_their_manifests_lie(own_server: LakebedServer) -> None:
    client = namespace(own_server)
    lake = own_server.lake()
    lake.create("t", numbered(1))
    lake.write("t", numbered(1, start=1))
    versions = client.list_table_versions(ListTableVersionsRequest(id=["t"])).versions
    assert sorted(version.version for version in versions) == [1, 2]
    for version in versions:
        manifest = Path(version.manifest_path)
        assert manifest.parent == own_server.table_path("t") / "_versions"
        assert manifest.stat().st_size == version.manifest_size
        one = client.describe_table_version({"id": ["t"], "version": version.version})
        assert one["version"]["manifest_path"] == version.manifest_path
    with pytest.raises(Exception, match="3"):
        client.describe_table_version({"id": ["t"], "version": 3})


def test_a_tool_goes_by_the_namespace(own_server: LakebedServer) -> None:
    """pylance writes and reads by name alone."""
    client = namespace(own_server)
    data = pa.table({"id": [1, 2], "name": ["x", "y"]})
    lance.write_dataset(data, namespace_client=client, table_id=["t"], mode="create")
    assert ids(own_server, "t") == [1, 2]
    found = lance.dataset(namespace_client=client, table_id=["t"])
    assert found.to_table().equals(data)
    lance.write_dataset(data, namespace_client=client, table_id=["t"], mode="append")
    wait_until(lambda: ids(own_server, "t") == [1, 1, 2, 2], "another writer's rows")
    url = f"http://{own_server.http_address}"
    sdk = lancedb.connect("db://default", api_key=own_server.admin_key, host_override=url)
    assert sdk.open_table("t").count_rows("id = 1") == 2
