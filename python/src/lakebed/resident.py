"""Columns of vectors that the server searches in memory."""

from typing import Any

from lakebed._http import HttpDoor, quoted

Records = list[dict[str, Any]]


class ResidentIndexes:
    """The resident indexes of a table on the server that is asked; see `Table.resident`."""

    def __init__(self, http: HttpDoor, table: str) -> None:
        self._http = http
        self._table = table

    def create(self, column: str, distance: str | None = None) -> None:
        """Begins to build the index of a column, and keeps it from now on.

        Args:
            column: a column of vectors of floats.
            distance: `l2` or `cosine`; as the table's own index of the column without one.

        Raises:
            InvalidArgument: for a column that can have none, or too large for the server's memory.
        """
        body = {"column": column} | ({"distance_type": distance} if distance else {})
        self._call("create", body)

    def list(self) -> Records:
        """What there is, and how it is: `state`, `rows`, `bytes`, `searches` and more."""
        return list(self._call("list", {})["resident"])

    def drop(self, column: str) -> None:
        """Drops the index of a column.

        Raises:
            NotFound: when it has none.
        """
        self._call("drop", {"column": column})

    def _call(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        path = "/v1/table/" + quoted(self._table) + "/resident/" + verb
        answer = self._http.request("POST", path, body, changes=verb != "list")
        return dict(answer.json())
