"""Blob columns: declared two ways, read as descriptors, bytes and ranges, uploaded when big."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from support.data import BLOB_METADATA, blob_cells, blobs
from support.flight import Lake
from support.server import LakebedServer
from support.uploads import upload

KIB = 1 << 10
MIB = 1 << 20
PNG = bytes.fromhex("89504e470d0a1a0a") + b"\0\0\0\rIHDR"

# One size for each way in which a blob is placed, and the borders between them.
CELLS = [b"", b"small", os.urandom(64 * KIB), os.urandom(64 * KIB + 1), os.urandom(5 * MIB), None]


def row_ids(lake: Lake, table: str) -> dict[int, int]:
    """The stable row id by the value of `id`."""
    rows = lake.read(table, columns=["id", "_rowid"])
    return dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))


def blob_url(table: str, row_id: int, column: str = "data") -> str:
    return f"/v1/table/{table}/blob/{column}/{row_id}/bytes"


# ---- declaring and reading ------------------------------------------------------------------


def test_a_blob_column_by_metadata(lake: Lake, table: str) -> None:
    rows = blobs(CELLS)
    lake.create(table, rows)
    answer = lake.read(table, blobs="bytes")
    assert answer["data"].to_pylist() == CELLS
    assert answer.schema.field("data").type == pa.large_binary()
    assert answer.schema.field("data").metadata[b"lance-encoding:blob"] == b"true"


def test_a_blob_column_by_extension_type(lake: Lake, table: str) -> None:
    cells = [None if cell is None else {"data": cell, "uri": None} for cell in CELLS]
    lake.create(table, blob_cells(cells))
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == CELLS


def test_both_ways_write_to_one_table(lake: Lake, table: str) -> None:
    lake.create(table, blobs([b"plain"]))
    lake.write(table, blob_cells([{"data": b"typed", "uri": None}], start=1))
    lake.write(table, pa.table({"id": [2], "data": pa.array([b"bare"], pa.binary())}))
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == [b"plain", b"typed", b"bare"]


def test_the_extension_type_of_pylance(server: LakebedServer, table: str) -> None:
    """In a process of its own, because importing lance registers its type with pyarrow for good."""
    program = """
import sys, lance, pyarrow as pa
sys.path.insert(0, sys.argv[1])
from support.flight import Lake
lake = Lake(sys.argv[2], key=sys.argv[3])
cells = lance.blob.blob_array([b"one", None, b"", b"x" * 100_000])
schema = pa.schema([pa.field("id", pa.int64()), lance.blob.blob_field("data")])
lake.create(sys.argv[4], pa.table([pa.array([0, 1, 2, 3]), cells], schema=schema))
answer = lake.read(sys.argv[4], blobs="bytes")["data"].to_pylist()
assert answer == [b"one", None, b"", b"x" * 100_000], answer
sizes = [cell and cell["size"] for cell in lake.read(sys.argv[4])["data"].to_pylist()]
assert sizes == [3, None, 0, 100_000], sizes
print(lake.client.get_schema(__import__("pyarrow.flight").flight.FlightDescriptor.for_path(
    sys.argv[4]), lake.options()).schema.field("data").type)
