"""`lakebed-worker` as a child process, and the jobs that it works on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.server import LakebedServer
from support.waiting import wait_until

CACHE = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
# What functions of `lakebed.operators` install, as `make setup` fetched it.
WHEELS = CACHE / "wheels"
TEXT_MODEL = "all-MiniLM-L6-v2"
PICTURE_MODEL = "efficientnet-lite0"


class Worker:
    """One worker process attached to a server."""

    def __init__(
        self,
        server: LakebedServer,
        name: str,
        *,
        key: str | None = None,
        slots: int = 2,
        wheels: Path | None = None,
        cache: Path = CACHE,
        arguments: Sequence[str] = (),
    ) -> None:
        self.server = server
        # Environments of functions are made of what lies there, and of nothing without it.
        self.wheels = wheels
        self.name = name
        self.key = key or server.admin_key
        self.slots = slots
        self.cache = cache
        self.arguments = list(arguments)
        self.log_path = server.work / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Worker":
        """Starts the process; `attached` tells when the server knows it."""
        assert self.process is None, "the worker is running"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lakebed.worker"),
                    *("--url", f"http://{self.server.http_address}", "--api-key", self.key),
                    *("--name", self.name, "--slots", str(self.slots)),
                    *("--cache-dir", str(self.cache)),
                    *self.arguments,
                ],
                env={
                    **os.environ,
                    "PIP_NO_INDEX": "1",
                    **({"PIP_FIND_LINKS": str(self.wheels)} if self.wheels else {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.process = None
        return code

    def log(self) -> str:
        """What it wrote."""
        return self.log_path.read_text(errors="replace")


class Jobs:
    """The jobs of a server, over HTTP."""

    def __init__(self, server: LakebedServer) -> None:
        self.server = server

    def submit(self, table: str, source: str, column: str, model: str, **more: Any) -> str:
        """Begins to compute a column; the job's id."""
        body = {"table": table, "input": source, "output": column, "model": model, **more}
        answer = self.server.http().post("/v1/jobs/submit", body)
        assert answer.status == 200, answer.body
        return answer.json()["job_id"]

    def describe(self, job: str) -> dict[str, Any]:
        """What the server says of a job."""
        answer = self.server.http().post("/v1/jobs/describe", {"job_id": job})
        assert answer.status == 200, answer.body
        return answer.json()

    def progress(self, job: str) -> dict[str, Any]:
        """How far it is; empty when it is not under way."""
        return self.describe(job).get("progress", {})

    def wait(self, job: str, timeout_s: float = 100.0) -> dict[str, Any]:
        """Waits for the end of a job; what it says then."""

        def is_over() -> bool:
            return self.describe(job)["job_state"] not in {"IN_PROGRESS", "PAUSED"}

        wait_until(is_over, f"the end of job {job}", timeout_s)
        return self.describe(job)

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are attached."""
        return self.server.http().get("/v1/workers").json()["workers"]

    def wait_for_workers(self, count: int) -> None:
        """Waits until so many workers are attached."""
        wait_until(lambda: len(self.workers()) >= count, f"{count} workers", 60)


def wait_for_rows(jobs: Jobs, job: str, rows: int, timeout_s: float = 60.0) -> None:
    """Waits until so many rows of a job are done."""
    deadline = time.monotonic() + timeout_s
    while jobs.progress(job).get("rows_done", 0) < rows:
        assert time.monotonic() < deadline, jobs.describe(job)
        time.sleep(0.02)
