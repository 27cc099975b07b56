"""The built server as a child process.

A server owns a work folder with its log, its ready file and (unless told otherwise) its lake. It is
started on port 0 and awaited through the ready file. Whatever it logs at WARN or above, and any
panic, fails the test unless the test announced it with `expect_log`.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.flight import Lake
from support.http import Http
from support.tls import Authority
from support.waiting import wait_until

FATAL = re.compile(r"panicked at|memory allocation of|stack overflow|fatal runtime error|SIGABRT")
LEVEL_IN_TEXT = re.compile(r"^\S*\s*(?:\x1b\[\d+m)?\s*(WARN|ERROR)\b")


def built_binary() -> Path:
    """The server that is under test: `LAKEBED_BIN`, or what `cargo build -p lakebed` made."""
    if (given := os.environ.get("LAKEBED_BIN")) is not None:
        binary = Path(given)
    else:
        default = Path.home() / ".cache/lakebed/target"
        binary = Path(os.environ.get("CARGO_TARGET_DIR", default)) / "debug/lakebed"
    if not binary.is_file():
        raise FileNotFoundError(f"{binary} is missing; run `cargo build -p lakebed`")
    return binary


def new_key() -> str:
    """A key in the form that the server makes itself."""
    return f"lb_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


class ServerFailed(Exception):
    """The server ended before it was ready."""

    def __init__(self, exit_code: int, log: str) -> None:
        super().__init__(f"the server ended with {exit_code}: {log[-2000:]}")
        self.exit_code = exit_code
        self.log = log


class LakebedServer:
    """One server process and what is needed to talk to it, end it and look at it."""

    def __init__(
        self,
        work: Path,
        *,
        data: Path | str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        admin_key: str | None = None,
        wrapper: Sequence[str] = (),
        authority: Authority | None = None,
    ) -> None:
        self.work = work
        self.data = data if data is not None else work / "lake"
        self.args = list(args)
        self.extra_env = dict(env or {})
        self.admin_key = admin_key or new_key()
        self.wrapper = list(wrapper)
        self.authority = authority
        self.log_path = work / "server.log"
        self.ready_path = work / "ready.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        self._expected: list[re.Pattern[str]] = []
        self._log_checked_bytes = 0
        work.mkdir(parents=True, exist_ok=True)
        (work / "home").mkdir(exist_ok=True)

    # ---- life ---------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The command line of the next start."""
        address = [] if "--http-addr" in self.args else ["--http-addr", "127.0.0.1:0"]
        return [
            *self.wrapper,
            str(built_binary()),
            "serve",
            *("--data", str(self.data)),
            *address,
            *("--ready-file", str(self.ready_path)),
            *("--log-format", "json"),
            *self.args,
        ]

    def environment(self) -> dict[str, str]:
        """A small environment of its own, so that nothing of the caller's leaks into the server."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.work / "home"),
            "TMPDIR": str(self.work),
            # Tests count versions; those of compaction ask for it.
            "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": "0",
            "LAKEBED_ADMIN_KEY": self.admin_key,
            **self.extra_env,
        }

    def start(self, timeout_s: float = 60.0) -> "LakebedServer":
        """Starts the process and waits until both ports accept."""
        assert self.process is None, "the server is running"
        self.ready_path.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env={k: v for k, v in self.environment().items() if v != ""},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def is_ready() -> bool:
            code = self.process.poll()
            if code is not None:
                self.process = None
                raise ServerFailed(code, self.log())
            return self.ready_path.is_file()

        try:
            wait_until(is_ready, "the server's ready file", timeout_s)
        except TimeoutError:
            self.kill()
            raise
        self.ready = json.loads(self.ready_path.read_text())
        return self

    def kill(self) -> None:
        """SIGKILL, to the process and to whatever wraps it."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process = None
        if self.wrapper and self.ready:
            # The wrapper is gone; what it wrapped may still hold the lake.
            wait_until(lambda: self._is_dead(self.pid), "the end of the killed server")

    @staticmethod
    def _is_dead(pid: int) -> bool:
        """Whether no thread of a process runs any more."""
        try:
            tasks = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return all(task.rsplit(")", 1)[1].split()[0] in {"Z", "X"} for task in tasks)

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None, "the server is not running"
        os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        return code

    def restart(self) -> "LakebedServer":
        """A graceful stop and a start on the same lake."""
        assert self.terminate() == 0
        return self.start()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    # ---- doors --------------------------------------------------------------------------------

    @property
    def http_address(self) -> str:
        """host:port of the HTTP door."""
        return self.ready["http"]

    @property
    def flight_address(self) -> str:
        """host:port of the Flight door."""
        return self.ready["flight"]

    @property
    def pid(self) -> int:
        """The server's own process id, which under a wrapper is not the child's."""
        return self.ready["pid"]

    def lake(self, key: str | None = "", database: str | None = None) -> Lake:
        """A Flight client; with the admin key unless another one or None is given. It speaks TLS
        when the server has an authority."""
        key = self.admin_key if key == "" else key
        roots = self.authority.roots if self.authority else None
        return Lake(self.flight_address, key=key, database=database, tls_roots=roots)

    def http(self, key: str | None = "") -> Http:
        """An HTTP client; with the admin key unless another one or None is given."""
        tls = self.authority.context() if self.authority else None
        return Http(self.http_address, self.admin_key if key == "" else key, tls)

    # ---- what it does to the machine ----------------------------------------------------------

    def metric(self, name: str) -> float:
        """A counter without labels; 0 before its first count."""
        lines = self.http().ok("GET", "/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def _status_bytes(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise KeyError(field)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._status_bytes("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The highest resident memory since the start or the last `reset_peak_rss`."""
        return self._status_bytes("VmHWM")

    def reset_peak_rss(self) -> None:
        """Begins a new measurement of the peak."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        """How many file descriptors the process holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # ---- disk ---------------------------------------------------------------------------------

    def table_path(self, table: str, database: str = "default") -> Path:
        """Where a table lies: ROOT/<database>/<namespace>/…/<table>.lance."""
        *namespaces, name = table.split("$")
        return Path(self.data).joinpath(*database.split("/"), *namespaces, f"{name}.lance")

    def files(self, below: str = "") -> dict[str, int]:
        """Every file of the lake with its size, by its path below the root. What goes meanwhile is
        left out."""
        root = Path(self.data)
        found: dict[str, int] = {}
        for folder, _, names in os.walk(root / below):
            for path in (Path(folder) / name for name in names):
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(root).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def stored_bytes(self) -> int:
        """What the lake's files take together; a file with several names counts once."""
        found = (path.stat() for path in Path(self.data).rglob("*") if path.is_file())
        return sum({(file.st_dev, file.st_ino): file.st_size for file in found}.values())

    # ---- log ----------------------------------------------------------------------------------

    def log(self) -> str:
        """Everything that was logged so far, over all starts."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def expect_log(self, pattern: str) -> None:
        """Announces that lines which match `pattern` may appear at WARN or ERROR."""
        self._expected.append(re.compile(pattern))

    def unexpected_log_lines(self) -> list[str]:
        """Lines at WARN or above, and panics, since the last look that nobody announced."""
        log = self.log().encode()
        fresh = log[self._log_checked_bytes :].decode()
        self._log_checked_bytes = len(log)
        return [line for line in fresh.splitlines() if self._is_problem(line)]

    def _is_problem(self, line: str) -> bool:
        if FATAL.search(line):
            return True
        try:
            record = json.loads(line)
            level = record.get("level") if isinstance(record, dict) else None
        except ValueError:
            found = LEVEL_IN_TEXT.search(line)
            level = found.group(1) if found else None
        if level not in {"WARN", "ERROR"}:
            return False
        return not any(pattern.search(line) for pattern in self._expected)

    def check_log(self) -> None:
        """Fails when something was logged that nobody announced."""
        problems = self.unexpected_log_lines()
        assert not problems, "the server logged what no test announced:\n" + "\n".join(problems)

    def forget_expectations(self) -> None:
        """Ends what `expect_log` announced; called between tests that share a server."""
        self._expected.clear()
