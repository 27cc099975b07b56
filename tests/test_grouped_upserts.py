"""Upserts that wait for the same commit become one version, as if they had come one by one."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lance
import pyarrow as pa

from support.faults import slow_server
from support.flight import Lake
from support.server import LakebedServer

CLIENTS = 32
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


def merge(server: LakebedServer, rows: pa.Table) -> dict[str, Any]:
    """An upsert by the LanceDB protocol, which says what it did to how many rows."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    rule = "on=id&when_matched_update_all=true&when_not_matched_insert_all=true"
    answer = server.http().request(
        "POST", f"/v1/table/t/merge_insert/?{rule}", sink.getvalue(), ARROW
    )
    assert answer.status == 200, answer.text
    return answer.json()


def test_upserts_that_wait_are_committed_together(
    make_server: Callable[..., LakebedServer],
) -> None:
    """Each brings a key of its own, one that is stored, and one that all of them bring."""
    stored = pa.table({"id": range(CLIENTS), "v": [0] * CLIENTS})
    server = slow_server(make_server, stored)
    lakes = [server.lake() for _ in range(CLIENTS)]

    def upsert(i: int) -> dict[str, Any]:
        rows = pa.table({"id": [i, 1000 + i, 5000], "v": [i + 1, i + 1, i + 1]})
        return lakes[i].upsert("t", rows, ["id"], write_id=f"w-{i}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        receipts = list(pool.map(upsert, range(CLIENTS)))
    versions = sorted({receipt["version"] for receipt in receipts})
    print(f"{CLIENTS} upserts in {len(versions)} versions")
    assert len(versions) <= CLIENTS // 4, versions
    assert versions == list(range(2, len(versions) + 2)), "no version without a write"
    lake = lakes[0]
    found = lake.read("t").sort_by("id").to_pydict()
    values = dict(zip(found["id"], found["v"], strict=True))
    assert len(values) == len(found["id"]) == 2 * CLIENTS + 1, "no key twice"
    for i in range(CLIENTS):
        assert values[i] == values[1000 + i] == i + 1
    # One of those that are in the last version was the last to bring it.
    last = {i + 1 for i, receipt in enumerate(receipts) if receipt["version"] == versions[-1]}
    assert values[5000] in last
    for version in versions:
        seen = set(lake.read("t", version=version)["id"].to_pylist())
        for i, receipt in enumerate(receipts):
            assert (1000 + i in seen) == (receipt["version"] <= version)
    assert all(receipt["rows"] == 3 for receipt in receipts)
    again = lakes[7].upsert("t", pa.table({"id": [7], "v": [0]}), ["id"], write_id="w-7")
    assert again == receipts[7], "the group's ids are remembered one by one"
    lance.dataset(str(server.table_path("t"))).validate()


def test_each_is_told_what_it_did(make_server: Callable[..., LakebedServer]) -> None:
    """Of a new key that several bring one has inserted it and the others have updated it."""
    server = slow_server(make_server, pa.table({"id": range(10), "v": [0] * 10}))

    def upsert(i: int) -> dict[str, Any]:
        return merge(server, pa.table({"id": [i % 10, 100 + i // 4, 200 + i], "v": [i, i, i]}))

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(upsert, range(CLIENTS)))
    assert len({answer["version"] for answer in done}) <= CLIENTS // 4
    for answer in done:
        assert answer["num_inserted_rows"] + answer["num_updated_rows"] == 3
        assert 1 <= answer["num_inserted_rows"] <= 2
    shared = CLIENTS // 4
    assert sum(answer["num_inserted_rows"] for answer in done) == CLIENTS + shared
    assert server.lake().count("t") == 10 + CLIENTS + shared
    for some in range(shared):
        group = done[4 * some : 4 * some + 4]
        assert sum(answer["num_inserted_rows"] == 2 for answer in group) == 1


def test_only_one_that_does_not_fit_is_refused(
    make_server: Callable[..., LakebedServer],
) -> None:
    """New keys lack a column that allows no null; those that came beside them are done."""
    schema = pa.schema(
        [("id", pa.int64()), pa.field("name", pa.string(), False), ("v", pa.int64())]
    )
    ids = list(range(CLIENTS))
    stored = pa.table([ids, ["n"] * CLIENTS, [0] * CLIENTS], schema=schema)
    server = slow_server(make_server, stored)
    lakes = [server.lake() for _ in range(CLIENTS)]
    bad = set(range(0, CLIENTS, 5))

    def upsert(i: int) -> bool:
        rows = pa.table({"id": [i, 1000] if i in bad else [i], "v": [i + 1] * (1 + (i in bad))})
        if i not in bad:
            lakes[i].upsert("t", rows, ["id"])
            return True
        with lakes[i].refuses("invalid_argument", "`name`"):
            lakes[i].upsert("t", rows, ["id"])
        return False

    with ThreadPoolExecutor(CLIENTS) as pool:
        done = list(pool.map(upsert, range(CLIENTS)))
    rows = server.lake().read("t").sort_by("id").to_pydict()
    assert rows["id"] == ids
    assert rows["v"] == [i + 1 if done[i] else 0 for i in ids]


def test_other_columns_and_other_keys_are_other_groups(
    make_server: Callable[..., LakebedServer],
) -> None:
    """Partial upserts of different columns wait side by side and all arrive."""
    ids = list(range(8))
    stored = pa.table({"id": ids, "code": [f"c{i}" for i in ids], "a": [0] * 8, "b": [0] * 8})
    server = slow_server(make_server, stored)
    lakes: list[Lake] = [server.lake() for _ in range(24)]

    def upsert(n: int) -> None:
        i = n % 8
        kinds = [
            (pa.table({"id": [i], "a": [i + 1]}), ["id"]),
            (pa.table({"id": [i], "b": [i + 1]}), ["id"]),
            (pa.table({"code": [f"c{i}"], "id": [i]}), ["code"]),
        ]
        lakes[n].upsert("t", *kinds[n // 8])

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(upsert, range(24)))
    rows = server.lake().read("t").sort_by("id").to_pydict()
    assert rows["id"] == ids
    assert rows["a"] == rows["b"] == [i + 1 for i in ids]
