"""Branches that another tool made: read and written through Flight, each with its own history."""

import os
from collections.abc import Callable
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from support.backup import relocated
from support.data import blobs, numbered
from support.flight import Lake
from support.server import LakebedServer

MIB = 1 << 20


def dataset(server: LakebedServer, table: str) -> lance.LanceDataset:
    return lance.dataset(str(server.table_path(table)))


@pytest.fixture
def branched(server: LakebedServer, lake: Lake, table: str) -> str:
    """A table of 10 rows in version 1 and 15 in version 2, with a branch `exp` off version 1."""
    lake.create(table, numbered(10))
    lake.write(table, numbered(5, start=10))
    dataset(server, table).create_branch("exp", 1)
    return table


def test_a_branch_begins_where_it_was_made(lake: Lake, branched: str) -> None:
    assert lake.read(branched, branch="exp").equals(numbered(10))
    assert lake.info(branched, branch="exp").total_records == 10
    assert lake.read(branched).equals(numbered(15))
    assert lake.read(branched, branch="main").equals(numbered(15))


def test_writes_go_to_their_branch_alone(server: LakebedServer, lake: Lake, branched: str) -> None:
    appended = lake.write(branched, numbered(3, start=100), branch="exp")
    assert (appended["version"], appended["rows"]) == (2, 3)
    changed = pa.table({"id": [0, 200], "name": ["changed", "new"]})
    assert lake.upsert(branched, changed, ["id"], branch="exp")["version"] == 3
    assert lake.write(branched, numbered(1, start=15))["version"] == 3
    on_branch = lake.read(branched, branch="exp").sort_by("id")
    assert on_branch["id"].to_pylist() == [*range(10), 100, 101, 102, 200]
    assert on_branch["name"][0].as_py() == "changed"
    assert lake.read(branched).equals(numbered(16))
    both = lake.read(branched, branch="exp", version=2)
    assert both.equals(pa.concat_tables([numbered(10), numbered(3, start=100)]))
    over = lake.write(branched, pa.table({"x": [1.5]}), "overwrite", branch="exp")
    assert over["version"] == 4
    assert lake.read(branched, branch="exp").to_pydict() == {"x": [1.5]}
    assert lake.read(branched).equals(numbered(16))
    # Another tool sees the same.
    theirs = dataset(server, branched)
    assert theirs.to_table().equals(numbered(16))
    branch = theirs.checkout_version(("exp", 3))
    branch.validate()
    assert branch.to_table().sort_by("id").equals(on_branch)


def test_a_write_id_belongs_to_its_branch(lake: Lake, branched: str) -> None:
    """The same id on two branches is two writes; on one it is one, also after a restart."""
    on_main = lake.write(branched, numbered(1, start=15), write_id="w")
    on_branch = lake.write(branched, numbered(2, start=100), write_id="w", branch="exp")
    assert (on_main["version"], on_branch["version"]) == (3, 2)
    assert (on_main["rows"], on_branch["rows"]) == (1, 2)
    assert lake.write(branched, numbered(2, start=100), write_id="w", branch="exp") == on_branch
    assert lake.write(branched, numbered(1, start=15), write_id="w") == on_main
    assert (lake.count(branched), lake.count(branched, branch="exp")) == (16, 12)


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_branch_after_a_restart(own_server: LakebedServer, end: str) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(10), write_id="make")
    dataset(own_server, "t").create_branch("exp", 1)
    receipts = [
        lake.write("t", numbered(1, start=100 + i), write_id=f"w-{i}", branch="exp")
        for i in range(5)
    ]
    getattr(own_server, end)()
    own_server.start()
    lake = own_server.lake()
    for i, receipt in enumerate(receipts):
        again = lake.write("t", numbered(1, start=100 + i), write_id=f"w-{i}", branch="exp")
        assert again == receipt
    assert lake.count("t", branch="exp") == 15
    assert lake.read("t").equals(numbered(10))


def test_a_tag_of_a_branch(server: LakebedServer, lake: Lake, branched: str) -> None:
    """A tag that another tool put on a branch's version is read, listed, and outlives writes."""
    version = lake.write(branched, numbered(3, start=100), branch="exp")["version"]
    dataset(server, branched).tags.create("on-exp", ("exp", version))
    lake.write(branched, numbered(1, start=200), branch="exp")
    expected = pa.concat_tables([numbered(10), numbered(3, start=100)])
    assert lake.read(branched, tag="on-exp").equals(expected)
    tags = server.http().ok("POST", f"/v1/table/{branched}/tags/list").json()["tags"]
    assert (tags["on-exp"]["branch"], tags["on-exp"]["version"]) == ("exp", version)


