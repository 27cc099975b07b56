"""The Lance REST Namespace protocol through pylance's own client, call by call, and Lance datasets
that are opened and written by the names of the namespace."""

from collections.abc import Callable
from typing import Any

import lance
import lance_namespace
import lancedb
import pyarrow as pa
import pytest
from lance.fragment import write_fragments
from lance.namespace import RestNamespace
from lance_namespace import (
    AlterTableAddColumnsRequest,
    AlterTableAlterColumnsRequest,
    AlterTableDropColumnsRequest,
    AnalyzeTableQueryPlanRequest,
    CountTableRowsRequest,
    CreateNamespaceRequest,
    CreateTableBranchRequest,
    CreateTableIndexRequest,
    CreateTableRequest,
    CreateTableTagRequest,
    DeleteFromTableRequest,
    DeleteTableBranchRequest,
    DeleteTableTagRequest,
    DescribeNamespaceRequest,
    DescribeTableIndexStatsRequest,
    DescribeTableRequest,
    DropNamespaceRequest,
    DropTableIndexRequest,
    DropTableRequest,
    ExplainTableQueryPlanRequest,
    GetTableStatsRequest,
    GetTableTagVersionRequest,
    InsertIntoTableRequest,
    ListNamespacesRequest,
    ListTableBranchesRequest,
    ListTableIndicesRequest,
    ListTablesRequest,
    ListTableTagsRequest,
    ListTableVersionsRequest,
    MergeInsertIntoTableRequest,
    NamespaceExistsRequest,
    QueryTableRequest,
    RenameTableRequest,
    RestoreTableRequest,
    TableExistsRequest,
    UpdateTableRequest,
    UpdateTableSchemaMetadataRequest,
    UpdateTableTagRequest,
)
from lance_namespace.errors import (
    InvalidInputError,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NamespaceNotFoundError,
    TableAlreadyExistsError,
    TableBranchNotFoundError,
    TableColumnNotFoundError,
    TableIndexNotFoundError,
    TableNotFoundError,
    TableTagNotFoundError,
    TableVersionNotFoundError,
    UnauthenticatedError,
    UnsupportedOperationError,
)

from support.server import LakebedServer
from support.waiting import wait_until

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "name": ["red", "green", "blue"],
        "vector": pa.array([[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]], pa.list_(pa.float32(), 2)),
    }
)
# An entry of the protocol that lists nothing to rank by.
NO_VECTOR: dict[str, Any] = {}


def connect(server: LakebedServer, **headers: str) -> RestNamespace:
    """As the page of the specification does it; underlines stand for the hyphens of headers."""
    given = headers or {"x_api_key": server.admin_key}
    properties = {f"header.{name.replace('_', '-')}": value for name, value in given.items()}
    properties["uri"] = f"http://{server.http_address}"
    client = lance_namespace.connect("rest", properties)
    assert isinstance(client, RestNamespace)
    return client


@pytest.fixture
def client(server: LakebedServer) -> RestNamespace:
    return connect(server)


@pytest.fixture
def place(client: RestNamespace, table: str) -> list[str]:
    """The id of a table of three rows in a namespace of its own."""
    client.create_namespace(CreateNamespaceRequest(id=[table]))
    client.create_table(CreateTableRequest(id=[table, "t"]), stream(ROWS))
    return [table, "t"]


def stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def rows_of(client: RestNamespace, place: list[str], **fields: Any) -> list[dict[str, Any]]:
    request = QueryTableRequest(id=place, **{"k": 100, "vector": NO_VECTOR, **fields})
    return pa.ipc.open_file(client.query_table(request).data).read_all().to_pylist()


def ids(client: RestNamespace, place: list[str], **fields: Any) -> list[int]:
    return sorted(row["id"] for row in rows_of(client, place, **fields))


def count(client: RestNamespace, place: list[str], **fields: Any) -> int:
    return client.count_table_rows(CountTableRowsRequest(id=place, **fields)).count


