"""Merging a branch: what both sides did is there afterwards, and what contradicts is said."""

import random
import threading
from collections.abc import Callable
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.data import blobs, numbered
from support.flight import Lake
from support.http import Http
from support.server import LakebedServer

Make = Callable[..., LakebedServer]
LARGE = (16 << 20) + 1


def branch(http: Http, table: str, verb: str, **body: Any) -> dict[str, Any]:
    return http.ok("POST", f"/v1/table/{table}/branches/{verb}", body).json()


def update(http: Http, table: str, predicate: str, at: str | None = None, **values: str) -> None:
    body = {"predicate": predicate, "updates": [list(pair) for pair in values.items()]}
    http.ok("POST", f"/v1/table/{table}/update", {**body, "branch": at})


def delete(http: Http, table: str, predicate: str, at: str | None = None) -> None:
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": predicate, "branch": at})


def people(ids: list[int]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": [f"n{key}" for key in ids],
            "v": pa.array([key * 1.5 for key in ids], pa.float64()),
            "tags": pa.array([[f"t{key}", None] for key in ids], pa.list_(pa.string())),
        }
    )


@pytest.fixture
def forked(server: LakebedServer, lake: Lake, table: str) -> str:
    """20 rows on main and, with two more, on `exp`."""
    lake.create(table, people(list(range(20))))
    branch(server.http(), table, "create", name="exp")
    lake.write(table, people([100, 101]), branch="exp")
    return table


def by_id(lake: Lake, table: str, **at: Any) -> dict[int, dict[str, Any]]:
    rows = lake.read(table, **at).to_pylist()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id twice"
    return found


def row_ids(server: LakebedServer, table: str) -> dict[int, int]:
    dataset = lance.dataset(str(server.table_path(table)))
    rows = dataset.to_table(columns=["id"], with_row_id=True)
    return dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))


def test_both_sides_are_there_afterwards(server: LakebedServer, lake: Lake, forked: str) -> None:
    http = server.http()
    before = row_ids(server, forked)
    update(http, forked, "id = 1", at="exp", name="'branch'")
    update(http, forked, "id = 1", v="-1")
    update(http, forked, "id = 2", at="exp", tags="['x']")
    lake.upsert(forked, people([3]).set_column(1, "name", [["main"]]), ["id"])
    delete(http, forked, "id = 4", at="exp")
    delete(http, forked, "id = 5")
    delete(http, forked, "id = 6", at="exp")
    delete(http, forked, "id = 6")
    lake.write(forked, people([200]))
    shown = branch(http, forked, "diff", from_branch="exp")
    difference = shown["difference"]
    assert difference["branchChanges"] == {"inserted": 2, "updated": 2, "deleted": 2}
    assert difference["parentChanges"] == {"inserted": 1, "updated": 2, "deleted": 2}
    assert difference["updatedColumns"] == {"name": 1, "tags": 1}
    assert difference["conflicts"] == {}
    assert {(it["change"], tuple(it["columns"])) for it in difference["samples"]} == {
        ("delete", ()),
        ("update", ("name",)),
        ("update", ("tags",)),
        ("insert", ()),
    }
    assert (shown["rowCountMain"], shown["rowCountBranch"]) == (19, 20)
    assert shown["rowSummary"]["newOnBranch"] == 2
    ready = branch(http, forked, "merge", from_branch="exp", dry_run=True)
    assert (ready["status"], ready["rows"]) == (
        "ready",
        {"inserted": 2, "updated": 2, "deleted": 1},
    )
    merged = branch(http, forked, "merge", from_branch="exp")
    assert (merged["status"], merged["rows"]) == ("merged", ready["rows"])
    rows = by_id(lake, forked)
    assert set(rows) == {*range(4), *range(7, 20), 100, 101, 200}
    expected = {row["id"]: row for row in people(sorted(rows)).to_pylist()}
    expected[1] |= {"name": "branch", "v": -1.0}
    expected[2] |= {"tags": ["x"]}
    expected[3] |= {"name": "main"}
    assert rows == expected
    after = row_ids(server, forked)
    assert {key: after[key] for key in before if key in after} == {
        key: row for key, row in before.items() if key in after
    }
    assert len(set(after.values())) == len(after)
    # Sent twice it is done once, also after a start.
    server.restart()
    again = branch(server.http(), forked, "merge", from_branch="exp")
    assert (again["status"], again["version"]) == ("already_merged", merged["version"])
    # The other tools see the same.
    dataset = lance.dataset(str(server.table_path(forked)))
    dataset.validate()
    assert sorted(dataset.to_table()["id"].to_pylist()) == sorted(rows)
    assert by_id(server.lake(), forked, branch="exp").keys() == {
        0,
        1,
        2,
        3,
        5,
        *range(7, 20),
        100,
        101,
    }


