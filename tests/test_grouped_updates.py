"""Updates that wait for the same commit become one version, as if they had come one by one."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.data import blobs
from support.faults import slow_server
from support.flight import Lake
from support.server import LakebedServer
from support.sql import Sql

CLIENTS = 32


def update(server: LakebedServer, predicate: str, **values: str) -> dict[str, Any]:
    body = {"predicate": predicate, "updates": [list(pair) for pair in values.items()]}
    answer = server.http().request("POST", "/v1/table/t/update", body)
    return {"status": answer.status, **answer.json()}


def at_once(works: list[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(lambda work: work(), works))


def labelled(rows: int) -> pa.Table:
    """Pictures with a label and a number."""
    table = blobs([bytes([n % 256]) * 20_000 for n in range(rows)])
    table = table.append_column("label", pa.array(["old"] * rows))
    return table.append_column("n", pa.array([0] * rows, pa.int64()))


def test_updates_that_wait_are_committed_together(
    make_server: Callable[..., LakebedServer],
) -> None:
    """By either door; the pictures beside them stay where they are."""
    server = slow_server(make_server, labelled(2 * CLIENTS))
    data = server.table_path("t") / "data"
    before = {path.name: path.stat().st_ino for path in data.rglob("*")}

    def by_sql(i: int) -> dict[str, Any]:
        return {"rows": Sql(server).change(f"update t set label = 'sql {i}' where id = {i}")}

    works: list[Callable[[], dict[str, Any]]] = []
    for i in range(CLIENTS):
        works.append(lambda i=i: update(server, f"id = {CLIENTS + i}", label=f"'rest {i}'"))
        works.append(lambda i=i: by_sql(i))
    answers = at_once(works)
    receipts = [answer for answer in answers if "version" in answer]
    assert [receipt["rows_updated"] for receipt in receipts] == [1] * CLIENTS, receipts
    assert [answer["rows"] for answer in answers if "rows" in answer] == [1] * CLIENTS
    lake = server.lake()
    newest = max(receipt["version"] for receipt in receipts)
    versions = lance.dataset(str(server.table_path("t"))).version - 1
    print(f"{2 * CLIENTS} updates in {versions} versions")
    assert versions <= CLIENTS // 2
    rows = lake.read("t", version=max(newest, versions + 1)).to_pylist()
    labels = {row["id"]: row["label"] for row in rows}
    expected = {i: f"sql {i}" for i in range(CLIENTS)}
    expected |= {CLIENTS + i: f"rest {i}" for i in range(CLIENTS)}
    assert labels == expected
    assert all(
        path.stat().st_ino == before[path.name] for path in data.rglob("*") if path.name in before
    )
    new = [path for path in data.rglob("*") if path.is_file() and path.name not in before]
    assert sum(path.stat().st_size for path in new) < 20_000 * CLIENTS, "a picture was written"


def test_one_that_reads_what_another_assigns_sees_it(
    make_server: Callable[..., LakebedServer],
) -> None:
    """Every increment counts, and no predicate selects by a value that was overwritten before."""
    server = slow_server(make_server, labelled(4))
    works = [lambda: update(server, "id = 1", n="n + 1") for _ in range(6)]
    works += [lambda: update(server, "label = 'old' AND id = 2", label="'new'", n="n + 1")] * 4
    answers = at_once(works)
    assert all(answer["status"] == 200 for answer in answers), answers
    assert sum(answer["rows_updated"] for answer in answers[6:]) == 1, "one of them found the old"
    rows = {row["id"]: row for row in server.lake().read("t").to_pylist()}
    assert (rows[1]["n"], rows[2]["n"], rows[2]["label"]) == (6, 1, "new")


def test_nobody_fails_by_what_another_asks_for(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = slow_server(make_server, labelled(8))
    works: list[Callable[[], dict[str, Any]]] = [
        lambda: update(server, "id = 0", label="'first'"),
        lambda: update(server, "id = 1", n="cast('x' as bigint)"),
        lambda: update(server, "id = 2", label="'good'"),
        lambda: update(server, "nope = 2", label="'bad'"),
        lambda: update(server, "id = 99", label="'nobody'"),
        lambda: update(server, "id = 3", nope="1"),
        lambda: update(server, "id = 4", n="id / (id - 4)"),
    ]
    answers = at_once(works)
    assert [answer["status"] for answer in answers] == [200, 400, 200, 400, 200, 400, 400], answers
    assert [answer.get("rows_updated") for answer in answers[:5:2]] == [1, 1, 0]
    rows = {row["id"]: row["label"] for row in server.lake().read("t").to_pylist()}
    assert rows == {0: "first", 2: "good", **dict.fromkeys([1, 3, 4, 5, 6, 7], "old")}


@pytest.mark.timeout(600)
def test_random_updates(server: LakebedServer, lake: Lake, table: str, soak: bool) -> None:
    """Many clients on their own rows, with compaction, appends and an index beside them: each row
    has what its own client last wrote to it."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    keys = 64
    start = pa.table({"id": range(keys), "label": ["old"] * keys, "n": [0] * keys})
    lake.create(table, start)
    model = {key: ["old", 0] for key in range(keys)}
    clients = 8
    errors: list[BaseException] = []

    def client(number: int) -> None:
        dice = random.Random(seed + number)
        http = server.http()
        own = list(range(number, keys, clients))
        try:
            for turn in range(200 if soak else 15):
                picked = dice.sample(own, 2)
                where = f"id in ({picked[0]}, {picked[1]})"
                if dice.random() < 0.5:
                    updates = [["label", f"'c{number} t{turn}'"]]
                    for key in picked:
                        model[key][0] = f"c{number} t{turn}"
                else:
                    updates = [["n", "n + 1"]]
                    for key in picked:
                        model[key][1] += 1
                body = {"predicate": where, "updates": updates}
                done = http.ok("POST", f"/v1/table/{table}/update", body).json()
                assert done["rows_updated"] == 2
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    http = server.http()
    body = {"column": "label", "index_type": "BITMAP"}
    http.ok("POST", f"/v1/table/{table}/create_index", body)
    appended = 0
    while any(thread.is_alive() for thread in threads):
        lake.write(table, start.slice(0, 1).set_column(0, "id", [[1_000 + appended]]))
        appended += 1
        http.ok("POST", f"/v1/table/{table}/compact", {})
    assert not errors, errors[0]
    rows = {row["id"]: [row["label"], row["n"]] for row in lake.read(table).to_pylist()}
    assert rows == model | {1_000 + n: ["old", 0] for n in range(appended)}
    for label in {label for label, _ in model.values()}:
        found = lake.read(table, filter=f"label = '{label}' AND id < 1000")["id"].to_pylist()
        assert sorted(found) == sorted(key for key in model if model[key][0] == label)
    lance.dataset(str(server.table_path(table))).validate()
