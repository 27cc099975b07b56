"""DoGet of a stored table against a pyarrow Flight server that holds the same table in memory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow import flight

from bench.rounds import Comparison, compare
from bench.rows import SCHEMA, make_batches, rows_in
from support.server import LakebedServer

BAR = 0.7
STREAMS = 2


def drain(reader: flight.FlightStreamReader) -> int:
    """Reads a stream to its end; the rows."""
    return sum(chunk.data.num_rows for chunk in reader)


def run(server: LakebedServer, _folder: Path, rounds: int, table_mb: int) -> list[Comparison]:
    """One stream after the other, then two at a time."""
    rows = rows_in(table_mb)
    lake = server.lake()
    lake.write("do_get", make_batches(rows), "create", schema=SCHEMA, timeout_s=600)
    command = [sys.executable, "-m", "bench.arrow_server", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            peer = flight.FlightClient(f"grpc://127.0.0.1:{process.stdout.readline().strip()}")
            endpoints = lake.info("do_get").endpoints

            def ours(streams: int) -> None:
                with ThreadPoolExecutor(streams) as pool:
                    read = lambda endpoint: drain(lake.stream(endpoint.ticket))  # noqa: E731
                    assert sum(pool.map(read, endpoints)) == rows

            def theirs(streams: int) -> None:
                tickets = [flight.Ticket(f"{i}/{streams}".encode()) for i in range(streams)]
                with ThreadPoolExecutor(streams) as pool:
                    read = lambda ticket: drain(peer.do_get(ticket))  # noqa: E731
                    assert sum(pool.map(read, tickets)) == rows

            what = f"{rows:,} rows, {table_mb} MB"
            return [
                compare(
                    "DoGet" if streams == 1 else f"DoGet, {streams} streams",
                    "pyarrow server from memory",
                    what,
                    BAR if streams == 1 else None,
                    rounds,
                    lambda streams=streams: ours(streams),
                    lambda streams=streams: theirs(streams),
                )
                for streams in (1, STREAMS)
            ]
        finally:
            process.kill()
            lake.close()
