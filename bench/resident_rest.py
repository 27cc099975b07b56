"""The resident vector index over HTTP: 64 clients at once, a paced trickle, and rows added beside.

The load comes from wrk, which takes little of the two cores that it shares with the server. Its
answers are not looked at; a sample of the same queries is asked beside it and compared with what is
nearest.
"""

import http.client
import itertools
import json
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench import vectors
from bench.rounds import Measure, measure
from bench.vectors import K, Vectors
from support.server import LakebedServer
from support.waiting import wait_until

CLIENTS = 64
WINDOW_S = 4
RATE_BAR = 1_000
P99_BAR_MS = 100.0
# A tenth of the load, by so many connections, each asked on time whatever the others do.
PACED_PER_SECOND = 100
PACED_CONNECTIONS = 4
PACED_BAR_MS = 5.0
RECALL = 0.95
SAMPLED_PER_SECOND = 20
CHECKED = 300
# None is the server's own choice.
EFFORTS: list[int | None] = [None, 64, 112, 160, 224, 320, 448, 640, 896]
BATCH_ROWS = 50
BATCHES_PER_SECOND = 10
INSERT_CONNECTIONS = 4
FALL_BAR = 0.25
INDEX_TYPE = "RESIDENT_HNSW"
NOTHING = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Answer:
    """The ids that a query found, or the text of an error."""

    status: int
    ids: list[int]
    index_type: str | None
    text: str


class Client:
    """One connection that is kept."""

    def __init__(self, server: LakebedServer, table: str) -> None:
        self.key = server.admin_key
        self.table = table
        self.connection = http.client.HTTPConnection(server.http_address, timeout=60)

    def post(self, verb: str, body: bytes, kind: str) -> http.client.HTTPResponse:
        """An answer whose body is still to be read."""
        path = f"/v1/table/{self.table}/{verb}"
        headers = {"x-api-key": self.key, "content-type": kind}
        self.connection.request("POST", path, body, headers)
        return self.connection.getresponse()

    def query(self, body: str) -> Answer:
        """Asks and reads the answer."""
        answer = self.post("query", body.encode(), "application/json")
        data = answer.read()
        if answer.status != 200:
            return Answer(answer.status, [], None, data.decode("utf-8", "replace"))
        ids = pa.ipc.open_file(data).read_all()["id"].to_pylist()
        return Answer(200, ids, answer.headers["x-lakebed-index-type"], "")

    def insert(self, stream: bytes) -> None:
        """Adds the rows of an Arrow stream; they are durable when this returns."""
        answer = self.post("insert?mode=append", stream, "application/vnd.apache.arrow.stream")
        text = answer.read()
        assert answer.status == 200, f"insert: {answer.status} {text.decode()}"


@dataclass(frozen=True)
class Load:
    """What wrk said of one window."""

    per_second: float
    p99_ms: float


def run(server: LakebedServer, folder: Path, rounds: int, table_mb: int) -> list[Measure]:
    """Both data sets; rows are added to the larger one."""
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is missing; run `scripts/setup.sh bench`")
    figures = []
    for data in vectors.load(table_mb):
        table = f"resident_{data.name.replace('-', '_')}"
        fill(server, table, data)
        make_resident(server, table)
        bodies, effort, recall = chosen_bodies(server, table, data)
        path = folder / f"{table}.bodies"
        path.write_text("\n".join(bodies) + "\n")
        how = "as the server chooses" if effort is None else f"ef {effort}"
        print(f"{data.what}: recall {recall:.4f}, {how}", flush=True)
        figures += loaded(server, table, data, path, bodies, rounds)
        if data.name == "words":
            figures += beside_inserts(server, table, data, path, rounds)
        server.http().ok("POST", f"/v1/table/{table}/drop", {})
    return figures


