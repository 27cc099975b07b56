"""64 clients at once on one table, with a kill of the server among them: one order explains it all.

Each client asks what its seed says and notes when it asked, when it was answered, and what.
Afterwards `concurrent_history.py` looks for what the answers promised and the table does not hold.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import lance
import pyarrow as pa
import pytest

from support.concurrent_history import Event, History, Rows, Violation
from support.faults import slow_syncs
from support.flight import Failure
from support.history import rows_of
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until

CLIENTS = 64
SQL_CLIENTS = 8
SHARED = 40  # keys that everybody upserts
FIRST: Rows = {key: f"first {key}" for key in range(SHARED)}
OWN_ROWS_MAX = 12
SLOW_MS = 20
KINDS = {"append": 3, "upsert": 5, "update": 3, "delete": 2, "read": 2, "read at": 1, "keys": 3}
Gone = (*Failure, OSError, http.client.HTTPException, dbapi.Error)


class World:
    """The server, and what its clients have to know of each other."""

    def __init__(self, server: LakebedServer, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.is_up = threading.Event()
        self.is_up.set()
        self.starts = 0
        self.is_over = threading.Event()
        self.killed_at: list[float] = []

    def kill_and_start(self) -> None:
        """SIGKILL in the middle of it all, and a new server on the same lake."""
        self.is_up.clear()
        self.server.kill()
        self.killed_at.append(time.monotonic())
        # A version is there for a while before its clients are answered: kills fall in between.
        self.server.wrapper = slow_syncs(self.server.table_path("t") / "_versions", SLOW_MS)
        self.server.start()
        self.starts += 1
        self.is_up.set()


class Client:
    """One client with its own connections, keys and seed."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.dice = random.Random(f"{world.seed}-{index}")
        self.number = 0
        self.own: list[int] = []
        self.seen = 1
        self.last_read: Rows = dict(FIRST)
        self.events: list[Event] = []
        self.refused: Counter[str] = Counter()
        self.connect()

    def connect(self) -> None:
        """Connections to the server that runs now."""
        self.start = self.world.starts
        self.lake, self.http = self.world.server.lake(), self.world.server.http()
        self.sql = Sql(self.world.server) if self.index < SQL_CLIENTS else None

    def run(self) -> None:
        """Asks one thing after the other until all is over."""
        kinds, weights = list(KINDS), list(KINDS.values())
        while not self.world.is_over.is_set():
            self.number += 1
            [kind] = self.dice.choices(kinds, weights)
            event = self.planned(kind)
            self.ask(event, f"{self.index}-{self.number}")

    def planned(self, kind: str) -> Event:
        """What to ask next."""
        dice, text = self.dice, f"{self.index}.{self.number}"
        event = Event(self.index, kind, 0.0)
        if kind == "append":
            start = (self.index + 1) * 1_000_000 + self.number * 10
            event.rows = dict.fromkeys(range(start, start + 2), text)
        elif kind == "upsert":
            event.rows = dict.fromkeys(dice.sample(range(SHARED), dice.choice([1, 1, 3])), text)
        elif kind == "update":
            # Of a value that it has seen, which may have changed since.
            key = dice.choice(list(self.last_read))
            event.rows, event.required = {key: text}, self.last_read[key]
        elif kind == "delete":
            shared = [dice.randrange(SHARED)]
            keys, self.own = (self.own, []) if len(self.own) > OWN_ROWS_MAX else (shared, self.own)
            event.keys = frozenset(keys)
        elif kind == "read at":
            event.version = dice.randint(1, self.seen)
        elif kind == "keys":
            event.keys = frozenset(dice.sample(range(SHARED), 2))
        return event

    def ask(self, event: Event, write_id: str) -> None:
        """Asks, and asks again under the same write id where that is safe, or leaves it unknown."""
        event.began = time.monotonic()
        is_asking = True
        while is_asking:
            try:
                self.answered(event, write_id)
                event.is_known, is_asking = True, False
            except Gone as error:
                if self.is_alive():
                    self.refuse(event, error)
                    return
                event.is_known = False
                wait_until(self.world.is_up.is_set, "the server that was started again", 60)
                event.ended = self.world.killed_at[-1]
                self.connect()
                is_asking = event.kind in {"append", "upsert"} and self.dice.random() < 0.5
        if event.is_known:
            event.ended = time.monotonic()
            self.seen = max(self.seen, event.version or 0)
        if event.is_known or event.is_write:
            self.events.append(event)

    def is_alive(self) -> bool:
        """Whether the server that was asked still runs, looked at for long enough to see a kill."""
        time.sleep(0.05)
        return self.world.is_up.is_set() and self.world.starts == self.start

    def refuse(self, event: Event, error: BaseException) -> None:
        """A change that lost a race, or came to a full server, has not happened."""
        kind = self.lake.received.get("x-lakebed-error-kind")
        if isinstance(error, RefusedOverHttp):
            kind = error.kind
        if kind not in {"conflict", "busy"}:
            raise AssertionError(f"{event}: {error}") from error
        self.refused[kind] += 1

    def answered(self, event: Event, write_id: str) -> None:
        """Asks and notes the answer."""
        kind = event.kind
        if kind in {"append", "upsert"}:
            more: dict[str, Any] = {"on": ["id"]} if kind == "upsert" else {}
            rows = rows_of(event.rows)
            receipt = self.lake.write("t", rows, kind, write_id=write_id, **more)
            event.version = receipt["version"]
            if kind == "append":
                self.own += event.rows
        elif kind == "update":
            [(key, text)] = event.rows.items()
            predicate = f"id = {key} AND name = '{event.required}'"
            body = {"predicate": predicate, "updates": [["name", f"'{text}'"]]}
            answer = self.post("update", body)
            event.version, event.count = answer["version"], answer["rows_updated"]
        elif kind == "delete":
            keys = ", ".join(map(str, event.keys or ()))
            answer = self.post("delete", {"predicate": f"id IN ({keys})"})
            event.version, event.count = answer["version"], answer["num_deleted_rows"]
        elif kind in {"read", "read at"}:
            fields = {} if event.version is None else {"version": event.version}
            info = self.lake.info("t", **fields)
            event.version = json.loads(info.app_metadata)["version"]
            parts = [self.lake.fetch(endpoint) for endpoint in info.endpoints]
            event.rows = self.last_read = rows_in(pa.concat_tables(parts))
        else:
            where = f"id IN ({', '.join(map(str, sorted(event.keys or ())))})"
            if self.sql is None:
                event.rows = rows_in(self.lake.read("t", filter=where))
            else:
                event.rows = rows_in(self.sql.query(f"SELECT id, name FROM t WHERE {where}"))
            event.kind = "read"
            event.version = None

    def post(self, verb: str, body: dict[str, Any]) -> Any:
        answer = self.http.post(f"/v1/table/t/{verb}", body)
        if answer.status >= 400:
            raise RefusedOverHttp(answer.headers.get("x-lakebed-error-kind"), answer.text)
        return answer.json()


