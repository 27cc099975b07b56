"""Resident indexes: columns of vectors that are searched in memory, against comparing every row."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed.errors import NotFound
from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql
from support.vectors import Clusters, distances
from support.waiting import wait_until

WIDTH = 24
K = 10
INDEX_TYPE = "x-lakebed-index-type"
VERSION = "x-lancedb-version"


def vectors(rows: int, seed: int) -> np.ndarray:
    """Vectors around two hundred centres."""
    made = Clusters(np.random.default_rng(1), 200, WIDTH, 0.5)
    made.dice = np.random.default_rng(seed)
    return made.draw(rows).astype(np.float32)


def rows_of(first: int, values: np.ndarray) -> pa.Table:
    """Rows with the ids from `first` on."""
    ids = pa.array(range(first, first + len(values)), pa.int64())
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), WIDTH)
    groups = pa.array([id_ % 100 for id_ in range(first, first + len(values))], pa.int32())
    return pa.table({"id": ids, "group": groups, "vector": column})


class Searched:
    """A table, its rows as they have to be, and searches of it."""

    def __init__(self, server: LakebedServer, name: str, distance: str = "l2") -> None:
        self.server = server
        self.name = name
        self.distance = distance
        self.truth: dict[int, np.ndarray] = {}
        address = f"http://{server.http_address}"
        db = lancedb.connect("db://default", api_key=server.admin_key, host_override=address)
        self.db = db

    def create(self, rows: int) -> None:
        values = vectors(rows, 5)
        self.table = self.db.create_table(self.name, rows_of(0, values))
        self.truth = dict(enumerate(values))

    def add(self, first: int, rows: int, seed: int) -> None:
        values = vectors(rows, seed)
        self.table.add(rows_of(first, values))
        self.truth.update({first + at: value for at, value in enumerate(values)})

    def delete(self, where: str, gone: Callable[[int], bool]) -> None:
        self.table.delete(where)
        self.truth = {id_: value for id_, value in self.truth.items() if not gone(id_)}

    def call(self, verb: str, body: dict[str, Any]) -> Any:
        path = f"/v1/table/{self.name}/resident/{verb}"
        return self.server.http().ok("POST", path, body).json()

    def make_resident(self) -> None:
        self.call("create", {"column": "vector", "distance_type": self.distance})
        self.wait_ready()

    def status(self) -> dict[str, Any]:
        (found,) = self.call("list", {})["resident"]
        assert found["state"] != "failed", found
        return found

    def wait_ready(self) -> None:
        wait_until(lambda: self.status()["state"] == "ready", "the resident index is ready", 60)

    def search(self, query: np.ndarray, **more: Any) -> tuple[pa.Table, Any]:
        body = {"vector": query.tolist(), "k": K, "columns": ["id"]}
        body |= ({"distance_type": self.distance} if self.distance != "l2" else {}) | more
        answer = self.server.http().ok("POST", f"/v1/table/{self.name}/query", body)
        return pa.ipc.open_file(io.BytesIO(answer.body)).read_all(), answer

    def nearest(self, query: np.ndarray, passes: Callable[[int], bool]) -> list[tuple[float, int]]:
        ids = [id_ for id_ in self.truth if passes(id_)]
        if not ids:
            return []
        values = np.stack([self.truth[id_] for id_ in ids])
        far = distances(values, query, self.distance)
        order = np.argsort(far, kind="stable")[:K]
        return [(float(far[at]), ids[at]) for at in order]

    def check(
        self,
        queries: np.ndarray,
        where: str | None = None,
        passes: Callable[[int], bool] = lambda _: True,
        resident: bool = True,
        floor: float = 0.95,
    ) -> set[str]:
        """Searches, compares, and says which ways were taken."""
        found, wanted, ways = 0, 0, set()
        for query in queries:
            rows, answer = self.search(query, **({"filter": where} if where else {}))
            way = answer.headers.get(INDEX_TYPE)
            if resident:
                assert str(way).startswith("RESIDENT_"), way
            ways.add(str(way))
            truth = self.nearest(query, passes)
            assert rows.num_rows == len(truth)
            ids = rows["id"].to_pylist()
            assert len(set(ids)) == len(ids)
            far = rows["_distance"].to_pylist()
            assert far == sorted(far)
            known = {id_: distance for distance, id_ in self.nearest_of(query, ids)}
            for id_, distance in zip(ids, far, strict=True):
                assert id_ in self.truth, "a row that is not there"
                assert passes(id_), "a row that the filter does not let pass"
                assert distance == pytest.approx(known[id_], rel=1e-3, abs=1e-4)
            found += len(set(ids) & {id_ for _, id_ in truth})
            wanted += len(truth)
        assert found >= floor * wanted, f"recall {found / wanted} {ways}"
        return ways

    def nearest_of(self, query: np.ndarray, ids: list[int]) -> list[tuple[float, int]]:
        own, self.truth = self.truth, {id_: self.truth[id_] for id_ in ids}
        try:
            return self.nearest(query, lambda _: True)
        finally:
            self.truth = own


@pytest.fixture
def searched(server: LakebedServer, table: str) -> Searched:
    """A table of 6,000 rows."""
    made = Searched(server, table)
    made.create(6_000)
    return made


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_it_finds_what_comparing_every_row_finds(
    server: LakebedServer, table: str, distance: str
) -> None:
    made = Searched(server, table, distance)
    made.create(6_000)
    made.make_resident()
    status = made.status()
    assert (status["rows"], status["graph_rows"], status["distance"]) == (6_000, 6_000, distance)
    assert status["requested"]
    assert 0 < status["bytes"] < 6_000 * 200
    assert made.check(vectors(40, 9)) == {"RESIDENT_HNSW"}
    assert made.status()["searches"] == 40


def test_one_row_that_goes_from_a_large_file_is_followed_at_once(
    server: LakebedServer, table: str
) -> None:
    made = Searched(server, table)
    made.create(60_000)
    made.make_resident()
    query = made.truth[17]
    made.delete("id = 17", lambda id_: id_ == 17)
    made.check(query[None])
    merged = rows_of(18, vectors(1, 77))
    made.table.merge_insert("id").when_matched_update_all().execute(merged)
    made.truth[18] = vectors(1, 77)[0]
    made.check(made.truth[18][None])
    # Of a hundred groups one passes, and all of its rows are compared.
    _, answer = made.search(query, filter="group = 3")
    assert answer.headers[INDEX_TYPE] == "RESIDENT_EXACT"
    assert answer.headers["x-lakebed-rows-scanned"] == "600"
    # Nothing passes but the row that was changed.
    made.check(made.truth[18][None], "id = 18", lambda id_: id_ == 18)


def test_what_names_no_distance_means_what_it_meant(server: LakebedServer, table: str) -> None:
    made = Searched(server, table, "cosine")
    made.create(3_000)
    made.make_resident()
    query = 3 * vectors(1, 9)[0]

    def found(distance: str | None) -> tuple[list[float], bool]:
        rows, answer = made.search(query, distance_type=distance)
        return rows["_distance"].to_pylist(), answer.headers.get(INDEX_TYPE) == "RESIDENT_HNSW"

    cosine, is_resident = found("cosine")
    assert is_resident
    assert max(cosine) < 1
    # Nobody said so of the table, so that is the distance without any index.
    usual, is_resident = found(None)
    assert not is_resident
    assert usual == found("l2")[0]
    assert min(usual) > 1
    made.table.create_index("vector", config=lancedb.index.HnswSq(distance_type="cosine"))
    wait_until(lambda: made.table.list_indices() != [], "the table's own index", 60)
    made.table.wait_for_index(["vector_idx"])
    assert found(None) == (cosine, True)


def test_answers_look_like_those_of_the_table(searched: Searched) -> None:
    query = vectors(1, 4)[0]
    asked: list[dict[str, Any]] = [
        {},
        {"columns": None},
        {"columns": ["id", "_distance", "group"]},
        {"columns": ["vector", "id"], "with_row_id": True},
        {"columns": None, "with_row_id": True, "k": 3},
        {"columns": ["_rowid", "id"]},
        {"offset": 4, "k": 5},
        {"filter": "group = 7", "k": 200},
        {"filter": "id < 0"},
        {"filter": "id < 0", "columns": ["id"], "with_row_id": True},
    ]
    before = [searched.search(query, bypass_vector_index=True, **more) for more in asked]
    searched.make_resident()
    for more, (rows, _) in zip(asked, before, strict=True):
        again, answer = searched.search(query, **more)
        assert answer.headers[INDEX_TYPE].startswith("RESIDENT_"), more
        assert again.schema.equals(rows.schema), (more, again.schema, rows.schema)
        assert again.drop_columns("_distance").equals(rows.drop_columns("_distance")), more
        far = zip(again["_distance"].to_pylist(), rows["_distance"].to_pylist(), strict=True)
        assert all(one == pytest.approx(other, rel=1e-4) for one, other in far)


def test_what_it_cannot_answer_goes_to_the_table(searched: Searched) -> None:
    searched.make_resident()
    query = vectors(1, 4)[0]
    first = searched.table.version
    others: list[dict[str, Any]] = [
        {"bypass_vector_index": True},
        {"distance_type": "cosine"},
        {"lower_bound": 0.5},
        {"k": 2_000},
        {"filter": "group = 7", "prefilter": False},
        {"columns": {"twice": "id * 2"}},
    ]
    for more in others:
        _, answer = searched.search(query, **more)
        assert not str(answer.headers.get(INDEX_TYPE)).startswith("RESIDENT_"), more
    searched.add(6_000, 10, 6)
    _, answer = searched.search(query)
    assert answer.headers[INDEX_TYPE].startswith("RESIDENT_")
    assert int(answer.headers[VERSION]) == first + 1
    searched.add(6_010, 4_000, 7)
    for _ in range(8):
        searched.add(10_010 + _, 1, 8 + _)
        searched.search(query)
    rows, answer = searched.search(query, version=first)
    assert answer.headers.get(INDEX_TYPE) is None, "a version of long ago"
    assert max(rows["id"].to_pylist()) < 6_000
    wrong = searched.server.http().post(
        f"/v1/table/{searched.name}/query", {"vector": [1.0], "k": 3}
    )
    assert wrong.status == 400


def test_rows_are_found_by_the_next_search(searched: Searched) -> None:
    searched.make_resident()
    for step in range(40):
        first = 6_000 + step * 5
        searched.add(first, 5, 100 + step)
        rows, answer = searched.search(searched.truth[first + 3], k=1)
        assert answer.headers[INDEX_TYPE].startswith("RESIDENT_")
        assert rows["id"].to_pylist() == [first + 3]
    searched.check(vectors(10, 3))
    assert searched.status()["segments"] < 40


def test_changed_and_deleted_rows(searched: Searched) -> None:
    searched.make_resident()
    searched.delete("id % 3 = 0", lambda id_: id_ % 3 == 0)
    searched.check(vectors(10, 3))
    moved = vectors(500, 77)
    rows = rows_of(1_000, moved)
    rows = rows.filter(pa.compute.not_equal(pa.compute.bit_wise_and(rows["id"], 1), 0))
    keep = [id_ for id_ in rows["id"].to_pylist() if id_ in searched.truth]
    rows = rows.filter(pa.compute.is_in(rows["id"], pa.array(keep)))
    merge = searched.table.merge_insert("id").when_matched_update_all()
    merge.when_not_matched_insert_all().execute(rows)
    for id_ in keep:
        searched.truth[id_] = moved[id_ - 1_000]
    searched.check(vectors(10, 4))
    near, _ = searched.search(searched.truth[keep[0]], k=1)
    assert near["id"].to_pylist() == [keep[0]]
    before = searched.status()
    http = searched.server.http()
    job = http.ok("POST", f"/v1/table/{searched.name}/compact", {}).json()
    assert job is not None
    searched.check(vectors(10, 5))
    assert searched.status()["rows"] == len(searched.truth) == before["rows"]


def test_filters_at_every_share(searched: Searched) -> None:
    searched.make_resident()
    ways = set()
    for share in (1, 3, 30, 99):
        where, passes = f"group < {share}", lambda id_, share=share: id_ % 100 < share
        ways |= searched.check(vectors(15, share), where, passes)
    assert searched.check(vectors(5, 3), "id = 77", lambda id_: id_ == 77) == {"RESIDENT_EXACT"}
    assert searched.check(vectors(5, 3), "id < 0", lambda _: False) == {"RESIDENT_EXACT"}
    assert {"RESIDENT_EXACT", "RESIDENT_HNSW_MASKED"} <= ways, ways


def test_filters_that_have_to_do_with_the_query(server: LakebedServer, table: str) -> None:
    made = Searched(server, table)
    values = vectors(20_000, 5)
    far = distances(values, values[0], "l2")
    side = (far > np.median(far)).astype(np.int32)
    rows = rows_of(0, values).set_column(1, "group", pa.array(side))
    made.table = made.db.create_table(table, rows)
    made.truth = dict(enumerate(values))
    made.make_resident()
    ways = set()
    for half in (0, 1):
        # Half of the queries have nothing near by that passes.
        where, passes = f"group = {half}", lambda id_, half=half: side[id_] == half
        ways |= made.check(vectors(40, 7), where, passes)
        ways |= made.check(values[side != half][:40], where, passes)
    assert "RESIDENT_HNSW_MASKED" in ways, ways


def test_equal_zero_and_missing_vectors(server: LakebedServer, table: str) -> None:
    made = Searched(server, table, "cosine")
    values = np.concatenate([np.ones((1_500, WIDTH)), vectors(1_500, 3)]).astype(np.float32)
    rows = rows_of(0, values)
    made.table = made.db.create_table(table, rows)
    none = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(2 * WIDTH, np.float32)), WIDTH, mask=pa.array([True, False])
    )
    made.table.add(rows.slice(0, 2).set_column(2, "vector", none))
    made.make_resident()
    found, answer = made.search(np.ones(WIDTH, np.float32), k=50)
    assert answer.headers[INDEX_TYPE].startswith("RESIDENT_")
    assert found.num_rows == 50
    assert max(found["id"].to_pylist()) < 1_500
    assert max(found["_distance"].to_pylist()) < 1e-5
    for wrong in ([0.0] * WIDTH, [float("inf")] * WIDTH):
        body = {"vector": wrong, "k": 3}
        answer = server.http().post(f"/v1/table/{table}/query", body)
        plain = server.http().post(f"/v1/table/{table}/query", body | {"bypass_vector_index": True})
        # What has no direction is left to lance, which says of it what it always says.
        assert answer.status == plain.status
        assert not str(answer.headers.get(INDEX_TYPE)).startswith("RESIDENT_")


def test_a_restart_reads_it_from_disk(own_server: LakebedServer) -> None:
    server = own_server
    made = Searched(server, "t")
    made.create(3_000)
    made.make_resident()
    made.check(vectors(5, 3))
    folder = Path(server.data) / "_lakebed" / "resident"
    names = {path.name for path in folder.rglob("*.segment")}
    assert len(names) == 1
    server.kill()
    server.start()
    made.search(vectors(1, 1)[0])
    wait_until(lambda: made.call("list", {})["resident"] != [], "it is read", 20)
    made.wait_ready()
    made.check(vectors(10, 4))
    assert {path.name for path in folder.rglob("*.segment")} == names, "built again"
    assert made.status()["requested"]
    # Whatever lies there: it is built again, or read, but never shown wrongly.
    server.kill()
    (segment,) = folder.rglob("*.segment")
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segment.write_bytes(damaged)
    server.start()
    made.check(vectors(5, 4), resident=False)
    wait_until(lambda: made.call("list", {})["resident"] == [], "it is thrown away", 20)
    made.make_resident()
    made.check(vectors(5, 4))


def test_a_dropped_one_and_one_that_is_too_large(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server(env={"LAKEBED_RESIDENT_INDEX_BYTES_MAX": "500000"}).start()
    made = Searched(server, "t")
    made.create(3_000)
    made.make_resident()
    path = "/v1/table/{}/resident/"
    http = server.http()
    other = Searched(server, "u")
    other.create(3_000)
    other.make_resident()
    assert made.call("list", {})["resident"] == [], "the one that was used longest ago is evicted"
    wide = Searched(server, "w")
    wide.create(5_000)
    refused = http.post(path.format("w") + "create", {"column": "vector"})
    assert refused.status == 400
    assert "resident_index_bytes_max" in refused.text
    for column in ("nope", "id"):
        assert http.post(path.format("u") + "create", {"column": column}).status == 400
    assert http.post(
        path.format("u") + "create", {"column": "vector", "distance_type": "dot"}
    ).status in (400, 409)
    other.call("drop", {"column": "vector"})
    assert other.call("list", {})["resident"] == []
    assert http.post(path.format("u") + "drop", {"column": "vector"}).status == 404
    other.check(vectors(3, 3), resident=False)


def test_a_column_that_is_searched_often_gets_one(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server(env={"LAKEBED_RESIDENT_INDEX_AFTER_SEARCHES": "30"}).start()
    made = Searched(server, "t")
    made.create(2_000)
    made.check(vectors(29, 3), resident=False)
    assert made.call("list", {})["resident"] == []
    made.check(vectors(1, 3), resident=False)
    made.wait_ready()
    assert not made.status()["requested"]
    made.check(vectors(5, 4))


@pytest.mark.timeout(7_200)
def test_whatever_happens_it_is_as_good_as_comparing(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    seeds = [random.SystemRandom().randrange(1 << 32) for _ in range(12)] if soak else [1, 2]
    for seed in seeds:
        print("seed", seed, flush=True)
        server = make_server(f"server-{seed}").start()
        fuzz(server, seed, 200 if soak else 60)
        server.kill()


def fuzz(server: LakebedServer, seed: int, steps: int) -> None:
    """Random inserts, deletes, updates, compactions, filters and restarts against the rows."""
    dice = random.Random(seed)
    made = Searched(server, "t", dice.choice(["l2", "cosine"]))
    made.create(2_500)
    made.make_resident()
    following = 2_500
    for step in range(steps):
        match dice.choice(["add", "add", "add", "delete", "update", "compact", "restart"]):
            case "add":
                rows = dice.choice([1, 7, 120, 1_500])
                made.add(following, rows, 1_000 * seed + step)
                following += rows
            case "delete":
                one, of = dice.randrange(9), dice.choice([9, 30])
                made.delete(f"id % {of} = {one}", lambda id_, one=one, of=of: id_ % of == one)
            case "update":
                first, values = dice.randrange(following), vectors(40, 2_000 * seed + step)
                merge = made.table.merge_insert("id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(rows_of(first, values))
                made.truth.update({first + at: value for at, value in enumerate(values)})
                following = max(following, first + 40)
            case "compact":
                server.http().ok("POST", "/v1/table/t/compact", {})
            case "restart":
                server.kill()
                server.start()
                address = f"http://{server.http_address}"
                made.db = lancedb.connect(
                    "db://default", api_key=server.admin_key, host_override=address
                )
                made.table = made.db.open_table("t")
                made.search(vectors(1, 1)[0])
                made.wait_ready()
        share = dice.choice([1, 10, 50, 100])
        made.check(
            vectors(3, step),
            None if share == 100 else f"group < {share}",
            lambda id_, share=share: id_ % 100 < share,
            resident=False,
            floor=0.85,
        )
    made.check(vectors(60, 9), resident=False)


def test_from_python(searched: Searched) -> None:
    server = searched.server
    with lakebed.connect(f"http://{server.http_address}", api_key=server.admin_key) as mine:
        mine_table = mine.table(searched.name)
        mine_table.resident.create("vector", distance="l2")
        ready = lambda: mine_table.resident.list()[0]["state"] == "ready"  # noqa: E731
        wait_until(ready, "it is ready", 60)
        found = mine_table.search(searched.truth[17], k=1).to_arrow()
        assert found["id"].to_pylist() == [17]
        assert mine_table.resident.list()[0]["searches"] > 0
        mine_table.resident.drop("vector")
        with pytest.raises(NotFound):
            mine_table.resident.drop("vector")


def test_other_vectors_under_its_name(searched: Searched) -> None:
    searched.make_resident()
    values = vectors(2_000, 8)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(values[:, :8].reshape(-1)), 8)
    rows = rows_of(0, values).set_column(2, "vector", narrow)
    searched.table = searched.db.create_table(searched.name, rows, mode="overwrite")

    def finds() -> bool:
        body = {"vector": values[5, :8].tolist(), "k": 1, "columns": ["id"]}
        path = f"/v1/table/{searched.name}/query"
        answer = searched.server.http().ok("POST", path, body)
        found = pa.ipc.open_file(io.BytesIO(answer.body)).read_all()
        assert found["id"].to_pylist() == [5]
        return answer.headers.get(INDEX_TYPE) == "RESIDENT_HNSW"

    finds()
    (known,) = searched.call("list", {})["resident"] or [None]
    if known is None:
        searched.call("create", {"column": "vector"})
    wait_until(finds, "it is built anew", 60)


def test_a_set_of_rows_is_a_filter(searched: Searched) -> None:
    searched.make_resident()
    path = f"/v1/table/{searched.name}/row_sets/create"
    for name, share in (("few", 3), ("most", 99)):
        searched.server.http().ok("POST", path, {"name": name, "filter": f"group < {share}"})
        for query in vectors(10, share):
            rows, answer = searched.search(query, row_set=name)
            assert answer.headers[INDEX_TYPE].startswith("RESIDENT_")
            wanted = searched.nearest(query, lambda id_, share=share: id_ % 100 < share)
            assert len({id_ for _, id_ in wanted} & set(rows["id"].to_pylist())) >= 9
    rows, _ = searched.search(vectors(1, 1)[0], row_set="few", filter="group = 1", k=100)
    assert {id_ % 100 for id_ in rows["id"].to_pylist()} == {1}


def test_a_search_by_vector_and_words_asks_it(server: LakebedServer, table: str) -> None:
    made = Searched(server, table)
    values = vectors(2_000, 5)
    words = pa.array([f"word{id_ % 50}" for id_ in range(2_000)])
    made.table = made.db.create_table(table, rows_of(0, values).append_column("text", words))
    made.truth = dict(enumerate(values))
    made.table.create_fts_index("text")
    body = {"full_text_query": {"query": "word7", "columns": ["text"]}}
    before, _ = made.search(values[3], **body)
    made.make_resident()
    after, answer = made.search(values[3], **body)
    assert "RESIDENT_HNSW" in answer.headers[INDEX_TYPE]
    assert after["id"].to_pylist()[:5] == before["id"].to_pylist()[:5]


def test_from_sql(searched: Searched, sql: Sql) -> None:
    searched.make_resident()
    query = vectors(1, 4)[0]
    found, _ = searched.search(query)
    before = searched.status()["searches"]
    text = ", ".join(str(number) for number in query)
    searching = f"vector_search('{searched.name}', 'vector', ARRAY[{text}], {K})"
    rows = sql.query(f"SELECT id FROM {searching} ORDER BY _distance")
    assert rows["id"].to_pylist() == found["id"].to_pylist()
    assert searched.status()["searches"] > before


def test_a_branch_that_is_made_anew(searched: Searched, lake: Lake) -> None:
    """The same numbers of versions, and other rows."""
    http = searched.server.http()
    path = f"/v1/table/{searched.name}/"
    found = []
    for first in (50_000, 60_000):
        http.ok("POST", path + "branches/create", {"name": "exp"})
        # Their ids are the same as well.
        values = vectors(20, 3)[:: 1 if first == 50_000 else -1]
        receipt = lake.write(searched.name, rows_of(first, values), branch="exp")
        searched.call("create", {"column": "vector", "branch": "exp"})
        wait_until(lambda: searched.status()["state"] == "ready", "it is ready", 60)
        rows, answer = searched.search(vectors(20, 3)[4], k=1, branch="exp")
        found.append((receipt["version"], rows["id"].to_pylist()))
        if first == 50_000:
            assert answer.headers[INDEX_TYPE] == "RESIDENT_HNSW"
            http.ok("POST", path + "branches/delete", {"name": "exp"})
    (version, ids), (again, others) = found
    assert version == again, "the test is about equal numbers"
    assert (ids, others) == ([50_004], [60_015])
