"""Models and functions in SQL: real workers compute rows while a statement waits for them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from lancedb import udf
from test_jobs import Hand, captions, check_vectors, results, vectors

import lakebed
from lakebed.models import load
from lakebed.worker.v1 import worker_pb2 as pb
from support.cli import Cli
from support.indexes import build
from support.lancedb import connect
from support.server import LakebedServer
from support.sql import Sql
from support.waiting import wait_until
from support.worker import CACHE, PICTURE_MODEL, TEXT_MODEL, Jobs, Worker

ROWS = 600
EMBED = f"embed('{TEXT_MODEL}', caption)"


@udf
def words(text: str) -> int:
    return len(text.split())


@udf
def known(text: str | None) -> str:
    return "nothing" if text is None else text.upper()


@udf(
    input_schema=pa.schema([pa.field("x", pa.float32(), nullable=False)]),
    output_schema=pa.float32(),
)
def halved(x: pa.Array) -> pa.Array:
    import pyarrow.compute as pc

    return pc.divide(x, 2)


@udf(
    input_schema=pa.schema([pa.field("text", pa.string(), nullable=False)]),
    output_schema=pa.schema([("normalized", pa.string()), ("tokens", pa.int64())]),
)
def features(text: str) -> dict[str, Any]:
    return {"normalized": text.lower(), "tokens": len(text.split())}


@udf
class Tagged:
    def __init__(self, word: str, strict: bool = False):
        self.word, self.strict = word, strict

    def __call__(self, text: str) -> bool:
        return self.word in text


@udf
def picky(number: int) -> int:
    if number == 423:
        raise ValueError("423 will not do")
    return number


@udf
def slow(number: int) -> int:
    import time

    time.sleep(0.02)
    return number * 2


@udf(name="version_of")
def first(text: str) -> int:
    return text.count("x")


@udf(name="version_of")
def second(text: str) -> str:
    return text.replace("x", "two")


FUNCTIONS = (words, known, halved, features, Tagged, picky, slow)


@pytest.fixture(scope="module")
def texts_model() -> Any:
    """The text model, in this process."""
    return load(TEXT_MODEL, CACHE, device="cpu")


@pytest.fixture(scope="module")
def worker(module_server: LakebedServer) -> Iterator[Worker]:
    """A worker that is attached to the module's server, which has the functions."""
    made = Worker(module_server, "w").start()
    Jobs(module_server).wait_for_workers(1)
    db = connect(module_server)
    for function in FUNCTIONS:
        db.create_function(function)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def photos(worker: Worker, module_server: LakebedServer, stamps: Path) -> list[str | None]:
    """The captions of the table `photos`, one of them null; column `vector` is a job's."""
    texts: list[str | None] = list(captions(stamps, ROWS))
    texts[7] = None
    assert worker.process is not None
    lake = module_server.lake()
    lake.create("photos", pa.table({"id": range(ROWS), "caption": texts}))
    jobs = Jobs(module_server)
    ended = jobs.wait(jobs.submit("photos", "caption", "vector", TEXT_MODEL))
    assert ended["job_state"] == "DONE", ended
    lake.close()
    return texts


def nothing_waits(server: LakebedServer, killed: str = "") -> None:
    """No rows of a statement are left with the workers."""

    def is_idle() -> bool:
        alive = [each for each in Jobs(server).workers() if each["worker"] != killed]
        running = [each["running"] for each in alive]
        return metric(server, "lakebed_evaluations_waiting") == 0 and not any(running)

    wait_until(is_idle, "nothing to wait for", 20)


def metric(server: LakebedServer, name: str) -> float:
    """A number of the page of metrics; 0 where it is not there yet."""
    lines = server.http().get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def resident_bytes(server: LakebedServer) -> float:
    """Memory of the server's process."""
    return metric(server, "lakebed_process_resident_bytes")


# ---- models ---------------------------------------------------------------------------------


