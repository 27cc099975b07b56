"""The Python client against the built server: rows in and out, SQL, blobs, errors, and what happens
when the connection or the server goes away."""

import asyncio
import datetime
import io
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lakebed
from lakebed import errors
from support.flight import GRPC_CODES
from support.server import LakebedServer, built_binary
from support.tls import Authority

MIB = 1 << 20


def connect(server: LakebedServer, **options: object) -> lakebed.Connection:
    """A connection with the admin key."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key, **options)


@pytest.fixture
def db(server: LakebedServer) -> Iterator[lakebed.Connection]:
    with connect(server) as db:
        yield db


def numbered(count: int, start: int = 0) -> pa.Table:
    return pa.table(
        {"id": list(range(start, start + count)), "name": [f"n{i}" for i in range(count)]}
    )


# ---- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param([{"id": 1, "name": "a"}, {"id": 2, "name": None}], id="dicts"),
        pytest.param({"id": [1, 2], "name": ["a", None]}, id="columns"),
        pytest.param(pd.DataFrame({"id": [1, 2], "name": ["a", None]}), id="pandas"),
        pytest.param(pl.DataFrame({"id": [1, 2], "name": ["a", None]}), id="polars"),
        pytest.param(pa.table({"id": [1, 2], "name": ["a", None]}), id="table"),
        pytest.param(pa.record_batch({"id": [1, 2], "name": ["a", None]}), id="batch"),
        pytest.param([pa.record_batch({"id": [n], "name": ["a"]}) for n in (1, 2)], id="batches"),
    ],
)
def test_rows_of_any_shape(db: lakebed.Connection, table: str, data: object) -> None:
    made = db.create_table(table, data)
    assert made.scan(["id"]).to_list() == [{"id": 1}, {"id": 2}]
    assert made.add(data).rows == 2
    assert made.count() == 4
    assert isinstance(made.scan().to_pandas(), pd.DataFrame)
    assert isinstance(made.scan().to_polars(), pl.DataFrame)
    assert table in db.tables()
    made.drop()
    assert table not in list(db)


def test_changes(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(10))
    receipt = made.upsert([{"id": 3, "name": "three"}, {"id": 10, "name": "ten"}], on="id")
    assert receipt.rows == 2
    assert made.update("id = 4", {"name": "it's four"}) == 1
    assert made.update("id = 5", values_sql={"name": "upper(name)"}) == 1
    assert made.delete("id >= 6 AND id < 10") == 4
    names = {row["id"]: row["name"] for row in made.scan().to_list()}
    assert names == {
        0: "n0",
        1: "n1",
        2: "n2",
        3: "three",
        4: "it's four",
        5: "N5",
        10: "ten",
    }
    assert made.count(version=1) == made.scan(version=1).count() == 10
    assert made.overwrite([{"x": 1}]).version == made.version()
    assert made.schema().names == ["x"]
    assert made.schema(version=1).names == ["id", "name"]


def test_scans(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(100))
    assert made.scan(["id"], "id % 10 = 0", limit=3).to_arrow()["id"].to_pylist() == [0, 10, 20]
    assert made.scan({"twice": "id * 2"}, offset=98).to_list() == [{"twice": 196}, {"twice": 198}]
    ids = made.scan(["_rowid"], filter="id in (7, 3)").to_arrow()["_rowid"].to_pylist()
    again = made.scan(["id"], row_ids=ids[::-1]).to_arrow()["id"].to_pylist()
    assert sorted(again) == [3, 7]
    now = datetime.datetime.now(datetime.UTC)
    assert made.count(version=now) == 100
    assert made.count("id < 5") == 5
    assert sum(batch.num_rows for batch in made.scan().to_batches()) == 100
    assert made.scan(filter="id < 0").to_arrow().num_rows == 0


def test_a_large_table_comes_over_several_streams(db: lakebed.Connection, table: str) -> None:
    count = 300_000
    bytes_ = np.random.default_rng(1).bytes(count * 400)
    blob = pa.FixedSizeBinaryArray.from_buffers(pa.binary(400), count, [None, pa.py_buffer(bytes_)])
    made = db.create_table(table, pa.table({"id": np.arange(count), "bytes": blob}))
    assert len(made.scan().plan().tickets) > 1
    found = made.scan().to_arrow()
    assert found["id"].to_pylist() == list(range(count))


def test_a_generator_is_streamed_and_commits_at_its_end(db: lakebed.Connection, table: str) -> None:
    def batches(stop_at: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, 100, 10):
            if start == stop_at:
                raise KeyError("a key of the caller")
            yield numbered(10, start).to_batches()[0]

    made = db.create_table(table, batches(-1))
    assert made.count() == 100
    for stop_at in (0, 50):
        with pytest.raises(KeyError, match="a key of the caller"):
            made.add(batches(stop_at))
    assert (made.count(), made.version()) == (100, 1)


def test_a_schema_alone_makes_a_table(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, schema=pa.schema([("id", pa.int64()), ("data", pa.binary())]))
    assert made.schema().names == ["id", "data"]
    assert made.count() == 0
    assert made.scan().to_arrow().num_rows == 0


def test_large_batches_are_cut(db: lakebed.Connection, table: str) -> None:
    """More than a message may hold, with rows of very different sizes."""
    cells = [os.urandom(n) for n in [30 * MIB, 10, 30 * MIB, 40 * MIB, 5, 0]]
    rows = pa.table({"id": list(range(6)), "data": pa.array(cells, pa.large_binary())})
    made = db.create_table(table, rows, blobs=["data"])
    assert made.scan(["data"], blobs="bytes").to_arrow()["data"].to_pylist() == cells


# ---- writes happen once -----------------------------------------------------------------------


def test_a_generator_cannot_be_sent_again_and_says_its_write_id(
    own_server: LakebedServer,
) -> None:
    db = connect(own_server)
    made = db.create_table("t", numbered(1))
    own_server.kill()
    with pytest.raises(errors.Unavailable) as caught:
        made.add(batch for batch in numbered(1).to_batches())
    assert caught.value.write_id


def test_the_same_write_id_is_one_write(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(1))
    first = made.add(numbered(2), write_id="w")
    assert made.add(numbered(2), write_id="w") == first
    assert made.count() == 3


def test_writes_and_reads_go_on_over_a_restart(own_server: LakebedServer) -> None:
    own_server.args += ["--http-addr", own_server.http_address]
    db = connect(own_server)
    made = db.create_table("t", numbered(5))
    own_server.terminate()
    timer = threading.Timer(1.0, own_server.start)
    timer.start()
    made.add(numbered(5, 5))
    timer.join()
    assert made.count() == 10


# ---- SQL, search ------------------------------------------------------------------------------


def test_sql(db: lakebed.Connection, table: str) -> None:
    db.create_table(table, numbered(10))
    assert db.sql(f'SELECT count(*) AS n FROM "{table}"').to_list() == [{"n": 10}]
    found = db.sql(f'SELECT id FROM "{table}" WHERE name = ? OR id = ?', ["n3", 7])
    assert sorted(row["id"] for row in found.to_list()) == [3, 7]
    changed = db.sql(f'DELETE FROM "{table}" WHERE id < 4')
    assert changed.to_list() == changed.to_list() == [{"count": 4}]
    assert db.table(table).count() == 6
    rows = db.sql(f'SELECT id FROM "{table}"')
    assert rows.to_arrow().equals(pa.Table.from_batches(rows.to_batches()))
    with pytest.raises(errors.InvalidArgument, match="Line: 1"):
        db.sql("SELEC 1")


def test_searches(db: lakebed.Connection, table: str) -> None:
    vectors = pa.array([[1, 0], [0, 1], [0.9, 0.1]], pa.list_(pa.float32(), 2))
    made = db.create_table(table, pa.table({"id": [1, 2, 3], "v": vectors}))
    found = made.search(np.array([1.0, 0.0]), k=2, columns=["id"], distance="cosine")
    assert [row["id"] for row in found.to_list()] == [1, 3]
    assert made.search([1, 0], k=2, where="id > 1", with_row_id=True).to_list()[0]["id"] == 3
    with pytest.raises(errors.InvalidArgument, match="one of vector"):
        made.search()
    with pytest.raises(errors.InvalidArgument, match="nprobs"):
        made.search([1, 0], nprobs=3).to_arrow()


# ---- blobs ------------------------------------------------------------------------------------


def test_a_blob_is_a_file(db: lakebed.Connection, table: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "hello " * 1_000)
        file.writestr("b.bin", os.urandom(3 * MIB))
    cells = [archive.getvalue(), b"", None]
    made = db.create_table(table, {"id": [0, 1, 2], "data": cells}, blobs=["data"])
    ids = made.scan(["_rowid"]).to_arrow()["_rowid"].to_pylist()
    blob = made.blob("data", ids[0])
    assert blob is not None
    assert (blob.size, blob.media_type) == (len(cells[0]), "application/zip")
    with zipfile.ZipFile(blob) as file:
        assert file.read("a.txt") == b"hello " * 1_000
    state = np.random.default_rng(1)
    for _ in range(50):
        start, size = int(state.integers(blob.size + 10)), int(state.integers(1, 200_000))
        blob.seek(start)
        assert blob.read(size) == cells[0][start : start + size]
        assert blob.tell() == max(start, min(start + size, blob.size))
    blob.seek(-4, io.SEEK_END)
    assert blob.read() == cells[0][-4:]
    assert blob.read() == b""
    blob.seek(0)
    assert io.BufferedReader(blob).read() == cells[0]
    empty = made.blob("data", ids[1])
    assert empty is not None
    assert empty.read() == b""
    assert made.blob("data", ids[2]) is None
    with pytest.raises(errors.NotFound, match="row id"):
        made.blob("data", 10**9)


def test_a_blob_keeps_its_version(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, {"id": [0], "data": [b"a" * 300_000]}, blobs=["data"])
    [row_id] = made.scan(["_rowid"]).to_arrow()["_rowid"].to_pylist()
    blob = made.blob("data", row_id)
    assert blob is not None
    assert blob.read(1) == b"a"
    made.upsert({"id": [0], "data": [b"b" * 300_000]}, on="id")
    assert set(blob.read()) == {ord("a")}
    newer = made.blob("data", row_id)
    assert newer is not None
    assert newer.read(2) == b"bb"


# ---- errors -----------------------------------------------------------------------------------


def test_errors_by_kind(server: LakebedServer, db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(3))
    with pytest.raises(errors.NotFound, match="nope") as caught:
        db.table("nope").scan().to_arrow()
    assert caught.value.request_id
    assert caught.value.kind == "not_found"
    with pytest.raises(errors.AlreadyExists, match=table):
        db.create_table(table, numbered(3))
    with pytest.raises(errors.NotFound, match="version"):
        made.count(version=99)
    with pytest.raises(errors.InvalidArgument):
        made.scan(filter="id >").to_arrow()
    with pytest.raises(errors.InvalidArgument, match="nope"):
        made.update("nope = 1", {"name": "x"})
    with pytest.raises(errors.InvalidArgument, match="null"):
        made.upsert([{"id": None, "name": "x"}], on="id")
    with pytest.raises(errors.Unauthenticated):
        lakebed.connect(f"http://{server.http_address}", "wrong").table(table).count()
    with pytest.raises(errors.Unauthenticated):
        lakebed.connect(f"http://{server.http_address}", "wrong").tables()
    with pytest.raises(errors.InvalidArgument, match="ftp"):
        lakebed.connect("ftp://x")
    with pytest.raises(errors.Unavailable):
        lakebed.connect("http://127.0.0.1:1").tables()
    with pytest.raises(errors.NotFound):
        db.jobs.describe("nope")


def test_every_kind_of_the_server_has_its_error() -> None:
    assert set(GRPC_CODES) <= set(errors.BY_KIND)
    for kind, error in errors.BY_KIND.items():
        assert error.kind == kind


def test_a_call_ends_at_its_time_out(server: LakebedServer) -> None:
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        db = lakebed.connect(f"http://{address}", "k", timeout_s=0.3)
        with pytest.raises(errors.DeadlineExceeded):
            db.tables()
        db._http._version = {"flight": address}
        with pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
            db.table("t").scan().plan()
    assert server.running


def test_an_error_of_our_own_is_no_answer_of_the_server(
    db: lakebed.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(timeout_s: float) -> None:  # noqa: ARG001
        raise KeyError("a bug")

    monkeypatch.setattr(db._flight, "options", broken)
    for call in (
        lambda: db.table("t").scan().plan(),
        lambda: db._flight.stream(b"{}"),
        lambda: db._flight.action("x", b""),
        lambda: db.table("t").add({"id": [1]}),
    ):
        with pytest.raises(KeyError, match="a bug"):
            call()


def test_closing_ends_the_sockets(server: LakebedServer) -> None:
    db = connect(server)
    db.tables()
    kept = db._http._local.kept[1]
    assert kept.sock is not None
    db.close()
    assert kept.sock is None
    assert isinstance(db.tables(), list)
    db.close()


# ---- processes, threads, tasks ----------------------------------------------------------------


def count_in_child(db: lakebed.Connection, name: str, out: Any) -> None:
    """What a child sees: a count, or the error's words."""
    try:
        out.send(db.table(name).count())
    except lakebed.LakebedError as error:
        out.send(str(error))


