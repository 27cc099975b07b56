"""The change feed over Flight, SQL, HTTP and the command line, and the cursors of its readers."""

import datetime as dt
import json
import random
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from pyarrow import flight

from support.cli import Cli
from support.data import blobs, numbered
from support.flight import Lake, command
from support.http import Http, Response
from support.pages import commands, run_command, without_times
from support.readme import ROOT
from support.server import LakebedServer
from support.sql import Sql

PAGE = ROOT / "docs/changes.md"
# When something happened, as the page prints it.
AT = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")

OWN = ["_change", "_rowid", "_commit_version", "_commit_time", "_changed_columns", "_is_backfill"]


@pytest.fixture
def http(server: LakebedServer) -> Http:
    """An HTTP client with the admin key."""
    return server.http()


def plan(lake: Lake, table: str, **fields: Any) -> flight.FlightInfo:
    """GetFlightInfo of a feed; `since` stands for the field `from`."""
    if "since" in fields:
        fields["from"] = fields.pop("since")
    descriptor = command({"changes": {"table": table, **fields}})
    return lake.client.get_flight_info(descriptor, lake.options())


def feed(lake: Lake, table: str, **fields: Any) -> pa.Table:
    """The rows of a feed."""
    info = plan(lake, table, **fields)
    [endpoint] = info.endpoints
    rows = lake.fetch(endpoint)
    assert rows.schema.names[: len(OWN)] == OWN
    assert rows.schema == info.schema
    return rows


def said(rows: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    """What a feed says, by the order of `id`: kind, id, changed columns and more."""
    rows = rows.sort_by([("id", "ascending"), ("_change", "ascending")])
    names = ["_change", "id", "_changed_columns", *columns]
    return [tuple(row[name] for name in names) for row in rows.select(names).to_pylist()]


def http_feed(http: Http, table: str, body: dict[str, Any]) -> tuple[pa.Table, Response]:
    """The rows of a feed over HTTP, and the answer."""
    answer = http.ok("POST", f"/v1/table/{table}/changes", body)
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    return pa.ipc.open_stream(answer.body).read_all(), answer


def cursors(http: Http, table: str) -> dict[str, int]:
    """The cursors of a table and where they stand."""
    listed = http.ok("GET", f"/v1/table/{table}/cursors/list").json()["cursors"]
    assert listed == http.ok("POST", f"/v1/table/{table}/cursors/list", {}).json()["cursors"]
    return {cursor["name"]: cursor["version"] for cursor in listed}


def update(http: Http, table: str, column: str, sql: str, where: str) -> int:
    """An update by SQL; the version with it."""
    body = {"predicate": where, "updates": [[column, sql]]}
    return http.ok("POST", f"/v1/table/{table}/update", body).json()["version"]


def delete(http: Http, table: str, where: str) -> int:
    """A deletion; the version with it."""
    return http.ok("POST", f"/v1/table/{table}/delete", {"predicate": where}).json()["version"]


def changed_table(lake: Lake, http: Http, table: str) -> None:
    """Versions 1 to 5: rows, an update, a deletion, an insert, an upsert of some columns."""
    lake.create(table, numbered(5, age=pa.array([1, 2, 3, 4, 5], pa.int32())))
    update(http, table, "age", "age + 10", "id = 1")
    delete(http, table, "id = 3")
    lake.write(table, numbered(1, start=9, age=pa.array([90], pa.int32())))
    some = pa.table({"id": pa.array([0, 2], pa.int64()), "name": ["new", "name 2"]})
    assert lake.upsert(table, some, ["id"])["version"] == 5


def test_the_doors_say_the_same(
    lake: Lake, http: Http, server: LakebedServer, table: str, tmp_path: Path
) -> None:
    changed_table(lake, http, table)
    rows = feed(lake, table, since=1)
    assert said(rows, "_commit_version", "age", "name") == [
        ("update", 0, ["name"], 5, 1, "new"),
        ("update", 1, ["age"], 2, 12, "name 1"),
        ("delete", 3, None, 5, 4, "name 3"),
        ("insert", 9, None, 4, 90, "name 9"),
    ]
    assert rows["_change"][0].as_py() == "delete", "deletes come first"
    assert not any(rows["_is_backfill"].to_pylist())
    times = {v["version"]: v["timestamp"] for v in versions(http, table)}
    for row in rows.to_pylist():
        at = row["_commit_time"].astimezone(dt.UTC)
        at_ms = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert at_ms == times[row["_commit_version"]]
    about = json.loads(rows.schema.metadata[b"lakebed:changes"])
    assert about == {"from": 1, "to": 5}

    over_http, answer = http_feed(http, table, {"from": 1})
    assert over_http == rows
    assert answer.headers["x-lakebed-from-version"] == "1"
    assert answer.headers["x-lakebed-to-version"] == "5"
    with_sql = Sql(server)
    in_sql = with_sql.query(f"SELECT * FROM changes('{table}', 1)")
    assert in_sql.to_pylist() == rows.to_pylist()
    counted = with_sql.rows(
        f"SELECT _change, count(*) AS n FROM changes('{table}', 1, 4) c GROUP BY _change ORDER BY 1"
    )
    assert counted == [
        {"_change": "delete", "n": 1},
        {"_change": "insert", "n": 1},
        {"_change": "update", "n": 1},
    ]
    cli = Cli(server, tmp_path)
    printed = cli.ok("changes", table, "--from", "1", "--format", "json").splitlines()
    assert [json.loads(line)["id"] for line in printed] == rows["id"].to_pylist()


def versions(http: Http, table: str) -> list[dict[str, Any]]:
    """The versions of a table."""
    return http.ok("POST", f"/v1/table/{table}/version/list").json()["versions"]


def test_versions_tags_and_times(lake: Lake, http: Http, table: str) -> None:
    changed_table(lake, http, table)
    http.ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 2})
    assert [row[:2] for row in said(feed(lake, table, since="gold", to=3))] == [("delete", 3)]
    assert [row[:2] for row in said(feed(lake, table, since=1, to="gold"))] == [("update", 1)]
    times = {v["version"]: v["timestamp"] for v in versions(http, table)}
    # A time names the newest version at or before it, here one in the middle between two commits.
    before, after = (dt.datetime.fromisoformat(times[version]) for version in (4, 5))
    at = (before + (after - before) / 2).isoformat()
    if after - before > dt.timedelta(milliseconds=2):
        assert [row[:2] for row in said(feed(lake, table, since=3, to=at))] == [("insert", 9)]
    everything = feed(lake, table, since=0)
    assert said(everything) == [("insert", n, None) for n in (0, 1, 2, 4, 9)]
    assert feed(lake, table, since=5).num_rows == 0
    assert feed(lake, table, since=4, to=4).num_rows == 0


