"""Upserts by key, whole and partial, and what they cost on a table with blobs."""

from collections.abc import Callable

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.data import blobs, numbered
from support.flight import Lake
from support.server import LakebedServer
from support.stored_files import look, written

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def people(lake: Lake, table: str) -> str:
    """Four rows of id, name and age."""
    rows = pa.table(
        {"id": [1, 2, 3, 4], "name": ["a", "b", "c", "d"], "age": pa.array([10, 20, 30, 40])}
    )
    lake.create(table, rows)
    return table


def by_id(rows: pa.Table) -> list[dict[str, object]]:
    """Rows as dicts, in the order of their ids."""
    return rows.sort_by("id").to_pylist()


def test_a_whole_upsert_changes_and_adds(lake: Lake, people: str) -> None:
    rows = pa.table({"id": [2, 9], "name": ["B", "z"], "age": [21, 90]})
    receipt = lake.upsert(people, rows, ["id"])
    assert (receipt["version"], receipt["rows"]) == (2, 2)
    assert by_id(lake.read(people)) == [
        {"id": 1, "name": "a", "age": 10},
        {"id": 2, "name": "B", "age": 21},
        {"id": 3, "name": "c", "age": 30},
        {"id": 4, "name": "d", "age": 40},
        {"id": 9, "name": "z", "age": 90},
    ]
    assert lake.read(people, version=1).num_rows == 4


def test_a_partial_upsert_changes_only_the_cells_it_carries(lake: Lake, people: str) -> None:
    lake.upsert(people, pa.table({"id": [3, 1], "age": [33, 11]}), ["id"])
    assert by_id(lake.read(people)) == [
        {"id": 1, "name": "a", "age": 11},
        {"id": 2, "name": "b", "age": 20},
        {"id": 3, "name": "c", "age": 33},
        {"id": 4, "name": "d", "age": 40},
    ]


def test_new_keys_of_a_partial_upsert_get_nulls(lake: Lake, people: str) -> None:
    lake.upsert(people, pa.table({"id": [2, 7], "age": [22, 77]}), ["id"])
    rows = by_id(lake.read(people))
    assert rows[1] == {"id": 2, "name": "b", "age": 22}
    assert rows[4] == {"id": 7, "name": None, "age": 77}


def test_new_keys_where_the_schema_allows_no_nulls(lake: Lake, table: str) -> None:
    schema = pa.schema(
        [pa.field("id", pa.int64()), pa.field("name", pa.string(), False), ("age", pa.int64())]
    )
    lake.create(table, pa.table([[1], ["a"], [10]], schema=schema))
    lake.upsert(table, pa.table({"id": [1], "age": [11]}), ["id"])
    with lake.refuses("invalid_argument", "name"):
        lake.upsert(table, pa.table({"id": [1, 2], "age": [12, 20]}), ["id"])
    assert by_id(lake.read(table)) == [{"id": 1, "name": "a", "age": 11}]


def test_a_null_overwrites(lake: Lake, people: str) -> None:
    lake.upsert(people, pa.table({"id": [1], "name": pa.array([None], pa.string())}), ["id"])
    assert by_id(lake.read(people))[0] == {"id": 1, "name": None, "age": 10}


def test_keys_of_several_columns(lake: Lake, table: str) -> None:
    rows = {"a": [1, 1, 2], "b": ["x", "y", "x"], "v": [1, 2, 3]}
    lake.create(table, pa.table(rows))
    lake.upsert(table, pa.table({"a": [1, 2], "b": ["y", "y"], "v": [20, 40]}), ["a", "b"])
    answer = lake.read(table).sort_by([("a", "ascending"), ("b", "ascending")])
    assert answer["v"].to_pylist() == [1, 20, 3, 40]


def test_keys_of_text(lake: Lake, table: str) -> None:
    lake.create(table, pa.table({"path": ["a.png", "b.png"], "label": ["cat", "dog"]}))
    lake.upsert(table, pa.table({"path": ["b.png", "c.png"], "label": ["fox", "owl"]}), ["path"])
    answer = dict(zip(*lake.read(table).to_pydict().values(), strict=True))
    assert answer == {"a.png": "cat", "b.png": "fox", "c.png": "owl"}