def test_the_vectors_are_those_of_a_job(
    sql: Sql, photos: list[str | None], texts_model: Any, server: LakebedServer
) -> None:
    found = sql.query(f"SELECT id, vector, {EMBED} AS made FROM photos ORDER BY id")
    assert found["id"].to_pylist() == list(range(ROWS))
    assert found.schema.field("made").type == pa.list_(pa.float32(), 384)
    some = [n for n in range(ROWS) if photos[n] is not None]
    # Null gives null, and nothing else does.
    assert [n for n in range(ROWS) if not found["made"][n].is_valid] == [7]
    job = np.array(found["vector"].take(some).to_pylist(), np.float32)
    made = np.array(found["made"].take(some).to_pylist(), np.float32)
    assert np.abs(job - made).max() < 1e-5
    check_vectors(found["made"].take([0, 70]), vectors(texts_model, [photos[0], photos[70]]))
    nothing_waits(server)


@pytest.mark.usefixtures("photos")
def test_rows_are_filtered_and_ordered_by_calls(sql: Sql, photos: list[str | None]) -> None:
    text = (photos[70] or "").replace("'", "''")
    near = f"array_distance({EMBED}, embed('{TEXT_MODEL}', '{text}'))"
    searched = sql.query(f"SELECT id FROM vector_search('photos', 'vector', '{text}', 5)")
    ordered = sql.query(f"SELECT id FROM photos ORDER BY {near}, id LIMIT 5")
    # Rows with the same caption come in any order.
    caption = {n: photos[n] for n in range(ROWS)}
    assert [caption[n] for n in ordered["id"].to_pylist()] == [
        caption[n] for n in searched["id"].to_pylist()
    ]
    close = sql.query(f"SELECT id, {near} AS d FROM photos WHERE id < 100 AND {near} < 0.01")
    assert 70 in close["id"].to_pylist()
    assert all(caption[n] == photos[70] for n in close["id"].to_pylist())
    # One step makes the call, for the filter and for the answer.
    plan = sql.plan(f"SELECT id, {near} AS d FROM photos WHERE id < 100 AND {near} < 0.01")
    assert plan.count("EvaluateExec") == 1, plan


@pytest.mark.usefixtures("photos")
def test_only_what_is_shown_is_computed(sql: Sql, server: LakebedServer) -> None:
    def computed() -> float:
        return metric(server, "lakebed_evaluated_rows_total")

    for query, rows in [
        (f"SELECT id, {EMBED} FROM photos ORDER BY id DESC LIMIT 3", 3),
        (f"SELECT id, {EMBED} FROM photos LIMIT 4", 4),
        (f"SELECT id, {EMBED} AS v FROM photos WHERE id IN (1, 2)", 2),
        (f"SELECT id FROM photos WHERE id < 5 AND {EMBED} IS NOT NULL", 5),
        (f"SELECT id FROM (SELECT id, {EMBED} AS v FROM photos)", 0),
        (f"SELECT count(*) FROM (SELECT id, {EMBED} AS v FROM photos)", 0),
        (f"SELECT v FROM (SELECT id, {EMBED} AS v FROM photos) WHERE id = 9", 1),
        (f"SELECT id, embed('{TEXT_MODEL}', 'one text') FROM photos", 1),
        (f"EXPLAIN SELECT id, {EMBED}, embed('{TEXT_MODEL}', 'x') FROM photos", 0),
    ]:
        before = computed()
        sql.query(query)
        assert computed() - before == rows, query