def opened(client: RestNamespace, place: list[str], **options: Any) -> lance.LanceDataset:
    return lance.dataset(namespace_client=client, table_id=place, **options)


def refuses(error: type[Exception], call: Callable[[Any], Any], request: Any) -> None:
    with pytest.raises(error):
        call(request)


# ---- the protocol ---------------------------------------------------------------------------


def test_keys_and_databases(server: LakebedServer, table: str) -> None:
    key = server.admin_key
    for headers in ({"x_api_key": key}, {"Authorization": f"Bearer {key}"}):
        connect(server, **headers).list_tables(ListTablesRequest(id=[]))
    for headers in ({"x_api_key": "lb_nobody"}, {"x_other": "header"}):
        refuses(
            UnauthenticatedError, connect(server, **headers).list_tables, ListTablesRequest(id=[])
        )
    other = connect(server, x_api_key=key, x_lancedb_database=table)
    other.create_table(CreateTableRequest(id=["only_here"]), stream(ROWS))
    assert other.list_tables(ListTablesRequest(id=[])).tables == ["only_here"]
    first = connect(server).list_tables(ListTablesRequest(id=[])).tables
    assert "only_here" not in first
    assert opened(other, ["only_here"]).to_table().equals(ROWS)


def test_namespaces(client: RestNamespace, table: str) -> None:
    made = client.create_namespace(CreateNamespaceRequest(id=[table], properties={"owner": "me"}))
    assert made.properties == {"owner": "me"}
    refuses(
        NamespaceAlreadyExistsError, client.create_namespace, CreateNamespaceRequest(id=[table])
    )
    for mode in ("ExistOk", "exist_ok"):
        client.create_namespace(CreateNamespaceRequest(id=[table], mode=mode))
    for child in ("a", "b"):
        client.create_namespace(CreateNamespaceRequest(id=[table, child]))
    assert table in client.list_namespaces(ListNamespacesRequest(id=[])).namespaces
    page = client.list_namespaces(ListNamespacesRequest(id=[table], limit=1))
    assert page.namespaces == ["a"]
    rest = ListNamespacesRequest(id=[table], page_token=page.page_token)
    assert client.list_namespaces(rest).namespaces == ["b"]
    described = client.describe_namespace(DescribeNamespaceRequest(id=[table]))
    assert described.properties == {"owner": "me"}
    client.namespace_exists(NamespaceExistsRequest(id=[]))
    refuses(
        NamespaceNotFoundError, client.namespace_exists, NamespaceExistsRequest(id=[table, "c"])
    )
    refuses(NamespaceNotEmptyError, client.drop_namespace, DropNamespaceRequest(id=[table]))
    client.drop_namespace(DropNamespaceRequest(id=[table], behavior="Cascade"))
    refuses(NamespaceNotFoundError, client.drop_namespace, DropNamespaceRequest(id=[table]))
    client.drop_namespace(DropNamespaceRequest(id=[table], mode="Skip"))


def test_tables_come_and_go(client: RestNamespace, place: list[str]) -> None:
    make = client.create_table
    refuses(
        TableAlreadyExistsError, lambda it: make(it, stream(ROWS)), CreateTableRequest(id=place)
    )
    assert make(CreateTableRequest(id=place, mode="exist_ok"), stream(ROWS)).version == 1
    for mode, version in [("overwrite", 2), ("Overwrite", 3)]:
        made = make(CreateTableRequest(id=place, mode=mode), stream(ROWS))
        assert made.version == version
    assert client.list_tables(ListTablesRequest(id=place[:1])).tables == ["t"]
    assert "$".join(place) in client.list_all_tables(ListTablesRequest()).tables
    client.table_exists(TableExistsRequest(id=place))
    refuses(TableNotFoundError, client.table_exists, TableExistsRequest(id=[place[0], "none"]))

    client.rename_table(RenameTableRequest(id=place, new_table_name="u"))
    moved = [place[0], "inner", "v"]
    client.create_namespace(CreateNamespaceRequest(id=moved[:2]))
    client.rename_table(
        RenameTableRequest(id=[place[0], "u"], new_table_name="v", new_namespace_id=moved[:2])
    )
    assert count(client, moved) == 3
    assert client.drop_table(DropTableRequest(id=moved)).id == moved
    refuses(TableNotFoundError, client.drop_table, DropTableRequest(id=moved))


