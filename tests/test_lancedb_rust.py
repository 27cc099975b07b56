"""The unmodified Rust client: its calls for remote tables, by the cases of tests/rust."""

import os
from typing import Any

import pytest

from support import rust
from support.client_cases import (
    FOR_PYTHON,
    OF_PYTHON,
    UPDATED,
    check_nearest,
    person,
    scene_vectors,
)
from support.lancedb import connect
from support.server import LakebedServer
from support.vectors import nearest

# One skip says it for all.
if rust.VARIABLE not in os.environ:
    pytest.skip(
        f"{rust.VARIABLE} names no binary; `make rust-client-tests` builds and names one",
        allow_module_level=True,
    )

PEOPLE = [["id", "Int64"], ["name", "Utf8"], ["vector", "FixedSizeList(2 x Float32)"]]


@pytest.fixture
def seen(request: pytest.FixtureRequest, server: LakebedServer, table: str) -> Any:
    """What the case saw that is named after the test."""
    return rust.run(server, request.node.name.removeprefix("test_"), table)


def says(failure: Any, kind: str, *words: str) -> None:
    """An error of that kind that says all of the words."""
    assert failure is not None
    assert failure[0] == kind, failure
    for word in words:
        assert word in failure[1], failure


def refused(failure: Any, *words: str) -> None:
    """A 400: the client would try a 5xx again and end in another error."""
    says(failure, "Http", "400 Bad Request", *words)


def not_built(failure: Any, *words: str) -> None:
    """A 501, which no client reads as a missing table."""
    says(failure, "Http", "501 Not Implemented", *words)


# ---- tables ---------------------------------------------------------------------------------


def test_create(seen: Any, table: str) -> None:
    assert seen["about"] == [table, table, "db://default"]
    assert seen["one"] == [3, PEOPLE]
    assert seen["batches"] == 9
    assert seen["reader"] == 5
    assert seen["empty"] == [0, 6, PEOPLE]
    assert table in seen["uri"]


def test_modes(seen: Any, table: str) -> None:
    says(seen["again"], "TableAlreadyExists", f"Table '{table}' already exists")
    assert seen["rows"] == [3, 5, True]
    for failure in seen["stale"]:
        says(failure, "TableNotFound", f"table `{table}` does not exist")
    says(seen["missing"], "TableNotFound", f"Table '{table}_missing' was not found")


def test_lists(seen: Any, table: str) -> None:
    names = [f"{table}_{suffix}" for suffix in "abcd"]
    assert seen["before"] == names
    assert seen["after"] == names[1:3]
    assert seen["walked"] == names
    assert seen["pages"] == [1, 1]
    assert seen["dropped"] == "finished"
    assert seen["left"] == [f"{table}_a", f"{table}_e"]
    assert seen["renamed"] == 1
    says(seen["taken"], "Http", f"table `{table}_e` already exists")
    says(seen["missing"], "Http", "404", f"table `{table}_b` does not exist")


def test_namespaces(seen: Any, table: str) -> None:
    assert seen["made"] == seen["described"] == seen["again"] == {"owner": "us"}
    assert seen["listed"] == ["inner"]
    assert seen["root"] is True
    assert seen["tables"] == [["here"], ["below"]]
    assert seen["about"] == [f"{table}$here", [table]]
    assert seen["elsewhere"] is False
    says(seen["twice"], "Http", f"namespace `{table}` already exists")
    says(seen["full"], "Http", f"namespace `{table}` is not empty")
    assert seen["moved"] == [[], ["below", "moved"]]
    says(seen["gone"], "Http", "404", f"namespace `{table}` does not exist")


def test_catalog(seen: Any) -> None:
    assert seen == {
        "created": None,
        "default": True,
        "listed": True,
        "rows": 2,
        "dropped": None,
    }


def test_connections(seen: Any, server: LakebedServer) -> None:
    assert seen["elsewhere"] is False, "databases are apart"
    assert seen["display"] == f"RemoteDatabase(host=http://{server.http_address})"
    assert seen["fresh"] == [3, 7]
    assert seen["root"] is None, "`db://` is the default database"
    assert seen["within"] == ["there"], "a database inside of another"
    assert seen["other"] == 5
    says(seen["stranger"], "Http", "401 Unauthorized")


