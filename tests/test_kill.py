"""SIGKILL under writers: every acknowledged row is there, once, and no half batch.

Writers append batches with write ids to one table, another upserts a whole table at a time. The
server is killed while they run. What a writer was not told about may or may not have happened; sent
again under its old id it happens exactly once.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.flight import Failure
from support.server import LakebedServer
from support.waiting import wait_until

WRITERS = 8
BATCH_ROWS = 40
LABELS = 50


def batch_of(writer: int, number: int) -> pa.Table:
    """One write, told apart from every other by its columns."""
    return pa.table(
        {
            "writer": pa.array([writer] * BATCH_ROWS, pa.int32()),
            "number": pa.array([number] * BATCH_ROWS, pa.int32()),
            "row": pa.array(range(BATCH_ROWS), pa.int32()),
            "text": [f"{writer}/{number}/{row}" * 5 for row in range(BATCH_ROWS)],
        }
    )


@dataclass
class Writer:
    """One client and what it knows: receipts by number, and the write it has no answer for."""

    index: int
    receipts: dict[int, dict[str, Any]] = field(default_factory=dict)
    in_flight: int | None = None

    def write_id(self, number: int) -> str:
        return f"writer-{self.index}-{number}"

    def run(self, server: LakebedServer, stop: threading.Event) -> None:
        """Writes until the server is gone or `stop` is set; first what has no answer yet."""
        lake = server.lake()
        try:
            while not stop.is_set():
                number = self.in_flight if self.in_flight is not None else len(self.receipts)
                self.in_flight = number
                self.receipts[number] = lake.write(
                    "events", batch_of(self.index, number), write_id=self.write_id(number)
                )
                self.in_flight = None
        except Failure:
            pass
        finally:
            lake.close()


@dataclass
class Labeller:
    """A client that sets one value in every row of a table, again and again."""

    done: int = 0
    tried: int = 0

    def run(self, server: LakebedServer, stop: threading.Event) -> None:
        lake = server.lake()
        try:
            while not stop.is_set():
                self.tried = self.done + 1
                values = pa.array([self.tried] * LABELS, pa.int64())
                rows = pa.table({"id": pa.array(range(LABELS), pa.int64()), "value": values})
                lake.upsert("labels", rows, ["id"], write_id=f"label-{self.tried}")
                self.done = self.tried
        except Failure:
            pass
        finally:
            lake.close()


def check(server: LakebedServer, writers: list[Writer], labeller: Labeller) -> None:
    """What must hold after a restart."""
    lake = server.lake()
    rows = lake.read("events")
    found = Counter(zip(rows["writer"].to_pylist(), rows["number"].to_pylist(), strict=True))
    for row in rows.to_pylist():
        assert row["text"] == f"{row['writer']}/{row['number']}/{row['row']}" * 5
    for writer in writers:
        for number, receipt in writer.receipts.items():
            count = found.pop((writer.index, number), 0)
            assert count == BATCH_ROWS, f"acknowledged {writer.write_id(number)} has {count} rows"
            assert receipt["rows"] == BATCH_ROWS
        if writer.in_flight is not None:
            count = found.pop((writer.index, writer.in_flight), 0)
            assert count in {0, BATCH_ROWS}, f"half a batch of {count} rows"
    assert not found, f"rows that nobody wrote: {found}"
    distinct = {tuple(row.values())[:3] for row in rows.to_pylist()}
    assert len(distinct) == rows.num_rows
    values = set(lake.read("labels")["value"].to_pylist())
    assert len(values) == 1, f"half an upsert: {values}"
    assert labeller.done <= values.pop() <= labeller.tried
    for table in ("events", "labels"):
        lance.dataset(str(server.table_path(table))).validate()


@pytest.mark.timeout(3_000)
def test_no_acknowledged_row_is_lost(make_server: Callable[..., LakebedServer], soak: bool) -> None:
    kills = 50 if soak else 5
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    server = make_server().start()
    server.lake().create("events", batch_of(0, 0).slice(0, 0))
    server.lake().create(
        "labels", pa.table({"id": pa.array(range(LABELS), pa.int64()), "value": [0] * LABELS})
    )
    writers = [Writer(i) for i in range(WRITERS)]
    labeller = Labeller()
    for _ in range(kills):
        stop = threading.Event()
        clients = [*writers, labeller]
        threads = [threading.Thread(target=c.run, args=(server, stop)) for c in clients]
        answered = lambda: sum(len(writer.receipts) for writer in writers)  # noqa: E731
        enough = answered() + dice.randrange(10, 60)
        labelled = labeller.done + 1
        for thread in threads:
            thread.start()
        wait_until(
            lambda: answered() >= enough and labeller.done >= labelled,  # noqa: B023
            "enough acknowledged writes",
            timeout_s=120,
            poll_s=0.001,
        )
        server.kill()
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert any(writer.in_flight is not None for writer in writers), "killed under writers"
        server.start()
        check(server, writers, labeller)
        lake = server.lake()
        for writer in dice.sample(writers, 3):
            for number in dice.sample(sorted(writer.receipts), min(5, len(writer.receipts))):
                again = lake.write(
                    "events", batch_of(writer.index, number), write_id=writer.write_id(number)
                )
                assert again == writer.receipts[number]

    # Whatever was under way at the last kill is sent again under its old id: once, not twice.
    lake = server.lake()
    for writer in writers:
        if (number := writer.in_flight) is not None:
            writer.receipts[number] = lake.write(
                "events", batch_of(writer.index, number), write_id=writer.write_id(number)
            )
            writer.in_flight = None
    check(server, writers, labeller)


def test_a_kill_while_a_table_is_made(make_server: Callable[..., LakebedServer]) -> None:
    """A create that was under way is there whole or not at all, and can be sent again."""
    server = make_server().start()
    acknowledged: dict[str, dict[str, Any]] = {}
    tried: list[str] = []

    def create_tables(worker: int) -> None:
        lake = server.lake()
        try:
            for i in range(1_000):
                name = f"t{worker}_{i}"
                tried.append(name)
                acknowledged[name] = lake.create(name, batch_of(worker, i), write_id=name)
        except Failure:
            pass

    threads = [threading.Thread(target=create_tables, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) >= 12, "twelve tables", poll_s=0.001)
    server.kill()
    for thread in threads:
        thread.join(60)
    server.start()
    lake = server.lake()
    listed = set(lake.tables())
    assert set(acknowledged) <= listed <= set(tried)
    for name in tried:
        worker, i = map(int, name[1:].split("_"))
        receipt = lake.create(name, batch_of(worker, i), write_id=name)
        assert receipt == acknowledged.get(name, receipt)
        assert lake.read(name).equals(batch_of(worker, i))
