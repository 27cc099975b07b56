"""A filtered aggregate over 10 million rows: ADBC against DuckDB on the same Lance table."""

from pathlib import Path

import adbc_driver_flightsql.dbapi as flightsql
import duckdb
import numpy as np
import pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions

from bench.rounds import Comparison, compare
from support.duck import connect
from support.server import LakebedServer

BAR = 0.5
ROWS = 10_000_000
BATCH_ROWS = 500_000
REPEATS = 3

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("sensor", pa.int32()),
        pa.field("site", pa.string()),
        pa.field("speed", pa.float64()),
        pa.field("distance", pa.float64()),
    ]
)
QUERY = """
SELECT site, count(*) AS drives, avg(speed) AS speed, max(distance) AS distance
FROM {table} WHERE speed > 20 AND sensor < 70 GROUP BY site ORDER BY site
"""


def make_batches() -> list[pa.RecordBatch]:
    """Drives at a hundred sites, in memory."""
    dice = np.random.default_rng(7)
    names = pa.array([f"site-{number:03}" for number in range(100)])
    batches = []
    for start in range(0, ROWS, BATCH_ROWS):
        sites = names.take(pa.array(dice.integers(0, 100, BATCH_ROWS)))
        columns = [
            pa.array(np.arange(start, start + BATCH_ROWS, dtype=np.int64)),
            pa.array(dice.integers(0, 100, BATCH_ROWS, dtype=np.int32)),
            sites,
            pa.array(dice.random(BATCH_ROWS) * 40),
            pa.array(dice.random(BATCH_ROWS) * 1_000),
        ]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return batches


def run(server: LakebedServer, _folder: Path, rounds: int, _table_mb: int) -> list[Comparison]:
    """Both sides give the same hundred rows."""
    lake = server.lake()
    lake.write("drives", make_batches(), "create", schema=SCHEMA, timeout_s=600)
    lake.close()
    peer = connect()
    path = server.table_path("drives")
    header = DatabaseOptions.AUTHORIZATION_HEADER.value
    ours = flightsql.connect(
        f"grpc://{server.flight_address}", db_kwargs={header: f"Bearer {server.admin_key}"}
    )
    cursor = ours.cursor()

    def asked() -> pa.Table:
        cursor.execute(QUERY.format(table="drives"))
        return cursor.fetch_arrow_table()

    def asked_of_peer() -> pa.Table:
        return peer.sql(QUERY.format(table=f"'{path}'")).to_arrow_table()

    same(asked(), asked_of_peer())
    what = f"{REPEATS} times a filtered aggregate over {ROWS:,} rows"
    try:
        return [
            compare(
                "sql",
                f"DuckDB {duckdb.__version__} on the same table",
                what,
                BAR,
                rounds,
                lambda: [asked() for _ in range(REPEATS)],
                lambda: [asked_of_peer() for _ in range(REPEATS)],
            )
        ]
    finally:
        cursor.close()
        ours.close()
        peer.close()


def same(one: pa.Table, other: pa.Table) -> None:
    """Refuses to compare two answers that differ."""
    assert one.num_rows == other.num_rows == 100
    assert one["site"].to_pylist() == other["site"].to_pylist()
    assert one["drives"].to_pylist() == other["drives"].to_pylist()
    assert np.allclose(one["speed"].to_numpy(), other["speed"].to_numpy())
    assert np.allclose(one["distance"].to_numpy(), other["distance"].to_numpy())
