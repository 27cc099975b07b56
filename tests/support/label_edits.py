"""Who edits labels of pictures, and who watches that the pictures stay where they are."""

import io
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from support.data import blob_field
from support.server import LakebedServer
from support.sql import Sql
from support.stored_files import Stored, look

TABLE = "pictures"
LOG = "edits"
CLIENTS = 4
# How every picture begins, and nothing else in the table.
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLACE_WIDTH = 8

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("edits", pa.int32()),
        pa.field("place", pa.list_(pa.float32(), PLACE_WIDTH)),
        blob_field(),
    ]
)

LOG_SCHEMA = pa.schema(
    [pa.field("client", pa.int32()), pa.field("turn", pa.int32()), pa.field("cells", pa.int32())]
)


def picture(number: int, seed: int) -> bytes:
    """A picture of noise, of 2 to 4 KB, unlike all others."""
    dice = np.random.default_rng([seed, number])
    side = int(dice.integers(26, 37))
    pixels = dice.integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def place(number: int) -> list[float]:
    """A vector by which a row is found again: nobody else has the same."""
    return [float(number // 512), float(number % 512), *[0.0] * (PLACE_WIDTH - 2)]


def label_of(text: str, number: int) -> str:
    """A label that says whose it is."""
    return f"{text} of {number}"


def batches(ids: range, seed: int, digests: list[bytes], digest: Callable[[bytes], bytes]) -> list:
    """Rows as they are before any edit; the digests of their pictures are added."""
    found = []
    for start in range(ids.start, ids.stop, 1_000):
        some = range(start, min(start + 1_000, ids.stop))
        cells = [picture(number, seed) for number in some]
        digests += [digest(cell) for cell in cells]
        columns = [
            pa.array(some, pa.int64()),
            pa.array([label_of("new", number) for number in some]),
            pa.array([0] * len(some), pa.int32()),
            pa.array([place(number) for number in some], SCHEMA.field("place").type),
            pa.array(cells, pa.large_binary()),
        ]
        found.append(pa.record_batch(columns, schema=SCHEMA))
    return found


class Editor:
    """One client, which has every fourth row for itself, and a model of what it did to them."""

    def __init__(self, server: LakebedServer, number: int, pictures: int, seed: int) -> None:
        self.number, self.pictures = number, pictures
        self.dice = random.Random(f"{seed}-{number}")
        self.lake, self.sql = server.lake(), Sql(server)
        self.own = range(number, pictures, CLIENTS)
        self.model = {id: (label_of("new", id), 0) for id in self.own}
        self.upserts = self.updates = self.edits = 0

    def edit(self, count: int, batch: int) -> None:
        """So many cells or some more, by batches of one size; every tenth change is an UPDATE."""
        turn = 0
        while self.edits < count:
            turn += 1
            text = f"{self.number}.{turn}"
            touched = self.update(text, batch) if turn % 10 == 0 else self.upsert(text, batch)
            self.edits += touched
            line = {"client": [self.number], "turn": [turn], "cells": [touched]}
            self.lake.write(LOG, pa.table(line, schema=LOG_SCHEMA))

    def upsert(self, text: str, batch: int) -> int:
        """Rows anywhere, by key, with the columns that are edited."""
        ids = self.dice.sample(self.own, batch)
        for id in ids:
            self.model[id] = (label_of(text, id), self.model[id][1] + 1)
        rows = {
            "id": pa.array(ids, pa.int64()),
            "label": [self.model[id][0] for id in ids],
            "edits": pa.array([self.model[id][1] for id in ids], pa.int32()),
        }
        schema = pa.schema([SCHEMA.field(name) for name in rows])
        receipt = self.lake.upsert(TABLE, pa.table(rows, schema=schema), ["id"])
        assert receipt["rows"] == batch, receipt
        self.upserts += 1
        return batch

    def update(self, text: str, batch: int) -> int:
        """Rows beside each other, by a predicate."""
        first = self.dice.randrange(self.pictures - batch * CLIENTS + 1)
        end = first + batch * CLIENTS
        ids = [id for id in range(first, end) if id % CLIENTS == self.number]
        done = self.sql.change(
            f"UPDATE {TABLE} SET label = '{text} of ' || CAST(id AS STRING), edits = edits + 1 "
            f"WHERE id >= {first} AND id < {end} AND id % {CLIENTS} = {self.number}"
        )
        assert done == len(ids), f"{done} rows of {len(ids)}"
        for id in ids:
            self.model[id] = (label_of(text, id), self.model[id][1] + 1)
        self.updates += 1
        return len(ids)

    def close(self) -> None:
        """Ends the connections."""
        self.lake.close()
        self.sql.close()


@dataclass
class Watch:
    """Looks at the table's folder all the time: how much is there, and whether a picture is in any
    file that was not there at the start."""

    folder: Path
    start: dict[str, Stored]
    versions_most: int = 0
    files_most: int = 0
    bytes_most: int = 0
    looks: int = 0
    new_files: int = 0
    with_pictures: list[str] = field(default_factory=list)
    read: dict[str, Stored] = field(default_factory=dict)

    def look(self) -> None:
        """One look. A file is read again when it has grown."""
        now = look(self.folder)
        new = {path: file for path, file in now.items() if path not in self.start}
        self.looks += 1
        self.versions_most = max(self.versions_most, count_versions(now))
        self.files_most = max(self.files_most, len(now))
        self.bytes_most = max(self.bytes_most, sum(file.bytes for file in new.values()))
        for path, file in new.items():
            if path.startswith("data/") and self.read.get(path) != file:
                self.new_files += path not in self.read
                self.read[path] = file
                if has_picture(self.folder / path):
                    self.with_pictures.append(path)


def count_versions(files: dict[str, Stored]) -> int:
    """How many versions a folder has."""
    return sum(path.endswith(".manifest") for path in files)


def count_pictures(path: Path) -> int:
    """How many pictures begin in a file."""
    return path.read_bytes().count(SIGNATURE)


def has_picture(path: Path) -> bool:
    """Whether one does; a file that went meanwhile has none any more."""
    try:
        return count_pictures(path) > 0
    except FileNotFoundError:
        return False


class Together:
    """Threads that do something over and over until they are stopped, or one of them fails."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.problems: list[BaseException] = []
        self.threads: list[threading.Thread] = []

    def again(self, work: Callable[[], None], pause_s: float) -> None:
        """Begins to do something again and again."""

        def run() -> None:
            try:
                while not self.stop.is_set():
                    work()
                    self.stop.wait(pause_s)
            except BaseException as problem:
                self.problems.append(problem)
                self.stop.set()

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if self.problems:
            raise self.problems[0]


def seconds_since(began: float) -> str:
    """For people."""
    return f"{time.monotonic() - began:.1f} s"
