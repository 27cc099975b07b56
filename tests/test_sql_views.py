"""Views: made, read, listed and dropped, in SQL and over the routes of the LanceDB protocol."""

import pyarrow as pa
import pytest
from pyarrow import flight

from support.flight import Lake
from support.flight_sql import answer_to, field, statement
from support.lancedb import connect
from support.server import LakebedServer
from support.sql import Sql


@pytest.fixture
def numbers(lake: Lake, table: str) -> str:
    lake.create(table, pa.table({"id": list(range(10)), "name": [f"n{n}" for n in range(10)]}))
    return table


# ---- in SQL -----------------------------------------------------------------------------------


def test_a_view_is_its_query_each_time(sql: Sql, lake: Lake, numbers: str) -> None:
    view = f"{numbers}_v"
    assert sql.change(f"CREATE VIEW {view} AS SELECT id, name FROM {numbers} WHERE id >= 5") == 0
    assert sql.value(f"SELECT count(*) FROM {view}") == 5
    lake.write(numbers, pa.table({"id": [10], "name": ["n10"]}))
    assert sql.value(f"SELECT count(*) FROM {view}") == 6
    joined = f"SELECT v.name FROM {view} AS v JOIN {numbers} AS t ON t.id = v.id WHERE t.id = 7"
    assert sql.rows(joined) == [{"name": "n7"}]
    assert sql.value(f"SELECT public.{view}.id FROM public.{view} WHERE {view}.id > 9") == 10
    assert sql.value(f"SELECT sum(id) FROM {view} WHERE id = ?", [6]) == 6
    plan = sql.plan(f"SELECT id FROM {view} WHERE id = 6")
    assert "LanceRead" in plan
    assert "FilterExec" not in plan
    sql.change(f"DROP VIEW {view}")
    with sql.refuses("NOT_FOUND", view):
        sql.query(f"SELECT * FROM {view}")
    with sql.refuses("NOT_FOUND", "view"):
        sql.change(f"DROP VIEW {view}")
    sql.change(f"DROP VIEW IF EXISTS {view}")


def test_a_view_keeps_the_scope_it_was_made_in(
    server: LakebedServer, sql: Sql, lake: Lake, table: str
) -> None:
    lake.create(table, pa.table({"a": [1]}))
    lake.create(f"deep${table}", pa.table({"a": [2]}))
    inside = Sql(server, namespace="deep")
    query = f"WITH {table} AS (SELECT * FROM {table}) SELECT * FROM {table}"
    inside.change(f"CREATE VIEW {table}_v AS {query}")
    assert inside.value(f"SELECT a FROM {table}_v") == 2
    assert sql.value(f"SELECT a FROM deep.{table}_v") == 2
    inside.close()


