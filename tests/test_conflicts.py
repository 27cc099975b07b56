"""Writers in conflict: one wins; the other is done again inside the server, or told to try again.

What holds afterwards is checked against a model: every change that was acknowledged, replayed in
the order of the versions, gives the rows of every version. No row that was acknowledged is lost, no
key stands twice, and Lance finds the table whole.
"""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import lance
import pyarrow as pa
import pytest

from support.faults import in_a_stop, slow_syncs, stopping_syncs
from support.flight import Failure, Lake, finish, write_command
from support.history import Change, Rows, check_history, rows_of
from support.server import LakebedServer
from support.waiting import wait_until

T = TypeVar("T")
FIRST: Rows = {i: f"first {i}" for i in range(20)}


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Runs the calls in threads of their own that start together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def unless_conflict(lake: Lake, change: Callable[[], T]) -> T | None:
    """What a change gave, or nothing if it lost the race and was told so; no other refusal."""
    try:
        return change()
    except Failure:
        if lake.received.get("x-lakebed-error-kind") != "conflict":
            raise
        return None


class Writer:
    """Makes changes through its own connections and keeps those that were acknowledged."""

    def __init__(self, server: LakebedServer, table: str, index: int) -> None:
        self.lake, self.http = server.lake(), server.http()
        self.table, self.index, self.number = table, index, 0
        self.changes: list[Change] = []

    def _write(self, mode: str, rows: Rows, **fields: Any) -> None:
        def write() -> dict[str, Any]:
            return self.lake.write(self.table, rows_of(rows), mode, **fields)

        receipt = unless_conflict(self.lake, write)
        if receipt is not None:
            assert receipt["rows"] == len(rows)
            self.changes.append(Change(receipt["version"], mode, rows))

    def _post(self, verb: str, body: dict[str, Any]) -> dict[str, Any] | None:
        answer = self.http.post(f"/v1/table/{self.table}/{verb}", body)
        if answer.status == 409:
            assert answer.headers["x-lakebed-error-kind"] == "conflict", answer.text
            return None
        assert answer.status == 200, answer.text
        return answer.json()

    def append(self, rows: Rows) -> None:
        """An append of these rows."""
        self._write("append", rows)

    def change(self, kind: str, ids: range = range(5, 15)) -> None:
        """One change of a kind. Appends bring keys that nobody else has."""
        self.number += 1
        text = f"{kind} {self.index}.{self.number}"
        if kind == "append":
            start = (self.index + 1) * 10_000 + self.number * 10
            self.append(dict.fromkeys(range(start, start + 3), text))
        elif kind == "upsert":
            self._write(kind, dict.fromkeys(ids, text), on=["id"])
        elif kind == "overwrite":
            self._write(kind, dict.fromkeys(ids, text))
        elif kind == "delete":
            answer = self._post("delete", {"predicate": f"id BETWEEN {ids[0]} AND {ids[-1]}"})
            if answer is not None:
                count = answer["num_deleted_rows"]
                self.changes.append(Change(answer["version"], kind, ids=ids, count=count))
        else:
            answer = self._post("restore", {"version": 1})
            if answer is not None:
                self.changes.append(Change(answer["version"], kind, source=1))


def check_whole(server: LakebedServer, table: str, changes: list[Change]) -> None:
    """The model, and Lance's own check."""
    check_history(server.lake(), table, FIRST, changes)
    lance.dataset(str(server.table_path(table))).validate()


# ---- pairs ----------------------------------------------------------------------------------


def test_one_new_key_upserted_by_many_is_one_row(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """Whatever the order, a new key becomes one row, with the value of the last version."""
    lake.create(table, rows_of(FIRST))
    writers = [Writer(server, table, i) for i in range(8)]
    for key in range(100, 105):
        at_once(*[lambda w=w: w.change("upsert", range(key, key + 1)) for w in writers])  # noqa: B023
    changes = [change for writer in writers for change in writer.changes]
    assert len(changes) == 5 * len(writers), "none loses"
    assert all(any(100 + i in change.rows for change in changes) for i in range(5))
    rows = lake.read(table, filter="id >= 100")
    assert sorted(rows["id"].to_pylist()) == [100, 101, 102, 103, 104]
    check_whole(server, table, changes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("upsert", "delete"),
        ("overwrite", "append"),
        ("restore", "append"),
        ("overwrite", "upsert"),
        ("restore", "delete"),
        ("append", "delete"),
    ],
)
def test_two_at_once(server: LakebedServer, lake: Lake, table: str, one: str, other: str) -> None:
    """Both are done in some order, or one of them is told that it lost."""
    lake.create(table, rows_of(FIRST))
    writers = [Writer(server, table, i) for i in range(2)]
    for _ in range(6):
        at_once(lambda: writers[0].change(one), lambda: writers[1].change(other))
    changes = [change for writer in writers for change in writer.changes]
    assert len(changes) >= 6, "somebody wins every time"
    check_whole(server, table, changes)


