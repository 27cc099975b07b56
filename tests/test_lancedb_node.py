"""The unmodified Node client: every everyday call of it, by the cases of tests/node/client.js."""

from typing import Any

import pyarrow as pa
import pytest

from support import node
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

PEOPLE = [["id", "Int64"], ["name", "Utf8"], ["vector", "FixedSizeList[2]<Float32>"]]


@pytest.fixture
def seen(request: pytest.FixtureRequest, server: LakebedServer, table: str) -> Any:
    """What the case saw that is named after the test."""
    return node.run(server, "client.js", request.node.name.removeprefix("test_"), table)


def test_create(seen: Any, table: str) -> None:
    assert seen["display"] == [table, f"RemoteTable({table})", True]
    # Numbers of JavaScript are doubles where no schema says otherwise.
    assert seen["objects"] == [3, [["id", "Float64"], *PEOPLE[1:]]]
    assert seen["withSchema"] == [4, PEOPLE]
    assert seen["ofArrow"] == [5, PEOPLE]
    assert seen["byOptions"] == 2
    assert seen["empty"] == [0, 6, PEOPLE]


def test_modes(seen: Any, table: str) -> None:
    assert seen["again"] == f"Table '{table}' already exists"
    assert "does not match existing table schema" in seen["other"]
    assert seen["rows"] == [3, 5, 5, 0]
    assert seen["opened"] == 0, "by a connection that knows nothing of the other"
    assert f"Table '{table}_missing' was not found" in seen["missing"]


def test_lists(seen: Any, table: str) -> None:
    names = [f"{table}_{suffix}" for suffix in "abcd"]
    assert seen["before"] == names
    assert seen["after"] == names[1:3]
    assert seen["walked"] == names
    assert seen["dropped"] == "finished"
    assert seen["left"] == [f"{table}_a", f"{table}_e"]
    assert seen["renamed"] == 1
    assert f"table `{table}_e` already exists" in seen["taken"]
    assert f"table `{table}_b` does not exist" in seen["missing"]


def test_add(seen: Any) -> None:
    assert seen["versions"] == [2, 3, 5, 5]
    assert seen["progress"] == [5, True]
    assert seen["counts"] == [19, 4]
    assert "nothing" in seen["wrong"]
    assert seen["left"] == 7


def test_types(seen: Any) -> None:
    assert seen["fields"] == [
        ["small", "Int8"],
        ["large", "Uint64"],
        ["half", "Float64"],
        ["yes", "Bool"],
        ["bytes", "Binary"],
        ["day", "Date32<DAY>"],
        ["moment", "Timestamp<MILLISECOND>"],
        ["words", "List<Utf8>"],
        ["place", "Struct<{x:Int32}>"],
        ["nothing", "Utf8"],
    ]
    assert seen["row"] == {
        "small": -5,
        "large": str(2**60),
        "half": 0.5,
        "yes": True,
        "bytes": "abc",
        "day": 1_709_164_800_000,
        "moment": 1_709_209_800_000,
        "words": ["one", "two"],
        "place": {"x": 7},
        "nothing": None,
    }


def test_reads(seen: Any) -> None:
    assert seen["where"] == [{"id": n, "name": f"name {n}"} for n in range(3)]
    assert seen["limited"] == [12, 13, 14]
    assert seen["ordered"] == [49, 48, 47]
    assert seen["aliases"] == [{"id": 0, "twice": 0}, {"id": 1, "twice": 2}]
    assert seen["one"] == [{"name": "name 0"}]
    assert seen["asArrow"] == [3, PEOPLE]
    assert (seen["whole"], seen["rows"], seen["timed"]) == (50, 50, 50)
    assert seen["within"] == [0, 1]
    assert seen["nothing"] == 0
    assert seen["outputSchema"] == [["id", "Int64"]]
    assert seen["offsets"] == [3, 7]
    assert seen["twice"] == [4, 4, 9]
    assert seen["rowIds"] == [47, 49]
    assert seen["counted"] == [50, 11]


