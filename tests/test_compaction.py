"""Small fragments become large ones beside everything else, and readers see the same rows."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from support.cli import Cli
from support.data import blobs
from support.flight import Lake
from support.server import LakebedServer
from support.waiting import wait_until

SEED = random.SystemRandom().randrange(1 << 32)


def rows(first: int, count: int) -> pa.Table:
    """Rows whose columns follow from their ids."""
    ids = np.arange(first, first + count)
    vectors = np.repeat(ids.astype(np.float32), 8) + np.tile(np.arange(8, dtype=np.float32), count)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "label": [f"label {number % 7}" for number in ids],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8),
        }
    )


def appended(lake: Lake, table: str, times: int, each: int = 10) -> None:
    """A table of as many fragments."""
    lake.create(table, rows(0, each))
    for number in range(1, times):
        lake.write(table, rows(number * each, each))


def compact(server: LakebedServer, table: str, **body: Any) -> dict[str, Any]:
    """What a compaction says it did."""
    return server.http().ok("POST", f"/v1/table/{table}/compact", body).json()


def fragments(server: LakebedServer, table: str) -> int:
    return len(lance.dataset(str(server.table_path(table))).get_fragments())


def everything(lake: Lake, table: str, **at: Any) -> list[dict[str, Any]]:
    """All rows with their stable ids."""
    columns = ["id", "label", "vector", "_rowid"]
    return lake.read(table, columns=columns, **at).sort_by("_rowid").to_pylist()


def test_small_fragments_become_one(server: LakebedServer, lake: Lake, table: str) -> None:
    appended(lake, table, 40)
    before = everything(lake, table)
    newest = lake.read(table, columns=["id"]).num_rows
    planned = compact(server, table, dry_run=True)
    assert [len(some["fragments"]) for some in planned["planned"]] == [40]
    assert (planned["planned"][0]["reason"], planned["planned"][0]["rows"]) == ("small", newest)
    assert fragments(server, table) == 40, "a dry run changes nothing"
    done = compact(server, table)
    assert (done["done"], done["lost"]) == (1, 0)
    assert (done["fragments_removed"], done["fragments_added"]) == (40, 1)
    assert fragments(server, table) == 1
    assert everything(lake, table) == before
    assert everything(lake, table, version=40) == before, "the versions before it are still there"
    assert everything(lake, table, version=3) == before[:30]
    lance.dataset(str(server.table_path(table))).validate()
    again = compact(server, table)
    assert (again["planned"], again["version"]) == ([], done["version"])
    lake.write(table, rows(400, 5))
    assert lake.count(table) == 405


def test_indexes_say_the_same(server: LakebedServer, lake: Lake, table: str) -> None:
    """B-trees are moved, the others follow the rows; nothing falls back to a scan of the table."""
    appended(lake, table, 40)
    http = server.http()
    for column, kind in [("id", "BTREE"), ("label", "BITMAP"), ("vector", "IVF_PQ")]:
        body: dict[str, Any] = {"column": column, "index_type": kind}
        if kind == "IVF_PQ":
            body |= {"num_partitions": 1, "num_sub_vectors": 4, "distance_type": "l2"}
        job = http.ok("POST", f"/v1/table/{table}/create_index", body).json()["job_id"]

        def is_built(job: str = job) -> bool:
            found = http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()
            assert found["job_state"] in {"IN_PROGRESS", "DONE"}, found
            return found["job_state"] == "DONE"

        wait_until(is_built, f"the index on {column}")

    def answers() -> list[Any]:
        searched = http.ok(
            "POST",
            f"/v1/table/{table}/query",
            {"vector": [200.0 + n for n in range(8)], "k": 5, "columns": ["id"], "nprobes": 1},
        )
        nearest = pa.ipc.open_file(searched.body).read_all()["id"].to_pylist()
        return [
            lake.read(table, filter="id >= 100 AND id < 110").sort_by("id").to_pylist(),
            sorted(lake.read(table, filter="label = 'label 3'")["id"].to_pylist()),
            sorted(nearest),
        ]

    before = answers()
    assert (len(before[0]), len(before[1])) == (10, 57)
    assert compact(server, table)["fragments_removed"] == 40
    assert answers() == before
    for name in ("id_idx", "label_idx", "vector_idx"):
        stats = http.ok("POST", f"/v1/table/{table}/index/{name}/stats").json()
        assert (stats["num_indexed_rows"], stats["num_unindexed_rows"]) == (400, 0), name
    lance.dataset(str(server.table_path(table))).validate()


def test_deleted_rows_leave_their_files(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, rows(0, 1_000))
    assert compact(server, table, dry_run=True)["planned"] == []
    server.http().ok("POST", f"/v1/table/{table}/delete", {"predicate": "id % 2 = 0"})
    before = everything(lake, table)
    planned = compact(server, table)["planned"]
    assert [(some["reason"], some["rows"]) for some in planned] == [("deleted", 500)]
    assert everything(lake, table) == before
    [fragment] = lance.dataset(str(server.table_path(table))).get_fragments()
    assert (fragment.physical_rows, fragment.num_deletions) == (500, 0)


def test_blobs_are_left_where_they_are(server: LakebedServer, lake: Lake, table: str) -> None:
    """Few of them, and deleted rows among them, are not worth writing pictures again."""
    cells = [bytes([number]) * 100_000 for number in range(24)]
    lake.create(table, blobs(cells[:1]))
    for number in range(1, 24):
        lake.write(table, blobs(cells[number : number + 1], start=number))
    server.http().ok("POST", f"/v1/table/{table}/delete", {"predicate": "id < 4"})
    data = server.table_path(table) / "data"
    before = sorted(data.rglob("*"))
    done = compact(server, table)
    assert done["planned"] == []
    assert sorted(data.rglob("*")) == before
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == cells[4:]


@pytest.mark.timeout(300)
def test_many_blobs_are_joined_once(server: LakebedServer, lake: Lake, table: str) -> None:
    """Once they make half of a whole fragment together; what that made is never touched again."""
    cells = [bytes([number]) * (15 << 20) for number in range(20)]
    lake.create(table, blobs(cells[:1]))
    for number in range(1, 20):
        lake.write(table, blobs(cells[number : number + 1], start=number))
    done = compact(server, table)
    assert (done["fragments_removed"], done["fragments_added"]) == (20, 1)
    for number in (0, 7, 19):
        found = lake.read(table, filter=f"id = {number}", blobs="bytes")
        assert found["data"].to_pylist() == [cells[number]]
    lake.write(table, blobs(cells[:1], start=100))
    assert compact(server, table)["planned"] == []


def test_it_runs_beside_writers(server: LakebedServer, lake: Lake, table: str) -> None:
    """Appends, upserts, updates and deletes go on; the end has every one of them."""
    appended(lake, table, 20)
    print(f"seed {SEED}")
    stop = threading.Event()
    outcomes: list[dict[str, Any]] = []

    def keep_compacting() -> None:
        while not stop.is_set():
            outcomes.append(compact(server, table))
            time.sleep(0.02)

    def write(number: int, model: dict[int, str]) -> None:
        """Each writer has ids of its own."""
        own, http, dice = server.lake(), server.http(), random.Random(SEED + number)
        next_id = 10_000 * (number + 1)
        for turn in range(25):
            text = f"{number}.{turn}"
            kind = dice.choice(["append", "append", "upsert", "update", "delete"])
            if kind == "append" or not model:
                ids = list(range(next_id, next_id + 5))
                next_id += 5
                own.write(table, labelled(ids, text))
                model |= dict.fromkeys(ids, text)
            elif kind == "upsert":
                ids = dice.sample(sorted(model), min(3, len(model)))
                own.upsert(table, pa.table({"id": ids, "label": [text] * len(ids)}), ["id"])
                model |= dict.fromkeys(ids, text)
            elif kind == "update":
                some = dice.choice(sorted(model))
                updates = {"predicate": f"id = {some}", "updates": [["label", f"'{text}'"]]}
                http.ok("POST", f"/v1/table/{table}/update", updates)
                model[some] = text
            else:
                some = dice.choice(sorted(model))
                http.ok("POST", f"/v1/table/{table}/delete", {"predicate": f"id = {some}"})
                del model[some]

    models: list[dict[int, str]] = [{} for _ in range(4)]
    compacting = threading.Thread(target=keep_compacting)
    writers = [threading.Thread(target=write, args=(n, models[n])) for n in range(4)]
    compacting.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    compacting.join()
    found = lake.read(table, columns=["id", "label", "_rowid"], filter="id >= 10000").to_pydict()
    assert dict(zip(found["id"], found["label"], strict=True)) == {
        key: text for model in models for key, text in model.items()
    }
    assert len(found["id"]) == len(set(found["id"])), "a key twice"
    assert len(found["_rowid"]) == len(set(found["_rowid"])), "a row id twice"
    done = sum(outcome["done"] for outcome in outcomes)
    lost = sum(outcome["lost"] for outcome in outcomes)
    print(f"{done} rewrites were done and {lost} given up")
    assert done >= 2, "compaction has to have met the writers"
    lance.dataset(str(server.table_path(table))).validate()


def labelled(ids: list[int], text: str) -> pa.Table:
    table = rows(ids[0], len(ids))
    return table.set_column(1, "label", pa.array([text] * len(ids)))


def test_it_runs_by_itself(make_server: Callable[..., LakebedServer]) -> None:
    """The server finds out alone. A few fragments of each size may stay."""
    quick = {
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": "1000000000",
    }
    server = make_server(env=quick).start()
    lake = server.lake()
    appended(lake, "t", 60)
    wait_until(lambda: fragments(server, "t") < 24, "a compaction")
    assert [row["id"] for row in everything(lake, "t")] == list(range(600))
    versions = lake.read("t", columns=["id"])
    assert versions.num_rows == 600

    def is_counted() -> bool:
        return "lakebed_compacted_fragments_total" in server.http().ok("GET", "/metrics").text

    # What maintenance did it counts when its rest is over.
    wait_until(is_counted, "the count of them")


@pytest.mark.timeout(300)
def test_killed_in_the_middle(make_server: Callable[..., LakebedServer], soak: bool) -> None:
    """Whatever moment the server dies at, the table is whole and has what was acknowledged."""
    server = make_server(env={"LAKEBED_LIMITS_COMPACTION_BYTES_MAX": "0"})
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    acknowledged = 0
    for kill in range(30 if soak else 4):
        server.start()
        lake = server.lake()
        if kill == 0:
            lake.create("t", rows(0, 5))
            acknowledged = 5
        running = threading.Event()

        def keep_compacting(running: threading.Event = running) -> None:
            running.set()
            try:
                while True:
                    compact(server, "t")
            except (OSError, AssertionError):
                return

        thread = threading.Thread(target=keep_compacting)
        thread.start()
        running.wait(10)
        deadline = time.monotonic() + dice.uniform(0.3, 1.2)
        while time.monotonic() < deadline:
            lake.write("t", rows(acknowledged, 5))
            acknowledged += 5
        server.kill()
        thread.join()
        dataset = lance.dataset(str(server.table_path("t")))
        dataset.validate()
        assert sorted(dataset.to_table(columns=["id"])["id"].to_pylist()) == list(
            range(acknowledged)
        )


def test_a_table_has_its_own_settings(server: LakebedServer, lake: Lake, table: str) -> None:
    """How large fragments become, and from how many on they are joined."""
    appended(lake, table, 12)
    http = server.http()

    def setting(**entries: str) -> None:
        named = {f"lakebed.compaction_{name}": value for name, value in entries.items()}
        http.ok("POST", f"/v1/table/{table}/schema_metadata/update", named)

    setting(fragments_min="13")
    assert compact(server, table, dry_run=True)["planned"] == []
    setting(fragments_min="2", rows="40")
    done = compact(server, table)
    assert (done["fragments_removed"], done["fragments_added"]) == (12, 3)
    assert everything(lake, table) == everything(lake, table, version=12)
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": "id % 10 < 3"})
    assert compact(server, table, dry_run=True)["planned"] != []
    setting(fragments_min="2", rows="40", deleted_percent="30")
    assert compact(server, table, dry_run=True)["planned"] == []
    setting(rows="many")
    answer = http.post(f"/v1/table/{table}/compact", {})
    assert (answer.status, "lakebed.compaction_rows" in answer.text) == (400, True)


def test_a_table_is_left_alone(make_server: Callable[..., LakebedServer]) -> None:
    """By maintenance, where its settings say so; another one beside it is compacted."""
    env = {
        "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": "1000000000",
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    }
    server = make_server(env=env).start()
    lake, http = server.lake(), server.http()
    for name in ("left", "odd"):
        lake.create(name, rows(0, 10))
    for name, entry in (("left", {"compaction": "off"}), ("odd", {"compaction_rows": "0"})):
        named = {f"lakebed.{key}": value for key, value in entry.items()}
        http.ok("POST", f"/v1/table/{name}/schema_metadata/update", named)
        for number in range(1, 12):
            lake.write(name, rows(number * 10, 10))
    server.expect_log("not maintained.*lakebed.compaction_rows")
    appended(lake, "other", 12)
    # Whether all at once or the first eight and no more depends on when it came by.
    wait_until(lambda: fragments(server, "other") < 12, "the compaction of the table beside them")
    assert [fragments(server, name) for name in ("left", "odd")] == [12, 12]
    assert compact(server, "left")["fragments_removed"] == 12
    http.ok("POST", "/v1/table/odd/schema_metadata/update", {"lakebed.compaction_rows": "1000"})
    wait_until(lambda: fragments(server, "odd") == 1, "the compaction of the table that was mended")


def test_on_the_command_line(server: LakebedServer, lake: Lake, table: str, tmp_path: Path) -> None:
    cli = Cli(server, tmp_path)
    appended(lake, table, 12)
    assert "12 fragments, 120 rows" in cli.ok("compact", table, "--dry-run")
    assert fragments(server, table) == 12
    assert "12 fragments became 1" in cli.ok("compact", table)
    assert cli.ok("compact", table).strip() == "nothing to do"
    assert cli.json("compact", table)["planned"] == []
    assert "nothere" in cli.fails(1, "compact", "nothere")


def test_one_that_is_asked_for_makes_room_for_others(
    make_server: Callable[..., LakebedServer], table: str
) -> None:
    """It rests in the middle of its work while others ask for something, and else not at all."""
    share = {"LAKEBED_LIMITS_MAINTENANCE_SHARE_PERCENT": "5"}
    server = make_server(env=share).start()
    lake = server.lake()
    appended(lake, table, 20, each=2_000)
    before = everything(lake, table)

    def rested_ms() -> float:
        return server.metric("lakebed_maintenance_rested_ms_total")

    begun = lake.read(table, columns=["id"]).num_rows
    assert (compact(server, table)["fragments_removed"], begun) == (20, 40_000)
    assert rested_ms() == 0
    server.http().ok("POST", f"/v1/table/{table}/restore", {"version": 20})
    stop, reads = threading.Event(), []

    def read() -> None:
        own = server.lake()
        while not stop.is_set():
            reads.append(own.read(table, columns=["id"]).num_rows)
        own.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        wait_until(lambda: len(reads) > 4, "the readers")
        assert compact(server, table)["fragments_removed"] == 20
        assert rested_ms() > 20
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert set(reads) == {40_000}
    assert everything(lake, table) == before
    lake.close()
