"""The report on two columns of vectors, against the same numbers by comparing everything."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed.errors import InvalidArgument, NotFound
from support.cli import Cli
from support.server import LakebedServer
from support.small_models import text_model
from support.vectors import nearest
from support.waiting import wait_until
from support.worker import Jobs, Worker

ROWS = 600
OLD, NEW = 16, 24
K = 5


@pytest.fixture
def db(server: LakebedServer) -> lakebed.Connection:
    """The Python client with the admin's key."""
    return lakebed.connect(f"http://{server.http_address}", server.admin_key)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of two models: the second sees most of what the first does, and something else."""
    dice = np.random.default_rng(seed)
    old = dice.normal(size=(ROWS, OLD)).astype(np.float32)
    more = dice.normal(scale=0.7, size=(ROWS, NEW - OLD)).astype(np.float32)
    return old, np.concatenate([old, more], axis=1)


def column(vectors: np.ndarray, nulls: int = 0) -> pa.FixedSizeListArray:
    flat = pa.array(vectors.ravel())
    mask = pa.array([row < nulls for row in range(len(vectors))])
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=mask)


def table_of(old: np.ndarray, new: np.ndarray, nulls: int = 0) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "even": [row % 2 == 0 for row in range(ROWS)],
            "old": column(old),
            "new": column(new, nulls),
        }
    )


def expected_numbers(
    old: np.ndarray, new: np.ndarray, among: list[int]
) -> tuple[list[float], list[float]]:
    """By numpy, for each row: the share of the K nearest others that both have, and Spearman's rank
    correlation of these where they are two at least."""
    shares, correlations = [], []
    for query in among:
        first, second = (
            [
                among[place]
                for place in nearest(vectors[among], vectors[query], K + 1)
                if among[place] != query
            ]
            for vectors in (old, new)
        )
        common = [row for row in first if row in second]
        shares.append(len(common) / K)
        if len(common) > 1:
            order = [row for row in second if row in common]
            ranks = [order.index(row) for row in common]
            correlations.append(float(np.corrcoef(range(len(common)), ranks)[0, 1]))
    return shares, correlations


def test_overlap_is_what_comparing_everything_gives(db: lakebed.Connection, table: str) -> None:
    old, new = drawn(1)
    rows = db.create_table(table, table_of(old, new, nulls=50))
    report = rows.compare_embeddings("old", "new", queries=ROWS, k=K)
    among = list(range(50, ROWS))
    # Every row is asked for, so it does not matter which are taken first.
    expected, correlations = expected_numbers(old, new, among)
    assert report["queries"] == len(among)
    assert (report["rows"], report["rows_with_null"]) == (ROWS, 50)
    assert report["overlap"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    histogram = np.bincount(np.round(np.array(expected) * K).astype(int), minlength=K + 1)
    assert report["overlap"]["histogram"] == histogram.tolist()
    assert 0.2 < report["overlap"]["mean"] < 0.95, "two models that differ"
    assert report["rank_correlation"] == pytest.approx(np.mean(correlations), abs=1e-6)
    worst = report["worst"][0]
    assert worst["overlap"] == min(expected)
    assert len(worst["from"]) == len(worst["to"]) == K
    assert (report["from"]["dimensions"], report["to"]["dimensions"]) == (OLD, NEW)
    # No index: nothing that it could miss.
    assert (report["from"]["index"], report["from"]["recall"]) == (None, None)
    assert report["from"]["unindexed_rows"] == ROWS


def test_recall_is_that_of_each_index(
    server: LakebedServer, db: lakebed.Connection, table: str
) -> None:
    old, new = drawn(2)
    rows = db.create_table(table, table_of(old, new))
    path = f"/v1/table/{table}/create_index"
    # All partitions are asked by far fewer than there are: a coarse index that misses rows.
    coarse = {"column": "old", "index_type": "IVF_FLAT", "num_partitions": 30}
    server.http().ok("POST", path, {**coarse, "distance_type": "l2", "name": "coarse"})
    fine = {"column": "new", "index_type": "IVF_FLAT", "num_partitions": 1}
    server.http().ok("POST", path, {**fine, "distance_type": "cosine", "name": "fine"})
    for name in ("coarse", "fine"):
        wait_for_index(server, table, name)
    rows.add(table_of(*drawn(3)).slice(0, 20))
    report = rows.compare_embeddings("old", "new", queries=200, k=K)
    a, b = report["from"], report["to"]
    assert (a["index"], b["index"]) == ("coarse", "fine")
    assert (a["distance_type"], b["distance_type"]) == ("l2", "cosine")
    assert (a["indexed_rows"], a["unindexed_rows"]) == (ROWS, 20)
    assert b["recall"] == 1.0, "one partition holds every row"
    assert 0.1 < a["recall"] < 1.0, "one of thirty partitions does not"
    assert a["recall_p10"] <= a["recall"]
    assert a["latency_ms_median"] > 0
    assert b["latency_ms_median"] > 0


def wait_for_index(server: LakebedServer, table: str, name: str) -> None:
    def is_there() -> bool:
        answer = server.http().ok("POST", f"/v1/table/{table}/index/list/", {}).json()
        return name in {index["index_name"] for index in answer["indexes"]}

    wait_until(is_there, f"index {name}")


def test_a_seed_names_the_rows_and_aliases_the_columns(
    db: lakebed.Connection, server: LakebedServer, tmp_path: Path, table: str
) -> None:
    rows = db.create_table(table, table_of(*drawn(4)))
    rows.vector_aliases.set("live", "old")

    def told(seed: int) -> dict[str, Any]:
        return rows.compare_embeddings("live", "new", queries=40, k=K, seed=seed)

    one, again, other = told(1), told(1), told(2)
    assert one["worst"] == again["worst"] != other["worst"]
    assert (one["from"]["alias"], one["from"]["column"]) == ("live", "old")
    assert one["to"]["alias"] is None
    filtered = rows.compare_embeddings("old", "new", queries=40, k=K, where="even")
    assert filtered["rows"] == ROWS / 2
    ids = rows.scan(columns=["_rowid", "id"]).to_arrow()
    keys = dict(zip(ids["_rowid"].to_pylist(), ids["id"].to_pylist(), strict=True))
    for worst in filtered["worst"]:
        found = [worst["row_id"], *worst["from"], *worst["to"]]
        assert all(keys[row] % 2 == 0 for row in found)
    cli = Cli(server, tmp_path)
    command = ("compare-embeddings", table, "--from", "live", "--to", "new", "--k", str(K))
    printed = json.loads(cli.ok(*command, "--queries", "40", "--seed", "1", "--format", "json"))
    assert printed["worst"] == one["worst"]
    shown = cli.ok(*command, "--queries", "40", "--seed", "1", "--where", "even")
    assert f"overlap@{K} of the exact answers of 40 queries" in shown
    assert "0 of 300 rows have no vector in one of them" in shown


def test_what_cannot_be_compared_is_refused(
    db: lakebed.Connection, server: LakebedServer, table: str
) -> None:
    rows = db.create_table(table, table_of(*drawn(5), nulls=ROWS))
    compare = rows.compare_embeddings
    with pytest.raises(InvalidArgument, match="no row has a vector in both"):
        compare("old", "new")
    with pytest.raises(InvalidArgument, match="with itself"):
        compare("old", "old")
    with pytest.raises((NotFound, InvalidArgument), match="no column of vectors"):
        compare("old", "id")
    with pytest.raises(InvalidArgument, match="from 1 to 1000"):
        compare("old", "new", queries=1_001)
    with pytest.raises(InvalidArgument, match="from 1 to 100"):
        compare("old", "new", k=101)
    with pytest.raises(InvalidArgument, match="does not say which model"):
        compare("old", "new", queries=["red car"])
    with pytest.raises(InvalidArgument, match="filter"):
        compare("old", "new", where="nonsense (")
    path = f"/v1/table/{table}/compare_embeddings"
    for body, words in [
        ({"to": "new"}, "`from` is missing"),
        ({"from": "old", "to": "new", "querys": 3}, "querys"),
        ({"from": "old", "to": "new", "queries": -1}, "queries"),
    ]:
        refused = server.http().post(path, body)
        assert refused.status == 400
        assert words in refused.text


@pytest.fixture(scope="module")
def worker(
    module_server: LakebedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """One worker."""
    made = Worker(module_server, "compare", cache=tmp_path_factory.mktemp("cache")).start()
    Jobs(module_server).wait_for_workers(1)
    yield made
    made.kill()


@pytest.mark.usefixtures("worker")
def test_texts_are_asked_for_by_both_models(
    db: lakebed.Connection, table: str, tmp_path: Path
) -> None:
    texts = ["red car", "blue cat", "green", "red red cat", "car", "cat car"]
    rows = db.create_table(table, {"id": [*range(len(texts))], "text": texts})
    for name, seed in (("v1", 1), ("v2", 2)):
        db.models.register(f"compare-{name}", text_model(tmp_path / name, seed=seed))
        job = db.jobs.submit(table, input="text", output=name, model=f"compare-{name}")
        assert job.wait(60).state == "DONE"
    report = rows.compare_embeddings("v1", "v2", queries=["red car", "blue"], k=1)
    assert (report["queries"], report["from"]["model"]) == (2, "compare-v1")
    assert report["to"]["model"] == "compare-v2"
    # The first text is in the table: both models find it.
    assert report["overlap"]["histogram"][1] >= 1
    assert all("row_id" not in worst for worst in report["worst"])