def test_wrong(seen: Any) -> None:
    refused(seen["column"], "No field named nothing")
    refused(seen["expression"], "No field named nothing")
    refused(seen["syntax"], "sql parser error")
    refused(seen["selected"], "column `nothing` does not exist")
    refused(seen["counted"], "No field named nothing")
    assert seen["quoted"] == [{"id": 4}]
    assert seen["offset"] == []
    assert seen["types"] is not None
    assert "strange" in seen["strange"][1]
    says(seen["name"], "InvalidTableName")
    assert seen["kept"] == 10


def test_not_there(seen: Any) -> None:
    nullable, made = seen["keys"]
    refused(nullable, "must not be nullable")
    assert made is True, "a primary key that nothing enforces"
    assert (seen["spec"], seen["stats"]) == (True, True), "no real-time writes"
    assert seen["merged"] == 1
    refused(seen["forced"], "use_rte")
    refused(seen["query"], "use_rte")
    assert sorted(seen["base"]) == [0, 1]
    says(seen["optimize"], "NotSupported")
    not_built(seen["enable"])
    listed = ("computed", "functions", "secrets", "views")
    assert [seen[name] for name in listed] == [None] * 4
    refused(seen["refresh"], "`id` is not a computed column")
    says(seen["function"], "Http", "404", "function `none` does not exist")


# ---- rows -----------------------------------------------------------------------------------


def test_add(seen: Any) -> None:
    assert seen["versions"] == [2, 3, 5, 7]
    assert seen["progress"] == [5, True]
    assert seen["counts"] == [19, 4]
    assert seen["partial"] == [{"id": 7, "name": None, "vector": None}]
    says(seen["nan"], "Arrow", "NaN")
    assert seen["left"] == 11


def test_parts(seen: Any) -> None:
    assert seen["versions"] == [2, 3, 3], "one version for all parts of a write"
    assert seen["rows"] == [1_201, 200]
    assert seen["every"] is True
    assert "strange" in seen["wrong"][1]
    assert seen["branch"] == [1_200, 2_400]


def test_types(seen: Any) -> None:
    assert seen["fields"] == [
        ["small", "Int8"],
        ["large", "UInt64"],
        ["half", "Float64"],
        ["yes", "Boolean"],
        ["bytes", "Binary"],
        ["day", "Date32"],
        ["moment", "Timestamp(ms)"],
        ["numbers", "List(Int32)"],
        ["place", 'Struct("x": Int32)'],
        ["nothing", "Utf8"],
    ]
    assert seen["row"] == {
        "small": -5,
        "large": 2**60,
        "half": 0.5,
        "yes": True,
        "bytes": b"abc".hex(),
        "day": "2024-02-29",
        "moment": "2024-02-29T12:30:00",
        "numbers": [1, 2],
        "place": {"x": 7},
        "nothing": None,
    }


def test_update(seen: Any) -> None:
    assert seen["updated"] == [3, 10, 1, 1, 1, 0]
    assert seen["versions"] == [2, 3, 4, 5, 6]
    assert seen["deleted"] == [4, 1, 0]
    assert sorted(seen["rows"], key=lambda row: row["id"]) == UPDATED
    refused(seen["column"], "column `nothing` does not exist")
    refused(seen["filter"], "No field named nothing")


def test_merge(seen: Any) -> None:
    # The version, rows inserted, updated and deleted, and all rows after it.
    assert seen["done"] == [
        [2, 5, 5, 0, 15],
        [3, 5, 0, 0, 20],
        [4, 0, 1, 0, 20],
        [5, 0, 3, 5, 15],
        [6, 0, 0, 12, 3],
        [7, 1, 0, 0, 4],
        [8, 0, 1, 0, 4],
    ]
    assert seen["news"] == 10
    assert seen["empty"] is None
    refused(seen["twice"], "the key id=`1` is given twice")
    assert seen["rows"] == [person(0), {**person(1), "name": "partly"}, person(2), person(3)]