def test_a_table_of_a_query_can_be_searched_by_text(
    server: LakebedServer, sql: Sql, photos: list[str | None], table: str
) -> None:
    sql.change(
        f"CREATE TABLE {table} AS SELECT id, caption, {EMBED} AS v FROM photos WHERE id < 50"
    )
    text = (photos[20] or "").replace("'", "''")
    found = sql.rows(f"SELECT caption, _distance FROM vector_search('{table}', 'v', '{text}', 1)")
    assert found[0]["caption"] == photos[20]
    assert found[0]["_distance"] < 1e-6
    build(server, table, {"caption": {"index_type": "FTS"}})
    word = max((photos[20] or "").replace("'", " ").split(), key=len).strip(".,!?;")
    both = sql.rows(f"SELECT id FROM hybrid_search('{table}', 'v', '{text}', '{word}', 3)")
    assert 20 in [row["id"] for row in both]
    # Rows that are written down, and rows of a query.
    changed = sql.change(
        f"INSERT INTO {table} (id, caption, v) VALUES (100, 'x', embed('{TEXT_MODEL}', '{text}'))"
    )
    assert changed == 1
    assert (
        sql.change(f"INSERT INTO {table} SELECT id, caption, {EMBED} FROM photos WHERE id = 60")
        == 1
    )
    query = f"SELECT id FROM vector_search('{table}', 'v', '{text}', 2) ORDER BY id"
    assert sql.query(query)["id"].to_pylist() == [20, 100]
    sql.change(
        f"MERGE INTO {table} AS t USING (SELECT id, {EMBED} AS v FROM photos WHERE id = 60) AS s "
        "ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v"
    )
    with sql.connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} (id, v) VALUES (?, embed('{TEXT_MODEL}', ?))",
            [(200, "a red car"), (201, "a cat")],
        )
    assert sql.value(f"SELECT count(v) FROM {table} WHERE id >= 200") == 2
    with sql.refuses("unimplemented", "MERGE"):
        sql.change(f"UPDATE {table} SET v = embed('{TEXT_MODEL}', caption)")


@pytest.mark.usefixtures("worker")
def test_pictures_are_embedded(sql: Sql, server: LakebedServer, stamps: Path, table: str) -> None:
    cells = [path.read_bytes() for path in sorted(stamps.rglob("*.png"))[:6]]
    blob = pa.field("data", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("id", pa.int64()), blob, pa.field("plain", pa.binary())])
    server.lake().create(table, pa.table([range(6), cells, cells], schema=schema))
    found = sql.query(
        f"SELECT id, embed('{PICTURE_MODEL}', blob_bytes(data)) AS a, "
        f"embed('{PICTURE_MODEL}', plain) AS b FROM {table} ORDER BY id"
    )
    model = load(PICTURE_MODEL, CACHE, device="cpu")
    check_vectors(found["a"], vectors(model, cells))
    assert found["b"].to_pylist() == found["a"].to_pylist()
    server.lake().write(table, pa.table([[9], [b"none"], [b"none"]], schema=schema))
    with sql.refuses("invalid_argument", PICTURE_MODEL):
        sql.query(f"SELECT embed('{PICTURE_MODEL}', plain) FROM {table}")


# ---- functions ------------------------------------------------------------------------------


def test_functions_of_all_forms(sql: Sql, photos: list[str | None]) -> None:
    found = sql.rows(
        "SELECT id, caption, words(caption) AS w, KNOWN(caption) AS k, "
        "halved(CAST(id AS FLOAT)) AS h, features(caption) AS f, Tagged(caption, 'a') AS t, "
        '"words"(lower(caption)) + 1 AS more, words(known(caption)) AS inner '
        "FROM photos WHERE words(caption) > 2 OR caption IS NULL "
        "ORDER BY words(caption) DESC, id"
    )
    expected = [n for n in range(ROWS) if photos[n] is None or len((photos[n] or "").split()) > 2]
    assert sorted(row["id"] for row in found) == expected
    for row in found:
        text = photos[row["id"]]
        assert row["h"] == row["id"] / 2
        if text is None:
            # The parameter of `known` may be null, those of the others may not.
            assert (row["w"], row["k"], row["f"], row["t"]) == (None, "nothing", None, None)
            assert row["inner"] == 1
            continue
        assert row["w"] == len(text.split()) == row["inner"] == row["more"] - 1
        assert row["k"] == text.upper()
        assert row["f"] == {"normalized": text.lower(), "tokens": len(text.split())}
        assert row["t"] == ("a" in text)
    counts = [row["w"] for row in found if row["w"] is not None]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.usefixtures("photos")
