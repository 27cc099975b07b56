"""What one change of a table writes, as its folder has it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lance

from support.stored_files import look, written


@dataclass
class Written:
    """Bytes of the files that are new, each of them by itself."""

    all: int
    data: int
    pictures: int


def picture_files(table: Path, column: str) -> set[str]:
    """The files of a table that hold bytes of a blob column: those of blobs, and data files with
    that column, which have small blobs among their pages."""
    dataset = lance.dataset(str(table))
    ids = {field.id() for field in dataset.lance_schema.fields() if field.name() == column}
    found = {path.relative_to(table).as_posix() for path in table.rglob("*.blob")}
    for fragment in dataset.get_fragments():
        for file in fragment.data_files():
            if ids & set(file.fields):
                found.add(f"data/{file.path}")
    return found


def bytes_of(table: Path, change: Callable[[], None], column: str | None = None) -> Written:
    """Does a change, and measures the files that are new or other ones after it, of any kind; those
    of `column`, which holds pictures, once more apart."""
    before = look(table)
    change()
    new = written(before, look(table))
    pictures = picture_files(table, column) if column is not None else set()
    return Written(
        sum(new.values()),
        sum(new[path] for path in new if path.startswith("data/")),
        sum(new[path] for path in new if path in pictures),
    )
