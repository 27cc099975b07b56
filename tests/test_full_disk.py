"""A disk that is full: a clear refusal of what needs room, reads as before, and full recovery.

The lake lies on a small file system that only the server sees; a file of the test's takes its room
away and gives it back.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.data import blob_cells, blobs, bulk, numbered
from support.faults import small_disk
from support.flight import Failure, Lake
from support.http import Response
from support.server import LakebedServer
from support.small_lake import PAGE, SmallLake

MIB = 1 << 20


@pytest.fixture
def small(make_server: Callable[..., LakebedServer]) -> Iterator[SmallLake]:
    server = make_server()
    server.wrapper = small_disk(Path(server.data), mib=96)
    server.start()
    server.expect_log("full|No space left|audit|store|storage")
    yield SmallLake(server)
    assert server.running, "the server lives on"


def refused(answer: Response) -> None:
    """An HTTP refusal that can be tried again later."""
    assert answer.status == 503, f"{answer.status}: {answer.text}"
    assert answer.headers["x-lakebed-error-kind"] == "unavailable"
    assert answer.json()["error"]


def claim_of(data: bytes) -> dict[str, Any]:
    """What completes an upload of these bytes."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert", "create"])
@pytest.mark.parametrize("left", [0, 2 * MIB], ids=["nothing left", "2 MiB left"])
def test_a_write_that_does_not_fit(small: SmallLake, mode: str, left: int) -> None:
    """Refused, invisible and without leftovers; the same write succeeds once there is room."""
    lake = small.server.lake()
    lake.create("t", bulk(10, 1_000))
    before, table = lake.read("t"), "new" if mode == "create" else "t"
    files = small.files()
    fields = {"on": ["id"]} if mode == "upsert" else {}
    rows = bulk(12, MIB, seed=8)

    def write() -> dict[str, Any]:
        return lake.write(table, rows, mode, write_id="once", **fields)

    small.fill(leave=left)
    with lake.refuses("unavailable", "full"):
        write()
    assert lake.read("t").equals(before)
    with lake.refuses("not_found"):
        lake.read(table, version=2)
    assert lake.tables() == ["t"]
    assert small.files() == files, "what was written of it is gone"
    small.free()
    receipt = write()
    assert (receipt["version"], receipt["rows"]) == (1 if mode == "create" else 2, 12)
    expected = {"append": 22, "upsert": 12, "overwrite": 12, "create": 12}[mode]
    assert lake.count(table) == expected
    assert write() == receipt
    lance.dataset(str(small.root / f"default/{table}.lance")).validate()


def test_small_changes_on_a_disk_with_no_room_at_all(small: SmallLake) -> None:
    """Tags, deletions, drops of files' names and tiny appends: refused or done, never half."""
    lake, http = small.server.lake(), small.server.http()
    lake.create("t", numbered(100))
    http.ok("POST", "/v1/table/t/tags/create", {"tag": "before", "version": 1})
    small.fill()
    with lake.refuses("unavailable", "full"):
        lake.write("t", numbered(1, start=100))
    refused(http.post("/v1/table/t/delete", {"predicate": "id < 10"}))
    refused(http.post("/v1/table/t/tags/create", {"tag": "during", "version": 1}))
    refused(http.post("/v1/table/t/restore", {"version": 1}))
    refused(http.post("/v1/table/t/rename", {"new_table_name": "u"}))
    refused(http.post("/v1/uploads"))
    refused(http.post("/v1/keys", {"name": "x", "role": "read"}))
    assert lake.read("t").equals(numbered(100))
    assert lake.read("t", tag="before").equals(numbered(100))
    assert list(http.ok("POST", "/v1/table/t/tags/list").json()["tags"]) == ["before"]
    assert http.get("/livez").status == 200
    assert lake.tables() == ["t"]
    assert len(http.ok("GET", "/v1/keys").json()["keys"]) == 1
    small.free()
    assert lake.write("t", numbered(1, start=100))["version"] == 2
    http.ok("POST", "/v1/table/t/delete", {"predicate": "id < 10"})
    http.ok("POST", "/v1/table/t/tags/create", {"tag": "during", "version": 1})
    http.ok("POST", "/v1/table/t/rename", {"new_table_name": "u"})
    assert lake.count("u") == 91
    assert http.get("/readyz").status == 200


