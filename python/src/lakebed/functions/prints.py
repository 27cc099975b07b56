"""What a function's process prints: into the worker's log, bounded, and without its secrets.

The pipe is always emptied, so that nobody who prints has to wait. What is beyond the bound is
counted and dropped.
"""

import logging
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Iterable

log = logging.getLogger("lakebed.functions")

LINES_A_MINUTE = 100
LINE_CHARACTERS = 500
# Of a line without an end, before it is cut and what follows is dropped.
LINE_BYTES = 8_192
TAIL_LINES = 60
LOOK_MS = 200
# For what was printed before the end.
REST_S = 1.0
# The parts of a secret of several lines that are hidden on their own.
PART_CHARACTERS = 8
_DUMP = re.compile(r"(?:Fatal Python error|Stack \(most recent call first\)|Current thread)")
_FRAME = re.compile(r'\s+File "(?P<path>.*)", line (?P<line>\d+) in (?P<name>.*)')


class Redactor:
    """Takes secrets out of texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        hidden = set()
        for secret in secrets:
            parts = [part.strip() for part in secret.splitlines()]
            hidden |= {secret, *(part for part in parts if len(part) >= PART_CHARACTERS)}
        hidden.discard("")
        # The longest first: one may be a part of another.
        words = sorted(hidden, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def clean(self, text: str) -> str:
        """The text with `***` in place of every secret."""
        return text if self._pattern is None else self._pattern.sub("***", text)


class Prints:
    """Reads what a process prints, until it and all that it started have closed the pipe."""

    def __init__(self, fd: int, name: str, redactor: Redactor) -> None:
        self._fd = fd
        self._name = name
        self._redactor = redactor
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._left = LINES_A_MINUTE
        self._dropped = 0
        self._minute_s = time.monotonic()
        self._stopped_s: float | None = None
        self._thread = threading.Thread(target=self._read, name="prints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Reads what is there and ends. Processes that went their own ways may hold the pipe open
        for ever; they are not waited for."""
        self._stopped_s = time.monotonic()
        self._thread.join()
        os.close(self._fd)

    def stack(self, hidden: str, folders: Iterable[str]) -> str | None:
        """Where the process was, as Python's fault handler told it last, with the innermost call
        first and without the frames of files in the folder `hidden`."""
        lines = list(self._tail)
        starts = [n for n, line in enumerate(lines) if _DUMP.match(line)]
        if not starts:
            return None
        found = []
        for line in lines[starts[-1] :]:
            frame = _FRAME.match(line)
            if frame is None or os.path.dirname(frame["path"]) == hidden:
                continue
            path = frame["path"]
            for folder in folders:
                path = path.removeprefix(f"{folder}/")
            found.append(f'  File "{path}", line {frame["line"]}, in {frame["name"]}')
        return "Stack (most recent call first):\n" + "\n".join(found) if found else None

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        line, is_cut = b"", False
        while True:
            is_silent = not poll.poll(LOOK_MS)
            stopped_s = self._stopped_s
            # Somebody who escaped may print for ever.
            if stopped_s is not None and (is_silent or time.monotonic() - stopped_s > REST_S):
                break
            if is_silent:
                continue
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                break
            if not data:
                break
            *whole, rest = data.split(b"\n")
            for piece in whole:
                self._say(line if is_cut else (line + piece)[:LINE_BYTES])
                line, is_cut = b"", False
            if not is_cut:
                line += rest
                is_cut = len(line) > LINE_BYTES
                line = line[:LINE_BYTES]
        if line:
            self._say(line)
        self._tell_dropped()

    def _say(self, line: bytes) -> None:
        text = self._redactor.clean(line.decode("utf-8", "replace"))[:LINE_CHARACTERS]
        self._tail.append(text)
        now = time.monotonic()
        if now - self._minute_s > 60:
            self._tell_dropped()
            self._minute_s, self._left = now, LINES_A_MINUTE
        if self._left:
            self._left -= 1
            log.info("%s prints: %s", self._name, text)
        else:
            self._dropped += 1

    def _tell_dropped(self) -> None:
        if self._dropped:
            log.info("%s printed %d lines more, which are dropped", self._name, self._dropped)
        self._dropped = 0