def test_calls_stand_wherever_expressions_do(sql: Sql) -> None:
    by_words = sql.rows(
        "SELECT words(caption) AS w, count(*) AS n, max(words(caption)) AS m FROM photos "
        "WHERE caption IS NOT NULL GROUP BY words(caption) HAVING count(*) > 1 ORDER BY 1"
    )
    assert by_words
    assert all(row["w"] == row["m"] for row in by_words)
    longest = "SELECT max(words(caption)) FROM photos"
    assert sql.value(f"SELECT count(*) FROM photos WHERE words(caption) IN ({longest})") > 0
    assert sql.value("SELECT sum(words(column1)) FROM (VALUES ('a b'), ('c'))") == 3
    assert sql.value("SELECT words('a b c')") == 3
    assert sql.value("SELECT words(?)", ["a b"]) == 2
    sql.change("CREATE VIEW counted AS SELECT id, words(caption) AS w FROM photos")
    assert sql.value("SELECT count(w) FROM counted") == ROWS - 1
    windows = sql.query("SELECT id, rank() OVER (ORDER BY words(caption)) FROM photos")
    assert windows.num_rows == ROWS
    unions = sql.query("SELECT words(caption) AS w FROM photos UNION ALL SELECT words('a')")
    assert unions.num_rows == ROWS + 1


@pytest.mark.usefixtures("photos")
def test_a_join_calls_over_its_sides(sql: Sql) -> None:
    joined = sql.value(
        "SELECT count(*) FROM photos AS a JOIN photos AS b "
        "ON a.id = b.id AND words(a.caption) = words(b.caption) AND words(b.caption) > 0"
    )
    assert joined == ROWS - 1
    with sql.refuses("unimplemented", "both of its sides"):
        sql.query("SELECT 1 FROM photos AS a JOIN photos AS b ON words(a.caption || b.caption) = 3")
    outer = sql.query(
        "SELECT a.id, b.id AS other FROM photos AS a LEFT JOIN photos AS b "
        "ON a.id = b.id AND words(b.caption) > 3 WHERE a.id < 20 ORDER BY a.id"
    )
    assert outer.num_rows == 20
    assert 0 < outer["other"].null_count < 20


@pytest.mark.parametrize(
    ("query", "code", "fragments"),
    [
        ("SELECT wrds(caption) FROM photos", "not_found", ["`wrds`", "words"]),
        ("SELECT nowhere.words(caption) FROM photos", "not_found", ["nowhere.words"]),
        ("SELECT words(id) FROM photos", "invalid_argument", ["`text`", "`words`", "Int64"]),
        ("SELECT words(caption, 2) FROM photos", "invalid_argument", ["`words`", "2 arguments"]),
        ("SELECT Tagged(caption) FROM photos", "invalid_argument", ["constant `word`"]),
        ("SELECT Tagged(caption, caption) FROM photos", "invalid_argument", ["`word`", "constant"]),
        ("SELECT picky(id * 1.5) FROM photos", "invalid_argument", ["`number`"]),
        ("SELECT embed('all-MiniLM', caption) FROM photos", "not_found", [TEXT_MODEL]),
        (f"SELECT embed('{TEXT_MODEL}', id) FROM photos", "invalid_argument", ["reads text"]),
        (f"SELECT embed('{PICTURE_MODEL}', caption) FROM photos", "invalid_argument", ["pictures"]),
        ("SELECT embed(caption, caption) FROM photos", "invalid_argument", ["single quotes"]),
        ("SELECT embed('x') FROM photos", "invalid_argument", ["embed takes"]),
        (
            "SELECT * FROM vector_search('photos', 'id', 'a car', 1)",
            "invalid_argument",
            ["which model"],
        ),
    ],
)
@pytest.mark.usefixtures("photos")
def test_what_cannot_be_called(sql: Sql, query: str, code: str, fragments: list[str]) -> None:
    with sql.refuses(code, *fragments):
        sql.query(query)


