"""A server as a child process, for notebooks and tests."""

import atexit
import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lakebed.binary import OF_THE_PACKAGE, find_binary
from lakebed.connection import Connection, connect
from lakebed.errors import Unavailable

STOP_S_MAX = 40.0


class Server:
    """A server of this process; stopped by `stop`, by the end of its `with` block, or at exit.

    Attributes:
        url: of the HTTP port, once it is started.
        api_key: the admin key; None for one that asks for none.
    """

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        binary: str | Path | None = None,
        allow_anonymous: bool = False,
        args: Sequence[str] = (),
        start_timeout_s: float = 60.0,
    ) -> None:
        self._binary = find_binary(binary)
        self._temporary = tempfile.TemporaryDirectory(prefix="lakebed-")
        self._work = Path(self._temporary.name)
        self.data = str(data) if data is not None else str(self._work / "lake")
        self.api_key = None if allow_anonymous else _new_key()
        self._args = ["--allow-anonymous", *args] if allow_anonymous else list(args)
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: dict[str, Any] = {}
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The URL to connect to."""
        return f"http://{self._ready['http']}"

    @property
    def log(self) -> str:
        """What the server logged so far."""
        path = self._work / "server.log"
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def connect(self, database: str | None = None, **options: Any) -> Connection:
        """A connection with the admin key."""
        return connect(self.url, self.api_key, database, **options)

    def start(self) -> "Server":
        """Starts the process and waits until both ports accept.

        Raises:
            Unavailable: it ended or was not ready in time; the message has the end of its log.
        """
        if self._process is not None:
            return self
        ready = self._work / "ready.json"
        ready.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if k not in OF_THE_PACKAGE}
        for name in ("LAKEBED_URL", "LAKEBED_API_KEY", "LAKEBED_DATABASE", "LAKEBED_ADMIN_KEY"):
            environment.pop(name, None)
        if self.api_key is not None:
            environment["LAKEBED_ADMIN_KEY"] = self.api_key
        command = [
            *(str(self._binary), "serve", "--data", self.data),
            *("--http-addr", "127.0.0.1:0", "--ready-file", str(ready), *self._args),
        ]
        with (self._work / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # An interrupt of the notebook's cell must not end the server.
                start_new_session=True,
            )
        atexit.register(self.stop)
        deadline = time.monotonic() + self._start_timeout_s
        while not ready.is_file():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                what = f"ended with {code}" if code is not None else "was not ready in time"
                log_end = self.log[-1_000:]
                self.stop()
                raise Unavailable(f"the server {what}: {log_end}")
            time.sleep(0.02)
        self._ready = json.loads(ready.read_text())
        return self

    def stop(self) -> None:
        """Stops the process as Ctrl-C does; kills it if that takes too long. May be called
        twice."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        # A forked child shares the handle and must not end its parent's server.
        if process is None or os.getpid() != self._pid:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()


def _new_key() -> str:
    """A key in the form that the server makes itself."""
    return f"lb_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


def serve(
    data: str | Path | None = None,
    *,
    binary: str | Path | None = None,
    allow_anonymous: bool = False,
    args: Sequence[str] = (),
    start_timeout_s: float = 60.0,
) -> Server:
    """A server on this machine, on ports that are free, for the time of a `with` block:

        with lakebed.serve("./lake") as server:
            db = server.connect()

    Args:
        data: the lake's root; a temporary one, gone at the end, without it.
        binary: which binary to run; `LAKEBED_BIN`, else `lakebed` on the PATH.
        allow_anonymous: whether it asks for no key.
        args: further words of its command line.
    """
    return Server(
        data,
        binary=binary,
        allow_anonymous=allow_anonymous,
        args=args,
        start_timeout_s=start_timeout_s,
    )