def test_a_drop_makes_room_on_a_full_disk(small: SmallLake) -> None:
    """The way out that a person tries first."""
    lake, http = small.server.lake(), small.server.http()
    lake.create("big", bulk(40, MIB))
    lake.create("t", numbered(1))
    # The audit log takes a page of it for every second that this goes on.
    small.fill(leave=PAGE * 32)
    with lake.refuses("unavailable", "full"):
        lake.write("t", bulk(8, MIB), "overwrite")
    http.ok("POST", "/v1/table/big/drop")
    assert lake.write("t", bulk(8, MIB), "overwrite")["version"] == 2
    assert lake.tables() == ["t"]


def test_an_upload_that_does_not_fit(small: SmallLake) -> None:
    """A PUT is refused and what was acknowledged before stays; complete is refused and can be
    asked again; the blob is whole in the end."""
    lake, http = small.server.lake(), small.server.http()
    data = os.urandom(24 * MIB)
    upload = http.ok("POST", "/v1/uploads").json()["id"]
    url = f"/v1/uploads/{upload}"
    http.ok("PUT", f"{url}?offset=0", data[: 8 * MIB])
    small.fill(leave=4 * MIB)
    refused(http.request("PUT", f"{url}?offset={8 * MIB}", data[8 * MIB :]))
    offset = http.ok("GET", url).json()["offset"]
    assert 8 * MIB <= offset <= 12 * MIB, offset
    small.free()
    assert http.ok("PUT", f"{url}?offset={offset}", data[offset:]).json()["offset"] == len(data)
    small.fill()
    refused(http.post(f"{url}/complete", claim_of(data)))
    assert http.ok("GET", url).json()["offset"] == len(data), "all of it is there"
    small.free()
    http.ok("POST", f"{url}/complete", claim_of(data))
    lake.create("t", blob_cells([{"data": None, "uri": f"upload:{upload}"}]))
    assert lake.read("t", blobs="bytes")["data"][0].as_py() == data


def test_a_large_blob_in_a_batch_that_does_not_fit(small: SmallLake) -> None:
    """A blob that goes beside the table is refused like the rest, and another time it is stored."""
    lake = small.server.lake()
    lake.create("t", blobs([b"small"]))
    data = os.urandom(20 * MIB)
    small.fill(leave=6 * MIB)
    with lake.refuses("unavailable", "No space left"):
        lake.write("t", blobs([data], start=1))
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == [b"small"]
    assert small.files("_blobs") == {}
    small.free()
    lake.write("t", blobs([data], start=1))
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == [b"small", data]


def test_reads_go_on_while_writes_are_refused(small: SmallLake) -> None:
    """Every refused write is followed by a read of all rows, over a disk that stays full."""
    lake = small.server.lake()
    rows = pa.concat_tables([bulk(100, 10_000)] * 2)
    lake.create("t", rows)
    small.fill()

    def is_refused(lake: Lake) -> bool:
        try:
            lake.write("t", bulk(3, MIB))
        except Failure:
            return lake.received["x-lakebed-error-kind"] == "unavailable"
        return False

    for _ in range(10):
        assert is_refused(lake)
        assert lake.read("t").equals(rows)
    small.free()
    assert lake.write("t", bulk(3, MIB))["version"] == 2


def test_a_refusal_over_http_says_that_the_disk_is_full(small: SmallLake) -> None:
    """A clear error: a person who reads it knows that room is missing and nothing is broken."""
    small.server.lake().create("t", numbered(100))
    http = small.server.http()
    upload = http.ok("POST", "/v1/uploads").json()["id"]
    small.fill()
    answers = {
        "rename": http.post("/v1/table/t/rename", {"new_table_name": "u"}),
        "upload": http.request("PUT", f"/v1/uploads/{upload}?offset=0", bytes(MIB)),
        "new upload": http.post("/v1/uploads"),
        "key": http.post("/v1/keys", {"name": "x", "role": "read"}),
        "tag": http.post("/v1/table/t/tags/create", {"tag": "x", "version": 1}),
        "restore": http.post("/v1/table/t/restore", {"version": 1}),
        "delete": http.post("/v1/table/t/delete", {"predicate": "id < 10"}),
    }
    texts = {verb: answer.json()["error"] for verb, answer in answers.items()}
    assert all(answer.status == 503 for answer in answers.values()), texts
    unclear = {v: t for v, t in texts.items() if "full" not in t and "No space left" not in t}
    assert not unclear, unclear
