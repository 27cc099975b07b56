"""Kills of workers and of the server while a function fills a column, and the table changes on.

At the end the column is what the function gives for each row, as if nothing had happened.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from lancedb import col, udf

from support.killer import Killer, at_fixed_ports
from support.server import LakebedServer
from support.worker import Jobs, Worker

ROWS = 600
FRAGMENTS = 3
TASK_ROWS = 10
LEASE_MS = 2_000
KILLS = 4
KILLS_SOAK = 40
SOON = timedelta(seconds=120)


@udf
def marked(text: str) -> str:
    import time

    # So that a kill finds somebody at work.
    time.sleep(0.005)
    return f"<{text}>"


class Changes(threading.Thread):
    """Appends, updates, deletes and compactions, beside the job."""

    def __init__(self, server: LakebedServer, table: str) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.table = table
        self.stop = threading.Event()
        self.done = 0

    def run(self) -> None:
        dice = random.Random(7)
        first = 10_000
        while not self.stop.wait(0.1):
            # The server may be down; what was not acknowledged may be there or not.
            with contextlib.suppress(Exception):
                kind = dice.randrange(4)
                http = self.server.http()
                if kind == 0:
                    rows = {"id": range(first, first + 5), "text": [f"new {first}"] * 5}
                    first += 5
                    self.server.lake().write(self.table, pa.table(rows))
                elif kind == 1:
                    where = f"id % 97 = {dice.randrange(97)}"
                    body = {"predicate": where, "updates": [["text", "text || '!'"]]}
                    http.ok("POST", f"/v1/table/{self.table}/update/", body)
                elif kind == 2:
                    body = {"predicate": f"id % 211 = {dice.randrange(211)}"}
                    http.ok("POST", f"/v1/table/{self.table}/delete/", body)
                else:
                    http.ok("POST", f"/v1/table/{self.table}/compact", {})
                self.done += 1


@contextlib.contextmanager
def changing(server: LakebedServer, table: str) -> Iterator[Changes]:
    changes = Changes(server, table)
    changes.start()
    yield changes
    changes.stop.set()
    changes.join(30)


def refreshed(table: Any) -> Any:
    """A job that fills the column; asked again while the server starts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return table.refresh_column_async("marked")
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.timeout(1_500)
def test_kills_and_changes_leave_the_column_right(
    make_server: Callable[..., LakebedServer], soak: bool
) -> None:
    wanted = KILLS_SOAK if soak else KILLS
    server = at_fixed_ports(make_server, {"LAKEBED_LIMITS_TASK_LEASE_MS": str(LEASE_MS)})
    workers = [Worker(server, name).start() for name in ("first", "second", "third")]
    jobs = Jobs(server)
    jobs.wait_for_workers(3)
    address = f"http://{server.http_address}"
    db = lancedb.connect("db://default", api_key=server.admin_key, host_override=address)
    function = db.create_function(marked)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    killer = Killer(server, workers, seed)
    changed = rounds = 0
    try:
        while killer.kills.total() < wanted:
            name = f"t{rounds}"
            rows = pa.table({"id": range(ROWS), "text": [f"row {n}" for n in range(ROWS)]})
            size = ROWS // FRAGMENTS
            for part in range(FRAGMENTS):
                how = "append" if part else "create"
                server.lake().write(name, rows.slice(part * size, size), how)
            table = db.open_table(name)
            table.add_columns({"marked": function(text=col("text"))})
            with changing(server, name) as changes:
                body = {"column": "marked", "task_rows": TASK_ROWS}
                asked = server.http().ok("POST", f"/v1/table/{name}/backfill_column", body)
                job = asked.json()["job_id"]
                for _ in range(KILLS):
                    if not killer.kill_one(job):
                        break
                ended = jobs.wait(job, 300)
                assert ended["job_state"] == "DONE", ended
                assert ended["result"]["rows_failed"] == 0
            changed += changes.done
            # What came or changed meanwhile.
            refreshed(table).wait(SOON)
            assert refreshed(table).wait(SOON).rows_assigned == 0
            for row in server.lake().read(name).to_pylist():
                assert row["marked"] == f"<{row['text']}>", row
            rounds += 1
    finally:
        for worker in workers:
            worker.kill()
    assert changed > 5
    print(f"killed: {dict(killer.kills)}, {changed} changes, {rounds} jobs")
