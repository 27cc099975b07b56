"""Answers made of rows: read when they are asked for, as Arrow, pandas or polars.

A plan names its endpoints by tickets of a fixed version. A stream that breaks half way is opened
again at the same ticket, and what was received already is passed over: a ticket gives the same rows
in the same order. Those of SQL and of reads in any order give the same rows in another order, so
they begin anew, which can be done only as long as nobody has seen a row of theirs.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from lakebed._flight import FlightDoor, Stream
from lakebed._retry import ATTEMPTS, pause_s, retried
from lakebed.errors import Unavailable

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")

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
    door: FlightDoor, ticket: bytes, attempts: int = ATTEMPTS, *, keeps_order: bool = True
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema and batches of a ticket; a connection that is lost is made good by another.

    Args:
        keeps_order: whether the ticket gives its rows in the same order each time. One that does
            not cannot be gone on with once a row was given.

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
                if failures >= attempts or (received and not keeps_order):
                    raise
                time.sleep(pause_s(failures - 1, error))
                stream, _ = retried(opened)

    return schema, batches()


def anew(door: FlightDoor, ticket: bytes, read: Callable[[Stream], T]) -> T:
    """What `read` makes of a whole ticket; it begins at the first row again where the connection
    was lost."""
    return retried(lambda: read(door.stream(ticket)))


def _whole(stream: Stream) -> pa.Table:
    schema = stream.schema
    return pa.Table.from_batches(stream, schema)


def _counted(stream: Stream) -> int:
    return sum(batch.num_rows for batch in stream)


class Rows:
    """The rows of a query. Each method reads them anew, except after a change in SQL, which runs
    once."""

    def __init__(self, door: FlightDoor, command: bytes, *, keeps_order: bool = True) -> None:
        self._door = door
        self._command = command
        self._keeps_order = keeps_order

    def plan(self) -> Plan:
        """Asks the server what it would send, and pins the version for an hour."""
        return plan_of(self._door, self._command)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows batch by batch, in order, in bounded memory.

        Raises:
            Unavailable: the connection was lost and could not be made good, or the rows come in no
                fixed order (SQL, and `any_order` of a scan) and some were given already.
        """
        for ticket in self.plan().tickets:
            _, batches = resumed(self._door, ticket, keeps_order=self._keeps_order)
            yield from batches

    def to_arrow(self) -> pa.Table:
        """All rows as one table; several parts are read at one time."""
        plan = self.plan()

        def part(ticket: bytes) -> pa.Table:
            if not self._keeps_order:
                return anew(self._door, ticket, _whole)
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
        return sum(anew(self._door, ticket, _counted) for ticket in plan.tickets)
