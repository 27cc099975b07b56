"""Decoded rows that wait to be computed: gathered, sorted by cost, and given out in batches."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from lakebed.models.model import Model, Prepared
from lakebed.worker.batches import cut
from lakebed.worker.queues import Closed

# Texts of so many batches are sorted by length together, so that little is padding.
BATCHES_SORTED = 16


class PoolRun(Protocol):
    """Whose rows they are; see `lakebed.worker.pipeline.Run`."""

    model: Model

    def is_cancelled(self) -> bool:
        """Whether nobody wants the results any more."""
        ...


R = TypeVar("R", bound=PoolRun)
Rows = list[tuple[int, Prepared]]


class Pool(Generic[R]):
    """Decoded rows by run, oldest run first. Gathers enough of them to be sorted, and gives them in
    batches, so that several threads share the work of one run."""

    def __init__(self, bytes_max: int, lanes: int) -> None:
        """
        Args:
            lanes: threads that take batches.
        """
        self._bytes_max = bytes_max
        self._lanes = lanes
        self._bytes = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._rows: dict[R, Rows] = {}
        # What the rows of a run cost, without padding.
        self._cost: dict[R, int] = {}
        self._batches: deque[tuple[R, Rows]] = deque()
        self._complete: set[R] = set()
        self._is_closed = False

    def put(self, run: R, rows: Sequence[tuple[int, Prepared]]) -> None:
        """Adds rows; waits while the pool is full.

        Raises:
            Closed: the pool was closed.
        """
        nbytes = sum(row.nbytes for _, row in rows)
        cost = sum(row.cost for _, row in rows)
        with self._changed:
            while not self._is_closed and self._bytes and self._bytes + nbytes > self._bytes_max:
                self._changed.wait()
            if self._is_closed:
                raise Closed
            self._rows.setdefault(run, []).extend(rows)
            self._cost[run] = self._cost.get(run, 0) + cost
            self._bytes += nbytes
            self._changed.notify_all()

    def complete(self, run: R) -> None:
        """No more rows of the run will come."""
        with self._changed:
            # Otherwise all of it was taken, and nobody would ever ask.
            if run in self._rows:
                self._complete.add(run)
            self._changed.notify_all()

    def take(self) -> tuple[R, Rows]:
        """A batch of one run to be computed. Waits for a good number of rows to sort, but not where
        nothing more will come, where the pool is so full that nothing more can, or where nobody
        computes: a device that is idle gains nothing by less padding.

        Raises:
            Closed: the pool was closed.
        """
        with self._changed:
            self._waiting += 1
            try:
                while not self._batches:
                    if self._is_closed:
                        raise Closed
                    if (found := self._ready()) is not None:
                        self._sort(found)
                    else:
                        self._changed.wait()
            finally:
                self._waiting -= 1
            run, batch = self._batches.popleft()
            self._bytes -= sum(row.nbytes for _, row in batch)
            self._changed.notify_all()
            return run, batch

    def _sort(self, run: R) -> None:
        rows, cost = self._rows.pop(run), self._cost.pop(run)
        enough = run.model.batch_rows * BATCHES_SORTED
        taken, left = rows[:enough], rows[enough:]
        if left:
            self._rows = {run: left, **self._rows}
            self._cost[run] = cost - sum(row.cost for _, row in taken)
        else:
            self._complete.discard(run)
        taken.sort(key=lambda row: row[1].cost)
        costs = [row.cost for _, row in taken]
        self._batches.extend(
            (run, taken[part]) for part in cut(costs, run.model.batch_rows, run.model.batch_cost)
        )

    def _ready(self) -> R | None:
        for run in [run for run in self._rows if run.is_cancelled()]:
            self._bytes -= sum(row.nbytes for _, row in self._rows.pop(run))
            self._cost.pop(run)
            self._complete.discard(run)
            self._changed.notify_all()
        is_full = self._bytes * 2 > self._bytes_max
        is_idle = self._waiting == self._lanes
        for run, rows in self._rows.items():
            # Pictures all cost the same, so there is nothing to sort and one batch is enough.
            batches = 1 if is_idle or rows[0][1].cost == 1 else BATCHES_SORTED
            is_enough = (
                len(rows) >= run.model.batch_rows * batches
                or self._cost[run] >= run.model.batch_cost * batches
            )
            if is_full or is_enough or run in self._complete:
                return run
        return None

    def close(self) -> None:
        """Wakes everybody who waits, and throws away what is inside."""
        with self._changed:
            self._is_closed = True
            self._rows.clear()
            self._cost.clear()
            self._batches.clear()
            self._changed.notify_all()