def fill(server: LakebedServer, table: str, data: Vectors) -> None:
    """A table whose ids are row numbers."""
    step = max(1, 16_000_000 // (4 * data.width))
    parts = [
        rows_of(data, data.base[at : at + step], at).to_batches()[0]
        for at in range(0, data.rows, step)
    ]
    server.http().ok(
        "POST",
        f"/v1/table/{table}/create",
        stream_of(parts),
        headers={"content-type": "application/vnd.apache.arrow.stream"},
        timeout_s=300,
    )


def stored(data: Vectors, vectors: np.ndarray) -> np.ndarray:
    """Of length 1 where angles count, as models give them: then the least angle is the least L2,
    and nobody has to say which is meant."""
    if data.distance == "l2":
        return np.asarray(vectors)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def rows_of(data: Vectors, vectors: np.ndarray, first: int) -> pa.Table:
    """Rows with ids from `first` on."""
    flat = pa.array(stored(data, vectors).ravel(), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, data.width)
    return pa.table({"id": np.arange(first, first + len(vectors)), "vector": column})


def stream_of(batches: list[pa.RecordBatch]) -> bytes:
    """An Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def make_resident(server: LakebedServer, table: str) -> None:
    """Asks for the index and waits until it is ready."""
    http = server.http()
    began = time.perf_counter()
    http.ok("POST", f"/v1/table/{table}/resident/create", {"column": "vector"})

    def is_ready() -> bool:
        listed = http.ok("POST", f"/v1/table/{table}/resident/list", {}).json()["resident"]
        state = next(it["state"] for it in listed if it["column"] == "vector")
        assert state != "failed", listed
        return bool(state == "ready")

    wait_until(is_ready, "the resident index", 600)
    print(f"{table}: resident after {time.perf_counter() - began:.0f} s", flush=True)


def body_of(data: Vectors, query: np.ndarray, effort: int | None) -> str:
    """A query as clients write it: floats as short as single precision allows."""
    body: dict[str, Any] = {"vector": "?", "k": K, "columns": ["id"], "vector_column": "vector"}
    if effort is not None:
        body["ef"] = effort
    floats = ",".join(str(int(it)) if it == int(it) else str(it) for it in stored(data, query))
    return json.dumps(body, separators=(",", ":")).replace('"?"', f"[{floats}]")


def chosen_bodies(
    server: LakebedServer, table: str, data: Vectors
) -> tuple[list[str], int | None, float]:
    """All queries at the least effort that finds enough, that effort, and what it finds."""
    client = Client(server, table)
    for effort in EFFORTS:
        bodies = [body_of(data, query, effort) for query in data.queries]
        answers = [client.query(body) for body in bodies[:CHECKED]]
        check(answers)
        recall = recall_of(data, answers, range(CHECKED))
        if recall >= RECALL:
            return bodies, effort, recall
    raise AssertionError(f"no effort finds {RECALL} of {data.what}; the last one found {recall}")


def check(answers: list[Answer]) -> None:
    """All were answered by the resident index."""
    for answer in answers:
        assert answer.status == 200, f"a query got {answer.status}: {answer.text}"
        assert answer.index_type == INDEX_TYPE, f"{answer.index_type} answered"


def recall_of(data: Vectors, answers: list[Answer], numbers: Sequence[int]) -> float:
    """Of answers to the queries of these numbers."""
    found = np.full((len(answers), K), NOTHING)
    for row, answer in zip(found, answers, strict=True):
        row[: len(answer.ids)] = answer.ids
    return data.recall(found, data.nearest(), numbers)


def wrk(server: LakebedServer, table: str, bodies: Path) -> Load:
    """One window of load."""
    told = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(CLIENTS)),
            *("--duration", f"{WINDOW_S}s", "--timeout", "10s"),
            *("--script", str(Path(__file__).with_name("load.lua"))),
            f"http://{server.http_address}/v1/table/{table}/query",
            *("--", str(bodies)),
        ],
        env={**os.environ, "LAKEBED_BENCH_KEY": server.admin_key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    said = json.loads(told.stdout.strip().splitlines()[-1])
    assert said["failed"] == 0, f"{said['failed']} of {said['requests']} failed"
    return Load(said["requests"] / said["seconds"], said["p99_ms"])


@contextmanager
def meanwhile(work: Callable[[threading.Event], None], threads: int = 1) -> Iterator[None]:
    """Runs some threads until the block has ended, and passes on what fails in them."""
    ended = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, ended) for _ in range(threads)]
        try:
            yield
        finally:
            ended.set()
        for it in running:
            it.result()


def loaded(
    server: LakebedServer, table: str, data: Vectors, path: Path, bodies: list[str], rounds: int
) -> list[Measure]:
    """Windows of load with a sample beside it, and of a tenth of it, in turn."""
    loads: list[Load] = []
    paced: list[float] = []
    sampled: list[int] = []
    answers: list[Answer] = []
    numbers = itertools.count()

    def sample(ended: threading.Event) -> None:
        client = Client(server, table)
        while not ended.wait(1 / SAMPLED_PER_SECOND):
            number = next(numbers) * 7 % len(bodies)
            answers.append(client.query(bodies[number]))
            sampled.append(number)

    wrk(server, table, path)
    for _ in range(rounds):
        with meanwhile(sample):
            loads.append(wrk(server, table, path))
        paced.append(paced_p99_ms(server, table, bodies))
    check(answers)
    missed = 1 - recall_of(data, answers, sampled)
    rate = statistics.median(load.per_second for load in loads)
    seen = f"{CLIENTS} clients, {data.what}; wrk and server share the machine"
    return [
        measure(
            f"{data.title} over REST",
            f"1,000 searches, {rate:,.0f} a second; {seen}",
            "s",
            1_000 / RATE_BAR,
            [1_000 / load.per_second for load in loads],
        ),
        measure(
            f"{data.title} over REST, p99",
            seen,
            "ms",
            P99_BAR_MS,
            [load.p99_ms for load in loads],
        ),
        measure(
            f"{data.title} over REST, missed",
            f"of the {K} nearest, in {len(answers)} searches under that load",
            "of 1",
            1 - RECALL,
            [missed],
        ),
        measure(
            f"{data.title} over REST, p99 at {PACED_PER_SECOND} a second",
            f"from when it was due, {PACED_CONNECTIONS} clients, {data.what}",
            "ms",
            PACED_BAR_MS,
            paced,
        ),
    ]


def paced_p99_ms(server: LakebedServer, table: str, bodies: list[str]) -> float:
    """The 99th percentile of a window of searches that come at fixed times."""
    began = time.perf_counter() + 0.1
    gap = 1 / PACED_PER_SECOND

    def paced(first: int) -> list[float]:
        client = Client(server, table)
        waited = []
        for number in range(first, PACED_PER_SECOND * WINDOW_S, PACED_CONNECTIONS):
            due = began + number * gap
            time.sleep(max(0.0, due - time.perf_counter()))
            answer = client.post("query", bodies[number % len(bodies)].encode(), "application/json")
            answer.read()
            waited.append(time.perf_counter() - due)
            assert answer.status == 200, f"a query got {answer.status}"
        return waited

    with ThreadPoolExecutor(PACED_CONNECTIONS) as pool:
        parts = list(pool.map(paced, range(PACED_CONNECTIONS)))
    return float(np.percentile(np.concatenate(parts), 99)) * 1_000


class Inserts:
    """Rows added at fixed times by some connections of one client. After each batch the same
    connection asks for one of its rows, which has to be found."""

    def __init__(self, server: LakebedServer, table: str, data: Vectors) -> None:
        self.server = server
        self.table = table
        self.data = data
        self.batches = itertools.count()
        self.began = 0.0
        self.first = 0
        self.added = 0
        self.seconds = 0.0
        self.lost: list[int] = []
        self.lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds rows until the block ends."""
        self.began, self.first = time.perf_counter(), next(self.batches)
        # That number was only looked at; it is the first one of this window.
        self.batches = itertools.count(self.first)
        with meanwhile(self.add, INSERT_CONNECTIONS):
            yield
        self.seconds += time.perf_counter() - self.began

    def add(self, ended: threading.Event) -> None:
        """One connection."""
        client = Client(self.server, self.table)
        while True:
            with self.lock:
                number = next(self.batches)
            due = self.began + (number - self.first) / BATCHES_PER_SECOND
            if ended.wait(max(0.0, due - time.perf_counter())):
                return
            first = self.data.rows + number * BATCH_ROWS
            places = np.arange(number * BATCH_ROWS, (number + 1) * BATCH_ROWS)
            rows = self.data.spare[places % len(self.data.spare)]
            client.insert(stream_of(rows_of(self.data, rows, first).to_batches()))
            at = number % BATCH_ROWS
            answer = client.query(body_of(self.data, rows[at], None))
            check([answer])
            with self.lock:
                self.added += BATCH_ROWS
                if first + at not in answer.ids:
                    self.lost.append(first + at)


def beside_inserts(
    server: LakebedServer, table: str, data: Vectors, path: Path, rounds: int
) -> list[Measure]:
    """Windows of load with and without rows being added, in turn."""
    inserts = Inserts(server, table, data)
    alone: list[Load] = []
    beside: list[Load] = []
    for _ in range(rounds):
        alone.append(wrk(server, table, path))
        with inserts.running():
            beside.append(wrk(server, table, path))
    after = wrk(server, table, path)
    rates = [statistics.median(it.per_second for it in loads) for loads in (alone, beside)]
    wanted = BATCH_ROWS * BATCHES_PER_SECOND
    checks = inserts.added // BATCH_ROWS
    return [
        measure(
            f"{data.title} over REST, fall by inserts",
            f"of the rate of {CLIENTS} clients, {rates[0]:,.0f} a second, to {rates[1]:,.0f} "
            f"beside {wanted} rows a second in batches of {BATCH_ROWS}",
            "of 1",
            FALL_BAR,
            [1 - two.per_second / one.per_second for one, two in zip(alone, beside, strict=True)],
        ),
        measure(
            f"{data.title} over REST, fall after inserts",
            f"of the rate before any row was added, once {inserts.added:,} were",
            "of 1",
            None,
            [1 - after.per_second / alone[0].per_second],
        ),
        measure(
            f"{data.title} over REST, {wanted} inserts",
            "how long they took beside that load, each batch until its receipt",
            "s",
            1.1,
            [wanted * inserts.seconds / inserts.added],
        ),
        measure(
            f"{data.title} over REST, inserted and not found",
            f"of {checks} rows, each asked for right after its receipt",
            "rows",
            0,
            [len(inserts.lost)],
        ),
    ]
