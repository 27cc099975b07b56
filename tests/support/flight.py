"""The Flight door as pyarrow sees it, with the JSON commands written out."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

# The status codes of gRPC by the kind of an error, as the contract lists them: number and name.
GRPC_CODES = {
    "cancelled": (1, "CANCELLED"),
    "invalid_argument": (3, "INVALID_ARGUMENT"),
    "deadline_exceeded": (4, "DEADLINE_EXCEEDED"),
    "not_found": (5, "NOT_FOUND"),
    "already_exists": (6, "ALREADY_EXISTS"),
    "denied": (7, "PERMISSION_DENIED"),
    "busy": (8, "RESOURCE_EXHAUSTED"),
    "conflict": (10, "ABORTED"),
    "not_implemented": (12, "UNIMPLEMENTED"),
    "internal": (13, "INTERNAL"),
    "unavailable": (14, "UNAVAILABLE"),
    "corrupt": (15, "DATA_LOSS"),
    "unauthenticated": (16, "UNAUTHENTICATED"),
}

# How pyarrow words a status where it does not name it.
STATUS_WORDS = {
    "aborted": "ABORTED",
    "already exists": "ALREADY_EXISTS",
    "cancelled": "CANCELLED",
    "data loss": "DATA_LOSS",
    "internal": "INTERNAL",
    "invalid argument": "INVALID_ARGUMENT",
    "not found": "NOT_FOUND",
    "resource exhausted": "RESOURCE_EXHAUSTED",
    "timeout": "DEADLINE_EXCEEDED",
    "unauthenticated": "UNAUTHENTICATED",
    "unauthorized": "PERMISSION_DENIED",
    "unavailable": "UNAVAILABLE",
    "unimplemented": "UNIMPLEMENTED",
}

Failure = (flight.FlightError, pa.ArrowException, pa.ArrowInvalid, KeyError, NotImplementedError)
Rows = pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]


class _Recorder(flight.ClientMiddlewareFactory):
    """Keeps the headers and trailers that the server sent last."""

    def __init__(self) -> None:
        self.received: dict[str, str] = {}

    def start_call(self, info: Any) -> flight.ClientMiddleware:  # noqa: ARG002
        self.received.clear()
        recorder = self

        class Middleware(flight.ClientMiddleware):
            def received_headers(self, headers: dict[str, list[Any]]) -> None:
                for name, values in headers.items():
                    value = values[-1]
                    recorder.received[name.lower()] = (
                        value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                    )

        return Middleware()


def read_command(table: str, **fields: Any) -> flight.FlightDescriptor:
    """A descriptor for `{"read": {…}}`."""
    return command({"read": {"table": table, **fields}})


def write_command(table: str, mode: str = "append", **fields: Any) -> flight.FlightDescriptor:
    """A descriptor for `{"write": {…}}`."""
    return command({"write": {"table": table, "mode": mode, **fields}})


def command(body: Any) -> flight.FlightDescriptor:
    """A command descriptor of a JSON value, or of bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return flight.FlightDescriptor.for_command(data)


def batches_of(rows: Rows) -> tuple[pa.Schema | None, Iterable[pa.RecordBatch]]:
    """The schema, where it is known, and the batches of anything that holds rows."""
    if isinstance(rows, pa.Table):
        return rows.schema, rows.to_batches()
    if isinstance(rows, pa.RecordBatch):
        return rows.schema, [rows]
    return None, rows


def commit_marker(rows: int) -> bytes:
    """The app_metadata that commits a write with `"commit": "explicit"`."""
    return json.dumps({"commit": True, "rows": rows}).encode()