def test_a_fast_forward(server: LakebedServer, lake: Lake, forked: str) -> None:
    http = server.http()
    update(http, forked, "id < 3", at="exp", name="'branch'")
    delete(http, forked, "id = 7", at="exp")
    merged = branch(http, forked, "merge", from_branch="exp", fast_forward_only=True)
    assert merged["status"] == "merged"
    assert by_id(lake, forked) == by_id(lake, forked, branch="exp")
    lake.write(forked, people([300]), branch="exp")
    path = f"/v1/table/{forked}/branches"
    answer = http.post(f"{path}/merge", {"from_branch": "exp"})
    assert (answer.status, "begin a new branch" in answer.text) == (409, True), answer.text
    branch(http, forked, "create", name="next")
    lake.write(forked, people([400]))
    lake.write(forked, people([401]), branch="next")
    answer = http.post(f"{path}/merge", {"from_branch": "next", "fast_forward_only": True})
    assert (answer.status, "fast-forwarded" in answer.text) == (409, True), answer.text
    assert branch(http, forked, "merge", from_branch="next")["rows"]["inserted"] == 1
    branch(http, forked, "create", name="idle")
    assert branch(http, forked, "merge", from_branch="idle")["status"] == "nothing_to_merge"


@pytest.mark.parametrize("wins", ["refuse", "parent", "branch"])
def test_contradictions(server: LakebedServer, lake: Lake, forked: str, wins: str) -> None:
    http = server.http()
    update(http, forked, "id = 1", at="exp", name="'branch'", v="7")
    update(http, forked, "id = 1", name="'main'", v="7")
    update(http, forked, "id = 2", at="exp", name="'branch'")
    delete(http, forked, "id = 2")
    update(http, forked, "id = 3", name="'main'")
    delete(http, forked, "id = 3", at="exp")
    lake.write(forked, people([101]))
    version = lake.write(forked, people([102]))["version"]
    body = {"from_branch": "exp", "on": ["id"], "on_conflict": wins}
    answer = http.post(f"/v1/table/{forked}/branches/merge", body)
    said = answer.json()
    assert said["difference"]["conflicts"] == {
        "cell": 1,
        "deleted_on_parent": 1,
        "deleted_on_branch": 1,
        "key": 1,
    }
    cell = next(it for it in said["difference"]["conflictSamples"] if it["kind"] == "cell")
    assert (cell["column"], cell["parent"], cell["branch"]) == ("name", "main", "branch")
    rows = by_id(lake, forked)
    if wins == "refuse":
        assert (answer.status, said["status"]) == (409, "conflicts")
        assert http.ok("POST", f"/v1/table/{forked}/describe/", {}).json()["version"] == version
        return
    assert (answer.status, said["status"]) == (200, "merged"), answer.text
    expected = {row["id"]: row for row in people([*range(20), 100, 101, 102]).to_pylist()}
    expected[1] |= {"name": "main", "v": 7.0}
    expected[3] |= {"name": "main"}
    if wins == "parent":
        del expected[2]
    else:
        expected[1] |= {"name": "branch"}
        expected[2] |= {"name": "branch"}
        del expected[3]
    assert rows == expected
    lance.dataset(str(server.table_path(forked))).validate()


def test_columns(server: LakebedServer, lake: Lake, forked: str) -> None:
    http = server.http()
    add = {"new_columns": [{"name": "double", "expression": "v * 2"}], "branch": "exp"}
    http.ok("POST", f"/v1/table/{forked}/add_columns", add)
    add = {"new_columns": [{"name": "mine", "expression": "id + 1"}]}
    http.ok("POST", f"/v1/table/{forked}/add_columns", add)
    alter = {"alterations": [{"path": "name", "rename": "title"}]}
    http.ok("POST", f"/v1/table/{forked}/alter_columns", alter)
    update(http, forked, "id = 1", at="exp", name="'branch'")
    lake.write(forked, people([300]).rename_columns(["id", "title", "v", "tags"]))
    shown = branch(http, forked, "diff", from_branch="exp")
    assert shown["addedColumns"] == [{"name": "double", "dataType": "Float64", "nullable": True}]
    assert branch(http, forked, "merge", from_branch="exp")["status"] == "merged"
    rows = by_id(lake, forked)
    assert rows[1] | {"tags": None} == {
        "id": 1,
        "title": "branch",
        "v": 1.5,
        "tags": None,
        "mine": 2,
        "double": 3.0,
    }
    assert (rows[100]["mine"], rows[100]["double"]) == (None, 300.0)
    assert (rows[300]["mine"], rows[300]["double"]) == (None, None)
    # What a merge cannot do to columns it says, and does nothing.
    branch(http, forked, "create", name="odd")
    http.ok("POST", f"/v1/table/{forked}/drop_columns", {"columns": ["v"], "branch": "odd"})
    path = f"/v1/table/{forked}/branches/merge"
    answer = http.post(path, {"from_branch": "odd", "on_conflict": "branch"})
    assert (answer.status, answer.json()["difference"]["conflicts"]) == (409, {"column": 1})
    [sample] = answer.json()["difference"]["conflictSamples"]
    assert "drop it on the parent first" in sample["message"]
    http.ok("POST", f"/v1/table/{forked}/drop_columns", {"columns": ["v"]})
    assert branch(http, forked, "merge", from_branch="odd")["status"] == "nothing_to_merge"