@pytest.mark.usefixtures("photos")
def test_a_row_that_fails_fails_the_statement(sql: Sql, server: LakebedServer) -> None:
    assert sql.query("SELECT picky(id) FROM photos WHERE id <> 423").num_rows == ROWS - 1
    with sql.refuses("invalid_argument", "picky", "ValueError: 423 will not do"):
        sql.query("SELECT picky(id) FROM photos")
    nothing_waits(server)


@pytest.mark.usefixtures("worker")
def test_the_newest_version_of_the_namespace_is_called(
    sql: Sql, server: LakebedServer, table: str
) -> None:
    db = connect(server)

    server.lake().create(table, pa.table({"text": ["x"]}))
    db.create_function(first)
    assert sql.value(f"SELECT version_of(text) FROM {table}") == 1
    db.create_function(second)
    assert sql.value(f"SELECT version_of(text) FROM {table}") == "two"
    assert sql.value(f"SELECT public.version_of(text) FROM {table}") == "two"
    with sql.refuses("not_found", "version_of"):
        Sql(server, namespace="other").query("SELECT version_of('x')")


# ---- many rows, lost workers, nobody --------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_ten_thousand_rows_pass(sql: Sql, server: LakebedServer, table: str) -> None:
    count, texts = 10_000, [f"{n}-" + "wide " * 2_000 for n in range(100)]
    lake = server.lake()
    for part in range(10):
        ids = range(part * 1_000, part * 1_000 + 1_000)
        rows = pa.table({"id": ids, "text": [texts[n % 100] for n in ids]})
        (lake.create if part == 0 else lake.write)(table, rows)
    lake.close()
    before = resident_bytes(server)
    found: list[int] = []
    batches, peak = 0, before
    with sql.connection.cursor() as cursor:
        cursor.execute(f"SELECT id, known(text) AS shouted FROM {table}")
        for batch in cursor.fetch_record_batch():
            shouted = batch.column("shouted")
            assert [text.as_py()[:7] for text in shouted] == [
                texts[n % 100].upper()[:7] for n in batch.column("id").to_pylist()
            ]
            found += batch.column("id").to_pylist()
            batches, peak = batches + 1, max(peak, resident_bytes(server))
    # They come as they are computed, 100 MB there and back.
    assert sorted(found) == list(range(count))
    assert batches > 20
    assert peak - before < 400 << 20, (before, peak)


def test_every_door(server: LakebedServer, photos: list[str | None], tmp_path: Path) -> None:
    expected = [len((photos[n] or "").split()) for n in range(3)]
    query = "SELECT words(caption) AS w FROM photos WHERE id < 3 ORDER BY id"
    lines = Cli(server, tmp_path).ok("sql", query, "--format", "json").splitlines()
    assert [json.loads(line)["w"] for line in lines] == expected
    told = lakebed.connect(f"http://{server.http_address}", api_key=server.admin_key).sql(query)
    assert [row["w"] for row in told.to_list()] == expected


def test_nobody_can_run_it(own_server: LakebedServer) -> None:
    lake, sql = own_server.lake(), Sql(own_server)
    lake.create("t", pa.table({"id": [1], "caption": ["x"]}))
    db = connect(own_server)
    db.create_function(words)
    began = time.monotonic()
    with sql.refuses("unavailable", TEXT_MODEL, "lakebed-worker"):
        sql.query(f"SELECT {EMBED} FROM t")
    with sql.refuses("unavailable", "a worker with Python", "words"):
        sql.query("SELECT words(caption) FROM t")
    with sql.refuses("unavailable", TEXT_MODEL):
        sql.query(f"SELECT embed('{TEXT_MODEL}', 'x')")
    # Nothing has to be computed.
    assert sql.query(f"SELECT {EMBED} FROM t WHERE id > 1").num_rows == 0
    assert "EvaluateExec" in sql.plan(f"SELECT {EMBED} FROM t")
    assert time.monotonic() - began < 5


