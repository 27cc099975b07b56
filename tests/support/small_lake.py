"""A lake on a disk that a test fills and makes room on."""

import os
from pathlib import Path

from support.faults import seen_by
from support.server import LakebedServer

PAGE = 4096


class SmallLake:
    """A server whose lake lies on a small file system."""

    def __init__(self, server: LakebedServer) -> None:
        self.server = server
        self.root = seen_by(server, Path(server.data))
        self.filler = self.root / "filler"

    def fill(self, leave: int = 0) -> None:
        """Takes all room but `leave` bytes."""
        with self.filler.open("ab", buffering=0) as file:
            room = os.statvfs(self.root).f_bavail * PAGE
            os.posix_fallocate(file.fileno(), self.filler.stat().st_size, room - leave)

    def free(self) -> None:
        """Gives the room back."""
        self.filler.unlink()

    def files(self, below: str = "default") -> dict[str, int]:
        """The files of the lake with their sizes."""
        found = (path for path in (self.root / below).rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in found}
