"""A function's process, seen from the worker: started, called, watched, and ended.

The process is a session of its own, so that all that a function starts can be ended with it. While
one waits for it, it is looked at several times a second: how long the current call takes, how much
memory it has, whether anybody still wants the result, and whether it lives.
"""

import contextlib
import enum
import json
import logging
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakebed.functions import runner, runner_function
from lakebed.functions.channel import Channel, Spoke, decoded, encoded
from lakebed.functions.definition import Definition, FunctionFailed
from lakebed.functions.environment import Environment
from lakebed.functions.group_memory import GroupMemory
from lakebed.functions.prints import Prints, Redactor

log = logging.getLogger("lakebed.functions")

RUNNER = Path(runner.__file__)
# After nobody wants the result any more a call has so long to come to its end.
CANCEL_S = 5.0
# What `close` of a class has, and then the interpreter to end.
CLOSE_S = 10.0
# How often memory is looked at, during a call and between short ones.
MEMORY_S = 0.1
# For the process to say where it hangs.
STACK_S = 0.3
# Beside the values of a batch: the errors of its rows.
ERRORS_BYTES = 64 << 20
_PASSED_ON = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PASSED_ON_WITH_GPU = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")

# Linux tells a process of the end of the thread that started it, not of the process. This one
# stays.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="spawn")


@dataclass(frozen=True)
class Limits:
    """What a function may take."""

    # One call: of a row, or of a batch.
    call_seconds: float = 120.0
    # Loading it, with `__init__` of a class.
    start_seconds: float = 600.0
    # The process and all that it starts.
    memory_bytes: int = 4_096 << 20
    # The result of one row. A server takes messages of 64 MiB unless it is told otherwise.
    output_bytes: int = 48 << 20


class Cause(enum.Enum):
    """Why a process is gone. The value is what stands in `error_type` of its row."""

    TIME = "TimeLimit"
    MEMORY = "MemoryLimit"
    DEATH = "ProcessDied"


class Died(Exception):
    """The process is gone in the middle of a call.

    Attributes:
        row: the row of the call that was being computed, where that is known.
        by_system: whether something else than the worker and the function killed it.
    """

    def __init__(
        self, cause: Cause, text: str, row: int | None, stack: str | None, *, by_system: bool
    ) -> None:
        super().__init__(text)
        self.cause = cause
        self.row = row
        self.stack = stack
        self.by_system = by_system


