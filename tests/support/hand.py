"""A worker by hand: the calls of the worker protocol, one at a time."""

import json
from typing import Any

import pyarrow as pa
from pyarrow import flight

from lakebed.worker.v1 import worker_pb2 as pb
from support.flight import Lake, command, commit_marker
from support.worker import TEXT_MODEL


class Hand:
    """One worker that has the text model, as it says."""

    def __init__(self, lake: Lake, instance: str = "hand") -> None:
        self.lake = lake
        self.instance = instance

    def sync(self, *, slots: int = 1, **fields: Any) -> pb.SyncResponse:
        model = pb.Model(name=TEXT_MODEL, digest="sha256:hand", dimensions=384, input=pb.INPUT_TEXT)
        request = pb.SyncRequest(
            worker="hand", instance=self.instance, slots=slots, models=[model], **fields
        )
        action = flight.Action("lakebed.worker.v1.Sync", request.SerializeToString())
        results = list(self.lake.client.do_action(action, self.lake.options()))
        return pb.SyncResponse.FromString(results[0].body.to_pybytes())

    def read(self, attempt: pb.AttemptId) -> pa.Table:
        ticket = json.dumps({"task": named(attempt)})
        return self.lake.stream(flight.Ticket(ticket.encode())).read_all()

    def read_all(self, attempts: list[pb.AttemptId]) -> pa.Table:
        """The rows of several tasks of one job."""
        named = [[attempt.task, attempt.attempt] for attempt in attempts]
        ticket = json.dumps({"tasks": {"job": attempts[0].job_id, "tasks": named}})
        return self.lake.stream(flight.Ticket(ticket.encode())).read_all()

    def put(self, attempt: pb.AttemptId, rows: pa.Table) -> dict[str, Any]:
        marker = commit_marker(rows.num_rows)
        return self.lake.put(command({"result": named(attempt)}), rows, marker=marker)


def named(attempt: pb.AttemptId) -> dict[str, Any]:
    """An attempt as the Flight commands write it."""
    return {"job": attempt.job_id, "task": attempt.task, "attempt": attempt.attempt}


def results(rows: pa.Table, value: float = 0.5) -> pa.Table:
    """Results for the rows of a task, the same vector for each."""
    count = rows.num_rows
    return pa.table(
        {
            "_rowid": rows["_rowid"],
            "value": pa.array([[value] * 384] * count, pa.list_(pa.float32(), 384)),
            "error": pa.nulls(count, pa.string()),
        }
    )


def stream(rows: pa.Table) -> bytes:
    """Results as they travel with a report."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())
