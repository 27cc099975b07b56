"""This side of the pipes to a function's process.

What comes from there is not trusted: lengths are bounded before anything is made of them, and
Arrow is validated in full before anything reads it. Nothing here waits without looking up: `look`
is called several times a second, and ends the wait by raising.
"""

import contextlib
import fcntl
import json
import os
import select
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from lakebed.functions.runner import LENGTHS

# A header has the text of one error at most.
HEADER_BYTES_MAX = 1 << 20
PIPE_BYTES = 1 << 20
# Between two looks: often enough that a process that grows does not get far.
LOOK_MS = 50


class Spoke(Exception):
    """What came is not of the protocol."""


class Channel:
    """Frames over two pipes. Not for several threads at once."""

    def __init__(self, commands: int, results: int, body_bytes_max: int) -> None:
        self._commands = commands
        self._results = results
        self._body_bytes_max = body_bytes_max
        for fd in (commands, results):
            os.set_blocking(fd, False)
            # Larger than the system's default where it may be; nothing depends on it.
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        """Closes both pipes."""
        os.close(self._commands)
        os.close(self._results)

    def send(self, header: dict[str, Any], body: Sequence[Any], look: Callable[[], None]) -> None:
        """Sends a frame.

        Raises:
            EOFError: nobody reads any more.
        """
        text = json.dumps(header).encode()
        views = [memoryview(part) for part in body]
        size = sum(view.nbytes for view in views)
        for view in [memoryview(LENGTHS.pack(len(text), size) + text), *views]:
            left = view.cast("B") if view.nbytes else view
            while left.nbytes:
                try:
                    left = left[os.write(self._commands, left) :]
                except BlockingIOError:
                    _wait(self._commands, select.POLLOUT, look)
                except BrokenPipeError:
                    raise EOFError from None

    def receive(self, look: Callable[[], None]) -> tuple[dict[str, Any], bytearray]:
        """The next frame.

        Raises:
            EOFError: nobody writes any more.
            Spoke: it is none.
        """
        header_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size, look))
        if header_bytes > HEADER_BYTES_MAX or body_bytes > self._body_bytes_max:
            raise Spoke(f"a frame of {header_bytes} and {body_bytes} bytes")
        try:
            header = json.loads(self._read(header_bytes, look))
        except ValueError:
            raise Spoke("a header that is not JSON") from None
        if not isinstance(header, dict):
            raise Spoke("a header that is no object")
        return header, self._read(body_bytes, look)

    def _read(self, count: int, look: Callable[[], None]) -> bytearray:
        found = bytearray(count)
        view, done = memoryview(found), 0
        while done < count:
            try:
                got = os.readv(self._results, [view[done:]])
            except BlockingIOError:
                _wait(self._results, select.POLLIN, look)
                continue
            if got == 0:
                raise EOFError
            done += got
        return found


def _wait(fd: int, event: int, look: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(fd, event)
    while not poll.poll(LOOK_MS):
        look()


def encoded(batch: pa.RecordBatch) -> pa.Buffer:
    """A batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decoded(body: bytearray, schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """The one batch of a stream, as it was announced.

    Raises:
        Spoke: it is another one, or none.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            batches = list(reader)
        if len(batches) != 1 or batches[0].num_rows != rows:
            raise Spoke("another number of rows than announced")
        if not batches[0].schema.equals(schema):
            raise Spoke("columns of other types than declared")
        batches[0].validate(full=True)
    except pa.ArrowException as error:
        raise Spoke(f"values that are not Arrow: {error}") from None
    return batches[0]
