"""Flight SQL as other clients speak it: pandas, polars, SQLAlchemy, DB-API, and the raw wire."""

import flightsql.sqlalchemy  # registers its dialect
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy
from pyarrow import flight

from support.flight import Lake
from support.flight_sql import ANY, answer_to, command, field, statement
from support.server import LakebedServer
from support.sql import Sql


@pytest.fixture
def numbers(lake: Lake, table: str) -> str:
    lake.create(table, pa.table({"id": list(range(100)), "name": [f"n{n}" for n in range(100)]}))
    return table


# ---- data frames ----------------------------------------------------------------------------


def test_pandas_and_polars_read_and_write(sql: Sql, numbers: str) -> None:
    text = f"SELECT id, name FROM {numbers} WHERE id < 10 ORDER BY id"
    frame = pd.read_sql(text, sql.connection)
    assert list(frame["id"]) == list(range(10))
    polar = pl.read_database(text, sql.connection)
    assert polar["name"].to_list() == [f"n{n}" for n in range(10)]
    assert frame.to_sql(f"{numbers}_pd", sql.connection, index=False) == 10
    assert polar.write_database(f"{numbers}_pl", sql.connection, if_table_exists="replace") == 10
    assert sql.value(f"SELECT count(*) FROM {numbers}_pd") == 10
    assert sql.value(f"SELECT sum(id) FROM {numbers}_pl") == 45


def test_adbc_lists_what_there_is(sql: Sql, numbers: str) -> None:
    info = sql.connection.adbc_get_info()
    assert info["vendor_name"] == "Lakebed"
    objects = sql.connection.adbc_get_objects(depth="all", table_name_filter=f"{numbers}%")
    catalogs = objects.read_all().to_pylist()
    default = next(row for row in catalogs if row["catalog_name"] == "default")
    public = next(row for row in default["catalog_db_schemas"] if row["db_schema_name"] == "public")
    columns = public["db_schema_tables"][0]["table_columns"]
    assert [column["column_name"] for column in columns] == ["id", "name"]
    schema = sql.connection.adbc_get_table_schema(numbers)
    assert schema.names == ["id", "name"]
    assert sql.connection.adbc_get_table_types() == ["TABLE", "VIEW"]
    with sql.connection.cursor() as cursor:
        assert cursor.adbc_execute_schema(f"SELECT id FROM {numbers}").names == ["id"]


# ---- SQLAlchemy and DB-API ------------------------------------------------------------------


def test_sqlalchemy_and_dbapi(server: LakebedServer, numbers: str) -> None:
    host, port = server.flight_address.split(":")
    address = f"datafusion+flightsql://{host}:{port}?insecure=True&token={server.admin_key}"
    engine = sqlalchemy.create_engine(address)
    with engine.connect() as connection:
        rows = connection.execute(
            sqlalchemy.text(f"SELECT id FROM {numbers} WHERE id < 3 ORDER BY id")
        )
        assert [row[0] for row in rows] == [0, 1, 2]
    assert numbers in sqlalchemy.inspect(engine).get_table_names(schema="public")
    client = flightsql.FlightSQLClient(
        host=host, port=int(port), insecure=True, token=server.admin_key
    )
    connection = flightsql.connect(client)
    cursor = connection.cursor()
    cursor.execute(f"SELECT count(*) FROM {numbers}")
    assert cursor.fetchone()[0] == 100


# ---- JDBC -----------------------------------------------------------------------------------

# Of the format's SqlInfo, what `DatabaseMetaData` of the JDBC driver asks for: it fails on any that
# has no value.
ASKED_BY_JDBC = [0, 1, 3, *range(500, 577)]


def test_everything_that_jdbc_asks_has_an_answer(lake: Lake) -> None:
    known = answer_to(lake, "CommandGetSqlInfo")["info_name"].to_pylist()
    assert sorted(set(ASKED_BY_JDBC) - set(known)) == []