def test_columns_and_kinds(lake: Lake, http: Http, table: str) -> None:
    changed_table(lake, http, table)
    names = feed(lake, table, since=1, columns=["id", "name"])
    assert names.schema.names == [*OWN, "id", "name"]
    assert said(names) == [("update", 0, ["name"]), ("delete", 3, None), ("insert", 9, None)]
    only = feed(lake, table, since=1, kinds=["update", "insert"], columns=["id", "age"])
    assert said(only) == [("update", 1, ["age"]), ("insert", 9, None)]


def test_a_ticket_keeps_both_versions(lake: Lake, http: Http, table: str) -> None:
    changed_table(lake, http, table)
    info = plan(lake, table, since=1)
    assert json.loads(info.app_metadata) == {"from": 1, "to": 5}
    before = lake.fetch(info.endpoints[0])
    lake.write(table, numbered(100, start=100, age=pa.array(range(100), pa.int32())))
    http.ok("POST", f"/v1/table/{table}/compact", {})
    http.ok("POST", f"/v1/table/{table}/rename", {"new_table_name": f"{table}_2"})
    assert lake.fetch(info.endpoints[0]) == before
    http.ok("POST", f"/v1/table/{table}_2/drop", {})
    assert lake.fetch(info.endpoints[0]) == before, "a dropped table stays for its tickets"
    damaged = bytearray(info.endpoints[0].ticket.ticket)
    damaged[-1] ^= 1
    with lake.refuses("invalid_argument", "damaged"):
        lake.stream(flight.Ticket(bytes(damaged)))


def test_a_command_as_a_ticket(lake: Lake, http: Http, table: str) -> None:
    changed_table(lake, http, table)
    text = json.dumps({"changes": {"table": table, "from": 3, "to": 4}})
    rows = lake.stream(flight.Ticket(text.encode())).read_all()
    assert said(rows) == [("insert", 9, None)]