"""
    subprocess.run(
        [
            *(sys.executable, "-c", program, str(Path(__file__).parent)),
            *(server.flight_address, server.admin_key, table),
        ],
        check=True,
        timeout=100,
    )


def test_descriptors_say_sizes_and_hold_no_bytes(lake: Lake, table: str) -> None:
    lake.create(table, blobs(CELLS))
    answer = lake.read(table)
    cells = answer["data"].to_pylist()
    assert [cell and cell["size"] for cell in cells] == [c if c is None else len(c) for c in CELLS]
    assert {"kind", "position", "size", "blob_id", "blob_uri"} == set(cells[0])
    assert answer.nbytes < 10 * KIB
    assert lake.read(table, blobs="descriptor").equals(answer)


def test_the_declared_schema_can_be_written_back(lake: Lake, table: str) -> None:
    """A client that reads bytes and writes them to another table keeps the blob column."""
    lake.create(table, blobs(CELLS))
    copy = lake.read(table, blobs="bytes")
    lake.create(f"{table}_2", copy)
    assert lake.read(f"{table}_2", blobs="bytes").equals(copy)
    assert "size" in str(lake.read(f"{table}_2").schema.field("data").type)


def test_blobs_with_filters_rows_and_versions(lake: Lake, table: str) -> None:
    lake.create(table, blobs([b"a", b"bb", b"ccc"]))
    lake.write(table, blobs([b"dddd"], start=3))
    ids = row_ids(lake, table)
    answer = lake.read(table, row_ids=[ids[3], ids[0]], blobs="bytes")
    assert answer["data"].to_pylist() == [b"dddd", b"a"]
    answer = lake.read(table, filter="id = 1", columns=["data"], blobs="bytes")
    assert answer["data"].to_pylist() == [b"bb"]
    assert lake.read(table, version=1, blobs="bytes")["data"].to_pylist() == [b"a", b"bb", b"ccc"]


def test_several_blob_columns(lake: Lake, table: str) -> None:
    fields = [pa.field(name, pa.large_binary(), metadata=BLOB_METADATA) for name in ("a", "b")]
    schema = pa.schema([pa.field("id", pa.int64()), *fields])
    rows = pa.table([[1, 2], [b"a1", None], [os.urandom(100 * KIB), b"b2"]], schema=schema)
    lake.create(table, rows)
    assert lake.read(table, blobs="bytes").to_pydict() == rows.to_pydict()


def test_many_blobs_come_in_messages_that_fit(lake: Lake, table: str) -> None:
    cells = [os.urandom(MIB) for _ in range(40)]
    lake.create(
        table,
        [blobs(cells[i : i + 4], start=i).to_batches()[0] for i in range(0, 40, 4)],
        schema=blobs([]).schema,
    )
    sizes, hashes = [], []
    for endpoint in lake.info(table, blobs="bytes").endpoints:
        for chunk in lake.stream(endpoint.ticket):
            sizes.append(chunk.data.nbytes)
            hashes += [hash(cell) for cell in chunk.data["data"].to_pylist()]
    assert hashes == [hash(cell) for cell in cells]
    assert max(sizes) <= 8 * MIB


# ---- over HTTP ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(module_server: LakebedServer) -> tuple[str, dict[int, int]]:
    """A table with one blob of each placement, and its row ids."""
    lake = module_server.lake()
    lake.create("gallery", blobs([*CELLS, PNG + bytes(100)]))
    return "gallery", row_ids(lake, "gallery")


def test_a_blob_whole(server: LakebedServer, gallery: tuple[str, dict[int, int]]) -> None:
    table, ids = gallery
    for i, cell in enumerate(CELLS):
        answer = server.http().get(blob_url(table, ids[i]))
        if cell is None:
            assert (answer.status, answer.body) == (204, b"")
        else:
            assert answer.status == 200
            assert answer.body == cell
            assert answer.headers["content-length"] == str(len(cell))
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["etag"].startswith('"')


def test_the_medium_is_told_from_the_bytes(
    server: LakebedServer, gallery: tuple[str, dict[int, int]]
) -> None:
    table, ids = gallery
    png = server.http().get(blob_url(table, ids[len(CELLS)]))
    assert png.headers["content-type"] == "image/png"
    other = server.http().get(blob_url(table, ids[2]))
    assert other.headers["content-type"] == "application/octet-stream"
    assert other.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("row", [1, 2, 3, 4], ids=["inline", "64 KiB", "packed", "dedicated"])
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1-3", 1, 4),
        ("bytes=2-", 2, None),
        ("bytes=-2", -2, None),
        ("bytes=0-99999999999", 0, None),
    ],
)
def test_a_range(
    server: LakebedServer,
    gallery: tuple[str, dict[int, int]],
    row: int,
    asked: str,
    start: int,
    stop: int | None,
) -> None:
    table, ids = gallery
    cell = CELLS[row]
    answer = server.http().get(blob_url(table, ids[row]), range=asked)
    assert answer.status == 206
    assert answer.body == cell[start:stop]
    first = start % len(cell)
    last = first + len(answer.body) - 1
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(cell)}"


def test_ranges_that_cannot_be(server: LakebedServer, gallery: tuple[str, dict[int, int]]) -> None:
    table, ids = gallery
    beyond = server.http().get(blob_url(table, ids[1]), range="bytes=5-")
    assert beyond.status == 416
    assert beyond.headers["content-range"] == "bytes */5"
    empty = server.http().get(blob_url(table, ids[0]), range="bytes=0-0")
    assert empty.status == 416
    assert empty.headers["content-range"] == "bytes */0"
    several = server.http().get(blob_url(table, ids[1]), range="bytes=0-0,2-2")
    assert (several.status, several.body) == (200, b"small")
    odd = server.http().get(blob_url(table, ids[1]), range="lines=1-2")
    assert (odd.status, odd.body) == (200, b"small")


def test_entity_tags(server: LakebedServer, gallery: tuple[str, dict[int, int]]) -> None:
    table, ids = gallery
    url = blob_url(table, ids[1])
    http = server.http()
    etag = http.get(url).headers["etag"]
    assert http.get(url, if_none_match=etag).status == 304
    assert http.get(url, if_none_match='"other"').status == 200
    assert http.get(url, range="bytes=0-0", if_range=etag).status == 206
    assert http.get(url, range="bytes=0-0", if_range='"other"').status == 200
    assert http.get(blob_url(table, ids[2])).headers["etag"] != etag
    server.lake().write(table, blobs([b"more"], start=100))
    assert http.get(url).headers["etag"] == etag, "another row's write changes nothing here"


def test_head_of_a_blob(server: LakebedServer, gallery: tuple[str, dict[int, int]]) -> None:
    table, ids = gallery
    answer = server.http().request("HEAD", blob_url(table, ids[4]))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(5 * MIB)


def test_a_blob_at_a_version(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, blobs([b"before"]))
    row = row_ids(lake, table)[0]
    lake.upsert(table, blobs([b"after"]), ["id"])
    assert server.http().get(blob_url(table, row)).body == b"after"
    assert server.http().get(blob_url(table, row) + "?version=1").body == b"before"


# ---- uploads --------------------------------------------------------------------------------


def test_an_upload_becomes_a_cell(server: LakebedServer, lake: Lake, table: str) -> None:
    data = os.urandom(9 * MIB)
    upload_id = upload(server.http(), data)
    lake.create(table, blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    assert lake.read(table)["data"][0].as_py()["size"] == len(data)
    assert lake.read(table, blobs="bytes")["data"][0].as_py() == data
    row = row_ids(lake, table)[0]
    answer = server.http().get(blob_url(table, row), range="bytes=4000000-4000009")
    assert answer.body == data[4_000_000:4_000_010]


def test_uploads_beside_bytes_in_one_batch(server: LakebedServer, lake: Lake, table: str) -> None:
    big = os.urandom(17 * MIB)
    upload_id = upload(server.http(), big)
    cells = [
        {"data": b"here", "uri": None},
        {"data": None, "uri": f"upload:{upload_id}"},
        None,
    ]
    lake.create(table, blob_cells(cells))
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == [b"here", big, None]


def test_an_upload_is_resumed(server: LakebedServer, lake: Lake, table: str) -> None:
    http = server.http()
    data = os.urandom(3 * MIB)
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    assert http.ok("PUT", f"{url}?offset=0", data[:MIB]).json()["offset"] == MIB
    wrong = http.request("PUT", f"{url}?offset=0", data)
    assert wrong.status == 409
    assert str(MIB) in wrong.text, "says where to go on"
    wrong = http.request("PUT", f"{url}?offset={2 * MIB}", data)
    assert wrong.status == 409
    assert http.ok("GET", url).json()["offset"] == MIB
    assert http.ok("PUT", f"{url}?offset={MIB}", data[MIB:]).json()["offset"] == 3 * MIB
    body = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    http.ok("POST", f"{url}/complete", body)
    http.ok("POST", f"{url}/complete", body)
    upload_id = url.rsplit("/", 1)[1]
    lake.create(table, blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    assert lake.read(table, blobs="bytes")["data"][0].as_py() == data


def test_an_upload_goes_on_after_a_restart(own_server: LakebedServer) -> None:
    data = os.urandom(2 * MIB)
    http = own_server.http()
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    http.ok("PUT", f"{url}?offset=0", data[:MIB])
    own_server.kill()
    own_server.start()
    http = own_server.http()
    offset = http.ok("GET", url).json()["offset"]
    assert offset == MIB, "acknowledged bytes are durable"
    http.ok("PUT", f"{url}?offset={offset}", data[offset:])
    body = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    http.ok("POST", f"{url}/complete", body)
    own_server.kill()
    own_server.start()
    upload_id = url.rsplit("/", 1)[1]
    own_server.lake().create("t", blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    assert own_server.lake().read("t", blobs="bytes")["data"][0].as_py() == data


def test_an_upload_streamed_in_chunks(server: LakebedServer, lake: Lake, table: str) -> None:
    http = server.http()
    pieces = [os.urandom(100_000) for _ in range(20)]
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    http.ok("PUT", f"{url}?offset=0", iter(pieces))
    data = b"".join(pieces)
    body = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    http.ok("POST", f"{url}/complete", body)
    upload_id = url.rsplit("/", 1)[1]
    lake.create(table, blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    assert lake.read(table, blobs="bytes")["data"][0].as_py() == data


def test_an_aborted_upload_is_gone(server: LakebedServer, lake: Lake, table: str) -> None:
    http = server.http()
    upload_id = http.ok("POST", "/v1/uploads").json()["id"]
    http.ok("PUT", f"/v1/uploads/{upload_id}?offset=0", b"x")
    http.ok("DELETE", f"/v1/uploads/{upload_id}")
    assert http.get(f"/v1/uploads/{upload_id}").status == 404
    with lake.refuses("not_found", upload_id):
        lake.create(table, blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    assert table not in lake.tables()


# ---- where blobs lie ------------------------------------------------------------------------


def stored_blobs(server: LakebedServer) -> dict[str, int]:
    """The files under the lake's `_blobs/`."""
    return server.files("_blobs")


