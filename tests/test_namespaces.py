"""Namespaces and databases, as the LanceDB SDK and clients of the specification see them."""

import lancedb
import pyarrow as pa
import pytest
from lance.namespace import RestNamespace
from lance_namespace import (
    CreateNamespaceRequest,
    DescribeNamespaceRequest,
    DescribeTableRequest,
    DropNamespaceRequest,
    DropTableRequest,
    ListNamespacesRequest,
    ListTablesRequest,
    NamespaceExistsRequest,
    RenameTableRequest,
    TableExistsRequest,
)

from support.data import numbered
from support.http import Http
from support.server import LakebedServer

DATABASE = "x-lancedb-database"


@pytest.fixture
def db(own_server: LakebedServer) -> lancedb.DBConnection:
    """The SDK's connection to a lake of its own."""
    url = f"http://{own_server.http_address}"
    return lancedb.connect("db://default", api_key=own_server.admin_key, host_override=url)


def names(db: lancedb.DBConnection, *parent: str) -> list[str]:
    """The namespaces below one."""
    return db.list_namespaces(list(parent)).namespaces


def test_a_namespace_lives(own_server: LakebedServer, db: lancedb.DBConnection) -> None:
    assert names(db) == []
    made = db.create_namespace(["cars"], properties={"owner": "me"})
    assert made.properties == {"owner": "me"}
    db.create_namespace(["cars", "red"])
    assert (names(db), names(db, "cars"), names(db, "cars", "red")) == (["cars"], ["red"], [])
    assert db.describe_namespace(["cars"]).properties == {"owner": "me"}
    assert db.create_namespace(["cars"], mode="exist_ok").properties == {"owner": "me"}
    with pytest.raises(Exception, match="already exists"):
        db.create_namespace(["cars"])
    with pytest.raises(Exception, match="404"):
        db.create_namespace(["boats", "red"])
    with pytest.raises(Exception, match="not empty"):
        db.drop_namespace(["cars"])
    db.drop_namespace(["cars", "red"])
    made = db.create_namespace(["cars"], mode="overwrite", properties={"owner": "you"})
    assert made.properties == {"owner": "you"}
    own_server.restart()
    url = f"http://{own_server.http_address}"
    db = lancedb.connect("db://default", api_key=own_server.admin_key, host_override=url)
    assert db.describe_namespace(["cars"]).properties == {"owner": "you"}
    db.drop_namespace(["cars"])
    assert names(db) == []
    with pytest.raises(Exception, match="404"):
        db.describe_namespace(["cars"])
    with pytest.raises(Exception, match="404"):
        db.drop_namespace(["cars"])
    db.drop_namespace(["cars"], mode="skip")


def test_a_namespace_of_tables_only(own_server: LakebedServer, db: lancedb.DBConnection) -> None:
    lake = own_server.lake()
    lake.create("a$b$t", numbered(3))
    lake.create("a$u", numbered(2))
    lake.create("ab", numbered(1))
    assert (names(db), names(db, "a")) == (["a"], ["b"])
    assert db.list_tables(["a"]).tables == ["u"]
    assert db.open_table("t", namespace_path=["a", "b"]).count_rows() == 3
    with pytest.raises(Exception, match="409"):
        db.drop_namespace(["a"])
    with pytest.raises(Exception, match="409"):
        db.create_namespace(["a"], mode="overwrite")
    db.drop_namespace(["a"], behavior="cascade")
    assert (names(db), db.list_tables().tables) == ([], ["ab"])
    assert not own_server.table_path("a$u").exists()
    lake.create("a$u", numbered(7))
    assert db.open_table("u", namespace_path=["a"]).count_rows() == 7
    lake.close()


def test_pages(db: lancedb.DBConnection) -> None:
    expected = [f"n{i:02}" for i in range(15)]
    for name in expected:
        db.create_namespace([name])
    found, token = [], None
    while True:
        page = db.list_namespaces(limit=4, page_token=token)
        found += page.namespaces
        token = page.page_token
        if not token:
            break
    assert found == expected


def test_what_is_refused(own_server: LakebedServer) -> None:
    http = own_server.http()
    for path, body in (
        ("$/drop", {}),
        ("a/create", {"mode": "sometimes"}),
        ("a/create", {"properties": {"a": 1}}),
        ("a/create", {"id": ["b"]}),
        ("a/create", {"unknown": 1}),
        ("_lakebed/create", {}),
        ("a..$b/create", {}),
        ("../create", {}),
        ("a/create", {"properties": {"k": "x" * 100_000}}),
        ("a/drop", {"behavior": "maybe"}),
    ):
        assert http.post(f"/v1/namespace/{path}", body).status in (400, 404), (path, body)
    answer = http.post("/v1/namespace/$/create", {})
    assert (answer.status, answer.json()["code"]) == (409, 2)
    answer = http.post("/v1/namespace/gone/describe", {})
    assert (answer.status, answer.json()["code"]) == (404, 1)
    key = http.ok("POST", "/v1/keys", {"name": "r", "role": "read"}).json()["key"]
    assert own_server.http(key).post("/v1/namespace/a/create", {}).status == 403
    assert own_server.http(key).get("/v1/namespace/$/list").json() == {"namespaces": []}