def test_branches_that_are_not_there(lake: Lake, branched: str) -> None:
    with lake.refuses("not_found", "exq", "exp"):
        lake.read(branched, branch="exq")
    with lake.refuses("not_found", "exq", "exp"):
        lake.write(branched, numbered(1), branch="exq")
    with lake.refuses("not_found", "99"):
        lake.read(branched, branch="exp", version=99)
    with lake.refuses("not_found", "exp"):
        lake.create(f"{branched}_2", numbered(1), branch="exp")
    assert lake.count(branched, branch="exp") == 10


def test_verbs_act_on_the_branch_that_they_name(server: LakebedServer, branched: str) -> None:
    http, lake = server.http(), server.lake()
    rows = lake.count(branched, branch="exp")

    def post(verb: str, body: dict[str, object]) -> dict[str, object]:
        path = f"/v1/table/{branched}/{verb}"
        return http.ok("POST", path, {**body, "branch": "exp"}).json()

    deleted = post("delete", {"predicate": "id = 1"})
    assert deleted["num_deleted_rows"] == 1
    assert lake.count(branched, branch="exp") == rows - 1
    restored = post("restore", {"version": deleted["version"] - 1})
    assert restored["version"] == deleted["version"] + 1
    assert lake.count(branched, branch="exp") == rows
    post("tags/create", {"tag": "here", "version": deleted["version"]})
    assert lake.count(branched, tag="here") == rows - 1
    versions = [entry["version"] for entry in post("version/list", {})["versions"]]
    assert versions[-1] == restored["version"]
    assert lake.read(branched).equals(numbered(15))


def test_a_verb_that_knows_no_branches_says_so(server: LakebedServer, branched: str) -> None:
    for verb, body in (("rename", {"new_table_name": "x"}), ("drop", {})):
        answer = server.http().post(f"/v1/table/{branched}/{verb}", {**body, "branch": "exp"})
        assert answer.status == 400, f"{verb}: {answer.status} {answer.text}"
        assert "`branch`" in answer.text
    assert server.lake().read(branched).equals(numbered(15))


def test_a_commit_of_another_tool_on_a_branch_is_seen(
    server: LakebedServer, lake: Lake, branched: str
) -> None:
    """The server goes on from it: nothing of either is lost."""
    lake.write(branched, numbered(1, start=100), branch="exp")
    theirs = dataset(server, branched).checkout_version(("exp", 2))
    theirs.insert(numbered(1, start=101))
    receipt = lake.write(branched, numbered(1, start=102), branch="exp")
    assert receipt["version"] == 4
    ids = lake.read(branched, branch="exp")["id"].to_pylist()
    assert sorted(ids) == [*range(10), 100, 101, 102]


def test_blobs_on_a_branch_and_a_move_of_the_lake(
    own_server: LakebedServer, make_server: Callable[..., LakebedServer], tmp_path: Path
) -> None:
    """Blobs of every size on a branch, also where its files name the lake's old place."""
    lake = own_server.lake()
    first = [b"small", os.urandom(17 * MIB)]
    lake.create("t", blobs(first))
    dataset(own_server, "t").create_branch("exp", 1)
    more = [os.urandom(5 * MIB), os.urandom(18 * MIB)]
    lake.write("t", blobs(more, start=2), branch="exp")

    def check(lake: Lake) -> None:
        answer = lake.read("t", branch="exp", blobs="bytes")
        assert answer["data"].to_pylist() == [*first, *more]
        assert lake.read("t", blobs="bytes")["data"].to_pylist() == first

    check(lake)
    rows = lake.read("t", branch="exp", columns=["_rowid", "id"]).to_pylist()
    row_id = next(row["_rowid"] for row in rows if row["id"] == 3)
    url = f"/v1/table/t/blob/data/{row_id}/bytes?branch=exp"
    assert own_server.http().ok("GET", url).body == more[1]
    moved = relocated(make_server, own_server, tmp_path / "there")
    check(moved.lake())
    assert moved.http().ok("GET", url).body == more[1]
    moved.lake().write("t", blobs([b"later"], start=9), branch="exp")
    assert moved.lake().count("t", branch="exp") == 5
    moved.http().ok("POST", "/v1/table/t/drop")
    moved.restart()  # which forgets the tickets that keep the files
    assert moved.files("default") == {}, "a drop takes the branches along"