def test_a_big_blob_lies_once_under_its_digest(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    data = os.urandom(17 * MIB)
    small = os.urandom(15 * MIB)
    lake.create("t", blobs([data, small]))
    stored = stored_blobs(own_server)
    assert list(stored.values()) == [len(data)]
    assert hashlib.sha256(data).hexdigest() in next(iter(stored))
    assert sum(own_server.files("default").values()) < 16 * MIB
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == [data, small]


def test_equal_big_blobs_are_stored_once(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    data = os.urandom(17 * MIB)
    upload_id = upload(own_server.http(), data)
    lake.create("a", blobs([data]))
    lake.create("b", blob_cells([{"data": None, "uri": f"upload:{upload_id}"}] * 2))
    assert sum(stored_blobs(own_server).values()) == len(data)
    lake.create("c", blobs([data]))
    assert sum(stored_blobs(own_server).values()) == len(data)
    for table in "abc":
        for cell in lake.read(table, blobs="bytes")["data"].to_pylist():
            assert cell == data


def test_an_upload_that_was_written_takes_no_room_of_its_own(own_server: LakebedServer) -> None:
    """It can be referred to until it expires, and is the same file as the blob by then."""
    data = os.urandom(17 * MIB)
    upload_id = upload(own_server.http(), data)
    cell = blob_cells([{"data": None, "uri": f"upload:{upload_id}"}])
    own_server.lake().create("t", cell)
    assert own_server.stored_bytes() < 18 * MIB
    own_server.lake().create("again", cell)
    assert own_server.lake().read("again", blobs="bytes")["data"][0].as_py() == data
    assert own_server.stored_bytes() < 18 * MIB


@pytest.mark.parametrize("size", [16 * MIB, 16 * MIB + 1], ids=["16 MiB", "one byte more"])
def test_the_border_of_big(own_server: LakebedServer, size: int) -> None:
    own_server.lake().create("t", blobs([os.urandom(size)]))
    assert bool(stored_blobs(own_server)) == (size > 16 * MIB)


# ---- tables that another tool made ----------------------------------------------------------

ADOPTED = """
import sys, lance, pyarrow as pa
cell = pa.struct([pa.field("data", pa.large_binary()), pa.field("uri", pa.string())])
blob = pa.field("data", cell, metadata={"ARROW:extension:name": "lance.blob.v2"})
cells = pa.array([{"data": b"theirs"}], cell)
if sys.argv[2] == "pylance":
    blob, cells = lance.blob.blob_field("data"), lance.blob.blob_array([b"theirs"])
schema = pa.schema([pa.field("id", pa.int64()), blob])
rows = pa.table([pa.array([0]), cells], schema=schema)
lance.write_dataset(rows, sys.argv[1], data_storage_version="2.2", enable_stable_row_ids=True)
"""


def make_outside(server: LakebedServer, table: str, declared: str = "plainly") -> None:
    """A table with one blob, by pylance, with the column declared plainly or as pylance does it."""
    path = server.table_path(table)
    path.parent.mkdir(exist_ok=True)
    program = [sys.executable, "-c", ADOPTED, str(path), declared]
    subprocess.run(program, check=True, timeout=100)


@pytest.mark.parametrize("declared", ["plainly", "pylance"])
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_table_that_was_adopted_takes_big_blobs(
    server: LakebedServer, lake: Lake, table: str, mode: str, declared: str
) -> None:
    make_outside(server, table, declared)
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == [b"theirs"]
    big = [os.urandom(17 * MIB), os.urandom(18 * MIB)]
    on = {"on": ["id"]} if mode == "upsert" else {}
    lake.write(table, blobs([big[0]], start=1), mode, **on)
    second = lake.write(table, blobs([big[1]], start=2), mode, **on)
    answer = lake.read(table, blobs="bytes").sort_by("id")
    assert answer["data"].to_pylist() == [b"theirs", *big]
    # Theirs, the base of big blobs once, and two writes.
    assert second["version"] == 4


def test_a_write_without_blobs_registers_no_base(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    make_outside(server, table)
    assert lake.write(table, pa.table({"id": [1]}))["version"] == 2
