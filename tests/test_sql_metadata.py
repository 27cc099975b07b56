"""What tools with windows ask of a Flight SQL server before anybody types a statement: catalogs,
schemas, tables, columns, keys, types, abilities; through ADBC, flightsql-dbapi and SQLAlchemy."""

from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import flightsql.flightsql_pb2 as messages
import flightsql.sqlalchemy  # registers its dialect
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy
from flightsql.client import FlightSQLClient, TableRef, flight_descriptor
from pyarrow import flight

from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql

COLUMNS = "id BIGINT NOT NULL, name VARCHAR, price DECIMAL(10, 2), day DATE, at TIMESTAMP"
# Codes of JDBC and ODBC.
XDBC_BIGINT, XDBC_VARCHAR, XDBC_DATE = -5, 12, 91


@pytest.fixture
def made(sql: Sql, table: str) -> str:
    """A table in `public` and one of its name in a namespace."""
    for schema in ("public", f"{table}_ns"):
        sql.query(f"CREATE TABLE {schema}.{table} ({COLUMNS})")
    sql.query(f"INSERT INTO {table} (id, name) VALUES (1, 'a'), (2, 'b')")
    return table


@pytest.fixture
def client(server: LakebedServer) -> Iterator[FlightSQLClient]:
    host, port = server.flight_address.split(":")
    found = FlightSQLClient(host=host, port=int(port), insecure=True, token=server.admin_key)
    yield found
    found.close()


def answer(client: FlightSQLClient, info: flight.FlightInfo) -> list[dict[str, Any]]:
    """The rows behind an info, whose schema is the one that was announced."""
    (endpoint,) = info.endpoints
    found = client.do_get(endpoint.ticket).read_all()
    assert found.schema.equals(info.schema)
    return found.to_pylist()


def url(server: LakebedServer, *more: str) -> str:
    options = "&".join(["insecure=True", f"token={server.admin_key}", *more])
    return f"datafusion+flightsql://{server.flight_address}/?{options}"


# ---- ADBC -----------------------------------------------------------------------------------


def schemas_of(objects: pa.RecordBatchReader) -> dict[str, Any]:
    """What an answer of `adbc_get_objects` has for the database `default`."""
    (catalog,) = objects.read_all().to_pylist()
    assert catalog["catalog_name"] == "default"
    found = catalog["catalog_db_schemas"]
    return {row["db_schema_name"]: row["db_schema_tables"] for row in found}


def test_adbc_objects_at_every_depth(sql: Sql, made: str) -> None:
    get = sql.connection.adbc_get_objects
    (catalog,) = get(depth="catalogs", catalog_filter="def%").read_all().to_pylist()
    assert catalog == {"catalog_name": "default", "catalog_db_schemas": None}
    assert get(depth="catalogs", catalog_filter="nothing").read_all().num_rows == 0

    namespace = f"{made}_ns"
    assert schemas_of(get(depth="db_schemas", db_schema_filter=namespace)) == {namespace: None}
    assert {"public", namespace} <= schemas_of(get(depth="db_schemas")).keys()

    tables = schemas_of(get(depth="tables", table_name_filter=made, db_schema_filter="public"))
    assert [(row["table_name"], row["table_type"]) for row in tables["public"]] == [(made, "TABLE")]
    for types, count in [(["TABLE"], 1), (["VIEW"], 0), (["VIEW", "TABLE"], 1)]:
        found = schemas_of(get(depth="tables", table_types_filter=types, table_name_filter=made))
        assert len(found[namespace]) == count, types

    found = get(depth="columns", table_name_filter=made, column_name_filter="%a%")
    (row,) = schemas_of(found)[namespace]
    columns = {it["column_name"]: it for it in row["table_columns"]}
    assert list(columns) == ["name", "day", "at"]
    assert [it["ordinal_position"] for it in columns.values()] == [2, 4, 5]
    assert columns["name"]["xdbc_data_type"] == XDBC_VARCHAR
    (row,) = schemas_of(get(depth="all", table_name_filter=made))[namespace]
    assert (len(row["table_columns"]), row["table_constraints"]) == (5, [])


def test_adbc_schemas_of_tables_and_statements(sql: Sql, made: str) -> None:
    schema = sql.connection.adbc_get_table_schema(
        made, catalog_filter="default", db_schema_filter=f"{made}_ns"
    )
    assert schema.names == ["id", "name", "price", "day", "at"]
    assert (schema.field("id").nullable, schema.field("price").type) == (
        False,
        pa.decimal128(10, 2),
    )
    with pytest.raises(dbapi.ProgrammingError):
        sql.connection.adbc_get_table_schema(f"{made}_none")
    with sql.connection.cursor() as cursor:
        found = cursor.adbc_execute_schema(f"SELECT price, id FROM {made} WHERE id = $1")
        assert found.names == ["price", "id"]
        assert cursor.adbc_prepare(f"SELECT name FROM {made} WHERE id = $1").types == [pa.int64()]
        parts, schema = cursor.adbc_execute_partitions(f"SELECT id FROM {made}")
        rows = []
        for part in parts:
            cursor.adbc_read_partition(part)
            rows += cursor.fetch_arrow_table()["id"].to_pylist()
        assert (sorted(rows), schema.names) == ([1, 2], ["id"])


