"""ADBC connections to the Flight port, as a user of pandas or polars opens them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pytest
from adbc_driver_flightsql import DatabaseOptions

from support.server import LakebedServer

HEADER = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value


class Sql:
    """One connection; `query` answers with a table, `change` with the rows that were touched."""

    def __init__(
        self,
        server: LakebedServer,
        *,
        key: str | None = None,
        database: str | None = None,
        namespace: str | None = None,
        column_types: str | None = None,
    ) -> None:
        options = {
            DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {key or server.admin_key}",
        }
        if database is not None:
            options[f"{HEADER}database"] = database
        if namespace is not None:
            options[f"{HEADER}namespace-path"] = namespace
        if column_types is not None:
            options[f"{HEADER}column-types"] = column_types
        uri = f"grpc://{server.flight_address}"
        self.connection = dbapi.connect(uri, db_kwargs=options, autocommit=True)

    def query(self, text: str, parameters: Any = None) -> pa.Table:
        """The rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return cursor.fetch_arrow_table()

    def rows(self, text: str, parameters: Any = None) -> list[dict[str, Any]]:
        """The rows of a query as dictionaries."""
        return self.query(text, parameters).to_pylist()

    def value(self, text: str, parameters: Any = None) -> Any:
        """The only value of a query."""
        table = self.query(text, parameters)
        assert (table.num_rows, table.num_columns) == (1, 1), table
        return table.column(0)[0].as_py()

    def change(self, text: str) -> int:
        """The rows that a change touched, over the update path of Flight SQL."""
        with self.connection.cursor() as cursor:
            cursor.adbc_statement.set_sql_query(text)
            return cursor.adbc_statement.execute_update()

    def plan(self, text: str) -> str:
        """The physical plan of a query."""
        plans = {row["plan_type"]: row["plan"] for row in self.rows(f"EXPLAIN {text}")}
        return plans["physical_plan"]

    @contextlib.contextmanager
    def refuses(self, code: str, *fragments: str) -> Iterator[None]:
        """What runs inside fails with a status of gRPC whose message has all fragments."""
        with pytest.raises(dbapi.Error) as caught:
            yield
        text = str(caught.value)
        # The driver has names of its own for some; the status of gRPC stands behind them.
        status = "".join(word.capitalize() for word in code.split("_"))
        assert f"({status};" in text, text
        for fragment in fragments:
            assert fragment in text, text

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()