def test_nearest(seen: Any) -> None:
    for name, metric, k in [("nearest", "l2", 5), ("cosine", "cosine", 3), ("dot", "dot", 3)]:
        check_nearest(seen[name], k, metric)
    assert seen["columns"] == ["id", "name", "vector", "_distance", "_rowid"]
    assert seen["taken"] == [3]
    for name in ["search", "nearestTo", "column", "tuned"]:
        assert seen[name] == [3, 4, 2]
    assert (seen["within"], seen["below"], seen["above"]) == ([4, 2], [3, 4], [9])
    assert seen["prefiltered"] == [6, 7, 8]
    assert seen["postfiltered"] == [4], "a filter after the search leaves fewer rows"
    assert seen["skipped"] == [4, 2]
    assert seen["unindexed"] == [], "there is no index that a fast search may read"
    assert [(row["query_index"], row["id"]) for row in seen["several"]] == [(0, 3), (1, 8)]
    assert seen["outputSchema"] == [["id", "Int64"], ["_distance", "Float32"]]
    assert "vector dim(2)" in seen["widths"]


def test_indexes(seen: Any) -> None:
    kinds = {
        "caption_idx": ("caption", "FTS", "FTS"),
        "id_idx": ("id", "BTree", "BTREE"),
        "label_idx": ("label", "Bitmap", "BITMAP"),
        "my_tags": ("tags", "LabelList", "LABEL_LIST"),
        "vector_idx": ("vector", "IvfPq", "IVF_PQ"),
    }
    assert seen["listed"] == [
        {"name": name, "type": kind, "columns": [column]}
        for name, (column, kind, _) in kinds.items()
    ]
    assert seen["counted"] == [[600, 0]] * 5
    assert seen["dated"] is True
    for name, (_, _, kind) in kinds.items():
        stats = {"numIndexedRows": 600, "numUnindexedRows": 0, "indexType": kind, "numIndices": 1}
        if name == "vector_idx":
            stats["distanceType"] = "cosine"
        assert seen["stats"][name] == stats
    assert seen["nothing"] is None
    assert seen["fresh"] == [600], "a row that no index covers yet"
    assert len(seen["indexed"]) == 1
    assert seen["indexed"] != [600]
    assert seen["unindexed"] == 1
    vectors = scene_vectors(601)
    wanted = nearest(vectors, vectors[42], 10, "cosine")
    assert seen["exact"] == wanted
    assert seen["refined"] == wanted
    assert seen["filtered"] == sum(n % 5 == 3 and n % 3 == 1 for n in range(601))
    assert "timed out waiting for indices" in seen["late"]
    assert "index `id_idx` already exists" in seen["again"]
    assert seen["left"] == ["caption_idx", "id_idx", "my_tags", "vector_idx"]
    assert seen["twice"] == "Index 'label_idx' was not found"


def test_kinds(seen: Any) -> None:
    vectors = scene_vectors(600)
    # One bit for each of eight numbers says little of which row is the nearest.
    *rabit, hits = seen.pop("ivfRq")
    assert rabit == ["finished", "IVF_RQ", "l2"]
    assert len(hits) == 1
    assert seen == {
        "ivfFlat": ["finished", "IVF_FLAT", "dot", nearest(vectors, vectors[7], 1, "dot")],
        "ivfPq": ["finished", "IVF_PQ", "l2", [7]],
        "hnswSq": ["finished", "IVF_HNSW_SQ", "cosine", [7]],
        "btree": ["finished", "BTREE", None],
        "bitmap": ["finished", "BITMAP", None],
        "fm": ["finished", "FM", None],
        "fts": ["finished", "FTS", None],
    }


def test_jobs(seen: Any) -> None:
    assert seen["states"] == ["finished"] * 3
    spec = {"column": "id", "index_type": "BTREE"}
    assert seen["about"] == ["create_index", spec, {"index_name": "id_idx", "version": 2}, None]
    assert seen["same"] is True
    assert seen["listed"] == [[True, "create_index", "finished"]]
    assert "was not found" in seen["missing"]
    assert seen["cancelled"] is False
    assert seen["ended"] == [True, "finished"]