def test_python_and_rust_see_the_same(server: LakebedServer, table: str) -> None:
    db = connect(server)
    db.create_table(table, OF_PYTHON)
    seen = rust.run(server, "shared", table)
    assert seen["fields"] == [
        ["id", "Int64"],
        ["words", "List(LargeUtf8)"],
        ["vector", "FixedSizeList(2 x Float32)"],
    ]
    assert seen["rows"] == OF_PYTHON.to_pylist()
    assert seen["mine"] == [2]
    mine = db.open_table(f"{table}_rust")
    assert mine.search().to_arrow().sort_by("id").to_pylist() == FOR_PYTHON


# ---- reads ----------------------------------------------------------------------------------


def test_reads(seen: Any) -> None:
    assert seen["where"] == [{"id": n, "name": f"name {n}"} for n in range(3)]
    assert seen["expression"] == [4, 14]
    assert seen["limited"] == [12, 13, 14]
    assert seen["ordered"] == [49, 48, 47]
    assert seen["byName"] == [0, 1, 10]
    assert seen["aliases"] == [{"twice": 0, "id": 0}, {"twice": 2, "id": 1}]
    assert seen["expressions"] == [{"next": 1}, {"next": 2}]
    assert seen["streamed"][:2] == [PEOPLE, 50]
    assert seen["nothing"] == 0
    assert seen["outputSchema"] == [["id", "Int64"]]
    assert seen["offsets"] == [3, 7]
    assert seen["twice"] == [4, 4, 9]
    assert seen["rowIds"] == [47, 49]
    assert seen["counted"] == 11


def test_nearest(seen: Any) -> None:
    for name, metric, k in [("nearest", "l2", 5), ("cosine", "cosine", 3), ("dot", "dot", 3)]:
        check_nearest([(row["id"], row["_distance"]) for row in seen[name]], k, metric)
    assert list(seen["whole"][0]) == ["id", "name", "vector", "_distance", "_rowid"]
    for name in ["plain", "column", "tuned", "probes", "effort"]:
        assert seen[name] == [3, 4, 2]
    assert (seen["within"], seen["below"], seen["above"]) == ([4, 2], [3, 4], [9])
    assert seen["prefiltered"] == seen["expression"] == [6, 7, 8]
    assert seen["postfiltered"] == [4], "a filter after the search leaves fewer rows"
    assert seen["skipped"] == [4, 2]
    assert seen["fast"] == [], "there is no index that a fast search may read"
    assert [(row["query_index"], row["id"]) for row in seen["several"]] == [(0, 3), (1, 8)]
    assert seen["outputSchema"] == [["id", "Int64"], ["_distance", "Float32"]]
    refused(seen["widths"], "vector dim(2)")
    refused(seen["hamming"], "hamming")


def test_multivectors(seen: Any) -> None:
    assert seen == {"exact": [42], "one": [0], "indexed": [42], "stats": 300}


def test_text(seen: Any) -> None:
    refused(seen["noIndex"], "unless an INVERTED index has been created")
    assert seen["words"] == [0, 3]
    assert (seen["title"], seen["columns"]) == ([3], [0, 3])
    assert seen["filtered"] == [2]
    assert (seen["match"], seen["every"]) == ([0, 2, 3], [0])
    assert seen["fuzzy"] == [1]
    assert (seen["phrase"], seen["slop"]) == ([0], [2])
    assert seen["multi"] == [0, 2]
    assert seen["combined"] == [0]
    assert seen["boost"] == [0, 2], "the one with the unwanted word comes last"
    assert seen["both"] == [0]
    assert seen["none"] == []
    assert [row["id"] for row in seen["scored"]] == [1]
    assert seen["scored"][0]["_score"] > 0
    assert seen["tokens"] == seen["named"] == [["red", 0], ["car", 1]]
    assert seen["fresh"] == [9]
    hybrid = seen["hybrid"]
    assert hybrid["found"][0]["id"] == 3, "near by vector and by text"
    assert all(row["_relevance_score"] > 0 for row in hybrid["found"])
    assert hybrid["ranked"][0] == 3
    assert len(hybrid["withIds"]) == 3
    assert set(hybrid["filtered"]) <= {0, 1, 2}
    assert hybrid["vectors"] == [3, 4] or hybrid["vectors"] == [3, 2]