class RefusedOverHttp(OSError):
    """An answer over HTTP that is a refusal."""

    def __init__(self, kind: str | None, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def rows_in(table: pa.Table) -> Rows:
    """Names by their ids, each of which stands once."""
    ids = table["id"].to_pylist()
    assert len(ids) == len(set(ids)), f"a key twice: {sorted(ids)}"
    return dict(zip(ids, table["name"].to_pylist(), strict=True))


def check_history_of(world: World, clients: list[Client]) -> History:
    """The checks of the history, and what other readers find in the table."""
    # Nothing has to be slow any more, and hundreds of versions are read.
    world.server.wrapper = []
    world.server.restart()
    lake = world.server.lake()
    newest = json.loads(lake.info("t").app_metadata)["version"]
    events = [event for client in clients for event in client.events]
    history = History(FIRST, events, newest, lambda at: rows_in(lake.read("t", version=at)))
    history.check()
    dataset = lance.dataset(str(world.server.table_path("t")))
    dataset.validate()
    assert dataset.version == newest
    assert rows_in(dataset.to_table()) == history.state == rows_in(lake.read("t"))
    listed = world.server.http().ok("POST", "/v1/table/t/version/list", {}).json()["versions"]
    assert sorted(version["version"] for version in listed)[-1] == newest
    return history


@pytest.mark.timeout(2_400)
# Of ADBC's cursors whose server was killed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_order_explains_it_all(make_server: Callable[..., LakebedServer], soak: bool) -> None:
    for turn in range(4 if soak else 1):
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")
        server = make_server(f"server{turn}").start()
        server.lake().create("t", rows_of(FIRST))
        world = World(server, seed)
        clients = [Client(world, index) for index in range(CLIENTS)]
        lasts_s, kills = (300, 10) if soak else (9, 3)
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(client.run) for client in clients]
            try:
                for _ in range(kills):
                    time.sleep(lasts_s / (kills + 1))
                    world.kill_and_start()
                time.sleep(lasts_s / (kills + 1))
            finally:
                world.is_over.set()
            for done in running:
                done.result(60)
        history = check_history_of(world, clients)
        asked = Counter(event.kind for event in history.events)
        print(f"{len(history.events)} calls {dict(asked)} in {history.newest} versions")
        refused = sum((client.refused for client in clients), Counter())
        print(
            f"refused: {dict(refused)}; {kills} kills left {len(history.unknown)} unknown, of which"
        )
        print(f"{len(history.found_out)} had happened; {history.read_versions} versions read again")
        assert history.newest > 50
        assert history.unknown, "a kill among writers leaves something unknown"
        server.terminate()


