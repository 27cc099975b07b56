"""Backups and restores: complete, incremental, beside a running server, and refused where they
would do harm."""

import datetime as dt
import hashlib
import json
import os
import re
import shlex
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import pyarrow as pa
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
from support.data import blobs, bulk, numbered
from support.pages import commands, run_command
from support.readme import ROOT
from support.server import LakebedServer
from support.waiting import wait_until


@pytest.fixture
def filled(make_server: Make, tmp_path: Path) -> LakebedServer:
    """A running server on a lake with everything."""
    server = make_server("first", data=tmp_path / "lake").start()
    fill(server)
    return server


# ---- a whole lake -------------------------------------------------------------------------------


def test_a_lake_goes_there_and_back(
    filled: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    before = told(filled)
    assert filled.terminate() == 0
    lake, there, back = tmp_path / "lake", tmp_path / "there", tmp_path / "back"
    planned = ok(tmp_path, "backup", "--data", str(lake), "--to", str(there), "--dry-run")
    assert not there.exists()
    assert planned["dry_run"] is True
    done = ok(tmp_path, "backup", "--data", str(lake), "--to", str(there))
    assert done["incremental"] is False
    assert counts(done)["files_copied"] == counts(planned)["files_copied"] > 10
    assert counts(done)["bytes_copied"] > 43 * MIB
    assert counts(done)["tables"] == 5
    record = json.loads((there / "_lakebed/backup.json").read_text())
    assert record["is_whole_lake"] is True
    assert record["source"] == str(lake)
    words = next(table for table in record["tables"] if table["table"] == "ns$in$words")
    assert [branch["branch"] for branch in words["branches"]] == [None, "exp"]
    assert (words["branches"][0]["oldest"], words["branches"][0]["newest"]) == (1, 9)
    assert not (there / "_lakebed/backup_running.json").exists()
    assert not (there / "_lakebed/uploads").exists()
    examined(tmp_path, there)
    restored = ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    assert counts(restored)["bytes_copied"] == counts(done)["bytes_copied"]
    # Nothing leads back to where it came from.
    shutil.rmtree(lake)
    shutil.move(there, tmp_path / "elsewhere")
    examined(tmp_path, back)
    for table in ("media", "ns/in/words", "renamed_from"):
        validate(back / "default", table)
    validate(back / "default", "ns/in/words", "exp")
    second = served(make_server, "second", back, filled)
    after = told(second)
    assert after.keys() == before.keys()
    for what, seen in before.items():
        assert after[what] == seen, what
    # Writes that were acknowledged are known; new ones go on.
    again = second.lake()
    assert again.write("ns$in$words", numbered(100, start=1_000), write_id="w-1")["version"] == 2
    assert again.write("ns$in$words", numbered(1, start=90_000))["version"] == 10
    assert again.write("ns$in$words", numbered(1), branch="exp")["version"] >= 4
    assert not (back / "_lakebed/backup.json").exists()


def test_the_second_time_only_what_is_new(
    filled: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    cli = Cli(filled, tmp_path)
    first = cli.json("backup", "--to", str(there))
    second = cli.json("backup", "--to", str(there))
    assert second["incremental"] is True
    assert counts(second)["files_copied"] == counts(second)["versions_copied"] == 0
    assert counts(second)["versions_kept"] == counts(first)["versions_copied"]
    assert counts(second)["records_written"] < 10
    lake, http = filled.lake(), filled.http()
    lake.write("ns$in$words", numbered(10, start=200_000))
    http.ok("POST", "/v1/table/ns$in$words/tags/create", {"tag": "late", "version": 10})
    http.ok("POST", "/v1/table/ns$in$words/tags/delete", {"tag": "gold"})
    large = os.urandom(18 * MIB)
    lake.create("more", blobs([large]))
    third = cli.json("backup", "--to", str(there))
    assert counts(third)["versions_copied"] == 2
    # A data file and a transaction of each, and one blob.
    assert 3 <= counts(third)["files_copied"] <= 6
    assert 18 * MIB < counts(third)["bytes_copied"] < 19 * MIB
    examined(tmp_path, there)
    assert filled.terminate() == 0
    copy = served(make_server, "copy", there, filled)
    assert copy.lake().read("more", blobs="bytes")["data"].to_pylist() == [large]
    tags = copy.http().ok("POST", "/v1/table/ns$in$words/tags/list").json()["tags"]
    assert set(tags) == {"late"}


def test_a_backup_that_is_served_is_a_lake_of_its_own(
    own_server: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    own_server.lake().create("t", numbered(5))
    there = tmp_path / "there"
    cli = Cli(own_server, tmp_path)
    cli.json("backup", "--to", str(there))
    copy = served(make_server, "copy", there, own_server)
    assert copy.lake().read("t").equals(numbered(5))
    copy.lake().write("t", numbered(5, start=5))
    assert copy.terminate() == 0
    said = cli.fails(1, "backup", "--to", str(there))
    assert "served since" in said
    assert copy.start().lake().count("t") == 10
    assert (there / "_lakebed/backup_origin.json").exists()


def test_a_table_that_was_made_anew_takes_its_place(
    own_server: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    """Versions are numbered from 1 again: those of the old table must not be taken for them."""
    lake, there = own_server.lake(), tmp_path / "there"
    cli = Cli(own_server, tmp_path)
    lake.create("t", numbered(5))
    for i in range(4):
        lake.write("t", numbered(1, start=10 + i))
    cli.json("backup", "--to", str(there))
    own_server.http().ok("POST", "/v1/table/t/drop")
    own_server.restart()
    lake = own_server.lake()
    lake.create("t", pa.table({"other": [1.5]}))
    lake.write("t", pa.table({"other": [2.5]}))
    done = cli.json("backup", "--to", str(there))
    assert counts(done)["versions_copied"] == 2
    assert [rows.num_rows for rows in validate(there / "default", "t")] == [1, 2]
    pruned = cli.json("backup", "--to", str(there), "--prune")
    assert pruned["pruned"]["files"] >= 5
    assert own_server.terminate() == 0
    copy = served(make_server, "copy", there, own_server)
    assert copy.lake().read("t").to_pydict() == {"other": [1.5, 2.5]}


def test_a_lake_that_was_put_back_goes_on_in_the_same_backup(
    own_server: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    lake = own_server.lake()
    lake.create("t", blobs([b"a"]))
    lake.write("t", blobs([b"b"], start=1))
    cli = Cli(own_server, tmp_path)
    cli.json("backup", "--to", str(there))
    ok(tmp_path, "restore", "--from", str(there), "--data", str(back))
    # The lake goes on to versions 3 and 4, which are backed up; then it is put back to 2.
    lake.write("t", blobs([b"lost"], start=2))
    lake.write("t", blobs([b"lost too"], start=3))
    cli.json("backup", "--to", str(there))
    assert own_server.terminate() == 0
    second = served(make_server, "second", back, own_server)
    second.lake().write("t", blobs([b"c"], start=2))
    done = Cli(second, tmp_path).json("backup", "--to", str(there))
    assert (counts(done)["versions_kept"], counts(done)["versions_copied"]) == (2, 1)
    assert [rows.num_rows for rows in validate(there / "default", "t")] == [1, 2, 3]
    assert second.terminate() == 0
    copy = served(make_server, "copy", there, own_server)
    assert copy.lake().read("t", blobs="bytes")["data"].to_pylist() == [b"a", b"b", b"c"]


def test_pruning_takes_what_the_lake_has_no_more(own_server: LakebedServer, tmp_path: Path) -> None:
    there = tmp_path / "there"
    lake, http = own_server.lake(), own_server.http()
    cli = Cli(own_server, tmp_path)
    lake.create("stays", numbered(10))
    lake.create("goes", blobs([os.urandom(17 * MIB), b"x"]))
    for i in range(3):
        lake.write("stays", numbered(10 * (i + 2)), "overwrite")
    cli.json("backup", "--to", str(there))
    http.ok("POST", "/v1/table/goes/drop")
    own_server.restart()
    dataset = lance.dataset(str(own_server.table_path("stays")))
    dataset.cleanup_old_versions(older_than=dt.timedelta(0), delete_unverified=True)
    kept = cli.json("backup", "--to", str(there))
    assert kept["pruned"]["files"] == 0
    assert (there / "default/goes.lance").exists()
    assert len(validate(there / "default", "stays")) == 4
    pruned = cli.json("backup", "--to", str(there), "--prune")
    assert pruned["pruned"]["files"] > 8
    assert [rows.num_rows for rows in validate(there / "default", "stays")] == [40]
    names = {path.name for path in (there / "default").rglob("*") if path.is_file()}
    ours = {path.name for path in (own_server.data / "default").rglob("*") if path.is_file()}
    assert names <= ours
    assert not [path for path in (there / "default/goes.lance").rglob("*") if path.is_file()]
    examined(tmp_path, there)


# ---- beside a running server --------------------------------------------------------------------


def test_beside_four_writers(own_server: LakebedServer, make_server: Make, tmp_path: Path) -> None:
    """The backup opens, all of its versions are whole, and its rows are a prefix of what each
    writer wrote."""
    there = tmp_path / "there"
    setup = own_server.lake()
    for table in ("a", "b"):
        setup.create(table, numbered(0))
    setup.create("pictures", blobs([]))
    stop = threading.Event()
    written: dict[tuple[str, int], list[int]] = {}

    def write(writer: int) -> None:
        lake = own_server.lake()
        table = "ab"[writer % 2]
        for i in range(10_000):
            if stop.is_set():
                return
            start = writer * 1_000_000 + 10 * i
            lake.write(table, numbered(10, start=start), write_id=f"{writer}-{i}")
            written.setdefault((table, writer), []).append(start)
            if writer == 0 and i % 4 == 0:
                cell = hashlib.sha256(str(i).encode()).digest() * (17 * MIB // 32)
                lake.write("pictures", blobs([cell], start=i))

    cli = Cli(own_server, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, writer) for writer in range(4)]
        wait_until(lambda: len(written) == 4, "four writers")
        copies = []
        for _ in range(3):
            before = {key: len(starts) for key, starts in written.items()}
            copies.append((before, cli.json("backup", "--to", str(there))))
            after = {key: len(starts) for key, starts in written.items()}
        stop.set()
        for writer in writers:
            writer.result()
    assert all(counts(done)["versions_copied"] > 0 for _, done in copies)
    before = copies[-1][0]
    examined(tmp_path, there)
    for table in ("a", "b"):
        versions = validate(there / "default", table)
        ids = set(versions[-1]["id"].to_pylist())
        for (of_table, writer), starts in written.items():
            if of_table != table:
                continue
            whole = [all(start + i in ids for i in range(10)) for start in starts]
            count = sum(whole)
            assert whole == [True] * count + [False] * (len(whole) - count), "a prefix"
            assert before[of_table, writer] <= count <= after[of_table, writer] + 1
    validate(there / "default", "pictures")
    assert own_server.terminate() == 0
    copy = served(make_server, "copy", there, own_server)
    pictures = copy.lake().read("pictures", blobs="bytes")
    assert pictures.num_rows > 0
    for number, cell in zip(*pictures.select(["id", "data"]).to_pydict().values(), strict=True):
        assert cell[:32] == hashlib.sha256(str(number).encode()).digest()
    # A write that came after the backup is no write of the copy: its id is not taken.
    count = copy.lake().count("a")
    copy.lake().write("a", numbered(10, start=5_000_000), write_id="2-9999999")
    assert copy.lake().count("a") == count + 10


def test_a_drop_waits_for_the_backup(own_server: LakebedServer, tmp_path: Path) -> None:
    """A table that is dropped while it is copied comes along as it was."""
    lake, http = own_server.lake(), own_server.http()
    lake.create("t", blobs([os.urandom(8 * MIB)]))
    for i in range(8):
        lake.write("t", blobs([os.urandom(8 * MIB)], start=i + 1))
    begun = http.post("/v1/backup", {"to": str(tmp_path / "there")})
    assert begun.status == 202
    http.ok("POST", "/v1/table/t/drop")
    job = {"job_id": begun.json()["job_id"]}
    described = wait_until(
        lambda: (
            (told := http.ok("POST", "/v1/jobs/describe", job).json())["job_state"] != "IN_PROGRESS"
            and told
        ),
        "the end of the backup",
    )
    described = http.ok("POST", "/v1/jobs/describe", job).json()
    if described["job_state"] == "DONE" and described["result"]["counts"]["tables"] == 1:
        examined(tmp_path, tmp_path / "there")
        assert len(validate(tmp_path / "there/default", "t")) == 9


def test_only_an_admin_and_one_at_a_time(own_server: LakebedServer, tmp_path: Path) -> None:
    http = own_server.http()
    rows = bulk(10_000, 4_096)
    own_server.lake().create("t", rows.to_batches(max_chunksize=2_000), schema=rows.schema)
    made = http.ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()
    writer = own_server.http(made["key"])
    assert writer.post("/v1/backup", {"to": str(tmp_path / "x")}).status == 403
    for body in (
        {},
        {"to": "relative"},
        {"to": "/x", "surprise": 1},
        {"to": "/x", "tables": [".."]},
    ):
        assert http.post("/v1/backup", body).status == 400, body
    first = http.post("/v1/backup", {"to": str(tmp_path / "one")})
    second = http.post("/v1/backup", {"to": str(tmp_path / "two")})
    assert first.status == 202
    assert second.status in {202, 409}
    job = {"job_id": first.json()["job_id"]}
    wait_until(
        lambda: http.ok("POST", "/v1/jobs/describe", job).json()["job_state"] in {"DONE", "FAILED"},
        "the backup",
    )
    wait_until(lambda: '"verb":"backup"' in audit(own_server), "its line in the audit log")
    lines = [json.loads(line) for line in audit(own_server).splitlines()]
    done = [line for line in lines if line["verb"] == "backup"]
    assert {line["outcome"] for line in done} >= {"ok", "denied"}
    assert any(line.get("subject") == str(tmp_path / "one") for line in done)


def audit(server: LakebedServer) -> str:
    files = (Path(server.data) / "_lakebed/audit").rglob("*.jsonl")
    return "".join(path.read_text() for path in files)


# ---- single tables ------------------------------------------------------------------------------


def test_one_table_goes_and_comes_back_under_a_free_name(
    filled: LakebedServer, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    cli = Cli(filled, tmp_path)
    lake, http = filled.lake(), filled.http()
    before = told(filled)
    done = cli.json("backup", "--to", str(there), "--table", "default/ns$in$words")
    assert counts(done)["tables"] == 1
    assert not list((there / "_blobs").rglob("*/*/*"))
    # Another table joins it; only its own blobs come along.
    done = cli.json("backup", "--to", str(there), "--table", "media")
    assert len([path for path in (there / "_blobs").rglob("*") if path.is_file()]) == 2
    record = json.loads((there / "_lakebed/backup.json").read_text())
    assert [table["table"] for table in record["tables"]] == ["media", "ns$in$words"]
    examined(tmp_path, there)
    http.ok("POST", "/v1/table/media/drop")
    filled.restart()
    http = filled.http()
    assert filled.terminate() == 0
    for blob in [path for path in (filled.data / "_blobs").rglob("*") if path.is_file()]:
        blob.unlink()
    back = ["restore", "--from", str(there), "--data", str(filled.data)]
    fails(tmp_path, *back, "--table", "ns$in$words", words="already exists")
    fails(tmp_path, *back, "--table", "wordz", words="does not exist")
    fails(tmp_path, *back, "--table", "media", "--table", "ns$in$words", "--as", "x", words="--as")
    planned = ok(tmp_path, *back, "--table", "media", "--dry-run")
    assert planned["dry_run"] is True
    ok(tmp_path, *back, "--table", "media")
    named = ok(tmp_path, *back, "--table", "ns$in$words", "--as", "team/cars/old$words")
    assert named["tables"] == ["team/cars/old$words"]
    examined(tmp_path, filled.data)
    shutil.rmtree(there)
    filled.start()
    after = told(filled)
    assert after["media 1"] == before["media 1"]
    assert after["media 2"] == before["media 2"]
    assert after["cuts"] == before["cuts"]
    other = filled.lake(database="team/cars")
    assert other.read("old$words", tag="gold").equals(before["gold"])
    assert other.read("old$words", branch="exp").equals(before["exp 4"])
    for version in range(1, 10):
        rows = other.read("old$words", version=version).sort_by("id")
        assert rows.equals(before[f"words {version}"])
    again = other.write("old$words", numbered(100, start=1_000), write_id="w-1")
    assert again["version"] == 2
    lake = filled.lake()
    assert lake.read("ns$in$words").num_rows == before["words 9"].num_rows


def test_a_cut_off_restore_of_a_table_leaves_nothing(
    own_server: LakebedServer, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    own_server.lake().create("t", numbered(5))
    Cli(own_server, tmp_path).json("backup", "--to", str(there))
    own_server.http().ok("POST", "/v1/table/t/drop")
    own_server.restart()
    assert own_server.terminate() == 0
    # As a killed run leaves it: a folder with versions, and the note beside it.
    shutil.copytree(there / "default/t.lance", own_server.data / "default/t.lance")
    notes = own_server.data / "_lakebed/restores"
    notes.mkdir()
    note = {"database": "default", "location": "default/t.lance"}
    (notes / "0.json").write_text(json.dumps(note))
    restore = ["restore", "--from", str(there), "--data", str(own_server.data), "--table", "t"]
    ok(tmp_path, *restore)
    assert not list(notes.iterdir())
    own_server.start()
    assert own_server.lake().read("t").equals(numbered(5))
    assert [path.name for path in (own_server.data / "default").iterdir()] == ["t.lance"]


# ---- what is refused ----------------------------------------------------------------------------


def test_wrong_places_and_names(
    own_server: LakebedServer, make_server: Make, tmp_path: Path
) -> None:
    lake = own_server.data
    own_server.lake().create("t", numbered(5))
    held = fails(
        tmp_path, "backup", "--data", str(lake), "--to", str(tmp_path / "x"), words="holds"
    )
    assert "--data" in held
    assert own_server.terminate() == 0
    from_lake = ["backup", "--data", str(lake), "--to"]
    inside = lake / "default/copy"
    fails(tmp_path, *from_lake, str(inside), words="within each other")
    assert not inside.exists()
    fails(tmp_path, *from_lake, str(lake), words="within each other")
    fails(tmp_path, *from_lake, str(lake.parent), words="within each other")
    link = tmp_path / "link"
    link.symlink_to(lake)
    fails(tmp_path, *from_lake, str(link / "copy"), words="within each other")
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo").write_text("x")
    fails(tmp_path, *from_lake, str(full), words="not empty")
    fails(tmp_path, *from_lake, "ftp://host/x", words="ftp")
    there = tmp_path / "there"
    fails(tmp_path, *from_lake, str(there), "--table", "tt", words="does not exist")
    fails(tmp_path, *from_lake, str(there), "--table", "t", "--prune", words="prune")
    fails(tmp_path, "backup", "--data", str(tmp_path / "no"), "--to", str(there), words="no lake")
    ok(tmp_path, *from_lake, str(there))
    other = make_server("other", data=tmp_path / "other-lake").start()
    other.lake().create("t", numbered(1))
    assert other.terminate() == 0
    from_other = ["backup", "--data", str(other.data), "--to"]
    fails(tmp_path, *from_other, str(there), words="another lake")
    fails(tmp_path, *from_other, str(lake), words="no backup")
    fails(
        tmp_path, "restore", "--from", str(lake), "--data", str(tmp_path / "r"), words="no backup"
    )
    fails(tmp_path, "restore", "--from", str(there), "--data", str(lake), words="holds a lake")
    fails(tmp_path, "restore", "--from", str(there), "--data", str(full), words="not empty")
    record_path = there / "_lakebed/backup.json"
    record = json.loads(record_path.read_text())
    record["format"] = 99
    record_path.write_text(json.dumps(record))
    files = {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()}
    for verb in (
        [*from_lake, str(there)],
        ["restore", "--from", str(there), "--data", str(tmp_path / "r")],
    ):
        assert "format 99" in fails(tmp_path, *verb, words="up to format 1")
    assert files == {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()}
    record_path.write_text("{")
    fails(tmp_path, *from_lake, str(there), words="damaged")


def test_a_damaged_lake_is_not_copied_as_whole(own_server: LakebedServer, tmp_path: Path) -> None:
    lake = own_server.lake()
    lake.create("t", blobs([os.urandom(17 * MIB)]))
    lake.create("u", numbered(5))
    assert own_server.terminate() == 0
    there = tmp_path / "there"
    verb = ["backup", "--data", str(own_server.data), "--to", str(there)]
    (blob,) = (path for path in (own_server.data / "_blobs").rglob("*") if path.is_file())
    with blob.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"flipped")
    said = fails(tmp_path, *verb, words="digest")
    assert blob.name in said
    blob.unlink()
    next((own_server.table_path("u") / "data").glob("*.lance")).unlink()
    said = fails(tmp_path, *verb, words="missing")
    assert "version 1 of `default/u`" in said
    assert not (there / "_lakebed/backup.json").exists()


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_runs(own_server: LakebedServer, tmp_path: Path) -> None:
    """The commands of the page, in its order, print what it says."""
    lake = own_server.lake()
    lake.create("pictures", blobs([b"small", bytes(20 * MIB)]))
    lake.create("words", numbered(100))
    lake.write("words", numbered(100, start=100))
    cli = Cli(own_server, tmp_path)
    found = commands(ROOT / "docs/backup.md")
    assert len(found) == 5

    def here(text: str) -> str:
        return text.replace("/backups", str(tmp_path)).replace("/srv", str(tmp_path))

    for command, printed in found:
        said = run_command(cli, tmp_path, shlex.split(here(command)))
        assert plain(said) == plain(here(printed)), command


def plain(text: str) -> str:
    """Without sizes, which depend on what Lance writes."""
    return re.sub(r"\([\d.]+ [KMGi]*B\)", "(SIZE)", text).strip()