def test_plans(seen: Any) -> None:
    assert 'full_filter=name = Utf8("name 4")' in seen["plain"]
    assert "KNNVectorDistance: metric=l2" in seen["verbose"]
    assert "ScalarIndexQuery: query=[id > 3]@id_idx(BTree)" in seen["verbose"]
    assert "output_rows=2" in seen["analyzed"]
    assert "output_rows=2" in seen["full"]
    assert "_rowoffset" in seen["taken"]
    assert seen["rows"] == [14, 1, 1]
    assert seen["bytes"] > 0
    assert seen["fragments"] == [2, 2]
    # Deleted rows are in the lengths, as they are in the files.
    assert seen["lengths"] == [5, 10, 7, 5, 10, 10]


# ---- indexes --------------------------------------------------------------------------------


def test_indexes(seen: Any) -> None:
    kinds = {
        "caption_idx": ("caption", "FTS", None),
        "id_idx": ("id", "BTREE", None),
        "my_labels": ("label", "BITMAP", None),
        "vector_idx": ("vector", "IVF_PQ", "cosine"),
    }
    assert seen["listed"] == [[name, kind, [column]] for name, (column, kind, _) in kinds.items()]
    assert seen["counted"] == [[600, 0]] * 4
    assert seen["about"] is True
    for name, (_, kind, distance) in kinds.items():
        assert seen["stats"][name] == [kind, 600, 0, distance, 1]
    assert seen["nothing"] is None
    assert seen["fresh"] == [600], "a row that no index covers yet"
    assert len(seen["indexed"]) == 1
    assert seen["indexed"] != [600]
    assert seen["unindexed"] == 1
    vectors = scene_vectors(601)
    wanted = nearest(vectors, vectors[42], 10, "cosine")
    assert seen["exact"] == seen["refined"] == seen["effort"] == wanted
    assert seen["filtered"] == 20
    says(seen["late"], "Timeout", "timed out waiting for indices")
    refused(seen["again"], "index `id_idx` already exists")
    assert seen["left"] == ["caption_idx", "id_idx", "vector_idx"]
    says(seen["twice"], "IndexNotFound", "Index 'my_labels' was not found")
    says(seen["cold"], "IndexNotFound", "Index 'my_labels' was not found")


def test_kinds(seen: Any) -> None:
    vectors = scene_vectors(600)
    says(seen.pop("hnswPq"), "NotSupported", "IVF_HNSW_SQ")
    # One bit for each of eight numbers says little of which row is the nearest.
    *rabit, hits = seen.pop("ivfRq")
    assert rabit == ["finished", "IVF_RQ", "l2"]
    assert len(hits) == 1
    assert seen == {
        "ivfFlat": ["finished", "IVF_FLAT", "dot", nearest(vectors, vectors[7], 1, "dot")],
        "ivfSq": ["finished", "IVF_SQ", "l2", [7]],
        "ivfPq": ["finished", "IVF_PQ", "l2", [7]],
        "hnswSq": ["finished", "IVF_HNSW_SQ", "cosine", [7]],
        "hnswFlat": ["finished", "IVF_HNSW_FLAT", "l2", [7]],
        "auto": ["finished", "IVF_PQ", "l2", [7]],
        "btree": ["finished", "BTREE", None],
        "bitmap": ["finished", "BITMAP", None],
        "zoneMap": ["finished", "ZONEMAP", None],
        "bloomFilter": ["finished", "BLOOM_FILTER", None],
        "fm": ["finished", "FM", None],
        "ngram": ["finished", "NGRAM", None],
        "fts": ["finished", "FTS", None],
    }


def test_parameters(seen: Any) -> None:
    assert seen == {
        "flat": None,
        "bloom": None,
        "code": None,
        "ngrams": None,
        "blocks": None,
        "untrained": None,
    }