class Raised(Exception):
    """A batch-form function raised, or what it returned does not fit as a whole."""

    def __init__(self, text: str, kind: str, stack: str | None) -> None:
        super().__init__(text)
        self.kind = kind
        self.stack = stack


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Instance:
    """One process of one function. Not for several threads at once, except `interrupt`."""

    def __init__(
        self,
        definition: Definition,
        environment: Environment,
        limits: Limits,
        cuda: str,
        scratch: str,
    ) -> None:
        """
        Args:
            cuda: what it sees as CUDA_VISIBLE_DEVICES where it has a GPU.
            scratch: a folder that is its own, and is removed with it.
        """
        self.definition = definition
        # `rows`, `arrays` or `batch`, once it is loaded.
        self.form = ""
        # Rows or batches that it has begun, to tell what a fresh process cannot do from what an old
        # one cannot any more.
        self.calls = 0
        # Lives, and is not to be called again.
        self.is_spent = False
        self._limits = limits
        self._environment = environment
        self._redactor = Redactor(definition.secrets.values())
        errors = [pa.field(name, pa.string()) for name in runner_function.ERRORS]
        self._reply = pa.schema([*errors, *definition.output_schema()])
        self._is_cancelled: Callable[[], bool] = lambda: False
        self._cancelled_s: float | None = None
        self._seconds = limits.start_seconds
        self._since = self._memory_s = time.monotonic()
        self._begun = 0
        self._is_over = False
        self.was_interrupted = False
        self._ending = threading.Lock()
        self._scratch = scratch
        try:
            self._start(cuda)
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        self._memory = GroupMemory(self._process.pid)

    def _start(self, cuda: str) -> None:
        scratch = Path(self._scratch)
        (scratch / "tmp").mkdir()
        commands, commands_in = os.pipe()
        results_out, results = os.pipe()
        with tempfile.TemporaryFile() as page, contextlib.ExitStack() as theirs:
            theirs.callback(os.close, commands)
            theirs.callback(os.close, results)
            page.truncate(runner.PAGE_BYTES)
            self._page = memoryview(mmap.mmap(page.fileno(), runner.PAGE_BYTES)).cast("Q")
            fallback = str(self._environment.fallback or "")
            fds = (commands, results, page.fileno())
            words = [*map(str, fds), str(os.getpid()), fallback]
            start: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT,
                "bufsize": 0,
                "cwd": scratch,
                "env": variables(self.definition, self._environment, scratch, cuda, os.environ),
                "pass_fds": fds,
                "start_new_session": True,
            }
            # No site packages of the account, and prints come when they are made.
            command = [str(self._environment.python), "-s", "-u", str(RUNNER), *words]
            try:
                self._process = _spawner.submit(lambda: subprocess.Popen(command, **start)).result()
            except BaseException:
                os.close(commands_in)
                os.close(results_out)
                raise
        assert self._process.stdout is not None
        out = os.dup(self._process.stdout.fileno())
        self._process.stdout.close()
        self._prints = Prints(out, self.definition.name, self._redactor)
        most = self._limits.output_bytes + ERRORS_BYTES
        self._channel = Channel(commands_in, results_out, most)

    # ---- life -----------------------------------------------------------------------------------

    def load(self, is_cancelled: Callable[[], bool], *, instantiate: bool = True) -> None:
        """Imports the artifact, and makes the instance of a class.

        Raises:
            FunctionFailed: that does not work.
            Cancelled: nobody waits for it.
        """
        given = self.definition
        parts = [
            given.input_schema().serialize().to_pybytes(),
            given.output_schema().serialize().to_pybytes(),
            given.initialization or b"",
            json.dumps(dict(given.files)).encode(),
        ]
        header = {
            "op": "load",
            "parts": [len(part) for part in parts],
            "entrypoint": given.entrypoint,
            "instantiate": instantiate,
            "struct": given.is_struct,
            "nullable": [each.nullable for each in given.output],
            "blobs": [each.name for each in given.inputs if each.is_blob],
            "output_bytes": self._limits.output_bytes,
        }
        try:
            reply, _ = self._exchange(header, parts, is_cancelled, self._limits.start_seconds)
        except Died as died:
            stack = f"\n{died.stack}" if died.stack else ""
            text = f"the function was not loaded: {died}{stack}"
            raise FunctionFailed(text, retryable=died.by_system) from None
        if reply.get("op") != "ready":
            self.kill()
            text, kind, told = self._told(reply.get("error"))
            raise FunctionFailed(f"the function was not loaded: {told or f'{kind}: {text}'}")
        self.form = str(reply.get("form"))

    def close(self, seconds: float = CLOSE_S) -> None:
        """Ends the process, after `close` of a class, which has so long."""
        deadline = time.monotonic() + seconds

        def is_late() -> bool:
            return time.monotonic() > deadline

        with contextlib.suppress(Died, Cancelled, Spoke):
            reply, _ = self._exchange({"op": "close"}, [], is_late, seconds)
            if reply.get("error"):
                text, kind, stack = self._told(reply["error"])
                log.warning("%s: close: %s", self.definition.name, stack or f"{kind}: {text}")
            while not self._has_ended() and not is_late():
                time.sleep(0.01)
        self.kill()

    def kill(self) -> None:
        """Ends the process and all that it started, at once."""
        with self._ending:
            if self._is_over:
                return
            self._is_over = True
            self._kill_group()
            self._process.wait()
        self._channel.close()
        self._prints.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def interrupt(self) -> None:
        """Ends the process from another thread; who uses it finds it dead, and cleans up."""
        with self._ending:
            if not self._is_over:
                self.was_interrupted = True
                self._kill_group()

    def _kill_group(self) -> None:
        # Before the process is waited for: until then nobody else can have its number.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def is_usable(self) -> bool:
        """Whether it may be called."""
        return not (self._is_over or self.is_spent or self._has_ended())

    @property
    def is_over(self) -> bool:
        """Whether the process was ended."""
        return self._is_over

    @property
    def pid(self) -> int:
        """The process, and the group of all that it started."""
        return int(self._process.pid)

    # ---- calls ----------------------------------------------------------------------------------

    def call(
        self,
        batch: pa.RecordBatch,
        is_cancelled: Callable[[], bool],
        take: Callable[[int, pa.RecordBatch], None],
    ) -> None:
        """Computes the rows of a batch.

        What comes is given to `take` with the row that it begins at, in order and without a gap:
        the three columns of errors and then the values. Rows that were taken are done, also where
        the process dies later.

        Raises:
            Died: the process is gone.
            Raised: the function was called for all rows at once, and failed.
            Cancelled: nobody wants the result, and not all was taken.
        """
        self.calls += 1
        self._page[runner.STOP] = 0
        header = {"op": "rows", "rows": batch.num_rows}
        reply, body = self._exchange(
            header, [encoded(batch)], is_cancelled, self._limits.call_seconds
        )
        taken = 0
        while True:
            if reply.get("op") == "raised":
                text, kind, stack = self._told(reply.get("error"))
                raise Raised(text, kind, stack)
            try:
                rows = reply.get("rows")
                if reply.get("op") != "values" or reply.get("start") != taken:
                    raise Spoke("values out of their order")
                if not isinstance(rows, int) or not 0 < rows <= batch.num_rows - taken:
                    raise Spoke("another number of rows than given")
                found = decoded(body, self._reply, rows)
            except Spoke as spoke:
                raise self._died(Cause.DEATH, f"the process sent {spoke}") from None
            take(taken, self._cleaned(found))
            taken += rows
            if reply.get("last"):
                break
            reply, body = self._wait()
        if taken < batch.num_rows:
            raise Cancelled
        self._look_between_calls()

    def _exchange(
        self,
        header: dict[str, Any],
        body: list[Any],
        is_cancelled: Callable[[], bool],
        seconds: float,
    ) -> tuple[dict[str, Any], bytearray]:
        self._is_cancelled, self._cancelled_s = is_cancelled, None
        self._since, self._seconds = time.monotonic(), seconds
        self._begun = self._page[runner.BEGUN]
        self._page[runner.BUSY] = 0
        try:
            self._channel.send(header, body, self._look)
        except EOFError:
            raise self._ended() from None
        return self._wait()

    def _wait(self) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._channel.receive(self._look)
        except EOFError:
            raise self._ended() from None
        except Spoke as spoke:
            raise self._died(Cause.DEATH, f"the process sent {spoke}") from None

    # ---- looking --------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        begun = self._page[runner.BEGUN]
        if begun != self._begun:
            self._begun, self._since = begun, now
        if now - self._since > self._seconds:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR2)
                time.sleep(STACK_S)
            raise self._died(Cause.TIME, f"the call took longer than {self._seconds:g} s")
        if now - self._memory_s > MEMORY_S and self._is_too_large(now):
            raise self._died(Cause.MEMORY, self._too_large())
        if self._is_cancelled():
            # A function of single rows looks at it after each.
            self._page[runner.STOP] = 1
            self._cancelled_s = self._cancelled_s or now
            if now - self._cancelled_s > CANCEL_S:
                self.kill()
                raise Cancelled
        if self._has_ended():
            raise EOFError

    def _is_too_large(self, now: float) -> bool:
        self._memory_s = now
        most = self._limits.memory_bytes
        return self._memory.read(most) > most

    def _too_large(self) -> str:
        return f"the process took more than {self._limits.memory_bytes >> 20} MiB of memory"

    def _look_between_calls(self) -> None:
        """Short calls end before anybody looks; what they leave behind is seen here."""
        now = time.monotonic()
        if now - self._memory_s > MEMORY_S and self._is_too_large(now):
            log.info("%s: %s; it gets a new one", self.definition.name, self._too_large())
            self.is_spent = True

    def _has_ended(self) -> bool:
        """Also where something that it started holds its pipes open. Where the system can say so
        without forgetting the process, its number stays taken."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._process.pid, how) is not None
        except ChildProcessError:
            return True

    # ---- what went wrong ------------------------------------------------------------------------

    def _ended(self) -> Died:
        """The process ended by itself, or was killed by somebody else."""
        deadline = time.monotonic() + 1.0
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        has_ended = self._has_ended()
        row = self._row()
        self.kill()
        code = self._process.returncode
        if self.was_interrupted:
            text = "the process was ended by the worker"
        elif not has_ended:
            text = "the process closed its pipes to the worker"
        elif code < 0:
            text = f"the process was ended by {_signal_name(-code)}"
            if code == -signal.SIGKILL:
                text += ", as systems do that are out of memory"
        else:
            text = f"the process ended itself with exit code {code}"
        by_system = self.was_interrupted or (has_ended and code == -signal.SIGKILL)
        return Died(Cause.DEATH, text, row, self._stack(), by_system=by_system)

    def _died(self, cause: Cause, text: str) -> Died:
        row = self._row()
        self.kill()
        stack = None if cause is Cause.MEMORY else self._stack()
        return Died(cause, text, row, stack, by_system=False)

    def _row(self) -> int | None:
        return int(self._page[runner.ROW]) if self._page[runner.BUSY] else None

    def _stack(self) -> str | None:
        code = os.path.join(self._scratch, runner.CODE)
        return self._prints.stack(str(RUNNER.parent), [code, str(self._environment.folder)])

    def _told(self, error: Any) -> tuple[str, str, str | None]:
        """An error as the process told it, without the secrets."""
        if not isinstance(error, list) or len(error) != len(runner_function.ERRORS):
            return "the process told an error that is not of the protocol", "ProcessDied", None
        text, kind, stack = (None if each is None else str(each) for each in error)
        clean = self._redactor.clean
        return clean(text or ""), clean(kind or ""), None if stack is None else clean(stack)

    def _cleaned(self, found: pa.RecordBatch) -> pa.RecordBatch:
        """The errors of rows without the secrets."""
        if not self.definition.secrets or found.column(0).null_count == found.num_rows:
            return found
        clean = self._redactor.clean
        count = len(runner_function.ERRORS)
        texts = [
            pa.array([None if t is None else clean(t) for t in column.to_pylist()], pa.string())
            for column in found.columns[:count]
        ]
        return pa.RecordBatch.from_arrays([*texts, *found.columns[count:]], schema=found.schema)


def variables(
    definition: Definition,
    environment: Environment,
    scratch: Path,
    cuda: str,
    given: Mapping[str, str],
) -> dict[str, str]:
    """The environment of a function's process: of the worker's own only what is named here."""
    path = os.pathsep.join([str(environment.python.parent), given.get("PATH", os.defpath)])
    names = [*_PASSED_ON, *(_PASSED_ON_WITH_GPU if definition.gpu else ())]
    return {
        "PATH": path,
        "HOME": str(scratch),
        "TMPDIR": str(scratch / "tmp"),
        "LANG": "C.UTF-8",
        # Without a GPU of its own it sees none.
        "CUDA_VISIBLE_DEVICES": cuda if definition.gpu else "",
        **{name: given[name] for name in names if name in given},
        **definition.env,
        **definition.secrets,
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
