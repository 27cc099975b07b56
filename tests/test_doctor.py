"""`lakebed doctor`: what it says of a whole lake, of a broken one, and of none."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from support.backup import fill
from support.data import blob_cells, numbered
from support.server import LakebedServer, built_binary
from support.uploads import new_upload, upload


def doctor(data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs it on a lake."""
    command = [str(built_binary()), "doctor", "--data", str(data), *more]
    # A small environment: the binary refuses variables of the tests' own.
    environment = {"PATH": os.environ["PATH"], "HOME": str(data.parent)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def findings(data: Path, *more: str) -> list[dict[str, Any]]:
    """What it found, as it says it to programs."""
    return json.loads(doctor(data, "--format", "json", *more).stdout)["findings"]


def test_a_whole_lake(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server().start()
    lake = server.lake()
    field = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    rows = pa.table([[bytes(20 << 20)]], schema=pa.schema([field]))
    lake.create("blobs", rows)
    lake.create("ns$words", pa.table({"n": [1, 2, 3]}))
    held = doctor(server.data)
    assert held.returncode == 1
    assert "another server holds the lake" in held.stderr
    server.terminate()
    seen = doctor(server.data)
    assert seen.returncode == 0, seen.stderr
    assert "default/blobs: version 1, 1 rows: whole" in seen.stdout
    assert "default/ns$words: version 1, 3 rows: whole" in seen.stdout
    assert seen.stdout.rstrip().endswith("is whole")


def test_what_is_missing_is_named(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server().start()
    lake = server.lake()
    field = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    lake.create("blobs", pa.table([[bytes(20 << 20)]], schema=pa.schema([field])))
    lake.create("fine", pa.table({"n": [1, 2, 3]}))
    lake.create("gone", pa.table({"n": [1, 2, 3]}))
    lake.write("gone", pa.table({"n": [4]}))
    server.terminate()
    (blob,) = (path for path in (server.data / "_blobs").rglob("*") if path.is_file())
    blob.unlink()
    next((server.table_path("gone") / "data").glob("*.lance")).unlink()
    for stray in ("default/stray.lance", "default/ns/in/stray.lance"):
        (server.data / stray).mkdir(parents=True)
        (server.data / stray / "a").write_bytes(b"a")

    seen = doctor(server.data)
    assert seen.returncode == 1
    found = {it["subject"]: it for it in findings(server.data)}
    assert found["default/blobs"]["severity"] == "problem"
    assert blob.name in found["default/blobs"]["text"]
    assert found["default/gone"]["severity"] == "problem"
    assert "1 of the files of version 2" in found["default/gone"]["text"]
    assert found["default/fine"]["severity"] == "fine"
    assert found["default/stray.lance"]["severity"] == "note"
    assert found["default/ns/in/stray.lance"]["severity"] == "note"
    assert "has 2 problems" in seen.stdout


def test_uploads_that_wait(make_server: Callable[..., LakebedServer]) -> None:
    """Only those that no row refers to yet are worth a word."""
    server = make_server().start()
    http, lake = server.http(), server.lake()
    data = bytes(17 << 20)
    upload_id = upload(http, data)
    lake.create("used", blob_cells([{"data": None, "uri": f"upload:{upload_id}"}]))
    server.terminate()
    assert [it["subject"] for it in findings(server.data)] == ["default/used"]
    http = server.start().http()
    http.ok("PUT", f"{new_upload(http)}?offset=0", b"123")
    server.terminate()
    (waits,) = (it for it in findings(server.data) if it["subject"] == "uploads")
    assert waits["severity"] == "note"
    assert waits["text"].startswith("3 bytes")


def test_no_lake_is_made_by_looking(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        seen = doctor(path)
        assert seen.returncode == 1
        assert "there is no lake" in seen.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor_reads_bytes_when_asked(own_server: LakebedServer) -> None:
    fill(own_server)
    assert own_server.terminate() == 0
    found = findings(own_server.data, "--deep")
    assert not [it for it in found if it["severity"] == "problem"]
    said = {it["subject"]: it["text"] for it in found if it["severity"] == "fine"}
    assert said["_blobs"].startswith("2 large blobs")
    assert any("lookups find the rows" in it["text"] for it in found)
    blob = next(path for path in (own_server.data / "_blobs").rglob("*") if path.is_file())
    with blob.open("r+b") as file:
        file.write(b"flipped")
    old = own_server.table_path("ns$in$words") / "data"
    damaged = max(old.glob("*.lance"), key=lambda path: path.stat().st_size)
    with damaged.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(bytes(20))
    problems = [it for it in findings(own_server.data, "--deep") if it["severity"] == "problem"]
    assert any(it["subject"].endswith(blob.name) for it in problems)
    assert any(damaged.name in it["text"] for it in problems)


def test_doctor_counts_strays_and_deletes_half_written_files(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(5))
    assert own_server.terminate() == 0
    data = own_server.table_path("t") / "data"
    (data / "left.lance").write_bytes(b"x" * 1_000)
    half = data / "half.lance#1"
    half.write_bytes(b"x" * 500)
    said = {it["subject"]: it["text"] for it in findings(own_server.data)}
    assert said["default/t"].startswith("1 files of 1000 bytes that no version names")
    assert said["leftovers"].startswith("1 half-written files of 500 bytes")
    assert half.exists()
    said = {it["subject"]: it["text"] for it in findings(own_server.data, "--repair")}
    assert said["leftovers"].endswith("deleted")
    assert not half.exists()
    assert (data / "left.lance").exists()
    assert "leftovers" not in {it["subject"] for it in findings(own_server.data)}