# ---- the checker itself ---------------------------------------------------------------------


def small_history() -> tuple[list[Event], dict[int, Rows]]:
    """A history that is in order, and the rows of its versions."""
    states = {
        1: {0: "a"},
        2: {0: "b"},
        3: {0: "b", 5: "c", 6: "d"},
        4: {0: "e", 5: "c", 6: "d"},
        5: {0: "e", 6: "d"},
    }
    events = [
        Event(0, "upsert", 0.0, 1.0, 2, {0: "b"}),
        Event(1, "append", 1.0, 3.0, 3, {5: "c"}),
        Event(2, "append", 1.5, 3.0, 3, {6: "d"}),
        Event(0, "update", 4.0, 5.0, 4, {0: "e"}, required="b", count=1),
        Event(1, "delete", 6.0, 7.0, 5, keys=frozenset({5}), count=1),
        Event(2, "read", 5.5, 6.5, None, {0: "e", 5: "c"}, frozenset({0, 5})),
        Event(2, "read", 8.0, 9.0, 5, {0: "e", 6: "d"}),
        Event(2, "read at", 8.0, 9.0, 3, dict(states[3])),
    ]
    return events, states


def checked(events: list[Event], states: dict[int, Rows], newest: int = 5) -> None:
    History(states[1], events, newest, states.__getitem__).check()


def test_the_checker_takes_what_is_in_order() -> None:
    events, states = small_history()
    checked(events, states)
    for gone in (0, 3, 4):  # of unknown outcome, and happened
        events, states = small_history()
        events[gone].is_known, events[gone].version = False, None
        checked(events, states)
    events, states = small_history()
    events.append(Event(7, "upsert", 0.5, rows={0: "never"}, is_known=False))
    checked(events, states)


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("a lost upsert", lambda e: e[5].rows.update({0: "b"})),
        ("a stale read", lambda e: setattr(e[6], "version", 4)),
        ("another row in an old version", lambda e: e[7].rows.update({0: "x"})),
        ("a missing row", lambda e: e[6].rows.pop(6)),
        ("a gap", lambda e: e.pop(3)),
        ("two changes in one version", lambda e: setattr(e[4], "version", 4)),
        ("a wrong count", lambda e: setattr(e[4], "count", 2)),
        ("an update of what was not there", lambda e: setattr(e[3], "required", "x")),
        (
            "versions against time",
            lambda e: (setattr(e[1], "ended", 0.5), setattr(e[1], "began", 0)),
        ),
        (
            "half a change of unknown outcome",
            lambda e: (e[0].rows.update({7: "z"}), setattr(e[0], "is_known", False)),
        ),
        ("a read of what never was", lambda e: e[5].rows.update({5: "d"})),
        ("a read that goes back", lambda e: e.append(Event(2, "read", 9.5, 9.6, 4, {}))),
    ],
)
def test_the_checker_finds(what: str, spoil: Callable[[list[Event]], Any]) -> None:
    events, states = small_history()
    if what == "versions against time":
        events[0].began = 0.7
    spoil(events)
    with pytest.raises(Violation):
        checked(events, states)