def test_blobs_as_descriptors_and_bytes(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, blobs([b"one", b"two" * 50_000, None], start=1))
    delete(http, table, "id = 1")
    update(http, table, "id", "id + 10", "id = 3")
    lake.write(table, blobs([b"four"], start=4))
    described = feed(lake, table, since=1)
    assert pa.types.is_struct(described.schema.field("data").type)
    rows = feed(lake, table, since=1, blobs="bytes").sort_by("id")
    assert said(rows, "data") == [
        ("delete", 1, None, b"one"),
        ("insert", 4, None, b"four"),
        ("update", 13, ["id"], None),
    ]


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({}, "invalid_argument", ["from", "cursor"]),
        ({"since": 1, "cursor": "c"}, "invalid_argument", ["only one"]),
        ({"since": 77}, "not_found", ["version 77"]),
        ({"since": 1, "to": 77}, "not_found", ["version 77"]),
        ({"since": 4, "to": 2}, "invalid_argument", ["version 4", "newer"]),
        ({"since": 0, "to": 0}, "not_found", ["version 0"]),
        ({"since": "no-such-tag"}, "not_found", ["no-such-tag"]),
        ({"since": "2020-01-01T00:00:00Z"}, "not_found", ["oldest"]),
        ({"since": "2020-01-01T00:00:00"}, "invalid_argument", ["changes.from"]),
        ({"since": -1}, "invalid_argument", ["changes.from"]),
        ({"since": [1]}, "invalid_argument", ["changes.from"]),
        ({"since": 1, "form": 2}, "invalid_argument", ["form"]),
        ({"since": 1, "columns": []}, "invalid_argument", ["columns"]),
        ({"since": 1, "columns": ["nmae"]}, "not_found", ["nmae", "name"]),
        ({"since": 1, "columns": ["id", "id"]}, "invalid_argument", ["twice"]),
        ({"since": 1, "columns": ["_rowid"]}, "not_found", ["_rowid"]),
        ({"since": 1, "kinds": ["upsert"]}, "invalid_argument", ["upsert"]),
        ({"since": 1, "kinds": []}, "invalid_argument", ["kinds"]),
        ({"since": 1, "branch": "exp"}, "not_found", ["exp"]),
        ({"cursor": "../../keys/admin"}, "invalid_argument", ["cursor name"]),
        ({"cursor": "nobody"}, "not_found", ["nobody"]),
    ],
)
def test_bad_requests(
    lake: Lake, http: Http, table: str, fields: dict[str, Any], kind: str, words: list[str]
) -> None:
    changed_table(lake, http, table)
    with lake.refuses(kind, *words):
        feed(lake, table, **fields)
    body = {("from" if name == "since" else name): value for name, value in fields.items()}
    answer = http.post(f"/v1/table/{table}/changes", body)
    assert answer.headers["x-lakebed-error-kind"] == kind, answer.text
    with lake.refuses("not_found", "no_such_table"):
        feed(lake, "no_such_table", since=1)


def test_a_version_that_was_cleaned(
    lake: Lake, http: Http, server: LakebedServer, table: str
) -> None:
    changed_table(lake, http, table)
    path = Path(server.data) / "default" / f"{table}.lance"
    dataset = lance.dataset(str(path))
    dataset.tags.create("kept", 2)
    dataset.cleanup_old_versions(retain_versions=1, error_if_tagged_old_versions=False)
    with lake.refuses("not_found", "version 1"):
        feed(lake, table, since=1)
    # The versions in between are not needed; what they did is unknown now.
    rows = feed(lake, table, since=2)
    assert said(rows) == [("update", 0, ["name"]), ("delete", 3, None), ("insert", 9, None)]
    [inserted] = [row for row in rows.to_pylist() if row["_change"] == "insert"]
    assert (inserted["_commit_version"], inserted["_commit_time"]) == (4, None)


