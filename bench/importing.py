"""`lakebed import`: many small files, and one large recording."""

import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from bench.rounds import Comparison, compare
from support.server import LakebedServer, built_binary
from support.worker import CACHE

SMALL_FILES = 10_000
LARGE_BYTES = 1 << 30
LARGE_BAR = 0.5
STAMPS = CACHE / "data/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


def small_files(folder: Path) -> Path:
    """Pictures of 2 to 20 KiB under names of their own, 100 in a folder."""
    cells = [path.read_bytes() for path in sorted(STAMPS.rglob("*.png"))]
    cells = [cell for cell in cells if 2 << 10 <= len(cell) <= 20 << 10]
    for number in range(SMALL_FILES):
        place = folder / f"{number // 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        # Each is another file: bytes behind a picture's end change its digest and nothing else.
        cell = cells[number % len(cells)] + number.to_bytes(8, "little")
        (place / f"{number:05}.png").write_bytes(cell)
    return folder


def large_recording(folder: Path) -> Path:
    """A ROS 1 bag of 1 GiB: pictures of a camera, one in a chunk, written by rosbags."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "large.bag"
    store = get_typestore(Stores.ROS1_NOETIC)
    image_type = store.types["sensor_msgs/msg/Image"]
    header_type = store.types["std_msgs/msg/Header"]
    time_type = store.types["builtin_interfaces/msg/Time"]
    pixels = np.random.default_rng(3).integers(0, 255, 1 << 20, dtype=np.uint8)
    with Writer(path) as writer:
        connection = writer.add_connection("/camera", image_type.__msgtype__, typestore=store)
        for number in range(LARGE_BYTES >> 20):
            stamp = time_type(sec=number, nanosec=0)
            header = header_type(seq=number, stamp=stamp, frame_id="camera")
            image = image_type(
                header=header,
                height=1024,
                width=1024,
                encoding="mono8",
                is_bigendian=0,
                step=1024,
                data=np.roll(pixels, number),
            )
            bytes_ = store.serialize_ros1(image, image_type.__msgtype__)
            writer.write(connection, number * 1_000_000_000, bytes_)
    return path


def forget(path: Path) -> None:
    """Takes a file out of the page cache, so that reading it means the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """Reads a file from its first to its last byte."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(4 << 20)
        while file.readinto(buffer):
            pass


def copy(path: Path, to: Path) -> None:
    """Reads a file and writes it durably beside it, past the page cache: the best of a disk."""
    piece = 8 << 20
    with mmap.mmap(-1, piece) as memory, path.open("rb", buffering=0) as file:
        out = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
        try:
            end = 0
            while read := file.readinto(memory):
                # Whole sectors; the rest is cut off below.
                os.write(out, memoryview(memory)[: (read + 4095) // 4096 * 4096])
                end += read
            os.ftruncate(out, end)
            os.fsync(out)
        finally:
            os.close(out)
            to.unlink()


def by_hand(folder: Path, to: Path) -> None:
    """The same rows written by pylance: read, hashed, and in a blob column."""
    shutil.rmtree(to, ignore_errors=True)
    blob = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([("path", pa.string()), ("sha256", pa.string()), blob])
    files = sorted(folder.rglob("*.png"))
    for start in range(0, len(files), 1_000):
        part = files[start : start + 1_000]
        cells = [path.read_bytes() for path in part]
        names = [str(path.relative_to(folder)) for path in part]
        digests = [hashlib.sha256(cell).hexdigest() for cell in cells]
        rows = pa.table([names, digests, cells], schema=schema)
        lance.write_dataset(rows, to, mode="append", data_storage_version="2.2")


def importer(server: LakebedServer) -> Callable[..., None]:
    """Runs the verb into a table of its own each time."""
    count = iter(range(1_000_000))

    def run_import(path: Path, *more: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(server.work / "home"),
            "LAKEBED_URL": f"http://{server.http_address}",
            "LAKEBED_API_KEY": server.admin_key,
        }
        target = more or ("--table", f"imported_{next(count)}")
        subprocess.run(
            [str(built_binary()), "import", str(path), *target],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    return run_import


def run(server: LakebedServer, folder: Path, rounds: int, _table_mb: int) -> list[Comparison]:
    """Small files against a script of one's own; a large one against reading it."""
    run_import = importer(server)
    small = small_files(folder / "small")
    hand = folder / "by-hand.lance"
    large = large_recording(folder / "large")
    count = iter(range(1_000_000))

    def large_file() -> None:
        forget(large)
        run_import(large, "--into", f"robots_{next(count)}")

    def large_read() -> None:
        forget(large)
        read(large)

    def large_copy() -> None:
        forget(large)
        copy(large, large.with_suffix(".copy"))

    return [
        compare(
            "import small",
            f"pylance {lance.__version__} in a script",
            f"{SMALL_FILES:,} pictures of 2 to 20 KiB",
            None,
            rounds,
            lambda: run_import(small),
            lambda: by_hand(small, hand),
        ),
        compare(
            "import large",
            "reading the file from the disk",
            f"one bag of {LARGE_BYTES >> 20} MiB",
            LARGE_BAR,
            rounds,
            large_file,
            large_read,
        ),
        compare(
            "import large",
            "copying the file durably on that disk, past the page cache",
            f"one bag of {LARGE_BYTES >> 20} MiB",
            None,
            rounds,
            large_file,
            large_copy,
        ),
    ]
