"""What bad input gets over HTTP: uploads, blobs, tags and unknown routes."""

import hashlib
import json
from typing import Any

import pytest

from support.data import blobs, numbered
from support.server import LakebedServer

MIB = 1 << 20
UNKNOWN = "0190c7a0000070008000000000000000"


@pytest.fixture(scope="module")
def prepared(module_server: LakebedServer) -> LakebedServer:
    lake = module_server.lake()
    lake.create("cars", numbered(3))
    lake.create("media", blobs([b"one"]))
    return module_server


def refused(
    server: LakebedServer, status: int, words: list[str], method: str, path: str, body: Any = None
) -> dict[str, Any]:
    """Checks status, words and request id of an error; its JSON."""
    answer = server.http().request(method, path, body)
    assert answer.status == status, f"{answer.status}: {answer.text}"
    error = answer.json()
    assert isinstance(error["code"], int)
    missing = [word for word in words if word.lower() not in error["error"].lower()]
    assert not missing, f"{missing} not in {error}"
    assert answer.headers["x-request-id"]
    assert server.running
    return error


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", f"/v1/uploads/{UNKNOWN}?offset=0", b"x", 404, [UNKNOWN]),
        ("GET", f"/v1/uploads/{UNKNOWN}", None, 404, [UNKNOWN]),
        ("POST", f"/v1/uploads/{UNKNOWN}/complete", {"size": 1, "sha256": "0" * 64}, 404, []),
        ("DELETE", f"/v1/uploads/{UNKNOWN}", None, 404, [UNKNOWN]),
        ("PUT", "/v1/uploads/..%2f..%2fx?offset=0", b"x", 400, ["upload"]),
        ("PUT", "/v1/uploads/a%00b?offset=0", b"x", 400, ["upload"]),
        ("GET", "/v1/table/nope/blob/data/0/bytes", None, 404, ["nope"]),
        ("GET", "/v1/table/media/blob/dat/0/bytes", None, 404, ["dat", "data"]),
        ("GET", "/v1/table/media/blob/id/0/bytes", None, 400, ["id", "blob"]),
        ("GET", "/v1/table/media/blob/data/999/bytes", None, 404, ["999"]),
        ("GET", "/v1/table/media/blob/data/first/bytes", None, 400, ["first"]),
        ("GET", "/v1/table/media/blob/data/-1/bytes", None, 400, ["-1"]),
        ("GET", "/v1/table/media/blob/data/0/bytes?version=99", None, 404, ["99"]),
        ("GET", "/v1/table/media/blob/data/0/bytes?version=x", None, 400, ["version"]),
        ("GET", "/v1/table/..%2fcars/blob/data/0/bytes", None, 400, ["name"]),
        ("POST", "/v1/table/nope/tags/create", {"tag": "a", "version": 1}, 404, ["nope"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "a", "version": 99}, 404, ["99"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "a b", "version": 1}, 400, ["tag"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "_lakebed.x", "version": 1}, 400, ["tag"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "a"}, 400, ["version"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "a", "version": -1}, 400, ["version"]),
        ("POST", "/v1/table/cars/tags/create", {"tag": "a", "version": 1, "x": 2}, 400, ["x"]),
        ("POST", "/v1/table/cars/tags/create", b"{", 400, []),
        ("POST", "/v1/table/cars/tags/create", b"", 400, []),
        ("POST", "/v1/table/cars/tags/delete", {"tag": "nope"}, 404, ["nope"]),
        ("POST", "/v1/table/cars/tags/update", {"tag": "nope", "version": 1}, 404, ["nope"]),
        ("POST", "/v1/table/cars/clone", {"k": 1}, 400, ["`k`"]),
        ("POST", "/v1/table/cars/refresh", {"k": 1}, 501, []),
        ("POST", "/v1/table/cars/branches/create", {}, 400, ["branch name is empty"]),
        ("POST", "/v1/table/cars/branches/merge", {"on_conflict": "x"}, 400, ["on_conflict"]),
        ("POST", "/v1/table/cars/branches/cherry_pick", {}, 400, ["branch"]),
        ("POST", "/v1/table/new/clone", {"is_shallow": False}, 501, ["is_shallow"]),
        ("POST", "/v1/table/new/clone", {"source_location": "/etc"}, 403, ["lake"]),
        ("POST", "/v1/table/carz/drop", None, 404, ["carz", "cars"]),
        ("GET", "/v1/nothing/like/this", None, 404, []),
    ],
)  # fmt: skip
def test_a_bad_request(
    prepared: LakebedServer, method: str, path: str, body: Any, status: int, words: list[str]
) -> None:
    before = prepared.files("default")
    refused(prepared, status, words, method, path, body)
    assert prepared.files("default") == before
    assert prepared.lake().read("cars").equals(numbered(3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, ["sha256"]),
        ({"sha256": "xyz"}, ["sha256"]),
        ({"sha256": ""}, ["sha256"]),
        ({"sha256": None}, ["sha256", "crc64nvme"]),
        ({"crc64nvme": "0" * 16}, ["sha256", "crc64nvme"]),
        ({"sha256": None, "crc64nvme": "0" * 16}, ["crc64nvme"]),
        ({"sha256": None, "crc64nvme": "0" * 15}, ["crc64nvme"]),
        ({"size": 4}, ["size", "5"]),
        ({"size": 6}, ["size", "5"]),
        ({"size": -5}, ["size"]),
        ({"more": 1}, ["more"]),
        ({"size": None}, ["size"]),
    ],
    ids=json.dumps,
)
def test_an_upload_that_is_not_what_it_claims(
    prepared: LakebedServer, change: dict[str, Any], words: list[str]
) -> None:
    http = prepared.http()
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    http.ok("PUT", f"{url}?offset=0", b"12345")
    claim = {"size": 5, "sha256": hashlib.sha256(b"12345").hexdigest(), **change}
    refused(prepared, 400, words, "POST", f"{url}/complete", claim)
    # What is stored was not spoilt: the true claim still holds.
    true_claim = {"size": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    http.ok("POST", f"{url}/complete", true_claim)


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?offset=-1", 400, ["offset"]),
        ("?offset=x", 400, ["offset"]),
        ("?offset=3", 409, ["0"]),
        ("?offset=0&more=1", 400, ["more"]),
    ],
)
def test_an_upload_at_a_wrong_place(
    prepared: LakebedServer, query: str, status: int, words: list[str]
) -> None:
    http = prepared.http()
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    refused(prepared, status, words, "PUT", f"{url}{query}", b"x")
    assert http.ok("GET", url).json()["offset"] == 0


def test_a_finished_upload_takes_no_more(prepared: LakebedServer) -> None:
    http = prepared.http()
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    http.ok("PUT", f"{url}?offset=0", b"12345")
    claim = {"size": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    http.ok("POST", f"{url}/complete", claim)
    refused(prepared, 409, ["complete"], "PUT", f"{url}?offset=5", b"6")


def test_a_json_body_beyond_its_limit(prepared: LakebedServer) -> None:
    body = json.dumps({"tag": "x" * (5 * MIB), "version": 1}).encode()
    answer = prepared.http().request("POST", "/v1/table/cars/tags/create", body)
    assert answer.status in {400, 413}
    assert "json_body_bytes_max" in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/uploads"),
        ("GET", "/v1/table/media/blob/data/0/bytes"),
        ("POST", "/v1/table/cars/tags/list"),
        ("POST", "/v1/table/cars/drop"),
        ("GET", "/v1/table/"),
    ],
)
@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_key(prepared: LakebedServer, method: str, path: str, key: str | None) -> None:
    answer = prepared.http(key).request(method, path)
    assert answer.status == 401
    assert "key" in answer.json()["error"]
