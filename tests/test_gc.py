"""Old versions go with what only they use; what somebody needs stays, whatever happens."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.cli import Cli
from support.data import blobs
from support.flight import Failure, Lake
from support.server import LakebedServer
from support.waiting import wait_until

Make = Callable[..., LakebedServer]

# What is deleted may be young in these tests.
YOUNG = {"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}
NOW = {"keep_age_ms": 0, "keep_versions": 1}
DAY_S = 24 * 3_600


def row(number: int) -> pa.Table:
    return pa.table({"id": pa.array([number], pa.int64()), "text": [f"row {number}"]})


def gc(server: LakebedServer, table: str, **body: Any) -> dict[str, Any]:
    """What was deleted."""
    return server.http().ok("POST", f"/v1/table/{table}/gc", body).json()


def versions(server: LakebedServer, table: str) -> list[int]:
    folder = server.table_path(table) / "_versions"
    # Lance counts down from the largest number.
    return sorted(2**64 - 1 - int(path.stem) for path in folder.glob("*.manifest"))


def overwritten(lake: Lake, table: str, times: int) -> None:
    """A table each of whose versions has a file of its own."""
    lake.create(table, row(1))
    for number in range(2, times + 1):
        lake.write(table, row(number), "overwrite")


def table_files(server: LakebedServer, table: str) -> set[str]:
    folder = server.table_path(table)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakebedServer]:
    """The server that the tests of this module share."""
    server = LakebedServer(tmp_path_factory.mktemp("shared"), env=YOUNG).start()
    yield server
    server.kill()


def test_it_explains_before_it_deletes(server: LakebedServer, lake: Lake, table: str) -> None:
    overwritten(lake, table, 10)
    before = table_files(server, table)
    planned = gc(server, table, dry_run=True, keep_age_ms=0, keep_versions=3)
    assert planned["versions"] == [1, 2, 3, 4, 5, 6, 7]
    assert planned["files"] == {"manifest": 7, "data": 7, "transaction": 7}
    assert planned["bytes"] > 0
    assert table_files(server, table) == before
    stored = server.stored_bytes()
    done = gc(server, table, keep_age_ms=0, keep_versions=3)
    assert {**done, "dry_run": True} == planned
    # The audit line of it is new.
    assert stored - server.stored_bytes() == pytest.approx(planned["bytes"], abs=4096)
    assert versions(server, table) == [8, 9, 10]
    assert lake.read(table).equals(row(10))
    assert lake.read(table, version=8).equals(row(8))
    with lake.refuses("not_found", "7", "cleaned", "8"):
        lake.read(table, version=7)
    # A ticket for version 8 was given out above.
    assert gc(server, table, **NOW)["versions"] == [9]


def test_nothing_goes_by_itself_or_too_early(
    own_server: LakebedServer,
) -> None:
    """Seven days and a thousand versions are kept, and whatever is asked for, the last hour."""
    lake = own_server.lake()
    overwritten(lake, "t", 5)
    assert gc(own_server, "t")["versions"] == []
    assert gc(own_server, "t", **NOW)["versions"] == []
    assert versions(own_server, "t") == [1, 2, 3, 4, 5]


def test_who_may_and_what_is_refused(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, row(1))
    admin = server.http()
    key = admin.ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()["key"]
    writer = server.http(key)
    assert writer.post(f"/v1/table/{table}/gc", {"dry_run": True}).status == 200
    assert writer.post(f"/v1/table/{table}/gc", {}).status == 403
    for body, word in [
        ({"keep_versions": -1}, "keep_versions"),
        ({"keep_age_ms": "7d"}, "keep_age_ms"),
        ({"older": 1}, "older"),
    ]:
        answer = admin.post(f"/v1/table/{table}/gc", body)
        assert answer.status == 400
        assert word in answer.text
    assert admin.post("/v1/table/no_such_table/gc", {}).status == 404
    assert admin.post(f"/v1/table/{table}/gc?branch=none", {}).status == 404
    # Zero is one: the newest version stays in any case.
    assert gc(server, table, keep_age_ms=0, keep_versions=0)["versions"] == []
    assert lake.read(table).equals(row(1))


def test_tags_and_readers_keep_their_versions(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    overwritten(lake, table, 6)
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 2})
    info = lake.info(table, version=4)
    done = gc(server, table, **NOW)
    assert done["versions"] == [1, 3, 5]
    assert done["kept"] == [
        {"version": 2, "kept_by": "tag `gold`"},
        {"version": 4, "kept_by": "a reader or a ticket"},
    ]
    # Not by a ticket, which would keep it.
    stored = lance.dataset(str(server.table_path(table)))
    assert stored.checkout_version("gold").to_table().equals(row(2))
    assert lake.fetch(info.endpoints[0]).equals(row(4))
    http.ok("POST", f"/v1/table/{table}/tags/delete", {"tag": "gold"})
    assert gc(server, table, **NOW)["versions"] == [2]
    assert http.post(f"/v1/table/{table}/tags/create", {"tag": "g", "version": 2}).status == 404
    assert http.post(f"/v1/table/{table}/restore", {"version": 2}).status == 404


def test_branches_keep_what_they_began_with(server: LakebedServer, lake: Lake, table: str) -> None:
    overwritten(lake, table, 3)
    stored = lance.dataset(str(server.table_path(table)))
    stored.create_branch("exp", 2)
    lake.write(table, row(19), branch="exp")
    lake.write(table, row(20), branch="exp")
    done = gc(server, table, **NOW)
    assert done["versions"] == [1]
    assert done["kept"] == [{"version": 2, "kept_by": "branch `exp`"}]
    expected = pa.concat_tables([row(2), row(19), row(20)])
    assert lake.read(table, branch="exp").equals(expected)
    lake.write(table, row(30), "overwrite", branch="exp")
    done = gc(server, table, branch="exp", **NOW)
    # The one that was read is kept by its ticket.
    assert done["versions"] == [3]
    assert done["kept"][0] == {"version": 2, "kept_by": "the beginning of the branch"}
    assert lake.read(table, branch="exp").equals(row(30))
    assert lake.read(table).equals(row(3))


def test_a_table_keeps_by_its_own_settings(server: LakebedServer, lake: Lake, table: str) -> None:
    overwritten(lake, table, 8)
    http = server.http()

    def setting(value: str) -> None:
        entry = {"lakebed.retention_versions": value, "lakebed.retention_ms": "0"}
        http.ok("POST", f"/v1/table/{table}/schema_metadata/update", entry)

    setting("4")
    assert gc(server, table, dry_run=True)["versions"] == [1, 2, 3, 4, 5]
    setting("many")
    answer = http.post(f"/v1/table/{table}/gc", {})
    assert answer.status == 400
    assert "lakebed.retention_versions" in answer.text


def test_blobs_and_indexes_go_with_their_versions(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    cells = [bytes([number]) * 100_000 for number in range(4)]
    lake.create(table, blobs(cells))
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/create_index", {"column": "id", "index_type": "BTREE"})
    stats = f"/v1/table/{table}/index/id_idx/stats"
    wait_until(lambda: http.post(stats).status == 200, "the index")
    lake.write(table, blobs(cells[:1]), "overwrite")
    before = table_files(server, table)
    assert any(name.endswith(".blob") for name in before)
    done = gc(server, table, **NOW)
    assert done["files"]["index"] > 0
    assert done["files"]["blob"] > 0
    left = table_files(server, table)
    assert not [name for name in left if name.startswith("_indices/")]
    read = lake.read(table, blobs="bytes")
    assert read["data"].to_pylist() == cells[:1]
    lance.dataset(str(server.table_path(table))).validate()


def test_writes_are_remembered_longer_than_their_versions(make_server: Make) -> None:
    """A write sent again is answered as before, also after a restart, when its version is gone."""
    server = make_server(env=YOUNG).start()
    lake = server.lake()
    lake.create("t", row(0), write_id="first")
    receipts = [lake.write("t", row(n), write_id=f"w{n}") for n in range(1, 40)]
    assert gc(server, "t", **NOW)["versions"] == list(range(1, 40))
    for _ in range(2):
        for number, receipt in enumerate(receipts, 1):
            assert lake.write("t", row(number), write_id=f"w{number}") == receipt
        server.kill()
        lake = server.start().lake()
    assert lake.count("t") == 40


def test_it_runs_by_itself(make_server: Make) -> None:
    quick = {
        **YOUNG,
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "200",
        "LAKEBED_LIMITS_RETENTION_MS": "0",
        "LAKEBED_LIMITS_RETENTION_VERSIONS": "5",
    }
    server = make_server(env=quick).start()
    lake = server.lake()
    overwritten(lake, "t", 110)
    wait_until(lambda: versions(server, "t") == [106, 107, 108, 109, 110], "the cleaning")
    assert lake.read("t").equals(row(110))
    wait_until(
        lambda: "lakebed_cleaned_versions_total 105" in server.http().ok("GET", "/metrics").text,
        "the count of them",
    )
    # Also where the server has not worked with the table since its start, and for few of them,
    # after a round of passes.
    lake.write("t", row(111), "overwrite")
    server.restart()
    wait_until(lambda: versions(server, "t") == [107, 108, 109, 110, 111], "the next one")


def test_what_no_version_names_goes_by_itself(make_server: Make) -> None:
    """Also from a table whose versions are all kept; what is young stays."""
    quick = {
        **YOUNG,
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_ORPHAN_AGE_MS": str(2 * DAY_S * 1_000),
    }
    server = make_server(env=quick).start()
    overwritten(server.lake(), "t", 3)
    before = table_files(server, "t")
    data = server.table_path("t") / "data"
    (data / "old.lance").write_bytes(b"left")
    (data / "young.lance").write_bytes(b"under way")
    long_ago = time.time() - 3 * DAY_S
    os.utime(data / "old.lance", (long_ago, long_ago))
    wait_until(lambda: not (data / "old.lance").exists(), "the cleaning")
    assert table_files(server, "t") == before | {"data/young.lance"}
    assert versions(server, "t") == [1, 2, 3]


def test_it_runs_beside_everything_else(make_server: Make) -> None:
    """Writers, readers of old versions and tags go on; nobody reads half of anything."""
    keys, table = 50, "t"
    # A ticket keeps what was read no longer than this.
    server = make_server(env={**YOUNG, "LAKEBED_LIMITS_TICKET_TTL_MS": "1000"}).start()
    lake = server.lake()
    lake.create(table, pa.table({"id": range(keys), "v": [0] * keys}))
    stop = threading.Event()
    problems: list[BaseException] = []
    counts = {"read": 0, "tagged": 0, "written": 0}
    newest = 1

    def run(work: Callable[[Lake], None]) -> None:
        mine = server.lake()
        try:
            while not stop.is_set():
                work(mine)
        except BaseException as error:
            problems.append(error)
            stop.set()

    def write(mine: Lake) -> None:
        nonlocal newest
        counts["written"] += 1
        rows = pa.table({"id": range(keys), "v": [counts["written"]] * keys})
        newest = mine.upsert(table, rows, ["id"])["version"]

    def read(mine: Lake) -> None:
        version = max(1, newest - random.randrange(6))
        try:
            rows = mine.read(table, version=version)
        except Failure as failure:
            # Anything else is a read that broke off.
            if "cleaned" not in str(failure):
                raise
            return
        assert rows.num_rows == keys
        assert len(set(rows["v"].to_pylist())) == 1, "half an upsert"
        counts["read"] += 1

    def tag(mine: Lake) -> None:
        http = server.http()
        version = max(1, newest - random.randrange(3))
        name = f"t{counts['tagged']}"
        answer = http.post(f"/v1/table/{table}/tags/create", {"tag": name, "version": version})
        if answer.status == 404:
            return
        counts["tagged"] += 1
        assert mine.read(table, tag=name).num_rows == keys, "a tag that was made keeps its version"
        http.ok("POST", f"/v1/table/{table}/tags/delete", {"tag": name})

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, read, read, tag)]
    for thread in threads:
        thread.start()
    cleaned = 0
    while not stop.is_set() and (cleaned < 60 or min(counts.values()) < 20):
        cleaned += len(gc(server, table, keep_age_ms=0, keep_versions=3)["versions"])
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not problems, problems
    print(counts, "cleaned", cleaned)
    gc(server, table, **NOW)
    stored = lance.dataset(str(server.table_path(table)))
    stored.validate()
    assert set(stored.to_table()["v"].to_pylist()) == {counts["written"]}


@pytest.mark.timeout(1_800)
def test_killed_in_the_middle(make_server: Make, soak: bool) -> None:
    """Every version that is listed reads whole, and the next cleaning leaves nothing behind."""
    kills = 60 if soak else 6
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    server = make_server(env=YOUNG).start()
    lake = server.lake()
    overwritten(lake, "t", 2)
    number, cut = 2, 0
    for _ in range(kills):
        lake = server.lake()
        for _ in range(60):
            number += 1
            mode = "overwrite" if dice.random() < 0.7 else "append"
            lake.write("t", row(number), mode)
        count = len(versions(server, "t"))
        thread = threading.Thread(target=lambda: _ignoring(lambda: gc(server, "t", **NOW)))
        thread.start()
        folder = server.table_path("t") / "_versions"
        # The newest, and one that was read above.
        left = dice.randrange(3, count)
        wait_until(
            lambda: len(list(folder.glob("*.manifest"))) <= left,  # noqa: B023
            "a part of the deletions",
            poll_s=0.0001,
        )
        server.kill()
        thread.join(60)
        stored = lance.dataset(str(server.table_path("t")))
        listed = stored.versions()
        cut += len(listed) > 1 or _journals(server) > 0
        for version in listed:
            stored.checkout_version(version["version"]).to_table()
        server.start()
        assert number in server.lake().read("t")["id"].to_pylist()
    print(f"{cut} of {kills} kills hit a cleaning")
    assert cut > 0
    gc(server, "t", **NOW)
    assert _journals(server) == 0
    stored = lance.dataset(str(server.table_path("t")))
    stored.validate()
    named = {Path(file.path).name for part in stored.get_fragments() for file in part.data_files()}
    kept = {path.name for path in (server.table_path("t") / "data").glob("*.lance")}
    assert kept == named
    assert len(list((server.table_path("t") / "_transactions").iterdir())) == 1


def _ignoring(work: Callable[[], Any]) -> None:
    # The server is gone.
    with contextlib.suppress(OSError, AssertionError):
        work()


def _journals(server: LakebedServer) -> int:
    return len(list((Path(server.data) / "_lakebed/cleanup").rglob("*.json")))


def test_on_the_command_line(server: LakebedServer, lake: Lake, table: str, tmp_path: Path) -> None:
    overwritten(lake, table, 5)
    cli = Cli(server, tmp_path)
    shown = cli.ok("gc", table, "--keep-age", "0s", "--keep-versions", "2", "--dry-run")
    assert "3 versions from 1 to 3" in shown
    assert "nothing was deleted" in shown
    shown = cli.ok("gc", table, "--keep-age", "0s", "--keep-versions", "2", "--yes")
    assert "deleted: 3 versions from 1 to 3" in shown
    assert cli.ok("gc", table).strip() == "nothing to delete"
    assert cli.run("gc", "no_such_table").returncode == 1
    assert cli.run("gc", table, "--keep-age", "soon").returncode == 2