def test_jobs(seen: Any) -> None:
    assert seen["states"] == [None, "finished", "finished", "finished"]
    spec = {"column": "id", "index_type": "BTREE"}
    assert seen["about"] == ["create_index", spec, {"index_name": "id_idx", "version": 2}, False]
    assert seen["same"] is True
    assert seen["listed"] == [[True, "create_index", "finished", True]]
    assert len(seen["events"]) >= 1
    assert seen["some"] == 1
    refused(seen["filtered"], "at, event, message")
    says(seen["missing"], "JobNotFound")
    assert seen["cancelled"] is False
    assert seen["ended"] == [True, "finished"]
    for name in ["paused", "resumed"]:
        refused(seen[name], "cannot be paused")


# ---- history --------------------------------------------------------------------------------


def test_versions(seen: Any, table: str) -> None:
    assert seen["listed"] == [1, 2]
    assert seen["dated"] is True
    assert seen["old"] == [[1, 3], [0, 1, 2]]
    says(seen["pinned"], "NotSupported", "fixed at version 1")
    assert seen["latest"] == [2, 5]
    assert seen["restored"] == [3, 3]
    assert seen["opened"] == [2, 5]
    assert seen["snapshot"] == [[3, 3], [4, 4]]
    says(seen["missing"], "TableNotFound", f"Table '{table} (version: 999)' was not found")
    says(seen["unpinned"], "InvalidInput")


def test_tags(seen: Any) -> None:
    assert seen["created"] == 1
    assert seen["listed"] == [["gold", 1]]
    assert seen["rows"] == [1, 3]
    says(seen["twice"], "Http", "tag `gold` already exists")
    assert seen["updated"] == 2
    assert seen["branch"] == 5
    assert seen["left"] == 0
    for name in ["missing", "unknown"]:
        says(seen[name], "TableNotFound", "tag `gold`")


def test_branches(seen: Any, table: str) -> None:
    assert seen["none"] == 0
    assert seen["current"] == [None, "exp", "exp", None]
    assert seen["rows"] == [1, 2, 10, 11, 12, 13, 14]
    assert seen["main"] == [0, 1, 2, 3]
    assert seen["renamed"] == 1
    assert seen["columns"] == [3, 4]
    assert seen["indexes"] == [0, 1]
    assert seen["nested"] == 7
    says(seen["old"], "TableNotFound", "old")
    assert seen["pinned"] == [2, 7]
    assert seen["tagged"] is True
    assert seen["versions"] == 7
    assert seen["stats"] == [7, 1]
    assert sorted(seen["listed"]) == [["deeper/one", "exp", 7], ["exp", None, 1], ["old", None, 1]]
    assert seen["difference"][:3] == ["exp", True, 7]
    assert seen["added"] == ["extra"]
    assert seen["indexed"] == ["id_idx"]
    says(seen["twice"], "TableAlreadyExists", f"Table '{table} (branch: exp)' already exists")
    says(seen["unknown"], "TableNotFound", "branch `nothing`")
    says(seen["missing"], "TableNotFound", f"Table '{table} (branch: nothing)' was not found")
    says(seen["gone"], "TableNotFound", "old")
    assert seen["left"] == ["deeper/one", "exp"]


def test_picks(seen: Any, table: str) -> None:
    assert seen["empty"] == ["Failed", ["NothingToApply"]]
    assert seen["preview"] == ["Ready", ["twice"], 3]
    assert seen["picked"] == ["CherryPicked", ["twice"]]
    assert seen["after"] is True
    assert seen["twice"] == [0, 2, 4]
    assert seen["removed"] == ["name"]
    assert seen["refused"][0] == "Failed"
    assert {"ColumnRemoved", "RowCountMismatch", "RowsChanged"} <= set(seen["refused"][1])
    assert "Unknown" not in seen["refused"][1], "codes that the client knows"
    says(seen["unknown"], "TableNotFound", f"{table} (branch: nothing)")
    assert seen["left"] == 3