def test_an_upsert_into_many_fragments(lake: Lake, table: str) -> None:
    lake.create(table, numbered(0))
    for i in range(20):
        lake.write(table, numbered(10, start=i * 10))
    ids = list(range(5, 215, 10))
    names = [f"new {i}" for i in ids]
    lake.upsert(table, pa.table({"id": ids, "name": names}), ["id"])
    rows = by_id(lake.read(table))
    assert len(rows) == 201
    assert [row["name"] for row in rows if row["id"] in set(ids)] == names


def test_an_upsert_of_several_batches_counts_as_one(lake: Lake, people: str) -> None:
    rows = numbered(1_000, start=3)
    receipt = lake.upsert(people, rows.to_batches(max_chunksize=37), ["id"], schema=rows.schema)
    assert (receipt["version"], receipt["rows"]) == (2, 1_000)
    assert lake.read(people).num_rows == 1_002


def test_an_upsert_without_rows_changes_nothing(lake: Lake, people: str) -> None:
    before = lake.read(people)
    receipt = lake.upsert(people, [], ["id"], schema=before.schema)
    assert receipt["rows"] == 0
    assert lake.read(people).equals(before)


@pytest.mark.parametrize(
    ("ids", "on", "words"),
    [
        pytest.param([1, None], ["id"], ["id", "null"], id="null key"),
        pytest.param([1, 2, 1], ["id"], ["id", "1"], id="known key twice"),
        pytest.param([8, 9, 8], ["id"], ["id", "8"], id="new key twice"),
        pytest.param([1], [], ["on"], id="no key column"),
        pytest.param([1], ["nope"], ["nope"], id="unknown key column"),
        pytest.param([1], ["age"], ["age"], id="key column not sent"),
        pytest.param([1], ["id", "id"], ["id"], id="key column named twice"),
    ],
)
def test_bad_keys(
    lake: Lake, people: str, ids: list[int | None], on: list[str], words: list[str]
) -> None:
    rows = pa.table({"id": pa.array(ids, pa.int64()), "name": ["x"] * len(ids)})
    kind = "not_found" if on == ["nope"] else "invalid_argument"
    with lake.refuses(kind, *words):
        lake.upsert(people, rows, on)
    assert lake.read(people).num_rows == 4
    with lake.refuses("not_found"):
        lake.read(people, version=2)


def test_a_key_twice_in_batches_far_apart(lake: Lake, people: str) -> None:
    rows = numbered(5_000, start=100)
    batches = [*rows.to_batches(max_chunksize=500), *numbered(1, start=100).to_batches()]
    with lake.refuses("invalid_argument", "id", "100"):
        lake.upsert(people, batches, ["id"], schema=rows.schema)
    assert lake.read(people).num_rows == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param({"id": [1], "salary": [1]}, ["salary"], id="extra column"),
        pytest.param({"id": [1], "age": ["old"]}, ["age"], id="wrong type"),
        pytest.param({"id": ["1"], "age": [1]}, ["id"], id="wrong type of key"),
    ],
)
def test_a_schema_that_does_not_fit(
    lake: Lake, people: str, rows: dict[str, list[object]], words: list[str]
) -> None:
    with lake.refuses("invalid_argument", *words):
        lake.upsert(people, pa.table(rows), ["id"])
    assert lake.read(people).num_rows == 4


def test_a_missing_table_is_not_made(lake: Lake, table: str) -> None:
    with lake.refuses("not_found", table):
        lake.upsert(table, numbered(1), ["id"])
    assert table not in lake.tables()


# ---- beside blobs ---------------------------------------------------------------------------


def pictures(count: int, size: int = 20 * KIB) -> pa.Table:
    """Rows with an incompressible blob each and an empty label."""
    noise = np.random.default_rng(1).bytes(count * size)
    cells = [noise[i * size : (i + 1) * size] for i in range(count)]
    return blobs(cells, label=pa.nulls(count, pa.string()))