def test_backfills_are_told_apart(lake: Lake, http: Http, table: str) -> None:
    lake.create(table, numbered(4))
    new = {"new_columns": [{"name": "length", "expression": "length(name)"}]}
    http.ok("POST", f"/v1/table/{table}/add_columns", new)
    update(http, table, "name", "'edited'", "id = 2")
    flags = {row["id"]: row for row in feed(lake, table, since=1).to_pylist()}
    assert [flags[i]["_is_backfill"] for i in range(4)] == [True, True, False, True]
    assert flags[0]["_changed_columns"] == ["length"]
    assert flags[2]["_changed_columns"] == ["name", "length"]


def test_fragments_that_were_not_edited_have_exact_stamps_without_room(
    make_server: Callable[..., LakebedServer], table: str
) -> None:
    """One stamp for each fragment does not count, however little room there is."""
    server = make_server(env={"LAKEBED_LIMITS_STAMPS_BYTES_MAX": "0"}).start()
    lake, http = server.lake(), server.http()
    lake.create(table, numbered(1_000))
    for first in (1_000, 2_000):
        lake.write(table, numbered(1_000, start=first))

    def stamps() -> set[int]:
        stored = lance.dataset(server.table_path(table))
        assert stored.count_rows() == 3_000
        return set(stored.to_table(columns=["_row_last_updated_at_version"])[0].to_pylist())

    assert stamps() == {1, 2, 3}
    assert "lakebed.stamps_put_up_to" not in lance.dataset(server.table_path(table)).config()
    # A fragment with two stamps has room for one, and the others keep theirs.
    update(http, table, "name", "'edited'", "id = 1500")
    assert stamps() == {1, 3, 4}
    assert lance.dataset(server.table_path(table)).config()["lakebed.stamps_put_up_to"] == "4"
    rows = feed(lake, table, since=3).to_pylist()
    assert [(row["id"], row["_changed_columns"]) for row in rows] == [(1_500, ["name"])]
    lake.close()


def test_scattered_changes_do_not_grow_what_each_version_writes(
    make_server: Callable[..., LakebedServer], table: str
) -> None:
    """Changes here and there are told exactly while they are new; old ones take no room."""
    limit = {"LAKEBED_LIMITS_STAMPS_BYTES_MAX": str(16 << 10)}
    server = make_server(env=limit).start()
    lake, http = server.lake(), server.http()
    lake.create(table, numbered(20_000))
    new = {"new_columns": [{"name": "length", "expression": "length(name)"}]}
    http.ok("POST", f"/v1/table/{table}/add_columns", new)
    windows = 30
    for window in range(windows):
        update(http, table, "name", f"'of {window}'", f"id % 97 = {window}")
    [*_, newest] = versions(http, table)
    last = newest["version"]
    # The stamps, and which rows the transaction changed.
    for folder, most in (("_versions", 26 << 10), ("_transactions", 6 << 10)):
        files = list((server.table_path(table) / folder).iterdir())
        assert len(files) > windows
        assert max(file.stat().st_size for file in files) < most, folder

    def edited(since: int) -> dict[int, str]:
        rows = feed(lake, table, since=since, to=last).to_pylist()
        assert all(row["_changed_columns"][0] == "name" for row in rows if not row["_is_backfill"])
        assert all(since < row["_commit_version"] <= last for row in rows)
        return {row["id"]: row["name"] for row in rows if not row["_is_backfill"]}

    for since in (last - 1, last - 7, last - windows, 1):
        first = max(windows - (last - since), 0)
        every = {i: f"of {i % 97}" for i in range(20_000) if first <= i % 97 < windows}
        assert edited(since) == every
    # Released readers find what is newer than a version by the stamps themselves: all of it, and of
    # the last windows nothing else.
    stored = lance.dataset(server.table_path(table))
    stamps = stored.to_table(columns=["id", "_row_last_updated_at_version"]).to_pydict()
    stamp_of = dict(zip(stamps["id"], stamps["_row_last_updated_at_version"], strict=True))
    for row, stamp in stamp_of.items():
        window = row % 97
        assert last >= stamp >= (last - windows + 1 + window if window < windows else 1)
    assert {row for row, stamp in stamp_of.items() if stamp == last} == {
        row for row in stamp_of if row % 97 == windows - 1
    }
    lake.close()


# ---- cursors ----------------------------------------------------------------------------------