def test_adbc_has_no_transactions_and_no_session(server: LakebedServer, sql: Sql) -> None:
    with sql.refuses("unimplemented", "transactions are not built"):
        sql.query("BEGIN")
    # Both do nothing where each statement commits by itself.
    sql.connection.commit()
    sql.connection.rollback()
    with pytest.raises(dbapi.NotSupportedError, match="transaction"):
        sql.connection.adbc_connection.set_autocommit(False)
    options = {"adbc.flight.sql.authorization_header": f"Bearer {server.admin_key}"}
    with pytest.warns(Warning, match="Cannot disable autocommit"):
        other = dbapi.connect(f"grpc://{server.flight_address}", db_kwargs=options)
    other.close()
    with pytest.raises(dbapi.NotSupportedError, match="name the database in the header"):
        sql.connection.adbc_current_catalog = "default"
    rows = pa.table({"id": [1]})
    with sql.connection.cursor() as cursor, sql.refuses("unimplemented", "temporary tables"):
        cursor.adbc_ingest("t", rows, mode="create", temporary=True)


# ---- the commands of Flight SQL -------------------------------------------------------------


def test_catalogs_schemas_and_tables(client: FlightSQLClient, made: str) -> None:
    assert {"catalog_name": "default"} in answer(client, client.get_catalogs())
    namespace = {"catalog_name": "default", "db_schema_name": f"{made}_ns"}
    found = client.get_db_schemas("default", f"{made}%")
    assert answer(client, found) == [namespace]
    assert answer(client, client.get_db_schemas("nothing")) == []
    found = client.get_tables(True, "default", ["TABLE"], f"{made[:-1]}_", f"{made}%")
    (row,) = answer(client, found)
    schema = pa.ipc.read_schema(pa.py_buffer(row.pop("table_schema")))
    assert schema.names == ["id", "name", "price", "day", "at"]
    assert row == {**namespace, "table_name": made, "table_type": "TABLE"}
    for nothing in (
        client.get_tables(catalog=""),
        client.get_tables(table_types=["VIEW"]),
        client.get_tables(table_name_filter_pattern="nothing"),
    ):
        assert answer(client, nothing) == []
    assert {"table_type": "VIEW"} in answer(client, client.get_table_types())


def test_keys_of_tables(client: FlightSQLClient, made: str) -> None:
    ours, theirs = TableRef("default", "public", made), TableRef("default", f"{made}_ns", made)
    for keys in (
        client.get_primary_keys(ours),
        client.get_primary_keys(TableRef(table=made)),
        client.get_exported_keys(ours),
        client.get_imported_keys(ours),
        client.get_cross_reference(ours, theirs),
    ):
        assert answer(client, keys) == []
    with pytest.raises(KeyError, match="does not exist"):
        answer(client, client.get_primary_keys(TableRef(table=f"{made}_none")))


def test_a_key_that_is_said(client: FlightSQLClient, sql: Sql, table: str) -> None:
    columns = "id BIGINT, part INT, name VARCHAR, PRIMARY KEY (part, id) NOT ENFORCED"
    sql.query(f"CREATE TABLE {table} ({columns})")
    found = answer(client, client.get_primary_keys(TableRef("default", "public", table)))
    assert [(row["key_sequence"], row["column_name"]) for row in found] == [(1, "part"), (2, "id")]
    assert not sql.query(f"SELECT * FROM {table}").schema.field("id").nullable
    sql.query(f"INSERT INTO {table} VALUES (1, 1, 'a')")
    with sql.refuses("invalid_argument", "null"):
        sql.query(f"INSERT INTO {table} VALUES (NULL, 1, 'a')")
    with sql.refuses("unimplemented", "NOT ENFORCED"):
        sql.query(f"CREATE TABLE {table}_other (id BIGINT PRIMARY KEY)")


def test_types(client: FlightSQLClient) -> None:
    every = {row["data_type"]: row for row in answer(client, client.get_xdbc_type_info(None))}
    assert {XDBC_BIGINT, XDBC_VARCHAR, XDBC_DATE} <= every.keys()
    assert every[XDBC_VARCHAR]["type_name"] == "VARCHAR"
    assert (every[XDBC_VARCHAR]["literal_prefix"], every[XDBC_BIGINT]["literal_prefix"]) == (
        "'",
        None,
    )
    for code in every:
        assert answer(client, client.get_xdbc_type_info(code)) == [every[code]]
    assert answer(client, client.get_xdbc_type_info(999)) == []


