"""Columns that attached workers compute: the real server, real workers, the real models."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from lakebed.models import load
from lakebed.worker.v1 import worker_pb2 as pb
from support.flight import status_name
from support.hand import Hand, results
from support.server import LakebedServer
from support.worker import CACHE, PICTURE_MODEL, TEXT_MODEL, Jobs, Worker

VECTOR_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def texts_model() -> Any:
    """The text model, in this process."""
    return load(TEXT_MODEL, CACHE, device="cpu")


@pytest.fixture(scope="module")
def pictures_model() -> Any:
    """The picture model, in this process."""
    return load(PICTURE_MODEL, CACHE, device="cpu")


@pytest.fixture
def worker(server: LakebedServer) -> Iterator[Worker]:
    """One worker that is attached to the module's server."""
    made = Worker(server, "w").start()
    Jobs(server).wait_for_workers(1)
    yield made
    made.kill()


def captions(stamps: Path, count: int) -> list[str]:
    """The first lines of captions, all of them different texts or not."""
    found = []
    for path in sorted(stamps.rglob("*.txt")):
        if text := path.read_text(errors="replace").strip():
            found.append(text.splitlines()[0])
        if len(found) == count:
            break
    assert len(found) == count
    return found


def vectors(model: Any, cells: list[Any]) -> np.ndarray:
    """What a model makes of cells, one at a time in this process."""
    prepared = model.prepare(cells)
    return np.concatenate([model.compute([row]) for row in prepared])


def check_vectors(column: pa.ChunkedArray, expected: np.ndarray) -> None:
    """A column of vectors is what was expected, row by row."""
    assert column.null_count == 0
    numbers = np.array(column.to_pylist(), dtype=np.float32)
    assert np.abs(numbers - expected).max() < VECTOR_TOLERANCE


@pytest.mark.usefixtures("worker")
def test_a_column_of_texts(
    server: LakebedServer, stamps: Path, texts_model: Any, table: str
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    texts = captions(stamps, 150)
    rows = pa.table({"id": range(150), "caption": [*texts[:-1], None]})
    lake.create(table, rows)
    job = jobs.submit(table, "caption", "vector", TEXT_MODEL, task_rows=32)
    ended = jobs.wait(job)
    assert ended["job_state"] == "DONE", ended
    assert ended["result"]["rows"] == 150
    assert ended["result"]["errors"] == 0
    found = lake.read(table)
    assert found["id"].to_pylist() == list(range(150))
    check_vectors(found["vector"][:-1], vectors(texts_model, texts[:-1]))
    # No text, no vector, and that is no error.
    assert found["vector"][149].as_py() is None

    # What made it is written on the column.
    said = {k.decode(): v.decode() for k, v in found.schema.field("vector").metadata.items()}
    assert said["lakebed:model"] == TEXT_MODEL
    assert said["lakebed:model_digest"] == texts_model.digest
    assert said["lakebed:dimensions"] == "384"
    assert said["lakebed:source_column"] == "caption"
    assert int(said["lakebed:source_version"]) == ended["result"]["source_version"]

    # So a search may bring a text, through each door.
    text = texts[70]
    wanted = vectors(texts_model, [text])[0].tolist()
    by_vector = lake.search({"table": table, "k": 5, "vector": wanted})
    by_text = lake.search({"table": table, "k": 5, "embed": {"text": text}})
    assert by_text["id"].to_pylist() == by_vector["id"].to_pylist()
    body = {"k": 5, "embed": {"text": text}, "columns": ["id"]}
    answer = server.http().post(f"/v1/table/{table}/query/", body)
    over_http = pa.ipc.open_file(answer.body).read_all()
    assert over_http["id"].to_pylist() == by_vector["id"].to_pylist()

    # Again: only the row without a vector is looked at, and it still has no text.
    again = jobs.wait(jobs.submit(table, "caption", "vector", TEXT_MODEL))
    assert again["result"]["rows"] == 1
    # A refusal for another model's column, by name.
    body = {"table": table, "input": "caption", "output": "vector", "model": PICTURE_MODEL}
    answer = server.http().post("/v1/jobs/submit", body)
    assert answer.status == 400
    assert "reads bytes of pictures" in answer.text


@pytest.mark.usefixtures("worker")
def test_pictures_with_broken_ones(
    server: LakebedServer, stamps: Path, pictures_model: Any, table: str
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    files = sorted(stamps.rglob("*.png"))[:40]
    cells = [path.read_bytes() for path in files]
    broken = {3: b"", 17: cells[17][:100], 29: b"no picture at all"}
    for row, cell in broken.items():
        cells[row] = cell
    blob = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob])
    lake.create(table, pa.table([list(range(40)), cells], schema=schema))
    job = jobs.submit(table, "data", "vector", PICTURE_MODEL, task_rows=16)
    ended = jobs.wait(job)
    assert ended["job_state"] == "DONE", ended
    assert (ended["result"]["rows"], ended["result"]["errors"]) == (40, 3)

    found = lake.read(table, columns=["id", "vector", "_rowid"])
    good = [row for row in range(40) if row not in broken]
    check_vectors(found["vector"].take(good), vectors(pictures_model, [cells[n] for n in good]))
    nulls = [n for n, vector in enumerate(found["vector"]) if not vector.is_valid]
    assert nulls == sorted(broken)

    # Each error is a row that can be asked for.
    errors = lake.read("job_errors", filter=f"job_id = '{job}'")
    assert errors["table_name"].to_pylist() == [table] * 3
    assert errors["column_name"].to_pylist() == ["vector"] * 3
    row_ids = [found["_rowid"][row].as_py() for row in sorted(broken)]
    assert sorted(errors["row_id"].to_pylist()) == sorted(row_ids)
    assert all(errors["error"].to_pylist())

    # By picture: the picture itself is its nearest neighbour.
    picture = base64.b64encode(cells[5]).decode()
    body = {"k": 1, "embed": {"picture": picture}, "columns": ["id"]}
    answer = server.http().post(f"/v1/table/{table}/query/", body)
    assert pa.ipc.open_file(answer.body).read_all()["id"].to_pylist() == [5]