def test_a_cursor_follows_a_table(lake: Lake, http: Http, table: str) -> None:
    changed_table(lake, http, table)
    made = http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "c", "version": 1}).json()
    assert (made["name"], made["version"], made["branch"]) == ("c", 1, None)
    assert made["created_at_ms"] == made["moved_at_ms"]
    info = plan(lake, table, cursor="c")
    about = json.loads(info.app_metadata)
    assert about == {"from": 1, "to": 5}
    rows = lake.fetch(info.endpoints[0])
    assert rows.num_rows == 4
    assert json.loads(rows.schema.metadata[b"lakebed:changes"])["cursor"] == "c"
    assert cursors(http, table) == {"c": 1}, "reading moves nothing"
    step = {"name": "c", "version": about["to"], "expected": about["from"]}
    moved = http.ok("POST", f"/v1/table/{table}/cursors/advance", step).json()
    assert moved["version"] == 5
    assert moved["moved_at_ms"] >= made["moved_at_ms"]
    assert feed(lake, table, cursor="c").num_rows == 0
    _, answer = http_feed(http, table, {"cursor": "c"})
    assert answer.headers["x-lakebed-from-version"] == "5"

    again = http.post(f"/v1/table/{table}/cursors/advance", step)
    assert (again.status, again.headers["x-lakebed-error-kind"]) == (409, "conflict")
    assert "version 5, not at 1" in again.json()["error"]
    back = http.post(f"/v1/table/{table}/cursors/advance", {"name": "c", "version": 2})
    assert back.status == 400
    ahead = http.post(f"/v1/table/{table}/cursors/advance", {"name": "c", "version": 6})
    assert ahead.headers["x-lakebed-error-kind"] == "not_found"
    taken = http.post(f"/v1/table/{table}/cursors/create", {"name": "c"})
    assert taken.headers["x-lakebed-error-kind"] == "already_exists"
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "all", "version": 0})
    assert feed(lake, table, cursor="all", kinds=["insert"]).num_rows == 5
    assert cursors(http, table) == {"all": 0, "c": 5}
    http.ok("POST", f"/v1/table/{table}/cursors/delete", {"name": "c"})
    assert cursors(http, table) == {"all": 0}
    gone = http.post(f"/v1/table/{table}/cursors/delete", {"name": "c"})
    assert gone.headers["x-lakebed-error-kind"] == "not_found"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 200, "a\x00b"])
def test_bad_names_of_cursors(lake: Lake, http: Http, table: str, name: str) -> None:
    lake.create(table, numbered(1))
    for verb, more in (("create", {}), ("advance", {"version": 1}), ("delete", {})):
        answer = http.post(f"/v1/table/{table}/cursors/{verb}", {"name": name, **more})
        assert answer.status == 400, answer.text
    assert cursors(http, table) == {}


def test_cursors_need_the_role_to_write(lake: Lake, server: LakebedServer, table: str) -> None:
    lake.create(table, numbered(1))
    admin = server.http()
    made = admin.ok("POST", "/v1/keys", {"name": "reader", "role": "read"}).json()
    reader = Http(server.http_address, made["key"])
    denied = reader.post(f"/v1/table/{table}/cursors/create", {"name": "c"})
    assert denied.status == 403
    admin.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "c", "version": 0})
    rows, _ = http_feed(reader, table, {"cursor": "c"})
    assert rows.num_rows == 1
    assert cursors(reader, table) == {"c": 0}


def test_cursors_outlive_a_kill_and_go_with_their_table(
    own_server: LakebedServer, table: str
) -> None:
    lake, http = own_server.lake(), own_server.http()
    lake.create(table, numbered(3))
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "c", "version": 1})
    for n in range(3):
        version = lake.write(table, numbered(1, start=10 + n))["version"]
        http.ok("POST", f"/v1/table/{table}/cursors/advance", {"name": "c", "version": version})
        lake.write(table, numbered(1, start=20 + n))
        lake.close()
        own_server.kill()
        own_server.start()
        lake, http = own_server.lake(), own_server.http()
        assert cursors(http, table) == {"c": version}
        assert said(feed(lake, table, cursor="c")) == [("insert", 20 + n, None)]
    records = Path(own_server.data) / "_lakebed" / "cursors"
    [record] = records.glob("*/c.json")
    kept = json.loads(record.read_text())
    assert {name: kept[name] for name in ("format", "name", "branch", "version")} == {
        "format": 1,
        "name": "c",
        "branch": None,
        "version": version,
    }
    http.ok("POST", f"/v1/table/{table}/drop", {})
    lake.create(table, numbered(1))
    assert cursors(http, table) == {}, "a new table of that name has cursors of its own"
    lake.close()


