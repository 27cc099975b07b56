"""Acknowledged is durable: the order of system calls around a write, read from a trace.

data files: written, synced
their directories: synced
manifest: synced, then linked into _versions/ (or linked, then synced)
_versions/: synced
answer: sent
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.data import blob_cells, blobs, bulk, numbered
from support.flight import write_command
from support.server import LakebedServer
from support.trace import STRACE, Trace

MIB = 1 << 20

# Files that only save a listing when they are there; a reader does not trust them.
HINTS = {"latest_version_hint.json"}
TRANSACTIONS = "/_transactions/"


@pytest.fixture
def traced(make_server: Callable[..., LakebedServer], tmp_path: Path) -> Iterator[LakebedServer]:
    """A server under strace, which writes to `trace` in its work folder."""
    trace = tmp_path / "trace"
    return make_server(wrapper=[*STRACE, f"--output={trace}"]).start()


def table_files(server: LakebedServer) -> set[str]:
    """The files of tables and blobs, as absolute paths."""
    root = Path(server.data).resolve()
    below = {*server.files("default"), *server.files("_blobs")}
    return {str(root / path) for path in below if Path(path).name not in HINTS}


def check_durable(
    server: LakebedServer, before: set[str], answer: str, synced_directories: int = 1
) -> None:
    """Ends the server and checks the order for every file that came since `before`."""
    made = table_files(server) - before
    assert server.terminate() == 0
    trace = Trace(server.work.parent / "trace")
    sent = trace.answer(answer)
    manifests = {path for path in made if "/_versions/" in path}
    made -= copied_into(made, manifests)
    assert len(manifests) == 1, manifests
    committed = trace.arrival(next(iter(manifests)))
    assert committed.ended < sent.began, "committed after the answer"
    for path in sorted(made):
        deadline = sent if path in manifests else committed
        last_write = trace.last_write(path)
        assert last_write is not None, f"{path} was never written"
        synced = [
            call
            for call in trace.syncs(path)
            if call.began > last_write.ended and call.ended < deadline.began
        ]
        assert synced, f"{path} was not synced before {deadline.text[:200]}"
        entry = path
        for _ in range(synced_directories):
            directory = str(Path(entry).parent)
            arrived = trace.arrival(entry)
            entries = [
                call
                for call in trace.syncs(directory)
                if call.began > arrived.ended and call.ended < sent.began
            ]
            assert entries, f"the directory {directory} was not synced after {entry} came"
            if path not in manifests:
                assert any(call.ended < committed.began for call in entries), (
                    f"the directory {directory} was synced only after the commit"
                )
            entry = directory


def copied_into(made: set[str], manifests: set[str]) -> set[str]:
    """The transaction files whose contents stand whole in a manifest, from where readers take them.
    Such a file may be lost, and nothing is lost with it."""
    texts = [Path(path).read_bytes() for path in manifests]
    transactions = {path for path in made if TRANSACTIONS in path}
    copied = {path for path in transactions if any(Path(path).read_bytes() in t for t in texts)}
    assert all(Path(path).read_bytes() for path in copied)
    return copied


def receipt_text(receipt: dict[str, object]) -> str:
    """The beginning of a receipt as it stands on the wire."""
    return json.dumps({"version": receipt["version"]}, separators=(",", ":")).rstrip("}")


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_write_is_synced_before_its_answer(traced: LakebedServer, mode: str) -> None:
    lake = traced.lake()
    lake.create("t", numbered(10))
    before = table_files(traced)
    fields = {"on": ["id"]} if mode == "upsert" else {}
    receipt = lake.write("t", numbered(1_000, start=5), mode, write_id="w", **fields)
    check_durable(traced, before, receipt_text(receipt))


CHANGES = {
    "update": {"updates": [["name", "upper(name)"]], "predicate": "id > 3"},
    "add_columns": {"new_columns": [{"name": "twice", "expression": "id * 2"}]},
    "alter_columns": {"alterations": [{"path": "id", "data_type": "int32"}]},
    "drop_columns": {"columns": ["name"]},
}


@pytest.mark.parametrize("verb", CHANGES)
def test_a_change_of_columns_is_synced_before_its_answer(traced: LakebedServer, verb: str) -> None:
    traced.lake().create("t", numbered(1_000))
    before = table_files(traced)
    answer = traced.http().ok("POST", f"/v1/table/t/{verb}/", CHANGES[verb])
    assert answer.json()["version"] == 2
    check_durable(traced, before, '"version":2')


def test_a_new_table_is_synced_up_to_the_root(traced: LakebedServer) -> None:
    """The directories above a new table are new entries too, and have to outlive a power cut."""
    receipt = traced.lake().create("ns$t", numbered(1_000))
    # data/FILE: data, ns/t.lance, ns, default, and the root itself
    check_durable(traced, set(), receipt_text(receipt), synced_directories=5)


def test_a_large_write_is_synced(traced: LakebedServer) -> None:
    lake = traced.lake()
    lake.create("t", bulk(1, 10))
    before = table_files(traced)
    receipt = lake.write("t", bulk(3_000, 10_000))
    check_durable(traced, before, receipt_text(receipt))


def test_blobs_are_synced_wherever_they_lie(traced: LakebedServer) -> None:
    """Inline, packed, dedicated, and under _blobs/."""
    lake = traced.lake()
    lake.create("t", blobs([b"first"]))
    before = table_files(traced)
    cells = [b"x", os.urandom(100 << 10), os.urandom(5 * MIB), os.urandom(17 * MIB)]
    receipt = lake.write("t", blobs(cells, start=1))
    made = table_files(traced) - before
    assert any(path.endswith(".blob") for path in made)
    assert any("/_blobs/" in path for path in made)
    check_durable(traced, before, receipt_text(receipt))


def test_an_upload_is_synced_before_it_is_complete(traced: LakebedServer) -> None:
    """What is referred to later was durable when the upload was acknowledged."""
    data = os.urandom(17 * MIB)
    http = traced.http()
    upload_id = http.ok("POST", "/v1/uploads").json()["id"]
    http.ok("PUT", f"/v1/uploads/{upload_id}?offset=0", data)
    claim = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    http.ok("POST", f"/v1/uploads/{upload_id}/complete", claim)
    lake = traced.lake()
    lake.create("t", blobs([b"first"]))
    before = {path for path in table_files(traced) if "/_blobs/" not in path}
    cell = blob_cells([{"data": None, "uri": f"upload:{upload_id}"}], start=1)
    receipt = lake.write("t", cell)
    check_durable(traced, before, receipt_text(receipt))


def test_grouped_writes_are_each_synced(traced: LakebedServer) -> None:
    """A commit of several appends syncs the files of all of them before the first answer."""
    lake = traced.lake()
    lake.create("t", numbered(1))
    before = table_files(traced)
    writers = [traced.lake() for _ in range(8)]
    pending = []
    for i, writer in enumerate(writers):
        stream, reader = writer.begin(write_command("t"), numbered(1).schema)
        stream.write_table(numbered(10, start=10 * i))
        pending.append((stream, reader))
    for stream, _ in pending:
        stream.done_writing()
    for stream, reader in pending:
        assert reader.read() is not None
        stream.close()
    made = table_files(traced) - before
    assert traced.terminate() == 0
    trace = Trace(traced.work.parent / "trace")
    for manifest in (path for path in made if "/_versions/" in path):
        committed = trace.arrival(manifest)
        for path in (path for path in made if "/data/" in path):
            if trace.arrival(path).ended < committed.began:
                synced = [c for c in trace.syncs(path) if c.ended < committed.began]
                last_write = trace.last_write(path)
                assert last_write is not None
                assert last_write.ended > committed.began or synced, path


def test_a_trace_that_shows_a_missing_sync_is_caught(tmp_path: Path) -> None:
    """The reader of traces itself: unfinished calls, renames, and the absence of a sync."""
    trace = tmp_path / "trace"
    trace.write_text(
        '7 openat(AT_FDCWD, "/l/data/.tmp1", O_WRONLY|O_CREAT, 0666) = 9</l/data/.tmp1>\n'
        '7 write(9</l/data/.tmp1>, "x", 1) = 1\n'
        "7 fsync(9</l/data/.tmp1> <unfinished ...>\n"
        '8 write(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "early {\\"version\\":1", 9) = 9\n'
        "7 <... fsync resumed>) = 0\n"
        '7 rename("/l/data/.tmp1", "/l/data/a.lance") = 0\n'
        "7 fsync(9</l/data/b.lance>) = -1 EIO (Input/output error)\n"
    )
    found = Trace(trace)
    assert found.former_names("/l/data/a.lance") == {"/l/data/a.lance", "/l/data/.tmp1"}
    synced = found.syncs("/l/data/a.lance")
    assert [(call.began, call.ended) for call in synced] == [(2, 4)]
    assert found.answer('{"version":1').began == 3
    assert synced[0].ended > found.answer('{"version":1').began
    assert found.arrival("/l/data/a.lance").began == 5
    assert found.syncs("/l/data/b.lance") == []
