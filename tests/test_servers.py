"""Several servers on one bucket: any takes any request, one at a time commits to a table."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.data import numbered
from support.flight import Failure, commit_marker, finish, write_command
from support.lancedb import connect
from support.raw_flight import RawCall, write_messages
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, new_key
from support.sql import Sql
from support.tls import Authority
from support.waiting import wait_until

Make = Callable[..., LakebedServer]
TTL_S = 3.0
# What a client of the others may see of a server that is gone: nothing for longer than this.
FAILOVER_S = 5 * TTL_S


def start_three(store: S3Server, make_server: Make, table: str, **env: str) -> list[LakebedServer]:
    """Three servers on an empty prefix of the bucket, with one admin key and these settings."""
    limits = {"LAKEBED_LIMITS_SERVER_TTL_MS": str(int(TTL_S * 1_000))}
    shared: dict[str, Any] = {
        "data": f"s3://{BUCKET}/{table}",
        "env": {**store.environment(), **limits, **env},
        "admin_key": new_key(),
    }
    return [make_server(name, **shared).start() for name in ("a", "b", "c")]


@pytest.fixture
def three(store: S3Server, make_server: Make, table: str) -> Iterator[list[LakebedServer]]:
    servers = start_three(store, make_server, table)
    yield servers
    for server in servers:
        # Whoever was stopped must be able to end.
        if server.running:
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGCONT)


def opened(store: S3Server, server: LakebedServer, name: str = "t") -> lance.LanceDataset:
    """The table as pylance reads it from the bucket."""
    options = {
        f"aws_{key.removeprefix('AWS_').lower()}": value
        for key, value in store.environment().items()
        if key not in {"AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL"}
    }
    return lance.dataset(f"{server.data}/default/{name}.lance", storage_options=options)


def newest(server: LakebedServer) -> int:
    """The newest version, as a server answers that has just looked."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    headers = {"x-lancedb-min-timestamp": now}
    answer = server.http().ok("POST", "/v1/table/t/describe/", {}, headers=headers)
    return answer.json()["version"]


def test_any_takes_any_request(three: list[LakebedServer], store: S3Server) -> None:
    a, b, c = three
    lakes = [server.lake() for server in three]
    assert lakes[0].create("t", numbered(100))["version"] == 1
    assert lakes[0].write("t", numbered(10, start=100))["version"] == 2
    # From here on the first one leads, and the others send on what they get.
    assert lakes[1].write("t", numbered(10, start=110), write_id="w")["version"] == 3
    assert lakes[2].write("t", numbered(10, start=110), write_id="w")["version"] == 3
    receipt = lakes[2].upsert("t", pa.table({"id": [5, 500], "name": ["five", "new"]}), ["id"])
    version = receipt["version"]
    answer = b.http().ok(
        "POST", "/v1/table/t/update", {"updates": [["name", "'six'"]], "predicate": "id = 6"}
    )
    assert answer.json()["version"] == version + 1
    c.http().ok("POST", "/v1/table/t/delete", {"predicate": "id = 7"})
    assert Sql(b).change("update t set name = 'eight' where id = 8") == 1
    with Sql(c).connection.cursor() as cursor:
        cursor.execute("insert into t values ($1, $2)", (900, "nine"))
    b.http().ok("POST", "/v1/table/t/tags/create", {"tag": "gold", "version": 2})
    c.http().ok("POST", "/v1/table/t/create_index", {"column": "id", "index_type": "BTREE"})
    b.http().ok(
        "POST",
        "/v1/table/t/add_columns",
        {"new_columns": [{"name": "more", "expression": "id + 1"}]},
    )
    wait_until(
        lambda: c.http().ok("POST", "/v1/table/t/index/list/", {}).json()["indexes"], "the index"
    )
    last = newest(c)
    rows = lakes[1].read("t", version=last).sort_by("id").to_pylist()
    expected = {n: f"{numbered(1, start=n)['name'][0].as_py()}" for n in range(120) if n != 7}
    expected |= {5: "five", 6: "six", 8: "eight", 500: "new", 900: "nine"}
    assert {row["id"]: row["name"] for row in rows} == expected
    assert all(row["more"] == row["id"] + 1 for row in rows)
    assert [lake.read("t", tag="gold").num_rows for lake in lakes] == [110] * 3
    assert a.metric("lakebed_forwarded_requests_total") == 0
    assert b.metric("lakebed_forwarded_requests_total") >= 4
    assert c.metric("lakebed_forwarded_requests_total") >= 4
    dataset = opened(store, a)
    assert [version["version"] for version in dataset.versions()] == list(range(1, last + 1))
    dataset.validate()