def test_primary_keys_are_found_by_partial_names(lake: Lake, table: str) -> None:
    key = {b"lance-schema:unenforced-primary-key": b"true"}
    id_field = pa.field("id", pa.int64(), nullable=False, metadata=key)
    schema = pa.schema([pa.field("name", pa.string()), id_field])
    lake.create(table, pa.table([["a"], [1]], schema=schema))
    for fields in ((), (field(1, "default"), field(2, "public")), (field(1, ""), field(2, ""))):
        found = answer_to(lake, "CommandGetPrimaryKeys", *fields, field(3, table)).to_pylist()
        assert [(row["column_name"], row["key_sequence"]) for row in found] == [("id", 1)]


# ---- types that not everybody reads -----------------------------------------------------------


def test_columns_come_in_types_that_the_client_reads(
    server: LakebedServer, sql: Sql, lake: Lake, table: str
) -> None:
    words = ["red", None, "red"]
    stored = pa.table(
        {
            "long": pa.array(words, pa.large_string()),
            "dictionary": pa.array(words).dictionary_encode(),
            "bytes": pa.array([b"1", b"", None], pa.large_binary()),
            "list": pa.array([["a"], None, []], pa.large_list(pa.large_string())),
        }
    )
    lake.create(table, stored)
    text = f"SELECT *, substr(long, 1, 2) AS cut FROM {table}"
    kinds = ["large_string", "dictionary<values=string, indices=int32, ordered=0>"]
    kinds += ["large_binary", "large_list<item: large_string>", "string"]
    assert [str(kind) for kind in sql.query(text).schema.types] == kinds
    plain = Sql(server, column_types="plain")
    found = plain.query(text)
    assert [str(kind) for kind in found.schema.types] == [
        "string",
        "string",
        "binary",
        "list<item: string>",
        "string",
    ]
    assert found.to_pylist() == sql.query(text).to_pylist()
    with plain.connection.cursor() as cursor:
        assert cursor.adbc_execute_schema(text) == found.schema
        cursor.execute(f"{text} WHERE long = ?", ["red"])
        assert cursor.fetch_arrow_table().schema == found.schema
    assert plain.connection.adbc_get_table_schema(table).types == found.schema.types[:4]
    plain.close()
    odd = Sql(server, column_types="odd")
    with odd.refuses("INVALID_ARGUMENT", "column-types"):
        odd.query("SELECT 1")
    odd.close()


# ---- the wire -------------------------------------------------------------------------------


def test_the_polled_life_cycle_of_lancedb(lake: Lake, numbers: str) -> None:
    """0.40 polls until there is no descriptor, then fetches every endpoint."""
    poll = getattr(lake.client, "poll_flight_info", None)
    descriptor = flight.FlightDescriptor.for_command(statement(f"SELECT id FROM {numbers}"))
    if poll is None:
        info = lake.client.get_flight_info(descriptor, lake.options())
    else:
        info = poll(descriptor, lake.options()).info
    rows = [lake.client.do_get(end.ticket, lake.options()).read_all() for end in info.endpoints]
    assert pa.concat_tables(rows).num_rows == 100


def test_the_streamed_life_cycle_of_lancedb(lake: Lake, numbers: str) -> None:
    """0.41 sends the statement as the ticket itself, or with parameters by DoExchange."""
    ticket = flight.Ticket(field(2, statement(f"SELECT id FROM {numbers} WHERE id < 7")))
    assert lake.client.do_get(ticket, lake.options()).read_all().num_rows == 7
    empty = flight.Ticket(field(2, statement(f"SELECT id FROM {numbers} WHERE id < 0")))
    assert lake.client.do_get(empty, lake.options()).read_all().schema.names == ["id"]

    def exchanged(text: str) -> list[dict[str, int]]:
        descriptor = flight.FlightDescriptor.for_command(statement(text))
        writer, reader = lake.client.do_exchange(descriptor, lake.options())
        with writer:
            values = pa.table({"p": pa.array([42], pa.int64()), "low": pa.array([40], pa.int64())})
            writer.begin(values.schema)
            writer.write_table(values)
            writer.done_writing()
            return reader.read_all().to_pylist()

    numbered = f"SELECT id FROM {numbers} WHERE id = $1 AND id > $2"
    assert exchanged(numbered) == [{"id": 42}]
    with lake.refuses("invalid_argument", "$2"):
        exchanged(f"SELECT id FROM {numbers} WHERE id = $1")
    # A column binds its name as well.
    named = f"SELECT id FROM {numbers} WHERE id > $low AND id < $p"
    assert exchanged(named) == [{"id": 41}]
    with lake.refuses("invalid_argument", "$none"):
        exchanged(f"SELECT id FROM {numbers} WHERE id = $none")


