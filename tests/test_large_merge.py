"""Merges of more rows than lance's own way takes, checked row by row and by another tool."""

from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.flight import Lake
from support.lancedb import connect
from support.server import LakebedServer

WIDTH = 1_024
ROWS = 20_000


def rows(ids: np.ndarray, mark: str) -> pa.Table:
    """4 KiB each, so that twenty thousand are beyond the border of 64 MiB."""
    vectors = np.repeat(ids.astype(np.float32), WIDTH)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "mark": [mark] * len(ids),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), WIDTH),
        }
    )


@pytest.fixture
def made(server: LakebedServer, table: str) -> Any:
    """Twenty thousand rows in two fragments, some deleted, with an index on the key."""
    made = connect(server).create_table(table, rows(np.arange(ROWS // 2), "old"))
    made.add(rows(np.arange(ROWS // 2, ROWS), "old"))
    made.delete("id % 10 = 3")
    return made


def kept(lake: Lake, table: str) -> dict[int, int]:
    found = lake.read(table, columns=["id", "_rowid"])
    return dict(zip(found["id"].to_pylist(), found["_rowid"].to_pylist(), strict=True))


def check(server: LakebedServer, lake: Lake, made: Any, new: set[int], old: set[int]) -> None:
    """The table holds exactly these keys, each with the values of its write."""
    found = lake.read(made.name, columns={"id": "id", "mark": "mark", "first": "vector[1]"})
    marks = dict(zip(found["id"].to_pylist(), found["mark"].to_pylist(), strict=True))
    assert len(marks) == found.num_rows, "no key twice"
    assert {key for key, mark in marks.items() if mark == "new"} == new
    assert {key for key, mark in marks.items() if mark == "old"} == old
    assert found["first"].to_pylist() == [float(key) for key in found["id"].to_pylist()]
    dataset = lance.dataset(str(server.table_path(made.name)))
    dataset.validate()
    assert dataset.count_rows("mark = 'new'") == len(new)


def test_changed_rows_keep_their_ids(server: LakebedServer, lake: Lake, made: Any) -> None:
    made.create_scalar_index("id")
    made.wait_for_index(["id_idx"])
    before = kept(lake, made.name)
    sent = np.arange(5_000, 25_000)
    np.random.default_rng(1).shuffle(sent)
    merge = made.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    done = merge.execute(rows(sent, "new"))
    matched = set(sent.tolist()) & before.keys()
    assert done.num_updated_rows == len(matched)
    assert done.num_inserted_rows == len(sent) - len(matched)
    check(server, lake, made, set(sent.tolist()), before.keys() - set(sent.tolist()))
    after = kept(lake, made.name)
    assert all(after[key] == before[key] for key in before), "row ids stay"
    assert len(set(after.values())) == len(after), "and are unique"
    # The index on the key, which covers none of what was written, still finds everything.
    assert made.search().where("id IN (4999, 5000, 19999, 24999)").to_arrow().num_rows == 4
    changed = lake.read(
        made.name, columns=["id"], filter=f"_row_last_updated_at_version = {done.version}"
    )
    assert set(changed["id"].to_pylist()) == set(sent.tolist())


def test_only_new_rows_and_only_known_ones(server: LakebedServer, lake: Lake, made: Any) -> None:
    before = kept(lake, made.name).keys()
    sent = np.arange(1_000, 21_000)
    done = made.merge_insert("id").when_not_matched_insert_all().execute(rows(sent, "new"))
    new = set(sent.tolist()) - before
    assert (done.num_updated_rows, done.num_inserted_rows) == (0, len(new))
    check(server, lake, made, new, set(before))
    sent = np.arange(10_000, 30_000)
    done = made.merge_insert("id").when_matched_update_all().execute(rows(sent, "new"))
    known = set(sent.tolist()) & (set(before) | new)
    assert (done.num_updated_rows, done.num_inserted_rows) == (len(known), 0)
    check(server, lake, made, new | known, set(before) - known)


def test_every_row_of_a_table(server: LakebedServer, lake: Lake, made: Any) -> None:
    """Fragments that lose all their rows go."""
    before = kept(lake, made.name)
    sent = pa.Table.from_batches(rows(np.arange(ROWS), "new").to_batches(max_chunksize=2_000))
    lake.upsert(made.name, sent, ["id"])
    check(server, lake, made, set(range(ROWS)), set())
    after = kept(lake, made.name)
    assert all(after[key] == before[key] for key in before)


def test_a_key_that_is_stored_twice(made: Any) -> None:
    """As lance has it: every stored row of the key is changed."""
    made.add(rows(np.array([7]), "old"))
    sent = rows(np.arange(0, ROWS), "new")
    done = made.merge_insert("id").when_matched_update_all().execute(sent)
    assert made.count_rows("mark = 'old'") == 0
    assert made.count_rows("id = 7") == 2
    assert done.num_updated_rows == made.count_rows()