def test_a_catalogue_of_before_is_read(own_server: LakebedServer) -> None:
    """Its files say nothing of namespaces, and go on saying nothing until there are some."""
    lake = own_server.lake()
    lake.create("t", numbered(1))
    lake.close()
    newest = sorted(own_server.files("_lakebed/catalog/default"))[-1]
    text = (own_server.data / newest).read_text()
    assert '"format":1' in text
    assert "namespaces" not in text
    own_server.http().ok("POST", "/v1/namespace/a/create", {})
    newest = sorted(own_server.files("_lakebed/catalog/default"))[-1]
    assert '"format":2' in (own_server.data / newest).read_text()


def test_the_catalogue_mode_of_the_client(own_server: LakebedServer) -> None:
    catalog = lancedb.connect_catalog(
        f"http://{own_server.http_address}", api_key=own_server.admin_key
    )
    assert catalog.list_databases().databases == []
    catalog.create_database("team/cars")
    with pytest.raises(ValueError, match="already exists"):
        catalog.create_database("team/cars")
    lake = own_server.lake(database="team/cars")
    lake.create("t", numbered(3))
    lake.close()
    lake = own_server.lake()
    lake.create("u", numbered(1))
    lake.close()
    assert catalog.list_databases().databases == ["default", "team/cars"]
    db = catalog.connect_database("team/cars")
    assert db.list_tables().tables == ["t"]
    db.create_namespace(["inner"])
    assert names(db) == ["inner"]
    with pytest.raises(Exception, match="not empty"):
        catalog.drop_database("team/cars")
    db.drop_namespace(["inner"])
    db.drop_table("t")
    catalog.drop_database("team/cars")
    assert catalog.list_databases().databases == ["default"]
    with pytest.raises(Exception, match="not found"):
        catalog.drop_database("team/cars")


def test_only_an_sdk_without_a_database_sees_databases(own_server: LakebedServer) -> None:
    http: Http = own_server.http()
    http.ok("POST", "/v1/namespace/ns/create", {})
    agent = {"user-agent": "LanceDB-Rust-Client/0.41.0"}

    def listed(**headers: str) -> list[str]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = http.request("GET", "/v1/namespace/$/list", None, sent)
        return answer.json()["namespaces"]

    assert listed() == ["ns"]
    assert listed(user_agent=agent["user-agent"]) == ["default"]
    assert listed(user_agent=agent["user-agent"], x_lancedb_database="default") == ["ns"]
    inner = http.request("GET", "/v1/namespace/default/list", None, agent).json()
    assert inner == {"namespaces": ["ns"]}
    path = "/v1/namespace/team%2Fboats/create"
    assert http.request("POST", path, {}, agent).status == 200
    assert listed(user_agent=agent["user-agent"]) == ["default", "team/boats"]


def test_a_client_of_the_specification(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    client = RestNamespace(
        uri=f"http://{own_server.http_address}", **{"header.x-api-key": own_server.admin_key}
    )
    client.create_namespace(CreateNamespaceRequest(id=["a"], properties={"k": "v"}))
    client.create_namespace(CreateNamespaceRequest(id=["a", "b"]))
    listing = client.list_namespaces(ListNamespacesRequest(id=[]))
    assert listing.namespaces == ["a"]
    assert client.list_namespaces(ListNamespacesRequest(id=["a"])).namespaces == ["b"]
    described = client.describe_namespace(DescribeNamespaceRequest(id=["a"]))
    assert described.properties == {"k": "v"}
    client.namespace_exists(NamespaceExistsRequest(id=["a", "b"]))
    with pytest.raises(Exception, match="does not exist"):
        client.namespace_exists(NamespaceExistsRequest(id=["c"]))

    lake.create("a$t", pa.table({"id": [1, 2], "name": ["x", "y"]}))
    lake.close()
    assert client.list_tables(ListTablesRequest(id=["a"])).tables == ["t"]
    client.table_exists(TableExistsRequest(id=["a", "t"]))
    table = client.describe_table(
        DescribeTableRequest(id=["a", "t"], load_detailed_metadata=True, with_table_uri=True)
    )
    assert (table.version, table.table, table.namespace) == (1, "t", ["a"])
    assert table.storage_options is None
    client.rename_table(
        RenameTableRequest(id=["a", "t"], new_table_name="u", new_namespace_id=["a", "b"])
    )
    assert client.list_tables(ListTablesRequest(id=["a", "b"])).tables == ["u"]
    client.drop_table(DropTableRequest(id=["a", "b", "u"]))
    client.drop_namespace(DropNamespaceRequest(id=["a"], behavior="Cascade"))
    assert client.list_namespaces(ListNamespacesRequest(id=[])).namespaces == []
