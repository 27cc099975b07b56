"""Appends that wait for the same commit become one version, and each shows in its own receipt's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lance

from support.data import numbered
from support.faults import slow_syncs
from support.flight import Failure, finish, write_command
from support.server import LakebedServer

CLIENTS = 32
SLOW_MS = 700


def test_appends_that_wait_are_committed_together(
    make_server: Callable[..., LakebedServer],
) -> None:
    """While one commit is on its way to a slow disk, all others that come go into the next."""
    server = make_server().start()
    server.lake().create("t", numbered(1))
    assert server.terminate() == 0
    # The folder of manifests is synced once in each commit; nothing else becomes slower.
    server.wrapper = slow_syncs(server.table_path("t") / "_versions", SLOW_MS)
    server.start()
    lakes = [server.lake() for _ in range(CLIENTS)]
    streams = []
    for i, lake in enumerate(lakes):
        rows = numbered(3, start=10 * (i + 1))
        stream = lake.begin(write_command("t", write_id=f"w-{i}"), rows.schema)
        stream[0].write_table(rows)
        streams.append(stream)

    def end(stream: Any) -> dict[str, Any]:
        return finish(*stream)

    with ThreadPoolExecutor(CLIENTS) as pool:
        receipts = list(pool.map(end, streams))
    versions = sorted({receipt["version"] for receipt in receipts})
    print(f"{CLIENTS} appends in {len(versions)} versions")
    # One commit takes the first that came, the next all that waited; a few stragglers may follow.
    assert len(versions) <= CLIENTS // 4, versions
    assert versions == list(range(2, len(versions) + 2)), "no version without a write"
    lake = lakes[0]
    for version in versions:
        seen = set(lake.read("t", version=version)["id"].to_pylist())
        for i, receipt in enumerate(receipts):
            own = {10 * (i + 1) + n for n in range(3)}
            assert receipt["rows"] == 3
            assert own <= seen if receipt["version"] <= version else not own & seen, (i, version)
    assert lake.count("t") == 1 + 3 * CLIENTS
    # The group's ids are remembered one by one.
    again = lakes[5].write("t", numbered(3, start=60), write_id="w-5")
    assert again == receipts[5]
    lance.dataset(str(server.table_path("t"))).validate()


def test_one_that_does_not_fit_leaves_its_group_alone(
    make_server: Callable[..., LakebedServer],
) -> None:
    """An append whose table changed under it is refused; those grouped with it are not."""
    server = make_server().start()
    server.lake().create("t", numbered(1))
    assert server.terminate() == 0
    server.wrapper = slow_syncs(server.table_path("t") / "_versions", SLOW_MS)
    server.start()
    late, others = server.lake(), [server.lake() for _ in range(6)]
    stream = late.begin(write_command("t"), numbered(1).schema)
    stream[0].write_table(numbered(1, start=100))
    server.lake().write("t", numbered(1, start=50), "overwrite")

    def append(i: int) -> dict[str, Any]:
        return others[i].write("t", numbered(1, start=200 + i))

    def end_late() -> int | None:
        try:
            return finish(*stream)["version"]
        except Failure:
            if late.received.get("x-lakebed-error-kind") != "conflict":
                raise
            return None

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(append, 0)
        last = pool.submit(end_late)
        receipts = [first.result(), *pool.map(append, range(1, 6))]
    expected = {50, *range(200, 206)} | ({100} if last.result() is not None else set())
    assert all(receipt["version"] > 2 for receipt in receipts)
    assert set(server.lake().read("t")["id"].to_pylist()) == expected
    assert server.lake().count("t") == len(expected)