def test_cleaning_spares_what_a_cursor_needs(
    make_server: Callable[..., LakebedServer], table: str
) -> None:
    server = make_server(env={"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}).start()
    lake, http = server.lake(), server.http()
    changed_table(lake, http, table)
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "c", "version": 2})
    clean = {"keep_age_ms": 0, "keep_versions": 1}
    http.ok("POST", f"/v1/table/{table}/gc", clean)
    assert [version["version"] for version in versions(http, table)] == [2, 5]
    rows = feed(lake, table, cursor="c")
    assert said(rows) == [("update", 0, ["name"]), ("delete", 3, None), ("insert", 9, None)]
    gone = http.post(f"/v1/table/{table}/changes", {"from": 1})
    assert gone.headers["x-lakebed-error-kind"] == "not_found"
    assert "version 1 was cleaned" in gone.json()["error"]
    http.ok("POST", f"/v1/table/{table}/cursors/advance", {"name": "c", "version": 5})
    server.kill()  # and with it the lease of the feed that was planned
    server.start()
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/gc", clean)
    assert [version["version"] for version in versions(http, table)] == [5]
    lake.close()


def test_the_command_line(
    server: LakebedServer, lake: Lake, http: Http, table: str, tmp_path: Path
) -> None:
    changed_table(lake, http, table)
    cli = Cli(server, tmp_path)
    assert cli.ok("cursor", "create", table, "c", "--version", "1") == (
        f"cursor c of {table} is at version 1\n"
    )
    done = cli.run("changes", table, "--cursor", "c", "--advance", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == (
        f"changes of {table} behind version 1 up to 5\ncursor c is at version 5\n"
    )
    assert cli.json("cursor", "list", table)["cursors"][0]["version"] == 5
    assert "c       5" in cli.ok("cursor", "list", table)
    csv = cli.ok("changes", table, "--from", "1", "--format", "csv").splitlines()
    assert csv[0].startswith("_change,_rowid,_commit_version,_commit_time,_changed_columns,")
    assert sum(",name,false," in line for line in csv) == 1
    lake.write(table, numbered(1, start=70, age=pa.array([7], pa.int32())))
    assert cli.ok("cursor", "advance", table, "c", "--version", "6", "--expected", "5")
    assert "not at 5" in cli.fails(
        1, "cursor", "advance", table, "c", "--version", "6", "--expected", "5"
    )
    assert "insert" in cli.ok("changes", table, "--from", "5", "--kinds", "insert,delete")
    assert cli.ok("cursor", "delete", table, "c") == f"cursor c of {table} is deleted\n"
    assert "does not exist" in cli.fails(1, "changes", table, "--cursor", "c")
    cli.fails(2, "changes", table)
    cli.fails(2, "changes", table, "--from", "1", "--cursor", "c")
    cli.fails(2, "changes", table, "--from", "12:30")


def test_readers_and_writers_at_once(
    lake: Lake, http: Http, server: LakebedServer, table: str
) -> None:
    """Writers of every kind, and two readers of one cursor: together they see every change once."""
    lake.create(table, numbered(50, age=pa.array([0] * 50, pa.int32())))
    http.ok("POST", f"/v1/table/{table}/cursors/create", {"name": "c", "version": 0})
    ended = threading.Event()
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def appends() -> None:
        own = server.lake()
        for n in range(15):
            ages = pa.array([n] * 4, pa.int32())
            own.write(table, numbered(4, start=1_000 + 4 * n, age=ages))
        own.close()

    def upserts() -> None:
        own = server.lake()
        for n in range(15):
            some = {"id": pa.array([n, 500 + n], pa.int64()), "age": pa.array([n, n], pa.int32())}
            own.upsert(table, pa.table(some), ["id"])
        own.close()

    def changes() -> None:
        own = server.http()
        for n in range(8):
            update(own, table, "name", f"'pass {n}'", f"id % 10 = {n}")
            delete(own, table, f"id = {20 + n}")
            own.ok("POST", f"/v1/table/{table}/compact", {})

    copy: dict[int, dict[str, Any]] = {}
    taking = threading.Lock()
    steps: list[tuple[int, int]] = []

    def reads() -> None:
        own, mine = server.lake(), server.http()
        while True:
            last = ended.is_set()
            rows, answer = http_feed(mine, table, {"cursor": "c"})
            start, end = (
                int(answer.headers[f"x-lakebed-{name}-version"]) for name in ("from", "to")
            )
            with taking:
                step = {"name": "c", "version": end, "expected": start}
                moved = mine.post(f"/v1/table/{table}/cursors/advance", step)
                if moved.status == 200 and end > start:
                    steps.append((start, end))
                    apply(copy, rows)
                elif moved.status != 200:
                    assert moved.headers["x-lakebed-error-kind"] == "conflict", moved.text
            if last and moved.status == 200:
                own.close()
                return

    readers = [run(reads), run(reads)]
    writers = [run(appends), run(upserts), run(changes)]
    for thread in writers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()
    assert not failures, failures
    assert [start for start, _ in steps[1:]] == [end for _, end in steps[:-1]], "no gap, no overlap"
    assert copy == model_of(lake.read(table))


def test_the_page_runs(make_server: Callable[..., LakebedServer], tmp_path: Path) -> None:
    server = make_server().start()
    (tmp_path / "people.csv").write_text("name,age\nAda,36\nGrace,85\nLinus,\n")
    found = commands(PAGE)
    assert len(found) >= 9
    for line, printed in found:
        got = run_command(Cli(server, tmp_path), tmp_path, shlex.split(line))
        assert without_columns(got) == without_columns(printed), line


def without_columns(text: str) -> str:
    """Text without times, and without the widths of columns that times make."""
    return re.sub(" +", " ", AT.sub("AT", without_times(text)))


# ---- against a model --------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value that is the same as itself, which NaN is not."""
    return repr(value)


def model_of(rows: pa.Table) -> dict[int, dict[str, Any]]:
    """Rows by their id."""
    found = {row["id"]: {n: plain(v) for n, v in row.items()} for row in rows.to_pylist()}
    assert len(found) == rows.num_rows
    return found


def apply(copy: dict[int, dict[str, Any]], rows: pa.Table) -> None:
    """Applies a feed to rows by their id, and checks what it says of each."""
    for row in rows.to_pylist():
        kind, changed = row["_change"], row["_changed_columns"]
        values = {name: plain(value) for name, value in row.items() if name not in OWN}
        key = row["id"]
        if kind == "insert":
            assert key not in copy, row
            copy[key] = values
        elif kind == "delete":
            # A column that came later is null there.
            was = copy.pop(key)
            assert {name: values[name] for name in was if name in values} == {
                name: value for name, value in was.items() if name in values
            }
        else:
            was = copy[key]
            differs = [name for name in values if was.get(name, "None") != values[name]]
            assert sorted(changed) == sorted(differs), row
            copy[key] = values


@pytest.mark.parametrize("seed", range(4))
def test_any_history_against_a_model(
    lake: Lake, http: Http, table: str, seed: int, soak: bool
) -> None:
    """The feed between any two versions, applied to the older one, gives the newer one."""
    any_history(lake, http, table, random.Random(seed), soak)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_of_few_stamps_against_a_model(
    make_server: Callable[..., LakebedServer], table: str, seed: int, soak: bool
) -> None:
    """The same where stamps have room for a run or three, so that most are put up."""
    limit = {"LAKEBED_LIMITS_STAMPS_BYTES_MAX": str(42 * (seed % 2))}
    server = make_server(env=limit).start()
    lake = server.lake()
    any_history(lake, server.http(), table, random.Random(seed), soak)
    assert "lakebed.stamps_put_up_to" in lance.dataset(server.table_path(table)).config()
    lake.close()


def any_history(lake: Lake, http: Http, table: str, chance: random.Random, soak: bool) -> None:
    """Makes a history by chance and compares feeds of it with a model."""
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("n", pa.int32()),
            ("f", pa.float64()),
            ("text", pa.string()),
            ("tags", pa.list_(pa.string())),
            ("place", pa.struct([("x", pa.int32()), ("y", pa.string())])),
        ]
    )
    floats = [0.0, -0.0, 1.5, float("nan"), float("inf"), None]

    def row(key: int) -> dict[str, Any]:
        return {
            "id": key,
            "n": chance.choice([None, 1, 2, 3]),
            "f": chance.choice(floats),
            "text": chance.choice([None, "", "a", "ä" * 50]),
            "tags": chance.choice([None, [], ["a"], ["a", None]]),
            "place": chance.choice([None, {"x": 1, "y": None}, {"x": None, "y": "b"}]),
        }

    def rows_of(keys: list[int], columns: list[str] | None = None) -> pa.Table:
        made = pa.Table.from_pylist([row(key) for key in keys], schema=schema)
        return made.select(columns) if columns else made

    next_key = 30
    lake.create(table, rows_of(list(range(next_key))))
    base = f"/v1/table/{table}"
    for _ in range(60 if soak else 18):
        latest = versions(http, table)[-1]["version"]
        known = lake.read(table, columns=["id"])["id"].to_pylist()
        some = chance.sample(known, min(len(known), chance.randrange(1, 8))) if known else []
        match chance.randrange(9):
            case 0:
                fresh = list(range(next_key, next_key + chance.randrange(1, 20)))
                next_key += len(fresh)
                lake.write(table, rows_of(fresh))
            case 1:
                fresh = [next_key, next_key + 1]
                next_key += 2
                lake.upsert(table, rows_of(some + fresh), ["id"])
            case 2 if some:
                columns = chance.sample(["n", "f", "text", "tags", "place"], 2)
                lake.upsert(table, rows_of(some, ["id", *columns]), ["id"])
            case 3:
                value = chance.choice(["n + 1", "NULL", "2"])
                update(http, table, "n", value, f"id % {chance.randrange(2, 5)} = 0")
            case 4 if some:
                delete(http, table, f"id IN ({', '.join(map(str, some))})")
            case 5 if some:
                delete(http, table, f"id = {some[0]}")
                lake.write(table, rows_of([some[0]]))
            case 6:
                http.ok("POST", f"{base}/compact", {})
            case 7 if latest > 2 and chance.random() < 0.5:
                http.ok("POST", f"{base}/restore", {"version": chance.randrange(1, latest)})
            case 8 if chance.random() < 0.3:
                lake.write(table, rows_of(list(range(20))), "overwrite")
                next_key = max(next_key, 20)
            case _:
                update(http, table, "text", "'t' || CAST(id AS string)", "f > 1")
    latest = versions(http, table)[-1]["version"]
    models = {v: model_of(lake.read(table, version=v)) for v in range(1, latest + 1)}
    models[0] = {}
    pairs = [(begin, end) for end in range(1, latest + 1) for begin in range(end + 1)]
    for begin, end in chance.sample(pairs, min(len(pairs), 400 if soak else 60)):
        copy = {key: dict(values) for key, values in models[begin].items()}
        apply(copy, feed(lake, table, since=begin, to=end))
        assert copy == models[end], f"from {begin} to {end}"