def written_bytes(server: LakebedServer, before: dict[str, int]) -> int:
    """Bytes of files that are new or longer since `before`."""
    return sum(
        size - (before.get(path, 0) if size >= before.get(path, 0) else 0)
        for path, size in server.files().items()
    )


@pytest.mark.parametrize("new_keys", [0, 100], ids=["labels only", "with new keys"])
def test_labels_beside_blobs_do_not_rewrite_the_blobs(
    server: LakebedServer, lake: Lake, table: str, new_keys: int
) -> None:
    count = 5_000
    half = pictures(count)
    lake.create(table, half.slice(0, count // 2))
    lake.write(table, half.slice(count // 2))
    assert sum(server.files("default").values()) > 90 * MIB
    before = server.files()
    labels = [f"label {i}" for i in range(count + new_keys)]
    lake.upsert(table, pa.table({"id": list(range(count + new_keys)), "label": labels}), ["id"])
    assert written_bytes(server, before) < 1 * MIB
    answer = lake.read(table, columns=["id", "label"]).sort_by("id")
    assert answer["label"].to_pylist() == labels
    sample = lake.read(table, filter="id IN (0, 777, 4999)", blobs="bytes").sort_by("id")
    assert sample["data"].to_pylist() == [half["data"][i].as_py() for i in (0, 777, 4999)]


def test_one_label_beside_blobs(server: LakebedServer, lake: Lake, table: str) -> None:
    rows = pictures(500)
    lake.create(table, rows)
    lake.upsert(table, pa.table({"id": [1], "label": ["warm"]}), ["id"])
    before = server.files()
    for i in range(5):
        lake.upsert(table, pa.table({"id": [i], "label": ["cat"]}), ["id"])
    assert written_bytes(server, before) < 1 * MIB
    answer = lake.read(table, blobs="bytes").sort_by("id")
    assert answer["data"].to_pylist() == rows["data"].to_pylist()


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        pytest.param([1, None], ["a", "b"], id="null key"),
        pytest.param([1, 1], ["a", "b"], id="key twice"),
        pytest.param([1], [7], id="wrong type"),
    ],
)
def test_a_refused_label_beside_blobs_makes_no_version(
    lake: Lake, table: str, ids: list[int | None], labels: list[object]
) -> None:
    lake.create(table, pictures(3))
    with lake.refuses("invalid_argument"):
        lake.upsert(table, pa.table({"id": pa.array(ids, pa.int64()), "label": labels}), ["id"])
    with lake.refuses("invalid_argument", "commit"):
        labels = pa.table({"id": [1], "label": ["a"]})
        lake.upsert(table, labels, ["id"], commit="explicit")
    with lake.refuses("not_found"):
        lake.read(table, version=2)


def test_a_new_key_beside_blobs_where_a_column_allows_no_null(lake: Lake, table: str) -> None:
    rows = pictures(3)
    fields = [pa.field("kind", pa.string(), nullable=False), *rows.schema]
    schema = pa.schema(fields)
    lake.create(table, pa.table([["x"] * 3, *rows.columns], schema=schema))
    labels = pa.table({"id": [0, 9], "label": ["a", "b"]})
    with lake.refuses("invalid_argument", "1 of the keys", "kind"):
        lake.upsert(table, labels, ["id"])
    with lake.refuses("not_found"):
        lake.read(table, version=2)
    lake.upsert(table, labels.slice(0, 1), ["id"])
    with lake.refuses("invalid_argument", "1 of the keys", "kind"):
        lake.upsert(table, labels, ["id"])
    answer = lake.read(table, columns=["id", "label"]).sort_by("id")
    assert answer["label"].to_pylist() == ["a", None, None]


@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "in any order"])
def test_cells_without_an_index_are_put_in_their_places(
    server: LakebedServer, lake: Lake, table: str, shuffled: bool
) -> None:
    """One file with the column, whatever else the table has; rows stay where they are, deleted ones
    deleted, and nulls are nulls."""
    count = 10_000
    ids = np.arange(count)
    rows = {"id": ids, "score": ids / 2, "name": [f"name {n}" for n in ids]}
    lake.create(table, pa.table(rows))
    lake.write(table, pa.table({"id": [count], "score": [0.5], "name": ["alone"]}))
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": "id % 10 = 3"})
    before = lake.read(table, columns=["id", "_rowid", "name"])
    folder = server.table_path(table)
    files = look(folder)
    some = np.arange(7, count, 100)
    some = np.random.default_rng(3).permutation(some) if shuffled else some
    cells = [None if key % 300 == 7 else -float(key) for key in some]
    lake.upsert(table, pa.table({"id": some, "score": pa.array(cells, pa.float64())}), ["id"])
    new = written(files, look(folder))
    [data] = [path for path in new if path.startswith("data/")]
    assert not any(path.startswith("_deletions/") for path in new)
    assert new[data] < 1.1 * 8 * count
    assert lake.read(table, columns=["id", "_rowid", "name"]).equals(before)
    expected = dict(zip(ids.tolist(), (ids / 2).tolist(), strict=True)) | {count: 0.5}
    expected |= dict(zip(some.tolist(), cells, strict=True))
    found = lake.read(table, columns=["id", "score"]).to_pydict()
    assert dict(zip(found["id"], found["score"], strict=True)) == {
        key: value for key, value in expected.items() if key % 10 != 3 or key == count
    }
    lance.dataset(str(folder)).validate()


