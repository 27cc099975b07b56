"""Queues that are bounded by bytes, and the clocks of the stages."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The queue takes and gives nothing any more."""


class ByteQueue(Generic[T]):
    """First in, first out. `put` waits while it holds `bytes_max`; one item is always let in,
    however large it is, so that nothing waits for ever."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, item: T, nbytes: int = 0) -> None:
        """Adds an item of so many bytes.

        Raises:
            Closed: the queue was closed.
        """
        with self._changed:
            while not self._is_closed and self._items and self._bytes + nbytes > self._bytes_max:
                self._changed.wait()
            if self._is_closed:
                raise Closed
            self._items.append((item, nbytes))
            self._bytes += nbytes
            self._changed.notify_all()

    def get(self) -> T:
        """Takes the oldest item.

        Raises:
            Closed: the queue was closed.
        """
        with self._changed:
            while not self._is_closed and not self._items:
                self._changed.wait()
            if self._is_closed:
                raise Closed
            item, nbytes = self._items.popleft()
            self._bytes -= nbytes
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wakes everybody who waits, and throws away what is inside."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()

    @property
    def nbytes(self) -> int:
        """What it holds."""
        with self._changed:
            return self._bytes


@dataclass
class StageTime:
    """Where time went: busy milliseconds, over all threads of a stage, and rows."""

    busy_ns: int = 0
    rows: int = 0


class Stages:
    """The clocks of all stages since the start."""

    NAMES = ("read", "decode", "compute", "write")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times = {name: StageTime() for name in self.NAMES}

    @contextmanager
    def busy(self, stage: str, rows: int = 0) -> Iterator[None]:
        """Counts the time of the block, and `rows` once it has ended well."""
        begun = time.perf_counter_ns()
        done = 0
        try:
            yield
            done = rows
        finally:
            passed = time.perf_counter_ns() - begun
            with self._lock:
                self._times[stage].busy_ns += passed
                self._times[stage].rows += done

    def rows(self, stage: str, rows: int) -> None:
        """Counts rows alone."""
        with self._lock:
            self._times[stage].rows += rows

    def read(self) -> dict[str, tuple[int, int]]:
        """Busy milliseconds and rows by stage."""
        with self._lock:
            return {name: (t.busy_ns // 1_000_000, t.rows) for name, t in self._times.items()}