@pytest.mark.usefixtures("worker")
def test_fragments_show_as_they_are_done(
    server: LakebedServer, texts_model: Any, table: str
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, pa.table({"id": range(20), "text": [f"first {n}" for n in range(20)]}))
    for part in range(1, 4):
        texts = [f"part {part} row {n}" for n in range(20)]
        lake.write(table, pa.table({"id": range(20 * part, 20 * part + 20), "text": texts}))
    before = server.files()
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=8)
    ended = jobs.wait(job)
    found = lake.read(table)
    check_vectors(found["vector"], vectors(texts_model, found["text"].to_pylist()))
    # Each fragment is filled by itself and nothing else is written: at each version whole fragments
    # have their vectors.
    for version in range(ended["result"]["source_version"], ended["result"]["version"] + 1):
        column = lake.read(table, version=version)["vector"]
        filled = [column[20 * n : 20 * n + 20].null_count for n in range(4)]
        assert set(filled) <= {0, 20}, (version, filled)
    kept = {path: size for path, size in before.items() if path.endswith(".lance")}
    assert kept.items() <= server.files().items()


def test_the_table_changes_under_a_job(
    make_server: Callable[..., LakebedServer], texts_model: Any
) -> None:
    server = make_server().start()
    lake, jobs = server.lake(), Jobs(server)
    for part in range(3):
        ids = range(10 * part, 10 * part + 10)
        rows = pa.table({"id": ids, "text": [f"row {n}" for n in ids]})
        (lake.create if part == 0 else lake.write)("t", rows)
    job = jobs.submit("t", "text", "vector", TEXT_MODEL, task_rows=4)
    # Nobody works on it yet. Meanwhile a text is updated in place, one is upserted, one is deleted,
    # others are appended, and the table gets another name.
    http = server.http()
    body = {"updates": [["text", "'another text'"]], "predicate": "id = 3"}
    http.ok("POST", "/v1/table/t/update/", body)
    lake.upsert("t", pa.table({"id": [12], "text": ["upserted"], "vector": no_vectors(1)}), ["id"])
    http.ok("POST", "/v1/table/t/delete/", {"predicate": "id = 25"})
    lake.write("t", pa.table({"id": [100, 101], "text": ["late", "later"]}))
    http.ok("POST", "/v1/table/t/rename/", {"new_table_name": "renamed"})
    worker = Worker(server, "w").start()
    ended = jobs.wait(job)
    assert ended["job_state"] == "DONE", ended
    worker.kill()

    found = lake.read("renamed").sort_by("id")
    assert found["id"].to_pylist() == [*range(25), *range(26, 30), 100, 101]
    texts = found["text"].to_pylist()
    assert (texts[3], texts[12]) == ("another text", "upserted")
    # What was there when the job began has the vector of its newest text; what came later has none.
    check_vectors(found["vector"][:-2], vectors(texts_model, texts[:-2]))
    assert found["vector"][-2:].null_count == 2


