"""The LanceDB client over HTTP against itself inside this process: rows in, and all rows out."""

import shutil
from pathlib import Path

import lancedb
import pyarrow as pa

from bench.rounds import Comparison, compare
from bench.rows import ROW_BYTES, make_batches, rows_in
from support.server import LakebedServer

BAR = 0.6
INSERTED_ROWS = 1_000_000


def run(server: LakebedServer, folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """The same calls of the same client. In process it syncs nothing; Lakebed does."""
    address = f"http://{server.http_address}"
    remote = lancedb.connect("db://default", api_key=server.admin_key, host_override=address)
    place = folder / "lancedb"
    local = lancedb.connect(str(place))
    peer = f"lancedb {lancedb.__version__} in process"

    inserted = min(INSERTED_ROWS, rows_in(table_mb))
    rows = pa.Table.from_batches(make_batches(inserted)).slice(0, inserted)

    def insert(connection: lancedb.DBConnection) -> None:
        table = connection.create_table("inserted", schema=rows.schema, mode="overwrite")
        table.add(rows)

    insert_figure = compare(
        "insert, SDK",
        peer,
        f"create_table and add of {rows.num_rows:,} rows of {ROW_BYTES} bytes",
        BAR,
        rounds,
        lambda: insert(remote),
        lambda: insert(local),
    )
    for connection in (remote, local):
        connection.drop_table("inserted")
    batches = make_batches(rows_in(table_mb))
    schema = batches[0].schema
    ours = remote.create_table("read_all", batches, schema=schema)
    theirs = lancedb.connect(str(server.table_path("read_all").parent)).open_table("read_all")
    expected = sum(batch.num_rows for batch in batches)
    del batches

    def read(table: lancedb.table.Table) -> None:
        assert table.search().to_arrow().num_rows == expected

    read_figure = compare(
        "read all, SDK",
        peer,
        f"search().to_arrow() of {expected:,} rows, {expected * ROW_BYTES / 1e9:.1f} GB",
        BAR,
        rounds,
        lambda: read(ours),
        lambda: read(theirs),
    )
    remote.drop_table("read_all")
    shutil.rmtree(place, ignore_errors=True)
    return [insert_figure, read_figure]
