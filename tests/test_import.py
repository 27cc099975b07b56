"""`lakebed import` of files and folders: a row each, with what their headers say."""

import fcntl
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import cached

from support.cli import Cli, ended
from support.flight import Lake
from support.media import huge_png, jpeg_with_exif, noise, png, small_files
from support.server import LakebedServer
from support.waiting import wait_until

MIB = 1 << 20
COLUMNS = [
    *("path", "name", "media_type", "size_bytes", "sha256", "data", "width", "height"),
    *("orientation", "duration_ms", "codec", "frames", "taken_at", "latitude", "longitude"),
    *("caption", "error"),
]


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(server, home)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def rows_of(lake: Lake, table: str, *columns: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by path, without blobs unless named."""
    names = columns or tuple(name for name in COLUMNS if name != "data")
    blobs = "bytes" if "data" in names else "descriptor"
    rows = lake.read(table, columns=["path", *(n for n in names if n != "path")], blobs=blobs)
    found = {row["path"]: row for row in rows.to_pylist()}
    assert len(found) == rows.num_rows, "one row for each path"
    return found


# ---- a folder of pictures -------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_stamps(cli: Cli, lake: Lake, stamps: Path, table: str) -> None:
    """Every file of the folder byte for byte, with sizes and captions; then nothing more."""
    files = {p.relative_to(stamps).as_posix(): p for p in stamps.rglob("*") if p.is_file()}
    files = {name: path for name, path in files.items() if not path.is_symlink()}
    summary = cli.json("import", str(stamps), "--table", table)
    assert summary["files"] == summary["rows_added"] == len(files)
    assert summary["errors"] == 0
    assert summary["tables"] == [table]
    rows = rows_of(lake, table)
    assert list(next(iter(rows.values()))) == [name for name in COLUMNS if name != "data"]
    assert rows.keys() == files.keys()
    stored = rows_of(lake, table, "data", "sha256", "size_bytes")
    for name, path in files.items():
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert stored[name]["sha256"] == digest
        assert hashlib.sha256(stored[name]["data"]).hexdigest() == digest
        assert stored[name]["size_bytes"] == len(data)
        assert rows[name]["name"] == path.name
    pictures = {name: row for name, row in rows.items() if name.endswith(".png")}
    assert len(pictures) == 796
    for name, row in pictures.items():
        header = files[name].read_bytes()[16:24]
        size = (int.from_bytes(header[:4]), int.from_bytes(header[4:]))
        assert (row["media_type"], (row["width"], row["height"])) == ("image/png", size)
        side = files[name].with_suffix(".txt")
        expected = side.read_text("utf-8").splitlines()[0].strip() if side.is_file() else None
        assert row["caption"] == expected
    sounds = [row for name, row in rows.items() if name.endswith(".ogg")]
    assert len(sounds) > 7_000
    assert all(row["codec"] == "vorbis" and row["duration_ms"] > 0 for row in sounds)
    before = cli.json("show", table)["version"]
    again = cli.json("import", str(stamps), "--table", table)
    assert (again["rows_added"], again["rows_replaced"]) == (0, 0)
    assert again["files_unchanged"] == len(files)
    assert cli.json("show", table)["version"] == before


def test_a_file_that_changed_replaces_its_row(
    cli: Cli, lake: Lake, folder: Path, table: str
) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png(3, 2))
    cli.json("import", str(folder), "--table", table)
    (folder / "b.png").write_bytes(png(5, 4))
    (folder / "c.png").write_bytes(png(7, 6))
    summary = cli.json("import", str(folder), "--table", table)
    counts = [summary[name] for name in ("rows_added", "rows_replaced", "files_unchanged")]
    assert counts == [1, 1, 1]
    rows = rows_of(lake, table, "width", "height", "data")
    assert {name: (row["width"], row["height"]) for name, row in rows.items()} == {
        "a.png": (3, 2),
        "b.png": (5, 4),
        "c.png": (7, 6),
    }
    assert rows["b.png"]["data"] == png(5, 4)


def test_rows_that_were_deleted_come_back(
    cli: Cli, server: LakebedServer, lake: Lake, folder: Path, table: str
) -> None:
    """A write id that the table remembers must not keep files out."""
    (folder / "a.png").write_bytes(png())
    cli.json("import", str(folder), "--table", table)
    server.http().ok("POST", f"/v1/table/{table}/delete", {"predicate": "true"})
    assert cli.json("import", str(folder), "--table", table)["rows_added"] == 1
    assert len(rows_of(lake, table)) == 1


def test_paths_are_as_of_cp(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    for name in ("a/x.png", "a/.hidden/y.png", "b/x.png", "c.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    (folder / "a/link.png").symlink_to("x.png")
    os.mkfifo(folder / "a/pipe")
    one = cli.json("import", str(folder / "a"), "--table", table)
    assert (one["files"], one["passed_over"]) == (2, 2)
    assert rows_of(lake, table).keys() == {"x.png", ".hidden/y.png"}
    several = [str(folder / name) for name in ("a", "b", "c.png")]
    cli.json("import", *several, "--table", f"{table}_2")
    names = {"a/x.png", "a/.hidden/y.png", "b/x.png", "c.png"}
    assert rows_of(lake, f"{table}_2").keys() == names
    twice = [str(folder / name) for name in ("a/x.png", "b/x.png")]
    refusal = cli.fails(2, "import", *twice, "--table", f"{table}_3")
    assert "x.png" in refusal
    assert "a table of its own" in refusal, "one after the other would replace rows"


def test_labels_and_a_blob_column_of_another_name(
    cli: Cli, lake: Lake, folder: Path, table: str
) -> None:
    for label in ("cat", "dog"):
        (folder / "train" / label).mkdir(parents=True)
        (folder / "train" / label / "1.png").write_bytes(png())
    cli.json("import", str(folder), "--table", table, "--labels", "--blob-column", "image")
    rows = lake.read(table, columns=["path", "label", "image"], blobs="bytes").to_pylist()
    found = {row["path"]: (row["label"], row["image"]) for row in rows}
    assert found == {"train/cat/1.png": ("cat", png()), "train/dog/1.png": ("dog", png())}
    refusal = cli.fails(2, "import", str(folder), "--table", "x", "--blob-column", "path")
    assert "path" in refusal
    both = ["--labels", "--blob-column", "label"]
    assert "label" in cli.fails(2, "import", str(folder), "--table", "x", *both)
    # Another import without the label does not fit the table, which it says before it begins.
    refusal = cli.fails(1, "import", str(folder), "--table", table)
    assert "`data`" in refusal


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest(cli: Cli, lake: Lake, folder: Path, table: str, kind: str) -> None:
    """As Hugging Face's ImageFolder reads metadata.csv and metadata.jsonl."""
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(png())
    (folder / "b.txt").write_text("from the side file")
    manifest = folder / f"metadata.{kind}"
    manifest.write_text(
        "file_name,caption,stars\na.png,A cat,3\nb.png,,4\ngone.png,x,5\n"
        if kind == "csv"
        else '{"file_name":"a.png","caption":"A cat","stars":3}\n'
        '{"file_name":"b.png","stars":4}\n{"file_name":"gone.png","stars":5}\n'
    )
    summary = cli.json("import", str(folder), "--table", table, "--manifest", str(manifest))
    assert summary["manifest_rows_unused"] == 1
    rows = rows_of(lake, table, "caption", "stars")
    assert rows.keys() == {"a.png", "b.png", "b.txt", "c.png"}, "not the manifest itself"
    assert [rows[f"{n}.png"]["caption"] for n in "abc"] == ["A cat", "from the side file", None]
    assert [rows[f"{n}.png"]["stars"] for n in "abc"] == [3, 4, None]


def test_a_manifest_that_is_named_from_elsewhere(
    cli: Cli, lake: Lake, folder: Path, table: str
) -> None:
    """PATH from the root on, the manifest from the working folder on: the files are the same."""
    (folder / "train").mkdir()
    (folder / "train" / "a.png").write_bytes(png())
    manifest = folder / "train" / "metadata.csv"
    manifest.write_text("file_name,stars\na.png,3\n")
    named = os.path.relpath(manifest)
    summary = cli.json("import", str(folder), "--table", table, "--manifest", named)
    assert (summary["files"], summary["manifest_rows_unused"]) == (1, 0)
    assert rows_of(lake, table, "stars") == {"train/a.png": {"path": "train/a.png", "stars": 3}}


# ---- media ----------------------------------------------------------------------------------


def test_videos(cli: Cli, lake: Lake, videos: Path, table: str) -> None:
    cli.json("import", str(videos), "--table", table)
    rows = rows_of(lake, table)
    names = ("media_type", "width", "height", "codec", "frames", "error")
    found = {name: tuple(row[n] for n in names) for name, row in rows.items()}
    assert found == {
        "bigbuckbunny.mp4": ("video/mp4", 1280, 720, "h264", 132, None),
        "bikes.mp4": ("video/mp4", 640, 272, "h264", 250, None),
        "carphone_pristine.mp4": ("video/mp4", 176, 144, "h264", 120, None),
        "carphone_distorted.mp4": ("video/mp4", 176, 144, "h264", 120, None),
    }
    assert 5_000 < rows["bigbuckbunny.mp4"]["duration_ms"] < 5_600


def test_exif(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    (folder / "photo.jpg").write_bytes(jpeg_with_exif())
    cli.json("import", str(folder), "--table", table)
    row = rows_of(lake, table)["photo.jpg"]
    assert (row["width"], row["height"], row["orientation"]) == (16, 8, 6)
    assert row["taken_at"].isoformat() == "2024-05-06T05:08:09+00:00"
    assert row["latitude"] == pytest.approx(-52.5)
    assert row["longitude"] == pytest.approx(13.41)
    assert row["error"] is None


def test_hostile_and_odd_files(
    cli: Cli, lake: Lake, folder: Path, videos: Path, table: str
) -> None:
    """Whatever the bytes are, there is a row with them, and a word where they are broken."""
    film = (videos / "bikes.mp4").read_bytes()
    files = {
        "huge.png": huge_png(),
        "empty.png": b"",
        "empty.txt": b"",
        "cut.png": png()[:20],
        "text.png": b"no picture at all",
        "cut.mp4": film[:100_000],
        "lying.mp4": film.replace(b"stsz\0\0\0\0\0\0\0\0", b"stsz\0\0\0\0\0\0\0\0\xff")[
            : len(film)
        ],
        "box.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\1moov" + b"\xff" * 8,
        "bomb.wav": b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\xff" + b"\0" * 64,
        "cut.mkv": b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + b"\0" * 40,
        "cut.webp": b"RIFF\x10\0\0\0WEBPVP8X",
        "download.part": b"half of something",
        "ünïcode ☃.bin": b"x",
        "new\nline": b"y",
        ".hidden": b"z",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    strange = os.fsencode(folder) + b"/not\xfftext"
    Path(os.fsdecode(strange)).write_bytes(b"bytes")
    summary = cli.json("import", str(folder), "--table", table)
    assert summary["rows_added"] == len(files) + 1
    rows = rows_of(lake, table, "data", "width", "height", "error", "media_type")
    assert rows.keys() == files.keys() | {"not\\xfftext"}
    for name, data in files.items():
        assert rows[name]["data"] == data, name
    assert (rows["huge.png"]["width"], rows["huge.png"]["height"]) == (20990, 29700)
    good = {name for name, row in rows.items() if row["error"] is None}
    assert good >= {
        "huge.png",
        "empty.txt",
        "download.part",
        ".hidden",
        "new\nline",
        "not\\xfftext",
    }
    broken = rows.keys() - good
    assert broken >= {"empty.png", "cut.png", "text.png", "cut.mp4", "box.mp4", "cut.mkv"}
    assert summary["errors"] == len(broken)
    assert rows["empty.png"]["error"] == "the file is empty"
    again = cli.json("import", str(folder), "--table", table)
    assert again["files_unchanged"] == len(rows)


@pytest.mark.timeout(600)
def test_real_pictures_of_623_megapixels(
    own_server: LakebedServer, tmp_path: Path, soak: bool
) -> None:
    """Every picture of openclipart, two of which have 20990 x 29700 pixels."""
    if not soak:
        pytest.skip("131 MB of openclipart-png: a part of the long form")
    folder = cached("openclipart-png/usr/share/openclipart/png")
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(own_server, home)
    summary, peak = measured(cli, "import", str(folder), "--table", "clipart")
    rows = rows_of(own_server.lake(), "clipart", "width", "height", "error")
    assert summary["rows_added"] == len(rows) > 6_000
    huge = [row for row in rows.values() if (row["width"], row["height"]) == (20990, 29700)]
    assert len(huge) == 2
    assert all(row["error"] is None for row in huge)
    print(f"{summary['errors']} errors, {peak >> 20} MiB")
    assert peak < 512 * MIB


def test_files_that_cannot_be_read(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    """A row says so; it is tried again, and filled in once it can be read."""
    cli.heeds_modes()
    secret = folder / "secret.png"
    secret.write_bytes(png())
    secret.chmod(0)
    summary = cli.json("import", str(folder), "--table", table)
    assert (summary["rows_added"], summary["errors"]) == (1, 1)
    row = rows_of(lake, table, "data", "sha256", "error")["secret.png"]
    assert (row["data"], row["sha256"]) == (None, None)
    assert "denied" in row["error"]
    again = cli.json("import", str(folder), "--table", table)
    assert (again["files_unchanged"], again["errors"]) == (1, 1)
    secret.chmod(0o600)
    assert cli.json("import", str(folder), "--table", table)["rows_replaced"] == 1
    assert rows_of(lake, table, "data")["secret.png"]["data"] == png()


def test_files_that_cannot_be_read_any_more(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    """What the table has of them stays, small ones and large ones, and they are counted."""
    cli.heeds_modes()
    (folder / "small.png").write_bytes(png())
    noise(folder / "large.bin", 17 * MIB)
    cli.json("import", str(folder), "--table", table)
    before = rows_of(lake, table)
    version = cli.json("show", table)["version"]
    for name in before:
        (folder / name).chmod(0)
    summary = cli.json("import", str(folder), "--table", table)
    counts = [summary[name] for name in ("rows_added", "rows_replaced", "errors")]
    assert counts == [0, 0, 2]
    said = cli.run("import", str(folder), "--table", table).stderr
    assert "small.png" in said
    assert "large.bin" in said
    assert rows_of(lake, table) == before
    assert rows_of(lake, table, "data")["small.png"]["data"] == png()
    assert cli.json("show", table)["version"] == version


def test_files_whose_room_is_not_used(cli: Cli, folder: Path, table: str) -> None:
    """Files that cannot be read have no bytes to send, and keep room in memory from nobody."""
    cli.heeds_modes()
    for at in range(12):
        with (folder / f"{at}.bin").open("wb") as file:
            file.truncate(15 * MIB)
            os.fchmod(file.fileno(), 0)
    summary = cli.json("import", str(folder), "--table", table)
    assert (summary["rows_added"], summary["errors"]) == (12, 12)


@pytest.mark.timeout(300)
def test_small_files_and_a_little_larger_ones(
    cli: Cli, lake: Lake, folder: Path, table: str
) -> None:
    """However many files a group has, room for the next one is found."""
    count, larger = 8_000, 1_400
    for at in range(count):
        size = 9 << 10 if at * larger % count < larger else 100
        (folder / f"{at}").write_bytes(at.to_bytes(4) * (size // 4))
    summary = cli.json("import", str(folder), "--table", table)
    assert summary["rows_added"] == count
    assert lake.read(table, columns=["path"]).num_rows == count


def test_two_imports_at_once(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    """The second one says so; another table is nobody's concern."""
    (folder / "a.png").write_bytes(png())
    cli.json("import", str(folder), "--table", table)
    (lock,) = (cli.home / ".local/state/lakebed/imports").iterdir()
    (folder / "b.png").write_bytes(png())
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refusal = cli.fails(1, "import", str(folder), "--table", table)
        assert "another import" in refusal
        assert table in refusal
        cli.json("import", str(folder), "--table", f"{table}_2")
    assert cli.json("import", str(folder), "--table", table)["rows_added"] == 1
    assert rows_of(lake, table).keys() == {"a.png", "b.png"}


# ---- large files, and imports that are cut off ----------------------------------------------


def test_a_large_file_is_uploaded(cli: Cli, lake: Lake, folder: Path, table: str) -> None:
    noise(folder / "large.bin", 40 * MIB)
    noise(folder / "edge.bin", 16 * MIB)
    noise(folder / "over.bin", 16 * MIB + 1)
    summary = cli.json("import", str(folder), "--table", table)
    assert (summary["rows_added"], summary["errors"]) == (3, 0)
    rows = rows_of(lake, table, "sha256", "size_bytes")
    for name in ("large.bin", "edge.bin", "over.bin"):
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert rows[name]["sha256"] == digest
        found = lake.read(table, columns=["data"], filter=f"path = '{name}'", blobs="bytes")
        assert hashlib.sha256(found["data"][0].as_py()).hexdigest() == digest
    assert not list((cli.home / ".local/state/lakebed/uploads").glob("*")), "no notes stay"
    assert cli.json("import", str(folder), "--table", table)["files_unchanged"] == 3


def test_an_upload_that_was_killed_is_resumed(
    cli: Cli, server: LakebedServer, lake: Lake, folder: Path, table: str
) -> None:
    """The second run sends what the server does not have."""
    noise(folder / "large.bin", 400 * MIB)
    run = cli.start("import", str(folder), "--table", table)
    notes = cli.home / ".local/state/lakebed/uploads"

    def offset() -> int:
        for note in notes.glob("*"):
            upload = note.read_text()
            return (
                server.http().ok("GET", f"/v1/uploads/{upload}").json()["offset"] if upload else 0
            )
        return 0

    wait_until(lambda: run.poll() is not None or offset() >= 64 * MIB, "a part of the upload")
    run.kill()
    run.communicate()
    (note,) = notes.glob("*")
    first = note.read_text()
    # The file as a row of another table is another upload.
    cli.json("import", str(folder), "--table", f"{table}_2")
    assert [found.read_text() for found in notes.glob("*")] == [first]
    summary = cli.json("import", str(folder), "--table", table)
    assert summary["rows_added"] == 1
    uploads = [n for n in server.files("_lakebed/uploads") if n.endswith("upload.json")]
    assert [n.split("/")[2] for n in uploads if first in n] == [first]
    data = (folder / "large.bin").read_bytes()
    assert rows_of(lake, table)["large.bin"]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.timeout(300)
def test_an_import_that_was_killed_is_finished(
    cli: Cli, lake: Lake, folder: Path, table: str, soak: bool
) -> None:
    """Killed at several moments, a file is in the table once, and the last run adds the rest."""
    count = 8_000 if soak else 3_000
    small_files(folder, count)
    for moment in (0.15, 0.4, 0.7):
        run = cli.start("import", str(folder), "--table", table)
        time.sleep(moment)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    summary = cli.json("import", str(folder), "--table", table)
    assert summary["rows_added"] + summary["files_unchanged"] == count
    rows = lake.read(table, columns=["path", "sha256"]).to_pylist()
    assert len(rows) == count == len({row["path"] for row in rows})
    for row in rows[:: count // 50]:
        data = (folder / row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


@pytest.mark.timeout(600)
def test_memory_and_speed(
    own_server: LakebedServer, tmp_path: Path, folder: Path, soak: bool
) -> None:
    """Small files come by the thousand, a large one as fast as it is hashed and stored; neither
    client nor server takes half a GiB."""
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(own_server, home)
    count = 10_000 if soak else 4_000
    small_files(folder / "small", count)
    medium = folder / "medium"
    medium.mkdir()
    for at in range(24):
        noise(medium / f"{at}.bin", 15 * MIB)
    large = folder / "large"
    large.mkdir()
    noise(large / "recording.bin", (1024 if soak else 300) * MIB)
    for name in ("small", "medium", "large"):
        summary, peak = measured(cli, "import", str(folder / name), "--table", name)
        files, rate = summary["files"], summary["bytes"] / MIB / summary["seconds"]
        print(
            f"{name}: {files / summary['seconds']:.0f} files/s, {rate:.0f} MiB/s, {peak >> 20} MiB"
        )
        assert peak < 512 * MIB
    assert own_server.peak_rss_bytes() < 512 * MIB
    print(f"server: {own_server.peak_rss_bytes() >> 20} MiB")


def measured(cli: Cli, *args: str) -> tuple[dict[str, Any], int]:
    """What a verb prints, and the peak of its memory."""
    run = cli.start(*args, "--format", "json")
    out, err, peak = ended(run)
    assert run.returncode == 0, err
    return json.loads(out), peak


# ---- usage ----------------------------------------------------------------------------------


def test_wrong_usage(cli: Cli, folder: Path, table: str) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "b.csv").write_text("x\n1\n")
    assert "--table" in cli.fails(2, "import", str(folder))
    assert "PATH" in cli.fails(2, "import", "--table", table).upper()
    assert "nothing" in cli.fails(2, "import", str(folder / "nothing"), "--table", table)
    mixed = [str(folder / "a.png"), str(folder / "b.csv")]
    assert "--as files" in cli.fails(2, "import", *mixed, "--table", table)
    cli.json("import", *mixed, "--table", table, "--as", "files")
    assert "not a table" not in cli.ok("import", *mixed, "--table", table, "--as", "files")
    assert "unchanged" in cli.ok("import", *mixed, "--table", table, "--as", "files")


def test_a_table_that_was_not_made_by_an_import(
    cli: Cli, lake: Lake, folder: Path, table: str
) -> None:
    import pyarrow as pa

    lake.create(table, pa.table({"id": [1]}))
    (folder / "a.png").write_bytes(png())
    assert "path" in cli.fails(1, "import", str(folder), "--table", table)