def test_a_view_is_replaced_and_its_names_are_its_own(sql: Sql, numbers: str) -> None:
    view = f"{numbers}_v"
    sql.change(f'CREATE VIEW {view} (twice, "Its Name") AS SELECT id * 2, name FROM {numbers}')
    assert sql.query(f"SELECT * FROM {view}").column_names == ["twice", "Its Name"]
    with sql.refuses("ALREADY_EXISTS"):
        sql.change(f"CREATE VIEW {view} AS SELECT 1 AS a")
    sql.change(f"CREATE VIEW IF NOT EXISTS {view} AS SELECT 1 AS a")
    with sql.refuses("INVALID_ARGUMENT", "reads itself"):
        sql.change(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {view}")
    sql.change(f"CREATE VIEW {view}2 AS SELECT * FROM {view}")
    with sql.refuses("INVALID_ARGUMENT", "reads itself"):
        sql.change(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {view}2")
    sql.change(f"CREATE OR REPLACE VIEW {view} AS SELECT id FROM {numbers} VERSION AS OF 1")
    assert sql.value(f"SELECT count(*) FROM {view}2") == 10
    for text, code, fragment in [
        (f"TABLE {view} AS SELECT 1 AS a", "ALREADY_EXISTS", view),
        (f"VIEW {numbers} AS SELECT 1 AS a", "ALREADY_EXISTS", numbers),
        ("VIEW w AS SELECT 1 AS a, 2 AS a", "INVALID_ARGUMENT", "a"),
        ("VIEW w AS SELECT nope", "NOT_FOUND", "nope"),
        ("VIEW w AS SELECT 1 + $1 AS a", "INVALID_ARGUMENT", "parameters"),
        ("TEMPORARY VIEW w AS SELECT 1 AS a", "UNIMPLEMENTED", "TEMPORARY"),
    ]:
        with sql.refuses(code, fragment):
            sql.change(f"CREATE {text}")
    with sql.refuses("INVALID_ARGUMENT", "no versions"):
        sql.query(f"SELECT * FROM {view} VERSION AS OF 1")
    for text in (f"INSERT INTO {view} VALUES (1)", f"DELETE FROM {view}", f"DROP TABLE {view}"):
        with sql.refuses("NOT_FOUND", "view"):
            sql.change(text)


def test_views_inside_of_views_are_bounded(sql: Sql, table: str) -> None:
    sql.change(f"CREATE VIEW {table}_0 AS SELECT 1 AS a")
    for n in range(1, 8):
        sql.change(f"CREATE VIEW {table}_{n} AS SELECT a FROM {table}_{n - 1}")
    assert sql.value(f"SELECT a FROM {table}_7") == 1
    with sql.refuses("INVALID_ARGUMENT", "deep"):
        sql.change(f"CREATE VIEW {table}_8 AS SELECT a FROM {table}_7")
    sql.change(
        f"CREATE VIEW {table}_w0 AS SELECT 1 AS a FROM {table}_0 x, {table}_0 y, {table}_0 z"
    )
    nine = ", ".join(f"{table}_w0 AS t{n}" for n in range(9))
    sql.change(f"CREATE VIEW {table}_w1 AS SELECT 1 AS a FROM {nine}")
    with sql.refuses("INVALID_ARGUMENT", "sql_tables_max"):
        sql.query(f"SELECT 1 FROM {table}_w1 a, {table}_w1 b, {table}_w1 c, {table}_w1 d")


def test_blobs_and_searches_may_stand_in_a_view(sql: Sql, lake: Lake, table: str) -> None:
    blob = pa.field("img", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    vector = pa.field("v", pa.list_(pa.float32(), 2))
    schema = pa.schema([pa.field("id", pa.int64()), blob, vector])
    rows = pa.table([[1, 2], [b"one", b"two"], [[0, 1], [1, 0]]], schema=schema)
    lake.create(table, rows)
    sql.change(f"CREATE VIEW {table}_b AS SELECT id, blob_bytes(img) AS img FROM {table}")
    assert sql.rows(f"SELECT img FROM {table}_b ORDER BY id") == [{"img": b"one"}, {"img": b"two"}]
    near = f"vector_search('{table}', 'v', ARRAY[1, 0], 1)"
    sql.change(f"CREATE VIEW {table}_s AS SELECT id FROM {near}")
    assert sql.value(f"SELECT id FROM {table}_s") == 2


def test_a_ticket_reads_what_it_was_planned_with(sql: Sql, lake: Lake, numbers: str) -> None:
    view = f"{numbers}_v"
    sql.change(f"CREATE VIEW {view} AS SELECT id FROM {numbers}")
    text = f"SELECT count(*) AS n FROM {view} JOIN {numbers} USING (id)"
    descriptor = flight.FlightDescriptor.for_command(statement(text))
    ticket = lake.client.get_flight_info(descriptor, lake.options()).endpoints[0].ticket
    lake.write(numbers, pa.table({"id": [10], "name": ["n10"]}))
    sql.change(f"CREATE OR REPLACE VIEW {view} AS SELECT 1 AS other")
    found = lake.client.do_get(ticket, lake.options()).read_all()
    assert found.to_pylist() == [{"n": 10}]


# ---- what lists them --------------------------------------------------------------------------


def test_views_are_listed_as_views(sql: Sql, lake: Lake, numbers: str) -> None:
    view, broken = f"{numbers}_v", f"{numbers}_x"
    sql.change(f"CREATE VIEW {view} AS SELECT id AS number FROM {numbers}")
    lake.create(f"{numbers}_gone", pa.table({"a": [1]}))
    sql.change(f"CREATE VIEW {broken} AS SELECT * FROM {numbers}_gone")
    sql.change(f"DROP TABLE {numbers}_gone")
    kinds = {row["table_name"]: row["table_type"] for row in sql.rows("SHOW TABLES")}
    assert (kinds[numbers], kinds[view], kinds[broken]) == ("BASE TABLE", "VIEW", "VIEW")
    views = {
        row["table_name"]: row["definition"]
        for row in sql.rows("SELECT * FROM information_schema.views")
    }
    assert views[view] == f"SELECT id AS number FROM {numbers}"
    assert numbers not in views
    columns = sql.rows(
        f"SELECT column_name FROM information_schema.columns WHERE table_name = '{view}'"
    )
    assert columns == [{"column_name": "number"}]
    assert sql.rows(f"DESCRIBE {view}")[0]["column_name"] == "number"
    with sql.refuses("NOT_FOUND", f"view `{broken}`", f"{numbers}_gone"):
        sql.query(f"SELECT * FROM {broken}")
    named = field(3, f"{numbers}%")
    found = answer_to(lake, "CommandGetTables", named, field(4, "VIEW"), field(5, True))
    assert found["table_name"].to_pylist() == [view, broken]
    schema = pa.ipc.read_schema(pa.py_buffer(found["table_schema"][0].as_py()))
    assert schema.names == ["number"]
    tables = answer_to(lake, "CommandGetTables", named, field(4, "TABLE"))
    assert tables["table_name"].to_pylist() == [numbers]


def test_the_servers_folders_are_not_told(sql: Sql) -> None:
    with sql.refuses("NOT_FOUND", "df_settings"):
        sql.query("SELECT * FROM information_schema.df_settings")


# ---- over the routes of LanceDB -----------------------------------------------------------------


def test_the_python_client_makes_and_drops_views(
    server: LakebedServer, sql: Sql, numbers: str
) -> None:
    db = connect(server)
    view = f"{numbers}_v"
    made = db.create_view(view, f"SELECT id FROM {numbers} WHERE id > 7")
    assert (made.name, made.default_database) == (view, "default")
    assert made.schema == pa.schema([pa.field("id", pa.int64())])
    assert db.describe_view(view) == made
    assert view in db.list_views()
    assert view not in db.table_names()
    assert sql.value(f"SELECT count(*) FROM {view}") == 2
    cut = db.create_view(f"{view}_cut", f"SELECT substr(name, 1, 1) AS c FROM {numbers}")
    assert cut.schema.types == [pa.string()]
    with pytest.raises(Exception, match="already exists"):
        db.create_view(view, "SELECT 1 AS a")
    with pytest.raises(Exception, match="does not exist"):
        db.create_view(f"{view}2", "SELECT * FROM nowhere_at_all")
    db.drop_view(view)
    assert view not in db.list_views()
    assert server.http().post(f"/v1/view/{view}/describe", {}).status == 404


def test_views_are_there_after_a_restart_and_go_with_their_namespace(
    own_server: LakebedServer,
) -> None:
    sql = Sql(own_server)
    sql.change("CREATE VIEW team$cars.v AS SELECT 1 AS a")
    sql.close()
    own_server.restart()
    sql = Sql(own_server)
    assert sql.value("SELECT a FROM team$cars.v") == 1
    http = own_server.http()
    assert http.ok("GET", "/v1/namespace/team/list").json()["namespaces"] == ["cars"]
    assert http.post("/v1/namespace/team$cars/drop", {"behavior": "Restrict"}).status == 409
    assert http.post("/v1/namespace/team$cars/drop", {"behavior": "Cascade"}).status == 200
    with sql.refuses("NOT_FOUND"):
        sql.query("SELECT a FROM team$cars.v")
    sql.close()
