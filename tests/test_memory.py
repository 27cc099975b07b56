"""Memory stays bounded whatever passes through: a 4 GiB upload, a 3 GB write, a full scan.

The bound is what the goals state: 512 MiB plus the caches that are configured. Sizes are the full
ones, because a bound that holds for little says nothing.
"""

import hashlib
import http.client
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from support.data import blob_cells
from support.flight import command
from support.server import LakebedServer

MIB = 1 << 20
GIB = 1 << 30
BOUND = 512 * MIB


@pytest.fixture
def small_caches(make_server: Callable[..., LakebedServer]) -> LakebedServer:
    """A server as it starts by default."""
    return make_server().start()


def check_peak(server: LakebedServer, what: str) -> None:
    peak = server.peak_rss_bytes()
    print(f"{what}: peak {peak / MIB:.0f} MiB, now {server.rss_bytes() / MIB:.0f} MiB")
    assert peak < BOUND, f"{what} took {peak / MIB:.0f} MiB"


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return np.random.default_rng(3).bytes(size)


@pytest.mark.timeout(900)
def test_a_4_gib_blob_goes_in_and_out(small_caches: LakebedServer) -> None:
    server = small_caches
    piece = noise(16 * MIB)
    pieces = 4 * GIB // len(piece)

    def stream() -> Iterator[bytes]:
        for number in range(pieces):
            yield number.to_bytes(8, "little") + piece[8:]

    digest = hashlib.sha256()
    for part in stream():
        digest.update(part)
    doors = server.http()
    upload = doors.ok("POST", "/v1/uploads").json()["id"]
    doors.ok("PUT", f"/v1/uploads/{upload}?offset=0", stream(), timeout_s=600)
    check_peak(server, "upload")
    claim = {"size": 4 * GIB, "sha256": digest.hexdigest()}
    doors.ok("POST", f"/v1/uploads/{upload}/complete", claim, timeout_s=600)
    lake = server.lake()
    lake.write(
        "t", blob_cells([{"data": None, "uri": f"upload:{upload}"}]), "create", timeout_s=600
    )
    check_peak(server, "reference")
    assert server.stored_bytes() < 4 * GIB + 16 * MIB, "stored once"
    row_id = lake.read("t", columns=["_rowid"])["_rowid"][0].as_py()
    connection = http.client.HTTPConnection(server.http_address, timeout=600)
    url = f"/v1/table/t/blob/data/{row_id}/bytes"
    connection.request("GET", url, headers={"authorization": f"Bearer {server.admin_key}"})
    answer = connection.getresponse()
    assert (answer.status, int(answer.headers["content-length"])) == (200, 4 * GIB)
    back = hashlib.sha256()
    while part := answer.read(4 * MIB):
        back.update(part)
    connection.close()
    assert back.hexdigest() == digest.hexdigest()
    check_peak(server, "download")
    # In a batch it is refused before any of it is read.
    for columns in (None, {"a": "data"}):
        read = {"table": "t", "blobs": "bytes"} | ({"columns": columns} if columns else {})
        with lake.refuses("invalid_argument", "data", "blob_cell_bytes_max", str(4 * GIB)):
            info = lake.client.get_flight_info(command({"read": read}), lake.options())
            lake.fetch(info.endpoints[0])
    with lake.refuses("invalid_argument", "blob_cell_bytes_max"):
        lake.read("t", row_ids=[row_id], blobs="bytes")
    check_peak(server, "refusal")


@pytest.mark.timeout(900)
def test_a_3_gb_write_and_a_full_scan(small_caches: LakebedServer) -> None:
    server = small_caches
    lake = server.lake()
    rows_per_batch, row_bytes, batches = 2_000, 4_096, 375  # 8 MB each, 3 GB together
    data = noise(rows_per_batch * row_bytes)
    offsets = pa.py_buffer(np.arange(rows_per_batch + 1, dtype=np.int64) * row_bytes)
    payload = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), rows_per_batch, [None, offsets, pa.py_buffer(data)]
    )
    schema = pa.schema([("id", pa.int64()), ("payload", pa.large_binary())])

    def stream() -> Iterator[pa.RecordBatch]:
        for number in range(batches):
            ids = np.arange(number * rows_per_batch, (number + 1) * rows_per_batch)
            yield pa.record_batch([pa.array(ids), payload], schema=schema)

    receipt = lake.write("t", stream(), "create", schema=schema, timeout_s=600)
    assert receipt["rows"] == rows_per_batch * batches
    check_peak(server, "write")
    server.reset_peak_rss()
    info = lake.info("t")
    assert info.total_records == receipt["rows"]
    next_id = 0
    for endpoint in info.endpoints:
        for chunk in lake.stream(endpoint.ticket, timeout_s=600):
            ids = chunk.data["id"]
            assert ids[0].as_py() == next_id
            next_id += len(ids)
    assert next_id == receipt["rows"]
    check_peak(server, "scan")


@pytest.mark.timeout(600)
def test_a_reader_that_stands_still_holds_little(small_caches: LakebedServer) -> None:
    """Back-pressure: what a slow client does not take is not read."""
    server = small_caches
    lake = server.lake()
    data = noise(64 * MIB)
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(4_096), len(data) // 4_096, [None, pa.py_buffer(data)]
    )
    batch = pa.record_batch({"payload": column})
    parts = [batch.slice(start, 2_048) for start in range(0, batch.num_rows, 2_048)]
    lake.write("t", parts * 12, "create", schema=batch.schema, timeout_s=300)
    server.reset_peak_rss()
    readers = []
    for _ in range(8):
        reader = lake.stream(lake.info("t").endpoints[0].ticket)
        assert reader.read_chunk().data.num_rows
        readers.append(reader)
    check_peak(server, "eight readers that stand still")
    for reader in readers:
        reader.cancel()