def test_text(seen: Any) -> None:
    assert "unless an INVERTED index has been created" in seen["noIndex"]
    assert seen["words"] == [0, 3]
    assert seen["guessed"] == [0, 3], "a text is searched by words where nothing embeds it"
    assert (seen["oneColumn"], seen["twoColumns"]) == ([3], [0, 3])
    assert seen["fullText"] == [3]
    assert seen["nearestToText"] == [0, 3]
    assert seen["filtered"] == [2]
    assert (seen["match"], seen["every"]) == ([0, 2, 3], [0])
    assert seen["fuzzy"] == [1]
    assert (seen["phrase"], seen["slop"]) == ([0], [2])
    assert seen["multi"] == [0, 2]
    assert seen["boost"] == [0, 2], "the one with the unwanted word comes last"
    assert seen["both"] == [0]
    assert seen["nothing"] == []
    assert seen["scored"] == [[1, True]]
    assert seen["tokens"] == [{"text": "red", "position": 0}, {"text": "car", "position": 1}]
    assert seen["fresh"] == [9]
    assert seen["hybrid"] == [3, 3, True], "near by vector and by text"


def test_update(seen: Any) -> None:
    assert seen["updated"] == [3, 10, 1, 1, 1, 0]
    assert seen["versions"] == [2, 3, 4, 5, 6]
    assert seen["deleted"] == [5, 0]
    assert sorted(seen["rows"], key=lambda row: row["id"]) == UPDATED
    assert "column `nothing` does not exist" in seen["column"]
    assert "No field named nothing" in seen["filter"]


def test_merge(seen: Any) -> None:
    # The version, rows inserted, updated and deleted, and all rows after it.
    assert seen["done"] == [
        [2, 5, 5, 0, 15],
        [3, 5, 0, 0, 20],
        [4, 0, 2, 0, 20],
        [5, 0, 3, 5, 15],
        [6, 0, 0, 12, 3],
        [7, 1, 0, 0, 4],
        [8, 0, 1, 0, 4],
    ]
    assert seen["news"] == 10
    assert "the key id=`1` is given twice" in seen["twice"]
    assert seen["rows"] == [person(0), {**person(1), "name": "partly"}, person(2), person(3)]


def test_doubles(seen: Any) -> None:
    assert seen["done"] == [1, 1, 2]
    assert seen["rows"] == [
        {"id": 1, "name": "a"},
        {"id": 2.5, "name": "new"},
        {"id": 3, "name": "c"},
    ]
    assert "`id` is not a number in row 0" in seen["nan"]


def test_widths(seen: Any) -> None:
    assert (seen["two"], seen["three"]) == ([1], [0])
    assert "`two`, `three`" in seen["none"]


def test_picks(seen: Any) -> None:
    assert seen["empty"] == ["failed", ["nothingToApply"]]
    assert seen["preview"] == ["ready", ["twice"], True]
    assert seen["picked"] == ["cherryPicked", ["twice"]]
    assert seen["after"] is True
    assert seen["twice"] == [0, 2, 4]
    assert seen["removed"] == [["name", True]]
    assert seen["refused"] == [
        "failed",
        ["columnRemoved", "noColumnChanges", "rowCountMismatch", "rowsChanged"],
    ]
    assert seen["left"] == 3


def test_columns(seen: Any) -> None:
    assert seen["versions"] == [2, 3, 6, 7]
    assert seen["rows"] == [{"id": n, "half": n / 2, "letter": "a"} for n in range(3)]
    assert seen["changed"] == [*PEOPLE, ["part", "Float32"], ["letter", "Utf8"]]
    assert seen["nullable"] == [True, False, True, True, True]
    assert seen["left"] == [*PEOPLE, ["part", "Float32"]]
    assert seen["metadata"] == {"unit": "m"}
    assert seen["values"] == [0, 0.5, 1]
    assert "column `letter` does not exist" in seen["missing"]


def test_versions(seen: Any, table: str) -> None:
    assert seen["listed"] == [1, 2]
    assert seen["dated"] is True
    assert seen["old"] == [1, 3, 3]
    assert "fixed at version 1" in seen["pinned"]
    assert seen["latest"] == [2, 5]
    assert seen["restored"] == [3, 3]
    assert seen["opened"] == [2, 5]
    assert f"Table '{table} (version: 999)' was not found" in seen["missing"]


def test_tags(seen: Any) -> None:
    assert seen["created"] == 1
    assert seen["listed"] == [["gold", 1]]
    assert seen["rows"] == [3, 1]
    assert "tag `gold` already exists" in seen["twice"]
    assert seen["updated"] == 2
    assert seen["left"] == {}
    assert "tag `gold`" in seen["missing"]


