"""Durable upserts of 100 rows from 64 clients against pylance, which commits each by itself."""

import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from bench.do_put import sync_all
from bench.rounds import Comparison, compare
from support.server import LakebedServer

BAR = 10.0
CLIENTS = 64
ROWS = 100
UPSERTS = 320
STORED = 100_000


def rows(numbers: np.ndarray, value: int) -> pa.Table:
    """A label and a score by key."""
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "label": [f"label {value} of {number}" for number in numbers],
            "score": pa.array(numbers * 0.5 + value, pa.float64()),
        }
    )


def run(server: LakebedServer, folder: Path, rounds: int, _table_mb: int) -> list[Comparison]:
    """Half of the keys are stored and half are new. Each round has a new table."""
    lakes = [server.lake() for _ in range(CLIENTS)]
    stored = rows(np.arange(STORED), 0)
    dice = np.random.default_rng(5)
    work = [
        rows(dice.choice(2 * STORED, ROWS, replace=False), number + 1) for number in range(UPSERTS)
    ]
    names, paths = [], []
    for number in range(rounds + 1):
        names.append(f"upserts_{number}")
        lakes[0].create(names[-1], stored)
        paths.append(folder / "peer" / f"upserts_{number}.lance")
        paths[-1].parent.mkdir(exist_ok=True)
        lance.write_dataset(
            stored, str(paths[-1]), data_storage_version="2.2", enable_stable_row_ids=True
        )
        sync_all(paths[-1])
    next_name, next_path = itertools.cycle(names), itertools.cycle(paths)

    def ours() -> None:
        name = next(next_name)

        def client(number: int) -> None:
            for some in work[number::CLIENTS]:
                lakes[number].upsert(name, some, ["id"])

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))

    def theirs() -> None:
        path = next(next_path)
        dataset = lance.dataset(str(path))
        known = set(path.rglob("*"))
        for some in work:
            merge = dataset.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(some)
            known |= sync_new(path, known)

    what = f"{UPSERTS} upserts of {ROWS} rows into {STORED:,}, {CLIENTS} clients"
    peer = "pylance, one commit each, fsync"
    try:
        return [compare("upserts", peer, what, BAR, rounds, ours, theirs)]
    finally:
        for lake in lakes:
            lake.close()
        shutil.rmtree(folder / "peer", ignore_errors=True)


def sync_new(folder: Path, known: set[Path]) -> set[Path]:
    """fsync of the files that are new and of the folders that they are in; which they are."""
    new = {path for path in folder.rglob("*") if path not in known}
    for path in [*new, *{path.parent for path in new}]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return new