def test_a_worker_is_killed_half_way(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "1000"}).start()
    count = 3_000
    server.lake().create("t", pa.table({"id": range(count)}))
    workers = [Worker(server, name).start() for name in ("a", "b")]
    try:
        Jobs(server).wait_for_workers(2)
        connect(server).create_function(slow)
        sql = Sql(server)
        answers: list[pa.Table] = []
        query = threading.Thread(
            target=lambda: answers.append(sql.query("SELECT id, slow(id) AS v FROM t"))
        )
        query.start()

        def holds() -> bool:
            return any(each["worker"] == "a" and each["running"] for each in Jobs(server).workers())

        wait_until(holds, "a task of worker a", 30)
        assert query.is_alive()
        workers[0].kill()
        query.join(90)
        assert not query.is_alive()
        found = answers[0].sort_by("id")
        assert found["id"].to_pylist() == list(range(count))
        assert found["v"].to_pylist() == [2 * n for n in range(count)]
        nothing_waits(server, killed="a")
    finally:
        for each in workers:
            each.kill()


@pytest.mark.usefixtures("worker")
def test_a_client_goes_away(server: LakebedServer, table: str) -> None:
    count = 5_000
    server.lake().create(table, pa.table({"id": range(count)}))
    sql = Sql(server)
    with sql.connection.cursor() as cursor:
        cursor.execute(f"SELECT id, slow(id) AS v FROM {table}")
        reader = cursor.fetch_record_batch()
        first = next(reader)
        assert first.num_rows > 0
        cursor.adbc_cancel()
    sql.close()
    nothing_waits(server)


def test_the_last_worker_goes_away(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "1000"}).start()
    server.lake().create("t", pa.table({"id": range(9), "caption": ["x"] * 9}))
    hand = Hand(server.lake(), "hand")
    hand.sync()
    failures: list[str] = []

    def ask() -> None:
        with Sql(server).refuses("unavailable", TEXT_MODEL, "lakebed-worker"):
            Sql(server).query(f"SELECT {EMBED} FROM t")
        failures.append("said")

    asking = threading.Thread(target=ask)
    asking.start()
    taken: list[Any] = []
    while not taken:
        taken = list(hand.sync(wait_ms=500).assign)
    assert hand.read(taken[0].attempt).num_rows == 9
    asking.join(30)
    assert failures == ["said"]
    # What comes late is refused.
    answer = hand.sync(running=[taken[0].attempt])
    assert [each.attempt for each in answer.stop] == [taken[0].attempt.attempt]


def test_results_that_do_not_fit(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server().start()
    server.lake().create("t", pa.table({"id": range(3), "caption": ["x", None, "y"]}))
    hand = Hand(server.lake(), "hand")
    hand.sync()
    answers: list[pa.Table] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            Sql(server).query(f"SELECT id, {EMBED} AS v FROM t ORDER BY id")
        )
    )
    asking.start()
    taken: list[Any] = []
    while not taken:
        taken = list(hand.sync(wait_ms=500).assign)
    (given,) = taken
    rows = hand.read(given.attempt)
    # The row without a text is not asked for.
    assert rows["input"].to_pylist() == ["x", "y"]
    with hand.lake.refuses("invalid_argument", "has no result"):
        hand.put(given.attempt, results(rows.slice(0, 1)))
    assert hand.put(given.attempt, results(rows)) == {"rows": 2}
    hand.sync(slots=0, done=[pb.TaskDone(attempt=given.attempt)])
    asking.join(30)
    assert [vector is not None for vector in answers[0]["v"].to_pylist()] == [True, False, True]
