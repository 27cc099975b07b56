"""Being a good server: doors that tell, keys and roles, start and stop, refusals to start."""

import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support.data import blobs, bulk, numbered
from support.flight import Failure, write_command
from support.http import Http
from support.server import LakebedServer, ServerFailed, built_binary
from support.waiting import wait_until

Make = Callable[..., LakebedServer]


def run_binary(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the binary to its end."""
    return subprocess.run(
        [str(built_binary()), *args],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fails_to_start(server: LakebedServer, *words: str) -> ServerFailed:
    """The server must end with an error that has all words; a refusal is no panic."""
    with pytest.raises(ServerFailed) as caught:
        server.start()
    failure = caught.value
    assert failure.exit_code in {1, 2}, failure
    missing = [word for word in words if word.lower() not in failure.log.lower()]
    assert not missing, f"{missing} not said in: {failure.log}"
    assert "panicked" not in failure.log
    server.expect_log("")
    return failure


# ---- doors that tell ------------------------------------------------------------------------


def test_health_needs_no_key(server: LakebedServer) -> None:
    http = server.http(None)
    for path in ("/livez", "/readyz", "/health"):
        assert http.get(path).status == 200, path
    about = http.get("/version").json()
    assert about["flight"] == server.flight_address
    assert about["version"] == server.ready["version"]
    assert about["lake_id"]
    assert set(server.ready) == {"http", "flight", "pid", "version"}


def test_the_flight_port_follows_the_http_port(server: LakebedServer) -> None:
    port = int(server.http_address.rsplit(":", 1)[1])
    assert int(server.flight_address.rsplit(":", 1)[1]) == port + 1


def test_the_lake_keeps_its_id(own_server: LakebedServer) -> None:
    before = own_server.http().get("/version").json()["lake_id"]
    own_server.restart()
    assert own_server.http().get("/version").json()["lake_id"] == before


def test_metrics(server: LakebedServer, table: str) -> None:
    server.lake().create(table, numbered(10))
    server.http().ok("POST", f"/v1/table/{table}/tags/list/")
    server.http().get("/v1/uploads/x")
    text = server.http().ok("GET", "/metrics").text
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = {line.split("{")[0].split()[0] for line in samples}
    ours = {name for name in names if name.startswith("lakebed_")}
    counted = {
        tuple(re.findall(r'(?:door|route|method|status)="([^"]*)"', line))
        for line in samples
        if line.startswith("lakebed_requests_total{")
    }
    assert ("flight", "DoPut", "POST", "ok") in counted, counted
    assert ("http", "/v1/table/{id}/tags/list/", "POST", "200") in counted, counted
    assert ("http", "/v1/uploads/{id}", "GET", "404") in counted, counted
    assert {"lakebed_requests_running", "lakebed_request_seconds_bucket"} <= ours, sorted(ours)
    assert {"lakebed_written_rows_total", "lakebed_written_bytes_total"} <= ours, sorted(ours)
    assert server.http(None).get("/metrics").status == 401
    assert table not in text, "no table names as labels"


def test_errors_carry_a_request_id(server: LakebedServer) -> None:
    lake = server.lake()
    with lake.refuses("not_found"):
        lake.read("nope")
    flight_id = lake.received["x-request-id"]
    answer = server.http().post("/v1/table/nope/tags/list")
    assert answer.headers["x-request-id"] not in {"", flight_id}
    given = server.http().request("GET", "/v1/uploads/x", headers={"x-request-id": "abc-123"})
    assert given.headers["x-request-id"] == "abc-123"


def test_a_write_leaves_an_audit_line(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(3), write_id="audited")
    assert own_server.terminate() == 0
    folder = Path(own_server.data) / "_lakebed/audit"
    lines = [
        json.loads(line)
        for path in sorted(folder.rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    found = [line for line in lines if line.get("table") == "default/t"]
    assert len(found) == 1, lines
    assert found[0]["outcome"] == "ok"
    assert (found[0]["version"], found[0]["rows"]) == (1, 3)
    assert found[0]["key_id"]
    assert own_server.admin_key not in str(lines)


# ---- keys and roles -------------------------------------------------------------------------


def make_key(http: Http, role: str, **fields: Any) -> dict[str, Any]:
    return http.ok("POST", "/v1/keys", {"name": f"a {role}", "role": role, **fields}).json()


def test_roles(server: LakebedServer, table: str) -> None:
    admin = server.http()
    keys = {role: make_key(admin, role)["key"] for role in ("admin", "write", "read")}
    server.lake(keys["write"]).create(table, numbered(3))
    reader = server.lake(keys["read"])
    assert reader.read(table).equals(numbered(3))
    with reader.refuses("denied", "read", "write"):
        reader.write(table, numbered(1))
    for role in ("read", "write"):
        http = server.http(keys[role])
        assert http.post("/v1/keys", {"name": "x", "role": "read"}).status == 403
        assert http.get("/v1/keys").status == 403
    tag = {"tag": "x", "version": 1}
    assert server.http(keys["read"]).post(f"/v1/table/{table}/tags/create", tag).status == 403
    assert server.http(keys["write"]).post(f"/v1/table/{table}/tags/create", tag).status == 200
    assert server.http(keys["read"]).post("/v1/uploads").status == 403
    assert server.http(keys["admin"]).get("/v1/keys").status == 200
    assert reader.read(table).equals(numbered(3))


def test_keys_are_listed_without_their_text(server: LakebedServer) -> None:
    made = make_key(server.http(), "read")
    text = server.http().get("/v1/keys").text
    listed = {key["id"]: key for key in json.loads(text)["keys"]}
    assert listed[made["id"]]["role"] == "read"
    assert listed[made["id"]]["name"] == "a read"
    assert made["key"] not in text
    for path, size in server.files("_lakebed").items():
        assert size < 1 << 20
        stored = (Path(server.data) / path).read_bytes()
        assert made["key"].encode() not in stored, path
        assert server.admin_key.encode() not in stored, path
    assert made["key"] not in server.log()
    assert server.admin_key not in server.log()


def test_a_revoked_key_is_refused_at_once(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(1))
    made = make_key(own_server.http(), "read")
    reader = own_server.lake(made["key"])
    assert reader.read("t").num_rows == 1
    own_server.http().ok("DELETE", f"/v1/keys/{made['id']}")
    with reader.refuses("unauthenticated", "revoked"):
        reader.read("t")
    own_server.restart()
    again = own_server.lake(made["key"])
    with again.refuses("unauthenticated", "revoked"):
        again.read("t")
    assert own_server.http().request("DELETE", "/v1/keys/nope").status == 404


def test_a_key_that_expires(server: LakebedServer, table: str) -> None:
    server.lake().create(table, numbered(1))
    # Kept in milliseconds.
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)).replace(microsecond=0)
    made = make_key(server.http(), "read", expires_at=soon.isoformat())
    reader = server.lake(made["key"])
    assert reader.read(table).num_rows == 1

    def refused() -> bool:
        try:
            reader.read(table)
        except Failure as error:
            return "expired" in str(error)
        return False

    wait_until(refused, "the expiry", timeout_s=15)
    assert dt.datetime.now(dt.UTC) >= soon


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_in_either_header(server: LakebedServer, table: str, header: str) -> None:
    value = server.admin_key if header == "x-api-key" else f"Bearer {server.admin_key}"
    answer = server.http(None).request("GET", "/v1/keys", headers={header: value})
    assert answer.status == 200
    lake = server.lake(None)
    lake.headers.append((header.encode(), value.encode()))
    lake.create(table, numbered(1))


def test_a_basic_handshake_returns_a_bearer_token(server: LakebedServer, table: str) -> None:
    lake = server.lake(None)
    token = lake.client.authenticate_basic_token("anyone", server.admin_key)
    assert token[0] == b"authorization"
    lake.headers.append(token)
    lake.create(table, numbered(1))
    with lake.refuses("unauthenticated"):
        lake.client.authenticate_basic_token("anyone", "wrong")


def test_the_first_start_writes_the_admin_key(make_server: Make) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""}).start()
    lake_id = server.http(None).get("/version").json()["lake_id"]
    path = server.work / f"home/.config/lakebed/{lake_id}.key"
    key = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    server.lake(key).create("t", numbered(1))
    server.restart()
    assert path.read_text().strip() == key
    assert server.lake(key).read("t").num_rows == 1
    server.terminate()
    path.unlink()
    server.start()
    assert server.lake(key).read("t").num_rows == 1
    assert "reset" in server.log(), "says how to get a new key"
    server.expect_log("reset")


def test_the_key_file_goes_where_it_was_told(make_server: Make, tmp_path: Path) -> None:
    path = tmp_path / "secrets/key"
    server = make_server(args=["--api-key-file", str(path)], env={"LAKEBED_ADMIN_KEY": ""}).start()
    server.lake(path.read_text().strip()).create("t", numbered(1))


# ---- addresses, anonymity, configuration ----------------------------------------------------


def test_anonymous_on_loopback(make_server: Make) -> None:
    server = make_server(args=["--allow-anonymous"]).start()
    server.lake(None).create("t", numbered(1))
    assert server.http(None).get("/v1/keys").status == 200
    headers = {"host": "evil.example"}
    answer = server.http(None).request("GET", "/v1/keys", headers=headers)
    assert answer.status == 403
    assert "Host" in answer.text


def test_anonymous_beyond_loopback_is_refused(make_server: Make) -> None:
    server = make_server(args=["--allow-anonymous", "--http-addr", "0.0.0.0:0", "--insecure"])
    fails_to_start(server, "allow-anonymous", "loopback")


def test_listening_beyond_loopback_needs_insecure(make_server: Make) -> None:
    fails_to_start(make_server("a", args=["--http-addr", "0.0.0.0:0"]), "insecure")
    fails_to_start(make_server("b", args=["--flight-addr", "0.0.0.0:0"]), "insecure")


def test_a_start_that_is_refused_makes_no_lake(make_server: Make) -> None:
    for name, options, says in (
        ("a", {"args": ["--http-addr", "0.0.0.0:0"]}, "insecure"),
        ("b", {"env": {"LAKEBED_ADMIN_KEY": "abc"}}, "admin key"),
    ):
        server = make_server(name, **options)
        fails_to_start(server, says)
        assert not Path(server.data).exists()


def test_a_config_file(make_server: Make, tmp_path: Path) -> None:
    config = tmp_path / "lakebed.toml"
    lake = tmp_path / "from the file"
    config.write_text(f'data = "{tmp_path / "never"}"\nlog_format = "text"\n')
    server = make_server(data=lake, args=["--config", str(config)]).start()
    server.lake().create("t", numbered(1))
    assert lake.is_dir(), "flags win over the file"
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = 1\n", "colour"),
        ("log_format = 7\n", "log_format"),
        ("log_format = 'xml'\n", "xml"),
        ("= broken", "line 1"),
        ("[limits]\nmessage_bytes_mx = 1\n", "message_bytes_mx"),
    ],
)
def test_a_bad_config_file(make_server: Make, tmp_path: Path, text: str, word: str) -> None:
    config = tmp_path / "lakebed.toml"
    config.write_text(text)
    fails_to_start(make_server(args=["--config", str(config)]), word)


def test_unknown_variables_and_flags_are_refused(make_server: Make) -> None:
    fails_to_start(make_server("a", env={"LAKEBED_DTAA": "x"}), "LAKEBED_DTAA")
    failure = fails_to_start(make_server("b", args=["--dtaa", "x"]), "--dtaa")
    assert failure.exit_code == 2


def test_a_limit_from_the_configuration_is_named_when_hit(
    make_server: Make, tmp_path: Path
) -> None:
    config = tmp_path / "lakebed.toml"
    config.write_text("[limits]\ncolumns_max = 3\n")
    lake = make_server(args=["--config", str(config)]).start().lake()
    lake.create("three", pa.table({"a": [1], "b": [1], "c": [1]}))
    with lake.refuses("invalid_argument", "columns_max", "3"):
        lake.create("four", pa.table({"a": [1], "b": [1], "c": [1], "d": [1]}))


def test_version_and_help() -> None:
    assert run_binary("version").stdout.strip()
    assert "serve" in run_binary("--help").stdout
    assert "--ready-file" in run_binary("serve", "--help").stdout
    assert run_binary("frobnicate").returncode == 2


# ---- one server per lake, and where a lake lies ---------------------------------------------


def test_a_second_server_on_the_lake_refuses(make_server: Make, own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(1))
    second = make_server("second", data=own_server.data, admin_key=own_server.admin_key)
    fails_to_start(second, str(own_server.data))
    assert own_server.lake().read("t").num_rows == 1
    own_server.terminate()
    second.start()
    assert second.lake().read("t").num_rows == 1


def test_a_killed_server_leaves_no_lock(own_server: LakebedServer) -> None:
    own_server.lake().create("t", numbered(1))
    own_server.kill()
    own_server.start()
    assert own_server.lake().read("t").num_rows == 1


def test_a_newer_lake_format_is_refused_untouched(make_server: Make) -> None:
    server = make_server().start()
    server.terminate()
    path = next(
        path for path in Path(server.data).glob("_lakebed/*.json") if '"format' in path.read_text()
    )
    record = json.loads(path.read_text())
    name = next(name for name in record if name.startswith("format"))
    record[name] = 999
    path.write_text(json.dumps(record))
    before = server.files()
    fails_to_start(server, "999", "1")
    assert server.files() == before


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_lake_elsewhere_refuses_until_relocate(
    make_server: Make, tmp_path: Path, how: str
) -> None:
    first = make_server("first", data=tmp_path / "here").start()
    lake = first.lake()
    cells = [b"small", os.urandom(17 << 20)]
    lake.create("ns$t", blobs(cells))
    lake.write("ns$t", blobs([b"more"], start=2), write_id="w")
    first.http().ok("POST", "/v1/table/ns$t/tags/create", {"tag": "gold", "version": 1})
    first.terminate()
    there = tmp_path / "there"
    if how == "moved":
        shutil.move(first.data, there)
    else:
        shutil.copytree(first.data, there)
    second = make_server("second", data=there, admin_key=first.admin_key)
    fails_to_start(second, "relocate", str(tmp_path / "here"))
    done = run_binary("relocate", "--data", str(there), "--dry-run")
    assert done.returncode == 0, done.stderr
    fails_to_start(second, "relocate")
    done = run_binary("relocate", "--data", str(there), "--yes")
    assert done.returncode == 0, done.stderr
    if how == "copied":
        shutil.rmtree(first.data)
    lake = second.start().lake()
    assert lake.read("ns$t", blobs="bytes")["data"].to_pylist() == [*cells, b"more"]
    assert lake.read("ns$t", tag="gold", blobs="bytes")["data"].to_pylist() == cells
    assert lake.write("ns$t", blobs([b"more"], start=2), write_id="w")["version"] == 2


def test_relocate_of_no_lake_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for folder in (tmp_path, tmp_path / "missing"):
        for flag in ("--dry-run", "--yes"):
            done = run_binary("relocate", "--data", str(folder), flag)
            assert done.returncode == 1
            assert "no lake" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["photos"]


# ---- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(own_server: LakebedServer, signal_number: int) -> None:
    own_server.lake().create("t", numbered(1))
    os.kill(own_server.pid, signal_number)
    assert own_server.process.wait(30) == 0


def test_sigterm_lets_a_running_write_finish_or_refuses_it(own_server: LakebedServer) -> None:
    """Writers run while the server stops: each gets a receipt or an error, and none is lost."""
    own_server.lake().create("t", numbered(0))
    acknowledged: list[int] = []
    started = threading.Event()

    def write(worker: int) -> None:
        lake = own_server.lake()
        for i in range(10_000):
            number = worker * 10_000 + i
            try:
                lake.write("t", numbered(1, start=number), write_id=f"w{number}")
            except Failure:
                return
            acknowledged.append(number)
            if len(acknowledged) > 30:
                started.set()

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    assert own_server.terminate() == 0
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    own_server.start()
    ids = own_server.lake().read("t")["id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)
    assert len(ids) <= len(acknowledged) + 4


def test_an_open_stream_does_not_hold_up_the_end(make_server: Make) -> None:
    """A client that neither sends nor ends its stream is cut off at the deadline."""
    server = make_server(args=["--shutdown-timeout", "1s"]).start()
    lake = server.lake()
    lake.create("t", numbered(1))
    writer, _ = lake.begin(write_command("t"), numbered(1).schema)
    writer.write_table(numbered(1, start=1))
    server.expect_log("connections were cut off at the deadline")
    server.expect_log("requests were still running at the shutdown deadline")
    assert server.terminate(30) == 0
    with pytest.raises(Failure):
        writer.close()
    server.start()
    assert server.lake().read("t").equals(numbered(1))


def test_a_second_signal_ends_it_at_once(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(1))
    writer, _ = lake.begin(write_command("t"), numbered(1).schema)
    writer.write_table(numbered(1, start=1))
    os.kill(own_server.pid, signal.SIGTERM)
    wait_until(
        lambda: "shut" in own_server.log().lower() or "stop" in own_server.log().lower(),
        "the beginning of the stop",
    )
    own_server.expect_log("a second signal")
    os.kill(own_server.pid, signal.SIGTERM)
    own_server.process.wait(5)
    with pytest.raises(Failure):
        writer.close()
    own_server.process = None
    own_server.start()
    assert own_server.lake().read("t").equals(numbered(1))


def test_a_dropped_reader_stops_the_work_behind_it(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    rows = bulk(40_000, 4_096)
    lake.create("t", rows.to_batches(max_chunksize=4_000), schema=rows.schema)
    files_before = own_server.open_files()
    for _ in range(20):
        reader = lake.stream(lake.info("t").endpoints[0].ticket)
        reader.read_chunk()
        reader.cancel()
    wait_until(
        lambda: own_server.open_files() <= files_before + 8, "the end of twenty dropped reads"
    )