def test_what_describe_tells(client: RestNamespace, place: list[str]) -> None:
    client.create_table_tag(CreateTableTagRequest(id=place, tag="first", version=1))
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    plain = client.describe_table(DescribeTableRequest(id=place))
    assert plain.location.endswith("/t.lance")
    assert (plain.version, plain.storage_options) == (None, None)
    detailed = {"id": place, "load_detailed_metadata": True}
    full = client.describe_table(DescribeTableRequest(**detailed))
    assert (full.table, full.namespace, full.version) == ("t", place[:1], 2)
    assert [field.name for field in full.var_schema.fields] == ROWS.column_names
    for at in ({"version": 1}, {"tag": "first"}):
        assert client.describe_table(DescribeTableRequest(**detailed, **at)).version == 1
    refuses(
        TableVersionNotFoundError, client.describe_table, DescribeTableRequest(id=place, version=9)
    )
    refuses(TableNotFoundError, client.describe_table, DescribeTableRequest(id=[place[0], "x"]))
    refuses(
        UnsupportedOperationError,
        client.describe_table,
        DescribeTableRequest(id=place, vend_credentials=True),
    )
    stats = client.get_table_stats(GetTableStatsRequest(id=place))
    assert (stats.num_rows, stats.fragment_stats.num_fragments) == (6, 2)


def test_rows_are_changed(client: RestNamespace, place: list[str]) -> None:
    for mode, rows in [("append", 6), ("overwrite", 3)]:
        client.insert_into_table(InsertIntoTableRequest(id=place, mode=mode), stream(ROWS))
        assert count(client, place) == rows
    updated = client.update_table(
        UpdateTableRequest(id=place, predicate="id = 1", updates=[["name", "upper(name)"]])
    )
    assert updated.updated_rows == 1
    assert count(client, place, predicate="name = 'RED'") == 1
    client.delete_from_table(DeleteFromTableRequest(id=place, predicate="id = 3"))
    assert ids(client, place) == [1, 2]
    both = {"when_matched_update_all": True, "when_not_matched_insert_all": True}
    merged = client.merge_insert_into_table(
        MergeInsertIntoTableRequest(id=place, on=["id"], **both), stream(ROWS)
    )
    assert (merged.num_updated_rows, merged.num_inserted_rows) == (2, 1)
    merged = client.merge_insert_into_table(
        MergeInsertIntoTableRequest(
            id=place,
            on=["id", "name"],
            when_matched_update_all=True,
            when_matched_update_all_filt="target.id > 1",
            when_not_matched_by_source_delete=True,
            when_not_matched_by_source_delete_filt="id > 2",
            use_index=True,
        ),
        stream(ROWS.slice(0, 2)),
    )
    assert (merged.num_updated_rows, merged.num_deleted_rows) == (1, 1)
    assert ids(client, place) == [1, 2]


def test_queries(client: RestNamespace, place: list[str]) -> None:
    assert ids(client, place, filter="id > 1") == [2, 3]
    named = rows_of(client, place, columns={"column_names": ["name"]}, k=1, offset=1)
    assert named == [{"name": "green"}]
    aliased = rows_of(client, place, columns={"column_aliases": {"twice": "id * 2"}})
    assert [row["twice"] for row in aliased] == [2, 4, 6]
    nearest = rows_of(client, place, vector={"single_vector": [8.0, 9.0]}, k=1, with_row_id=True)
    assert (nearest[0]["id"], nearest[0]["_distance"], nearest[0]["_rowid"]) == (3, 0.0, 2)
    vectors = {"multi_vector": [[0.0, 1.0], [8.0, 9.0]]}
    several = rows_of(client, place, vector=vectors, k=1)
    assert [(row["query_index"], row["id"]) for row in several] == [(0, 1), (1, 3)]
    with pytest.raises(TableColumnNotFoundError):
        rows_of(client, place, filter="missing = 1")
    with pytest.raises(TableVersionNotFoundError):
        rows_of(client, place, version=9)
    query = QueryTableRequest(k=1, vector=NO_VECTOR)
    plan = client.explain_table_query_plan(ExplainTableQueryPlanRequest(id=place, query=query))
    assert "LanceRead" in plan
    analyzed = AnalyzeTableQueryPlanRequest(id=place, k=1, vector=NO_VECTOR)
    assert "output_rows=1" in client.analyze_table_query_plan(analyzed)


