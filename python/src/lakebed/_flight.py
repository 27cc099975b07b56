"""The Flight door over pyarrow.

A connection is opened when it is first used and belongs to the process that opened it. gRPC does
not survive a fork: once it was used, children that are forked later would hang in it for ever, so
they are refused with a word on what to do. Children that are spawned, and forks before the first
use, are fine.

pyarrow tells an error's kind only by the text of its status. The server's own kind comes in a
trailer, which a middleware sees; the calls of one thread are told apart by a thread-local record.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from lakebed import errors
from lakebed._http import LOOPBACK, HttpDoor
from lakebed.errors import LakebedError

T = TypeVar("T")

_calls = threading.local()
_DEBUG = re.compile(r"\.?\s*gRPC client debug context:.*", re.DOTALL)
_PREFIX = re.compile(r"^(?:\w+: )?Flight returned [a-z -]+ error, with message: ")
_ANY_HOST = {"0.0.0.0", "[::]", "::"}

# What pyarrow raises, by the kind that it stands for where no trailer came.
_BY_TYPE: list[tuple[type[BaseException], type[LakebedError]]] = [
    (flight.FlightUnauthenticatedError, errors.Unauthenticated),
    (flight.FlightUnauthorizedError, errors.Denied),
    (flight.FlightUnavailableError, errors.Unavailable),
    (flight.FlightTimedOutError, errors.DeadlineExceeded),
    (flight.FlightCancelledError, errors.Cancelled),
    (pa.ArrowNotImplementedError, errors.NotBuilt),
    (pa.ArrowKeyError, errors.NotFound),
    (pa.ArrowInvalid, errors.InvalidArgument),
]
# Only what pyarrow raises: a `KeyError` of this package's is a bug, not a missing table. Its
# `ArrowIOError` is `OSError` itself.
FAILURES = (flight.FlightError, pa.ArrowException, OSError)
# Of a change these leave open whether it happened: the server goes on after the call has ended.
_OPEN = (errors.DeadlineExceeded, errors.Cancelled)
# These as well where the server did not say them: then the connection broke.
_OPEN_WHERE_UNTOLD = (errors.Unavailable, errors.Internal)


# Whether gRPC runs in this process, and whether it ran in the one that this was forked from.
_uses_grpc = False
_was_forked_in_use = False


def _after_fork_in_child() -> None:
    global _uses_grpc, _was_forked_in_use
    _was_forked_in_use = _was_forked_in_use or _uses_grpc
    _uses_grpc = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Record(flight.ClientMiddleware):  # type: ignore[misc]
    """Keeps what the server sent beside the messages of one call."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def received_headers(self, headers: dict[str, list[Any]]) -> None:
        for name, values in headers.items():
            value = values[-1]
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            self.headers[name.lower()] = text


class _Recorder(flight.ClientMiddlewareFactory):  # type: ignore[misc]
    def start_call(self, info: Any) -> flight.ClientMiddleware:  # noqa: ARG002
        record = _Record()
        _calls.latest = record
        return record


def translate(
    error: BaseException, record: "_Record | None", *, changes: bool = False
) -> LakebedError:
    """The error of this package behind one of pyarrow's.

    Args:
        changes: whether the call changes something, so that a lost answer leaves it open whether
            that happened.
    """
    message = _PREFIX.sub("", _DEBUG.sub("", str(error)).strip().strip("'\""))
    fallback = next((kind for known, kind in _BY_TYPE if isinstance(error, known)), None)
    was_sent = "failed to connect" not in message
    if fallback is None:
        lost = not was_sent or "Connection reset" in message
        fallback = errors.Unavailable if lost or isinstance(error, OSError) else errors.Internal
    headers = record.headers if record else {}
    found = errors.from_headers(message, headers, fallback)
    if changes and was_sent:
        is_told = errors.KIND_HEADER in headers
        if isinstance(found, _OPEN if is_told else (*_OPEN, *_OPEN_WHERE_UNTOLD)):
            message = f"the answer to a change was lost: {message}"
            return errors.CommitUnknown(message, request_id=found.request_id)
    return found


