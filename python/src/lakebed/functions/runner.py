"""What runs inside the process of a function, with `runner_function.py` and nothing else of this
package.

It is started by path under the interpreter of the function's environment, so it imports the
standard library and pyarrow and nothing else, and keeps to what Python 3.10 understands.

Commands come and results go over two pipes of their own; standard output is the user's. A frame is
the lengths of two parts, a header in JSON, and bytes. Which row is being computed stands in a page
of memory that the worker reads as well, so that it is known also when nothing can be said any more.

    runner.py COMMANDS RESULTS PAGE WORKER_PID FALLBACK    (three descriptors, a pid, a folder)
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # The folder of this file, whose modules must not be found before the standard library's.
    del sys.path[0]

import ctypes
import faulthandler
import importlib.util
import json
import mmap
import os
import resource
import select
import signal
import struct
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

LENGTHS = struct.Struct(">IQ")
PAGE_BYTES = 4_096
# Places in the page, in words of eight bytes: counts what was begun; the row; whether the function
# is being called; whether the worker wants no more rows.
BEGUN, ROW, BUSY, STOP = range(4)
# Results of single rows are handed over after so long or so many bytes, so that little is lost with
# the process.
FLUSH_S = 1.0
FLUSH_BYTES = 8 << 20
MESSAGE_CHARACTERS = 1_000
TRACEBACK_CHARACTERS = 4_000
TRACEBACK_FRAMES = 20
CODE = "code"
ENTRY_MODULE = "user_function"
PR_SET_PDEATHSIG = 1
HERE = os.path.dirname(os.path.abspath(__file__))


# ---- the way to the worker ----------------------------------------------------------------------


class Channel:
    """Frames over two pipes."""

    def __init__(self, commands: int, results: int) -> None:
        self._commands = commands
        self._results = results

    def receive(self) -> tuple[dict[str, Any], bytearray]:
        header_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size))
        header = json.loads(self._read(header_bytes))
        return header, self._read(body_bytes)

    def send(self, header: dict[str, Any], body: Any = b"") -> None:
        text = json.dumps(header).encode()
        body = memoryview(body)
        self._write(LENGTHS.pack(len(text), body.nbytes) + text)
        self._write(body)

    def _read(self, count: int) -> bytearray:
        found = bytearray(count)
        view, done = memoryview(found), 0
        while done < count:
            got = os.readv(self._commands, [view[done:]])
            if got == 0:
                raise EOFError
            done += got
        return found

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while view.nbytes:
            view = view[os.write(self._results, view) :]


def end_with_the_worker(commands: int, worker: int) -> None:
    """Nothing of this process outlives the worker, however that ended."""
    if sys.platform == "linux":
        # Also where the function never gives the interpreter back.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:
        die()
    threading.Thread(target=_die_with, args=(commands,), daemon=True).start()


def _die_with(commands: int) -> None:
    poll = select.poll()
    # Nothing is asked for: only the end of the other side is told.
    poll.register(commands, 0)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        pass
    die()


def die() -> NoReturn:
    """Ends this process and those that the function started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


# ---- errors -------------------------------------------------------------------------------------


def told(error: BaseException) -> tuple[str, str, str | None]:
    """What the author sees of an exception: without this file's frames, and without the folders of
    the machine."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in {"builtins", "__main__", ENTRY_MODULE}:
        name = f"{kind.__module__}.{name}"
    try:
        message = str(error)
    except Exception:
        message = "(the exception has no text)"
    try:
        text = _traceback(error)
    except Exception:
        text = None
    return message[:MESSAGE_CHARACTERS] or name, name[:MESSAGE_CHARACTERS], text


def _traceback(error: BaseException) -> str:
    report = traceback.TracebackException.from_exception(error)
    seen: list[Any] = [report]
    for each in seen:
        frames = [frame for frame in each.stack if not _is_ours(frame.filename)]
        for frame in frames:
            frame.filename = _short_path(frame.filename)
        each.stack = traceback.StackSummary.from_list(frames[-TRACEBACK_FRAMES:])
        seen += [more for more in (each.__cause__, each.__context__) if more is not None]
    return "".join(report.format())[-TRACEBACK_CHARACTERS:]


def _is_ours(path: str) -> bool:
    """Also what imports the artifact is no frame of its author's."""
    return os.path.dirname(path) == HERE or "importlib" in path


def _short_path(path: str) -> str:
    for folder in (os.path.join(os.getcwd(), CODE), *sys.path, sys.prefix, sys.base_prefix):
        if folder and path.startswith(folder + os.sep):
            return path[len(folder) + 1 :]
    return os.path.basename(path)


