"""`lakebed import --into`: bags and MCAP files as recordings with their topics."""

import bz2
import hashlib
import random
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from support.cli import Cli
from support.flight import Lake
from support.server import LakebedServer

TYPES = get_typestore(Stores.ROS2_HUMBLE)
TYPES1 = get_typestore(Stores.ROS1_NOETIC)
NS = 1_000_000_000
START = 1_700_000_000 * NS
# topic: (type, messages, nanoseconds between two)
TOPICS = {
    "/pose": ("geometry_msgs/msg/Point", 120, NS // 100),
    "/count": ("std_msgs/msg/Int32", 30, NS // 10),
    "/silent": ("std_msgs/msg/Int32", 0, NS),
}


@pytest.fixture
def cli(server: LakebedServer, tmp_path: Path) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(server, home)


def message(store: Any, name: str, at: int) -> Any:
    if name.endswith("Point"):
        return store.types[name](float(at), 2.0, 3.0)
    return store.types[name](at)


def write1(path: Path, compression: Any) -> None:
    """A ROS 1 bag by somebody else's writer."""
    writer = Writer1(path)
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        for topic, (name, count, step) in TOPICS.items():
            to = writer.add_connection(topic, name, typestore=TYPES1)
            for at in range(count):
                data = TYPES1.serialize_ros1(message(TYPES1, name, at), name)
                writer.write(to, START + at * step, data)


def write2(path: Path, plugin: Any, compressed: bool) -> None:
    """A ROS 2 bag by somebody else's writer."""
    writer = Writer2(path, version=9, storage_plugin=plugin)
    if compressed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        for topic, (name, count, step) in TOPICS.items():
            to = writer.add_connection(topic, name, typestore=TYPES)
            for at in range(count):
                data = TYPES.serialize_cdr(message(TYPES, name, at), name)
                writer.write(to, START + at * step, data)


def topics_of(lake: Lake, namespace: str, recording: str) -> dict[str, tuple[Any, ...]]:
    rows = lake.read(f"{namespace}$topics", filter=f"recording_id = '{recording}'")
    return {
        row["topic"]: (row["type"], row["messages"], row["start_time"], row["end_time"])
        for row in rows.cast(times_as_numbers(rows.schema)).to_pylist()
    }


def times_as_numbers(schema: Any) -> Any:
    import pyarrow as pa

    fields = [pa.field(f.name, pa.int64()) if pa.types.is_timestamp(f.type) else f for f in schema]
    return pa.schema(fields)


def recordings_of(lake: Lake, namespace: str) -> dict[str, dict[str, Any]]:
    names = (
        "recording_id path format size_bytes sha256 start_time end_time duration_ms messages error"
    )
    rows = lake.read(f"{namespace}$recordings", columns=names.split())
    found = rows.cast(times_as_numbers(rows.schema)).to_pylist()
    return {row["path"]: row for row in found}


def test_every_container(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """The same messages in six containers give the same topics."""
    folder = tmp_path / "bags"
    folder.mkdir()
    for name, compression in (
        ("plain", None),
        ("bz2", Writer1.CompressionFormat.BZ2),
        ("lz4", Writer1.CompressionFormat.LZ4),
    ):
        write1(folder / f"{name}.bag", compression)
    for plugin, name in ((StoragePlugin.SQLITE3, "db3"), (StoragePlugin.MCAP, "mcap")):
        write2(folder / f"folder_{name}", plugin, False)
    write2(folder / "folder_zstd", StoragePlugin.MCAP, True)
    summary = cli.json("import", str(folder), "--into", table)
    assert (summary["files"], summary["rows_added"], summary["errors"]) == (6, 6, 0)
    assert summary["tables"] == [f"{table}$recordings", f"{table}$topics"]
    recordings = recordings_of(lake, table)
    assert {row["format"] for row in recordings.values()} == {"rosbag1", "rosbag2_sqlite3", "mcap"}
    for path, row in recordings.items():
        data = (folder / path).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["messages"] == 150
        assert (row["start_time"], row["end_time"]) == (START, START + 29 * (NS // 10))
        assert row["duration_ms"] == 2_900
        found = topics_of(lake, table, row["recording_id"])
        for topic, (name, count, step) in TOPICS.items():
            kind = name.replace("/msg/", "/") if row["format"] == "rosbag1" else name
            times = (START, START + (count - 1) * step) if count else (None, None)
            assert found[topic] == (kind, count, *times), path
    again = cli.json("import", str(folder), "--into", table)
    assert (again["files_unchanged"], again["rows_added"]) == (6, 0)


def test_real_recordings(cli: Cli, lake: Lake, bags: Path, table: str) -> None:
    cli.json("import", str(bags), "--into", table)
    found = recordings_of(lake, table)
    counts = {path: (row["messages"], row["error"]) for path, row in found.items()}
    assert counts == {
        "ROS_example.bag": (26_566, None),
        "nav2_turtlebot.mcap": (8_197, None),
        "tf_example.bag": (518, None),
        "tf_example/tf_example.db3": (518, None),
    }
    topics = topics_of(lake, table, "nav2_turtlebot.mcap")
    assert {"/odom", "/tf", "/tf_static", "/amcl_pose"} <= topics.keys()
    assert topics["/odom"][0] == "nav_msgs/msg/Odometry"
    # The same messages in a bag and in SQLite.
    one, two = (topics_of(lake, table, n) for n in ("tf_example.bag", "tf_example/tf_example.db3"))
    assert one["/tf"][1:] == two["/tf"][1:]
    assert one["/tf"][1] + one["/tf_static"][1] == 518


def test_without_table_and_namespace(cli: Cli, bags: Path) -> None:
    summary = cli.json("import", str(bags / "tf_example"))
    assert summary["tables"] == ["recordings$recordings", "recordings$topics"]
    assert summary["rows_added"] + summary["files_unchanged"] == 1


def test_a_folder_with_other_files(
    cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str
) -> None:
    """Recordings go to their namespace, everything else to the table."""
    folder = tmp_path / "day"
    folder.mkdir()
    shutil.copy(bags / "tf_example.bag", folder)
    (folder / "notes.txt").write_text("sunny")
    summary = cli.json("import", str(folder), "--into", table, "--table", f"{table}$files")
    assert (summary["files"], summary["rows_added"]) == (2, 2)
    assert lake.read(f"{table}$files", columns=["path"])["path"].to_pylist() == ["notes.txt"]
    assert recordings_of(lake, table).keys() == {"tf_example.bag"}


def test_a_recording_that_changed(
    cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str
) -> None:
    """Its row and its topics are replaced; no topic of the old one stays."""
    bag = tmp_path / "it's.bag"
    shutil.copy(bags / "ROS_example.bag", bag)
    cli.json("import", str(bag), "--into", table)
    assert len(topics_of(lake, table, "it''s.bag")) == 3
    shutil.copy(bags / "tf_example.bag", bag)
    assert cli.json("import", str(bag), "--into", table)["rows_replaced"] == 1
    assert recordings_of(lake, table)["it's.bag"]["messages"] == 518
    assert topics_of(lake, table, "it''s.bag").keys() == {"/tf", "/tf_static"}


def test_a_recording_that_cannot_be_read_any_more(
    cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str
) -> None:
    """What the tables have of it stays, its topics too."""
    cli.heeds_modes()
    bag = tmp_path / "x.bag"
    shutil.copy(bags / "tf_example.bag", bag)
    cli.json("import", str(bag), "--into", table)
    before = recordings_of(lake, table), topics_of(lake, table, "x.bag")
    bag.chmod(0)
    summary = cli.json("import", str(bag), "--into", table)
    assert (summary["rows_replaced"], summary["errors"]) == (0, 1)
    assert (recordings_of(lake, table), topics_of(lake, table, "x.bag")) == before
    bag.chmod(0o600)
    assert cli.json("import", str(bag), "--into", table)["files_unchanged"] == 1


def test_a_recording_that_is_still_going_on(
    cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str
) -> None:
    """A part of it is not taken for the whole; the next import takes it when it has ended."""
    bag = tmp_path / "x.bag"
    shutil.copy(bags / "tf_example.bag", bag)
    with bag.open("ab") as file:
        file.write(b"\0" * (24 << 20))
    over = threading.Event()

    def go_on() -> None:
        with bag.open("ab", buffering=0) as file:
            while not over.wait(0.0005):
                file.write(b"\0")

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        summary = cli.json("import", str(bag), "--into", table)
    finally:
        over.set()
        writer.join()
    assert (summary["rows_added"], summary["errors"]) == (1, 1)
    row = recordings_of(lake, table)["x.bag"]
    assert (row["sha256"], row["messages"]) == (None, None)
    assert "written to" in row["error"]
    assert topics_of(lake, table, "x.bag") == {}
    assert cli.json("import", str(bag), "--into", table)["rows_replaced"] == 1
    row = recordings_of(lake, table)["x.bag"]
    assert row["sha256"] == hashlib.sha256(bag.read_bytes()).hexdigest()
    assert row["messages"] == 518


def bag_record(data: bytes, **fields: bytes) -> bytes:
    """A record of a ROS 1 bag by hand."""
    parts = [name.encode() + b"=" + value for name, value in fields.items()]
    header = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return struct.pack("<I", len(header)) + header + struct.pack("<I", len(data)) + data


def test_topics_with_endless_names(cli: Cli, lake: Lake, tmp_path: Path, table: str) -> None:
    """A small bag whose topics would be more than a message takes."""
    records = []
    for at in range(8_192):
        topic = f"/{at}".encode().ljust(4_096, b"n")
        conn = struct.pack("<I", at)
        records.append(bag_record(b"", op=b"\x07", conn=conn, topic=topic))
        records.append(bag_record(b"", op=b"\x02", conn=conn, time=struct.pack("<II", at, 0)))
    chunk = bz2.compress(b"".join(records))
    bag = tmp_path / "names.bag"
    bag.write_bytes(b"#ROSBAG V2.0\n" + bag_record(chunk, op=b"\x05", compression=b"bz2"))
    assert bag.stat().st_size < 1 << 20
    summary = cli.json("import", str(bag), "--into", table)
    assert (summary["rows_added"], summary["errors"]) == (1, 1)
    row = recordings_of(lake, table)["names.bag"]
    assert row["messages"] == 8_192
    assert "left out" in row["error"]
    assert 1_000 < summary["topics"] == len(topics_of(lake, table, "names.bag")) < 8_192


def test_broken_recordings(cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str) -> None:
    """What is there of a broken recording is counted, and its row says what is wrong."""
    folder = tmp_path / "broken"
    folder.mkdir()
    bag, mcap = (bags / "ROS_example.bag").read_bytes(), (bags / "nav2_turtlebot.mcap").read_bytes()
    db3 = (bags / "tf_example/tf_example.db3").read_bytes()
    files = {
        "cut.bag": bag[: len(bag) // 2],
        "cut.mcap": mcap[: len(mcap) // 2],
        "cut.db3": db3[: len(db3) // 2],
        "empty.bag": b"",
        "empty.mcap": b"",
        "empty.db3": b"",
        "none.bag": b"no bag at all",
        "none.mcap": b"no mcap at all",
        "none.db3": b"no database at all",
        "lying.mcap": mcap[:8] + b"\x06" + b"\xff" * 7 + b"\x7f" + b"\0" * 100,
        "lying.bag": bag[:13] + b"\xff\xff\xff\xff" + b"\0" * 100,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    summary = cli.json("import", str(folder), "--into", table)
    assert (summary["rows_added"], summary["errors"]) == (len(files), len(files))
    found = recordings_of(lake, table)
    assert all(row["error"] for row in found.values())
    assert 0 < found["cut.bag"]["messages"] < 26_566
    assert 0 < found["cut.mcap"]["messages"] < 8_197
    assert found["empty.bag"]["error"] == "the file is empty"
    for name, data in files.items():
        assert found[name]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.timeout(300)
def test_mutated_recordings(
    cli: Cli, lake: Lake, bags: Path, tmp_path: Path, table: str, soak: bool
) -> None:
    """Damaged bytes anywhere: a row for each, whatever it says."""
    folder = tmp_path / "mutated"
    folder.mkdir()
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")
    chance = random.Random(seed)
    sources = [
        bags / "tf_example.bag",
        bags / "nav2_turtlebot.mcap",
        bags / "tf_example/tf_example.db3",
    ]
    count = 200 if soak else 30
    for at in range(count):
        source = chance.choice(sources)
        data = bytearray(source.read_bytes())
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (folder / f"{at}{source.suffix}").write_bytes(data)
    summary = cli.json("import", str(folder), "--into", table)
    assert summary["rows_added"] == count == len(recordings_of(lake, table))
