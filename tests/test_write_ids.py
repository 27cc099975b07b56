"""The same write sent again: one write, one receipt, also after the server died."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from support.data import numbered
from support.flight import Lake
from support.server import LakebedServer
from support.waiting import wait_until


def test_the_receipt_carries_the_write_id(lake: Lake, table: str) -> None:
    assert lake.create(table, numbered(1), write_id="w-1")["write_id"] == "w-1"
    assert "write_id" not in lake.write(table, numbered(1))


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_the_same_write_again_writes_nothing(lake: Lake, table: str, mode: str) -> None:
    lake.create(table, numbered(3))
    fields = {"on": ["id"]} if mode == "upsert" else {}
    first = lake.write(table, numbered(2, start=3), mode, write_id="once", **fields)
    lake.write(table, numbered(1, start=9))
    again = lake.write(table, numbered(2, start=3), mode, write_id="once", **fields)
    assert again == first
    rows = lake.read(table)
    assert lake.info(table).total_records == rows.num_rows
    assert sorted(rows["id"].to_pylist()) == (
        [3, 4, 9] if mode == "overwrite" else [0, 1, 2, 3, 4, 9]
    )
    with lake.refuses("not_found"):
        lake.read(table, version=4)


def test_create_again_with_its_write_id_is_no_conflict(lake: Lake, table: str) -> None:
    first = lake.create(table, numbered(3), write_id="make")
    assert lake.create(table, numbered(3), write_id="make") == first
    with lake.refuses("already_exists", table):
        lake.create(table, numbered(3), write_id="other")
    with lake.refuses("already_exists", table):
        lake.create(table, numbered(3))


def test_one_create_from_many_clients_at_once(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    # The second round makes its table beside one that was renamed, in a folder of another name.
    for rows in (3, 4):

        def create(_: int, rows: int = rows) -> dict[str, object]:
            return server.lake().create(table, numbered(rows), write_id="make")

        with ThreadPoolExecutor(8) as pool:
            receipts = list(pool.map(create, range(8)))
        assert all(receipt == receipts[0] for receipt in receipts), receipts
        assert lake.read(table).equals(numbered(rows))
        with lake.refuses("not_found"):
            lake.read(table, version=2)
        renamed = {"new_table_name": f"{table}_{rows}"}
        server.http().ok("POST", f"/v1/table/{table}/rename", renamed)
    with lake.refuses("not_found", table):
        lake.read(table)


def test_another_schema_or_mode_is_refused(lake: Lake, table: str) -> None:
    lake.create(table, numbered(3))
    lake.write(table, numbered(1, start=3), write_id="w")
    with lake.refuses("already_exists", "w"):
        lake.write(table, pa.table({"id": [1]}), write_id="w")
    with lake.refuses("already_exists", "w"):
        lake.write(table, numbered(1), "overwrite", write_id="w")
    with lake.refuses("already_exists", "w"):
        lake.upsert(table, numbered(1), ["id"], write_id="w")
    assert lake.read(table).equals(numbered(4))


def test_the_scope_of_a_write_id_is_its_table(lake: Lake, table: str) -> None:
    other = f"{table}_2"
    for name in (table, other):
        lake.create(name, numbered(1))
        assert lake.write(name, numbered(1, start=1), write_id="w")["version"] == 2
    assert lake.read(other).equals(numbered(2))


def test_a_failed_write_does_not_use_up_its_id(lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    with lake.refuses("invalid_argument"):
        lake.write(table, numbered(1, start=1), write_id="w", commit="explicit")
    with lake.refuses("invalid_argument"):
        lake.write(table, pa.table({"id": ["x"]}), write_id="w")
    assert lake.write(table, numbered(1, start=1), write_id="w")["version"] == 2
    assert lake.read(table).equals(numbered(2))


def test_ids_of_writes_that_were_grouped(server: LakebedServer, lake: Lake, table: str) -> None:
    """Concurrent appends become one version; every one of them keeps its own id and receipt."""
    lake.create(table, numbered(0))

    def write(i: int) -> dict[str, object]:
        return server.lake().write(table, numbered(2, start=2 * i), write_id=f"w-{i}")

    with ThreadPoolExecutor(16) as pool:
        first = list(pool.map(write, range(64)))
        again = list(pool.map(write, range(64)))
    assert again == first
    assert [receipt["write_id"] for receipt in first] == [f"w-{i}" for i in range(64)]
    assert sorted(lake.read(table)["id"].to_pylist()) == list(range(128))


def test_one_id_from_many_clients_at_once(server: LakebedServer, lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))

    def write(_: int) -> dict[str, object]:
        return server.lake().write(table, numbered(3, start=1), write_id="same")

    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(write, range(8)))
    assert all(receipt == receipts[0] for receipt in receipts)
    assert lake.read(table).equals(numbered(4))


def test_a_long_or_odd_write_id(lake: Lake, table: str) -> None:
    lake.create(table, numbered(1))
    odd = 'naïve "quoted" \\ \n ✓'
    first = lake.write(table, numbered(1, start=1), write_id=odd)
    assert first["write_id"] == odd
    assert lake.write(table, numbered(1, start=1), write_id=odd) == first
    assert lake.write(table, numbered(1, start=2), write_id="x" * 256)["version"] == 3
    with lake.refuses("invalid_argument", "write_id", "256"):
        lake.write(table, numbered(1, start=3), write_id="x" * 257)
    with lake.refuses("invalid_argument", "write_id"):
        lake.write(table, numbered(1, start=3), write_id="")
    assert lake.read(table).equals(numbered(3))


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_ids_live_through_a_restart(make_server: Callable[..., LakebedServer], end: str) -> None:
    server = make_server().start()
    lake = server.lake()
    made = lake.create("t", numbered(1), write_id="make")
    receipts = [lake.write("t", numbered(1, start=1 + i), write_id=f"w-{i}") for i in range(20)]
    upserted = lake.upsert("t", numbered(1), ["id"], write_id="up")
    getattr(server, end)()
    server.start()
    lake = server.lake()
    assert lake.create("t", numbered(1), write_id="make") == made
    for i, receipt in enumerate(receipts):
        assert lake.write("t", numbered(1, start=1 + i), write_id=f"w-{i}") == receipt
    assert lake.upsert("t", numbered(1), ["id"], write_id="up") == upserted
    with lake.refuses("already_exists", "w-3"):
        lake.write("t", pa.table({"id": [1]}), write_id="w-3")
    assert lake.read("t").sort_by("id").equals(numbered(21))


def test_a_restart_reads_a_bounded_part_of_a_long_history(
    make_server: Callable[..., LakebedServer], tmp_path: Path
) -> None:
    """Ids of hundreds of versions come back from a checkpoint; only what was committed after it is
    read transaction by transaction. A server that was killed has nothing but that checkpoint."""
    versions = 320
    server = make_server().start()
    lake = server.lake()
    first = lake.create("t", numbered(1), write_id="make")
    receipts = [
        lake.write("t", numbered(1, start=i), write_id=f"w-{i}") for i in range(1, versions)
    ]
    assert receipts[-1]["version"] == versions
    wait_until(lambda: server.files("_lakebed/write_ids"), "the checkpoint")
    server.kill()
    trace = tmp_path / "trace"
    server.wrapper = [
        *("strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--trace=openat,open"),
        *("--string-limit=512", f"--output={trace}"),
    ]
    server.start()
    lake = server.lake()
    assert lake.write("t", numbered(1, start=7), write_id="w-7") == receipts[6]
    assert lake.create("t", numbered(1), write_id="make") == first
    last = lake.write("t", numbered(1, start=versions - 1), write_id=f"w-{versions - 1}")
    assert last == receipts[-1]
    with lake.refuses("already_exists", "w-300"):
        lake.write("t", pa.table({"id": [1]}), write_id="w-300")
    assert lake.count("t") == versions
    assert server.terminate() == 0
    opened = set(re.findall(r'"([^"]*/(?:_transactions|_versions)/[^"]*)"', trace.read_text()))
    print(f"{len(opened)} files of the history of {versions} versions were opened")
    assert 0 < len(opened) < versions // 3, sorted(opened)[:20]