def test_indexes(client: RestNamespace, place: list[str]) -> None:
    client.create_table_scalar_index(
        CreateTableIndexRequest(id=place, column="id", index_type="BTREE", name="by_id")
    )
    for column, kind in [("vector", "IVF_FLAT"), ("name", "FTS")]:
        client.create_table_index(
            CreateTableIndexRequest(id=place, column=column, index_type=kind, distance_type="l2")
            if kind == "IVF_FLAT"
            else CreateTableIndexRequest(id=place, column=column, index_type=kind)
        )
    listed = client.list_table_indices(ListTableIndicesRequest(id=place)).indexes
    assert {index.index_name: index.index_type for index in listed} == {
        "by_id": "BTREE",
        "vector_idx": "IVF_FLAT",
        "name_idx": "FTS",
    }
    stats = client.describe_table_index_stats(
        DescribeTableIndexStatsRequest(id=place, index_name="by_id")
    )
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (3, 0)
    plain = {"string_query": {"query": "green", "columns": ["name"]}}
    matched = {"match": {"terms": "green", "column": "name"}}
    for words in (plain, {"structured_query": {"query": matched}}):
        assert ids(client, place, full_text_query=words) == [2]
    client.drop_table_index(DropTableIndexRequest(id=place, index_name="by_id"))
    refuses(
        TableIndexNotFoundError,
        client.drop_table_index,
        DropTableIndexRequest(id=place, index_name="by_id"),
    )


def test_columns_and_metadata(client: RestNamespace, place: list[str]) -> None:
    client.alter_table_add_columns(
        AlterTableAddColumnsRequest(
            id=place, new_columns=[{"name": "twice", "expression": "id * 2"}]
        )
    )
    client.alter_table_alter_columns(
        AlterTableAlterColumnsRequest(id=place, alterations=[{"path": "twice", "rename": "double"}])
    )
    assert [row["double"] for row in rows_of(client, place)] == [2, 4, 6]
    client.alter_table_drop_columns(AlterTableDropColumnsRequest(id=place, columns=["double"]))
    assert set(rows_of(client, place)[0]) == set(ROWS.column_names)
    client.update_table_schema_metadata(
        UpdateTableSchemaMetadataRequest(id=place, metadata={"unit": "m"})
    )
    detailed = DescribeTableRequest(id=place, load_detailed_metadata=True)
    assert client.describe_table(detailed).metadata == {"unit": "m"}


def test_versions_tags_and_branches(client: RestNamespace, place: list[str]) -> None:
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    client.create_table_tag(CreateTableTagRequest(id=place, tag="gold", version=1))
    assert (
        client.get_table_tag_version(GetTableTagVersionRequest(id=place, tag="gold")).version == 1
    )
    client.update_table_tag(UpdateTableTagRequest(id=place, tag="gold", version=2))
    tags = client.list_table_tags(ListTableTagsRequest(id=place)).tags
    assert {name: tag.version for name, tag in tags.items()} == {"gold": 2}
    client.delete_table_tag(DeleteTableTagRequest(id=place, tag="gold"))
    gone = DeleteTableTagRequest(id=place, tag="gold")
    refuses(TableTagNotFoundError, client.delete_table_tag, gone)
    assert count(client, place, version=1) == 3
    assert ids(client, place, version=1) == [1, 2, 3]
    client.restore_table(RestoreTableRequest(id=place, version=1))
    assert count(client, place) == 3
    newest = ListTableVersionsRequest(id=place, descending=True, limit=2)
    assert [it.version for it in client.list_table_versions(newest).versions] == [3, 2]

    client.create_table_branch(CreateTableBranchRequest(id=place, name="try"))
    client.insert_into_table(InsertIntoTableRequest(id=place, branch="try"), stream(ROWS))
    assert (count(client, place), count(client, place, branch="try")) == (3, 6)
    assert list(client.list_table_branches(ListTableBranchesRequest(id=place)).branches) == ["try"]
    client.delete_table_branch(DeleteTableBranchRequest(id=place, name="try"))
    refuses(
        TableBranchNotFoundError,
        client.delete_table_branch,
        DeleteTableBranchRequest(id=place, name="try"),
    )