def no_vectors(count: int) -> pa.Array:
    """Nulls of a vector column of the text model."""
    return pa.nulls(count, pa.list_(pa.float32(), 384))


def test_pausing_resuming_and_calling_off(server: LakebedServer, table: str) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, pa.table({"id": range(50), "text": [f"row {n}" for n in range(50)]}))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=10)
    http = server.http()
    http.ok("POST", "/v1/jobs/pause", {"job_id": job})
    assert jobs.describe(job)["job_state"] == "PAUSED"
    worker = Worker(server, "w").start()
    jobs.wait_for_workers(1)
    assert jobs.progress(job)["rows_done"] == 0
    assert jobs.progress(job)["tasks_held"] == 0
    # Another job on the same column is refused while this one is not over.
    body = {"table": table, "input": "text", "output": "vector", "model": TEXT_MODEL}
    assert http.post("/v1/jobs/submit", body).status == 409
    http.ok("POST", "/v1/jobs/resume", {"job_id": job})
    assert jobs.wait(job)["job_state"] == "DONE"

    lake.create(f"{table}_2", pa.table({"id": [1], "text": ["x"]}))
    worker.kill()
    second = jobs.submit(f"{table}_2", "text", "vector", TEXT_MODEL)
    http.ok("POST", "/v1/jobs/cancel", {"job_id": second})
    assert jobs.wait(second)["job_state"] == "CANCELLED"
    assert lake.read(f"{table}_2")["vector"].null_count == 1
    assert http.post("/v1/jobs/pause", {"job_id": second}).status == 400
    assert http.post("/v1/jobs/pause", {"job_id": "none"}).status == 404


def test_a_worker_that_is_late_is_refused(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "1000"}).start()
    lake, jobs = server.lake(), Jobs(server)
    lake.create("t", pa.table({"id": range(5), "text": ["x"] * 5}))
    job = jobs.submit("t", "text", "vector", TEXT_MODEL)
    first, second = Hand(lake, "first"), Hand(lake, "second")
    (given,) = first.sync(wait_ms=5000).assign
    rows = first.read(given.attempt)
    assert rows.column_names == ["_rowid", "input"]
    assert rows["input"].to_pylist() == ["x"] * 5
    # The answer may have been lost: it is said again.
    assert [again.attempt for again in first.sync().assign] == [given.attempt]

    # It goes silent; the other one gets the task under a higher attempt.
    taken = []
    while not taken:
        taken = second.sync(wait_ms=500).assign
    (taken,) = taken
    assert taken.attempt.attempt > given.attempt.attempt
    for call in (first.read, lambda attempt: first.put(attempt, results(rows))):
        with pytest.raises(flight.FlightError) as refusal:
            call(given.attempt)
        assert status_name(refusal.value) == "ABORTED"
    answer = first.sync(running=[given.attempt])
    assert list(answer.stop) == [given.attempt]
    answer = first.sync(done=[pb.TaskDone(attempt=given.attempt)])
    assert list(answer.recorded) == [given.attempt]
    assert jobs.progress(job)["rows_done"] == 0

    # Results that do not fit the task are refused, and the right ones count once, said twice.
    cases = {
        "has no result": results(rows.slice(0, 4)),
        "does not belong": results(rows).set_column(
            0, "_rowid", pa.array(range(99, 104), pa.uint64())
        ),
        "384 numbers": results(rows).set_column(
            1, "value", pa.array([[1.0]] * 5, pa.list_(pa.float32(), 1))
        ),
    }
    for words, bad in cases.items():
        with second.lake.refuses("invalid_argument", words):
            second.put(taken.attempt, bad)
    assert second.put(taken.attempt, results(rows, 0.25)) == {"rows": 5}
    assert second.put(taken.attempt, results(rows, 0.75)) == {"rows": 5}
    for _ in range(2):
        second.sync(done=[pb.TaskDone(attempt=taken.attempt)])
    assert jobs.wait(job)["result"]["rows"] == 5
    assert lake.read("t")["vector"][0].as_py() == [0.75] * 384