def test_branches(seen: Any, table: str) -> None:
    assert seen["none"] == {}
    assert seen["current"] == [None, "exp", "exp"]
    assert seen["rows"] == [1, 2, 10, 11, 12, 13, 14]
    assert seen["main"] == [0, 1, 2, 3]
    assert seen["renamed"] == 1
    assert seen["schemas"] == [["id", "name", "vector"], ["id", "name", "vector", "extra"]]
    assert seen["indexes"] == [0, 1]
    assert (seen["nested"], seen["old"]) == (7, 3)
    assert seen["pinned"] == [2, 7]
    assert seen["tagged"] is True
    assert sorted(seen["listed"]) == [["deeper/one", "exp", 7], ["exp", None, 1], ["old", None, 1]]
    assert seen["difference"] == ["exp", True, 7]
    assert seen["added"] == ["extra"]
    assert seen["twice"] == f"Table '{table} (branch: exp)' already exists"
    assert f"Table '{table} (branch: nothing)' was not found" in seen["missing"]
    assert seen["left"] == ["deeper/one", "exp"]


def test_plans(seen: Any) -> None:
    assert 'full_filter=name = Utf8("name 4")' in seen["plain"]
    assert "KNNVectorDistance: metric=l2" in seen["verbose"]
    assert "ScalarIndexQuery: query=[id > 3]@id_idx(BTree)" in seen["verbose"]
    assert "output_rows=2" in seen["analyzed"]
    assert "output_rows=2" in seen["full"]
    assert "_rowoffset" in seen["taken"]
    stats = seen["stats"]
    assert stats.pop("totalBytes") > 0
    # Deleted rows are in the lengths, as they are in the files.
    lengths = {"min": 5, "max": 10, "mean": 7, "p25": 5, "p50": 10, "p75": 10, "p99": 10}
    fragments = {"numFragments": 2, "numSmallFragments": 2, "lengths": lengths}
    assert stats == {"numRows": 14, "numIndices": 1, "fragmentStats": fragments}


def test_namespaces(seen: Any, table: str) -> None:
    assert seen["made"] == seen["described"] == seen["again"] == {"owner": "us"}
    assert seen["listed"] == ["inner"]
    assert seen["root"] is True
    assert seen["tables"] == [["here"], ["below"]]
    assert seen["elsewhere"] is False
    assert seen["rows"] == 3
    assert f"namespace `{table}` already exists" in seen["twice"]
    assert f"namespace `{table}` is not empty" in seen["full"]
    assert seen["moved"] == [[], ["below", "moved"]]
    assert f"namespace `{table}` does not exist" in seen["gone"]


def test_blobs(seen: Any) -> None:
    assert seen["columns"] == ["picture"]
    assert seen["fetched"] == [True, None, True, True]
    assert seen["sizes"] == [5, None, 0, 300_000]
    assert (seen["whole"], seen["range"], seen["end"]) == ("hello", "el", [7, 7])


def test_wrong(seen: Any) -> None:
    for name, words in [
        ("column", "No field named nothing"),
        ("syntax", "sql parser error"),
        ("selected", "column `nothing` does not exist"),
        ("counted", "No field named nothing"),
    ]:
        # A 5xx would be tried again and end in another error.
        assert "400 Bad Request" in seen[name]
        assert words in seen[name]
    assert seen["offset"] == []
    assert "401 Unauthorized" in seen["key"]
    assert seen["closed"] == [False, "Connection is closed"]


def test_connections(seen: Any, server: LakebedServer) -> None:
    assert seen["elsewhere"] is False, "databases are apart"
    assert seen["display"] == f"RemoteDatabase(host=http://{server.http_address})"
    assert seen["fresh"] == [3, 7]
    assert seen["provided"] == 5


def test_both_clients_see_the_same(server: LakebedServer, table: str) -> None:
    db = connect(server)
    db.create_table(table, OF_PYTHON)
    seen = node.run(server, "client.js", "shared", table)
    assert seen["fields"] == [
        ["id", "Int64"],
        ["words", "List<LargeUtf8>"],
        ["vector", "FixedSizeList[2]<Float32>"],
    ]
    assert seen["rows"] == OF_PYTHON.to_pylist()
    mine = db.open_table(f"{table}_node")
    assert mine.schema == pa.schema(
        [
            ("id", pa.int64()),
            ("name", pa.string()),
            ("vector", pa.list_(pa.float32(), 2)),
        ]
    )
    assert mine.search().to_arrow().sort_by("id").to_pylist() == FOR_PYTHON