class Lake:
    """A Flight client of one server. One call at a time, because it keeps the last trailers."""

    def __init__(
        self,
        address: str,
        *,
        key: str | None,
        database: str | None = None,
        tls_roots: bytes | None = None,
    ) -> None:
        self._recorder = _Recorder()
        scheme = "grpc+tcp" if tls_roots is None else "grpc+tls"
        roots = {} if tls_roots is None else {"tls_root_certs": tls_roots}
        self.client = flight.FlightClient(
            f"{scheme}://{address}", middleware=[self._recorder], **roots
        )
        self.headers: list[tuple[bytes, bytes]] = []
        if key is not None:
            self.headers.append((b"authorization", f"Bearer {key}".encode()))
        if database is not None:
            self.headers.append((b"x-lancedb-database", database.encode()))

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()

    def options(self, timeout_s: float = 60.0, **more: Any) -> flight.FlightCallOptions:
        """Key, database and a deadline for one call."""
        return flight.FlightCallOptions(timeout=timeout_s, headers=self.headers, **more)

    @property
    def received(self) -> dict[str, str]:
        """Headers and trailers of the last call."""
        return self._recorder.received

    # ---- writes -------------------------------------------------------------------------------

    def begin(
        self, descriptor: flight.FlightDescriptor, schema: pa.Schema, timeout_s: float = 60.0
    ) -> tuple[flight.FlightStreamWriter, flight.FlightMetadataReader]:
        """Opens a DoPut and leaves the rest to the caller."""
        return self.client.do_put(descriptor, schema, self.options(timeout_s))

    def put(
        self,
        descriptor: flight.FlightDescriptor,
        rows: Rows,
        *,
        schema: pa.Schema | None = None,
        timeout_s: float = 60.0,
        marker: bytes | None = None,
    ) -> dict[str, Any]:
        """Sends rows and returns the receipt."""
        known, batches = batches_of(rows)
        writer, reader = self.begin(descriptor, schema or known, timeout_s)
        return finish(writer, reader, batches, marker)

    def write(
        self,
        table: str,
        rows: Rows,
        mode: str = "append",
        *,
        schema: pa.Schema | None = None,
        timeout_s: float = 60.0,
        marker: bytes | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """`{"write": …}` of rows; the receipt."""
        descriptor = write_command(table, mode, **fields)
        return self.put(descriptor, rows, schema=schema, timeout_s=timeout_s, marker=marker)

    def create(self, table: str, rows: Rows, **fields: Any) -> dict[str, Any]:
        """A write with mode create."""
        return self.write(table, rows, "create", **fields)

    def upsert(self, table: str, rows: Rows, on: list[str], **fields: Any) -> dict[str, Any]:
        """A write with mode upsert."""
        return self.write(table, rows, "upsert", on=on, **fields)

    # ---- reads --------------------------------------------------------------------------------

    def info(self, table: str, **fields: Any) -> flight.FlightInfo:
        """GetFlightInfo of a read."""
        return self.client.get_flight_info(read_command(table, **fields), self.options())

    def fetch(self, endpoint: flight.FlightEndpoint, timeout_s: float = 120.0) -> pa.Table:
        """DoGet of one endpoint, read whole."""
        return self.stream(endpoint.ticket, timeout_s).read_all()

    def stream(self, ticket: flight.Ticket, timeout_s: float = 120.0) -> flight.FlightStreamReader:
        """DoGet of one ticket, left to the caller to read."""
        return self.client.do_get(ticket, self.options(timeout_s))

    def read(self, table: str, **fields: Any) -> pa.Table:
        """The rows of a read: all endpoints, one after the other."""
        info = self.info(table, **fields)
        parts = [self.fetch(endpoint) for endpoint in info.endpoints]
        assert parts, "a read has at least one endpoint"
        return pa.concat_tables(parts)

    def search(self, fields: dict[str, Any]) -> pa.Table:
        """The rows of a search."""
        descriptor = command({"search": fields})
        [endpoint] = self.client.get_flight_info(descriptor, self.options()).endpoints
        return self.fetch(endpoint)

    def count(self, table: str, **fields: Any) -> int:
        """How many rows a read gives, by reading them."""
        return self.read(table, **fields).num_rows

    def tables(self) -> list[str]:
        """What ListFlights lists, as ids."""
        found = self.client.list_flights(options=self.options())
        return ["$".join(part.decode() for part in info.descriptor.path) for info in found]

    # ---- refusals -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def refuses(self, kind: str, *words: str) -> Iterator[None]:
        """The block has to fail with an error of `kind` whose text has all `words`."""
        with pytest.raises(Failure) as caught:
            yield
        check_refusal(caught.value, kind, words, self.received)


def status_name(error: BaseException) -> str | None:
    """The name of gRPC's status behind an error of pyarrow, which it tells only in the text."""
    text = str(error)
    if found := re.search(r"gRPC client debug context: ([A-Z_]+):", text):
        return found.group(1)
    # A read that is refused has no such context; its first words say the same.
    found = re.search(r"returned ([a-z ]+) error, with message", text)
    return STATUS_WORDS.get(found.group(1)) if found else None


def check_refusal(
    error: BaseException, kind: str, words: Iterable[str], received: dict[str, str]
) -> None:
    """Checks the code on the wire, the kind and the request id in the trailers, and the words."""
    text = str(error)
    code = status_name(error)
    assert code is not None, f"not an answer of the server: {text}"
    assert code == GRPC_CODES[kind][1], f"not {kind}: {text}"
    assert received.get("x-lakebed-error-kind") == kind, f"{received}: {text}"
    assert received.get("x-request-id"), f"no request id: {received}"
    missing = [word for word in words if word.lower() not in text.lower()]
    assert not missing, f"{missing} not said in: {text}"
    assert "panic" not in text.lower()


def finish(
    writer: flight.FlightStreamWriter,
    reader: flight.FlightMetadataReader,
    batches: Iterable[pa.RecordBatch] = (),
    marker: bytes | None = None,
) -> dict[str, Any]:
    """Sends batches, ends the stream and returns the receipt."""
    with writer:  # its close reports what the server said, also when a write failed before
        for batch in batches:
            writer.write_batch(batch)
        if marker is not None:
            writer.write_metadata(marker)
        writer.done_writing()
        answer = reader.read()
    assert answer is not None, "the server ended the stream without a receipt"
    return json.loads(answer.to_pybytes())
