"""Branches made, listed, compared and deleted; `test_branch_merge.py` merges them."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.cli import Cli
from support.data import blobs, numbered
from support.flight import Lake
from support.http import Http
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, built_binary
from support.waiting import wait_until

Make = Callable[..., LakebedServer]
# Tickets keep what they name for a second.
QUICK = {"LAKEBED_LIMITS_TICKET_TTL_MS": "1000", "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100"}


def branch(http: Http, table: str, verb: str, **body: Any) -> dict[str, Any]:
    return http.ok("POST", f"/v1/table/{table}/branches/{verb}", body).json()


def offline(cli: Cli, *args: str) -> None:
    """A command on a lake that is not served."""
    done = subprocess.run(
        [str(built_binary()), *args],
        env=cli.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def folder(server: LakebedServer, table: str, name: str) -> bool:
    return (server.table_path(table) / "tree" / name).exists()


@pytest.fixture
def filled(lake: Lake, table: str) -> str:
    """10 rows in version 1 and 15 in version 2."""
    lake.create(table, numbered(10))
    lake.write(table, numbered(5, start=10))
    return table


def test_a_branch_begins_where_it_was_asked_to(
    server: LakebedServer, lake: Lake, filled: str
) -> None:
    http = server.http()
    made = branch(http, filled, "create", name="exp", from_version=1)
    assert made == {"name": "exp", "parentBranch": "main", "parentVersion": 1}
    assert branch(http, filled, "create", name="team/new")["parentVersion"] == 2
    assert lake.read(filled, branch="exp").equals(numbered(10))
    assert lake.read(filled, branch="team/new").equals(numbered(15))
    assert lake.write(filled, numbered(1, start=50), branch="exp")["version"] == 2
    again = branch(http, filled, "create", name="exp2", from_branch="exp")
    assert (again["parentBranch"], again["parentVersion"]) == ("exp", 2)
    assert lake.read(filled, branch="exp2")["id"].to_pylist() == [*range(10), 50]
    listed = branch(http, filled, "list")["branches"]
    assert {name: (it.get("parentBranch"), it["parentVersion"]) for name, it in listed.items()} == {
        "exp": (None, 1),
        "exp2": ("exp", 2),
        "team/new": (None, 2),
    }
    assert all(abs(it["createAt"] - time.time()) < 600 for it in listed.values())
    assert all(it["manifestSize"] > 0 for it in listed.values())
    # Another tool sees the same.
    theirs = lance.dataset(str(server.table_path(filled)))
    assert set(theirs.branches.list()) == {"exp", "exp2", "team/new"}
    for name, rows in (("exp", 11), ("exp2", 11), ("team/new", 15)):
        opened = theirs.checkout_version((name, None))
        opened.validate()
        assert opened.count_rows() == rows
    server.restart()
    assert server.lake().read(filled, branch="exp2").num_rows == 11


def test_what_cannot_be_a_branch_is_refused(server: LakebedServer, filled: str) -> None:
    http = server.http()
    path = f"/v1/table/{filled}/branches"
    for name in ["", "main", "a b", "../x", "a//b", "_x", "a/data", "x.lock", "x" * 129]:
        answer = http.post(f"{path}/create", {"name": name})
        assert answer.status == 400, (name, answer.text)
    branch(http, filled, "create", name="exp")
    assert http.post(f"{path}/create", {"name": "exp"}).status == 409
    assert http.post(f"{path}/create", {"name": "new", "from_branch": "nope"}).status == 404
    assert http.post(f"{path}/create", {"name": "new", "from_version": 99}).status == 404
    assert http.post(f"{path}/delete", {"name": "exq"}).status == 404
    assert "nearest: exp" in http.post(f"{path}/delete", {"name": "exq"}).text
    assert http.post(f"{path}/diff", {"from_branch": "exq"}).status == 404
    assert http.post(f"{path}/merge", {"from_branch": "exq"}).status == 404
    assert http.post(f"{path}/create", {"name": "new", "nope": 1}).status == 400
    assert http.post("/v1/table/nope/branches/list", {}).status == 404
    assert list(branch(http, filled, "list")["branches"]) == ["exp"]


def test_of_many_that_create_one_branch_one_does(
    server: LakebedServer, lake: Lake, filled: str
) -> None:
    answers: list[int] = []

    def create() -> None:
        path = f"/v1/table/{filled}/branches/create"
        answers.append(server.http().post(path, {"name": "exp"}).status)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, *[409] * 7]
    assert lake.read(filled, branch="exp").equals(numbered(15))


def test_a_deleted_branch_is_gone_with_its_files(make_server: Make) -> None:
    server = make_server(env=QUICK).start()
    lake, http, filled = server.lake(), server.http(), "t"
    lake.create(filled, numbered(10))
    lake.write(filled, numbered(5, start=10))
    branch(http, filled, "create", name="exp")
    branch(http, filled, "create", name="exp/below")
    lake.write(filled, numbered(3, start=100), branch="exp", write_id="w")
    lake.write(filled, numbered(4, start=200), branch="exp/below")
    branch(http, filled, "delete", name="exp")
    with lake.refuses("not_found", "exp"):
        lake.read(filled, branch="exp")
    with lake.refuses("not_found", "exp"):
        lake.write(filled, numbered(1), branch="exp")
    assert list(branch(http, filled, "list")["branches"]) == ["exp/below"]
    # Its name is part of another's, whose files stay.
    wait_until(lambda: not folder(server, filled, "exp/_versions"), "the end of the folder")
    assert lake.read(filled, branch="exp/below").num_rows == 19
    # One of the same name is another one, also for a write that was sent to the first.
    branch(http, filled, "create", name="exp", from_version=1)
    assert lake.read(filled, branch="exp").equals(numbered(10))
    again = lake.write(filled, numbered(3, start=100), branch="exp", write_id="w")
    assert (again["version"], again["rows"]) == (2, 3)
    assert lake.read(filled, branch="exp").num_rows == 13
    branch(http, filled, "delete", name="exp")
    branch(http, filled, "delete", name="exp/below")
    wait_until(lambda: not folder(server, filled, "exp"), "the end of both folders")
    assert lake.read(filled).equals(numbered(15))
    lance.dataset(str(server.table_path(filled))).validate()


def test_what_is_needed_is_not_deleted(server: LakebedServer, lake: Lake, filled: str) -> None:
    http = server.http()
    for name, parent in (("exp", None), ("exp2", "exp")):
        branch(http, filled, "create", name=name, from_branch=parent)
    lake.write(filled, numbered(1, start=99), branch="exp2")
    http.ok(
        "POST", f"/v1/table/{filled}/tags/create", {"tag": "gold", "version": 3, "branch": "exp2"}
    )
    for name, needs in (("exp", "branch `exp2`"), ("exp2", "tag `gold`")):
        answer = http.post(f"/v1/table/{filled}/branches/delete", {"name": name})
        assert (answer.status, needs in answer.text) == (409, True), answer.text
    http.ok("POST", f"/v1/table/{filled}/tags/delete", {"tag": "gold"})
    branch(http, filled, "delete", name="exp2")
    branch(http, filled, "delete", name="exp")


def test_a_reader_goes_on_while_its_branch_is_deleted(make_server: Make) -> None:
    server = make_server(env=QUICK).start()
    lake, http = server.lake(), server.http()
    rows = numbered(400_000)
    lake.create("t", numbered(1))
    branch(http, "t", "create", name="exp")
    lake.write("t", rows, "overwrite", branch="exp")
    endpoint = lake.info("t", branch="exp").endpoints[0]
    reader = lake.client.do_get(endpoint.ticket, lake.options())
    first = next(iter(reader)).data
    branch(http, "t", "delete", name="exp")
    answer = http.post("/v1/table/t/branches/create", {"name": "exp"})
    assert (answer.status, "still read" in answer.text) == (409, True), answer.text
    assert folder(server, "t", "exp/data")
    rest = reader.read_all()
    assert first.num_rows + rest.num_rows == rows.num_rows
    wait_until(lambda: not folder(server, "t", "exp"), "the end of the folder")
    branch(http, "t", "create", name="exp")
    assert lake.read("t", branch="exp").num_rows == 1


def test_a_reader_of_a_deleted_branch_keeps_the_files_of_its_parent(make_server: Make) -> None:
    server = make_server(env={**QUICK, "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}).start()
    lake, http = server.lake(), server.http()
    rows = numbered(400_000)
    lake.create("t", rows)
    branch(http, "t", "create", name="exp")
    endpoint = lake.info("t", branch="exp").endpoints[0]
    reader = lake.client.do_get(endpoint.ticket, lake.options())
    first = next(iter(reader)).data
    branch(http, "t", "delete", name="exp")
    lake.write("t", numbered(1), "overwrite")
    now = {"keep_age_ms": 0, "keep_versions": 1}
    assert http.ok("POST", "/v1/table/t/gc", now).json()["versions"] == [1]
    data = server.table_path("t") / "data"
    assert len(list(data.glob("*.lance"))) == 2
    rest = reader.read_all()
    assert first.num_rows + rest.num_rows == rows.num_rows
    wait_until(lambda: not folder(server, "t", "exp"), "the end of the folder")


def test_what_a_cut_off_creation_left_is_taken_away(make_server: Make) -> None:
    server = make_server().start()
    lake, http = server.lake(), server.http()
    lake.create("t", numbered(10))
    branch(http, "t", "create", name="exp")
    lake.write("t", numbered(5, start=10), branch="exp")
    # As after a kill between the manifest and the record.
    (server.table_path("t") / "_refs/branches/exp.json").unlink()
    server.restart()
    http, lake = server.http(), server.lake()
    with lake.refuses("not_found", "exp"):
        lake.read("t", branch="exp")
    wait_until(
        lambda: http.post("/v1/table/t/branches/create", {"name": "exp"}).status == 200,
        "the time in which another tool may be making it",
    )
    assert lake.read("t", branch="exp").equals(numbered(10))


def test_a_branch_keeps_the_version_that_it_began_with(make_server: Make) -> None:
    server = make_server(env={"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}).start()
    lake, http = server.lake(), server.http()
    lake.create("t", numbered(10))
    branch(http, "t", "create", name="exp")
    for turn in range(5):
        lake.write("t", numbered(1, start=100 + turn))
        lake.write("t", numbered(1, start=200 + turn), branch="exp")
    now = {"keep_age_ms": 0, "keep_versions": 1}
    on_main = http.ok("POST", "/v1/table/t/gc", now).json()
    assert on_main["kept"] == [{"version": 1, "kept_by": "branch `exp`"}]
    on_branch = http.ok("POST", "/v1/table/t/gc", {**now, "branch": "exp"}).json()
    assert on_branch["kept"] == [{"version": 1, "kept_by": "the beginning of the branch"}]
    difference = branch(http, "t", "diff", from_branch="exp")["difference"]
    assert difference["branchChanges"] == {"inserted": 5, "updated": 0, "deleted": 0}
    assert difference["parentChanges"] == {"inserted": 5, "updated": 0, "deleted": 0}
    branch(http, "t", "delete", name="exp")
    assert http.ok("POST", "/v1/table/t/gc", now).json()["versions"] == [1]


def test_a_branch_of_a_table_of_an_older_format(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    lake.create(table, numbered(1))
    path = str(server.table_path(table))
    lance.write_dataset(numbered(10), path, mode="overwrite", enable_stable_row_ids=True)
    wait_until(lambda: lake.count(table) == 10, "the other tool's version")
    branch(server.http(), table, "create", name="exp")
    lake.write(table, numbered(2, start=10), branch="exp")
    assert lake.read(table, branch="exp").equals(numbered(12))
    lance.dataset(path).checkout_version(("exp", None)).validate()


def test_in_a_bucket(store: S3Server, make_server: Make, table: str) -> None:
    server = make_server(data=f"s3://{BUCKET}/{table}", env=store.environment()).start()
    lake, http = server.lake(), server.http()
    lake.create("t", blobs([b"first", b"second"]))
    branch(http, "t", "create", name="exp")
    lake.write("t", blobs([b"third"], start=2), branch="exp")
    merged = branch(http, "t", "merge", from_branch="exp")
    assert (merged["status"], merged["rows"]["inserted"]) == ("merged", 1)
    cells = lake.read("t", blobs="bytes").sort_by("id")["data"].to_pylist()
    assert cells == [b"first", b"second", b"third"]
    branch(http, "t", "delete", name="exp")
    assert branch(http, "t", "list") == {"branches": {}}
    with lake.refuses("not_found", "exp"):
        lake.read("t", branch="exp")
    branch(http, "t", "create", name="exp")
    assert lake.read("t", branch="exp").num_rows == 3


def test_by_the_command_line(
    server: LakebedServer, lake: Lake, filled: str, tmp_path: Path
) -> None:
    cli = Cli(server, tmp_path)
    assert "begins with version 2 of main" in cli.ok("branch", "create", filled, "exp")
    lake.upsert(filled, pa.table({"id": [3], "name": ["three"]}), ["id"], branch="exp")
    assert "exp" in cli.ok("branch", "list", filled)
    shown = cli.ok("branch", "diff", filled, "exp")
    assert "exp: 0 rows inserted, 1 updated, 0 deleted" in shown
    assert "name: 1 rows updated on the branch" in shown
    planned = cli.ok("branch", "merge", filled, "exp", "--dry-run")
    assert "nothing was done" in planned
    assert "1 updated" in cli.ok("branch", "merge", filled, "exp")
    assert "merged already" in cli.ok("branch", "merge", filled, "exp")
    assert "is deleted" in cli.ok("branch", "delete", filled, "exp", "--yes")
    assert lake.read(filled, filter="id = 3")["name"].to_pylist() == ["three"]


def test_backups_and_moves_take_branches_along(make_server: Make, tmp_path: Path) -> None:
    server = make_server().start()
    lake, http = server.lake(), server.http()
    lake.create("t", numbered(10))
    branch(http, "t", "create", name="team/new")
    lake.write("t", numbered(2, start=10), branch="team/new")
    cli = Cli(server, tmp_path)
    cli.json("backup", "--to", str(tmp_path / "copy"))
    assert server.terminate() == 0
    restored, moved = tmp_path / "restored", tmp_path / "moved"
    offline(cli, "restore", "--from", str(tmp_path / "copy"), "--data", str(restored))
    Path(server.data).rename(moved)
    offline(cli, "relocate", "--data", str(moved))
    for place in (moved, restored):
        again = make_server(place.name, data=str(place)).start()
        own = again.lake()
        assert own.read("t", branch="team/new").equals(numbered(12)), place
        assert branch(again.http(), "t", "merge", from_branch="team/new")["status"] == "merged"
        assert own.read("t").equals(numbered(12))
        branch(again.http(), "t", "delete", name="team/new")
        again.terminate()
