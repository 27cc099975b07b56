"""4,096 random rows by row id through the server against pylance's take in this process."""

from pathlib import Path

import lance
import numpy as np

from bench.rounds import Comparison, compare
from bench.rows import SCHEMA, make_batches, rows_in
from support.server import LakebedServer

BAR = 0.5
TAKEN = 4_096
REPEATS = 10


def run(server: LakebedServer, _folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """Both sides take the same rows out of the same files, ten takes a round."""
    rows = rows_in(table_mb)
    lake = server.lake()
    lake.write("take", make_batches(rows), "create", schema=SCHEMA, timeout_s=600)
    dataset = lance.dataset(str(server.table_path("take")))
    dice = np.random.default_rng(5)
    draws = [dice.choice(rows, TAKEN, replace=False).tolist() for _ in range(REPEATS)]
    first = lake.read("take", row_ids=draws[0])
    assert first["id"].to_pylist() == draws[0], "a new table's row ids count from 0"

    def ours() -> None:
        for draw in draws:
            assert lake.read("take", row_ids=draw).num_rows == TAKEN

    def theirs() -> None:
        for draw in draws:
            assert dataset.take(draw).num_rows == TAKEN

    what = f"{REPEATS} takes of {TAKEN:,} of {rows:,} rows"
    try:
        return [compare("take", "pylance in process", what, BAR, rounds, ours, theirs)]
    finally:
        lake.close()
