"""Several worker processes on one machine that start, log and end as one.

```text
  lakebed-worker --processes 2 ──► lakebed-worker --name host-1 --leave-at-eof ◄── a pipe that ends
                               ──► lakebed-worker --name host-2 --leave-at-eof     with its writer
```

A process that dies is started again, after a pause that grows while it keeps dying. One that cannot
work, because the key is wrong for instance, would never do: when a process has ended a few times in
a row without having lived for long, all are ended. Signals are passed on. Each process has the read
end of a pipe as its standard input, so that it leaves by itself when this one is killed.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lakebed._retry import pause_s

log = logging.getLogger("lakebed.worker")

WRONG_USAGE = 2
# Who has lived for so long has worked.
LIVED_S = 60.0
# So many ends in a row of one that has not.
ENDS_MAX = 5
WATCH_S = 0.1
# After that they are killed: by then they have long given back what they held.
LEAVE_S_MAX = 25.0


@dataclass
class _Child:
    name: str
    arguments: list[str]
    process: "subprocess.Popen[bytes] | None" = None
    begun_s: float = 0.0
    # Ends in a row of processes that did not live for long.
    ends: int = 0
    again_s: float = 0.0
    starts: int = 0


@dataclass(frozen=True)
class ChildState:
    """A process as it is now.

    Attributes:
        pid: None between an end and the next start.
        starts: how often it was started.
        ends: how often in a row it ended before it had lived for long.
    """

    name: str
    pid: int | None
    starts: int
    ends: int


@dataclass
class Supervisor:
    """Keeps worker processes alive. `run` from one thread; the rest from any, or from a handler of
    signals.

    Args:
        processes: the arguments of `lakebed-worker` by the name of each process.
        environment: theirs; this process's without one.
    """

    processes: Mapping[str, Sequence[str]]
    environment: Mapping[str, str] | None = None
    command: Sequence[str] = (sys.executable, "-m", "lakebed.worker")
    pause_s: Callable[[int], float] = pause_s
    _signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._children = [
            _Child(name, [*arguments, "--name", name, "--leave-at-eof"])
            for name, arguments in self.processes.items()
        ]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Asks all processes to end, as a signal to this one does; the second time they do not
        wait."""
        # No lock: a handler may interrupt whoever holds it.
        self._signals.append(number)

    def states(self) -> list[ChildState]:
        """The processes as they are now."""
        return [
            ChildState(it.name, it.process.pid if it.process else None, it.starts, it.ends)
            for it in self._children
        ]

    def run(self) -> int:
        """Starts the processes and keeps them until `stop`, or until one cannot work; the exit
        code: 0 after `stop`, else that of the one."""
        code = 0
        try:
            while not self._signals:
                for child in self._children:
                    if (given_up := self._look_after(child)) is not None:
                        code = given_up
                        self.stop()
                        break
                time.sleep(WATCH_S)
        finally:
            self._end()
        return code

    def _look_after(self, child: _Child) -> int | None:
        """Starts it where it is not running; its exit code where that is of no use."""
        now = time.monotonic()
        if child.process is None:
            if now >= child.again_s:
                self._start(child)
            return None
        code = child.process.poll()
        if code is None:
            if child.ends and now - child.begun_s > LIVED_S:
                child.ends = 0
            return None
        self._let_go(child)
        child.ends = child.ends + 1 if now - child.begun_s <= LIVED_S else 1
        if code == WRONG_USAGE:
            return code
        if child.ends >= ENDS_MAX:
            words = "process %s ended with %d, %d times soon after its start: all are ended"
            log.error(words, child.name, code, child.ends)
            # A signal's number is no exit code.
            return code if code > 0 else 1
        pause = self.pause_s(child.ends)
        child.again_s = now + pause
        log.warning("process %s ended with %d; again in %.1f s", child.name, code, pause)
        return None

    def _start(self, child: _Child) -> None:
        # A session of its own: Ctrl-C at a terminal goes to this process alone, which passes it on.
        child.process = subprocess.Popen(
            [*self.command, *child.arguments],
            env=dict(self.environment) if self.environment is not None else None,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        child.begun_s = time.monotonic()
        child.starts += 1
        log.info("process %s is %d", child.name, child.process.pid)

    @staticmethod
    def _let_go(child: _Child) -> None:
        assert child.process is not None
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None

    def _end(self) -> None:
        """Passes on the signals that come, until all processes have ended."""
        running = [child for child in self._children if child.process is not None]
        passed = 0
        deadline = time.monotonic() + LEAVE_S_MAX
        if not self._signals:
            self.stop()
        while running:
            for number in self._signals[passed:]:
                for child in running:
                    _tell(child, number)
                passed += 1
            if time.monotonic() > deadline:
                for child in running:
                    _tell(child, signal.SIGKILL)
            for child in [it for it in running if it.process and it.process.poll() is not None]:
                self._let_go(child)
                running.remove(child)
            time.sleep(WATCH_S)


def _tell(child: _Child, number: int) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.send_signal(number)


def leave_at_eof(leave: Callable[[], None]) -> None:
    """Calls `leave` once standard input has ended: whoever started this process is gone."""

    def watch() -> None:
        # Not by Python's file: the end of the process would wait for its lock. One that is closed
        # has ended.
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        leave()

    threading.Thread(target=watch, name="leave-at-eof", daemon=True).start()
