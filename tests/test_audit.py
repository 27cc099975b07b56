"""The audit log: one line for each change, with who asked, for what, and how it ended."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support.data import numbered
from support.raw_flight import CANCEL, RawCall, write_messages
from support.server import LakebedServer
from support.waiting import wait_until

Line = dict[str, Any]


def audit(server: LakebedServer) -> list[Line]:
    """The lines that are in the lake, in their order."""
    return [
        json.loads(line)
        for path in sorted((Path(server.data) / "_lakebed/audit").rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def after_the_end(server: LakebedServer) -> list[Line]:
    """The lines after a graceful end, which writes them out."""
    assert server.terminate() == 0
    return audit(server)


def only(lines: list[Line], **fields: Any) -> Line:
    """The one line with these values."""
    found = [line for line in lines if all(line.get(k) == v for k, v in fields.items())]
    assert len(found) == 1, f"{len(found)} lines with {fields} in {lines}"
    return found[0]


def test_every_kind_of_change_has_one_line(own_server: LakebedServer) -> None:
    lake, http = own_server.lake(), own_server.http()
    began = dt.datetime.now(dt.UTC)
    receipts = {
        "create": lake.create("ns$t", numbered(10)),
        "append": lake.write("ns$t", numbered(5, start=10)),
        "upsert": lake.upsert("ns$t", numbered(2, start=14), ["id"]),
        "overwrite": lake.write("ns$t", numbered(8), "overwrite"),
    }
    url = "/v1/table/ns$t"
    http.ok("POST", f"{url}/delete", {"predicate": "id < 3"})
    http.ok("POST", f"{url}/restore", {"version": 2})
    http.ok("POST", f"{url}/tags/create", {"tag": "gold", "version": 1})
    http.ok("POST", f"{url}/tags/update", {"tag": "gold", "version": 2})
    http.ok("POST", f"{url}/tags/delete", {"tag": "gold"})
    upload = http.ok("POST", "/v1/uploads").json()["id"]
    http.ok("PUT", f"/v1/uploads/{upload}?offset=0", b"12345")
    claim = {"size": 5, "sha256": hashlib.sha256(b"12345").hexdigest()}
    http.ok("POST", f"/v1/uploads/{upload}/complete", claim)
    other = http.ok("POST", "/v1/uploads").json()["id"]
    http.ok("DELETE", f"/v1/uploads/{other}")
    made = http.ok("POST", "/v1/keys", {"name": "x", "role": "read"}).json()
    http.ok("DELETE", f"/v1/keys/{made['id']}")
    http.ok("POST", f"{url}/rename", {"new_table_name": "u"})
    http.ok("POST", "/v1/table/ns$u/drop")
    # Reads leave none.
    lake.create("read", numbered(1))
    lake.read("read")
    http.ok("GET", "/v1/keys")
    lines = after_the_end(own_server)
    table = "default/ns$t"
    for verb, receipt in receipts.items():
        line = only(lines, verb=verb, table=table)
        assert line["version"] == receipt["version"]
        assert line["rows"] == receipt["rows"]
        assert line["bytes"] == receipt["bytes"]
    assert only(lines, verb="delete", table=table)["rows"] == 3
    assert only(lines, verb="delete", table=table)["version"] == 5
    assert only(lines, verb="restore", table=table)["version"] == 6
    for verb in ("create_tag", "update_tag", "delete_tag"):
        assert only(lines, verb=verb, table=table)["subject"] == "gold"
    done = only(lines, verb="complete_upload")
    assert (done["subject"], done["bytes"]) == (upload, 5)
    assert only(lines, verb="abort_upload")["subject"] == other
    assert only(lines, verb="rename", table=table)["subject"] == "default/ns$u"
    only(lines, verb="drop", table="default/ns$u")
    assert only(lines, verb="create_key")["subject"] == made["id"]
    assert only(lines, verb="revoke_key")["subject"] == made["id"]
    assert len([line for line in lines if line.get("table") == "default/read"]) == 1
    times = [dt.datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert began - dt.timedelta(seconds=1) <= times[0]
    assert times[-1] <= dt.datetime.now(dt.UTC)
    assert {line["outcome"] for line in lines} == {"ok"}
    assert {line["key_id"] for line in lines} == {"admin"}
    assert len({line["request_id"] for line in lines}) == len(lines)
    assert made["key"] not in json.dumps(lines)


def test_a_refused_change_has_its_line_too(own_server: LakebedServer) -> None:
    """With the kind of the refusal, and no version, because nothing was written."""
    lake, http = own_server.lake(), own_server.http()
    lake.create("t", numbered(1))
    refusals = []
    with lake.refuses("invalid_argument"):
        lake.write("t", pa.table({"id": ["x"]}))
    refusals.append(("append", "invalid_argument", lake.received["x-request-id"]))
    with lake.refuses("already_exists"):
        lake.create("t", numbered(1))
    refusals.append(("create", "already_exists", lake.received["x-request-id"]))
    with lake.refuses("invalid_argument"):
        lake.upsert("t", pa.table({"id": [1, 1], "name": ["a", "b"]}), ["id"])
    refusals.append(("upsert", "invalid_argument", lake.received["x-request-id"]))
    for verb, kind, path, body in (
        ("drop", "not_found", "/v1/table/t/drop", None),
        ("delete", "invalid_argument", "/v1/table/t/delete", {"predicate": "id <"}),
        ("restore", "not_found", "/v1/table/t/restore", {"version": 9}),
        ("create_tag", "not_found", "/v1/table/t/tags/create", {"tag": "x", "version": 9}),
    ):
        answer = http.post(path.replace("/t/", "/nope/") if verb == "drop" else path, body)
        assert answer.status >= 400
        refusals.append((verb, kind, answer.headers["x-request-id"]))
    lines = after_the_end(own_server)
    assert len(lines) == 1 + len(refusals), lines
    for verb, kind, request_id in refusals:
        line = only(lines, request_id=request_id)
        assert (line["verb"], line["outcome"]) == (verb, kind), line
        assert "rows" not in line or not line["rows"]
        assert verb == "create_tag" or "version" not in line


def test_a_write_that_broke_off_has_its_line(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(1))
    call = RawCall(own_server.flight_address, own_server.admin_key)
    call.send(write_messages("t", numbered(3)))
    call.reset(CANCEL)
    call.ping()
    call.close()
    wait_until(lambda: any(line["verb"] == "append" for line in audit(own_server)), "the line")
    assert only(audit(own_server), verb="append")["outcome"] == "cancelled"


def test_the_same_write_again_is_told_apart(own_server: LakebedServer) -> None:
    """Two requests are two lines, of one version."""
    lake = own_server.lake()
    lake.create("t", numbered(1))
    for _ in range(2):
        lake.write("t", numbered(1, start=1), write_id="w")
    lines = [line for line in after_the_end(own_server) if line["verb"] == "append"]
    assert [line["version"] for line in lines] == [2, 2]
    assert len({line["request_id"] for line in lines}) == 2


def test_lines_name_the_key_that_asked(own_server: LakebedServer) -> None:
    http = own_server.http()
    made = http.ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()
    own_server.lake(made["key"], database="team/a").create("t", numbered(1))
    line = only(after_the_end(own_server), verb="create")
    assert line["key_id"] == made["id"]
    assert line["table"] == "team/a/t"


@pytest.mark.parametrize("kills", [3])
def test_a_killed_server_keeps_what_was_written_out(
    make_server: Callable[..., LakebedServer], kills: int
) -> None:
    """Within seconds a line is in the lake, and no start or kill takes it away."""
    server = make_server().start()
    for i in range(kills):
        lake = server.lake()
        lake.create(f"t{i}", numbered(1))
        wait_until(
            lambda: any(line.get("table") == f"default/t{i}" for line in audit(server)),  # noqa: B023
            "the line in the lake",
        )
        server.kill()
        server.start()
    assert [line["table"] for line in audit(server)] == [f"default/t{i}" for i in range(kills)]


def test_what_a_role_may_not_do_has_its_line(own_server: LakebedServer) -> None:
    """Who tries doors that are shut to him is what such a log is read for."""
    http = own_server.http()
    own_server.lake().create("t", numbered(1))
    made = http.ok("POST", "/v1/keys", {"name": "r", "role": "read"}).json()
    reader, reader_http = own_server.lake(made["key"]), own_server.http(made["key"])
    with reader.refuses("denied"):
        reader.write("t", numbered(1))
    assert reader_http.post("/v1/table/t/drop").status == 403
    lines = after_the_end(own_server)
    for verb in ("append", "drop"):
        line = only(lines, verb=verb, table="default/t")
        assert (line["outcome"], line["key_id"]) == ("denied", made["id"])
