"""Backups and restores that are killed, run out of room or lose their store; and of buckets."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.backup import (
    MIB,
    Make,
    counts,
    examined,
    fails,
    fill,
    ok,
    served,
    told,
    validate,
)
from support.cli import Cli
from support.data import blobs, numbered
from support.faults import small_disk
from support.flight import Lake
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, ServerFailed, built_binary
from support.waiting import wait_until

# ---- cut off ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_killed_run_goes_on(make_server: Make, tmp_path: Path, what: str) -> None:
    """Wherever it is cut off, what is there is no lake, and the next run completes it."""
    server = make_server("first", data=tmp_path / "lake").start()
    lake = server.lake()
    for name in ("a", "b"):
        lake.create(name, blobs([os.urandom(2 * MIB) for _ in range(12)]))
        for i in range(8):
            lake.write(name, blobs([os.urandom(MIB)], start=100 + i))
    lake.write("b", blobs([os.urandom(40 * MIB)], start=500))
    whole = lake.read("b", blobs="bytes")
    assert server.terminate() == 0
    there, back = tmp_path / "there", tmp_path / "back"
    verb = ["backup", "--data", str(tmp_path / "lake"), "--to", str(there)]
    target = there
    if what == "restore":
        ok(tmp_path, *verb)
        verb = ["restore", "--from", str(there), "--data", str(back)]
        target = back
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    running = target / "_lakebed/backup_running.json"
    cut_off = 0
    for wait_s in (0.0, 0.3, 0.2, 0.1, 0.05):
        process = subprocess.Popen(
            [str(built_binary()), *verb], env=environment, stdout=subprocess.DEVNULL
        )
        while not running.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not running.exists():
            # It was done by then: once more from the beginning.
            shutil.rmtree(target)
            continue
        cut_off += 1
        said = fails(tmp_path, "doctor", "--data", str(target), words="")
        assert "cut off" in said or "no lake" in said
        refused = make_server(f"refused-{wait_s}", data=target)
        with pytest.raises(ServerFailed, match="cut off"):
            refused.start()
    assert cut_off > 0, "no kill hit"
    copied = [path for path in (target / "default").rglob("*.lance") if path.is_file()]
    done = ok(tmp_path, *verb)
    assert not copied or counts(done)["files_kept"] + counts(done)["versions_kept"] > 0
    examined(tmp_path, target)
    for name in ("a", "b"):
        validate(target / "default", name)
    shutil.move(tmp_path / "lake", tmp_path / "gone")
    copy = served(make_server, "copy", target, server)
    assert copy.lake().read("b", blobs="bytes").equals(whole)
    assert not [path for path in target.rglob("*#*") if path.is_file()]


def test_a_later_backup_that_was_cut_off_leaves_the_one_before(
    own_server: LakebedServer, tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    own_server.lake().create("t", numbered(5))
    Cli(own_server, tmp_path).json("backup", "--to", str(there))
    record = json.loads((there / "_lakebed/backup.json").read_text())
    running = {**record, "kind": "backup"}
    (there / "_lakebed/backup_running.json").write_text(json.dumps(running))
    done = ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    assert "cut off" in done["notes"][0]
    assert validate(back / "default", "t")[0].equals(numbered(5))


def test_a_full_disk_is_told_and_passes(own_server: LakebedServer, tmp_path: Path) -> None:
    """The target lies on a small file system; with room it goes on where it stopped."""
    own_server.lake().create("t", blobs([os.urandom(3 * MIB) for _ in range(12)]))
    for i in range(3):
        own_server.lake().write("t", numbered(1, start=100 + i).select(["id"]))
    assert own_server.terminate() == 0
    disk = tmp_path / "disk"
    there = disk / "there"
    backup = f"{built_binary()} backup --data {own_server.data} --to {there} --format json"
    script = (
        f"head -c 45M /dev/zero > {disk}/filler; {backup}; echo $?; rm {disk}/filler;"
        f"{backup} > {tmp_path}/second; echo $?; {built_binary()} doctor --data {there}"
    )
    done = subprocess.run(
        [*small_disk(disk, mib=64), "sh", "-c", script],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines()[:2] == ["1", "0"], done.stdout + done.stderr
    assert "disk is full" in done.stderr
    assert "is whole" in done.stdout, done.stdout
    second = json.loads((tmp_path / "second").read_text())
    assert counts(second)["files_kept"] > 0


# ---- buckets ------------------------------------------------------------------------------------


def test_to_a_bucket_and_back(
    store: S3Server, make_server: Make, tmp_path: Path, table: str
) -> None:
    env = store.environment()
    server = make_server("first", data=tmp_path / "lake", env=env).start()
    fill(server)
    before = told(server)
    there = f"s3://{BUCKET}/{table}/backup"
    cli = Cli(server, tmp_path)
    first = cli.json("backup", "--to", there)
    assert counts(first)["bytes_copied"] > 43 * MIB
    second = cli.json("backup", "--to", there)
    assert counts(second)["files_copied"] == counts(second)["versions_copied"] == 0
    assert server.terminate() == 0
    shutil.rmtree(tmp_path / "lake")
    examined(tmp_path, there, env=env)
    back = tmp_path / "back"
    ok(tmp_path, "restore", "--from", there, "--data", str(back), env=env)
    examined(tmp_path, back)
    moved = served(make_server, "second", back, server)
    after = told(moved)
    for what, seen in before.items():
        assert after[what] == seen, what
    assert moved.terminate() == 0
    # From one prefix to another.
    twin = f"s3://{BUCKET}/{table}/twin"
    ok(tmp_path, "restore", "--from", there, "--data", twin, env=env)
    in_bucket = make_server("third", data=twin, env=env, admin_key=server.admin_key).start()
    lake: Lake = in_bucket.lake()
    assert lake.read("ns$in$words").sort_by("id") == before["words 9"]
    cells = lake.read("media", branch="cuts", blobs="bytes")["data"].to_pylist()
    assert [hashlib.sha256(cell).hexdigest() for cell in cells] == before["cuts"]


def stored_bytes(store: S3Server) -> int:
    """What a store's folder takes."""
    total = 0
    for folder, _, names in os.walk(store.work / "s3"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).stat().st_size
    return total


def test_a_store_that_comes_back(make_server: Make, tmp_path: Path) -> None:
    """A bucket that is away for a moment in the middle of a backup does not end it."""
    store = S3Server(tmp_path / "store").start()
    try:
        server = make_server("first", data=tmp_path / "lake").start()
        server.lake().create("t", blobs([os.urandom(6 * MIB)]))
        for i in range(10):
            server.lake().write("t", blobs([os.urandom(6 * MIB)], start=1 + i))
        whole = server.lake().read("t", blobs="bytes")
        assert server.terminate() == 0
        env = store.environment()
        there = f"s3://{BUCKET}/backup"
        verb = ["backup", "--data", str(tmp_path / "lake"), "--to", there, "--format", "json"]
        process = subprocess.Popen(
            [str(built_binary()), *verb],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: stored_bytes(store) > 12 * MIB, "some of the backup")
        store.stop()
        time.sleep(2)
        is_early = process.poll() is not None
        store.start()
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert not is_early, "it was done before the store went"
        assert counts(json.loads(out))["versions_copied"] == 11
        back = tmp_path / "back"
        ok(tmp_path, "restore", "--from", there, "--data", str(back), env=env)
    finally:
        store.stop()
    copy = served(make_server, "copy", back, server)
    assert copy.lake().read("t", blobs="bytes").equals(whole)
