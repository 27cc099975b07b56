"""Uploads at their edges: connections that break, two clients at once, limits and expiry."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest

from support.data import blob_cells
from support.http import Http, Response
from support.server import LakebedServer
from support.uploads import OpenPut, new_upload
from support.waiting import wait_until

MIB = 1 << 20
PART = 64 * MIB


def claim_of(data: bytes) -> dict[str, Any]:
    """What completes an upload of these bytes."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def check_blob(server: LakebedServer, url: str, data: bytes) -> None:
    """Completes an upload, refers to it in a new table, and compares the bytes."""
    server.http().ok("POST", f"{url}/complete", claim_of(data))
    upload = url.rsplit("/", 1)[1]
    table = f"t_{upload}"
    server.lake().create(table, blob_cells([{"data": None, "uri": f"upload:{upload}"}]))
    answer = server.http().ok("GET", f"/v1/table/{table}/blob/data/0/bytes")
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(data).digest()


def is_claimed(http: Http, url: str) -> bool:
    """Whether a request is still at the upload; asked by a PUT that would never be accepted."""
    answer = http.request("PUT", f"{url}?offset=999999999999", b"")
    assert answer.status == 409, answer.text
    return "another request" in answer.text


@pytest.mark.parametrize("cut", [0, 4], ids=["one request", "two requests"])
def test_a_claim_by_crc64(server: LakebedServer, cut: int) -> None:
    """The checksum of object stores in place of SHA-256, which the server then tells."""
    http = server.http()
    url = new_upload(http)
    data = b"123456789"
    if cut:
        http.ok("PUT", f"{url}?offset=0", data[:cut])
    http.ok("PUT", f"{url}?offset={cut}", data[cut:])
    # The check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
    claim = {"size": 9, "crc64nvme": "AE8B14860A799888"}
    wrong = http.post(f"{url}/complete", {**claim, "crc64nvme": "ae8b14860a799889"})
    assert wrong.status == 400
    assert "ae8b14860a799888" in wrong.text
    for again in (claim, claim_of(data)):
        answer = http.ok("POST", f"{url}/complete", again).json()
        assert answer["sha256"] == hashlib.sha256(data).hexdigest()
    refused = http.post(f"{url}/complete", {**claim, "crc64nvme": "0" * 16})
    assert refused.status == 400
    assert "complete" in refused.text
    check_blob(server, url, data)


# ---- connections that break -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("sent", [100, 5 * MIB, PART + 5 * MIB], ids=["100 B", "5 MiB", "69 MiB"])
def test_a_connection_that_breaks(server: LakebedServer, how: str, sent: int) -> None:
    """What is stored is a beginning of what was sent, whole parts of it at least; the client asks
    where to go on, goes on there, and the blob is whole."""
    http = server.http()
    url = new_upload(http)
    data = os.urandom(sent + 3 * MIB)
    put = OpenPut(server, url, len(data)).send(data[:sent])
    wait_until(put.is_read, "the bytes at the server")
    put.close(how)
    wait_until(lambda: not is_claimed(http, url), "the end of the broken PUT")
    answer = http.request("HEAD", url)
    offset = int(answer.headers["upload-offset"])
    print(f"{offset} of {sent} bytes kept")
    assert sent // PART * PART <= offset <= sent
    assert http.ok("GET", url).json()["offset"] == offset
    assert http.post(f"{url}/complete", claim_of(data)).status == 400, "not half a blob"
    done = http.ok("PUT", f"{url}?offset={offset}", data[offset:]).json()
    assert done["offset"] == len(data)
    check_blob(server, url, data)


def test_a_restart_in_the_middle_of_a_put(own_server: LakebedServer) -> None:
    """A server that is killed while bytes come in keeps the parts that were whole."""
    http = own_server.http()
    url = new_upload(http)
    data = os.urandom(PART + 12 * MIB)
    # Pieces of 8 MiB and a little go to the disk; of the last one it does not hear.
    sent = PART + 9 * MIB
    put = OpenPut(own_server, url, len(data)).send(data[:sent])
    wait_until(lambda: http.ok("GET", url).json()["offset"] >= PART, "the first part")
    own_server.kill()
    put.close("reset")
    own_server.start()
    http = own_server.http()
    offset = http.ok("GET", url).json()["offset"]
    assert PART <= offset <= sent, "a whole part"
    http.ok("PUT", f"{url}?offset={offset}", data[offset:])
    check_blob(own_server, url, data)


# ---- two at once ----------------------------------------------------------------------------


