"""Many workers in one process that speak the worker protocol and compute next to nothing: each row
gets the length of its text. Every one has a connection of its own."""

import json
import threading
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import flight

from lakebed.worker.v1 import worker_pb2 as pb
from support.server import LakebedServer

MODEL = "length"
DIMENSIONS = 1
SYNC = "lakebed.worker.v1.Sync"
RESULTS = pa.schema(
    [
        pa.field("_rowid", pa.uint64(), nullable=False),
        pa.field("value", pa.list_(pa.float32(), DIMENSIONS)),
        pa.field("error", pa.string()),
    ]
)


def compute(rows: pa.Table) -> bytes:
    """The results of some tasks, as one Arrow stream."""
    lengths = pc.cast(pc.utf8_length(rows["input"]), pa.float32()).combine_chunks()
    values = pa.FixedSizeListArray.from_arrays(lengths, DIMENSIONS)
    ids = rows["_rowid"].combine_chunks()
    errors = pa.nulls(rows.num_rows, pa.string())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, RESULTS) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([ids, values, errors], schema=RESULTS))
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


class Member:
    """One worker of a fleet."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self.fleet = fleet
        self.name = f"member-{number}"
        self.options = flight.FlightCallOptions(
            timeout=30.0, headers=[(b"authorization", f"Bearer {fleet.key}".encode())]
        )
        self.model = pb.Model(
            name=MODEL, digest="sha256:length", dimensions=DIMENSIONS, input=pb.INPUT_TEXT
        )
        self.client = self.connect()
        self.ended: dict[tuple[int, int], pb.AttemptId] = {}
        self.block: pb.Results | None = None
        self.row_ids: dict[tuple[int, int], int] = {}

    def connect(self) -> flight.FlightClient:
        """A connection that is shared with nobody."""
        alone = [("grpc.use_local_subchannel_pool", 1)]
        return flight.FlightClient(f"grpc://{self.fleet.address}", generic_options=alone)

    def sync(self, **fields: object) -> pb.SyncResponse:
        """One report."""
        request = pb.SyncRequest(
            worker=self.name,
            instance=f"{self.name}-{self.fleet.run}",
            slots=self.fleet.slots,
            models=[self.model],
            **fields,
        )
        action = flight.Action(SYNC, request.SerializeToString())
        [result] = self.client.do_action(action, self.options)
        response = pb.SyncResponse()
        response.ParseFromString(memoryview(result.body))
        return response

    def turn(self) -> None:
        """One report with what has ended, and the rows of what it brought."""
        answer = self.sync(
            done=[pb.TaskDone(attempt=attempt) for attempt in self.ended.values()],
            results=[self.block] if self.ended and self.block is not None else [],
            wait_ms=0 if self.ended else 5_000,
        )
        if answer.assign:
            self.fleet.began(answer.assign[0].attempt.job_id)
        recorded = 0
        for attempt in answer.recorded:
            key = (attempt.task, attempt.attempt)
            if self.ended.pop(key, None) is not None:
                recorded += 1
                self.fleet.acknowledge(attempt, self.row_ids.pop(key))
        if recorded:
            self.fleet.count(recorded)
        given = [one.attempt for one in answer.assign if self.is_new(one.attempt)]
        if not given:
            return
        named = [[attempt.task, attempt.attempt] for attempt in given]
        ticket = json.dumps({"tasks": {"job": given[0].job_id, "tasks": named}})
        rows = self.client.do_get(flight.Ticket(ticket.encode()), self.options).read_all()
        # Of one row each.
        for attempt, row_id in zip(given, rows["_rowid"].to_pylist(), strict=True):
            self.fleet.read(attempt.job_id, row_id)
            key = (attempt.task, attempt.attempt)
            self.ended[key], self.row_ids[key] = attempt, row_id
        attempts = list(self.ended.values())
        if len(attempts) == len(given):
            self.block = pb.Results(attempts=attempts, stream=compute(rows))
        else:
            # What the server has not recorded yet is computed anew with the rest.
            self.ended.clear()
            self.row_ids.clear()

    def is_new(self, attempt: pb.AttemptId) -> bool:
        """Whether it was not known."""
        return (attempt.task, attempt.attempt) not in self.ended

    def work(self) -> None:
        """Until the fleet stops; a server that is away is waited for."""
        while not self.fleet.stopping.is_set():
            try:
                self.turn()
            except (flight.FlightError, pa.ArrowException, OSError):
                if self.fleet.stopping.is_set():
                    return
                time.sleep(0.02)


class Fleet:
    """Workers whose tasks have one row each."""

    def __init__(self, server: LakebedServer, members: int, slots: int) -> None:
        self.address = server.flight_address
        self.key = server.admin_key
        self.slots = slots
        self.run = time.monotonic_ns()
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self.recorded = 0
        self.begun: dict[str, float] = {}
        # How often the server was started, on a lake of its own.
        self.starts = 1
        self.acknowledged: set[tuple[str, int]] = set()
        # Rows that were given away after the server had said that they are recorded.
        self.repeated: list[tuple[str, int]] = []
        self.members = [Member(self, number) for number in range(members)]
        self.threads = [
            threading.Thread(target=member.work, daemon=True) for member in self.members
        ]
        for thread in self.threads:
            thread.start()

    def began(self, job: str) -> None:
        """A member has the first task of a job."""
        if job not in self.begun:
            now = time.perf_counter()
            with self.changed:
                self.begun.setdefault(job, now)
                self.changed.notify_all()

    def count(self, recorded: int) -> None:
        """Tasks whose end the server has recorded."""
        with self.changed:
            self.recorded += recorded
            self.changed.notify_all()

    def acknowledge(self, attempt: pb.AttemptId, row_id: int) -> None:
        """A row is recorded, as the server says. What an earlier start of it gave away may be
        somebody else's by now, and is answered in the same way."""
        if attempt.attempt >> 32 == self.starts:
            self.acknowledged.add((attempt.job_id, row_id))

    def read(self, job: str, row_id: int) -> None:
        """A row was given to a member."""
        if (job, row_id) in self.acknowledged:
            self.repeated.append((job, row_id))

    def wait_until(self, is_true: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Waits until something of the fleet is true."""
        with self.changed:
            assert self.changed.wait_for(is_true, timeout_s), f"{self.recorded} tasks recorded"

    def wait_recorded(self, tasks: int, timeout_s: float = 120.0) -> None:
        """Waits until so many tasks are recorded since the fleet began."""
        self.wait_until(lambda: self.recorded >= tasks, timeout_s)

    def start_of(self, job: str) -> float:
        """When the first task of a job came to a member, by the clock `time.perf_counter`."""
        self.wait_until(lambda: job in self.begun)
        return self.begun[job]

    def stop(self) -> None:
        """Ends all members; what they hold goes back when its leases run out."""
        self.stopping.set()
        for member in self.members:
            member.client.close()
        for thread in self.threads:
            thread.join(10)
