"""The Python client when the connection goes away in the middle: writes happen once, reads go on or
begin anew, and of a change whose answer is lost nothing is claimed."""

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed import errors
from support.proxy import Answering, Cut, Proxy
from support.server import LakebedServer
from support.waiting import wait_until


def connect(server: LakebedServer, **options: object) -> lakebed.Connection:
    """A connection with the admin key."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key, **options)


def numbered(count: int, start: int = 0) -> pa.Table:
    return pa.table(
        {"id": list(range(start, start + count)), "name": [f"n{i}" for i in range(count)]}
    )


@pytest.fixture
def db(server: LakebedServer) -> Iterator[lakebed.Connection]:
    with connect(server) as db:
        yield db


@pytest.fixture
def proxied(server: LakebedServer) -> Iterator[tuple[lakebed.Connection, Proxy]]:
    """A connection whose Flight goes through a proxy."""
    proxy = Proxy(server.flight_address)
    db = connect(server)
    db._http._version = {**db.server_version(), "flight": proxy.address}
    yield db, proxy
    db.close()
    proxy.close()


# ---- writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "upsert", "create"])
def test_a_lost_answer_does_not_double_rows(
    server: LakebedServer, proxied: tuple[lakebed.Connection, Proxy], table: str, mode: str
) -> None:
    """The write is committed, its answer never arrives, and the client sends the write again."""
    direct = connect(server)
    db, proxy = proxied
    if mode != "create":
        direct.create_table(table, numbered(5))
    db.tables()

    def is_committed() -> bool:
        with contextlib.suppress(errors.NotFound):
            return proxy.answers_lost == 0 and direct.table(table).count("id >= 100") > 0
        return False

    def losing() -> bool:
        # Answers are held back until the rows are there, and then the connection is cut, once.
        if proxy.answers_lost:
            return False
        wait_until(is_committed, "the commit", 20)
        return True

    # Opened before, so that the handshake of HTTP/2 is through.
    with contextlib.suppress(errors.NotFound):
        db.table(table).count()
    proxy.is_losing = losing
    rows = numbered(3, 100)
    if mode == "create":
        db.create_table(table, rows)
    elif mode == "add":
        db.table(table).add(rows)
    else:
        db.table(table).upsert(rows, on="id")
    assert proxy.answers_lost == 1
    assert direct.table(table).count("id >= 100") == 3


# ---- reads ------------------------------------------------------------------------------------


WIDE_ROWS = 40_000


@pytest.fixture(scope="module")
def wide(module_server: LakebedServer) -> str:
    """A table whose rows take 32 MB to send."""
    bytes_ = np.random.default_rng(1).bytes(WIDE_ROWS * 800)
    cells = [None, pa.py_buffer(bytes_)]
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(800), WIDE_ROWS, cells)
    with connect(module_server) as db:
        db.create_table("wide", pa.table({"id": np.arange(WIDE_ROWS), "bytes": column}))
    return "wide"


@pytest.mark.parametrize("way", ["sql", "any order", "stored order"])
def test_a_read_goes_on_only_in_an_order_that_is_kept(
    proxied: tuple[lakebed.Connection, Proxy], wide: str, way: str
) -> None:
    db, proxy = proxied

    def rows() -> lakebed.Rows:
        if way == "sql":
            return db.sql(f"SELECT * FROM {wide}")
        return db.table(wide).scan(any_order=way == "any order")

    batches = rows().to_batches()
    given = [next(batches)["id"].to_pylist()]
    # Far behind what the connection takes on before anybody reads.
    proxy.is_losing = Cut(proxy, 20)
    if way == "stored order":
        given += [batch["id"].to_pylist() for batch in batches]
        assert [row for ids in given for row in ids] == list(range(WIDE_ROWS))
    else:
        with pytest.raises(errors.Unavailable):
            list(batches)
    assert proxy.answers_lost == 1
    proxy.answers_lost = 0
    proxy.is_losing = Cut(proxy, 20)
    # Nobody has seen a row of these, so they begin anew.
    assert sorted(rows().to_arrow()["id"].to_pylist()) == list(range(WIDE_ROWS))
    assert proxy.answers_lost == 1


def test_a_count_that_has_to_read_begins_anew(
    proxied: tuple[lakebed.Connection, Proxy], wide: str
) -> None:
    db, proxy = proxied
    rows = db.sql(f"SELECT * FROM {wide}")
    proxy.is_losing = Cut(proxy, 20)
    assert rows.count() == WIDE_ROWS
    assert proxy.answers_lost == 1


def test_rows_are_written_while_they_are_read(
    server: LakebedServer, db: lakebed.Connection, table: str
) -> None:
    """Two calls on one thread: each error keeps the kind that its own server said."""
    with connect(server) as other:
        made = db.create_table(table, numbered(5))
        with pytest.raises(errors.AlreadyExists) as caught:
            # With a schema, so that the first row is read when the write is under way.
            other.create_table(table, made.scan().to_batches(), schema=made.schema())
        assert caught.value.request_id
        assert other.create_table(f"{table}_copy", made.scan().to_batches()).count() == 5


def test_a_scan_that_is_given_up_ends(
    proxied: tuple[lakebed.Connection, Proxy], table: str
) -> None:
    """Its task gets the time-out, and the stream is closed once the read under way is over."""
    db, proxy = proxied
    db.create_table(table, numbered(10))
    slow = threading.Event()
    made: list[Any] = []

    async def go() -> None:
        later = lakebed.AsyncConnection(db)
        rows = later.table(table).scan()
        read = rows._rows.to_batches

        def kept() -> Any:
            made.append(read())
            return made[-1]

        rows._rows.to_batches = kept
        proxy.is_losing = lambda: not slow.wait(30)

        async def first() -> None:
            async for _ in rows.to_batches():
                pass

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(first(), 0.5)
        slow.set()
        await later.close()

    asyncio.run(go())
    wait_until(lambda: inspect.getgeneratorstate(made[0]) == inspect.GEN_CLOSED, "the end", 20)


# ---- changes in SQL ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cut", "silence"])
@pytest.mark.parametrize("parameters", [None, [7]])
def test_a_change_in_sql_whose_answer_is_lost(
    server: LakebedServer, table: str, way: str, parameters: list[int] | None
) -> None:
    """It happened once, and the error does not ask for it to be done again."""
    direct = connect(server)
    direct.create_table(table, {"id": [1]})
    proxy = Proxy(server.flight_address)
    db = connect(server, stream_timeout_s=2 if way == "silence" else 60)
    db._http._version = {**db.server_version(), "flight": proxy.address}
    over = threading.Event()

    def losing() -> bool:
        if proxy.answers_lost or direct.table(table).count() == 1:
            return False
        if way == "silence":
            over.wait(4)
        return True

    proxy.is_losing = losing
    value = "7" if parameters is None else "?"
    with pytest.raises(errors.CommitUnknown, match="was lost"):
        db.sql(f'INSERT INTO "{table}" VALUES ({value})', parameters)
    over.set()
    assert sorted(row["id"] for row in direct.table(table).scan().to_list()) == [1, 7]
    db.close()
    proxy.close()


def test_a_change_in_sql_that_is_refused_keeps_its_kind(own_server: LakebedServer) -> None:
    db = connect(own_server)
    db.create_table("t", {"id": [1]})
    with pytest.raises(errors.NotFound):
        db.sql("DELETE FROM nowhere")
    with pytest.raises(errors.AlreadyExists):
        db.sql("CREATE TABLE t (id BIGINT)")
    own_server.kill()
    with pytest.raises(errors.Unavailable):
        db.sql("DELETE FROM t")


def test_a_statement_that_cannot_be_closed_has_run(
    db: lakebed.Connection, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.create_table(table, {"id": [1]})
    action = db._flight.action
    closed = []

    def lost(name: str, body: bytes) -> list[bytes]:
        if name == "ClosePreparedStatement":
            closed.append(body)
            raise errors.Unavailable("the connection was lost")
        return action(name, body)

    monkeypatch.setattr(db._flight, "action", lost)
    assert db.sql(f'INSERT INTO "{table}" VALUES (?)', [2]).to_list() == [{"count": 1}]
    assert len(closed) == 1


# ---- HTTP -------------------------------------------------------------------------------------


def test_a_lost_update_is_not_sent_again() -> None:
    """Whether it happened is not known, and doing it twice could change more."""
    requests = []

    def swallow(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                requests.append(client.recv(1 << 16))
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=swallow, args=(listener,), daemon=True).start()
        db = lakebed.connect(f"http://127.0.0.1:{listener.getsockname()[1]}", "k")
        with pytest.raises(errors.CommitUnknown, match="lost after"):
            db.table("t").update("a = 1", values_sql={"a": "a + 1"})
    assert len(requests) == 1


@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Timeout"])
def test_a_proxy_does_not_know_whether_a_change_happened(status: str) -> None:
    with Answering(status, b"<html>") as proxy:
        db = lakebed.connect(proxy.url, "k")
        with pytest.raises(errors.CommitUnknown):
            db.table("t").update(values={"a": 1})
        assert proxy.requests == 1
    told = {"x-lakebed-error-kind": "unavailable"}
    with Answering(status, b"no", told) as server, pytest.raises(errors.Unavailable):
        lakebed.connect(server.url, "k").table("t").update(values={"a": 1})


def test_reads_are_asked_again() -> None:
    with Answering("503 Service Unavailable", b"later", {"retry-after-ms": "1"}) as busy:
        db = lakebed.connect(busy.url, "k")
        for read in (db.tables, db.workers, lambda: db.table("t").pin("tag")):
            before = busy.requests
            with pytest.raises(errors.Unavailable):
                read()
            assert busy.requests - before > 1


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[]", b'{"version": "1"}'])
def test_another_server_is_named_as_such(body: bytes) -> None:
    with Answering("200 OK", body) as other:
        db = lakebed.connect(other.url, "k")
        with pytest.raises(errors.InvalidArgument, match="is no Lakebed server"):
            db.table("t").count()
