"""Row sets: sets of a table's rows, kept by name and version in the lake."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakebed._commands import without_none
from lakebed._http import Answer, HttpDoor, quoted
from lakebed._retry import retried

# Ids of one answer.
PAGE = 100_000


@dataclass(frozen=True)
class RowSet:
    """One version of a row set.

    Attributes:
        rows: how many row ids it has, those of rows among them that were deleted since.
        made_from: how it came to be.
        table_version: the version of the table that it was taken of.
        raw: the server's answer as it came.
    """

    name: str
    version: int
    rows: int
    made_from: dict[str, Any]
    table_version: int
    description: str | None
    raw: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class RowSets:
    """The row sets of a table. `NAME@3` names a version; `NAME` alone is the newest."""

    def __init__(self, http: HttpDoor, table: str) -> None:
        self._http = http
        self._table = table

    def create(
        self,
        name: str,
        *,
        filter: str | None = None,
        sql: str | None = None,
        query: Mapping[str, Any] | None = None,
        row_ids: Sequence[int] | None = None,
        union: Sequence[str] | None = None,
        intersect: Sequence[str] | None = None,
        difference: Sequence[str] | None = None,
        description: str | None = None,
        version: int | None = None,
        branch: str | None = None,
    ) -> RowSet:
        """Makes the next version of a row set, of exactly one source.

        Args:
            filter: the rows for which this condition in SQL is true.
            sql: the rows that a query gives in its column `_rowid`.
            query: the rows that a search finds: the fields of a query over HTTP, such as
                `{"vector": [...], "k": 100}`.
            row_ids: rows by row id.
            union: rows of any of these sets.
            intersect: rows of all of these sets.
            difference: rows of the first of these sets and of no other one.
            version: the version of the table whose rows are taken; the newest without one.

        Raises:
            InvalidArgument: not one source is given, or it is not understood.
            NotFound: a column, a row or a set is not there.
            CommitUnknown: the connection was lost after the request was sent; look before repeating
                it.
        """
        body = {
            "name": name,
            "filter": filter,
            "sql": sql,
            "query": dict(query) if query is not None else None,
            "row_ids": None if row_ids is None else [int(row) for row in row_ids],
            "union": _names(union),
            "intersect": _names(intersect),
            "difference": _names(difference),
            "description": description,
            "version": version,
            "branch": branch,
        }
        return _row_set(self._ask("create", without_none(body), changes=True).json())

    def list(self, *, all_versions: bool = False) -> "list[RowSet]":
        """The newest version of each row set, or all versions, by name."""
        answer = retried(lambda: self._ask("list", {"all_versions": all_versions}))
        return [_row_set(found) for found in answer.json()["row_sets"]]

    def describe(self, name: str) -> RowSet:
        """The row set that `NAME` or `NAME@VERSION` names.

        Raises:
            NotFound: there is none.
        """
        return _row_set(retried(lambda: self._ask("describe", {"name": name})).json())

    def rows(self, name: str) -> Iterator[int]:
        """The row ids of a set, in rising order, asked for page by page."""
        after: int | None = None
        while True:
            page = self._page(without_none({"name": name, "limit": PAGE, "after": after}))
            yield from page["row_ids"]
            if len(page["row_ids"]) < PAGE:
                return
            # The version of the first page, whatever is made meanwhile.
            name, after = f"{page['name']}@{page['version']}", page["row_ids"][-1]

    def _page(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(retried(lambda: self._ask("rows", body)).json())

    def roaring(self, name: str) -> bytes:
        """The row ids of a set in Roaring's portable format for 64 bits, for other programs."""
        return retried(lambda: self._ask("rows", {"name": name, "format": "roaring"})).body

    def drop(self, name: str) -> int:
        """Forgets one version, `NAME@VERSION`, or all of them; how many they were. Rows stay.

        Raises:
            NotFound: there is none.
        """
        return int(self._ask("drop", {"name": name}, changes=True).json()["dropped"])

    def _ask(self, verb: str, body: Any, *, changes: bool = False) -> Answer:
        path = f"/v1/table/{quoted(self._table)}/row_sets/{verb}"
        timeout_s = self._http.target.stream_timeout_s
        return self._http.request("POST", path, body, changes=changes, timeout_s=timeout_s)


def _names(sets: Sequence[Any] | None) -> "list[str] | None":
    return None if sets is None else [str(name) for name in sets]


def _row_set(raw: dict[str, Any]) -> RowSet:
    return RowSet(
        name=raw["name"],
        version=raw["version"],
        rows=raw["rows"],
        made_from=raw["made_from"],
        table_version=raw["table_version"],
        description=raw.get("description"),
        raw=raw,
    )