def test_what_is_not_built_says_so(client: RestNamespace, place: list[str]) -> None:
    whole = {"id": place, "ranges": [{"start_version": 1, "end_version": 2}]}
    refuses(UnsupportedOperationError, client.batch_delete_table_versions, whole)
    staged = {"id": place, "version": 9, "manifest_path": "x"}
    refuses(UnsupportedOperationError, client.create_table_version, staged)


# ---- datasets by name -----------------------------------------------------------------------


def test_a_dataset_is_read_by_name(client: RestNamespace, place: list[str]) -> None:
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    client.create_table_tag(CreateTableTagRequest(id=place, tag="first", version=1))
    dataset = opened(client, place)
    assert (dataset.version, dataset.count_rows()) == (2, 6)
    for version in (1, "first"):
        assert opened(client, place, version=version).to_table().equals(ROWS)
    wanted = {"column": "vector", "q": [4.0, 5.0], "k": 2}
    assert dataset.to_table(nearest=wanted)["id"].to_pylist() == [2, 2]
    assert dataset.to_table(filter="id > 2", columns=["name"]).num_rows == 2
    assert len(list(dataset.to_batches(batch_size=2))) >= 3
    with pytest.raises(TableNotFoundError):
        opened(client, [place[0], "none"])


def test_a_dataset_is_written_by_name(client: RestNamespace, place: list[str]) -> None:
    new = [place[0], "new"]

    def write(mode: str, rows: pa.Table = ROWS) -> int:
        written = lance.write_dataset(rows, namespace_client=client, table_id=new, mode=mode)
        return written.version

    for mode in ("append", "overwrite"):
        with pytest.raises(TableNotFoundError):
            write(mode)
    assert write("create") == 1
    with pytest.raises(TableAlreadyExistsError):
        write("create")
    assert count(client, new) == 3
    assert write("append") == 2
    wait_until(lambda: count(client, new) == 6, "the rows of another writer")
    assert write("overwrite", ROWS.slice(0, 1)) == 3
    wait_until(lambda: count(client, new) == 1, "the rows of another writer")
    assert client.insert_into_table(InsertIntoTableRequest(id=new), stream(ROWS)).version == 4


def test_the_server_sees_what_a_dataset_does(client: RestNamespace, place: list[str]) -> None:
    dataset = opened(client, place)
    dataset.insert(ROWS)
    dataset.delete("id = 3")
    dataset.update({"name": "'other'"}, where="id = 1")
    dataset.add_columns({"twice": "id * 2"})
    dataset.create_scalar_index("id", "BTREE")
    dataset.tags.create("mine", dataset.version)
    dataset.create_branch("theirs")

    def indexes() -> list[str]:
        listed = client.list_table_indices(ListTableIndicesRequest(id=place)).indexes
        return [index.index_name for index in listed]

    wait_until(lambda: indexes() == ["id_idx"], "the index of another writer")
    assert count(client, place, predicate="name = 'other' AND twice = 2") == 2
    tags = client.list_table_tags(ListTableTagsRequest(id=place)).tags
    assert tags["mine"].version == dataset.version
    assert "theirs" in client.list_table_branches(ListTableBranchesRequest(id=place)).branches
    # The server appends what has fewer columns, and the other way round.
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    assert opened(client, place).count_rows("twice IS NULL") == 3


