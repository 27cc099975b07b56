"""Parameters of flightsql-dbapi: each value comes in a dense union of five types."""

import flightsql.sqlalchemy  # registers its dialect
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy
from flightsql.client import FlightSQLClient

from support.server import LakebedServer


@pytest.fixture
def client(own_server: LakebedServer) -> FlightSQLClient:
    own_server.lake().create("t", pa.table({"id": [1, 2, 3], "name": ["a", "b", "c"]}))
    host, port = own_server.flight_address.split(":")
    return FlightSQLClient(host=host, port=int(port), insecure=True, token=own_server.admin_key)


def test_the_dbapi_binds(client: FlightSQLClient) -> None:
    cursor = flightsql.connect(client).cursor()
    cursor.execute("SELECT id FROM t WHERE name = ? OR id = ? ORDER BY id", ("c", 1))
    assert [row[0] for row in cursor.fetchall()] == [1, 3]
    cursor = flightsql.connect(client).cursor()
    for value in (1, 1.5, "text", True):
        cursor.execute("SELECT ? AS value", (value,))
        assert cursor.fetchall()[0][0] == value


def test_pandas_binds(client: FlightSQLClient) -> None:
    connection = flightsql.connect(client)
    frame = pd.read_sql("SELECT id FROM t WHERE id > ? ORDER BY id", connection, params=(1,))
    assert list(frame["id"]) == [2, 3]


@pytest.mark.usefixtures("client")
def test_sqlalchemy_binds(own_server: LakebedServer) -> None:
    """Without this feature the dialect writes NULL for each parameter of a text."""
    options = f"insecure=True&token={own_server.admin_key}"
    feature = "feature-sqlalchemy-prepared-statements=on"
    address = f"datafusion+flightsql://{own_server.flight_address}/?{options}&{feature}"
    engine = sqlalchemy.create_engine(address)
    with engine.connect() as connection:
        text = sqlalchemy.text("SELECT count(*) FROM t WHERE id > :least")
        assert connection.execute(text, {"least": 1}).scalar() == 2
    engine.dispose()
