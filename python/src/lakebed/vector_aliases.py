"""Aliases of columns of vectors, and the report that helps to point one to another column."""

from collections.abc import Callable, Sequence
from typing import Any

from lakebed._commands import version_fields, without_none
from lakebed._retry import retried

# Sends a body to a verb of a table; whether it changes something.
Post = Callable[[str, dict[str, Any], bool], dict[str, Any]]


class VectorAliases:
    """The aliases of a table. A search that names one goes to the column that it points to in the
    version that is searched; one that names nothing goes to the alias `default`, if there is."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def list(self, version: int | str | None = None) -> dict[str, str]:
        """The column that each alias points to."""
        body = version_fields(version)
        answer = retried(lambda: self._post("vector_alias/list", body, False))
        return {alias: str(of["column"]) for alias, of in answer["aliases"].items()}

    def set(self, alias: str, column: str, *, expected: str | None = None) -> int:
        """Points an alias to a column of vectors, in one version, whose number is returned.

        Args:
            expected: the column that it has to point to now.

        Raises:
            Conflict: it points to another one.
            CommitUnknown: the connection was lost after the request was sent; look before repeating
                it.
        """
        body = without_none({"alias": alias, "column": column, "expected": expected})
        return int(self._post("vector_alias/set", body, True)["version"])

    def drop(self, alias: str, *, expected: str | None = None) -> int:
        """Takes an alias away; the column stays. The version without it.

        Raises:
            NotFound: there is no such alias.
        """
        body = without_none({"alias": alias, "expected": expected})
        return int(self._post("vector_alias/drop", body, True)["version"])


def compare_embeddings(
    post: Post,
    a: str,
    b: str,
    queries: int | Sequence[str],
    k: int,
    where: str | None,
    seed: int,
    distance: str | None,
    version: int | str | None,
) -> dict[str, Any]:
    """Asks for the report; see `Table.compare_embeddings`."""
    fields = {
        "from": a,
        "to": b,
        "queries": queries if isinstance(queries, int) else list(queries),
        "k": k,
        "filter": where,
        "seed": seed,
        "distance_type": distance,
        **version_fields(version),
    }
    return retried(lambda: post("compare_embeddings", without_none(fields), False))