def test_a_task_that_always_fails_is_given_up(server: LakebedServer, table: str) -> None:
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, pa.table({"id": range(4), "text": ["bad", "bad", "x", "x"]}))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL, task_rows=2)
    hand = Hand(lake, "failing")
    ended = False
    while not ended:
        for given in hand.sync(wait_ms=1000).assign:
            if "bad" in hand.read(given.attempt)["input"].to_pylist():
                failed = pb.TaskFailed(attempt=given.attempt, error="no memory", retryable=True)
                hand.sync(slots=0, failed=[failed])
            else:
                hand.put(given.attempt, results(hand.read(given.attempt)))
                hand.sync(slots=0, done=[pb.TaskDone(attempt=given.attempt)])
        ended = jobs.describe(job)["job_state"] != "IN_PROGRESS"
    ended = jobs.describe(job)
    assert (ended["result"]["rows"], ended["result"]["errors"]) == (4, 2)
    errors = lake.read("job_errors", filter=f"job_id = '{job}'")
    assert errors["error"].to_pylist() == ["no memory"] * 2
    assert lake.read(table)["vector"].null_count == 2


def test_what_a_role_may_do(server: LakebedServer, table: str) -> None:
    http = server.http()
    keys = {
        role: http.ok("POST", "/v1/keys", {"name": role, "role": role}).json()["key"]
        for role in ("worker", "read", "write")
    }
    lake, jobs = server.lake(), Jobs(server)
    lake.create(table, pa.table({"id": [1], "text": ["x"]}))
    job = jobs.submit(table, "text", "vector", TEXT_MODEL)
    hand = Hand(server.lake(keys["worker"]), "of role worker")
    (given,) = hand.sync(wait_ms=5000).assign
    rows = hand.read(given.attempt)
    assert rows.num_rows == 1
    # Nothing but the rows of the tasks that it holds.
    with pytest.raises(flight.FlightError) as refusal:
        server.lake(keys["worker"]).read(table)
    assert status_name(refusal.value) == "PERMISSION_DENIED"
    assert server.http(keys["worker"]).post(f"/v1/table/{table}/describe/", {}).status == 403
    foreign = pb.AttemptId(job_id=given.attempt.job_id, task=0, attempt=given.attempt.attempt - 1)
    with pytest.raises(flight.FlightError) as refusal:
        hand.read(foreign)
    assert status_name(refusal.value) == "ABORTED"
    with pytest.raises(flight.FlightError) as refusal:
        Hand(server.lake(keys["read"]), "reader").sync()
    assert status_name(refusal.value) == "PERMISSION_DENIED"
    hand.put(given.attempt, results(rows))
    hand.sync(slots=0, done=[pb.TaskDone(attempt=given.attempt)])
    assert jobs.wait(job)["job_state"] == "DONE"


def test_a_search_by_text_needs_a_worker(own_server: LakebedServer) -> None:
    lake, jobs = own_server.lake(), Jobs(own_server)
    lake.create("t", pa.table({"id": [1], "text": ["x"]}))
    jobs.submit("t", "text", "vector", TEXT_MODEL)
    body = {"k": 1, "embed": {"text": "x"}}
    answer = own_server.http().post("/v1/table/t/query/", body)
    assert answer.status == 503
    assert "lakebed-worker" in answer.text
    lake.create("u", pa.table({"id": [1], "vector": pa.array([[1.0]], pa.list_(pa.float32(), 1))}))
    answer = own_server.http().post("/v1/table/u/query/", body)
    assert answer.status == 400
    assert "which model" in answer.text


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "all-MiniLM-L6-v3"}, 404, "all-MiniLM-L6-v2"),
        ({"input": "txet"}, 404, "text"),
        ({"table": "none"}, 404, "none"),
        ({"where": "nonsense >"}, 400, "filter"),
        ({"output": "id"}, 400, "384"),
        ({"task_rows": 0}, 400, "task_rows"),
        ({"input": ""}, 400, "input"),
        ({"wehre": "id = 1"}, 400, "wehre"),
    ],
)
def test_what_cannot_be_submitted(
    server: LakebedServer, table: str, change: dict[str, Any], status: int, words: str
) -> None:
    server.lake().create(table, pa.table({"id": [1], "text": ["x"]}))
    body = {"table": table, "input": "text", "output": "vector", "model": TEXT_MODEL, **change}
    answer = server.http().post("/v1/jobs/submit", body)
    assert answer.status == status, answer.text
    assert words in answer.text
    assert server.lake().read(table).column_names == ["id", "text"]
