"""Faults put under a server from outside: syncs that wait or stop it, and a disk that is small.

Each function returns the wrapper of a `LakebedServer`. strace's path filter keeps every other call
untouched, so that a test says which commit is held and no other one is.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa

from support.server import LakebedServer
from support.waiting import wait_until

STRACE = ["strace", "--follow-forks", "--quiet=all", "--trace=fsync,fdatasync"]


def slow_syncs(folder: Path, delay_ms: int) -> list[str]:
    """Every sync of `folder` takes `delay_ms` longer; other threads go on meanwhile."""
    inject = f"--inject=fsync,fdatasync:delay_enter={delay_ms * 1000}"
    return [*STRACE, inject, f"--trace-path={folder.resolve()}", "--output=/dev/null"]


def stopping_syncs(folder: Path) -> list[str]:
    """The server is stopped as a whole, as by SIGSTOP, in every sync of `folder`."""
    inject = "--inject=fsync,fdatasync:signal=SIGSTOP"
    return [*STRACE, inject, f"--trace-path={folder.resolve()}", "--output=/dev/null"]


def is_stopped(server: LakebedServer) -> bool:
    """Whether the process stands still."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    state = next(line for line in status.splitlines() if line.startswith("State:"))
    # Under strace a stopped process shows as traced; its threads all do, and stay so.
    if state.split()[1] not in {"T", "t"}:
        return False
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return all((task / "stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt" for task in tasks)


def in_a_stop(server: LakebedServer, write: Callable[[], Future], meanwhile: Callable[[], None]):
    """Begins a write, does `meanwhile` once the server has stopped in its sync, and lets it go on,
    through further stops too; what the write gave."""
    pending = write()
    wait_until(lambda: is_stopped(server), "the stop in a sync")
    meanwhile()
    os.kill(server.pid, signal.SIGCONT)

    def goes_on() -> bool:
        if not pending.done() and is_stopped(server):
            os.kill(server.pid, signal.SIGCONT)
        return pending.done()

    wait_until(goes_on, "the end of the write")
    return pending.result()


def small_disk(mount: Path, mib: int) -> list[str]:
    """The server sees an empty file system of `mib` MiB at `mount`; nobody else sees it there."""
    mount.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={mib}m tmpfs "$0" && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(mount)]


def seen_by(server: LakebedServer, path: Path) -> Path:
    """A path as the server sees it."""
    return Path(f"/proc/{server.pid}/root{path.resolve()}")


def failing_syncs(folder: Path, error: str = "EIO", delay_ms: int = 0) -> list[str]:
    """Every sync of `folder` fails, as on a disk that loses writes, after a while."""
    inject = f"--inject=fsync,fdatasync:error={error}:delay_enter={delay_ms * 1000}"
    return [*STRACE, inject, f"--trace-path={folder.resolve()}", "--output=/dev/null"]


def slow_server(make_server: Callable[..., LakebedServer], rows: pa.Table) -> LakebedServer:
    """A server on a table `t`, each commit of which takes half a second."""
    server = make_server().start()
    server.lake().create("t", rows)
    assert server.terminate() == 0
    server.wrapper = slow_syncs(server.table_path("t") / "_versions", 500)
    return server.start()
