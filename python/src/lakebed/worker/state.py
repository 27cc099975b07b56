"""What a worker holds, without threads, sockets or clocks.

Sync is idempotent and two of them may be under way at once, so an answer may be older than what is
known here: an assignment may come again after its attempt has ended. Attempts that ended are
remembered for that, and a number of them is enough, because an answer is never older than a few
seconds.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lakebed.worker.v1 import worker_pb2 as pb

ENDED_MAX = 10_000
# Bytes of results in one report; a server takes 4 MiB.
RESULT_BYTES_MAX = 3 << 20


class Attempt(NamedTuple):
    """One attempt to do one task of one job."""

    job_id: str
    task: int
    attempt: int

    @classmethod
    def of(cls, message: pb.AttemptId) -> "Attempt":
        """From the wire."""
        return cls(message.job_id, message.task, message.attempt)

    def message(self) -> pb.AttemptId:
        """To the wire."""
        return pb.AttemptId(job_id=self.job_id, task=self.task, attempt=self.attempt)

    def __str__(self) -> str:
        return f"task {self.task} of job {self.job_id or '-'} (attempt {self.attempt})"


@dataclass(frozen=True)
class Done:
    """An attempt that has ended well."""

    vector: tuple[float, ...] = ()
    # How long its rows were computed.
    took_ms: int = 0
    # Its results as an Arrow stream, where they were not put.
    results: bytes | None = None


@dataclass(frozen=True)
class Change:
    """What an answer asks for."""

    begin: list[pb.Assignment]
    drop: list[Attempt]


class Holdings:
    """What is held, what has ended and is not recorded yet, and what was forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Attempt] = set()
        self._done: dict[Attempt, Done] = {}
        self._failed: dict[Attempt, tuple[str, bool]] = {}
        self._ended: OrderedDict[Attempt, None] = OrderedDict()
        self._is_leaving = False

    def fill(self, request: pb.SyncRequest) -> None:
        """Writes what is true now into a request."""
        with self._lock:
            request.leaving = self._is_leaving
            request.running.extend(attempt.message() for attempt in sorted(self._running))
            nbytes = 0
            for attempt, done in self._done.items():
                if done.results is not None:
                    nbytes += len(done.results)
                    if nbytes > RESULT_BYTES_MAX:
                        # Told by the next report; until then it is held.
                        request.running.append(attempt.message())
                        continue
                    block = pb.Results(attempts=[attempt.message()], stream=done.results)
                    request.results.append(block)
                request.done.append(
                    pb.TaskDone(attempt=attempt.message(), vector=done.vector, took_ms=done.took_ms)
                )
            for attempt, (error, retryable) in self._failed.items():
                request.failed.append(
                    pb.TaskFailed(attempt=attempt.message(), error=error, retryable=retryable)
                )

    def apply(self, response: pb.SyncResponse) -> Change:
        """Takes in an answer; what is to be begun and what is to be dropped. New assignments are
        held from here on."""
        begin: list[pb.Assignment] = []
        drop: list[Attempt] = []
        with self._lock:
            for message in response.recorded:
                attempt = Attempt.of(message)
                # Also where it is still running here: somebody's word that it needs no more work.
                if attempt in self._running:
                    drop.append(attempt)
                self._forget(attempt)
            for message in response.stop:
                attempt = Attempt.of(message)
                if attempt in self._running:
                    drop.append(attempt)
                self._forget(attempt)
            for assignment in response.assign:
                attempt = Attempt.of(assignment.attempt)
                if self._is_leaving or self._knows(attempt):
                    continue
                for older in self._older(attempt):
                    drop.append(older)
                    self._forget(older)
                self._running.add(attempt)
                begin.append(assignment)
        return Change(begin, drop)

    def done(
        self,
        attempt: Attempt,
        vector: Iterable[float] = (),
        *,
        took_ms: int = 0,
        results: bytes | None = None,
    ) -> bool:
        """An attempt has ended well; False where it is not held any more."""
        with self._lock:
            if attempt not in self._running:
                return False
            self._running.discard(attempt)
            self._done[attempt] = Done(tuple(vector), took_ms, results)
            return True

    def failed(self, attempt: Attempt, error: str, *, retryable: bool) -> bool:
        """An attempt has failed as a whole; False where it is not held any more."""
        with self._lock:
            if attempt not in self._running:
                return False
            self._running.discard(attempt)
            self._failed[attempt] = (error, retryable)
            return True

    def drop(self, attempt: Attempt) -> None:
        """An attempt turned out to be somebody else's."""
        with self._lock:
            self._forget(attempt)

    def leave(self) -> None:
        """From now on nothing is taken, and what is held is given back."""
        with self._lock:
            self._is_leaving = True

    def holds(self, attempt: Attempt) -> bool:
        """Whether an attempt is held and has not ended."""
        with self._lock:
            return attempt in self._running

    @property
    def running(self) -> list[Attempt]:
        """What is held and has not ended."""
        with self._lock:
            return sorted(self._running)

    @property
    def unrecorded(self) -> int:
        """Attempts that have ended and that the server has not recorded."""
        with self._lock:
            return len(self._done) + len(self._failed)

    def _knows(self, attempt: Attempt) -> bool:
        groups = (self._running, self._done, self._failed, self._ended)
        return any(attempt in group for group in groups)

    def _older(self, attempt: Attempt) -> list[Attempt]:
        """Attempts at the same task that a newer one makes void."""
        held = [*self._running, *self._done, *self._failed]
        return [other for other in held if other[:2] == attempt[:2] and other < attempt]

    def _forget(self, attempt: Attempt) -> None:
        self._running.discard(attempt)
        self._done.pop(attempt, None)
        self._failed.pop(attempt, None)
        self._ended[attempt] = None
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