def test_sql_reads_both_versions_of_its_plan(
    lake: Lake, http: Http, server: LakebedServer, table: str
) -> None:
    changed_table(lake, http, table)
    with_sql = Sql(server)
    joined = with_sql.rows(
        f"SELECT c.id, c.name AS now, t.name AS was FROM changes('{table}', 1) AS c "
        f"JOIN {table} VERSION AS OF 1 AS t ON c.id = t.id WHERE c._change = 'update' ORDER BY 1"
    )
    assert joined == [
        {"id": 0, "now": "new", "was": "name 0"},
        {"id": 1, "now": "name 1", "was": "name 1"},
    ]
    names = with_sql.rows(
        f"SELECT id FROM changes('{table}', 1) WHERE array_has(_changed_columns, 'name')"
    )
    assert names == [{"id": 0}]
    assert with_sql.value(f"SELECT count(*) FROM changes('{table}', 0)") == 5
    with with_sql.refuses("INVALID_ARGUMENT", "changes", "takes a table"):
        with_sql.query(f"SELECT * FROM changes('{table}')")
    with with_sql.refuses("NOT_FOUND", "version 99"):
        with_sql.query(f"SELECT * FROM changes('{table}', 99)")
    with with_sql.refuses("INVALID_ARGUMENT", "newer"):
        with_sql.query(f"SELECT * FROM changes('{table}', 4, 2)")
