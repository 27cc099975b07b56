"""What happens when all places are taken: the next request is told by name, with a time after which
to come again, and comes in once a place is free."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.data import blobs, bulk, numbered
from support.flight import Failure, finish, write_command
from support.raw_flight import RawCall, write_messages
from support.server import LakebedServer
from support.uploads import OpenPut, new_upload
from support.waiting import wait_until

PLACES = 2
LIMIT = "concurrent_requests_max"


@pytest.fixture
def narrow(make_server: Callable[..., LakebedServer]) -> LakebedServer:
    """A server with two places, where nobody waits for one for long."""
    server = make_server(
        env={
            "LAKEBED_LIMITS_CONCURRENT_REQUESTS_MAX": str(PLACES),
            "LAKEBED_LIMITS_ADMISSION_WAIT_MS_MAX": "100",
        }
    ).start()
    server.lake().create("t", blobs([b"one"]))
    return server


def is_busy(server: LakebedServer) -> bool:
    """Whether a read is refused because all places are taken."""
    lake = server.lake()
    try:
        lake.read("t")
    except Failure:
        return lake.received["x-lakebed-error-kind"] == "busy"
    return False


@pytest.fixture
def taken(narrow: LakebedServer) -> Iterator[list[Any]]:
    """Open writes that take all places."""
    rows = blobs([b"two"], start=1)
    streams = []
    for _ in range(PLACES):
        stream = narrow.lake().begin(write_command("t"), rows.schema)
        stream[0].write_table(rows)
        streams.append(stream)
    wait_until(lambda: is_busy(narrow), "all places taken")
    yield streams
    for writer, _ in streams:
        writer.close()


def check_delay(received: dict[str, str]) -> None:
    assert 0 < int(received["retry-after-ms"]) <= 60_000, received


def test_one_too_many_over_flight(narrow: LakebedServer, taken: list[Any]) -> None:
    lake = narrow.lake()
    with lake.refuses("busy", LIMIT, str(PLACES)):
        lake.read("t")
    check_delay(lake.received)
    with lake.refuses("busy", LIMIT):
        lake.write("t", blobs([b"x"]))
    check_delay(lake.received)
    # The same on the wire, for clients that are no pyarrow: status 8 and the delay in the trailers.
    messages = write_messages("t", blobs([b"x"]))
    call = RawCall(narrow.flight_address, narrow.admin_key).send(messages).end()
    trailers = call.finish()
    assert trailers["grpc-status"] == "8"
    assert LIMIT in trailers["grpc-message"]
    check_delay(trailers)
    receipts = [finish(*stream) for stream in taken]
    assert all(receipt["rows"] == 1 for receipt in receipts)
    assert lake.count("t") == 1 + PLACES
    assert lake.write("t", blobs([b"x"], start=9))["rows"] == 1


def test_one_too_many_over_http(narrow: LakebedServer, taken: list[Any]) -> None:
    http = narrow.http()
    upload = http.ok("POST", "/v1/uploads").json()["id"]
    asked = [
        ("GET", "/v1/table/t/blob/data/0/bytes", None),
        ("POST", "/v1/table/t/delete", {"predicate": "id = 0"}),
        ("POST", "/v1/table/t/count_rows", {}),
        ("PUT", f"/v1/uploads/{upload}?offset=0", b"x"),
        ("POST", f"/v1/uploads/{upload}/complete", {"size": 0, "sha256": "0" * 64}),
    ]
    for method, path, body in asked:
        answer = http.request(method, path, body)
        assert answer.status == 429, f"{path}: {answer.status} {answer.text}"
        assert LIMIT in answer.json()["error"]
        assert answer.headers["x-lakebed-error-kind"] == "busy"
        check_delay(answer.headers)
        assert int(answer.headers["retry-after"]) >= 1
    # What tells whether the server lives needs no place.
    for path in ("/livez", "/readyz", "/metrics"):
        assert http.get(path).status == 200
    refusals = [
        line
        for line in http.ok("GET", "/metrics").text.splitlines()
        if line.startswith("lakebed_admission_refused_total") and LIMIT in line
    ]
    assert float(refusals[0].split()[-1]) >= len(asked)
    for stream in taken:
        finish(*stream)
    assert http.get("/v1/table/t/blob/data/0/bytes").body == b"one"
    assert http.ok("PUT", f"/v1/uploads/{upload}?offset=0", b"x").json()["offset"] == 1


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_broken_request_gives_its_place_back(narrow: LakebedServer, how: str) -> None:
    """Clients that vanish do not take places for good."""
    for _ in range(3):
        calls = []
        for _ in range(PLACES):
            call = RawCall(narrow.flight_address, narrow.admin_key)
            calls.append(call.send(write_messages("t", blobs([b"x"]))))
        wait_until(lambda: is_busy(narrow), "all places taken")
        for call in calls:
            if how == "reset":
                call.reset(8)
            else:
                call.socket.shutdown(socket.SHUT_RDWR)
            call.close()
        wait_until(lambda: not is_busy(narrow), "the places of the broken requests")
    assert narrow.lake().count("t") == 1


def test_a_refused_write_is_free_of_traces(narrow: LakebedServer, taken: list[Any]) -> None:
    """Its id is free, no file of it stays, and it commits when it is sent again."""
    lake = narrow.lake()
    before = set(narrow.files("default"))
    rows = blobs([b"mine"], start=5)
    with lake.refuses("busy", LIMIT):
        lake.write("t", rows, write_id="w")
    with lake.refuses("busy", LIMIT):
        lake.create("new", rows, write_id="w")
    assert set(narrow.files("default")) == before
    for stream in taken:
        finish(*stream)
    receipt = lake.write("t", rows, write_id="w")
    assert receipt["rows"] == 1
    assert lake.write("t", rows, write_id="w") == receipt
    assert lake.tables() == ["t"]


def test_those_who_wait_come_in(make_server: Callable[..., LakebedServer]) -> None:
    """With time to wait, forty requests pass through one place, none refused."""
    server = make_server(env={"LAKEBED_LIMITS_CONCURRENT_REQUESTS_MAX": "1"}).start()
    server.lake().create("t", numbered(0))

    def write(i: int) -> int:
        return server.lake().write("t", numbered(1, start=i))["rows"]

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, range(40))) == 40
    assert sorted(server.lake().read("t")["id"].to_pylist()) == list(range(40))


def test_memory_of_writes_is_a_limit_by_name(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(
        env={
            "LAKEBED_LIMITS_WRITE_MEMORY_BYTES_MAX": str(16 << 20),
            "LAKEBED_LIMITS_ADMISSION_WAIT_MS_MAX": "100",
        }
    ).start()
    lake = server.lake()
    lake.create("t", bulk(1, 10))
    # An upload that runs takes 16 MiB of it.
    upload = OpenPut(server, new_upload(server.http()), length=1 << 20).send(b"some")

    def is_refused() -> bool:
        try:
            lake.write("t", bulk(1, 10))
        except Failure as error:
            return "write_memory_bytes_max" in str(error)
        return False

    wait_until(is_refused, "the memory taken")
    assert lake.received["x-lakebed-error-kind"] == "busy"
    check_delay(lake.received)
    assert lake.count("t") >= 1, "reads have their own"
    upload.send(bytes((1 << 20) - 4))
    assert "200" in upload.answer()
    upload.close("closed")
    lake.write("t", bulk(1, 10))
