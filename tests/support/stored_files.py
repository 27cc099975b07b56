"""Which files below a folder are new, changed or gone between two looks, as the disk has them."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stored:
    """What tells a file that was left alone from one that was written again."""

    inode: int
    bytes: int
    changed_ns: int


def look(folder: Path) -> dict[str, Stored]:
    """Every file below a folder, by its path there. What goes meanwhile is left out."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found[path.relative_to(folder).as_posix()] = Stored(
                    stat.st_ino, stat.st_size, stat.st_mtime_ns
                )
    return found


def written(before: dict[str, Stored], after: dict[str, Stored]) -> dict[str, int]:
    """The sizes of the files that are new or changed."""
    return {path: file.bytes for path, file in after.items() if before.get(path) != file}
