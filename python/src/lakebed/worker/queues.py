"""Queues that are bounded by bytes."""

import threading
from collections import deque
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
