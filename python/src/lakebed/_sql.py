"""SQL over Flight SQL: the few messages of that protocol that a statement needs, written by hand.

A handful of length-prefixed fields is less than a second generated package, and keeps protobuf out
of what the client needs.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import flight

from lakebed._flight import FlightDoor
from lakebed._rows import Plan, Rows, plan_of
from lakebed.errors import Internal, InvalidArgument, LakebedError

_TYPES = "type.googleapis.com/arrow.flight.protocol.sql."


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes: tag, length, bytes."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(kind: str, body: bytes) -> bytes:
    """A message inside `google.protobuf.Any`."""
    return _field(1, (_TYPES + kind).encode()) + _field(2, body)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of bytes of a message; others are passed over."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message):
                raise Internal("an answer of Flight SQL is cut")
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            yield tag >> 3, message[at : at + length]
            at += length
        elif tag & 7 == 0:
            varint()
        else:
            raise Internal("an answer of Flight SQL has a field of an unknown kind")


class Statement(Rows):
    """The rows of a statement. Run once, when it was given; read as often as asked."""

    def __init__(self, door: FlightDoor, command: bytes, plan: Plan) -> None:
        # The engine runs its parts side by side, so a second run may give another order.
        super().__init__(door, command, keeps_order=False)
        self._plan = plan

    def plan(self) -> Plan:
        """The plan that was made when the statement was given."""
        return self._plan


def run(door: FlightDoor, text: str, parameters: Sequence[Any] | None) -> Rows:
    """Plans a query, or runs a change.

    Raises:
        LakebedError: by kind, with the server's words about the place in the text;
            `CommitUnknown` where the answer to a change was lost.
    """
    if parameters is None:
        command = _message("CommandStatementQuery", _field(1, text.encode()))
        return _started(door, command)
    return _prepared(door, text, parameters)


def _started(door: FlightDoor, command: bytes) -> Rows:
    plan = plan_of(door, command)
    if plan.schema is not None:
        return Statement(door, command, plan)
    # A change runs when its ticket is opened, and its answer is one row. Once, whoever reads it.
    tables = [_changed(door, ticket) for ticket in plan.tickets]
    return _Held(door, command, plan, pa.concat_tables(tables) if tables else pa.table({}))


def _changed(door: FlightDoor, ticket: bytes) -> pa.Table:
    return pa.Table.from_batches(list(door.stream(ticket, changes=True)))


class _Held(Statement):
    """An answer that was read already."""

    def __init__(self, door: FlightDoor, command: bytes, plan: Plan, table: pa.Table) -> None:
        super().__init__(door, command, plan)
        self._table = table

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._table.to_batches()

    def to_arrow(self) -> pa.Table:
        return self._table

    def count(self) -> int:
        return int(self._table.num_rows)


def _prepared(door: FlightDoor, text: str, parameters: Sequence[Any]) -> Rows:
    if isinstance(parameters, (str, bytes)):
        raise InvalidArgument("parameters is one text; give a list of values")
    made = door.action(
        "CreatePreparedStatement",
        _message("ActionCreatePreparedStatementRequest", _field(1, text.encode())),
    )
    # The answer is an Any around the result, whose first field is the handle.
    result = dict(_fields(made[0])).get(2, b"") if made else b""
    handle = dict(_fields(result)).get(1, b"")
    command = _message("CommandPreparedStatementQuery", _field(1, handle))
    try:
        if parameters:
            handle = _bind(door, command, parameters) or handle
            command = _message("CommandPreparedStatementQuery", _field(1, handle))
        # Read whole, because the statement is closed when this returns.
        rows = _started(door, command)
        return _Held(door, command, rows.plan(), rows.to_arrow())
    finally:
        # The server forgets it in time by itself, and a change that happened must not look failed.
        with contextlib.suppress(LakebedError):
            door.action(
                "ClosePreparedStatement",
                _message("ActionClosePreparedStatementRequest", _field(1, handle)),
            )


def _bind(door: FlightDoor, command: bytes, parameters: Sequence[Any]) -> bytes | None:
    """Sends the parameters; the handle to go on with, where the server gives another."""
    arrays = [pa.array([value]) for value in parameters]
    batch = pa.RecordBatch.from_arrays(arrays, names=[f"${n + 1}" for n in range(len(arrays))])
    descriptor = flight.FlightDescriptor.for_command(command)
    options = door.options(door.target.timeout_s)
    client = door.client()
    with door.translated():
        writer, reader = client.do_put(descriptor, batch.schema, options)
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            answer = reader.read()
    return dict(_fields(answer.to_pybytes())).get(1) if answer is not None else None
