"""Answers made of rows: read when they are asked for, as Arrow, pandas or polars.

A plan names its endpoints by tickets of a fixed version. A stream that breaks half way is opened
again at the same ticket, and what was received already is passed over: a ticket gives the same rows
in the same order.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lakebed._flight import FlightDoor, Stream
from lakebed._retry import ATTEMPTS, pause_s, retried
from lakebed.errors import Unavailable

if TYPE_CHECKING:
    import pandas
    import polars

# Endpoints that are read at one time.
STREAMS_MAX = 4


@dataclass(frozen=True)
class Plan:
    """What a query gives: its schema where that is known before, and the tickets of its parts."""

    schema: pa.Schema | None
    tickets: Sequence[bytes]
    # Rows in all; None where counting them would cost reading them.
    rows: int | None
    version: int | None


def plan_of(door: FlightDoor, command: bytes) -> Plan:
    """Plans a command; asks again while the server is busy or away."""
    info = retried(lambda: door.info(command))
    metadata = info.app_metadata
    version = None
    if metadata:
        import json

        try:
            version = json.loads(metadata).get("version")
        except (ValueError, AttributeError):
            version = None
    return Plan(
        schema=info.schema if info.schema is not None and len(info.schema) > 0 else None,
        tickets=[endpoint.ticket.ticket for endpoint in info.endpoints],
        rows=info.total_records if info.total_records >= 0 else None,
        version=version,
    )


def resumed(
    door: FlightDoor, ticket: bytes, attempts: int = ATTEMPTS
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and batches of a ticket; a connection that is lost is made good by another.

    Raises:
        LakebedError: the server refused, or stayed away.
    """

    def opened() -> tuple[Stream, pa.Schema]:
        fresh = door.stream(ticket)
        # The call is made here; a refusal shows with the first message.
        return fresh, fresh.schema

    stream, schema = retried(opened)

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal stream
        received, failures = 0, 0
        while True:
            skip = received
            try:
                for batch in stream:
                    if skip >= batch.num_rows:
                        skip -= batch.num_rows
                        continue
                    fresh = batch.slice(skip) if skip else batch
                    skip = 0
                    received += fresh.num_rows
                    failures = 0
                    yield fresh
                return
            except Unavailable as error:
                failures += 1
                if failures >= attempts:
                    raise
                time.sleep(pause_s(failures - 1, error))
                stream, _ = retried(opened)

    return schema, batches()


class Rows:
    """The rows of a query. Each method reads them anew, except after a change in SQL, which runs
    once."""

    def __init__(self, door: FlightDoor, command: bytes) -> None:
        self._door = door
        self._command = command

    def plan(self) -> Plan:
        """Asks the server what it would send, and pins the version for an hour."""
        return plan_of(self._door, self._command)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows batch by batch, in order, in bounded memory."""
        for ticket in self.plan().tickets:
            _, batches = resumed(self._door, ticket)
            yield from batches

    def to_arrow(self) -> pa.Table:
        """All rows as one table; several parts are read at one time."""
        plan = self.plan()

        def part(ticket: bytes) -> pa.Table:
            schema, batches = resumed(self._door, ticket)
            return pa.Table.from_batches(batches, schema)

        if len(plan.tickets) == 1:
            return part(plan.tickets[0])
        if not plan.tickets:
            return (plan.schema or pa.schema([])).empty_table()
        with ThreadPoolExecutor(min(STREAMS_MAX, len(plan.tickets))) as pool:
            return pa.concat_tables(pool.map(part, plan.tickets))

    def to_pandas(self) -> "pandas.DataFrame":
        """All rows as a data frame of pandas, which has to be installed."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> "polars.DataFrame":
        """All rows as a data frame of polars, which has to be installed."""
        import polars

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame), "a table of Arrow becomes a data frame"
        return frame

    def to_list(self) -> list[dict[str, object]]:
        """All rows as dicts."""
        rows: list[dict[str, object]] = self.to_arrow().to_pylist()
        return rows

    def count(self) -> int:
        """How many rows there are; reads them only where the server cannot say it."""
        plan = self.plan()
        if plan.rows is not None:
            return plan.rows
        return sum(batch.num_rows for batch in self.to_batches())