def test_two_clients_at_one_upload(server: LakebedServer) -> None:
    """The second is told to come later, whatever it wants, and spoils nothing."""
    http = server.http()
    url = new_upload(http)
    data = os.urandom(2 * MIB)
    first = OpenPut(server, url, len(data)).send(data[:MIB])
    # So much is not read before the handler asks for it.
    wait_until(first.is_read, "the first PUT")

    def conflict(answer: Response) -> None:
        assert answer.status == 409, f"{answer.status} {answer.text}"
        assert answer.headers["x-lakebed-error-kind"] == "conflict"
        assert int(answer.headers["retry-after-ms"]) > 0
        assert "another request" in answer.json()["error"]

    conflict(http.request("PUT", f"{url}?offset=0", os.urandom(100)))
    conflict(http.post(f"{url}/complete", claim_of(data[:MIB])))
    conflict(http.request("DELETE", url))
    assert " 200 " in f"{first.send(data[MIB:]).answer()} "
    assert http.ok("GET", url).json()["offset"] == len(data)
    check_blob(server, url, data)
    first.close("closed")


# ---- limits ---------------------------------------------------------------------------------


def test_too_many_uploads(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_LIMITS_UPLOADS_MAX": "2"}).start()
    http = server.http()
    urls = [new_upload(http) for _ in range(2)]
    answer = http.post("/v1/uploads")
    assert answer.status == 429
    assert answer.headers["x-lakebed-error-kind"] == "busy"
    assert "uploads_max" in answer.json()["error"]
    assert int(answer.headers["retry-after-ms"]) > 0
    # The two go on, and one that is given up makes room.
    http.ok("PUT", f"{urls[0]}?offset=0", b"x")
    http.ok("DELETE", urls[1])
    check_blob(server, urls[0], b"x")
    new_upload(http)


def test_an_upload_that_is_used_does_not_count(make_server: Callable[..., LakebedServer]) -> None:
    """`uploads_max` is of unfinished and unreferenced uploads: whoever uploads one blob after the
    other and writes each is never stopped by it."""
    server = make_server(env={"LAKEBED_LIMITS_UPLOADS_MAX": "2"}).start()
    http = server.http()
    for _ in range(5):
        url = new_upload(http)
        data = os.urandom(100_000)
        http.ok("PUT", f"{url}?offset=0", data)
        check_blob(server, url, data)


def test_an_upload_that_is_too_large(make_server: Callable[..., LakebedServer]) -> None:
    """The limit is named as soon as it is passed, and what fits is taken to the last byte."""
    server = make_server(env={"LAKEBED_LIMITS_UPLOAD_BYTES_MAX": str(MIB)}).start()
    http = server.http()
    data = os.urandom(MIB)

    def refused(answer: Response) -> None:
        assert answer.status in {400, 413}, answer.text
        assert answer.headers["x-lakebed-error-kind"] == "invalid_argument"
        assert "upload_bytes_max" in answer.json()["error"]
        assert str(MIB) in answer.json()["error"]

    url = new_upload(http)
    http.ok("PUT", f"{url}?offset=0", data)
    refused(http.request("PUT", f"{url}?offset={MIB}", b"x"))
    assert http.ok("GET", url).json()["offset"] == MIB
    check_blob(server, url, data)
    at_once = new_upload(http)
    refused(http.request("PUT", f"{at_once}?offset=0", data + b"x"))
    assert http.ok("GET", at_once).json()["offset"] <= MIB
    # One that streams without an end is stopped, not read to its end.
    endless = new_upload(http)
    pieces = (bytes(100_000) for _ in range(10_000))
    with contextlib.suppress(OSError):  # it may hang up on a client that is still sending
        refused(http.request("PUT", f"{endless}?offset=0", pieces))
    assert http.ok("GET", endless).json()["offset"] <= MIB


def test_an_upload_that_expires(make_server: Callable[..., LakebedServer]) -> None:
    """After its time it is gone for every verb, and a table that refers to it keeps its bytes."""
    server = make_server(env={"LAKEBED_LIMITS_UPLOAD_TTL_MS": "3000"}).start()
    http = server.http()
    kept, lost = new_upload(http), new_upload(http)
    data = os.urandom(17 * MIB)
    http.ok("PUT", f"{kept}?offset=0", data)
    check_blob(server, kept, data)
    http.ok("PUT", f"{lost}?offset=0", b"12345")
    wait_until(lambda: http.get(lost).status == 404, "the expiry")
    assert http.request("PUT", f"{lost}?offset=5", b"6").status == 404
    assert http.post(f"{lost}/complete", claim_of(b"12345")).status == 404
    upload = lost.rsplit("/", 1)[1]
    lake = server.lake()
    with lake.refuses("not_found", upload):
        lake.create("x", blob_cells([{"data": None, "uri": f"upload:{upload}"}]))
    assert http.get(kept).status == 404
    server.restart()
    table = f"t_{kept.rsplit('/', 1)[1]}"
    assert server.lake().read(table, blobs="bytes")["data"][0].as_py() == data