def test_pictures(server: LakebedServer, lake: Lake, table: str) -> None:
    """A label goes over without its picture; changed pictures go over, large ones by reference."""
    http = server.http()
    pictures = blobs([bytes([n]) * (200_000 + n) for n in range(6)])
    labels = pa.array([f"label {n}" for n in range(6)])
    lake.create(table, pictures.append_column("label", labels))
    branch(http, table, "create", name="exp")
    update(http, table, "id = 1", at="exp", label="'branch'")
    update(http, table, "id = 2", label="'main'")
    changed = blobs([b"small", b"L" * LARGE], start=2).append_column("label", [["b 2", "b 3"]])
    path = server.table_path(table)
    files = {file.name for file in (path / "data").rglob("*") if file.is_file()}
    lake.upsert(table, changed.drop_columns("label"), ["id"], branch="exp")
    new = blobs([b"N" * (LARGE + 1), None], start=10).append_column("label", [["new", None]])
    lake.write(table, new, branch="exp")
    merged = branch(http, table, "merge", from_branch="exp")
    assert merged["rows"] == {"inserted": 2, "updated": 3, "deleted": 0}
    rows = {row["id"]: row for row in lake.read(table, blobs="bytes").to_pylist()}
    expected = {n: (bytes([n]) * (200_000 + n), f"label {n}") for n in range(6)}
    expected |= {
        1: (expected[1][0], "branch"),
        2: (b"small", "main"),
        3: (b"L" * LARGE, "label 3"),
        10: (b"N" * (LARGE + 1), "new"),
        11: (None, None),
    }
    assert {key: (row["data"], row["label"]) for key, row in rows.items()} == expected
    written = [file for file in (path / "data").rglob("*") if file.name not in files]
    assert sum(file.stat().st_size for file in written) < 200_000, "a picture was written again"
    lance.dataset(str(path)).validate()
    branch(http, table, "delete", name="exp")
    again = {row["id"]: row["data"] for row in lake.read(table, blobs="bytes").to_pylist()}
    assert again == {key: cell for key, (cell, _) in expected.items()}


def test_indexes_find_what_was_merged(server: LakebedServer, lake: Lake, forked: str) -> None:
    http = server.http()
    for column, kind in (("id", "BTREE"), ("name", "BITMAP")):
        body = {"column": column, "index_type": kind}
        job = http.ok("POST", f"/v1/table/{forked}/create_index", body).json()["job_id"]
        while (
            state := http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()["job_state"]
        ) != "DONE":
            assert state != "FAILED"
    update(http, forked, "id = 1", at="exp", name="'branch'")
    delete(http, forked, "id = 2", at="exp")
    branch(http, forked, "merge", from_branch="exp")
    assert lake.read(forked, filter="name = 'branch'")["id"].to_pylist() == [1]
    assert lake.read(forked, filter="name = 'n1'").num_rows == 0
    assert lake.read(forked, filter="id = 2").num_rows == 0
    assert lake.read(forked, filter="id = 101")["name"].to_pylist() == ["n101"]


def test_beside_writers(server: LakebedServer, lake: Lake, forked: str) -> None:
    """What was acknowledged on main while the branch was merged is there, too."""
    http = server.http()
    update(http, forked, "id < 10", at="exp", name="'branch'")
    lake.write(forked, people(list(range(1_000, 3_000))), branch="exp")
    stop = threading.Event()
    appended, changed = [], []

    def append() -> None:
        own = server.lake()
        while not stop.is_set():
            key = 10_000 + len(appended)
            own.write(forked, people([key]))
            appended.append(key)

    def change() -> None:
        own = server.http()
        while not stop.is_set():
            update(own, forked, f"id = {10 + len(changed) % 10}", v=f"{len(changed)}")
            changed.append(len(changed))

    threads = [threading.Thread(target=work) for work in (append, change)]
    for thread in threads:
        thread.start()
    try:
        merged = branch(http, forked, "merge", from_branch="exp")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert merged["status"] == "merged"
    rows = by_id(lake, forked)
    assert set(rows) == {*range(20), 100, 101, *range(1_000, 3_000), *appended}
    assert all(rows[key]["name"] == "branch" for key in range(10))
    for place in range(10):
        last = max((n for n in changed if n % 10 == place), default=None)
        assert rows[10 + place]["v"] == ((10 + place) * 1.5 if last is None else last)
    lance.dataset(str(server.table_path(forked))).validate()