def test_a_connection_carries_any_number_of_requests(three: list[LakebedServer]) -> None:
    """One after the other through another server than the one that leads: none is lost on the way.
    (A connection of HTTP/2 is closed after a hundred frames without a byte.)"""
    a, b, _ = three
    a.lake().create("t", numbered(1))
    a.lake().write("t", numbered(1, start=1))
    lake = b.lake()
    for number in range(2, 252):
        assert lake.write("t", numbered(1, start=number))["rows"] == 1
    assert lake.read("t", version=newest(b)).num_rows == 252


def test_tables_are_led_by_different_servers(
    store: S3Server, make_server: Make, table: str
) -> None:
    # Nothing by itself may take a lead, nor a moment without processor time lose one.
    quiet = {
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "3600000",
        "LAKEBED_LIMITS_SERVER_TTL_MS": "30000",
    }
    three = start_three(store, make_server, table, **quiet)
    for number, server in enumerate(three):
        lake = server.lake()
        lake.create(f"t{number}", numbered(1))
        lake.write(f"t{number}", numbered(1, start=1))
    for number in range(3):
        for other in three:
            other.lake().write(f"t{number}", numbered(1, start=2))
    # Each sent on what is about the tables of the two others.
    assert [server.metric("lakebed_forwarded_requests_total") for server in three] == [2, 2, 2]
    assert all(server.lake().count(f"t{n}") == 5 for server in three for n in range(3))


def test_errors_come_back_as_they_are(three: list[LakebedServer]) -> None:
    three[0].lake().create("t", numbered(3))
    three[0].lake().write("t", numbered(1, start=3))
    for server in three[1:]:
        lake = server.lake()
        with lake.refuses("already_exists"):
            lake.create("t", numbered(1))
        with lake.refuses("invalid_argument", "nope"):
            lake.write("t", pa.table({"nope": [1]}))
        with lake.refuses("invalid_argument"):
            lake.upsert("t", pa.table({"id": [1, 1], "name": ["a", "b"]}), ["id"])
        answer = server.http().post("/v1/table/t/delete", {"predicate": "no such"})
        assert (answer.status, answer.json()["code"]) == (400, 13)
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
        assert server.http(None).post("/v1/table/t/delete", {"predicate": "true"}).status == 401
        with pytest.raises(Exception, match="nope"):
            Sql(server).change("update t set nope = 1")
        assert server.http().request("POST", "/v1/peers/sql", {}).status in (400, 401)
    assert newest(three[1]) == 2


@pytest.mark.parametrize("ending", ["cancel", "no error", "closed", "half a message"])
def test_a_stream_that_breaks_commits_nothing(three: list[LakebedServer], ending: str) -> None:
    """Also where it only passes through."""
    three[0].lake().create("t", numbered(3))
    three[0].lake().write("t", numbered(1, start=3))
    passed_on = three[1].metric("lakebed_forwarded_requests_total")
    messages = write_messages("t", numbered(500, start=4), "append", write_id="w")
    call = RawCall(three[1].flight_address, three[1].admin_key).send(messages)
    wait_until(
        lambda: three[1].metric("lakebed_forwarded_requests_total") > passed_on, "the way there"
    )
    call.break_off(ending, messages[-1])
    call.close()
    time.sleep(0.5)
    assert newest(three[2]) == 2
    # The id of a write that never happened is free.
    assert three[2].lake().write("t", numbered(2, start=4), write_id="w")["version"] == 3
    rows = numbered(50_000, start=6)
    writer, reader = three[1].lake().begin(write_command("t", commit="explicit"), rows.schema)
    receipt = finish(writer, reader, rows.to_batches(max_chunksize=500), commit_marker(50_000))
    assert receipt["rows"] == 50_000
    assert three[2].lake().read("t", version=receipt["version"]).equals(numbered(50_006))


