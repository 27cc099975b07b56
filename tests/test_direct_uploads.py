"""Uploads whose parts go from the client to the bucket, past the server."""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.data import blob_cells
from support.http import Http
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer
from support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def in_bucket(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> LakebedServer:
    """A server on an empty prefix of the bucket."""
    return make_server(data=f"s3://{BUCKET}/{table}", env=store.environment()).start()


def begin(http: Http) -> str:
    """The URL of a new direct upload."""
    answer = http.ok("POST", "/v1/uploads", {"direct": True}).json()
    assert answer["offset"] == 0
    return f"/v1/uploads/{answer['id']}"


def put(url: str, data: bytes) -> str:
    """Sends a part to the store, as a client without any key does; its ETag."""
    request = urllib.request.Request(url, data=data, method="PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        etag: str = answer.headers["etag"]
        return etag


def send(http: Http, url: str, parts: list[bytes]) -> list[dict[str, Any]]:
    """Sends all parts, four at a time and the last ones first; what completes the upload."""
    body = {"first": 1, "count": len(parts)}
    signed = http.ok("POST", f"{url}/parts", body).json()
    assert [it["number"] for it in signed["parts"]] == list(range(1, len(parts) + 1))
    assert signed["expires_at_ms"] > 0
    urls = [it["url"] for it in signed["parts"]]
    with ThreadPoolExecutor(4) as pool:
        etags = list(pool.map(put, urls[::-1], parts[::-1]))[::-1]
    return [{"number": number, "etag": etag} for number, etag in enumerate(etags, 1)]


def claim_of(parts: list[bytes], stored: list[dict[str, Any]]) -> dict[str, Any]:
    """What completes an upload of these bytes."""
    whole = hashlib.sha256(b"".join(parts)).hexdigest()
    return {"size": sum(map(len, parts)), "sha256": whole, "parts": stored}


def test_parts_go_to_the_store(in_bucket: LakebedServer) -> None:
    """In any order and at once; the blob is whole, and completing twice is once."""
    http = in_bucket.http()
    url = begin(http)
    parts = [os.urandom(6 * MIB), os.urandom(5 * MIB), os.urandom(7 * MIB), b"the end"]
    before = in_bucket.peak_rss_bytes()
    claim = claim_of(parts, send(http, url, parts))
    assert in_bucket.peak_rss_bytes() - before < 10 * MIB, "the parts came by the server"
    # Which of the parts comes first does not matter here either.
    claim["parts"] = claim["parts"][::-1]
    for _ in range(2):
        answer = http.ok("POST", f"{url}/complete", claim).json()
        assert answer["sha256"] == claim["sha256"]
        assert http.ok("GET", url).json()["offset"] == claim["size"]
    lake = in_bucket.lake()
    lake.create("t", blob_cells([{"data": None, "uri": f"upload:{url.rsplit('/', 1)[1]}"}]))
    answer = http.ok("GET", "/v1/table/t/blob/data/0/bytes")
    assert hashlib.sha256(answer.body).hexdigest() == claim["sha256"]
    assert in_bucket.metric("lakebed_uploaded_bytes_total") == claim["size"]
    # The upload goes, with what the store knows of it no more; the blob is the table's.
    assert http.request("DELETE", url).status == 204
    assert http.get(url).status == 404
    assert http.ok("GET", "/v1/table/t/blob/data/0/bytes").body == answer.body


def test_a_part_may_be_sent_again(in_bucket: LakebedServer) -> None:
    """The last one counts, and its ETag."""
    http = in_bucket.http()
    url = begin(http)
    wrong, parts = [os.urandom(5 * MIB), b"tail"], [os.urandom(5 * MIB), b"tail"]
    send(http, url, wrong)
    claim = claim_of(parts, send(http, url, parts))
    assert http.ok("POST", f"{url}/complete", claim).json()["sha256"] == claim["sha256"]


def test_wrong_claims(in_bucket: LakebedServer) -> None:
    """Nothing is complete by a wrong claim, and the right one is taken after it."""
    http = in_bucket.http()
    url = begin(http)
    parts = [os.urandom(5 * MIB), b"tail"]
    right = claim_of(parts, send(http, url, parts))
    first, second = right["parts"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"parts": []}, "parts"),
        ({"parts": [first, {**second, "number": 3}]}, "without a gap"),
        ({"parts": [first, first]}, "without a gap"),
        (
            {"parts": [first, {**second, "etag": '"00000000000000000000000000000000"'}]},
            "InvalidPart",
        ),
        ({"size": right["size"] - 1}, "size"),
        ({"sha256": "0" * 64}, "sha256"),
    ]
    for change, says in wrong:
        answer = http.post(f"{url}/complete", {**right, **change})
        assert answer.status == 400, (change, answer.text)
        assert says in answer.text
    without = {key: value for key, value in right.items() if key != "parts"}
    answer = http.post(f"{url}/complete", without)
    assert answer.status == 400
    assert "parts" in answer.text
    assert http.ok("POST", f"{url}/complete", right).json()["sha256"] == right["sha256"]
    answer = http.post(f"{url}/parts", {"first": 3})
    assert answer.status == 409, answer.text


