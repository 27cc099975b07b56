"""A lake in a bucket with a read cache: what was read once is not asked of the store again."""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from support.data import blobs, numbered
from support.flight import Lake
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, ServerFailed
from support.store_proxy import StoreProxy
from support.waiting import wait_until

Make = Callable[..., LakebedServer]
MIB = 1 << 20
SIZE = 128 * MIB
LARGE = (16 << 20) + 1


@pytest.fixture
def proxy(store: S3Server) -> Iterator[StoreProxy]:
    proxy = StoreProxy(f"127.0.0.1:{store.port}")
    yield proxy
    proxy.close()


@pytest.fixture
def settings(store: S3Server, proxy: StoreProxy, table: str, tmp_path: Path) -> dict[str, Any]:
    endpoint = f"http://{proxy.address}"
    env = {
        **store.environment(),
        "AWS_ENDPOINT": endpoint,
        "AWS_ENDPOINT_URL": endpoint,
        "LAKEBED_READ_CACHE_DIR": str(tmp_path / "cache"),
        "LAKEBED_READ_CACHE_BYTES": str(SIZE),
    }
    return {"data": f"s3://{BUCKET}/{table}", "env": env}


def gets(proxy: StoreProxy, *places: str) -> list[str]:
    """The reads of objects that never change, since the recording began."""
    calls = proxy.recorded()
    fixed = re.compile(r"/(data|_indices|_deletions)/|_blobs/")
    found = [call.key for call in calls if call.name.startswith("get") and fixed.search(call.key)]
    return [key for key in found if not places or any(place in key for place in places)]


def pictures(count: int) -> pa.Table:
    dice = random.Random(7)
    return blobs([dice.randbytes(100_000) for _ in range(count)] + [dice.randbytes(LARGE)])


def by_id(lake: Lake, name: str = "t") -> dict[int, bytes]:
    rows = lake.read(name, blobs="bytes")
    return dict(zip(rows["id"].to_pylist(), rows["data"].to_pylist(), strict=True))


def test_what_was_read_is_not_asked_for_again(
    make_server: Make, settings: dict[str, Any], proxy: StoreProxy
) -> None:
    server = make_server(**settings).start()
    rows = pictures(40)
    expected = dict(zip(rows["id"].to_pylist(), rows["data"].to_pylist(), strict=True))
    server.lake().create("t", rows)
    assert by_id(server.lake()) == expected
    proxy.begin_recording()
    assert by_id(server.lake()) == expected
    assert gets(proxy) == []
    hits = server.metric("lakebed_read_cache_hits_total")
    print(f"{hits} hits, {server.metric('lakebed_read_cache_misses_total')} misses")
    assert hits > 0
    # It is there after a start, too.
    assert server.terminate() == 0
    server.start()
    proxy.begin_recording()
    assert by_id(server.lake()) == expected
    again = gets(proxy)
    print(f"{len(again)} reads after a start")
    assert server.metric("lakebed_read_cache_hits_total") > 40
    assert server.metric("lakebed_read_cache_fetched_bytes_total") < LARGE


def test_changes_are_seen_at_once(make_server: Make, settings: dict[str, Any]) -> None:
    server = make_server(**settings).start()
    lake, http = server.lake(), server.http()
    for turn in range(3):
        lake.create("t", numbered(10, start=turn))
        assert lake.read("t")["id"].to_pylist() == list(range(turn, turn + 10))
        lake.write("t", numbered(5, start=100))
        lake.upsert("t", pa.table({"id": [turn], "name": [f"turn {turn}"]}), ["id"])
        http.ok("POST", "/v1/table/t/delete", {"predicate": "id = 101"})
        http.ok("POST", "/v1/table/t/compact", {})
        rows = {row["id"]: row["name"] for row in lake.read("t").to_pylist()}
        assert rows.keys() == {*range(turn, turn + 10), 100, 102, 103, 104}
        assert rows[turn] == f"turn {turn}"
        # The next one has the same name and the same version numbers.
        http.ok("POST", "/v1/table/t/drop")


def test_damage_is_found(make_server: Make, settings: dict[str, Any], tmp_path: Path) -> None:
    server = make_server(**settings).start()
    rows = pictures(60)
    expected = dict(zip(rows["id"].to_pylist(), rows["data"].to_pylist(), strict=True))
    server.lake().create("t", rows)
    assert by_id(server.lake()) == expected
    server.kill()
    dice = random.Random(3)
    damaged = 0
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file() and path.stat().st_size > MIB:
            with path.open("r+b") as file:
                for at in range(0, path.stat().st_size, 50_000):
                    file.seek(at)
                    file.write(dice.randbytes(64))
                    damaged += 1
    assert damaged > 100
    server.expect_log("")
    server.start()
    assert by_id(server.lake()) == expected
    assert by_id(server.lake()) == expected


def test_it_stays_within_its_size(
    make_server: Make, settings: dict[str, Any], tmp_path: Path
) -> None:
    server = make_server(**settings).start()
    lake = server.lake()
    dice = random.Random(5)
    for number in range(5):
        cells = [dice.randbytes(2 * MIB) for _ in range(20)]
        lake.create(f"t{number}", blobs(cells))
        assert list(by_id(lake, f"t{number}").values()) == cells
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    used = sum(path.stat().st_blocks * 512 for path in files)
    print(f"{used / MIB:.0f} MiB of {SIZE / MIB:.0f} after reading 200 MiB")
    assert SIZE / 4 < used <= SIZE * 1.05


def test_what_cannot_be_is_refused(
    make_server: Make, settings: dict[str, Any], tmp_path: Path
) -> None:
    server = make_server(**settings).start()
    second = make_server("second", **settings)
    with pytest.raises(ServerFailed, match="another server uses the read cache"):
        second.start()
    server.lake().create("t", numbered(1))
    env = {**settings["env"], "LAKEBED_READ_CACHE_BYTES": "1000"}
    with pytest.raises(ServerFailed, match="at least 134217728"):
        make_server("small", data=settings["data"], env=env).start()
    env = {"LAKEBED_READ_CACHE_DIR": str(tmp_path / "cache2")}
    with pytest.raises(ServerFailed, match="a lake in a bucket"):
        make_server("local", env=env).start()


def test_a_purge_empties_it(make_server: Make, settings: dict[str, Any], tmp_path: Path) -> None:
    secret = b"a secret of some length " * 5_000
    settings["env"]["LAKEBED_LIMITS_TICKET_TTL_MS"] = "1000"
    server = make_server(**settings).start()
    lake, http = server.lake(), server.http()
    lake.create("t", blobs([secret, b"other"]))
    assert by_id(lake)[0] == secret
    http.ok("POST", "/v1/table/t/delete", {"predicate": "id = 0"})
    wait_until(
        lambda: http.post("/v1/table/t/purge", {}).status == 200, "the end of the reader's ticket"
    )
    assert by_id(lake) == {1: b"other"}
    assert server.terminate() == 0
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not any(secret[:200] in path.read_bytes() for path in kept)
