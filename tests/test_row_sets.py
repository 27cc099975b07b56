"""Row sets against the built server: reads with one are compared with a model of it in numpy."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed import errors
from lakebed.loader import Loader, Snapshot
from support import readme
from support.cli import Cli
from support.lancedb import connect as connect_lancedb
from support.server import LakebedServer
from support.sql import Sql
from support.vectors import Clusters, distances
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Jobs, Worker

ROWS = 100_000
WIDTH = 16
K = 10
SHARES = [0.0001, 0.01, 0.5, 0.99]
WORDS = ["apple", "brick", "cloud", "delta", "ember", "frost", "grove", "haven"]


@dataclass(frozen=True)
class Data:
    """The rows of the large table; the row with id n is at place n."""

    numbers: np.ndarray
    vectors: np.ndarray
    texts: np.ndarray

    def chosen(self, share: float) -> np.ndarray:
        """The places of the rows of a set of about this share."""
        return np.flatnonzero(self.numbers < share)


def connect(server: LakebedServer) -> lakebed.Connection:
    """A connection with the admin key."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key)


def set_name(share: float) -> str:
    """What the set of a share is called."""
    return f"share_{share}"


def rows_of(data: Data, start: int, end: int) -> pa.Table:
    """Some rows as Arrow."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(data.vectors[start:end].ravel()), WIDTH)
    return pa.table(
        {
            "id": np.arange(start, end),
            "number": data.numbers[start:end],
            "text": data.texts[start:end],
            "vector": vectors,
        }
    )


@pytest.fixture(scope="module")
def data() -> Data:
    dice = np.random.default_rng(7)
    vectors = Clusters(dice, 50, WIDTH, noise=0.5).draw(ROWS)
    texts = np.array([" ".join(dice.choice(WORDS, 3)) for _ in range(ROWS)])
    return Data(dice.random(ROWS), vectors, texts)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lakebed.Connection]:
    """A server of its own for the large table."""
    server = LakebedServer(tmp_path_factory.mktemp("sets") / "server").start()
    with connect(server) as db:
        db.server = server  # type: ignore[attr-defined]
        yield db
    server.kill()
    server.check_log()


@pytest.fixture(scope="module")
def large(data: Data, db: lakebed.Connection) -> lakebed.Table:
    """A table of several fragments, some rows deleted, with a set for each share. A text index and
    later rows that it does not cover."""
    table = db.create_table("large", rows_of(data, 0, 60_000))
    remote = remote_table(db, "large")
    remote.create_fts_index("text", with_position=True)
    wait_until(lambda: "text_idx" in [i.name for i in remote.list_indices()], "text index", 60)
    table.add(rows_of(data, 60_000, ROWS))
    for share in SHARES:
        made = table.row_sets.create(set_name(share), filter=f"number < {share}")
        assert made.rows == len(data.chosen(share))
    table.delete("id % 10 = 3")
    return table


def remote_table(db: lakebed.Connection, name: str) -> Any:
    """The same table for the LanceDB client, which builds indexes."""
    return connect_lancedb(db.server).open_table(name)  # type: ignore[attr-defined]


def living(places: np.ndarray) -> np.ndarray:
    """Without what `large` deleted after its sets were made."""
    return places[places % 10 != 3]


@pytest.mark.parametrize("share", SHARES)
def test_reads_have_exactly_the_rows_of_the_set(
    data: Data, large: lakebed.Table, share: float
) -> None:
    name, wanted = set_name(share), living(data.chosen(share))
    assert large.scan(["id"], row_set=name).to_arrow()["id"].to_pylist() == wanted.tolist()
    assert large.count(row_set=name) == len(wanted)
    even = wanted[wanted % 2 == 0]
    found = large.scan(["id"], filter="id % 2 = 0", row_set=name).to_arrow()["id"]
    assert found.to_pylist() == even.tolist()
    assert large.count("id % 2 = 0", row_set=name) == len(even)
    found = large.scan(["id"], row_set=name, limit=5, offset=2).to_arrow()["id"]
    assert found.to_pylist() == wanted[2:7].tolist()
    # Expressions, and the columns that are read beside.
    found = large.scan({"twice": "id * 2", "v": "vector"}, row_set=name, limit=20).to_arrow()
    assert found["twice"].to_pylist() == (wanted[:20] * 2).tolist()
    found = np.array(found["v"].to_pylist(), dtype=np.float32).reshape(-1, WIDTH)
    assert (found == data.vectors[wanted[:20]]).all()


def check_vector_search(data: Data, large: lakebed.Table, share: float, **options: Any) -> None:
    """Each search finds k rows of the set, and those that are nearest."""
    name, wanted = set_name(share), living(data.chosen(share))
    dice = np.random.default_rng(3)
    for query in Clusters(dice, 50, WIDTH, noise=0.5).draw(8):
        found = large.search(query, k=K, columns=["id"], row_set=name, **options).to_arrow()
        ids = found["id"].to_numpy()
        assert len(ids) == min(K, len(wanted))
        assert set(ids) <= set(wanted.tolist())
        far = distances(data.vectors[wanted], query, "l2")
        near = wanted[np.argsort(far, kind="stable")[:K]]
        assert set(ids) == set(near.tolist())
        # With a filter as well, that comes before or after the search.
        both = large.search(query, k=3, where="id % 2 = 0", columns=["id"], row_set=name)
        few = both.to_arrow()["id"].to_numpy()
        even = wanted[wanted % 2 == 0]
        assert len(few) == min(3, len(even))
        assert set(few) <= set(even.tolist())
        after = large.search(
            query,
            k=K,
            where="id % 2 = 0",
            prefilter=False,
            columns=["id"],
            row_set=name,
            **options,
        )
        assert set(after.to_arrow()["id"].to_pylist()) <= set(ids.tolist()) & set(even.tolist())


@pytest.mark.parametrize("share", SHARES)
def test_a_vector_search_without_an_index(data: Data, large: lakebed.Table, share: float) -> None:
    check_vector_search(data, large, share)


@pytest.mark.parametrize("share", SHARES)
def test_a_text_search(data: Data, large: lakebed.Table, share: float) -> None:
    name, alive = set_name(share), living(data.chosen(share))
    matching = {n for n in alive.tolist() if "ember" in data.texts[n].split()}
    found = large.search(words="ember", column="text", k=ROWS, columns=["id"], row_set=name)
    assert set(found.to_arrow()["id"].to_pylist()) == matching
    few = large.search(words="ember", column="text", k=K, columns=["id"], row_set=name)
    few_ids = few.to_arrow()["id"].to_pylist()
    assert len(few_ids) == min(K, len(matching))
    assert set(few_ids) <= matching
    both = {
        "boolean": {
            "must": [{"match": {"column": "text", "terms": "ember"}}],
            "should": [],
            "must_not": [{"match": {"column": "text", "terms": "frost"}}],
        }
    }
    found = large.search(words=both, k=ROWS, columns=["id"], row_set=name)
    without = {n for n in matching if "frost" not in data.texts[n].split()}
    assert set(found.to_arrow()["id"].to_pylist()) == without
    phrase = {"phrase": {"column": "text", "terms": "ember frost"}}
    found = large.search(words=phrase, k=ROWS, columns=["id"], row_set=name)
    beside = {n for n in matching if "ember frost" in data.texts[n]}
    assert set(found.to_arrow()["id"].to_pylist()) == beside
    # By vector and by words at once.
    query = data.vectors[0].tolist()
    hybrid = large.search(
        query,
        k=K,
        columns=["id"],
        row_set=name,
        full_text_query={"query": "ember", "columns": ["text"]},
    )
    assert set(hybrid.to_arrow()["id"].to_pylist()) <= set(alive.tolist())


@pytest.mark.parametrize("share", SHARES)
def test_sql_reads_and_searches_a_set(
    data: Data, db: lakebed.Connection, large: lakebed.Table, share: float
) -> None:
    assert large.name == "large"
    name, wanted = set_name(share), living(data.chosen(share))
    rows = db.sql(f"SELECT count(*) AS n, sum(id) AS s FROM row_set('large', '{name}')").to_list()
    assert rows == [{"n": len(wanted), "s": int(wanted.sum())}]
    rows = db.sql(
        f"SELECT s.id, s._rowid FROM row_set('large', '{name}@1') AS s WHERE s.id < 5000 ORDER BY 1"
    ).to_list()
    assert [row["id"] for row in rows] == wanted[wanted < 5000].tolist()
    rows = db.sql(
        f"SELECT id FROM text_search('large', 'ember', {ROWS}, '{{\"row_set\":\"{name}\"}}')"
    ).to_list()
    matching = {n for n in wanted.tolist() if "ember" in data.texts[n].split()}
    assert {row["id"] for row in rows} == matching


@pytest.mark.parametrize("share", SHARES)
def test_a_vector_search_with_an_index(
    data: Data, db: lakebed.Connection, large: lakebed.Table, share: float
) -> None:
    remote = remote_table(db, large.name)
    if "vector_idx" not in [index.name for index in remote.list_indices()]:
        remote.create_index(
            "l2", vector_column_name="vector", index_type="IVF_FLAT", num_partitions=64
        )

        def is_built() -> bool:
            stats = remote.index_stats("vector_idx")
            return stats is not None and stats.num_unindexed_rows == 0

        wait_until(is_built, "an index", 120, poll_s=0.2)
    # Of all partitions: what lies in a partition that is not looked into is no matter of the set.
    check_vector_search(data, large, share, nprobes=64)
    # Several vectors in one search, each with rows of its own.
    queries = data.vectors[:3].tolist()
    found = large.search(queries, k=K, columns=["id"], row_set=set_name(share)).to_arrow()
    wanted = living(data.chosen(share))
    assert found.num_rows == 3 * min(K, len(wanted))
    assert set(found["id"].to_pylist()) <= set(wanted.tolist())


# ---- how sets are made ------------------------------------------------------------------------


@pytest.fixture
def small(server: LakebedServer, table: str) -> Iterator[lakebed.Table]:
    """Rows 0 to 99 with vectors on a line."""
    with connect(server) as db:
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(np.repeat(np.arange(100, dtype=np.float32), 2)), 2
        )
        rows = pa.table(
            {
                "id": np.arange(100),
                "text": [f"row {n} {WORDS[n % 8]}" for n in range(100)],
                "vector": vectors,
            }
        )
        yield db.create_table(table, rows)


def ids(table: lakebed.Table, row_set: str, **options: Any) -> list[int]:
    """The ids of the rows that a set has by now, sorted."""
    return sorted(table.scan(["id"], row_set=row_set, **options).to_arrow()["id"].to_pylist())


def test_the_algebra_of_sets(small: lakebed.Table) -> None:
    sets = small.row_sets
    sets.create("low", filter="id < 50", description="the first half")
    sets.create("even", filter="id % 2 = 0")
    either = sets.create("either", union=["low", "even@1"])
    assert (either.rows, either.made_from) == (75, {"union": ["low@1", "even@1"]})
    assert ids(small, "either") == sorted({*range(50), *range(0, 100, 2)})
    sets.create("both", intersect=["low", "even"])
    assert ids(small, "both") == list(range(0, 50, 2))
    sets.create("rest", difference=["either", "low", "both"])
    assert ids(small, "rest") == list(range(50, 100, 2))
    # Names can stay behind a new version of the same set.
    grown = sets.create("low", union=["low", "rest"])
    assert (str(grown), ids(small, "low@1"), len(ids(small, "low"))) == (
        "low@2",
        list(range(50)),
        75,
    )
    assert [*map(str, sets.list())] == [
        "both@1",
        "either@1",
        "even@1",
        "low@2",
        "rest@1",
    ]
    assert [str(found) for found in sets.list(all_versions=True) if found.name == "low"] == [
        "low@1",
        "low@2",
    ]
    described = sets.describe("low@1")
    assert (described.description, described.rows) == ("the first half", 50)
    assert described.made_from == {"filter": "id < 50"}
    with pytest.raises(errors.NotFound, match=r"`lowe` does not exist; nearest: low"):
        sets.create("x", union=["lowe", "even"])
    with pytest.raises(errors.InvalidArgument, match="takes 2"):
        sets.create("x", union=["low"])


def test_sets_of_ids_searches_and_statements(small: lakebed.Table, table: str) -> None:
    sets = small.row_sets
    shown = small.scan(["id", "_rowid"]).to_arrow()
    of_id = dict(zip(shown["id"].to_pylist(), shown["_rowid"].to_pylist(), strict=True))
    made = sets.create("picked", row_ids=[of_id[n] for n in (3, 99, 7, 3)])
    assert (made.rows, ids(small, "picked")) == (3, [3, 7, 99])
    assert list(sets.rows("picked")) == sorted(of_id[n] for n in (3, 7, 99))
    with pytest.raises(errors.NotFound, match="row id 4711"):
        sets.create("picked", row_ids=[of_id[1], 4_711])
    assert sets.create("none", row_ids=[]).rows == 0
    assert ids(small, "none") == []
    assert small.search([1.0, 1.0], k=3, row_set="none").count() == 0

    near = sets.create("near", query={"vector": [10.2, 10.2], "k": 3, "filter": "id <> 10"})
    assert ids(small, "near") == [9, 11, 12]
    assert near.made_from["query"]["k"] == 3
    # A search among the rows of a search.
    assert ids(
        small, str(sets.create("nearer", query={"vector": [0.0, 0.0], "k": 1, "row_set": "near"}))
    ) == [9]

    sets.create("sql", sql=f'SELECT _rowid FROM "{table}" WHERE id % 30 = 1 ORDER BY id')
    assert ids(small, "sql") == [1, 31, 61, 91]
    with pytest.raises(errors.InvalidArgument, match="_rowid"):
        sets.create("sql", sql=f'SELECT id FROM "{table}"')
    with pytest.raises(errors.InvalidArgument, match="change"):
        sets.create("sql", sql=f'DELETE FROM "{table}"')
    for wrong in [{}, {"filter": "id = 1", "row_ids": [1]}, {"filter": "nothing = 1"}]:
        with pytest.raises((errors.InvalidArgument, errors.NotFound)):
            sets.create("wrong", **wrong)
    with pytest.raises(errors.InvalidArgument, match="begins with a dot"):
        sets.create(".x", filter="id = 1")
    # A split by a hash: whole, and no row on both sides.
    train = "abs(id * 2654435761 % 1000) < 800"
    sets.create("train", filter=train)
    sets.create("test", filter=f"NOT ({train})")
    halves = ids(small, "train"), ids(small, "test")
    assert sorted(halves[0] + halves[1]) == list(range(100))
    assert 60 < len(halves[0]) < 95


def test_versions_are_fixed_and_never_used_again(small: lakebed.Table) -> None:
    sets = small.row_sets
    for n in (10, 20, 30):
        sets.create("s", filter=f"id < {n}")
    assert sets.drop("s@3") == 1
    assert str(sets.create("s", filter="id < 5")) == "s@4"
    assert [len(ids(small, f"s@{n}")) for n in (1, 2, 4)] == [10, 20, 5]
    with pytest.raises(errors.NotFound, match="no version 3; it has 1, 2, 4"):
        ids(small, "s@3")
    assert sets.drop("s") == 3
    for call in (lambda: sets.describe("s"), lambda: sets.drop("s"), lambda: ids(small, "s")):
        with pytest.raises(errors.NotFound, match="`s` does not exist"):
            call()
    assert str(sets.create("s", filter="id < 1")) == "s@5"


def test_two_creators_at_once_get_a_version_each(small: lakebed.Table) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda n: small.row_sets.create("s", filter=f"id < {n}"), range(1, 17))
        )
    assert sorted(found.version for found in made) == list(range(1, 17))
    for found in made:
        assert len(ids(small, str(found))) == found.rows


def test_a_ticket_keeps_to_its_version_of_the_set(small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id < 10")
    plan = small.scan(["id"], row_set="s").plan()
    near = small.search([99.0, 99.0], k=3, columns=["id"], row_set="s").plan()
    small.row_sets.create("s", filter="id >= 90")
    read = [pa.Table.from_batches(small._flight.stream(ticket)) for ticket in plan.tickets]
    assert pa.concat_tables(read)["id"].to_pylist() == list(range(10))
    found = pa.Table.from_batches(small._flight.stream(near.tickets[0]))["id"].to_pylist()
    assert sorted(found) == [7, 8, 9]
    assert ids(small, "s") == list(range(90, 100))


def test_rows_keep_their_place_in_a_set(server: LakebedServer, small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id < 20")
    small.update("id = 5", {"text": "changed"})
    small.upsert([{"id": 6, "text": "also"}, {"id": 500, "text": "new"}], "id")
    small.delete("id = 7")
    small.add(small.scan(filter="id = 99").to_arrow())
    server.http().ok("POST", f"/v1/table/{small.name}/compact", {})
    assert ids(small, "s") == [n for n in range(20) if n != 7]
    changed = small.scan(["text"], row_set="s", filter="id in (5, 6)").to_list()
    assert sorted(row["text"] for row in changed) == ["also", "changed"]
    assert small.row_sets.describe("s").rows == 20
    # An older version of the table has the row that was deleted since.
    assert ids(small, "s", version=1) == list(range(20))


def test_sets_go_with_their_table(server: LakebedServer, small: lakebed.Table, table: str) -> None:
    small.row_sets.create("s", filter="id < 10")
    system = server.data / "_lakebed"
    assert list((system / "row_sets").rglob("*.json"))
    rows = small.scan().to_arrow()
    small.drop()
    with connect(server) as db:
        again = db.create_table(table, rows)
        assert again.row_sets.list() == []
        with pytest.raises(errors.NotFound, match="row set"):
            ids(again, "s")
        assert str(again.row_sets.create("s", filter="id < 3")) == "s@1"
        assert len(ids(again, "s")) == 3


def test_sets_outlive_a_restart_and_a_backup(
    own_server: LakebedServer, tmp_path: Path, make_server: Any
) -> None:
    with connect(own_server) as db:
        db.create_table("t", [{"id": n} for n in range(100)]).row_sets.create("s", filter="id < 9")
    own_server.kill()
    own_server.start()
    with connect(own_server) as db:
        assert ids(db.table("t"), "s@1") == list(range(9))
        cli = Cli(own_server, tmp_path)
        cli.ok("backup", "--to", str(tmp_path / "copy"))
    restored = make_server("restored")
    cli.ok("restore", "--from", str(tmp_path / "copy"), "--data", str(restored.data))
    restored.start()
    with connect(restored) as db:
        assert ids(db.table("t"), "s") == list(range(9))
        assert str(db.table("t").row_sets.create("s", filter="id < 3")) == "s@2"


def test_a_set_belongs_to_its_branch(server: LakebedServer, small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id < 9")
    http = server.http()
    http.ok("POST", f"/v1/table/{small.name}/branches/create", {"name": "exp"})
    body = {"predicate": "id >= 0", "branch": "exp", "row_set": "s"}
    refused = http.post(f"/v1/table/{small.name}/count_rows", body)
    assert refused.status == 400
    assert "branch `main`" in refused.text
    small.row_sets.create("on_exp", filter="id < 5", branch="exp")
    body["row_set"] = "on_exp"
    assert http.ok("POST", f"/v1/table/{small.name}/count_rows", body).json() == 5


def test_who_may_make_and_read_sets(server: LakebedServer, small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id < 9")
    key = server.http().ok("POST", "/v1/keys", {"name": "reader", "role": "read"}).json()["key"]
    with lakebed.connect(f"http://{server.http_address}", key) as db:
        reader = db.table(small.name)
        assert len(ids(reader, "s")) == 9
        assert reader.row_sets.describe("s").rows == 9
        for change in (
            lambda: reader.row_sets.create("s", filter="id < 2"),
            lambda: reader.row_sets.drop("s"),
        ):
            with pytest.raises(errors.Denied):
                change()


def test_limits_are_named(make_server: Any) -> None:
    limits = {"LAKEBED_LIMITS_ROW_SETS_MAX": "2", "LAKEBED_LIMITS_ROW_SET_BYTES_MAX": "1024"}
    server = make_server(env=limits).start()
    with connect(server) as db:
        table = db.create_table("t", [{"id": n} for n in range(20_000)])
        with pytest.raises(errors.InvalidArgument, match="row_set_bytes_max = 1024"):
            table.row_sets.create("s", filter="id % 7 < 3")
        table.row_sets.create("s", filter="id < 10000")
        table.row_sets.create("s", filter="id < 100")
        with pytest.raises(errors.InvalidArgument, match="row_sets_max = 2"):
            table.row_sets.create("other", filter="id < 100")


# ---- the other doors --------------------------------------------------------------------------


def test_over_http(server: LakebedServer, small: lakebed.Table) -> None:
    http, path = server.http(), f"/v1/table/{small.name}"
    made = http.ok("POST", f"{path}/row_sets/create", {"name": "s", "filter": "id < 30"}).json()
    assert (made["version"], made["rows"], made["branch"]) == (1, 30, None)
    answer = http.post(f"{path}/query", {"k": 1_000, "columns": ["id"], "row_set": "s"})
    found = pa.ipc.open_file(answer.body).read_all()["id"].to_pylist()
    assert found == list(range(30))
    answer = http.post(
        f"{path}/query", {"vector": [99.0, 99.0], "k": 2, "columns": ["id"], "row_set": "s@1"}
    )
    assert sorted(pa.ipc.open_file(answer.body).read_all()["id"].to_pylist()) == [28, 29]
    pages = []
    after = None
    while page := http.ok(
        "POST", f"{path}/row_sets/rows", {"name": "s", "limit": 7, "after": after}
    ).json()["row_ids"]:
        pages += page
        after = page[-1]
    assert pages == sorted(small.scan(["_rowid"], row_set="s").to_arrow()["_rowid"].to_pylist())
    raw = http.post(f"{path}/row_sets/rows", {"name": "s", "format": "roaring"}).body
    # One bitmap, of the ids whose high half is 0.
    assert raw == small.row_sets.roaring("s")
    assert int.from_bytes(raw[:8], "little") == 1
    missing = http.post(f"{path}/query", {"k": 1, "row_set": "t"})
    assert missing.status == 404
    for body in ({"k": 1, "row_set": "s@x"}, {"k": 1, "row_set": "../s"}, {"k": 1, "row_set": 3}):
        assert http.post(f"{path}/query", body).status == 400
    listed = http.ok("GET", f"{path}/row_sets/list").json()["row_sets"]
    assert [(one["name"], one["rows"]) for one in listed] == [("s", 30)]


def test_on_the_command_line(server: LakebedServer, small: lakebed.Table, tmp_path: Path) -> None:
    cli, table = Cli(server, tmp_path), small.name
    said = cli.ok("row-sets", "create", table, "low", "--where", "id < 40")
    assert said == f"row set low@1 of {table} has 40 rows\n"
    (tmp_path / "ids").write_text(cli.ok("row-sets", "rows", table, "low"))
    assert len((tmp_path / "ids").read_text().splitlines()) == 40
    made = cli.json("row-sets", "create", table, "same", "--ids", str(tmp_path / "ids"))
    assert (made["rows"], made["version"]) == (40, 1)
    cli.ok("row-sets", "create", table, "none", "--difference", "low,same")
    listed = cli.ok("row-sets", "list", table)
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [
        ["low", "1", "40"],
        ["none", "1", "0"],
        ["same", "1", "40"],
    ]
    assert json.loads(cli.ok("row-sets", "describe", table, "none"))["made_from"] == {
        "difference": ["low@1", "same@1"]
    }
    asked = ("--vector", "[99, 99]", "--k", "2", "--columns", "id", "--format", "json")
    found = cli.ok("search", table, "--row-set", "low", *asked).splitlines()
    assert sorted(json.loads(row)["id"] for row in found) == [38, 39]
    cli.ok("row-sets", "drop", table, "low@1", "--yes")
    assert "does not exist" in cli.fails(1, "row-sets", "describe", table, "low")
    cli.fails(2, "row-sets", "create", table, "low")


def test_over_flight_sql(small: lakebed.Table, sql: Sql) -> None:
    small.row_sets.create("s", filter="id < 30")
    table = small.name
    counted = f"SELECT count(*) FROM row_set('{table}', 's')"
    assert sql.value(counted) == 30
    joined = (
        f"SELECT count(*) FROM row_set('{table}', 's') a JOIN \"{table}\" b ON a.id = b.id + 10"
    )
    assert sql.value(joined) == 20
    small.delete("id < 5")
    assert sql.value(counted) == 25
    assert sql.value(f"SELECT count(*) FROM row_set('{table} VERSION AS OF 1', 's@1')") == 30
    with sql.refuses("NOT_FOUND", "row set"):
        sql.value(f"SELECT count(*) FROM row_set('{table}', 'nothing')")
    with sql.refuses("INVALID_ARGUMENT", "row_set"):
        sql.value(f"SELECT count(*) FROM row_set('{table}')")


def test_the_loader_reads_a_set(small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id % 3 = 0")
    snapshot = Snapshot(small, columns=["id"], row_set="s")
    small.row_sets.create("s", filter="id < 2")
    assert snapshot.rows == 34
    read = [n for batch in Loader(snapshot, batch_rows=8, seed=1) for n in batch["id"].to_pylist()]
    assert sorted(read) == list(range(0, 100, 3))


def test_with_awaitables(server: LakebedServer, small: lakebed.Table) -> None:
    async def run() -> list[int]:
        url = f"http://{server.http_address}"
        async with await lakebed.connect_async(url, server.admin_key) as db:
            table = db.table(small.name)
            await table.row_sets.create("s", filter="id < 3")
            assert [found.rows for found in await table.row_sets.list()] == [3]
            assert len(await table.row_sets.rows("s")) == 3
            found = await table.scan(["id"], row_set="s").to_arrow()
            assert await table.row_sets.drop("s") == 1
            return found["id"].to_pylist()

    assert asyncio.run(run()) == [0, 1, 2]


def test_a_job_fills_the_rows_of_a_set_only(server: LakebedServer, small: lakebed.Table) -> None:
    small.row_sets.create("s", filter="id < 12")
    worker = Worker(server, "w").start()
    try:
        jobs = Jobs(server)
        jobs.wait_for_workers(1)
        options = {"row_set": "s", "where": "id % 2 = 0"}
        job = jobs.submit(small.name, "text", "meaning", TEXT_MODEL, **options)
        # A later version of the set is none of the job's.
        small.row_sets.create("s", filter="id < 50")
        ended = jobs.wait(job)
        assert ended["job_state"] == "DONE", ended
        assert ended["spec"]["row_set"] == "s@1"
        filled = small.scan(["id"], filter="meaning IS NOT NULL").to_arrow()["id"].to_pylist()
        assert filled == list(range(0, 12, 2))
        refused = server.http().post(
            "/v1/jobs/submit",
            {
                "table": small.name,
                "input": "text",
                "output": "meaning",
                "model": TEXT_MODEL,
                "row_set": "nothing",
            },
        )
        assert refused.status == 404
    finally:
        worker.kill()


def test_the_page_runs(make_server: Any) -> None:
    server = make_server(env={"LAKEBED_ADMIN_KEY": ""})
    (server.work / "home/.config").mkdir(parents=True, exist_ok=True)
    server.start()
    page = readme.ROOT / "docs/row-sets.md"
    printed = readme.run(server.http_address, server.work / "home", page).splitlines()
    assert printed == ["odd@1 500 498", "[497, 503]", "['near@1', 'odd@1', 'rest@1']"]
