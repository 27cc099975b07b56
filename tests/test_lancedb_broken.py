"""What an interrupted or broken request over HTTP leaves: nothing."""

import io
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from support.lancedb import connect
from support.server import LakebedServer
from support.waiting import wait_until

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def numbers(first: int, rows: int) -> pa.Table:
    return pa.table({"id": pa.array(range(first, first + rows), pa.int64()), "n": [1.5] * rows})


def stream(table: pa.Table, batch_rows: int = 100) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return sink.getvalue()


@pytest.fixture
def made(server: LakebedServer, table: str) -> Any:
    """A table of ten rows in version 1."""
    return connect(server).create_table(table, numbers(0, 10))


def requests_running(server: LakebedServer) -> float:
    text = server.http().ok("GET", "/metrics").text
    [found] = re.findall(r'^lakebed_requests_running\{door="http"\} (\S+)$', text, re.MULTILINE)
    return float(found)


VERBS = [
    "insert/",
    "insert/?mode=overwrite",
    "merge_insert/?on=id&when_matched_update_all=true&when_not_matched_insert_all=true",
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_stream_without_its_end(server: LakebedServer, made: Any, verb: str) -> None:
    """Chunks that end plainly, but before the end marker of the Arrow stream."""
    whole = stream(numbers(10, 1_000))
    for cut in [len(whole) - 8, len(whole) // 2, 100, 3]:

        def chunks(cut: int = cut) -> Iterator[bytes]:
            yield whole[:cut]

        path = f"/v1/table/{made.name}/{verb}"
        answer = server.http().request("POST", path, chunks(), ARROW)
        assert answer.status in {400, 499}, answer.text
        assert (made.count_rows(), made.version) == (10, 1)


@pytest.mark.parametrize("verb", VERBS)
def test_a_connection_that_breaks(server: LakebedServer, made: Any, verb: str) -> None:
    whole = stream(numbers(10, 1_000))
    host, port = server.http_address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v1/table/{made.name}/{verb} HTTP/1.1\r\nhost: {host}\r\n"
            f"x-api-key: {server.admin_key}\r\ncontent-type: {ARROW['content-type']}\r\n"
            f"content-length: {len(whole)}\r\n\r\n"
        )
        connection.sendall(head.encode() + whole[: len(whole) // 2])
    assert (made.count_rows(), made.version) == (10, 1)
    made.add(numbers(10, 1))
    assert (made.count_rows(), made.version) == (11, 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "arrow stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", "header"),
        (stream(numbers(0, 5)) + b"more", "follow"),
        (b"", "empty"),
        (stream(numbers(0, 5))[:-8], "end marker"),
    ],
)
def test_bytes_that_are_no_stream(server: LakebedServer, made: Any, body: bytes, says: str) -> None:
    answer = server.http().request("POST", f"/v1/table/{made.name}/insert/", body, ARROW)
    assert answer.status == 400
    assert says in answer.json()["error"]
    assert (made.count_rows(), made.version) == (10, 1)
    plain = {"content-type": "application/json"}
    answer = server.http().request("POST", f"/v1/table/{made.name}/insert/", b"{}", plain)
    assert answer.status == 400


def test_a_client_that_is_killed(server: LakebedServer, made: Any) -> None:
    """The real client, killed in the middle of an endless insert."""
    program = textwrap.dedent(
        f"""
        import sys, lancedb, pyarrow as pa
        db = lancedb.connect("db://default", api_key={server.admin_key!r},
                             host_override="http://{server.http_address}")
        table = db.open_table({made.name!r})
        def batches():
            while True:
                print("batch", flush=True)
                yield pa.record_batch({{"id": pa.array(range(1_000), pa.int64()),
                                        "n": [1.5] * 1_000}})
        schema = pa.schema([("id", pa.int64()), ("n", pa.float64())])
        table.add(pa.RecordBatchReader.from_batches(schema, batches()))
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(200):
        assert child.stdout.readline() == "batch\n"
    child.kill()
    child.wait()
    # The one that asks counts itself.
    wait_until(lambda: requests_running(server) == 1, "the end of the insert")
    assert (made.count_rows(), made.version) == (10, 1)


def test_a_merge_that_takes_too_long(server: LakebedServer, made: Any) -> None:
    def slow() -> Iterator[bytes]:
        import time

        whole = stream(numbers(0, 5))
        yield whole[:-8]
        time.sleep(1.5)
        yield whole[-8:]

    path = f"/v1/table/{made.name}/merge_insert/?on=id&when_matched_update_all=true"
    headers = {**ARROW, "x-request-timeout-ms": "300"}
    answer = server.http().request("POST", path, slow(), headers)
    assert answer.status == 408, "which the SDKs do not send again"
    assert (made.count_rows(), made.version) == (10, 1)