def test_clones(seen: Any) -> None:
    assert seen["rows"] == [5, 6, 3, 3]
    assert seen["read"] == [9]
    says(seen["deep"], "Http")
    says(seen["taken"], "Http", "already exists")


# ---- columns --------------------------------------------------------------------------------


def test_columns(seen: Any) -> None:
    assert seen["versions"] == [2, 3, 6, 7, 8]
    assert seen["rows"] == [{"id": n, "half": n / 2, "letter": "a"} for n in range(3)]
    assert seen["changed"] == [*PEOPLE, ["part", "Float32"], ["letter", "Utf8"]]
    assert seen["nullable"] == [True, False, True, True, True]
    assert seen["left"] == [
        *PEOPLE,
        ["part", "Float32"],
        ["moment", 'Timestamp(ns, "Europe/Berlin")'],
        ["price", "Decimal128(12, 3)"],
        ["lists", "List(Int32)"],
    ]
    assert seen["metadata"] == [{"unit": "m"}, {"only": "this"}]
    assert seen["values"] == [0, 0.5, 1]
    assert seen["nulls"] == [{"moment": None, "price": None, "lists": None}]
    refused(seen["missing"], "column `letter` does not exist")
    refused(seen["wrong"], "nothing")
    refused(seen["taken"], "name")
    refused(seen["impossible"])
    says(seen["nothing"], "InvalidInput")


def test_blobs(seen: Any) -> None:
    assert seen["columns"] == ["picture"]
    assert seen["rows"] == 5
    assert seen["fetched"] is True
    assert seen["sizes"] == [5, None, 0, 300_000, 5]
    assert (seen["range"], seen["end"], seen["middle"]) == ("el", [7, 7], [[7, 7], [7]])
    assert seen["ranges"] == ["ell", None, "o", ""]
    assert seen["behind"] is not None
    assert seen["merged"] is None
    assert seen["old"] == "hello", "a file reads the version that it was opened at"
    assert seen["pinned"] == ["hello"]
    assert seen["descriptor"][0]["size"] == 300_000
    refused(seen["other"], "not a blob column")
    refused(seen["missing"], "does not exist")
    says(seen["gone"], "InvalidInput", "only 0 exist")


def test_blob_descriptors(seen: Any) -> None:
    assert seen["size"] == 5
    says(seen["read"], "Lance", "501 Not Implemented", "source_uri")


# ---- SQL ------------------------------------------------------------------------------------


def test_sql(seen: Any) -> None:
    assert seen["plain"] == [{"id": n, "name": f"name {n}"} for n in range(3)]
    assert seen["empty"] == [[["id", "Int64"], ["name", "Utf8"]], 0]
    assert seen["finished"] == ["finished", 1]
    assert seen["again"] is not None, "rows are read once"
    assert seen["whole"] == ["running", 3_000, "finished"]
    assert seen["dropped"][0] == "cancelled"
    says(seen["dropped"][1], "JobCancelled")
    assert seen["numbered"] == [{"id": 5}, {"id": 8}]
    assert seen["named"] == [{"id": 41}, {"id": 42}]
    assert seen["types"] == [{"f": 0.1, "b": True}]
    assert seen["vector"] == [{"id": 3}]
    assert seen["none"] == []
    assert seen["namespace"] == seen["dotted"] == [{"n": 2}]
    assert seen["written"] == [{"count": 1}]
    assert seen["counted"] == [{"n": 3_001}]
    for name, words in [
        ("syntax", "SELEC"),
        ("table", "no_such_table"),
        ("column", "nothing"),
        ("division", "zero"),
        ("unbound", "$1"),
        ("tooMany", "$2"),
        ("elsewhere", "does not exist"),
    ]:
        assert words in seen[name][1], (name, seen[name])
    says(seen["twoRows"], "InvalidInput", "exactly one row")
    assert "key" in seen["stranger"][1]


def test_sql_port(server: LakebedServer, seen: Any) -> None:
    http, flight = (
        int(one.rsplit(":", 1)[1]) for one in (server.http_address, server.flight_address)
    )
    assert flight == http + 1
    assert seen["rows"] == [{"id": 0}, {"id": 1}, {"id": 2}]