def test_fragments_are_written_apart_and_committed_by_name(
    client: RestNamespace, place: list[str]
) -> None:
    """As engines with workers do it: files first, one commit at the end."""
    dataset = opened(client, place)
    fragments = [part for _ in range(2) for part in write_fragments(ROWS, dataset)]
    done = lance.LanceDataset.commit(
        dataset.uri,
        lance.LanceOperation.Append(fragments),
        read_version=dataset.version,
        namespace_client=client,
        table_id=place,
    )
    assert done.version == 2
    wait_until(lambda: count(client, place) == 9, "the rows of another writer")


def test_a_writer_that_appends_meanwhile_is_no_conflict(
    client: RestNamespace, place: list[str]
) -> None:
    for _ in range(3):
        lance.write_dataset(ROWS, namespace_client=client, table_id=place, mode="append")
        client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    assert opened(client, place).count_rows() == 21
    assert opened(client, place).version == 7


def test_lancedb_goes_by_the_namespace(
    server: LakebedServer, client: RestNamespace, table: str
) -> None:
    """The embedded SDK with the server as its catalogue: it reads and writes the files itself."""
    properties = {
        "uri": f"http://{server.http_address}",
        "header.x-api-key": server.admin_key,
    }
    db = lancedb.connect_namespace("rest", properties)
    db.create_namespace([table])
    made = db.create_table("t", ROWS, namespace_path=[table])
    made.add(ROWS)
    assert (made.count_rows(), made.to_arrow().num_rows) == (6, 6)
    assert made.search([8.0, 9.0]).limit(1).to_list()[0]["id"] == 3
    assert db.list_tables(namespace_path=[table]).tables == ["t"]
    opened_again = db.open_table("t", namespace_path=[table])
    opened_again.delete("id = 1")
    opened_again.merge_insert("name").when_not_matched_insert_all().execute(ROWS)
    assert opened_again.count_rows() == 5
    wait_until(lambda: count(client, [table, "t"]) == 5, "the rows of another writer")
    db.create_table("t", ROWS, namespace_path=[table], mode="overwrite")
    wait_until(lambda: count(client, [table, "t"]) == 3, "the rows of another writer")
    db.drop_table("t", namespace_path=[table])
    assert db.list_tables(namespace_path=[table]).tables == []


def test_a_body_without_rows_is_the_clients_fault(client: RestNamespace, place: list[str]) -> None:
    for body in (b"", stream(ROWS)[:-8]):
        with pytest.raises(InvalidInputError):
            client.create_table(CreateTableRequest(id=[place[0], "empty"]), body)
        with pytest.raises(InvalidInputError):
            client.insert_into_table(InsertIntoTableRequest(id=place), body)
    assert count(client, place) == 3


def test_a_merge_may_have_a_time(client: RestNamespace, place: list[str]) -> None:
    def merge(timeout: str) -> Any:
        request = MergeInsertIntoTableRequest(
            id=place, on=["id"], when_matched_update_all=True, timeout=timeout
        )
        return client.merge_insert_into_table(request, stream(ROWS))

    assert merge("30s").num_updated_rows == 3
    with pytest.raises(InvalidInputError, match="no time"):
        merge("soon")
    with pytest.raises(Exception, match="timed out"):
        merge("0s")


def test_an_insert_says_how_many(client: RestNamespace, place: list[str]) -> None:
    done = client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    assert (done.version, done.num_inserted_rows) == (2, 3)


def test_a_column_that_another_tool_just_added(client: RestNamespace, place: list[str]) -> None:
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(ROWS))
    opened(client, place).add_columns({"twice": "id * 2"})
    rows = ROWS.append_column("twice", pa.array([6, 7, 8], pa.int64()))
    client.insert_into_table(InsertIntoTableRequest(id=place), stream(rows))
    assert count(client, place) == 9
