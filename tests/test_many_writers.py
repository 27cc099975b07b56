"""Many writers at once, most of whom send nothing for now."""

import time
from pathlib import Path

import pyarrow as pa

from support.data import numbered
from support.flight import commit_marker, finish, write_command
from support.server import LakebedServer

IDLE_WRITERS = 64


def test_idle_writers_hold_no_memory(server: LakebedServer, table: str) -> None:
    """With the default limits, and each of the idle ones in the middle of its write."""
    lake = server.lake()
    lake.create(table, numbered(0))
    idle = []
    for i in range(IDLE_WRITERS):
        client = server.lake()
        writer, reader = client.begin(write_command(table), numbered(0).schema, 120)
        writer.write_batch(numbered(1, start=i).to_batches()[0])
        idle.append((client, writer, reader))
    began = time.monotonic()
    assert lake.write(table, numbered(1, start=1_000), timeout_s=30)["rows"] == 1
    assert time.monotonic() - began < 5
    for _, writer, reader in idle:
        assert finish(writer, reader)["rows"] == 1
    ids = [*range(IDLE_WRITERS), 1_000]
    assert sorted(lake.read(table)["id"].to_pylist()) == ids


def test_large_batches_wait_for_each_other(make_server: type, tmp_path: Path) -> None:
    """Batches that are larger than the limit together, and one that is larger alone, get in."""
    config = tmp_path / "lakebed.toml"
    config.write_text("[limits]\nwrite_memory_bytes_max = 16777216\n")
    server = make_server(args=["--config", str(config)]).start()
    lake = server.lake()
    values = pa.table({"x": pa.array(range(4 << 20), pa.int64())})
    lake.create("t", values.slice(0, 0))
    writers = [lake.begin(write_command("t"), values.schema) for _ in range(4)]
    for writer, _ in writers:
        writer.write_table(values.slice(0, 1 << 20), 1 << 19)
    receipts = [finish(writer, reader) for writer, reader in writers]
    assert [receipt["rows"] for receipt in receipts] == [1 << 20] * 4
    whole = lake.write("t", values, commit="explicit", marker=commit_marker(4 << 20))
    assert whole["rows"] == 4 << 20
