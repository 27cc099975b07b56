"""What maintenance did by itself stands in a table, and it makes room for users while it works."""

import datetime as dt
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from support.data import numbered
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until

Make = Callable[..., LakebedServer]
QUICK = {
    "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
    "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "100",
    "LAKEBED_LIMITS_COMPACTION_BYTES_MAX": "1000000000",
    "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0",
    "LAKEBED_LIMITS_RETENTION_MS": "0",
    "LAKEBED_LIMITS_RETENTION_VERSIONS": "1",
    "LAKEBED_LIMITS_TICKET_TTL_MS": "1000",
}


def history(server: LakebedServer) -> list[dict[str, object]]:
    if "maintenance_history" not in server.http().ok("GET", "/v1/table").json()["tables"]:
        return []
    return Sql(server).rows("SELECT * FROM maintenance_history ORDER BY done_at")


def test_what_was_done_can_be_asked_for(make_server: Make) -> None:
    server = make_server(env=QUICK).start()
    lake = server.lake()
    lake.create("t", numbered(10))
    for start in range(10, 150, 10):
        lake.write("t", numbered(10, start=start))

    def actions() -> set[object]:
        return {row["action"] for row in history(server) if row["location"] == "default/t.lance"}

    wait_until(lambda: {"compact", "clean"} <= actions(), "both in the history")
    [*_, row] = [row for row in history(server) if row["action"] == "compact"]
    assert row["removed"] > row["added"] > 0  # type: ignore[operator]
    assert row["bytes"] > 0  # type: ignore[operator]
    assert (row["branch"], row["error"]) == (None, None)
    about = {row["location"] for row in history(server)}
    assert about == {"default/t.lance"}, "its own table is not in it"
    # It goes back 30 days.
    [some, *_] = history(server)
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=31)
    schema = lake.read("maintenance_history").schema
    old = pa.Table.from_pylist([{**some, "done_at": long_ago, "action": "old"}], schema)
    lake.write("maintenance_history", old)
    assert "old" in {row["action"] for row in history(server)}
    wait_until(
        lambda: "old" not in {row["action"] for row in history(server)}, "the end of old entries"
    )
    assert {"compact", "clean"} <= actions()


def test_it_rests_while_requests_run(make_server: Make) -> None:
    """A fifth of the time is the share; with one percent the difference is easily seen."""
    quick = {**QUICK, "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "3600000"}
    server = make_server(env={**quick, "LAKEBED_LIMITS_MAINTENANCE_SHARE_PERCENT": "1"}).start()
    lake = server.lake()
    lake.create("t", numbered(10))
    stop = threading.Event()

    def ask() -> None:
        own = server.http()
        while not stop.is_set():
            own.ok("POST", "/v1/table/t/update", {"updates": [["name", "'x'"]]})

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for start in range(10, 300, 10):
            lake.write("t", numbered(10, start=start))
        wait_until(lambda: server.metric("lakebed_maintenance_rested_ms_total") > 1_000, "a rest")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    # Nobody asks for anything any more.
    wait_until(lambda: fragments(server) == 1, "the compaction")
    rested = server.metric("lakebed_maintenance_rested_ms_total")
    time.sleep(0.5)
    assert server.metric("lakebed_maintenance_rested_ms_total") == rested


def fragments(server: LakebedServer) -> int:
    stats = server.http().ok("POST", "/v1/table/t/stats", {}).json()
    return stats["fragment_stats"]["num_fragments"]
