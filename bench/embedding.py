"""An embedding job from its submission to its end, against the same model fed from memory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.rounds import Comparison, compare
from lakebed.models import RowError, load
from lakebed.worker.batches import cut
from support.server import LakebedServer
from support.worker import CACHE, PICTURE_MODEL, TEXT_MODEL, Jobs, Worker

# By table.
BARS = {"captions": 0.8, "pictures": 0.85}
TEXTS = 3_000
PICTURES = 800
STAMPS = CACHE / "data/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
SUBJECTS = ["a car", "the old bridge", "two people", "a dog", "the left lane", "a yellow sign"]
PLACES = ["in the rain", "on a wet road at night", "near the station", "behind a parked truck"]


def texts() -> list[str]:
    """Captions of five to thirty words."""
    dice = np.random.default_rng(11)
    found = []
    for number in range(TEXTS):
        parts = [
            f"{SUBJECTS[dice.integers(len(SUBJECTS))]} {PLACES[dice.integers(len(PLACES))]}"
            for _ in range(1 + dice.integers(4))
        ]
        found.append(f"{number}: " + ", ".join(parts))
    return found


def pictures() -> list[bytes]:
    """Photographs and drawings, as their files hold them."""
    files = sorted(STAMPS.rglob("*.png"))
    cells = [path.read_bytes() for path in files]
    return (cells * (1 + PICTURES // len(cells)))[:PICTURES]


def from_memory(model: Any, cells: list[Any]) -> None:
    """What nothing but the model takes: rows of like cost together, in its best batches, as many at
    once as it is for."""
    prepared = [row for row in model.prepare(cells) if not isinstance(row, RowError)]
    prepared.sort(key=lambda row: row.cost)
    costs = [row.cost for row in prepared]
    parts = cut(costs, model.batch_rows, model.batch_cost)
    batches = [prepared[part] for part in parts]
    with ThreadPoolExecutor(model.lanes) as pool:
        for _ in pool.map(model.compute, batches):
            pass


def run(server: LakebedServer, _folder: Path, rounds: int, _table_mb: int) -> list[Comparison]:
    """Texts and pictures, each with one worker on all cores."""
    lake, jobs = server.lake(), Jobs(server)
    blob = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    lake.create("captions", pa.table({"text": texts()}))
    lake.create("pictures", pa.table([pictures()], schema=pa.schema([blob])))
    lake.close()
    found = []
    for table, column, name, cells in (
        ("captions", "text", TEXT_MODEL, texts()),
        ("pictures", "data", PICTURE_MODEL, pictures()),
    ):
        model = load(name, CACHE, device="cpu", threads=os.cpu_count())

        def job(table: str = table, column: str = column, name: str = name) -> None:
            begun = jobs.submit(table, column, "vector", name, recompute=True)
            ended = jobs.wait(begun, 600)
            assert ended["job_state"] == "DONE", ended

        worker = Worker(server, f"bench-{table}", slots=3).start()
        try:
            jobs.wait_for_workers(1)
            what = f"{len(cells):,} rows of {column}, one worker on {os.cpu_count()} cores"
            found.append(
                compare(
                    f"embed {table}",
                    "the same model fed from memory",
                    what,
                    BARS[table],
                    rounds,
                    job,
                    lambda model=model, cells=cells: from_memory(model, cells),
                )
            )
        finally:
            worker.kill()
    return found