def test_everything_at_once(server: LakebedServer, lake: Lake, table: str) -> None:
    """Six writers with a mixture of all changes."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    lake.create(table, rows_of(FIRST))
    writers = [Writer(server, table, i) for i in range(6)]
    kinds = ["append", "append", "upsert", "upsert", "delete", "overwrite", "restore"]

    def plan(writer: Writer) -> Callable[[], None]:
        steps = [(dice.choice(kinds), dice.randrange(20)) for _ in range(10)]

        def run() -> None:
            for kind, start in steps:
                writer.change(kind, range(start, start + 5))

        return run

    at_once(*[plan(writer) for writer in writers])
    check_whole(server, table, [change for writer in writers for change in writer.changes])


# ---- streams that are open while something else happens --------------------------------------


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_write_that_ends_after_an_overwrite_with_another_schema(
    server: LakebedServer, lake: Lake, table: str, mode: str
) -> None:
    """Rows of the old schema never come into a table of the new one."""
    lake.create(table, rows_of(FIRST))
    fields = {"on": ["id"]} if mode == "upsert" else {}
    late = rows_of({100: "late"})
    writer, reader = lake.begin(write_command(table, mode, **fields), late.schema)
    writer.write_batch(late.to_batches()[0])
    other = pa.table({"id": pa.array([1.5]), "weight": [2]})
    assert server.lake().write(table, other, "overwrite")["version"] == 2
    with lake.refuses("conflict"):
        finish(writer, reader)
    assert lake.read(table).equals(other)
    lance.dataset(str(server.table_path(table))).validate()


@pytest.mark.parametrize("what", ["overwrite", "restore"])
def test_an_append_that_ends_after_all_was_replaced(
    server: LakebedServer, lake: Lake, table: str, what: str
) -> None:
    """It is added to what is there now, or told to try again; what replaced all stays."""
    lake.create(table, rows_of(FIRST))
    lake.write(table, rows_of({50: "second"}))
    late = rows_of({100: "late"})
    writer, reader = lake.begin(write_command(table), late.schema)
    writer.write_batch(late.to_batches()[0])
    other = Writer(server, table, 0)
    other.change(what)
    receipt = unless_conflict(lake, lambda: finish(writer, reader))
    changes = [Change(2, "append", {50: "second"}), *other.changes]
    assert [change.kind for change in other.changes] == [what]
    if receipt is not None:
        changes.append(Change(receipt["version"], "append", {100: "late"}))
    check_whole(server, table, changes)


# ---- two creates ----------------------------------------------------------------------------


def open_creates(
    server: LakebedServer, table: str, write_ids: list[str | None]
) -> list[Callable[[], dict[str, Any] | str]]:
    """Creates of one name whose rows are sent and whose ends are still to come; each returns its
    receipt or the kind of its refusal."""
    ends = []
    for i, write_id in enumerate(write_ids):
        lake = server.lake()
        rows = rows_of({i: f"creator {i}"} if len(set(write_ids)) > 1 else {0: "creator"})
        fields = {} if write_id is None else {"write_id": write_id}
        stream = lake.begin(write_command(table, "create", **fields), rows.schema)
        stream[0].write_batch(rows.to_batches()[0])

        def end(lake: Lake = lake, stream: Any = stream) -> dict[str, Any] | str:
            try:
                return finish(*stream)
            except Failure:
                return lake.received["x-lakebed-error-kind"]

        ends.append(end)
    return ends


@pytest.mark.parametrize("write_ids", [["a", "b"], ["a", None], ["a", "b", "c", "d"]], ids=str)
def test_one_of_several_creates_wins(
    server: LakebedServer, lake: Lake, table: str, write_ids: list[str | None]
) -> None:
    outcomes = at_once(*open_creates(server, table, write_ids))
    winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, dict)]
    assert len(winners) == 1, outcomes
    assert all(o == "already_exists" for o in outcomes if not isinstance(o, dict)), outcomes
    assert outcomes[winners[0]]["version"] == 1
    assert lake.read(table).equals(rows_of({winners[0]: f"creator {winners[0]}"}))
    with lake.refuses("not_found"):
        lake.read(table, version=2)
    lance.dataset(str(server.table_path(table))).validate()


# ---- another tool ---------------------------------------------------------------------------


def append_outside(server: LakebedServer, rows: Rows, table: str = "t") -> int:
    """An append by pylance that knows nothing of the server; its version."""
    path = str(server.table_path(table))
    return lance.write_dataset(rows_of(rows), path, mode="append").version


def test_an_outside_append_while_a_stream_is_open(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """Another tool commits between the beginning and the end of an append: both are kept."""
    lake.create(table, rows_of(FIRST))
    late = rows_of({100: "late"})
    writer, reader = lake.begin(write_command(table), late.schema)
    writer.write_batch(late.to_batches()[0])
    outside = {200: "outside"}
    assert append_outside(server, outside, table) == 2
    assert finish(writer, reader)["version"] == 3
    changes = [Change(2, "append", outside), Change(3, "append", {100: "late"})]
    check_whole(server, table, changes)


@pytest.mark.parametrize("kind", ["append", "upsert", "delete", "overwrite", "restore"])
def test_an_outside_append_between_plan_and_commit(
    make_server: Callable[..., LakebedServer], kind: str
) -> None:
    """The server is stopped with its change built and not committed, another tool appends, and the
    server goes on: its change is done on top, or it says that it lost; the other's rows stay."""
    server = make_server().start()
    server.lake().create("t", rows_of(FIRST))
    assert server.terminate() == 0
    server.wrapper = stopping_syncs(server.table_path("t"))
    server.start()
    writer = Writer(server, "t", 0)
    outside = {200: "outside"}
    versions: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        in_a_stop(
            server,
            lambda: pool.submit(writer.change, kind),
            lambda: versions.append(append_outside(server, outside)),
        )
    assert versions == [2]
    check_whole(server, "t", [Change(2, "append", outside), *writer.changes])
    # What lost may be done again at once.
    if not writer.changes:
        with ThreadPoolExecutor(1) as pool:
            in_a_stop(server, lambda: pool.submit(writer.change, kind), lambda: None)
    assert [change.version for change in writer.changes] == [3]
    check_whole(server, "t", [Change(2, "append", outside), *writer.changes])


