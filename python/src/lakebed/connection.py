"""A connection to a server: tables, SQL and jobs of one database."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakebed import _sql
from lakebed._flight import FlightDoor
from lakebed._http import HttpDoor, quoted
from lakebed._retry import retried
from lakebed._rows import Rows
from lakebed._target import Target, target
from lakebed._write import source_of, write
from lakebed.errors import InvalidArgument
from lakebed.importing import import_paths
from lakebed.jobs import Jobs
from lakebed.model_registry import Models
from lakebed.table import Table

if TYPE_CHECKING:
    from lakebed._write import Rowlike


class Connection:
    """What `lakebed.connect` returns. Sockets are opened when they are first needed, in each
    process anew, so a connection may be pickled and may cross a fork. Its methods may be called
    from several threads at once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._http = HttpDoor(target)
        self._flight = FlightDoor(self._http)
        self.jobs = Jobs(self._http, self._flight)
        self.models = Models(self._http)

    def __reduce__(self) -> tuple[Any, ...]:
        return Connection, (self._target,)

    def __repr__(self) -> str:
        return f"<Connection to {self._target.url}, database {self._target.database}>"

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the Flight connection of this process and the HTTP connection of this thread; the
        next call opens others. Other threads' HTTP connections end with their threads."""
        self._flight.close()
        self._http.close()

    @property
    def target(self) -> Target:
        """Which server, key and database."""
        return self._target

    def server_version(self) -> dict[str, Any]:
        """`version`, `flight` and `lake_id` of the server."""
        return self._http.version()

    def table(self, name: str) -> Table:
        """A table by its id, such as `frames` or `team$cars`; whether it exists shows when it is
        used."""
        return Table(self._http, self._flight, name)

    def create_table(
        self,
        name: str,
        data: "Rowlike | None" = None,
        *,
        schema: pa.Schema | None = None,
        mode: str = "create",
        blobs: Sequence[str] = (),
        write_id: str | None = None,
    ) -> Table:
        """Makes a table of rows, or of a schema alone.

        Args:
            mode: `create`, or `overwrite` to replace one that is there.
            blobs: columns of bytes that are to be stored out of line and read by ranges.

        Raises:
            AlreadyExists: the table is there.
        """
        if mode not in {"create", "overwrite"}:
            raise InvalidArgument(f"mode `{mode}` is not known; create and overwrite are")
        if data is None:
            if schema is None:
                raise InvalidArgument("a table needs rows or a schema")
            data = schema.empty_table()
        source = source_of(data, schema, blobs)
        write(self._flight, name, mode, source, write_id=write_id)
        return self.table(name)

    def tables(self) -> list[str]:
        """The ids of all tables of the database."""
        names: list[str] = []
        token = ""
        while True:
            more = f"?page_token={quoted(token)}" if token else ""
            answer = self._get(f"/v1/table{more}")
            names += answer["tables"]
            token = answer.get("page_token") or ""
            if not token:
                return names

    def find(
        self, text: str, *, kinds: Sequence[str] = (), limit: int = 20
    ) -> list[dict[str, Any]]:
        """What there is in the database, by names, columns, tags, owners and descriptions; best
        first.

        Args:
            text: words, each of which has to be somewhere; they may be typed half or with one
                mistake.
            kinds: only `table`, `view`, `materialized_view`, `function`, `model`, `tag` or
                `namespace`.

        Returns:
            Hits with `kind`, `name`, `matched_in` and `score`, and `of`, `fragment`, `owner` and
            `description` where there are any.
        """
        body = {"text": text, "kinds": list(kinds), "limit": limit}
        answer = retried(lambda: self._http.request("POST", "/v1/catalogue/search", body))
        found: list[dict[str, Any]] = answer.json()["hits"]
        return found

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are attached now, as the server describes them. `stages` has for each
        its name, the milliseconds for which it was busy since the worker's start, and rows;
        `bottleneck` names the busiest, which the others waited for, and is None before any work."""
        found: list[dict[str, Any]] = self._get("/v1/workers")["workers"]
        for worker in found:
            busiest = max(worker["stages"], key=lambda stage: stage[1], default=("", 0))
            worker["bottleneck"] = busiest[0] if busiest[1] else None
        return found

    def _get(self, path: str) -> dict[str, Any]:
        return dict(retried(lambda: self._http.request("GET", path)).json())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables())

    def sql(self, query: str, parameters: Sequence[Any] | None = None) -> Rows:
        """Runs a statement. A query is read when its rows are asked for; a change has happened when
        this returns, and its rows are its count.

        Args:
            parameters: values for the `?` of the statement.

        Raises:
            CommitUnknown: the answer to a change was lost; look before repeating it.
        """
        return _sql.run(self._flight, query, parameters)

    def import_paths(
        self, paths: str | Path | Sequence[str | Path], table: str | None = None, *options: str
    ) -> dict[str, Any]:
        """Imports files and folders; see `lakebed.import_paths`."""
        return import_paths(paths, table, *options, connection=self)


def connect(
    url: str | None = None,
    api_key: str | None = None,
    database: str | None = None,
    *,
    timeout_s: float = 60.0,
    stream_timeout_s: float = 3_600.0,
    ca_file: str | None = None,
) -> Connection:
    """A connection to a server. Nothing is sent before the first call.

    Args:
        url: of the HTTP port; `LAKEBED_URL`, else http://127.0.0.1:10024. It tells where Flight is.
        api_key: `LAKEBED_API_KEY`, else, for a server on this machine, the key that its first start
            wrote to `~/.config/lakebed`.
        database: `LAKEBED_DATABASE`, else `default`.
        timeout_s: how long a call may take that does not stream.
        stream_timeout_s: how long a whole read or write may take.
        ca_file: certificates in PEM to trust instead of the system's.

    Raises:
        InvalidArgument: the URL is not one of HTTP, or `ca_file` holds no certificates.
    """
    return Connection(
        target(
            url,
            api_key,
            database,
            timeout_s=timeout_s,
            stream_timeout_s=stream_timeout_s,
            ca_file=ca_file,
        )
    )
