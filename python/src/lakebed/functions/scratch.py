"""Folders for what functions write. They go with their process, at the latest with the next worker.

A worker has one folder and holds a lock in it as long as it lives. A folder whose lock can be had
belongs to one that was killed, and the next worker on the machine takes it away.
"""

import contextlib
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

PREFIX = "lakebed-functions-"
LOCK = "lock"


class Scratch:
    """The folder of one worker."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        _sweep(parent)
        # Under another name until it is locked, so that nobody takes it for abandoned.
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
        self._lock: BinaryIO = (made / LOCK).open("wb")
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._folder = made.rename(parent / made.name.removeprefix("."))

    def folder(self) -> str:
        """A new folder below it."""
        return tempfile.mkdtemp(dir=self._folder)

    def close(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{PREFIX}*"):
        # Somebody else's account, or a file system without locks.
        with contextlib.suppress(OSError), (left / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
