"""Aliases of columns of vectors: set, followed by searches, and switched while others search."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed.errors import Conflict, InvalidArgument, NotFound
from support.cli import Cli
from support.flight import Lake
from support.lancedb import connect
from support.server import LakebedServer
from support.small_models import text_model
from support.sql import Sql
from support.worker import Jobs, Worker

WIDTH = 8
ROWS = 200


@pytest.fixture
def db(server: LakebedServer) -> lakebed.Connection:
    """The Python client with the admin's key."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key)


def column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1]
    )


def two_columns() -> pa.Table:
    """Two columns of one width whose order of rows is the opposite."""
    places = np.arange(ROWS, dtype=np.float32)
    old = np.zeros((ROWS, WIDTH), np.float32)
    old[:, 0] = places
    new = np.zeros((ROWS, WIDTH), np.float32)
    new[:, 0] = places[::-1]
    return pa.table(
        {"id": pa.array(range(ROWS), pa.int64()), "old": column(old), "new": column(new)}
    )


ORIGIN = [0.0] * WIDTH
# What is nearest to the origin by each.
FOUND = {"old": [0, 1, 2], "new": [ROWS - 1, ROWS - 2, ROWS - 3]}


def test_every_search_follows_an_alias(
    server: LakebedServer, db: lakebed.Connection, lake: Lake, sql: Sql, table: str
) -> None:
    rows = db.create_table(table, two_columns())
    stock = connect(server).open_table(table)
    http = server.http()
    for name in ("old", "new"):
        rows.vector_aliases.set("live", name)
        assert [row["id"] for row in rows.search(ORIGIN, column="live", k=3).to_list()] == FOUND[
            name
        ]
        query = stock.search(ORIGIN, vector_column_name="live").limit(3)
        assert query.to_arrow()["id"].to_pylist() == FOUND[name]
        found = lake.search({"table": table, "vector": ORIGIN, "vector_column": "live", "k": 3})
        assert found["id"].to_pylist() == FOUND[name]
        text = f"select id from vector_search('{table}', 'live', ARRAY{ORIGIN}, 3)"
        assert sql.query(text)["id"].to_pylist() == FOUND[name]
        body = {"vector": ORIGIN, "vector_column": "live", "k": 3}
        answer = http.ok("POST", f"/v1/table/{table}/query", body)
        assert answer.headers["x-lakebed-vector-column"] == name
    assert rows.vector_aliases.list() == {"live": "new"}
    # The column itself is searched by its own name.
    assert rows.search(ORIGIN, column="old", k=3).to_list()[0]["id"] == 0


def test_the_default_alias_is_used_where_none_is_named(
    server: LakebedServer, db: lakebed.Connection, table: str
) -> None:
    rows = db.create_table(table, two_columns())
    with pytest.raises(InvalidArgument, match="several"):
        rows.search(ORIGIN).to_list()
    rows.vector_aliases.set("default", "new")
    assert [row["id"] for row in rows.search(ORIGIN, k=3).to_list()] == FOUND["new"]
    stock = connect(server).open_table(table)
    assert stock.search(ORIGIN).limit(3).to_arrow()["id"].to_pylist() == FOUND["new"]


def test_an_alias_belongs_to_its_version(db: lakebed.Connection, table: str) -> None:
    rows = db.create_table(table, two_columns())
    first = rows.vector_aliases.set("live", "old")
    rows.vector_aliases.set("live", "new", expected="old")
    found = rows.search(ORIGIN, column="live", k=3, version=first).to_list()
    assert [row["id"] for row in found] == FOUND["old"]
    assert rows.vector_aliases.list(version=first) == {"live": "old"}
    gone = rows.vector_aliases.drop("live")
    assert rows.vector_aliases.list() == {}
    assert rows.vector_aliases.list(version=gone - 1) == {"live": "new"}
    with pytest.raises(NotFound, match="live"):
        rows.search(ORIGIN, column="live").to_list()


def test_of_two_who_switch_one_wins(db: lakebed.Connection, table: str) -> None:
    rows = db.create_table(table, two_columns())
    rows.vector_aliases.set("live", "old")
    with pytest.raises(Conflict, match="points to `old` and not to `new`"):
        rows.vector_aliases.set("live", "old", expected="new")
    with pytest.raises(Conflict, match="no vector alias `other`"):
        rows.vector_aliases.set("other", "old", expected="new")
    outcomes: list[str] = []

    def switch() -> None:
        try:
            rows.vector_aliases.set("live", "new", expected="old")
            outcomes.append("won")
        except Conflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=switch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_columns_and_aliases_keep_together(
    db: lakebed.Connection, server: LakebedServer, table: str
) -> None:
    rows = db.create_table(table, two_columns())
    http = server.http()
    path = f"/v1/table/{table}"
    rows.vector_aliases.set("live", "old")
    refused = http.post(f"{path}/drop_columns", {"columns": ["old"]})
    assert refused.status == 400
    assert "vector alias `live`" in refused.text
    http.ok(
        "POST", f"{path}/alter_columns", {"alterations": [{"path": "old", "rename": "renamed"}]}
    )
    assert rows.vector_aliases.list() == {"live": "renamed"}
    assert rows.search(ORIGIN, column="live", k=1).to_list()[0]["id"] == 0
    # No column may take the name of an alias, nor an alias that of a column.
    taken = {"alterations": [{"path": "id", "rename": "live"}]}
    assert "vector alias" in http.post(f"{path}/alter_columns", taken).text
    added = {"new_columns": [{"name": "live", "expression": "id + 1"}]}
    assert "vector alias" in http.post(f"{path}/add_columns", added).text
    for alias, of, words in [
        ("id", "new", "is a column"),
        ("x", "id", "holds no vectors"),
        ("x", "none", "does not exist"),
        ("a b", "new", "alias name"),
    ]:
        refused = http.post(f"{path}/vector_alias/set", {"alias": alias, "column": of})
        assert 400 <= refused.status < 500, refused.text
        assert words in refused.text
    # Whoever replaces what is noted about the schema leaves them alone.
    http.ok("POST", f"{path}/schema_metadata/update", {"description": "rows"})
    assert rows.vector_aliases.list() == {"live": "renamed"}
    # New rows of the same columns keep them, others do not.
    both = two_columns().rename_columns(["id", "renamed", "other"])
    rows.overwrite(both)
    assert rows.vector_aliases.list() == {"live": "renamed"}
    rows.overwrite(two_columns())
    assert rows.vector_aliases.list() == {}


