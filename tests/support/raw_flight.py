"""Flight one frame at a time: what no well-behaved client can be made to send.

gRPC over HTTP/2 by hand: a stream is opened, messages are written as bytes, and the stream is
ended, reset with any code, cut in the middle of a message, or left. The messages are FlightData in
protobuf, whose four fields are few enough to write out.
"""

import json
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pyarrow as pa

NO_ERROR = 0x0
CANCEL = 0x8


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def descriptor(command: Any) -> bytes:
    """A FlightDescriptor of type CMD."""
    text = command if isinstance(command, bytes) else json.dumps(command).encode()
    return b"\x08\x02" + _field(2, text)


def flight_data(
    header: bytes = b"", body: bytes = b"", app: bytes = b"", describe: bytes | None = None
) -> bytes:
    """One FlightData message."""
    out = b""
    if describe is not None:
        out += _field(1, describe)
    if header:
        out += _field(2, header)
    if app:
        out += _field(3, app)
    if body:
        out += _field(1000, body)
    return out


def ipc_parts(message: pa.Buffer | bytes) -> tuple[bytes, bytes]:
    """Header and body of an encapsulated Arrow IPC message."""
    data = bytes(message)
    assert data[:4] == b"\xff\xff\xff\xff"
    length = struct.unpack_from("<i", data, 4)[0]
    return data[8 : 8 + length], data[8 + length :]


def schema_message(schema: pa.Schema, command: Any) -> bytes:
    """The first message of a DoPut: descriptor and schema."""
    header, _ = ipc_parts(schema.serialize())
    return flight_data(header, describe=descriptor(command))


def ipc_messages(
    batch: pa.RecordBatch, compression: str | None = None
) -> list[tuple[bytes, bytes]]:
    """Header and body of every message after the schema: dictionaries, then the batch."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(sink.getvalue()))
    return [ipc_parts(message.serialize()) for message in reader][1:]


def batch_message(batch: pa.RecordBatch, compression: str | None = None, app: bytes = b"") -> bytes:
    """A message with one batch."""
    header, body = ipc_messages(batch, compression)[-1]
    return flight_data(header, body, app)


def write_messages(table: str, rows: pa.Table, mode: str = "append", **fields: Any) -> list[bytes]:
    """The messages of a whole DoPut."""
    command = {"write": {"table": table, "mode": mode, **fields}}
    return [schema_message(rows.schema, command), *map(batch_message, rows.to_batches())]


def framed(message: bytes) -> bytes:
    """A gRPC message as it lies in DATA frames."""
    return b"\0" + struct.pack(">I", len(message)) + message


class RawCall:
    """One call on one connection of its own."""

    def __init__(
        self,
        address: str,
        key: str | None,
        method: str = "DoPut",
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=host)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()
        self.stream = self.h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http" if tls is None else "https"),
            (":authority", address),
            (":path", f"/arrow.flight.protocol.FlightService/{method}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        if key is not None:
            headers.append(("authorization", f"Bearer {key}"))
        self.h2.send_headers(self.stream, headers)
        self.received: dict[str, str] = {}
        self.answer = b""
        self.ended: str | None = None
        self._flush()

    @property
    def local_port(self) -> int:
        """The client's port, by which the server's end of the connection can be found."""
        return self.socket.getsockname()[1]

    def _flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def _pump(self) -> None:
        """Reads once from the socket and takes note of what came."""
        data = self.socket.recv(1 << 16)
        if not data:
            self.ended = self.ended or "closed"
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.received.update(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self.answer += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = self.ended or "ended"
            elif isinstance(event, h2.events.StreamReset):
                self.ended = self.ended or f"reset {event.error_code}"
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.ended = self.ended or "terminated"
        self._flush()

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes of the stream, framed or not, within the windows of the server."""
        view = memoryview(data)
        while view and self.ended is None:
            window = min(
                self.h2.local_flow_control_window(self.stream), self.h2.max_outbound_frame_size
            )
            if window == 0:
                self._pump()
                continue
            self.h2.send_data(self.stream, bytes(view[:window]))
            view = view[window:]
            self._flush()

    def send(self, messages: Iterable[bytes]) -> "RawCall":
        """Sends whole messages."""
        for message in messages:
            self.send_bytes(framed(message))
        return self

    def end(self) -> "RawCall":
        """Ends the request cleanly."""
        if self.ended is None:
            self.h2.end_stream(self.stream)
            self._flush()
        return self

    def reset(self, code: int) -> None:
        """Sends RST_STREAM with `code`."""
        self.h2.reset_stream(self.stream, code)
        self._flush()

    def finish(self) -> dict[str, str]:
        """Waits for the end of the answer and returns headers and trailers."""
        while self.ended is None:
            self._pump()
        self.close()
        return self.received

    def ping(self) -> None:
        """Waits until the server has read what was sent before on this connection."""
        self.h2.ping(b"lakebed!")
        self._flush()
        while True:
            data = self.socket.recv(1 << 16)
            assert data, "the server closed the connection"
            events = self.h2.receive_data(data)
            self._flush()
            if any(isinstance(event, h2.events.PingAckReceived) for event in events):
                return

    def break_off(self, ending: str, unsent: bytes) -> None:
        """Ends the call before a message in the way of that name; one of another name it leaves."""
        if ending in {"no error", "cancel"}:
            self.reset(NO_ERROR if ending == "no error" else CANCEL)
            self.ping()
        elif ending == "half a message":
            self.send_bytes(framed(unsent)[:-100])

    def close(self) -> None:
        """Closes the connection without a word."""
        self.socket.close()

    def results(self) -> Iterator[bytes]:
        """The gRPC messages of the answer."""
        data = self.answer
        while len(data) >= 5:
            length = struct.unpack_from(">I", data, 1)[0]
            yield data[5 : 5 + length]
            data = data[5 + length :]


def connections_to(address: str) -> set[int]:
    """The client ports of the TCP connections that a local server has not closed yet."""
    port = int(address.rsplit(":", 1)[1])
    open_states = {"01", "08"}  # ESTABLISHED, CLOSE_WAIT
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if int(local.rsplit(":", 1)[1], 16) == port and state in open_states:
                found.add(int(remote.rsplit(":", 1)[1], 16))
    return found