def in_child(way: str, db: lakebed.Connection, table: str) -> object:
    """Counts a table's rows in another process."""
    context = multiprocessing.get_context(way)
    receiving, sending = context.Pipe(False)
    child = context.Process(target=count_in_child, args=(db, table, sending), daemon=True)
    child.start()
    assert receiving.poll(60), "the child hangs"
    answer = receiving.recv()
    child.join(10)
    return answer


def test_a_spawned_process_opens_its_own_connection(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(7))
    assert in_child("spawn", db, table) == 7
    assert pickle.loads(pickle.dumps(made))._http.target == db.target


def test_a_fork_of_a_used_connection_is_refused_and_does_not_hang(
    db: lakebed.Connection, table: str
) -> None:
    db.create_table(table, numbered(7))
    assert "spawn" in str(in_child("fork", db, table))


def test_a_fork_before_the_first_use_is_fine(db: lakebed.Connection, table: str) -> None:
    """In a process of its own, because this one has used gRPC."""
    db.create_table(table, numbered(7))
    program = """
import os, sys, lakebed
db = lakebed.connect(sys.argv[1], sys.argv[2])
child = os.fork()
assert db.table(sys.argv[3]).count() == 7
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    words = [db.target.url, str(db.target.api_key), table]
    subprocess.run([sys.executable, "-c", program, *words], check=True, timeout=60)


def test_many_threads_share_a_connection(db: lakebed.Connection, table: str) -> None:
    made = db.create_table(table, numbered(10))

    def one(n: int) -> str:
        if n % 3 == 0:
            with pytest.raises(errors.NotFound, match=f"missing_{n}"):
                db.table(f"missing_{n}").count()
            return "refused"
        return str(made.count())

    with ThreadPoolExecutor(8) as pool:
        assert sorted(set(pool.map(one, range(60)))) == ["10", "refused"]


def test_with_awaitables(server: LakebedServer, table: str) -> None:
    async def go() -> None:
        url = f"http://{server.http_address}"
        async with await lakebed.connect_async(url, server.admin_key) as db:
            made = await db.create_table(
                table, {"id": [1, 2], "data": [b"x", None]}, blobs=["data"]
            )
            await made.add({"id": [3], "data": [b"y"]})
            counts = await asyncio.gather(*(made.count() for _ in range(10)))
            assert counts == [3] * 10
            batches = [batch async for batch in made.scan(["id"]).to_batches()]
            assert sum(batch.num_rows for batch in batches) == 3
            rows = await (await db.sql(f'SELECT max(id) AS m FROM "{table}"')).to_list()
            assert rows == [{"m": 3}]
            blob = await made.blob("data", 0)
            assert blob is not None
            assert await blob.read() == b"x"
            assert table in await db.tables()
            with pytest.raises(errors.NotFound):
                await db.table("nope").scan().to_arrow()
            await made.drop()

    asyncio.run(go())


# ---- settings, serve --------------------------------------------------------------------------


def test_settings_of_the_environment(
    server: LakebedServer, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setenv("LAKEBED_URL", f"http://{server.http_address}")
    monkeypatch.setenv("LAKEBED_API_KEY", server.admin_key)
    monkeypatch.setenv("LAKEBED_DATABASE", "elsewhere")
    lakebed.connect().create_table(table, numbered(1))
    assert table in lakebed.connect(database="elsewhere").tables()
    assert table not in lakebed.connect(database="default").tables()


def test_the_key_stays_out_of_sight(server: LakebedServer) -> None:
    db = connect(server)
    assert server.admin_key not in f"{db!r} {db.target!r}"


def test_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEBED_BIN", str(built_binary()))
    lake = tmp_path / "lake"
    for allow_anonymous in (False, True):
        with lakebed.serve(lake, allow_anonymous=allow_anonymous) as server:
            db = server.connect()
            db.create_table(f"t{allow_anonymous}", numbered(3))
            assert db.table("tFalse").count() == 3
            url = server.url
        with pytest.raises(errors.Unavailable):
            lakebed.connect(url, "k").tables()
    with pytest.raises(errors.Unavailable, match="ended with"):
        lakebed.serve(lake, args=["--nonsense"]).start()
    with pytest.raises(errors.NotFound, match="there is no"):
        lakebed.serve(binary="/nowhere/lakebed")


def test_tls(make_server: Callable[..., LakebedServer], tmp_path: Path, table: str) -> None:
    authority = Authority(tmp_path / "authority")
    server = make_server(args=authority.pair().flags, authority=authority).start()
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.roots)
    url = f"https://localhost:{server.http_address.rpartition(':')[2]}"
    with lakebed.connect(url, server.admin_key, ca_file=str(roots)) as db:
        made = db.create_table(table, {"id": [1], "data": [b"x"]}, blobs=["data"])
        assert made.count() == 1
        blob = made.blob("data", 0)
        assert blob is not None
        assert blob.read() == b"x"
    with pytest.raises(errors.Unavailable, match="certificate"):
        lakebed.connect(url, server.admin_key).tables()


def test_certificates_that_are_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for file in (empty, tmp_path / "missing.pem"):
        with pytest.raises(errors.InvalidArgument, match=file.name):
            lakebed.connect("https://localhost:1", ca_file=str(file))
