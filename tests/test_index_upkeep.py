"""Indexes stay fresh by themselves, and answer like a scan whatever happens to their rows."""

import random
from collections.abc import Callable
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support import indexes
from support.flight import Lake
from support.server import LakebedServer
from support.vectors import nearest
from support.waiting import wait_until

Make = Callable[..., LakebedServer]

WORDS = ["red", "green", "blue", "car", "truck", "tree", "night", "rain"]
DIMENSIONS = 8
# Maintenance at every turn, with compaction.
QUICK = {
    "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": str(1 << 30),
}


def rows(ids: list[int], dice: random.Random) -> pa.Table:
    """Rows with an id, a label, some words and a vector."""
    vectors = np.array([[dice.random() for _ in range(DIMENSIONS)] for _ in ids], np.float32)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "label": [f"label {dice.randrange(5)}" for _ in ids],
            "words": [" ".join(dice.choices(WORDS, k=3)) for _ in ids],
            "vector": pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), DIMENSIONS),
        }
    )


def stats(server: LakebedServer, table: str, column: str) -> dict[str, Any]:
    return server.http().ok("POST", f"/v1/table/{table}/index/{column}_idx/stats").json()


def unindexed(server: LakebedServer, table: str) -> list[int]:
    columns = ("id", "label", "words", "vector")
    return [stats(server, table, column)["num_unindexed_rows"] for column in columns]


def search(lake: Lake, table: str, **fields: Any) -> list[int]:
    return lake.search({"table": table, "columns": ["id"], **fields})["id"].to_pylist()


def check_answers(lake: Lake, table: str, model: dict[int, dict[str, Any]], vector: Any) -> None:
    """What indexes say is what the model says."""
    one = next(iter(model))
    assert lake.read(table, filter=f"id = {one}").num_rows == 1
    low = sorted(key for key in model if 100 <= key < 200)
    assert sorted(lake.read(table, filter="id >= 100 AND id < 200")["id"].to_pylist()) == low
    assert lake.count(table) == len(model)
    labelled = sorted(key for key, row in model.items() if row["label"] == "label 3")
    assert sorted(lake.read(table, filter="label = 'label 3'")["id"].to_pylist()) == labelled
    rainy = sorted(key for key, row in model.items() if "rain" in row["words"].split())
    found = search(lake, table, full_text_query={"query": "rain", "columns": ["words"]}, k=10**6)
    assert sorted(found) == rainy
    keys = list(model)
    stored = np.array([model[key]["vector"] for key in keys])
    wanted = {keys[place] for place in nearest(stored, vector, 10)}
    found = search(lake, table, vector=[float(x) for x in vector], k=10, nprobes=1_000)
    assert set(found) == wanted


def test_rows_are_added_to_indexes(make_server: Make) -> None:
    """Once there are enough of them; nothing is read by row then."""
    server = make_server(env=QUICK).start()
    lake = server.lake()
    dice = random.Random(1)
    lake.create("t", rows(list(range(1_000)), dice))
    indexes.build_each(server, "t", key="id")
    lake.write("t", rows(list(range(1_000, 1_100)), dice))
    # Few rows wait a little longer.
    wait_until(lambda: unindexed(server, "t") == [0] * 4, "the indexes", timeout_s=120)
    for first in range(2_000, 12_000, 2_000):
        lake.write("t", rows(list(range(first, first + 2_000)), dice))
    wait_until(lambda: max(unindexed(server, "t")) < 4_096, "the indexes", timeout_s=120)
    assert lake.read("t", filter="id = 11999").num_rows == 1
    lance.dataset(str(server.table_path("t"))).validate()

    def is_counted() -> bool:
        return "lakebed_index_catch_ups_total" in server.http().ok("GET", "/metrics").text

    # What maintenance did it counts when its rest is over.
    wait_until(is_counted, "the count of them")


@pytest.mark.timeout(600)
def test_answers_are_right_throughout(make_server: Make, soak: bool) -> None:
    """Random changes of rows between compactions and catching up, against a plain model."""
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    server = make_server(env=QUICK).start()
    lake, http = server.lake(), server.http()
    model: dict[int, dict[str, Any]] = {}

    def remember(batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            model[row["id"]] = row
        return batch

    lake.create("t", remember(rows(list(range(2_000)), dice)))
    indexes.build_each(server, "t", key="id")
    fresh = 2_000
    for step in range(60 if soak else 12):
        match dice.randrange(5):
            case 0 | 1:
                count = dice.choice([10, 5_000])
                lake.write("t", remember(rows(list(range(fresh, fresh + count)), dice)))
                fresh += count
            case 2:
                ids = dice.sample(sorted(model), 300)
                lake.upsert("t", remember(rows(ids, dice)), ["id"])
            case 3:
                low = dice.randrange(fresh)
                http.ok(
                    "POST", "/v1/table/t/delete", {"predicate": f"id >= {low} AND id < {low + 200}"}
                )
                for key in range(low, low + 200):
                    model.pop(key, None)
            case 4:
                low = dice.randrange(fresh)
                body = {
                    "predicate": f"id >= {low} AND id < {low + 150}",
                    "updates": [["label", "'label 3'"]],
                }
                http.ok("POST", "/v1/table/t/update", body)
                for key in range(low, low + 150):
                    if key in model:
                        model[key]["label"] = "label 3"
        vector = np.array([dice.random() for _ in range(DIMENSIONS)], np.float32)
        check_answers(lake, "t", model, vector)
        if step % 4 == 3:
            wait_until(lambda: max(unindexed(server, "t")) < 4_096, "the indexes", timeout_s=120)
            check_answers(lake, "t", model, vector)
    lance.dataset(str(server.table_path("t"))).validate()
