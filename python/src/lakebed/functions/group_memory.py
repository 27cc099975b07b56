"""How much memory a process and all that it started take, by /proc.

Counted is what cannot be taken back without a swap: anonymous and shared memory. Files that are
mapped, such as the weights of a model, are the system's to drop. Limits of the kernel on address
space are no use here: CUDA and numpy reserve far more than they touch.
"""

import contextlib
import os
import re
import time
from pathlib import Path

PROC = Path("/proc")
# Looking for new processes means looking at all of the machine's.
SEARCH_S = 1.0
_STATUS = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)
_SHARES = re.compile(rb"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


class GroupMemory:
    """The memory of one process group."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._members = [group]
        self._searched_s = 0.0

    def read(self, enough: int) -> int:
        """Bytes; 0 where the system does not tell. What processes share counts once, which is
        looked at more closely only where the sum is over `enough`."""
        now = time.monotonic()
        if now - self._searched_s > SEARCH_S:
            self._members, self._searched_s = _members(self._group), now
        total = sum(_kilobytes(pid, "status", _STATUS) for pid in self._members) << 10
        if total <= enough or len(self._members) == 1:
            return total
        shares = sum(_kilobytes(pid, "smaps_rollup", _SHARES) for pid in self._members) << 10
        return shares or total


def _kilobytes(pid: int, file: str, pattern: re.Pattern[bytes]) -> int:
    try:
        text = (PROC / str(pid) / file).read_bytes()
    except OSError:
        return 0
    return sum(int(found) for found in pattern.findall(text))


def _members(group: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name of the program, in parentheses, may hold anything.
                stat = (PROC / entry.name / "stat").read_bytes().rpartition(b")")[2].split()
                if int(stat[2]) == group:
                    found.append(int(entry.name))
    return found or [group]