@pytest.mark.timeout(600)
def test_random_merges(server: LakebedServer, lake: Lake, table: str, soak: bool) -> None:
    """Against a plain model: both sides change rows at random, with compaction on either."""
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    http = server.http()
    model = {row["id"]: row for row in people(list(range(60))).to_pylist()}
    lake.create(table, people(list(range(60))))
    fresh = 1_000
    counts = {"refused": 0, "merged": 0}
    for turn in range(60 if soak else 6):
        name = f"b{turn}"
        branch(http, table, "create", name=name)
        base = {key: dict(row) for key, row in model.items()}
        sides = {None: base, name: {key: dict(row) for key, row in base.items()}}
        for _ in range(dice.randrange(2, 9)):
            at = dice.choice([None, name, name])
            rows = sides[at] = {key: dict(row) for key, row in sides[at].items()}
            keys = sorted(rows)
            match dice.choice(["append", "delete", "update", "upsert", "compact"]):
                case "append":
                    ids = list(range(fresh, fresh + dice.randrange(1, 6)))
                    fresh += len(ids)
                    lake.write(table, people(ids), branch=at)
                    rows |= {row["id"]: row for row in people(ids).to_pylist()}
                case "delete" if len(keys) > 20:
                    low = dice.choice(keys)
                    delete(http, table, f"id >= {low} AND id < {low + 2}", at)
                    for key in (low, low + 1):
                        rows.pop(key, None)
                case "update":
                    low = dice.choice(keys)
                    column = dice.choice(["name", "v"])
                    value = f"'u{turn} {at}'" if column == "name" else str(dice.randrange(1_000))
                    update(http, table, f"id >= {low} AND id < {low + 5}", at, **{column: value})
                    plain = value.strip("'") if column == "name" else float(value)
                    for key in range(low, low + 5):
                        if key in rows:
                            rows[key][column] = plain
                case "upsert":
                    ids = sorted(dice.sample(keys, 3))
                    sent = people(ids).set_column(1, "name", [[f"w{turn} {at}"] * 3])
                    lake.upsert(table, sent, ["id"], branch=at)
                    rows |= {row["id"]: row for row in sent.to_pylist()}
                case "compact":
                    http.ok("POST", f"/v1/table/{table}/compact", {"branch": at})
        base, ours, theirs = model, sides[None], sides[name]
        wins = dice.choice(["refuse", "parent", "branch"])
        is_contradicted, merged = merge(base, ours, theirs, wins)
        body = {"from_branch": name, "on_conflict": wins}
        answer = http.post(f"/v1/table/{table}/branches/merge", body)
        if wins == "refuse" and is_contradicted:
            assert answer.status == 409, answer.text
            counts["refused"] += 1
            model = ours
        else:
            assert answer.status == 200, answer.text
            counts["merged"] += 1
            model = merged
        assert by_id(lake, table) == model, answer.text
        assert by_id(lake, table, branch=name) == theirs
        if dice.random() < 0.5:
            branch(http, table, "delete", name=name)
    print(counts)
    lance.dataset(str(server.table_path(table))).validate()


Rows = dict[int, dict[str, Any]]


def merge(base: Rows, ours: Rows, theirs: Rows, wins: str) -> tuple[bool, Rows]:
    """What a merge has to give, and whether the two contradict each other."""
    merged = {key: dict(row) for key, row in ours.items()}
    is_contradicted = False
    for key in base.keys() | theirs.keys():
        if key not in base:
            merged[key] = dict(theirs[key])
            continue
        ours_changed = key in ours and ours[key] != base[key]
        theirs_changed = key in theirs and theirs[key] != base[key]
        if key not in theirs:
            is_contradicted |= ours_changed
            if key in merged and not (ours_changed and wins == "parent"):
                del merged[key]
        elif key not in ours:
            is_contradicted |= theirs_changed
            if theirs_changed and wins == "branch":
                merged[key] = dict(theirs[key])
        else:
            for column, value in theirs[key].items():
                if value == base[key][column]:
                    continue
                both = ours[key][column] not in (base[key][column], value)
                is_contradicted |= both
                if not both or wins == "branch":
                    merged[key][column] = value
    return is_contradicted, merged


def test_a_table_without_stable_row_ids_says_so(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    lake.create(table, numbered(1))
    path = str(server.table_path(table))
    dataset = lance.write_dataset(numbered(10), path, mode="overwrite")
    if dataset.has_stable_row_ids:
        pytest.skip("this pylance keeps the row ids of the table")
    branch(server.http(), table, "create", name="exp")
    answer = server.http().post(f"/v1/table/{table}/branches/merge", {"from_branch": "exp"})
    assert (answer.status, "stable row ids" in answer.text) == (400, True), answer.text
