"""What every answer of the HTTP door carries, whatever the route: compression and protocol."""

import gzip

import pyarrow as pa
import pytest

from support.data import blobs, numbered, wide
from support.flight import Lake
from support.http import Response
from support.lancedb import connect
from support.server import LakebedServer

COLUMNS = 300


def ask(server: LakebedServer, path: str, accept: str | None, method: str = "GET") -> Response:
    headers = {} if accept is None else {"accept-encoding": accept}
    return server.http().request(method, path, headers=headers)


# ---- gzip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["gzip", "br, gzip;q=0.5", "*"])
def test_json_is_compressed_for_those_who_ask(
    server: LakebedServer, lake: Lake, table: str, accept: str
) -> None:
    lake.create(table, wide(COLUMNS))
    path = f"/v1/table/{table}/show"
    plain, small = ask(server, path, None), ask(server, path, accept)
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in small.headers
    assert len(small.body) * 3 < len(plain.body)
    assert gzip.decompress(small.body) == plain.body
    assert plain.headers["vary"] == small.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("accept", ["gzip;q=0", "identity", "identity, gzip;q=0.5", "deflate", ""])
def test_json_stays_plain_for_others(
    server: LakebedServer, lake: Lake, table: str, accept: str
) -> None:
    lake.create(table, wide(COLUMNS))
    answer = ask(server, f"/v1/table/{table}/show", accept)
    assert "content-encoding" not in answer.headers
    assert len(answer.json()["columns"]) == COLUMNS
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_metrics_are_text(server: LakebedServer) -> None:
    server.http().get("/livez")
    answer = ask(server, "/metrics", "gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert b"lakebed_build_info" in gzip.decompress(answer.body)


def test_short_answers_and_errors_stay_plain(server: LakebedServer) -> None:
    for path, status in (("/version", 200), ("/v1/table/missing/show", 404)):
        answer = ask(server, path, "gzip")
        assert answer.status == status
        assert "content-encoding" not in answer.headers
        assert answer.json()


def test_head_has_no_body_to_compress(server: LakebedServer) -> None:
    answer = ask(server, "/metrics", "gzip", "HEAD")
    assert answer.status == 200
    assert answer.body == b""
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("cell", [b"text " * 10_000, b'{"a": [' + b"1," * 10_000 + b"1]}"])
def test_blobs_stay_as_they_are(server: LakebedServer, lake: Lake, table: str, cell: bytes) -> None:
    """Also those of text: their ranges and entity tags are about their own bytes."""
    lake.create(table, blobs([cell]))
    path = f"/v1/table/{table}/blob/data/0/bytes"
    whole = ask(server, path, "gzip")
    assert whole.body == cell
    assert "content-encoding" not in whole.headers
    headers = {"accept-encoding": "gzip", "range": "bytes=100-9099"}
    part = server.http().request("GET", path, headers=headers)
    assert (part.status, part.body) == (206, cell[100:9100])
    assert "content-encoding" not in part.headers


def test_secrets_stay_plain(server: LakebedServer) -> None:
    """The length of a compressed answer would tell something of what is in it."""
    body = {"name": "n" * 100, "role": "read"}
    headers = {"accept-encoding": "gzip"}
    answer = server.http().request("POST", "/v1/keys", body, headers)
    assert answer.status == 201
    assert "content-encoding" not in answer.headers
    server.http().ok("DELETE", f"/v1/keys/{answer.json()['id']}")


def test_the_sdk_of_lancedb_reads_it(server: LakebedServer, lake: Lake, table: str) -> None:
    names = sorted(f"{table[:40]}_{number:03}_{'x' * 60}" for number in range(20))
    for name in names:
        lake.create(name, numbered(1))
    assert set(names) <= set(connect(server).table_names(limit=1000))


# ---- the protocol ---------------------------------------------------------------------------


def test_answers_of_the_protocol_tell_its_version(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    lake.create(table, pa.table({"a": [1]}))
    http = server.http()
    for method, path, status in [
        ("GET", f"/v1/table/{table}/show", 200),
        ("GET", f"//v1/table/{table}/show", 200),
        ("GET", "/v1/table", 200),
        ("GET", "/v1/table/", 200),
        ("GET", "/v1/namespace/$/table/list", 200),
        ("GET", "/v1/table/missing/show", 404),
        ("DELETE", f"/v1/table/{table}/show", 405),
        ("GET", "/v1/table/a/b/c/d", 404),
    ]:
        answer = http.request(method, path)
        assert answer.status == status, (method, path, answer.text)
        assert answer.headers["phalanx-version"] == "0.6.0", path
    assert server.http(None).get("/v1/table").headers["phalanx-version"] == "0.6.0"
    for path in ("/version", "/v1/keys", "/v1/uploads/x", "/v1/tables"):
        assert "phalanx-version" not in http.get(path).headers, path