def write_when_possible(server: LakebedServer, start: int, write_id: str) -> float:
    """Sends a row until it is acknowledged; the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            server.lake().write("t", numbered(1, start=start), write_id=write_id, timeout_s=30)
            return time.monotonic() - began
        except Failure:
            assert time.monotonic() - began < 60, "no server takes the write"
            time.sleep(0.05)


@pytest.mark.parametrize("how", ["killed", "stopped", "ended"])
def test_the_others_go_on(three: list[LakebedServer], store: S3Server, how: str) -> None:
    a, b, c = three
    a.lake().create("t", numbered(1))
    a.lake().write("t", numbered(1, start=1))
    b.lake().write("t", numbered(1, start=2))
    if how == "killed":
        a.kill()
    elif how == "stopped":
        os.killpg(a.process.pid, signal.SIGSTOP)
    else:
        assert a.terminate() == 0
    for server in (b, c):
        server.expect_log("commit_unknown|call failed")
    took = write_when_possible(b, 3, "w3")
    assert took < (TTL_S if how == "ended" else FAILOVER_S), took
    assert write_when_possible(c, 4, "w4") < 2
    if how == "stopped":
        os.killpg(a.process.pid, signal.SIGCONT)
        # Whoever was away sends on what it gets, too.
        assert write_when_possible(a, 5, "w5") < FAILOVER_S
    else:
        if how == "killed":
            a.expect_log("")
        a.start()
        assert write_when_possible(a, 5, "w5") < FAILOVER_S
    ids = sorted(b.lake().read("t", version=newest(b))["id"].to_pylist())
    assert ids == [0, 1, 2, 3, 4, 5]
    opened(store, b).validate()


def test_with_tls(store: S3Server, make_server: Make, table: str, tmp_path: Path) -> None:
    """What one sends on to the other goes over TLS, too, and only to who has a certificate."""
    authority = Authority(tmp_path / "tls")
    pair, stranger = authority.pair(), Authority(tmp_path / "other", "another authority")
    shared: dict[str, Any] = {
        "data": f"s3://{BUCKET}/{table}",
        "admin_key": new_key(),
        "authority": authority,
        "args": pair.flags,
    }
    env = {**store.environment(), "LAKEBED_LIMITS_SERVER_TTL_MS": "5000"}
    trusting = {**env, "LAKEBED_PEER_CA_CERT": str(authority.own.cert)}
    a = make_server("a", env=trusting, **shared).start()
    b = make_server("b", env=trusting, **shared).start()
    c = make_server("c", env={**env, "LAKEBED_PEER_CA_CERT": str(stranger.own.cert)}, **shared)
    c.expect_log("")
    c.start()
    a.lake().create("t", numbered(3))
    a.lake().write("t", numbered(1, start=3))
    assert b.lake().write("t", numbered(1, start=4))["version"] == 3
    b.http().ok("POST", "/v1/table/t/delete", {"predicate": "id = 0"})
    with pytest.raises(Failure) as refused:
        c.lake().write("t", numbered(1, start=5), timeout_s=60)
    # Who has to mend it is told what.
    assert "cannot be reached" in str(refused.value)
    assert "UnknownIssuer" in str(refused.value)
    assert a.lake().count("t") == 4


def test_a_server_alone_starts_again_at_once(
    store: S3Server, make_server: Make, table: str
) -> None:
    """Its address tells that the one before is gone."""
    server = make_server("a", data=f"s3://{BUCKET}/{table}", env=store.environment()).start()
    server.lake().create("t", numbered(1))
    server.lake().write("t", numbered(1, start=1))
    server.args += ["--http-addr", server.http_address]
    server.kill()
    server.start()
    began = time.monotonic()
    server.lake().write("t", numbered(1, start=2))
    assert time.monotonic() - began < 2
    assert server.lake().count("t") == 3


class Clients:
    """Writers and readers that go to any server, and note what was acknowledged."""

    def __init__(self, servers: list[LakebedServer], seed: int) -> None:
        self.addresses = {server.flight_address: server for server in servers}
        self.servers = servers
        self.seed = seed
        self.acknowledged: Counter[int] = Counter()
        self.values: dict[int, set[str]] = {}
        self.failures: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.reads = 0
        self.last_done = time.monotonic()
        self.longest_gap_s = 0.0
        self.lock = threading.Lock()
        self.stop = threading.Event()

    def done(self) -> None:
        with self.lock:
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_done)
            self.last_done = now

    def attempt(self, server: LakebedServer, do: Callable[[Any], Any]) -> bool:
        """One try at one server."""
        try:
            lake = server.lake()
            try:
                do(lake)
            finally:
                lake.close()
        except (*Failure, OSError) as error:
            with self.lock:
                self.failures[type(error).__name__] += 1
            return False
        return True

    def append(self, number: int) -> None:
        """Rows under write ids, each sent until it is acknowledged, mostly to another server."""
        pick = random.Random(f"{self.seed}/append/{number}")
        row = 1_000_000 * (number + 1)
        while not self.stop.is_set():
            row += 1
            rows = numbered(1, start=row)
            sent = lambda lake, rows=rows, row=row: lake.write(  # noqa: E731
                "t", rows, write_id=f"w{row}", timeout_s=10
            )
            while not self.attempt(pick.choice(self.servers), sent):
                if self.stop.wait(0.05):
                    return
            with self.lock:
                self.acknowledged[row] += 1
            self.done()

    def upsert(self, number: int) -> None:
        """New values of the writer's own keys; what was not acknowledged may be there or not."""
        pick = random.Random(f"{self.seed}/upsert/{number}")
        keys = range(number * 10, number * 10 + 10)
        step = 0
        while not self.stop.is_set():
            step += 1
            key, value = pick.choice(keys), f"v{number}-{step}"
            rows = pa.table({"id": [key], "name": [value]})
            sent = lambda lake, rows=rows: lake.upsert("t", rows, ["id"], timeout_s=10)  # noqa: E731
            with self.lock:
                self.values.setdefault(key, set()).add(value)
            if self.attempt(pick.choice(self.servers), sent):
                with self.lock:
                    self.values[key] = {value}
                self.done()

    def read(self, number: int) -> None:
        """A version that was read once reads the same for ever, wherever."""
        pick = random.Random(f"{self.seed}/read/{number}")
        known: dict[int, tuple[int, int]] = {}

        def look(lake: Any, version: int) -> None:
            info = lake.info("t", version=version)
            rows = pa.concat_tables([lake.fetch(endpoint, 10) for endpoint in info.endpoints])
            ids = sorted(rows["id"].to_pylist())
            found = (len(ids), hash(tuple(ids)))
            if known.setdefault(version, found) != found:
                self.wrong.append(f"version {version}: {known[version]} and then {found}")
            if len(set(ids)) != len(ids):
                self.wrong.append(f"version {version} has a row twice")

        while not self.stop.wait(0.05):
            server = pick.choice(self.servers)
            version = pick.choice([*known, 0])
            with suppress(OSError, AssertionError):
                version = version or newest(server)
            if version and self.attempt(server, lambda lake, v=version: look(lake, v)):
                self.reads += 1