def test_a_query_ticket_reads_its_versions_again_and_a_change_runs_once(
    lake: Lake, numbers: str
) -> None:
    descriptor = flight.FlightDescriptor.for_command(
        statement(f"SELECT count(*) AS n FROM {numbers}")
    )
    query = lake.client.get_flight_info(descriptor, lake.options()).endpoints[0].ticket
    text = f"INSERT INTO {numbers} SELECT id + 100, name FROM {numbers}"
    descriptor = flight.FlightDescriptor.for_command(statement(text))
    change = lake.client.get_flight_info(descriptor, lake.options()).endpoints[0].ticket
    assert lake.read(numbers).num_rows == 100
    assert lake.client.do_get(change, lake.options()).read_all().to_pylist() == [{"count": 100}]
    with lake.refuses("already_exists", "runs once"):
        lake.client.do_get(change, lake.options()).read_all()
    assert lake.read(numbers).num_rows == 200
    for _ in range(2):
        found = lake.client.do_get(query, lake.options()).read_all()
        assert found.to_pylist() == [{"n": 100}]


def test_cancelling_ends_a_query_and_its_ticket(server: LakebedServer, lake: Lake) -> None:
    text = "SELECT value FROM generate_series(1, 100000000000)"
    descriptor = flight.FlightDescriptor.for_command(statement(text))
    info = lake.client.get_flight_info(descriptor, lake.options())
    reader = lake.client.do_get(info.endpoints[0].ticket, lake.options())
    assert reader.read_chunk().data.num_rows > 0
    other = flight.FlightClient(f"grpc+tcp://{server.flight_address}")
    body = field(1, info.serialize())
    (result,) = other.do_action(flight.Action("CancelFlightInfo", body), lake.options())
    assert result.body.to_pybytes() == field(1, 1)
    with lake.refuses("cancelled", "was cancelled"):
        while True:
            reader.read_chunk()
    with lake.refuses("cancelled"):
        lake.client.do_get(info.endpoints[0].ticket, lake.options()).read_all()
    other.close()


def test_transactions_are_refused_by_name(lake: Lake) -> None:
    body = field(1, ANY + "ActionBeginTransactionRequest") + field(2, b"")
    with lake.refuses("not_implemented", "transactions"):
        list(lake.client.do_action(flight.Action("BeginTransaction", body), lake.options()))
    with lake.refuses("not_implemented", "transactions"):
        message = command("CommandStatementQuery", field(1, "SELECT 1"), field(2, b"tx"))
        lake.client.get_flight_info(flight.FlightDescriptor.for_command(message), lake.options())


def test_hostile_commands_and_tickets_are_refused(lake: Lake) -> None:
    for message in (
        field(1, ANY + "CommandStatementQuery") + field(2, b"\xff\xff"),
        command("CommandNobodyKnows"),
        command("CommandStatementSubstraitPlan"),
        statement(""),
        statement("\0"),
    ):
        with pytest.raises((flight.FlightError, pa.ArrowException, NotImplementedError)):
            lake.client.get_flight_info(
                flight.FlightDescriptor.for_command(message), lake.options()
            )
        with pytest.raises((flight.FlightError, pa.ArrowException, NotImplementedError)):
            lake.client.do_get(flight.Ticket(message), lake.options()).read_all()
    with lake.refuses("not_found", "prepared statement"):
        message = command("CommandPreparedStatementQuery", field(1, b"nobody"))
        lake.client.get_flight_info(flight.FlightDescriptor.for_command(message), lake.options())
