"""Drop and rename while others are at work: a name is free at once, and nothing of one table ever
shows in a later one of its name."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.backup import relocated
from support.data import blobs, bulk, numbered
from support.faults import slow_syncs
from support.flight import Failure, Lake, finish, write_command
from support.raw_flight import RawCall, write_messages
from support.server import LakebedServer
from support.waiting import wait_until

MIB = 1 << 20
FIRST = bulk(3, 1_000)
LATE = bulk(20, MIB, seed=8)  # so much that an upsert puts it into a file


def drop(server: LakebedServer, table: str) -> None:
    server.http().ok("POST", f"/v1/table/{table}/drop")


def open_files(server: LakebedServer) -> list[str]:
    """What the server has open of its lake besides the lock."""
    found = []
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return [path for path in found if path.startswith(str(server.data)) and "lock" not in path]


def half_sent(server: LakebedServer, lake: Lake, mode: str) -> Any:
    """A DoPut to `t` whose rows the server has begun to write, and whose end is to come."""
    fields = {"on": ["id"]} if mode == "upsert" else {}
    stream = lake.begin(write_command("t", mode, write_id="late", **fields), LATE.schema)
    stream[0].write_batch(LATE.to_batches()[0])
    wait_until(lambda: open_files(server), "the files of the write")
    return stream


def check_refused(lake: Lake, stream: Any) -> None:
    """The end of a write has to say that its table is gone."""
    with pytest.raises(Failure) as caught:
        print("not refused:", finish(*stream))
    kind = lake.received.get("x-lakebed-error-kind")
    assert kind in {"not_found", "conflict"}, f"{kind}: {caught.value}"


# ---- drop and rename under a write -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_write_that_ends_after_its_table_was_dropped(
    own_server: LakebedServer, mode: str
) -> None:
    """It is refused, no ghost of the table appears, and the name is free."""
    lake = own_server.lake()
    lake.create("t", FIRST)
    stream = half_sent(own_server, lake, mode)
    drop(own_server, "t")
    check_refused(lake, stream)
    lake = own_server.lake()
    with lake.refuses("not_found"):
        lake.read("t")
    assert lake.tables() == []
    own_server.restart()
    assert own_server.files("default") == {}, "what the write left went with the table"
    lake = own_server.lake()
    with lake.refuses("not_found"):
        lake.read("t")
    assert lake.create("t", numbered(4))["version"] == 1
    assert lake.read("t").equals(numbered(4))


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_write_that_ends_after_its_name_went_to_another_table(
    own_server: LakebedServer, mode: str
) -> None:
    """It is refused; the new table has its own rows and no version that it did not make."""
    lake, other = own_server.lake(), own_server.lake()
    lake.create("t", FIRST)
    stream = half_sent(own_server, lake, mode)
    drop(own_server, "t")
    fresh = bulk(5, 2_000, seed=9)
    assert other.create("t", fresh)["version"] == 1
    check_refused(lake, stream)
    assert other.read("t").equals(fresh)
    with other.refuses("not_found"):
        other.read("t", version=2)
    assert other.write("t", fresh)["version"] == 2
    own_server.restart()
    other = own_server.lake()
    assert other.read("t").equals(pa.concat_tables([fresh, fresh]))
    # The id of the write that never happened is free, also in the new table.
    assert other.write("t", LATE, write_id="late")["version"] == 3


def test_a_write_that_ends_after_its_table_was_renamed(own_server: LakebedServer) -> None:
    """A rename moves nothing: the write goes to the table that it was begun on, or is refused."""
    lake, other = own_server.lake(), own_server.lake()
    lake.create("t", FIRST)
    stream = half_sent(own_server, lake, "append")
    own_server.http().ok("POST", "/v1/table/t/rename", {"new_table_name": "u"})
    fresh = numbered(5)
    other.create("t", fresh)
    try:
        receipt = finish(*stream)
    except Failure:
        assert lake.received["x-lakebed-error-kind"] in {"not_found", "conflict"}
        assert other.read("u").equals(FIRST)
    else:
        assert receipt["version"] == 2
        assert other.read("u").equals(pa.concat_tables([FIRST, LATE]))
    assert other.read("t").equals(fresh)


def test_an_old_write_never_comes_into_a_new_table(own_server: LakebedServer) -> None:
    """A write that was opened on a table and sends its rows after the name went to another one."""
    lake = own_server.lake()
    lake.create("t", numbered(10))
    late = numbered(5, start=100)
    messages = write_messages("t", late)
    call = RawCall(own_server.flight_address, own_server.admin_key).send(messages[:1])
    call.ping()
    drop(own_server, "t")
    assert lake.create("t", numbered(3))["version"] == 1
    trailers = call.send(messages[1:]).end().finish()
    assert trailers.get("x-lakebed-error-kind") in {"not_found", "conflict"}, trailers
    assert lake.read("t").equals(numbered(3))
    with lake.refuses("not_found"):
        lake.read("t", version=2)
    assert lake.write("t", numbered(1, start=3))["version"] == 2
    assert lake.read("t").equals(numbered(4))
    lance.dataset(str(own_server.table_path("t"))).validate()


@pytest.mark.parametrize("name_is_taken", [False, True], ids=["free", "taken"])
def test_a_drop_between_the_rows_and_the_commit_of_an_append(
    make_server: Any, name_is_taken: bool
) -> None:
    """The rows are written and being synced when the table goes: no version of it may come back."""
    server = make_server().start()
    server.lake().create("t", numbered(10))
    assert server.terminate() == 0
    server.wrapper = slow_syncs(server.table_path("t") / "data", 2_000)
    server.start()
    lake, other = server.lake(), server.lake()
    before = set(server.files("default"))

    def written() -> bool:
        new = set(server.files("default")) - before
        return any(path.endswith(".lance") for path in new)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(lake.write, "t", numbered(5, start=100))
        wait_until(written, "the file of the append")
        drop(server, "t")
        if name_is_taken:
            assert other.create("t", numbered(3))["version"] == 1
        with pytest.raises(Failure):
            print("not refused:", pending.result(60))
    assert lake.received["x-lakebed-error-kind"] in {"not_found", "conflict"}
    server.restart()
    other = server.lake()
    if name_is_taken:
        assert other.read("t").equals(numbered(3))
        with other.refuses("not_found"):
            other.read("t", version=2)
    else:
        with other.refuses("not_found"):
            other.read("t")
        assert other.tables() == []
        assert other.create("t", numbered(3))["version"] == 1


# ---- drop under a read ----------------------------------------------------------------------


def test_a_reader_of_a_dropped_table_reads_to_its_end(own_server: LakebedServer) -> None:
    """What a stream has begun it finishes, while the name belongs to another table already; once
    nobody holds it, the folder goes."""
    lake = own_server.lake()
    rows = bulk(6_000, 16_384)
    lake.create("t", rows.to_batches(max_chunksize=1_000), schema=rows.schema)
    endpoints = lake.info("t").endpoints
    streams = [lake.stream(endpoint.ticket) for endpoint in endpoints]
    firsts = [stream.read_chunk().data for stream in streams]
    folder = own_server.table_path("t")
    drop(own_server, "t")
    other = own_server.lake()
    with other.refuses("not_found"):
        other.read("t")
    assert other.tables() == []
    other.create("t", numbered(3))
    parts = []
    for first, stream in zip(firsts, streams, strict=True):
        parts += [first, *stream.read_all().to_batches()]
    assert pa.Table.from_batches(parts).equals(rows)
    assert other.read("t").equals(numbered(3))
    # A restart forgets the tickets.
    own_server.restart()
    assert own_server.lake().read("t").equals(numbered(3))
    wait_until(lambda: sum(own_server.files("default").values()) < MIB, "the dropped folder's end")
    held = [path for path in folder.parent.iterdir() if path.is_dir()]
    assert len(held) == 1, held


# ---- numbered folders -----------------------------------------------------------------------


def check_both(server: LakebedServer, t: list[bytes], u: list[bytes]) -> None:
    lake = server.lake()
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == t
    assert lake.read("u", blobs="bytes")["data"].to_pylist() == u
    for name in ("t", "u"):
        location = server.http().ok("GET", f"/v1/table/{name}/show").json()["location"]
        path = Path(location)
        lance.dataset(str(path if path.is_absolute() else Path(server.data) / path)).validate()


def test_a_name_that_was_renamed_away_is_made_again(
    own_server: LakebedServer, make_server: Any, tmp_path: Path
) -> None:
    """The new table lies in a numbered folder; both keep their rows and large blobs through
    appends, upserts, a restart and a move of the lake."""
    lake, http = own_server.lake(), own_server.http()
    big, bigger = os.urandom(17 * MIB), os.urandom(18 * MIB)
    lake.create("t", blobs([b"old", big]))
    http.ok("POST", "/v1/table/t/rename", {"new_table_name": "u"})
    assert lake.create("t", blobs([b"new", bigger]))["version"] == 1
    assert (Path(own_server.data) / "default/t.lance").is_dir()
    assert (Path(own_server.data) / "default/t~2.lance").is_dir()
    check_both(own_server, [b"new", bigger], [b"old", big])
    lake.write("t", blobs([big, b"y"], start=2))
    lake.write("u", blobs([bigger], start=2))
    lake.upsert("t", blobs([b"Y"], start=3), ["id"])
    t, u = [b"new", bigger, big, b"Y"], [b"old", big, bigger]
    check_both(own_server, t, u)
    http.ok("POST", "/v1/table/t/tags/create", {"tag": "gold", "version": 1})
    own_server.restart()
    check_both(own_server, t, u)
    moved = relocated(make_server, own_server, tmp_path / "there")
    check_both(moved, t, u)
    tagged = moved.lake().read("t", tag="gold", blobs="bytes")
    assert tagged["data"].to_pylist() == [b"new", bigger]
    moved.http().ok("POST", "/v1/table/u/drop")
    lake = moved.lake()
    assert lake.tables() == ["t"]
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == t
    assert lake.create("u", numbered(2))["version"] == 1


def test_an_overwrite_that_brings_a_blob_column(own_server: LakebedServer) -> None:
    """A table without blobs gets some, large ones too; the version before stays as it was."""
    lake = own_server.lake()
    lake.create("t", numbered(5))
    cells = [b"small", os.urandom(17 * MIB), os.urandom(100_000), None]
    receipt = lake.write("t", blobs(cells), "overwrite", write_id="w")
    assert receipt["rows"] == 4
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == cells
    assert lake.read("t", version=1).equals(numbered(5))
    assert lake.read("t", version=receipt["version"], blobs="bytes").num_rows == 4
    row_id = lake.read("t", columns=["_rowid", "id"], filter="id = 1")["_rowid"][0].as_py()
    url = f"/v1/table/t/blob/data/{row_id}/bytes"
    part = own_server.http().get(url, range="bytes=17000000-17000009")
    assert part.body == cells[1][17_000_000:17_000_010]
    assert lake.write("t", blobs(cells), "overwrite", write_id="w") == receipt
    own_server.restart()
    lake = own_server.lake()
    assert lake.read("t", blobs="bytes")["data"].to_pylist() == cells
    lake.write("t", blobs([cells[1]], start=9))
    dataset = lance.dataset(str(own_server.table_path("t")))
    dataset.validate()
    assert dataset.take_blobs("data", indices=[1])[0].read() == cells[1]
    back = lake.write("t", numbered(2), "overwrite")
    assert lake.read("t").equals(numbered(2))
    assert back["version"] == dataset.version + 1