@pytest.mark.timeout(600)
def test_killed_and_stopped_at_random(three: list[LakebedServer], store: S3Server) -> None:
    """No acknowledged row is lost, none is there twice, and versions have no gaps."""
    is_long = bool(os.environ.get("LAKEBED_SOAK"))
    seed = int(os.environ.get("LAKEBED_SEED", "7"))
    duration_s, pick = (180.0, random.Random(seed)) if is_long else (25.0, random.Random(seed))
    print(f"seed {seed}")
    for server in three:
        server.expect_log(".")
    base = pa.table({"id": list(range(30)), "name": ["v"] * 30})
    three[0].lake().create("t", base)
    three[0].http().ok("POST", "/v1/table/t/create_index", {"column": "id", "index_type": "BTREE"})
    clients = Clients(three, seed)
    clients.values = {key: {"v"} for key in range(30)}
    workers = [
        *(threading.Thread(target=clients.append, args=(n,)) for n in range(4)),
        *(threading.Thread(target=clients.upsert, args=(n,)) for n in range(3)),
        *(threading.Thread(target=clients.read, args=(n,)) for n in range(2)),
    ]
    for worker in workers:
        worker.start()
    faults: Counter[str] = Counter()
    ends = time.monotonic() + duration_s
    try:
        while time.monotonic() < ends:
            time.sleep(pick.uniform(0.5, 2.0))
            victim = pick.choice(three)
            how = pick.choice(["kill", "stop"])
            faults[how] += 1
            if how == "kill":
                address = victim.http_address
                victim.kill()
                time.sleep(pick.uniform(0, 2 * TTL_S))
                if "--http-addr" not in victim.args and pick.random() < 0.5:
                    victim.args += ["--http-addr", address]
                victim.start()
            else:
                os.killpg(victim.process.pid, signal.SIGSTOP)
                time.sleep(pick.uniform(0, 3 * TTL_S))
                os.killpg(victim.process.pid, signal.SIGCONT)
        # With no more faults every client gets on within seconds.
        settled = time.monotonic()
        before = sum(clients.acknowledged.values())
        wait_until(
            lambda: sum(clients.acknowledged.values()) > before + 8, "the writers", FAILOVER_S + 10
        )
        print(f"went on after {time.monotonic() - settled:.1f} s")
    finally:
        clients.stop.set()
    for worker in workers:
        worker.join(60)
    rows, failures = len(clients.acknowledged), dict(clients.failures)
    print(f"faults {dict(faults)}, rows {rows}, reads {clients.reads}, failures {failures}")
    print(f"longest time without an acknowledged write {clients.longest_gap_s:.1f} s")
    assert not clients.wrong, clients.wrong[:3]
    assert len(clients.acknowledged) > 20
    assert clients.reads > 10
    last = newest(three[0])
    rows = three[1].lake().read("t", version=last)
    counts = Counter(rows["id"].to_pylist())
    assert not [key for key, count in counts.items() if count > 1], "a row is there twice"
    missing = [row for row in clients.acknowledged if row not in counts]
    assert not missing, f"{len(missing)} acknowledged rows are lost: {missing[:5]}"
    for row in rows.filter(pa.compute.less(rows["id"], 30)).to_pylist():
        assert row["name"] in clients.values[row["id"]], row
    dataset = opened(store, three[0])
    numbers = [version["version"] for version in dataset.versions()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(dataset.to_table(columns=["id"])["id"].to_pylist()) == sorted(counts.elements())
    dataset.validate()


def test_any_makes_and_refreshes_a_materialized_view(three: list[LakebedServer]) -> None:
    a, b, c = three
    lake, first, second = a.lake(), Sql(a), Sql(b)
    lake.create("t", numbered(10))
    assert second.change("CREATE MATERIALIZED VIEW v AS SELECT id FROM t WHERE id > 3") == 6
    first.change("DELETE FROM t WHERE id = 5")
    assert first.change("REFRESH MATERIALIZED VIEW v") == 0
    # A server may answer from what it knew half a second ago.
    gone = "SELECT count(*) FROM v WHERE id = 5"
    wait_until(lambda: second.value(gone) == 0, "the refreshed view")
    view = connect(c).open_materialized_view("v")
    lake.write("t", numbered(1, 77))
    done = view.refresh()
    assert (done.mode, done.rows_written) == ("incremental", 1)
    assert connect(b).open_materialized_view("v").refresh().mode == "no_op"
    wait_until(lambda: second.value("SELECT max(id) FROM v") == 77, "the refreshed view")
    for client in (first, second, lake):
        client.close()
