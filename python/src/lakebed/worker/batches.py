"""How many rows one call of a model gets, and what happens where they do not fit into memory.

Rows of a batch are padded to the dearest of them, so what a batch takes is its rows times that
cost. A batch that did not fit is halved, and halved again; what did not fit is remembered for a
while, so that the batches after it are cut before they are tried. A row that does not fit alone,
with no other call under way, is an error of its own.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lakebed.models.model import Model, OutOfMemory, Prepared, RowError, Vectors

log = logging.getLogger("lakebed.worker")

# For so long batches stay below what did not fit. Whoever had the memory may be gone by then.
REMEMBER_S = 300.0


def padded(rows: Sequence[Prepared]) -> int:
    """What a batch costs."""
    return len(rows) * max(row.cost for row in rows)


def cut(costs: Sequence[int], rows_max: int, cost_max: int) -> Iterator[slice]:
    """Where rows of such costs are cut into batches, in their order. Each has a row at least."""
    start, dearest = 0, 0
    for at, cost in enumerate(costs):
        dearest = max(dearest, cost)
        count = at - start + 1
        if count > 1 and (count > rows_max or count * dearest > cost_max):
            yield slice(start, at)
            start, dearest = at, cost
    if costs:
        yield slice(start, len(costs))


@dataclass(frozen=True)
class Computed:
    """What became of the rows of a batch.

    Attributes:
        places: of the rows that have a vector, among those that were given.
        vectors: theirs, in that order.
        errors: of the other rows, by their places.
    """

    places: list[int]
    vectors: Vectors
    errors: dict[int, RowError]


class Batches:
    """Calls of models that fit into memory. May be used from several threads at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By model: the most that a batch may cost, and until when.
        self._limits: dict[str, tuple[int, float]] = {}
        self._turns = _Turns()

    def limit(self, model: Model) -> int | None:
        """What a batch of the model may cost because more did not fit lately; None if all did."""
        with self._lock:
            cost, until = self._limits.get(model.name, (0, 0.0))
            if until > self._clock():
                return cost
            self._limits.pop(model.name, None)
            return None

    def compute(self, model: Model, rows: Sequence[Prepared]) -> Computed:
        """The vectors of rows, in as many calls as memory asks for."""
        todo = deque([range(len(rows))])
        places: list[int] = []
        parts: list[Vectors] = []
        errors: dict[int, RowError] = {}
        while todo:
            part = todo.popleft()
            some = [rows[at] for at in part]
            if (limit := self.limit(model)) is not None:
                pieces = [part[piece] for piece in cut([r.cost for r in some], len(some), limit)]
                if len(pieces) > 1:
                    todo.extendleft(reversed(pieces))
                    continue
            try:
                with self._turns.shared():
                    vectors = model.compute(some)
            except (OutOfMemory, MemoryError) as error:
                if len(part) > 1:
                    self._does_not_fit(model, some, error)
                    middle = len(part) // 2
                    todo.extendleft([part[middle:], part[:middle]])
                    continue
                try:
                    # What others compute at this moment may be what it has no room beside.
                    with self._turns.alone():
                        vectors = model.compute(some)
                except (OutOfMemory, MemoryError):
                    text = f"row does not fit into the memory of {model.device}"
                    log.warning("model %s: %s", model.name, text)
                    errors[part[0]] = RowError(text)
                    continue
            places.extend(part)
            parts.append(vectors)
        empty = np.empty((0, model.dimensions), np.float32)
        return Computed(places, np.concatenate(parts) if parts else empty, errors)

    def _does_not_fit(self, model: Model, rows: Sequence[Prepared], error: BaseException) -> None:
        cost = padded(rows)
        with self._lock:
            now = self._clock()
            known, until = self._limits.get(model.name, (cost, 0.0))
            limit = min(cost // 2, known) if until > now else cost // 2
            self._limits[model.name] = (limit, now + REMEMBER_S)
        words = (
            "model %s: %d rows that cost %d do not fit into the memory of %s: batches are halved"
        )
        log.warning(words, model.name, len(rows), cost, model.device)
        log.debug("model %s: %s", model.name, error)


class _Turns:
    """Calls side by side, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            while self._is_alone:
                self._changed.wait()
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            while self._is_alone:
                self._changed.wait()
            self._is_alone = True
            while self._running:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
