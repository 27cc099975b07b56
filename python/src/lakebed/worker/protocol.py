"""The worker protocol of docs/worker-protocol.md over one Flight connection: no second gRPC."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from lakebed._flight import FlightDoor
from lakebed._http import HttpDoor
from lakebed._target import Target
from lakebed.errors import Internal, LakebedError
from lakebed.worker.state import Attempt
from lakebed.worker.v1 import worker_pb2 as pb

SYNC_ACTION = "lakebed.worker.v1.Sync"
FUNCTION_ACTION = "lakebed.worker.v1.Function"
MODEL_ACTION = "lakebed.worker.v1.Model"
MODEL_FILE_ACTION = "lakebed.worker.v1.ModelFile"
# Beyond what the answer may wait for, a Sync gets this long.
SYNC_GRACE_S = 15.0
STREAM_S_MAX = 3_600.0


class Server:
    """The server as a worker sees it. Every method may be called from several threads at once.

    All raise `LakebedError` by kind: `Conflict` means that the attempt is somebody else's by now.
    """

    def __init__(self, target: Target) -> None:
        self._door = FlightDoor(HttpDoor(target))
        self.url = target.url

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse:
        """Says what is true here; the answer says what shall be."""
        timeout_s = request.wait_ms / 1_000 + SYNC_GRACE_S
        results = self._door.action(SYNC_ACTION, request.SerializeToString(), timeout_s)
        if len(results) != 1:
            raise Internal(f"Sync has {len(results)} answers; one is expected")
        response = pb.SyncResponse()
        response.ParseFromString(results[0])
        return response

    def read(self, attempt: Attempt) -> Iterator[pa.RecordBatch]:
        """The rows of a task: `_rowid`, and `input` of a model or the parameters of a function."""
        return iter(self._door.stream(_command("task", attempt), STREAM_S_MAX))

    def function(self, attempt: Attempt) -> bytes:
        """The definition of the function of an attempt, as JSON. It has secrets in it."""
        return self._one_answer(FUNCTION_ACTION, attempt.message().SerializeToString())

    def model(self, attempt: Attempt) -> bytes:
        """The description of the registered model of an attempt, as JSON."""
        return self._one_answer(MODEL_ACTION, attempt.message().SerializeToString())

    def model_file(self, attempt: Attempt, path: str, offset: int, length: int) -> bytes:
        """A piece of a file of that model, no longer than asked for; empty behind its end."""
        request = pb.ModelFileRequest(
            attempt=attempt.message(), path=path, offset=offset, length=length
        )
        return self._one_answer(MODEL_FILE_ACTION, request.SerializeToString())

    def _one_answer(self, action: str, body: bytes) -> bytes:
        results = self._door.action(action, body)
        if len(results) != 1:
            raise Internal(f"{action} has {len(results)} answers; one is expected")
        return results[0]

    def put(
        self,
        attempt: Attempt,
        schema: pa.Schema,
        batches: Callable[[], Iterator[pa.RecordBatch]],
    ) -> None:
        """Hands in the results of a task; returns when they are durable. Replaces what was put
        before."""
        self._door.put(_command("result", attempt), schema, batches, timeout_s=STREAM_S_MAX)

    def look_again(self) -> None:
        """After a lost connection: asks where the Flight port is now, and connects anew if it
        moved.

        A server that is restarted may come back on other ports.
        """
        self._door.look_again()


def _command(kind: str, attempt: Attempt) -> bytes:
    fields: dict[str, Any] = {
        "job": attempt.job_id,
        "task": attempt.task,
        "attempt": attempt.attempt,
    }
    return json.dumps({kind: fields}, separators=(",", ":")).encode()


def is_fatal(error: LakebedError) -> bool:
    """Whether a Sync that was refused so would be refused again: the key or the server is wrong."""
    return error.kind in {"unauthenticated", "denied", "invalid_argument", "not_implemented"}
