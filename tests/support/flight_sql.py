"""Messages of Flight SQL by hand, as clients of it send them."""

import pyarrow as pa
from pyarrow import flight

from support.flight import Lake

ANY = "type.googleapis.com/arrow.flight.protocol.sql."


def field(number: int, value: bytes | str | bool | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value))
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def command(name: str, *fields: bytes) -> bytes:
    """A command of Flight SQL in its `Any`."""
    return field(1, ANY + name) + field(2, b"".join(fields))


def statement(text: str) -> bytes:
    """A query."""
    return command("CommandStatementQuery", field(1, text))


def answer_to(lake: Lake, name: str, *fields: bytes) -> pa.Table:
    """What a command of the catalogue answers."""
    descriptor = flight.FlightDescriptor.for_command(command(name, *fields))
    info = lake.client.get_flight_info(descriptor, lake.options())
    found = lake.client.do_get(info.endpoints[0].ticket, lake.options()).read_all()
    assert found.schema.equals(info.schema)
    return found
