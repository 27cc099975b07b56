"""Inserts, merges and answers over HTTP stay in bounded memory, through the real client."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from support.lancedb import connect
from support.server import LakebedServer

MIB = 1 << 20
BOUND = 512 * MIB
WIDTH = 1_024
BATCH_ROWS = 2_000
SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("vector", pa.list_(pa.float32(), WIDTH))])


def batches(count: int, first: int = 0) -> Iterator[pa.RecordBatch]:
    """8 MB each, of numbers that hardly compress."""
    dice = np.random.default_rng(4)
    for number in range(first, first + count):
        start = number * BATCH_ROWS
        vectors = pa.array(dice.random(BATCH_ROWS * WIDTH, dtype=np.float32))
        columns = [
            pa.array(np.arange(start, start + BATCH_ROWS)),
            pa.FixedSizeListArray.from_arrays(vectors, WIDTH),
        ]
        yield pa.record_batch(columns, schema=SCHEMA)


def check_peak(server: LakebedServer, what: str) -> None:
    peak = server.peak_rss_bytes()
    print(f"{what}: peak {peak / MIB:.0f} MiB")
    assert peak < BOUND, f"{what} took {peak / MIB:.0f} MiB"


@pytest.mark.timeout(1_200)
def test_a_large_insert_a_merge_and_an_answer(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    """3 GB in the long form, a fifth of that in the short one."""
    count = 375 if soak else 75
    server = make_server().start()
    db = connect(server, client_config={"timeout_config": {"read_timeout": timedelta(minutes=10)}})
    table = db.create_table("t", schema=SCHEMA)
    version = table.version
    table.add(batches(count))
    check_peak(server, "insert")
    assert (table.count_rows(), table.version) == (count * BATCH_ROWS, version + 1)

    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = merge.execute(pa.RecordBatchReader.from_batches(SCHEMA, batches(count, count // 2)))
    half = (count - count // 2) * BATCH_ROWS
    assert (done.num_updated_rows, done.num_inserted_rows) == (
        half,
        count * BATCH_ROWS - half,
    )
    check_peak(server, "merge")
    rows = table.search().where(f"id < {20 * BATCH_ROWS}").to_arrow()
    assert rows.num_rows == 20 * BATCH_ROWS
    check_peak(server, "answer")
    nearest = table.search(np.zeros(WIDTH, dtype=np.float32)).limit(5).to_arrow()
    assert nearest.num_rows == 5
    check_peak(server, "exact search")
