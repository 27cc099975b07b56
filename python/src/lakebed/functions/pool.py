"""Processes of functions, kept for the next task.

Loading a function may take far longer than a task of it: a model is read, connections are opened.
So a process stays for a while after its task, and is asked to close only when nobody came back to
it, or when others need its place.
"""

import logging
import threading
import time
from collections.abc import Callable

from lakebed.functions.definition import Definition, FunctionFailed
from lakebed.functions.environment import Environment
from lakebed.functions.instance import Cancelled, Instance, Limits
from lakebed.functions.scratch import Scratch

log = logging.getLogger("lakebed.functions")

IDLE_SECONDS = 60.0
LIVE_MAX = 16
# At the end of the worker `close` of a class has less time.
STOP_S = 2.0


class Instances:
    """All processes of functions of this worker."""

    def __init__(
        self,
        limits: Limits,
        *,
        cuda: str = "",
        idle_seconds: float = IDLE_SECONDS,
        live_max: int = LIVE_MAX,
    ) -> None:
        self._limits = limits
        # What functions with a GPU see as CUDA_VISIBLE_DEVICES.
        self._cuda = cuda
        self._scratch = Scratch()
        self._idle_seconds = idle_seconds
        self._live_max = live_max
        self._lock = threading.Lock()
        # The longest idle first.
        self._idle: list[tuple[float, Instance]] = []
        self._live: set[Instance] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._retire, name="retire", daemon=True)
        self._thread.start()

    def acquire(
        self,
        definition: Definition,
        environment: Environment,
        is_cancelled: Callable[[], bool],
        *,
        fresh: bool = False,
    ) -> Instance:
        """A loaded process of a function, for the caller alone until it is released.

        Args:
            fresh: whether it must not have been called before.

        Raises:
            FunctionFailed: the function cannot be loaded.
            Cancelled: nobody waits for it.
        """
        while not fresh and (found := self._take(definition)) is not None:
            if found.is_usable:
                return found
            self.release(found)
        for each in self._excess(definition):
            self._end(each)
        return self._load(definition, environment, is_cancelled, instantiate=True)

    def release(self, instance: Instance) -> None:
        """Gives a process back. It stays for a while, unless it is dead or spent."""
        if instance.is_over:
            with self._lock:
                self._live.discard(instance)
        elif not instance.is_usable or self._stop.is_set():
            self._end(instance)
        else:
            with self._lock:
                self._idle.append((time.monotonic(), instance))

    def check(
        self,
        definition: Definition,
        environment: Environment,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Loads a function, without an instance of a class, and ends it again.

        Raises:
            FunctionFailed: it cannot be loaded.
            Cancelled: nobody waits for it.
        """
        self._end(self._load(definition, environment, is_cancelled, instantiate=False))

    def stop(self) -> None:
        """Ends all processes. Idle ones may close; those that compute are killed."""
        self._stop.set()
        with self._lock:
            idle = [instance for _, instance in self._idle]
            self._idle.clear()
            busy = self._live - set(idle)
        for instance in busy:
            instance.interrupt()
        closing = [
            threading.Thread(target=self._end, args=(instance, STOP_S), daemon=True)
            for instance in idle
        ]
        for thread in closing:
            thread.start()
        deadline = time.monotonic() + 2 * STOP_S
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._thread.join(STOP_S)
        self._scratch.close()

    @property
    def live(self) -> list[int]:
        """The processes there are."""
        with self._lock:
            return sorted(instance.pid for instance in self._live)

    def _load(
        self,
        definition: Definition,
        environment: Environment,
        is_cancelled: Callable[[], bool],
        *,
        instantiate: bool,
    ) -> Instance:
        if self._stop.is_set():
            raise Cancelled
        begun = time.monotonic()
        try:
            scratch = self._scratch.folder()
            instance = Instance(definition, environment, self._limits, self._cuda, scratch)
        except OSError as error:
            # No memory for a process, or no place for its files.
            text = f"the function's process did not start: {error}"
            raise FunctionFailed(text, retryable=True) from error
        with self._lock:
            self._live.add(instance)
        try:
            # `stop` may have looked before it was there to be seen.
            instance.load(lambda: is_cancelled() or self._stop.is_set(), instantiate=instantiate)
        except BaseException:
            instance.kill()
            with self._lock:
                self._live.discard(instance)
            if self._stop.is_set():
                raise Cancelled from None
            raise
        passed = time.monotonic() - begun
        log.info("%s: loaded in %.1f s, process %d", definition.name, passed, instance.pid)
        return instance

    def _take(self, wanted: Definition) -> Instance | None:
        with self._lock:
            for n in range(len(self._idle) - 1, -1, -1):
                found = self._idle[n][1].definition
                # A process whose secrets were altered since retires.
                if found.digest == wanted.digest and found.secrets == wanted.secrets:
                    return self._idle.pop(n)[1]
        return None

    def _excess(self, wanted: Definition) -> list[Instance]:
        """Idle processes that have to go before another one of `wanted` starts: where there are too
        many, and all others with a GPU, whose memory is not shared."""
        with self._lock:
            gone = [entry for entry in self._idle if wanted.gpu and entry[1].definition.gpu]
            left = [entry for entry in self._idle if entry not in gone]
            over = len(self._live) - len(gone) + 1 - self._live_max
            gone += left[: max(0, over)]
            self._idle = left[max(0, over) :]
        return [instance for _, instance in gone]

    def _end(self, instance: Instance, seconds: float | None = None) -> None:
        try:
            if instance.is_over or instance.was_interrupted:
                instance.kill()
            elif seconds is None:
                instance.close()
            else:
                instance.close(seconds)
        finally:
            with self._lock:
                self._live.discard(instance)

    def _retire(self) -> None:
        while not self._stop.wait(min(1.0, self._idle_seconds / 4)):
            until = time.monotonic() - self._idle_seconds
            with self._lock:
                gone = [instance for since, instance in self._idle if since < until]
                self._idle = [entry for entry in self._idle if entry[0] >= until]
            for instance in gone:
                log.info("%s: process %d retires", instance.definition.name, instance.pid)
                self._end(instance)