def test_an_alias_is_in_the_table_and_survives(
    own_server: LakebedServer, tmp_path: Path, table: str
) -> None:
    db = lakebed.connect(f"http://{own_server.http_address}", own_server.admin_key)
    db.create_table(table, two_columns()).vector_aliases.set("default", "new")
    dataset = lance.dataset(own_server.table_path(table))
    assert dataset.schema.metadata[b"lakebed:vector_alias:default"] == b"new"
    own_server.restart()
    rows = lakebed.connect(f"http://{own_server.http_address}", own_server.admin_key).table(table)
    assert rows.vector_aliases.list() == {"default": "new"}
    cli = Cli(own_server, tmp_path)
    assert "default  new" in cli.ok("vector-alias", "list", table)
    said = cli.ok("vector-alias", "set", table, "default", "old", "--expected", "new")
    assert "default points to old, before to new" in said
    cli.fails(1, "vector-alias", "set", table, "default", "old", "--expected", "new")
    found = json.loads(cli.ok("vector-alias", "list", table, "--format", "json"))
    assert found["aliases"] == {"default": {"column": "old", "model": None}}
    cli.ok("vector-alias", "drop", table, "default")
    assert rows.vector_aliases.list() == {}


def test_only_writers_switch(server: LakebedServer, db: lakebed.Connection, table: str) -> None:
    db.create_table(table, two_columns())
    made = server.http().ok("POST", "/v1/keys", {"name": "r", "role": "read"}).json()
    reader = server.http(made["key"])
    body = {"alias": "live", "column": "old"}
    assert reader.post(f"/v1/table/{table}/vector_alias/set", body).status == 403
    assert reader.post(f"/v1/table/{table}/vector_alias/list").status == 200


def test_searches_go_on_while_it_is_switched(
    server: LakebedServer, db: lakebed.Connection, table: str
) -> None:
    """Every answer is wholly by one column: its rows and the column that it names."""
    rows = db.create_table(table, two_columns())
    rows.vector_aliases.set("default", "old")
    stop = threading.Event()
    wrong: list[Any] = []
    seen: dict[str, int] = {"old": 0, "new": 0}

    def by_http() -> None:
        http = server.http()
        while not stop.is_set():
            answer = http.post(f"/v1/table/{table}/query", {"vector": ORIGIN, "k": 3})
            named = answer.headers.get("x-lakebed-vector-column", "none")
            ids = []
            if answer.status == 200:
                ids = pa.ipc.open_file(answer.body).read_all()["id"].to_pylist()
            if ids != FOUND.get(named):
                wrong.append((answer.status, named, ids))
            seen[named] = seen.get(named, 0) + 1

    def by_lancedb() -> None:
        stock = connect(server).open_table(table)
        while not stop.is_set():
            try:
                ids = stock.search(ORIGIN).limit(3).to_arrow()["id"].to_pylist()
            except Exception as error:
                wrong.append(error)
                continue
            if ids not in FOUND.values():
                wrong.append(ids)

    threads = [threading.Thread(target=run) for run in [by_http] * 4 + [by_lancedb] * 4]
    for thread in threads:
        thread.start()
    for turn in range(30):
        before, after = ("old", "new") if turn % 2 == 0 else ("new", "old")
        rows.vector_aliases.set("default", after, expected=before)
        ids = [row["id"] for row in rows.search(ORIGIN, k=3).to_list()]
        assert ids == FOUND[after]
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(seen.values()) > 0, seen


@pytest.fixture(scope="module")
def worker(
    module_server: LakebedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """One worker."""
    made = Worker(module_server, "aliases", cache=tmp_path_factory.mktemp("cache")).start()
    Jobs(module_server).wait_for_workers(1)
    yield made
    made.kill()


@pytest.mark.usefixtures("worker")
def test_a_text_is_embedded_by_the_model_of_the_column(
    db: lakebed.Connection, table: str, tmp_path: Path
) -> None:
    """The widths differ too, so that a vector of the other model could not be searched for."""
    db.models.register("words-a", text_model(tmp_path / "a", seed=1))
    db.models.register("words-b", text_model(tmp_path / "b", seed=2))
    texts = ["red car", "blue cat", "green", "red red cat"]
    rows = db.create_table(table, {"id": [*range(len(texts))], "text": texts})
    for name, model in (("v1", "words-a"), ("v2", "words-b")):
        db.jobs.submit(table, input="text", output=name, model=model).wait(60)
    for name in ("v1", "v2", "v1"):
        rows.vector_aliases.set("default", name)
        found = rows.search(text="blue cat", k=1).to_list()
        assert found[0]["id"] == 1
        assert found[0]["_distance"] == pytest.approx(0.0, abs=1e-5)