def test_few_wide_cells_are_not_worth_their_column(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """A row is written anew where the column of its fragment has 100 MB."""
    width, count = 1_024, 24_000
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.random.default_rng(1).random(width * count, dtype=np.float32)), width
    )
    rows = pa.table({"id": np.arange(count), "name": ["a"] * count, "vector": vectors})
    lake.write(table, rows.to_batches(2_000), "create", schema=rows.schema)
    folder = server.table_path(table)
    before = look(folder)
    one = pa.FixedSizeListArray.from_arrays(pa.array(np.full(width, 7, np.float32)), width)
    lake.upsert(table, pa.table({"id": [9], "vector": one}), ["id"])
    assert sum(written(before, look(folder)).values()) < MIB
    found = lake.read(table, filter="id = 9").to_pylist()
    assert found == [{"id": 9, "name": "a", "vector": [7.0] * width}]


def test_stored_cells_may_be_wider_than_those_that_are_sent(
    make_server: Callable[..., LakebedServer],
) -> None:
    """The memory of an upsert of short texts into a column of long ones does not follow from their
    number."""
    server = make_server().start()
    lake = server.lake()
    count, long = 3_000, 100_000
    lake.create("t", pa.table({"id": [0], "text": ["x"], "n": [0]}))
    for start in range(1, count, 300):
        ids = range(start, start + 300)
        texts = [np.random.default_rng(key).bytes(long // 2).hex() for key in ids]
        lake.write("t", pa.table({"id": ids, "text": texts, "n": ids}))
    server.http().ok("POST", "/v1/table/t/compact", {})
    before = server.peak_rss_bytes()
    lake.upsert("t", pa.table({"id": [5, 2_500], "text": ["a", "b"]}), ["id"])
    assert server.peak_rss_bytes() - before < 200 * MIB
    found = lake.read("t", columns=["id"], filter="length(text) < 3")["id"].to_pylist()
    assert sorted(found) == [0, 5, 2_500]


def test_a_whole_upsert_replaces_blobs(lake: Lake, table: str) -> None:
    lake.create(table, blobs([b"one", b"two", b"three"]))
    lake.upsert(table, blobs([b"TWO" * 40_000, None, b"new"], start=1), ["id"])
    answer = lake.read(table, blobs="bytes").sort_by("id")
    assert answer["data"].to_pylist() == [b"one", b"TWO" * 40_000, None, b"new"]
    old = lake.read(table, version=1, blobs="bytes")
    assert old["data"].to_pylist() == [b"one", b"two", b"three"]
