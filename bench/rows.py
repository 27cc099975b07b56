"""The table of the benchmarks: an id, a number and a vector of 128 floats, 528 bytes a row."""

import numpy as np
import pyarrow as pa

VECTOR_WIDTH = 128
ROW_BYTES = 8 + 8 + 4 * VECTOR_WIDTH
BATCH_ROWS = 4_096  # 2 MiB, the size of a batch on Lakebed's wire

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("value", pa.float64()),
        pa.field("vector", pa.list_(pa.float32(), VECTOR_WIDTH)),
    ]
)


def rows_in(megabytes: int) -> int:
    """How many rows make a table of that size, in whole batches."""
    return max(1, megabytes * 1_000_000 // ROW_BYTES // BATCH_ROWS) * BATCH_ROWS


def make_batches(rows: int) -> list[pa.RecordBatch]:
    """Random rows in memory."""
    dice = np.random.default_rng(11)
    batches = []
    for start in range(0, rows, BATCH_ROWS):
        vectors = dice.random(BATCH_ROWS * VECTOR_WIDTH, dtype=np.float32)
        columns = [
            pa.array(np.arange(start, start + BATCH_ROWS, dtype=np.int64)),
            pa.array(dice.random(BATCH_ROWS)),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors), VECTOR_WIDTH),
        ]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return batches