class _Callers:
    """Batches of the caller's. An error of theirs is kept apart from those of the connection: a
    `KeyError` in a generator must not look like a missing table."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = next(self._batches)
            except StopIteration:
                return
            except BaseException as error:
                self.error = error
                return
            yield batch


class FlightDoor:
    """Calls to the Flight port of one server."""

    def __init__(self, http: HttpDoor) -> None:
        self.http = http
        self.target = http.target
        # By process: those of a parent are never touched again, not even to be freed.
        self._clients: dict[int, flight.FlightClient] = {}
        self._address: str | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return FlightDoor, (self.http,)

    def client(self) -> flight.FlightClient:
        """This process's connection."""
        with self._lock:
            client = self._clients.get(os.getpid())
            if client is None:
                client = self._clients[os.getpid()] = self._open()
            return client

    def close(self) -> None:
        """Ends this process's connection; the next call opens another."""
        with self._lock:
            client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def look_again(self) -> None:
        """Asks the HTTP door where Flight is now, and connects anew if it has moved. gRPC finds a
        server that came back at the same address by itself. Says nothing where nobody answers."""
        with contextlib.suppress(LakebedError):
            self.http.forget_version()
            with self._lock:
                if self._address is not None and self.address() != self._address:
                    # Calls under way keep the old one alive until they end.
                    self._clients.pop(os.getpid(), None)

    def address(self) -> str:
        """host:port of the Flight door, as the HTTP door tells it."""
        address = str(self.http.version()["flight"])
        host, _, port = address.rpartition(":")
        asked = self.target.host
        # A server that listens everywhere, or behind a forwarded port, does not know its name.
        if host in _ANY_HOST or (host.strip("[]") in LOOPBACK and asked not in LOOPBACK):
            host = f"[{asked}]" if ":" in asked else asked
        return f"{host}:{port}"

    def _open(self) -> flight.FlightClient:
        global _uses_grpc
        if _was_forked_in_use:
            raise errors.Internal(
                "this process was forked from one that had used its connection, which gRPC does "
                "not survive; start it by spawn, as multiprocessing.get_context('spawn') does"
            )
        _uses_grpc = True
        tls = self.target.is_tls
        roots = self.target.tls_roots() if tls else None
        more = {"tls_root_certs": roots} if roots else {}
        scheme = "grpc+tls" if tls else "grpc+tcp"
        # Without this, gRPC's own pause after a lost connection grows to two minutes.
        self._address = self.address()
        options = [("grpc.max_reconnect_backoff_ms", 2_000), ("grpc.use_local_subchannel_pool", 1)]
        return flight.FlightClient(
            f"{scheme}://{self._address}",
            middleware=[_Recorder()],
            generic_options=options,
            **more,
        )

    def options(self, timeout_s: float) -> flight.FlightCallOptions:
        """Key, database and deadline of one call."""
        headers = [(b"x-lancedb-database", self.target.database.encode())]
        if (key := self.http.key()) is not None:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        return flight.FlightCallOptions(timeout=timeout_s, headers=headers)

    @contextlib.contextmanager
    def translated(self, *, changes: bool = False) -> Iterator[None]:
        """Raises this package's errors for pyarrow's in the block, which makes one call and nothing
        else: what goes wrong before it is no answer of the server's."""
        # Rows that are written may come from a read on the same thread, so calls are nested.
        outer = getattr(_calls, "latest", None)
        _calls.latest = None
        try:
            yield
        except FAILURES as error:
            raise translate(error, getattr(_calls, "latest", None), changes=changes) from error
        finally:
            _calls.latest = outer

    def info(self, command: bytes, timeout_s: float | None = None) -> flight.FlightInfo:
        """GetFlightInfo of a command."""
        descriptor = flight.FlightDescriptor.for_command(command)
        options = self.options(timeout_s or self.target.timeout_s)
        client = self.client()
        with self.translated():
            return client.get_flight_info(descriptor, options)

    def stream(
        self, ticket: bytes, timeout_s: float | None = None, *, changes: bool = False
    ) -> "Stream":
        """DoGet of a ticket, which may be a JSON command.

        Args:
            changes: whether the ticket changes something; where its answer is lost the error is
                `CommitUnknown`.
        """
        options = self.options(timeout_s or self.target.stream_timeout_s)
        client = self.client()
        with self.translated(changes=changes):
            reader = client.do_get(flight.Ticket(ticket), options)
            return Stream(reader, getattr(_calls, "latest", None), changes=changes)

    def action(self, name: str, body: bytes, timeout_s: float | None = None) -> list[bytes]:
        """The results of one DoAction."""
        options = self.options(timeout_s or self.target.timeout_s)
        client = self.client()
        with self.translated():
            results = client.do_action(flight.Action(name, body), options)
            return [result.body.to_pybytes() for result in results]

    def put(
        self,
        command: bytes,
        schema: pa.Schema,
        batches: Callable[[], Iterator[pa.RecordBatch]],
        *,
        marker: bool = True,
        timeout_s: float | None = None,
    ) -> bytes:
        """DoPut of batches; what the server answered.

        With `marker` the last message commits the rows that were sent. Whatever goes wrong before
        it, in `batches` too, leaves nothing written.
        """
        descriptor = flight.FlightDescriptor.for_command(command)
        options = self.options(timeout_s or self.target.stream_timeout_s)
        client = self.client()
        own = _Callers(batches())
        answer = None
        try:
            with self.translated():
                writer, reader = client.do_put(descriptor, schema, options)
                with writer:  # its close reports what the server said, also when a write failed
                    rows = 0
                    for batch in own:
                        writer.write_batch(batch)
                        rows += batch.num_rows
                    if marker and own.error is None:
                        metadata = json.dumps({"commit": True, "rows": rows}).encode()
                        writer.write_metadata(metadata)
                    writer.done_writing()
                    answer = reader.read()
        except LakebedError:
            # The caller's own error is the cause; the server only misses the end of the write.
            if own.error is None:
                raise
        if own.error is not None:
            raise own.error
        if answer is None:
            raise errors.Internal("the server ended the stream without an answer")
        return bytes(answer.to_pybytes())


class Stream:
    """The batches of one DoGet."""

    def __init__(
        self, reader: flight.FlightStreamReader, record: _Record | None, *, changes: bool = False
    ) -> None:
        self._reader = reader
        self._record = record
        self._changes = changes

    def _call(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except FAILURES as error:
            raise translate(error, self._record, changes=self._changes) from error

    @property
    def schema(self) -> pa.Schema:
        """The schema of the batches; waits for the first message."""
        return self._call(lambda: self._reader.schema)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                try:
                    chunk = self._call(self._reader.read_chunk)
                except StopIteration:
                    return
                if chunk.data is not None:
                    yield chunk.data
        except GeneratorExit:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Tells the server that nobody reads on."""
        self._reader.cancel()
