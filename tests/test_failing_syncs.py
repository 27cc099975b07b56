"""A disk that fails to sync: no receipt for what may be lost, and no half of anything.

A write that was refused then may have happened or not, whole; sent again under its id it has
happened once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import pytest

from support.data import numbered
from support.faults import failing_syncs
from support.flight import Failure, Lake
from support.server import LakebedServer

Make = Callable[..., LakebedServer]


def started_with_failing(make_server: Make, folder: str, delay_ms: int = 0) -> LakebedServer:
    """A server with a table `t` of 10 rows, on a lake one of whose folders cannot be synced."""
    server = make_server().start()
    server.lake().create("t", numbered(10))
    assert server.terminate() == 0
    server.wrapper = failing_syncs(Path(server.data) / folder, delay_ms=delay_ms)
    server.start()
    server.expect_log("sync|storage|store|failed|Input/output|audit|maintenance")
    return server


def healed(server: LakebedServer) -> Lake:
    """The server after a kill, on a disk that is well again."""
    server.kill()
    server.wrapper = []
    return server.start().lake()


def check_refused(lake: Lake, write: Callable[[], Any]) -> None:
    """A refusal that is no fault of the client's, and no internal error."""
    with pytest.raises(Failure) as caught:
        write()
    kind = lake.received.get("x-lakebed-error-kind")
    assert kind in {"unavailable", "commit_unknown"}, f"{kind}: {caught.value}"


@pytest.mark.parametrize("folder", ["data", "_transactions", "_versions", "."])
@pytest.mark.parametrize("mode", ["append", "upsert", "overwrite"])
def test_a_write_whose_sync_fails(make_server: Make, folder: str, mode: str) -> None:
    server = started_with_failing(make_server, f"default/t.lance/{folder}")
    lake = server.lake()
    rows = numbered(5, start=8)
    fields = {"on": ["id"]} if mode == "upsert" else {}
    after = {"append": 15, "upsert": 13, "overwrite": 5}[mode]

    def write(lake: Lake) -> dict[str, Any]:
        return lake.write("t", rows, mode, write_id="w", **fields)

    check_refused(lake, lambda: write(lake))
    assert lake.count("t") in {10, after}, "all of it or nothing"
    lake = healed(server)
    assert lake.count("t") in {10, after}
    receipt = write(lake)
    assert receipt["rows"] == 5
    assert lake.count("t") == after
    assert lake.read("t", version=1).equals(numbered(10))
    assert write(lake) == receipt
    lance.dataset(str(server.table_path("t"))).validate()


def test_upserts_of_one_commit_whose_sync_fails(make_server: Make) -> None:
    """All of them are told so, none is merged a second time, and each can be sent again."""
    clients = 16
    server = started_with_failing(make_server, "default/t.lance/_versions", delay_ms=500)
    lakes = [server.lake() for _ in range(clients)]

    def upsert(lake: Lake, i: int) -> dict[str, Any]:
        return lake.write("t", numbered(2, start=8 + i), "upsert", on=["id"], write_id=f"w-{i}")

    def refused(i: int) -> None:
        check_refused(lakes[i], lambda: upsert(lakes[i], i))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(refused, range(clients)))
    lake = healed(server)
    versions = lance.dataset(str(server.table_path("t"))).latest_version
    assert versions <= clients // 2, "as many commits were tried as there were groups"
    receipts = [upsert(lake, i) for i in range(clients)]
    assert all(receipt["rows"] == 2 for receipt in receipts)
    assert lake.read("t").sort_by("id").equals(numbered(8 + clients + 1))
    assert [upsert(lake, i) for i in range(clients)] == receipts
    lance.dataset(str(server.table_path("t"))).validate()


@pytest.mark.parametrize(
    "folder", ["_lakebed/catalog/default", "default", "default/new.lance/_versions"]
)
def test_a_create_whose_sync_fails(make_server: Make, folder: str) -> None:
    """The table is there whole or not at all, and the create can be sent again."""
    server = started_with_failing(make_server, folder)
    lake = server.lake()
    check_refused(lake, lambda: lake.create("new", numbered(3), write_id="make"))
    assert lake.read("t").equals(numbered(10))
    lake = healed(server)
    assert set(lake.tables()) in ({"t"}, {"t", "new"})
    receipt = lake.create("new", numbered(3), write_id="make")
    assert (receipt["version"], receipt["rows"]) == (1, 3)
    assert lake.read("new").equals(numbered(3))
    assert lake.tables() == ["new", "t"]


def test_a_rename_whose_sync_fails(make_server: Make) -> None:
    """Done or not done; after a restart the rows are under exactly one name."""
    server = started_with_failing(make_server, "_lakebed/catalog/default")
    http = server.http()
    assert http.post("/v1/table/t/rename", {"new_table_name": "u"}).status == 503
    lake = healed(server)
    names = lake.tables()
    assert names in (["t"], ["u"])
    assert lake.read(names[0]).equals(numbered(10))
    other = "u" if names == ["t"] else "t"
    with lake.refuses("not_found"):
        lake.read(other)
    assert lake.create(other, numbered(2))["version"] == 1


def test_a_drop_whose_sync_fails(make_server: Make) -> None:
    """The table is there with all its rows, or gone and its name free."""
    server = started_with_failing(make_server, "_lakebed/catalog/default")
    assert server.http().post("/v1/table/t/drop").status == 503
    lake = healed(server)
    if lake.tables():
        assert lake.read("t").equals(numbered(10))
    assert lake.write("t", numbered(2), "overwrite")["rows"] == 2
    assert lake.read("t").equals(numbered(2))
    assert lake.tables() == ["t"]


def test_an_upload_whose_sync_fails(make_server: Make) -> None:
    """A part that is not durable is not acknowledged."""
    server = make_server().start()
    http = server.http()
    url = f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"
    http.ok("PUT", f"{url}?offset=0", b"12345")
    assert server.terminate() == 0
    server.wrapper = failing_syncs(Path(server.data) / f"_lakebed/uploads/{url.rsplit('/')[-1]}")
    server.start()
    server.expect_log("sync|storage|store|failed|Input/output|audit|maintenance")
    answer = server.http().request("PUT", f"{url}?offset=5", b"67890")
    assert answer.status == 503, answer.text
    healed(server)
    http = server.http()
    offset = http.ok("GET", url).json()["offset"]
    assert offset in {5, 10}
    assert http.ok("PUT", f"{url}?offset={offset}", b"67890"[offset - 5 :]).json()["offset"] == 10


def test_what_a_failed_rename_left_is_one_story(make_server: Make) -> None:
    """Listing, reading and dropping agree on the name, whether the rename happened or not."""
    server = started_with_failing(make_server, "_lakebed/catalog/default")
    lake, http = server.lake(), server.http()
    assert http.post("/v1/table/t/rename", {"new_table_name": "u"}).status == 503
    names = lake.tables()
    assert names in (["t"], ["u"])
    assert lake.read(names[0]).equals(numbered(10))
    url = f"/v1/table/{names[0]}"
    assert http.get(f"{url}/show").status == 200
    assert http.post(f"{url}/drop").status != 404, f"{names[0]} is listed and read"
