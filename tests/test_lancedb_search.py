"""Searches through the unmodified LanceDB client: by vector, by text, both, and plain reads."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS, BTree, IvfPq
from lancedb.query import BooleanQuery, BoostQuery, MatchQuery, MultiMatchQuery, Occur, PhraseQuery
from lancedb.remote.errors import HttpError
from lancedb.rerankers import RRFReranker

from support.lancedb import connect, connect_async
from support.server import LakebedServer
from support.sql import Sql
from support.vectors import nearest
from support.waiting import wait_until

WIDTH = 16
ROWS = 2_000
WORDS = ["red", "green", "blue", "car", "truck", "bicycle", "street", "bridge"]


@pytest.fixture
def db(server: LakebedServer) -> Any:
    """A connection to the database that the tests of this module share."""
    return connect(server)


def scenes(first: int, rows: int) -> pa.Table:
    """Rows with a key, a caption of three words, a label and a vector."""
    dice = np.random.default_rng(first)
    vectors = dice.random((rows, WIDTH), dtype=np.float32)
    captions = [" ".join(dice.choice(WORDS, 3, replace=False)) for _ in range(rows)]
    return pa.table(
        {
            "id": pa.array(range(first, first + rows), pa.int64()),
            "caption": captions,
            "label": pa.array(dice.integers(0, 5, rows), pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
        }
    )


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """What the table of most tests holds."""
    return scenes(0, ROWS)


@pytest.fixture(scope="module")
def shared(module_server: LakebedServer, rows: pa.Table) -> str:
    """A table without indexes that no test changes."""
    connect(module_server).create_table("scenes", rows)
    return "scenes"


def vectors_of(rows: pa.Table) -> np.ndarray:
    return rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)


def nearest_ids(rows: pa.Table, query: np.ndarray, k: int, metric: str = "l2") -> list[int]:
    """The keys of the nearest rows."""
    places = nearest(vectors_of(rows), query, k, metric)
    return rows["id"].to_numpy()[places].tolist()


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_exact_search_is_exact(db: Any, shared: str, rows: pa.Table, metric: str) -> None:
    query = np.random.default_rng(5).random(WIDTH, dtype=np.float32)
    search = db.open_table(shared).search(query).distance_type(metric).limit(7)
    found = search.to_arrow()
    assert found["id"].to_pylist() == nearest_ids(rows, query, 7, metric)
    assert found["_distance"].to_pylist() == sorted(found["_distance"].to_pylist())


def test_the_filter_comes_first(db: Any, shared: str, rows: pa.Table) -> None:
    query = np.full(WIDTH, 0.5, dtype=np.float32)
    table = db.open_table(shared)
    kept = rows.filter(pa.compute.equal(rows["label"], 3))
    found = table.search(query).where("label = 3").limit(9).select(["id", "label"]).to_arrow()
    assert found["id"].to_pylist() == nearest_ids(kept, query, 9)
    assert set(found["label"].to_pylist()) == {3}
    after = table.search(query).where("label = 3", prefilter=False).limit(9).to_arrow()
    assert after.num_rows < 9, "a filter after the search leaves fewer rows"


def test_bounds_offset_and_columns(db: Any, shared: str) -> None:
    query = np.full(WIDTH, 0.5, dtype=np.float32)
    table = db.open_table(shared)
    ten = table.search(query).limit(10).to_arrow()
    assert table.search(query).limit(5).offset(5).to_arrow()["id"] == ten["id"].slice(5)
    bound = ten["_distance"][4].as_py()
    below = table.search(query).distance_range(upper_bound=bound).limit(100).to_arrow()
    assert below.num_rows == 4
    named = table.search(query).select({"twice": "id * 2", "id": "id"}).limit(3).to_arrow()
    assert {"twice", "id"} < set(named.column_names)
    assert named["twice"].to_pylist() == [number * 2 for number in named["id"].to_pylist()]
    with_ids = table.search(query).with_row_id(True).limit(3).to_arrow()
    assert with_ids["_rowid"].type == pa.uint64()


def test_several_vectors_at_once(db: Any, shared: str, rows: pa.Table) -> None:
    queries = np.random.default_rng(6).random((3, WIDTH), dtype=np.float32)
    found = db.open_table(shared).search(queries).limit(4).to_arrow()
    for number in range(3):
        mine = found.filter(pa.compute.equal(found["query_index"], number))
        assert mine["id"].to_pylist() == nearest_ids(rows, queries[number], 4)


def test_plain_reads(db: Any, shared: str, rows: pa.Table) -> None:
    table = db.open_table(shared)
    assert table.search().where("id < 5").to_arrow()["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table.head(4)["id"].to_pylist() == [0, 1, 2, 3]
    assert table.search().to_arrow().num_rows == ROWS
    assert table.count_rows("label = 1") == rows["label"].to_pylist().count(1)
    assert table.take_offsets([7, 3]).to_arrow().num_rows == 2
    many = ", ".join(str(number) for number in range(0, ROWS, 2))
    assert table.search().where(f"id IN ({many})").to_arrow().num_rows == ROWS // 2


def test_order_by(server: LakebedServer, shared: str) -> None:
    body = {
        "k": 5,
        "vector": [],
        "columns": ["id"],
        "order_by": [{"column_name": "id", "ascending": False, "nulls_first": False}],
    }
    answer = server.http().post(f"/v1/table/{shared}/query/", body)
    found = pa.ipc.open_file(answer.body).read_all()
    assert found["id"].to_pylist() == [ROWS - 1, ROWS - 2, ROWS - 3, ROWS - 4, ROWS - 5]


def test_an_index_finds_fresh_rows_at_once(db: Any, server: LakebedServer, table: str) -> None:
    made = db.create_table(table, scenes(0, ROWS))
    made.create_index(
        metric="cosine",
        vector_column_name="vector",
        index_type="IVF_PQ",
        num_partitions=7,
        num_sub_vectors=4,
        wait_timeout=timedelta(seconds=60),
    )
    stats = made.index_stats("vector_idx")
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (ROWS, 0)
    assert stats.distance_type == "cosine"
    assert stats.index_type == "IVF_PQ"
    fresh = scenes(ROWS, 10)
    made.add(fresh)
    query = vectors_of(fresh)[4]
    found = made.search(query).limit(1).to_arrow()
    assert found["id"].to_pylist() == [ROWS + 4]
    indexed_only = made.search(query).fast_search().limit(3).to_arrow()
    assert ROWS + 4 not in indexed_only["id"].to_pylist()
    assert made.index_stats("vector_idx").num_unindexed_rows == 10

    body = {"k": 3, "vector": query.tolist()}
    answer = server.http().post(f"/v1/table/{table}/query/", body)
    said = {name.lower(): value for name, value in answer.headers.items()}
    assert said["x-lakebed-index"] == "vector_idx"
    assert said["x-lakebed-index-type"] == "IVF_PQ"
    assert (said["x-lakebed-indexed-rows"], said["x-lakebed-rows-scanned"]) == (str(ROWS), "10")
    stages = dict(stage.split(";dur=") for stage in said["server-timing"].split(", "))
    assert list(stages) == ["admit", "open", "plan", "start", "rows"]
    assert 0 < sum(map(float, stages.values())) < 10_000
    # Asked for another distance than the index has, every row is compared, and the answer says so.
    answer = server.http().post(f"/v1/table/{table}/query/", {**body, "distance_type": "l2"})
    said = {name.lower(): value for name, value in answer.headers.items()}
    assert "x-lakebed-index" not in said
    assert said["x-lakebed-rows-scanned"] == str(ROWS + 10)
    # What ranks nothing compares nothing.
    answer = server.http().post(f"/v1/table/{table}/query/", {"k": 3, "vector": []})
    said = {name.lower(): value for name, value in answer.headers.items()}
    assert "x-lakebed-rows-scanned" not in said
    assert "x-lancedb-version" in said


@pytest.mark.parametrize(
    "index_type",
    ["IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ", "IVF_HNSW_FLAT", "IVF_HNSW_PQ"],
)
def test_every_vector_index(db: Any, server: LakebedServer, table: str, index_type: str) -> None:
    rows = scenes(0, ROWS)
    made = db.create_table(table, rows)
    body = {"column": "vector", "index_type": index_type, "metric_type": "l2", "num_partitions": 2}
    if index_type.endswith("PQ"):
        body["num_sub_vectors"] = WIDTH // 2
    job = server.http().post(f"/v1/table/{table}/create_index/", body).json()["job_id"]
    made.wait_for_index(["vector_idx"], timeout=timedelta(seconds=60))
    described = server.http().post("/v1/jobs/describe", {"job_id": job}).json()
    assert described["job_state"] == "DONE"
    [index] = made.list_indices()
    assert index.index_type.replace("_", "").upper() == index_type.replace("_", "")
    query = np.full(WIDTH, 0.5, dtype=np.float32)
    search = made.search(query).nprobes(2).refine_factor(20).limit(10)
    found = set(search.to_arrow()["id"].to_pylist())
    assert len(found & set(nearest_ids(rows, query, 10))) >= 8, "recall at 10"


def test_scalar_indexes_and_lists_of_them(db: Any, table: str) -> None:
    made = db.create_table(table, scenes(0, 500))
    made.create_scalar_index("id")
    made.create_scalar_index("label", index_type="BITMAP")
    made.create_fts_index("caption", with_position=True)
    wanted = ["id_idx", "label_idx", "caption_idx"]
    made.wait_for_index(wanted, timeout=timedelta(seconds=60))
    indices = {index.name: index for index in made.list_indices()}
    assert sorted(indices) == sorted(wanted)
    assert indices["label_idx"].columns == ["label"]
    assert made.index_stats("nothing_idx") is None
    made.drop_index("label_idx")
    assert sorted(index.name for index in made.list_indices()) == ["caption_idx", "id_idx"]
    with pytest.raises((ValueError, RuntimeError)):
        made.drop_index("label_idx")


def test_parameters_of_indexes_over_values(server: LakebedServer, db: Any, table: str) -> None:
    """As the Rust client sends them."""
    db.create_table(table, scenes(0, 500))
    http = server.http()
    kind = {"column": "label", "index_type": "BLOOM_FILTER", "name": "few"}
    sizes = {"number_of_items": 100, "probability": 0.01}
    http.ok("POST", f"/v1/table/{table}/create_index", {**kind, **sizes})
    assert db.open_table(table).count_rows("label = 3") > 0
    for wrong in ({"probably": 0.01}, {"number_of_items": "many"}):
        answer = http.post(f"/v1/table/{table}/create_index", {**kind, "name": "w", **wrong})
        assert answer.status == 400, wrong
    tree = {"column": "id", "index_type": "BTREE", "probability": 0.01}
    assert http.post(f"/v1/table/{table}/create_index", tree).status == 400


def test_an_index_is_there_when_the_call_returns(
    db: Any, server: LakebedServer, table: str
) -> None:
    """As in process, of what does not take long; what goes wrong is raised."""
    made = db.create_table(table, scenes(0, 200))
    made.create_scalar_index("id")
    assert [index.name for index in made.list_indices()] == ["id_idx"]
    made.create_fts_index("caption")
    assert made.search("red", query_type="fts").limit(3).to_arrow().num_rows == 3
    server.expect_log("a job failed")
    with pytest.raises(HttpError, match="num_sub_vectors must be divisible by 2"):
        made.create_index(vector_column_name="vector", num_bits=4, num_sub_vectors=1)
    assert sorted(index.name for index in made.list_indices()) == ["caption_idx", "id_idx"]
    jobs = server.http().ok("POST", "/v1/jobs/list", {}).json()["jobs"]
    [failed] = [job for job in jobs if job["table"] == table and job["state"] == "FAILED"]
    assert failed["job_type"] == "create_index"


def test_who_builds_an_index_does_not_wait_for_long(
    make_server: Callable[..., LakebedServer], table: str
) -> None:
    server = make_server(env={"LAKEBED_LIMITS_INDEX_WAIT_MS": "0"}).start()
    made = connect(server).create_table(table, scenes(0, ROWS))
    body = {"column": "vector", "index_type": "IVF_FLAT", "metric_type": "l2"}
    job = server.http().post(f"/v1/table/{table}/create_index/", body).json()["job_id"]
    made.wait_for_index(["vector_idx"], timeout=timedelta(seconds=60))
    wait_until(
        lambda: (
            server.http().post("/v1/jobs/describe", {"job_id": job}).json()["job_state"] == "DONE"
        ),
        "the end of the job",
    )


def test_columns_are_warmed_up(db: Any, server: LakebedServer, table: str) -> None:
    made = db.create_table(table, scenes(0, 300))
    made.prewarm_data(["id", "vector"])
    http = server.http()

    def ended() -> Any:
        jobs = http.ok("POST", "/v1/jobs/list", {}).json()["jobs"]
        [job] = [job for job in jobs if job["table"] == table]
        said = http.ok("POST", "/v1/jobs/describe", {"job_id": job["job_id"]}).json()
        return said if said["job_state"] == "DONE" else None

    job = wait_until(ended, "the end of the job")
    assert job["job_type"] == "prewarm_columns"
    assert job["spec"] == {"columns": ["id", "vector"], "version": 1}
    assert job["result"] == {"rows": 300}

    def events(**more: Any) -> list[Any]:
        body = {"job_id": job["job_id"], **more}
        answer = http.ok("POST", "/v1/jobs/query_events", body)
        return pa.ipc.open_stream(answer.body).read_all().to_pylist()

    asked, done = events()
    assert (asked["event"], done["event"]) == ("asked", "done")
    assert asked["at"] <= done["at"]
    assert "300" in done["message"]
    assert events(filter="event = 'done'") == [done]
    assert events(limit=1) == [asked]
    assert events(filter="event = 'none'") == []
    wrong = {"job_id": job["job_id"], "filter": "nothing = 1"}
    assert http.post("/v1/jobs/query_events", wrong).status == 400
    with pytest.raises(Exception, match="nothing"):
        made.prewarm_data(["nothing"])


def test_an_index_is_replaced_where_that_is_wanted(db: Any, table: str) -> None:
    made = db.create_table(table, scenes(0, 500))
    for _ in range(2):
        made.create_scalar_index("id", replace=True)
        made.wait_for_index(["id_idx"], timeout=timedelta(seconds=60))
    assert len(made.list_indices()) == 1
    with pytest.raises(HttpError, match="already exists"):
        made.create_scalar_index("id", replace=False)


@pytest.fixture
def texts(db: Any, table: str) -> Any:
    """A table with a text index on two columns."""
    rows = pa.table(
        {
            "id": [0, 1, 2, 3, 4],
            "title": ["red car", "blue truck", "old red bridge", "green street", "bicycle"],
            "body": [
                "a red car on the street",
                "the truck is blue and big",
                "the bridge is red and old",
                "a street with a green car",
                "nothing to see",
            ],
            "vector": pa.array([[float(n), 0.0] for n in range(5)], pa.list_(pa.float32(), 2)),
        }
    )
    made = db.create_table(table, rows)
    made.create_fts_index("title", with_position=True)
    made.create_fts_index("body", with_position=True)
    made.wait_for_index(["title_idx", "body_idx"], timeout=timedelta(seconds=60))
    return made


def found(table: Any, query: Any) -> list[int]:
    return sorted(table.search(query, query_type="fts").limit(10).to_arrow()["id"].to_pylist())


def test_six_kinds_of_text_search(texts: Any) -> None:
    assert found(texts, MatchQuery("car", "body")) == [0, 3]
    assert found(texts, MatchQuery("trucc", "body", fuzziness=1)) == [1]
    assert found(texts, PhraseQuery("red car", "body")) == [0]
    assert found(texts, MultiMatchQuery("red", ["title", "body"])) == [0, 2]
    both = BooleanQuery(
        [(Occur.MUST, MatchQuery("red", "body")), (Occur.MUST_NOT, MatchQuery("old", "body"))]
    )
    assert found(texts, both) == [0]
    boosted = BoostQuery(MatchQuery("red", "body"), MatchQuery("old", "body"), negative_boost=0.1)
    assert found(texts, boosted) == [0, 2]
    assert found(texts, "car") == [0, 3]
    assert found(texts, "zeppelin") == [], "a word that is nowhere finds nothing"


def test_stop_words_of_ones_own_stay(db: Any, server: LakebedServer, table: str) -> None:
    texts = [f"lance the data {number}" for number in range(30)]
    made = db.create_table(table, pa.table({"id": range(30), "text": texts}))
    made.create_index("text", config=FTS(stem=False, custom_stop_words=["lance"]))
    made.wait_for_index(["text_idx"])

    def found(word: str) -> int:
        return made.search(word, query_type="fts").limit(100).to_arrow().num_rows

    def words() -> list[str]:
        answer = server.http().ok("POST", f"/v1/table/{table}/index/list", {}).json()
        return json.loads(answer["indexes"][0]["index_details"])["custom_stop_words"]

    assert (found("lance"), found("the"), found("data")) == (0, 30, 30)
    assert words() == ["lance"]
    made.delete("id = 3")
    # Builds anew whatever knows of the row.
    server.http().ok("POST", f"/v1/table/{table}/purge", {})
    assert (found("lance"), found("the"), found("data")) == (0, 29, 29)
    assert words() == ["lance"]


def test_fresh_texts_are_found(texts: Any) -> None:
    texts.add([{"id": 9, "title": "zeppelin", "body": "a zeppelin", "vector": [9.0, 0.0]}])
    assert found(texts, MatchQuery("zeppelin", "body")) == [9]


def test_hybrid_search(texts: Any) -> None:
    search = texts.search(query_type="hybrid", vector_column_name="vector", fts_columns="body")
    rows = search.vector([3.0, 0.0]).text("car").rerank(RRFReranker()).limit(3).to_arrow()
    assert rows["id"].to_pylist()[0] == 3, "near by vector and by text"
    assert "_relevance_score" in rows.column_names


def test_hybrid_search_in_one_request(texts: Any, server: LakebedServer, table: str) -> None:
    """The same rows and scores as the client joins by itself, through every door."""
    search = texts.search(query_type="hybrid", vector_column_name="vector", fts_columns="body")
    joined = search.vector([3.0, 0.0]).text("car").rerank(RRFReranker()).limit(4)
    joined = joined.with_row_id(True).to_arrow()
    request = {
        "vector": [3.0, 0.0],
        "full_text_query": {"query": "car", "columns": ["body"]},
        "k": 4,
        "with_row_id": True,
    }
    http = server.http()
    answer = http.ok("POST", f"/v1/table/{table}/query/", request)
    rows = pa.ipc.open_file(answer.body).read_all()
    assert rows.column_names == ["id", "title", "body", "vector", "_relevance_score", "_rowid"]
    by_id = dict(zip(joined["id"].to_pylist(), joined["_relevance_score"].to_pylist(), strict=True))
    found = dict(zip(rows["id"].to_pylist(), rows["_relevance_score"].to_pylist(), strict=True))
    assert found == pytest.approx(by_id)
    assert rows["id"].to_pylist()[:2] == [3, 0], "found by both"
    scores = rows["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert answer.headers["x-lakebed-index"] == "body_idx"
    rowids = {row["_rowid"]: row["id"] for row in joined.to_pylist()}
    assert {row["_rowid"]: row["id"] for row in rows.to_pylist()} == rowids

    lake = server.lake()
    paged = {**request, "offset": 1, "k": 2, "columns": {"twice": "id * 2"}, "with_row_id": False}
    page = lake.search({"table": table, **paged})
    assert page.column_names == ["twice", "_relevance_score"]
    assert page["twice"].to_pylist() == [id * 2 for id in rows["id"].to_pylist()[1:3]]
    filtered = lake.search({"table": table, **request, "filter": "id < 3"})
    assert sorted(filtered["id"].to_pylist()) == [0, 1, 2]
    options = '{"filter": "id < 3"}'
    sql = (
        f"SELECT id FROM hybrid_search('{table}', 'vector', ARRAY[3, 0], 'car', 4, '{options}')"
        " ORDER BY _relevance_score DESC"
    )
    assert [row["id"] for row in Sql(server).rows(sql)] == filtered["id"].to_pylist()
    lake.close()

    plan = http.ok("POST", f"/v1/table/{table}/explain_plan/", {"query": request}).json()
    assert "ReciprocalRankFusion" in plan
    assert "KNN" in plan
    assert "MatchQuery" in plan
    for wrong, word in [
        ({"k": 70_000}, "65536"),
        ({"k": 0}, "`k`"),
        ({"order_by": [{"column_name": "id"}]}, "order_by"),
        ({"vector": [[1.0, 0.0], [2.0, 0.0]]}, "vector"),
        ({"columns": ["nothing"]}, "nothing"),
    ]:
        refused = http.post(f"/v1/table/{table}/query/", {**request, **wrong})
        assert (refused.status, word in refused.text) == (400, True)


def test_what_is_wrong_is_said_once(db: Any, shared: str) -> None:
    table = db.open_table(shared)
    for search in [
        table.search().where("nothing = 1"),
        table.search().where("id = = 1"),
        table.search(np.zeros(WIDTH - 1, dtype=np.float32)),
        table.search(np.zeros(WIDTH, dtype=np.float32)).select(["nothing"]),
    ]:
        # A 5xx would be tried again and end in another error.
        with pytest.raises(HttpError) as caught:
            search.limit(1).to_arrow()
        assert "RetryError" not in repr(caught.value)
        assert "400" in str(caught.value)


def test_plans_are_shown(db: Any, shared: str) -> None:
    table = db.open_table(shared)
    search = table.search(np.zeros(WIDTH, dtype=np.float32)).where("id > 3").limit(2)
    assert "KNNVectorDistance" in search.explain_plan(verbose=True)
    assert "output_rows" in search.analyze_plan()


def test_indexes_by_the_asynchronous_client(server: LakebedServer, table: str) -> None:
    async def build() -> list[str]:
        db = await connect_async(server)
        made = await db.create_table(table, scenes(0, 600))
        await made.create_index("id", config=BTree())
        await made.create_index("caption", config=FTS())
        await made.create_index("vector", config=IvfPq(num_partitions=2, num_sub_vectors=4))
        names = ["id_idx", "caption_idx", "vector_idx"]
        await made.wait_for_index(names, timeout=timedelta(seconds=60))
        return sorted(index.name for index in await made.list_indices())

    assert asyncio.run(build()) == ["caption_idx", "id_idx", "vector_idx"]