def _sibling(name: str) -> Any:
    """A file beside this one. Its folder is on no path: it has names that others have as well."""
    path = os.path.join(HERE, f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"lakebed_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def weigh(value: Any) -> int:
    """About how many bytes a result has."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if (size := getattr(value, "nbytes", None)) is not None:
        return int(size)
    if isinstance(value, Mapping):
        return sum(map(weigh, value.values()))
    if isinstance(value, (list, tuple)):
        return 8 + len(value) * (weigh(value[0]) if value else 0)
    return 8


# ---- the loop -----------------------------------------------------------------------------------


class Runner:
    """Answers the worker's commands until it says that it is over."""

    def __init__(self, channel: Channel, page: Any) -> None:
        self._channel = channel
        self._page = page
        self._function: Any = None

    def run(self) -> None:
        while True:
            header, body = self._channel.receive()
            if header["op"] == "load":
                self._load(header, body)
            elif header["op"] == "rows":
                self._rows(body, header["rows"])
            else:
                self._close()
                return

    def _load(self, header: dict[str, Any], body: bytearray) -> None:
        try:
            parts, start = [], 0
            for size in header["parts"]:
                parts.append(bytes(body[start : start + size]))
                start += size
            folder = os.path.join(os.getcwd(), CODE)
            function = _sibling("runner_function").Function(header, parts, folder)
            if header["instantiate"]:
                function.instantiate()
        except BaseException as error:
            self._channel.send({"op": "refused", "error": told(error)})
        else:
            self._function = function
            self._channel.send({"op": "ready", "form": function.form})

    def _rows(self, body: bytearray, rows: int) -> None:
        table = self._function.read(body)
        if self._function.form == "rows":
            self._single_rows(table, rows)
        else:
            self._whole_batch(table, rows)

    def _begin(self, row: int, busy: int) -> None:
        self._page[ROW] = row
        self._page[BUSY] = busy
        self._page[BEGUN] += 1

    def _whole_batch(self, table: Any, rows: int) -> None:
        self._begin(0, 0)
        try:
            found = self._function.from_batch(self._function.call_batch(table), rows)
        except BaseException as error:
            self._channel.send({"op": "raised", "error": told(error)})
        else:
            self._give(found, 0, last=True)

    def _single_rows(self, table: Any, rows: int) -> None:
        columns = list(zip(table.schema.names, table.columns, strict=True))
        results: list[Any] = []
        errors: dict[int, Any] = {}
        start, weight, since = 0, 0, time.monotonic()
        for row in range(rows):
            self._begin(row, 1)
            result = None
            try:
                result = self._function.call_row(columns, row)
            except BaseException as error:
                errors[row - start] = told(error)
            self._page[BUSY] = 0
            results.append(result)
            weight += weigh(result)
            is_last = row + 1 == rows or self._page[STOP]
            if is_last or weight > FLUSH_BYTES or time.monotonic() - since > FLUSH_S:
                self._begin(row, 0)
                self._give(self._function.from_rows(results, errors), start, last=bool(is_last))
                results, errors = [], {}
                start, weight, since = row + 1, 0, time.monotonic()
            if is_last:
                return

    def _give(self, batch: Any, start: int, last: bool) -> None:
        """Hands over results, in pieces where they are too large for one."""
        most, rows = self._function.output_bytes, batch.num_rows
        if batch.nbytes > most and rows > 1:
            half = rows // 2
            self._give(batch.slice(0, half), start, False)
            self._give(batch.slice(half), start + half, last)
            return
        if batch.nbytes > most:
            text = f"the result has {batch.nbytes >> 20} MiB, and {most >> 20} MiB are possible"
            batch = self._function.from_rows([None], {0: (text, "OutputLimit", None)})
        header = {"op": "values", "start": start, "rows": rows, "last": last}
        self._channel.send(header, self._function.write(batch))

    def _close(self) -> None:
        error = None
        try:
            if self._function is not None:
                self._function.close()
        except BaseException as raised:
            error = told(raised)
        self._channel.send({"op": "closed", "error": error})


def main() -> None:
    commands, results, page, worker = map(int, sys.argv[1:5])
    if sys.argv[5]:
        sys.path.append(sys.argv[5])
    del sys.argv[1:]
    end_with_the_worker(commands, worker)
    for fd in (commands, results, page):
        os.set_inheritable(fd, False)
    # A core file would hold the secrets.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(all_threads=False)
    # The worker asks where a call hangs before it ends the process.
    faulthandler.register(signal.SIGUSR2, all_threads=False)
    shared = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("Q")
    Runner(Channel(commands, results), shared).run()


if __name__ == "__main__":
    main()