def test_what_is_not_for_direct_uploads(in_bucket: LakebedServer) -> None:
    http = in_bucket.http()
    url = begin(http)
    answer = http.request("PUT", f"{url}?offset=0", b"by the server")
    assert (answer.status, "direct" in answer.text) == (400, True)
    for body in ({"first": 0}, {"count": 0}, {"first": 10_000, "count": 2}, {"count": 1_001}):
        assert http.post(f"{url}/parts", body).status == 400, body
    last = http.ok("POST", f"{url}/parts", {"first": 10_000}).json()
    assert last["parts"][0]["number"] == 10_000
    plain = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    answer = http.post(f"{plain}/parts", {"first": 1})
    assert (answer.status, "not direct" in answer.text) == (400, True)
    assert http.post("/v1/uploads/none/parts", {"first": 1}).status == 404
    reader = Http(in_bucket.http_address, None)
    assert reader.post(f"{url}/parts", {"first": 1}).status == 401


def test_a_lake_in_a_folder_has_none(server: LakebedServer) -> None:
    answer = server.http().post("/v1/uploads", {"direct": True})
    assert (answer.status, "bucket" in answer.text) == (400, True)


def test_an_address_is_for_one_part(in_bucket: LakebedServer) -> None:
    """Whoever has the address of a part can write no other one, and nothing else."""
    http = in_bucket.http()
    url = begin(http)
    signed = http.ok("POST", f"{url}/parts", {"first": 1}).json()["parts"][0]["url"]
    for changed in (
        signed.replace("partNumber=1", "partNumber=2"),
        signed.replace("/blob?", "/other?"),
        signed.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
    ):
        assert changed != signed
        with pytest.raises(urllib.error.HTTPError) as refused:
            put(changed, b"x")
        assert refused.value.code == 403
    assert put(signed, b"x")


def test_what_is_thrown_away_is_gone(store: S3Server, in_bucket: LakebedServer) -> None:
    """The store keeps no part of an upload that was aborted."""
    http = in_bucket.http()
    before = store.part_uploads()
    url = begin(http)
    parts = [os.urandom(5 * MIB)]
    claim = claim_of(parts, send(http, url, parts))
    assert len(store.part_uploads() - before) == 1
    assert http.request("DELETE", url).status == 204
    assert http.post(f"{url}/complete", claim).status == 404
    assert store.part_uploads() - before == set()


def test_parts_of_an_expired_upload_are_deleted(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> None:
    env = {
        "LAKEBED_LIMITS_UPLOAD_TTL_MS": "1000",
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
        **store.environment(),
    }
    server = make_server(data=f"s3://{BUCKET}/{table}", env=env).start()
    http = server.http()
    before = store.part_uploads()
    url = begin(http)
    assert len(store.part_uploads() - before) == 1
    wait_until(lambda: store.part_uploads() == before, "the parts are deleted", timeout_s=60)
    assert http.get(url).status == 404


def test_a_server_that_is_killed_in_between(
    store: S3Server, make_server: Callable[..., LakebedServer], table: str
) -> None:
    """Parts are in the store, so the upload goes on where it was."""
    server = make_server(data=f"s3://{BUCKET}/{table}", env=store.environment()).start()
    http = server.http()
    url = begin(http)
    parts = [os.urandom(5 * MIB), os.urandom(MIB)]
    stored = send(http, url, parts)
    server.kill()
    server.start()
    claim = claim_of(parts, stored)
    assert server.http().ok("POST", f"{url}/complete", claim).json()["sha256"] == claim["sha256"]