def test_creates_with_one_write_id_get_one_receipt(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """A client that sends its create again while the first one still runs is no second writer."""
    outcomes = at_once(*open_creates(server, table, ["same"] * 4))
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert lake.read(table).equals(rows_of({0: "creator"}))
    with lake.refuses("not_found"):
        lake.read(table, version=2)


def test_overwrites_that_make_one_table(server: LakebedServer, lake: Lake, table: str) -> None:
    """An overwrite takes what is there, nothing or a table: none is refused as a second create. One
    that was overtaken while it made the table is a conflict, and done when it is sent again."""

    def overwrite(i: int) -> Change:
        rows, writer = {i: f"writer {i}"}, server.lake()
        try:
            receipt = writer.write(table, rows_of(rows), "overwrite")
        except Failure:
            assert writer.received["x-lakebed-error-kind"] == "conflict"
            receipt = writer.write(table, rows_of(rows), "overwrite")
        return Change(receipt["version"], "overwrite", rows)

    changes = at_once(*[lambda i=i: overwrite(i) for i in range(4)])
    assert sorted(change.version for change in changes) == [1, 2, 3, 4]
    for change in changes:
        assert lake.read(table, version=change.version).equals(rows_of(change.rows))


@pytest.mark.parametrize("kind", ["upsert", "delete"])
def test_an_append_that_commits_after_a_change_was_planned(
    make_server: Callable[..., LakebedServer], kind: str
) -> None:
    """An upsert whose version comes after that of an append finds the key that it brought, and
    changes it instead of adding it again; a deletion finds it and takes it out."""
    server = make_server().start()
    server.lake().create("t", rows_of(FIRST))
    assert server.terminate() == 0
    table = server.table_path("t")
    # Both wait here with their rows written and not committed; the append came first.
    folder = table / "data"
    if kind == "delete":
        folder = table / "_deletions"
        server.start().http().ok("POST", "/v1/table/t/delete", {"predicate": "id = 0"})
        assert server.terminate() == 0
    server.wrapper = slow_syncs(folder, 2_000)
    server.start()
    changes = [Change(2, "delete", ids=range(1), count=1)] if kind == "delete" else []
    appender, writer = Writer(server, "t", 0), Writer(server, "t", 1)

    def written(count: int) -> bool:
        names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        return len(names) >= count

    files = len(list(folder.iterdir()))
    with ThreadPoolExecutor(2) as pool:
        if kind == "upsert":
            append = pool.submit(appender.append, {100: "appended"})
            wait_until(lambda: written(files + 1), "the rows of the append")
            change = pool.submit(writer.change, kind, range(100, 101))
        else:
            change = pool.submit(writer.change, kind, range(15, 101))
            wait_until(lambda: written(files + 1), "the plan of the deletion")
            append = pool.submit(appender.append, {100: "appended"})
        append.result(60)
        change.result(60)
    assert len(appender.changes) == len(writer.changes) == 1, "both were acknowledged"
    changes += [*appender.changes, *writer.changes]
    assert server.lake().read("t")["id"].to_pylist().count(100) <= 1, "a key twice"
    check_whole(server, "t", changes)