def test_abilities(client: FlightSQLClient) -> None:
    every = {row["info_name"]: row["value"] for row in answer(client, client.get_sql_info([]))}
    for name, value in {
        messages.FLIGHT_SQL_SERVER_NAME: "Lakebed",
        messages.FLIGHT_SQL_SERVER_READ_ONLY: False,
        messages.FLIGHT_SQL_SERVER_TRANSACTION: 0,
        messages.SQL_IDENTIFIER_QUOTE_CHAR: '"',
        messages.SQL_DDL_TABLE: True,
        messages.SQL_TRANSACTIONS_SUPPORTED: False,
        messages.SQL_SCHEMA_TERM: "namespace",
        messages.SQL_CATALOG_TERM: "database",
    }.items():
        assert every[name] == value, messages.SqlInfo.Name(name)
        only = answer(client, client.get_sql_info([name]))
        assert only == [{"info_name": name, "value": value}]
    assert answer(client, client.get_sql_info([99_999])) == []


def test_metadata_without_an_info_before(client: FlightSQLClient, made: str) -> None:
    """A command is its own ticket, and has a schema of its own."""
    for command, names in [
        (messages.CommandGetTableTypes(), ["table_type"]),
        (messages.CommandGetDbSchemas(), ["catalog_name", "db_schema_name"]),
        (messages.CommandStatementQuery(query=f"SELECT id, name FROM {made}"), ["id", "name"]),
    ]:
        descriptor = flight_descriptor(command)
        options = client._flight_call_options()
        assert client.client.get_schema(descriptor, options).schema.names == names
        if not isinstance(command, messages.CommandStatementQuery):
            ticket = flight.Ticket(descriptor.command)
            assert client.do_get(ticket).read_all().schema.names == names


def test_prepared_statements_and_changes(client: FlightSQLClient, made: str) -> None:
    with client.prepare(f"SELECT id FROM {made} WHERE name = $1") as prepared:
        for name, found in [("a", [{"id": 1}]), ("b", [{"id": 2}]), ("c", [])]:
            values = pa.record_batch([pa.array([name])], ["name"])
            assert answer(client, prepared.execute(values)) == found
    assert client.execute_update(f"UPDATE {made} SET name = 'c' WHERE id < 3") == 2
    assert client.execute_update(f"DELETE FROM {made} WHERE id = 2") == 1


def test_keys_as_passwords(server: LakebedServer) -> None:
    host, port = server.flight_address.split(":")
    where = {"host": host, "port": int(port), "insecure": True}
    client = FlightSQLClient(**where, user="anybody", password=server.admin_key)
    assert {"table_type": "VIEW"} in answer(client, client.get_table_types())
    client.close()
    with pytest.raises(flight.FlightUnauthenticatedError):
        FlightSQLClient(**where, user="anybody", password="lb_nobody").get_catalogs()
    client = FlightSQLClient(**where)
    with pytest.raises(flight.FlightUnauthenticatedError):
        client.get_catalogs()
    client.close()


# ---- SQLAlchemy -----------------------------------------------------------------------------


def test_sqlalchemy_inspects(server: LakebedServer, made: str) -> None:
    engine = sqlalchemy.create_engine(url(server, "feature-sqlalchemy-primary-keys=on"))
    inspector = sqlalchemy.inspect(engine)
    assert {"public", f"{made}_ns"} <= set(inspector.get_schema_names())
    assert inspector.get_table_names(schema=f"{made}_ns") == [made]
    columns = inspector.get_columns(made, schema="public")
    assert [(it["name"], it["nullable"]) for it in columns][:2] == [("id", False), ("name", True)]
    assert isinstance(columns[0]["type"], sqlalchemy.types.BIGINT)
    assert inspector.has_table(made, schema="public")
    assert not inspector.has_table(f"{made}_none")
    assert inspector.get_pk_constraint(made, schema="public")["constrained_columns"] == []
    assert inspector.get_view_names() == []
    assert inspector.get_foreign_keys(made) == []
    engine.dispose()


def test_sqlalchemy_reads_what_it_reflects(server: LakebedServer, made: str) -> None:
    engine = sqlalchemy.create_engine(url(server))
    reflected = sqlalchemy.Table(made, sqlalchemy.MetaData(), autoload_with=engine)
    query = sqlalchemy.select(reflected.c.id, reflected.c.name).where(reflected.c.name == "b")
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(query.limit(5))] == [(2, "b")]
        count = sqlalchemy.select(sqlalchemy.func.count()).where(reflected.c.id > 1)
        assert connection.execute(count).scalar() == 1
    engine.dispose()


def test_pandas_reads_through_the_dbapi(client: FlightSQLClient, made: str) -> None:
    connection = flightsql.connect(client)
    with pytest.warns(UserWarning, match="SQLAlchemy"):
        frame = pd.read_sql(f"SELECT id, name FROM {made} ORDER BY id", connection)
    assert frame.to_dict("list") == {"id": [1, 2], "name": ["a", "b"]}


def test_a_database_of_its_own(server: LakebedServer, table: str) -> None:
    lake: Lake = server.lake(database=table)
    lake.create("inner", pa.table({"id": [1, 2, 3]}))
    lake.close()
    engine = sqlalchemy.create_engine(url(server, f"database={table}"))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text('SELECT count(*) FROM "inner"')).scalar() == 3
    engine.dispose()
