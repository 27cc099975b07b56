"""What is known to go wrong in systems of this kind, where no other file looks at it.

Elsewhere: puts that were done and say otherwise in `test_store_faults.py`; compaction beside
deletions and other writes in `test_compaction.py`; cleaning beside everything in `test_gc.py`; a
disk that is full at every step in `test_full_disk_steps.py`.
"""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import lance
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from support.data import numbered
from support.flight import Lake
from support.http import Http
from support.server import LakebedServer

YOUNG = {"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0"}
# What lance says of a rewrite that was overtaken.
OVERTAKEN = (
    "Compaction commit failed; leaving .* for GC: "
    # By another commit, or by a cleaning that took a version which lance wanted to look at.
    "(Retryable commit conflict|.*Not found: .*[.]manifest)"
)
NOW = {"keep_age_ms": 0, "keep_versions": 1}


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakebedServer]:
    """The server that the tests of this module share; what it cleans may be young."""
    server = LakebedServer(tmp_path_factory.mktemp("shared"), env=YOUNG).start()
    yield server
    server.kill()


@contextlib.contextmanager
def beside(*works: Callable[[], Any]) -> Iterator[list[int]]:
    """Does each work again and again in a thread of its own until the block ends; how often each
    was done. What fails in a thread fails the block."""
    stop = threading.Event()
    counts = [0] * len(works)
    errors: list[BaseException] = []

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            while not stop.is_set():
                work()
                counts[place] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def turns(seconds: float) -> Iterator[int]:
    """Counts for so long, and at least to 20."""
    began = time.monotonic()
    for turn in itertools.count():
        if turn >= 20 and time.monotonic() - began > seconds:
            return
        yield turn


def rows(ids: list[int], text: str) -> pa.Table:
    """Rows with a key, a label and a number."""
    labels = [f"{text} {key % 5}" for key in ids]
    return pa.table({"id": pa.array(ids, pa.int64()), "label": labels, "v": ids})


def build(http: Http, table: str, column: str, kind: str) -> None:
    """Builds an index, whatever runs beside."""
    body = {"column": column, "index_type": kind}
    job = http.ok("POST", f"/v1/table/{table}/create_index", body).json()["job_id"]
    while True:
        found = http.ok("POST", "/v1/jobs/describe", {"job_id": job}).json()
        if found["job_state"] == "DONE":
            return
        assert found["job_state"] != "FAILED", found
        time.sleep(0.01)


@pytest.mark.timeout(600)
def test_compaction_beside_index_building_and_deletes(
    server: LakebedServer, lake: Lake, table: str, soak: bool
) -> None:
    """What indexes say is what a plain model says, at every moment and in the end."""
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    http = server.http()
    server.expect_log(OVERTAKEN)
    model = {key: f"first {key % 5}" for key in range(200)}
    lake.create(table, rows(list(model), "first"))

    def index() -> None:
        for column, kind in (("id", "BTREE"), ("label", "BITMAP")):
            build(server.http(), table, column, kind)

    def compact() -> None:
        server.http().ok("POST", f"/v1/table/{table}/compact", {})
        time.sleep(0.02)

    def check() -> None:
        low = dice.randrange(max(model))
        found = lake.read(table, filter=f"id >= {low} AND id < {low + 100}").to_pydict()
        held = {key: text for key, text in model.items() if low <= key < low + 100}
        assert dict(zip(found["id"], found["label"], strict=True)) == held
        assert len(found["id"]) == len(held), "a key twice"
        text = dice.choice(sorted(set(model.values())))
        labelled = lake.read(table, filter=f"label = '{text}'")["id"].to_pylist()
        assert sorted(labelled) == sorted(key for key in model if model[key] == text)

    fresh = 200
    with beside(index, compact) as counts:
        for turn in turns(120 if soak else 8):
            kind = dice.choice(["append", "append", "delete", "upsert"])
            if kind == "append":
                ids = list(range(fresh, fresh + 10))
                fresh += 10
                lake.write(table, rows(ids, f"a{turn}"))
                model |= {key: f"a{turn} {key % 5}" for key in ids}
            elif kind == "upsert":
                ids = dice.sample(sorted(model), 10)
                lake.upsert(table, rows(ids, f"u{turn}"), ["id"])
                model |= {key: f"u{turn} {key % 5}" for key in ids}
            else:
                low = dice.randrange(fresh)
                predicate = f"id >= {low} AND id < {low + 8}"
                http.ok("POST", f"/v1/table/{table}/delete", {"predicate": predicate})
                model = {key: model[key] for key in model if not low <= key < low + 8}
            check()
    check()
    print(f"{counts[1]} compactions beside {counts[0]} times two indexes built")
    assert counts[1] >= 2, "compaction met the writers"
    assert counts[0] >= 1, "indexes were built meanwhile"
    assert lake.count(table) == len(model)
    dataset = lance.dataset(str(server.table_path(table)))
    dataset.validate()
    assert sorted(dataset.to_table(columns=["id"])["id"].to_pylist()) == sorted(model)


def test_an_index_from_main_in_a_compacted_branch(
    server: LakebedServer, lake: Lake, table: str
) -> None:
    """A branch begins with the indexes of main, which lie in main's folder. Compaction moves their
    entries to an index of the branch's own, and later readers find that one, also after a start."""
    http = server.http()
    lake.create(table, rows(list(range(40)), "first"))
    for start in range(40, 400, 40):
        lake.write(table, rows(list(range(start, start + 40)), "more"))
    build(http, table, "id", "BTREE")
    version = lance.dataset(str(server.table_path(table))).version
    lance.dataset(str(server.table_path(table))).create_branch("exp", version)
    done = http.ok("POST", f"/v1/table/{table}/compact", {"branch": "exp"}).json()
    assert done["done"] == 1, done

    def check(lake: Lake) -> None:
        for branch in ("exp", "main"):
            found = lake.read(table, branch=branch, filter="id >= 100 AND id < 110")
            assert sorted(found["id"].to_pylist()) == list(range(100, 110)), branch

    check(lake)
    update = {"predicate": "id < 70", "updates": [["label", "'new'"]], "branch": "exp"}
    assert http.ok("POST", f"/v1/table/{table}/update", update).json()["rows_updated"] == 70
    lake.upsert(table, rows([5, 900], "upserted"), ["id"], branch="exp")
    check(lake)
    branch = lance.dataset(str(server.table_path(table))).checkout_version(("exp", None))
    branch.validate()
    assert branch.to_table(filter="id = 105").num_rows == 1
    server.restart()
    again = server.lake()
    check(again)
    assert again.count(table, branch="exp") == 401
    assert again.count(table) == 400


def test_cleaning_beside_branches(server: LakebedServer, lake: Lake, table: str) -> None:
    """Main and two branches are written, compacted and cleaned at once; each keeps its rows, those
    that only a branch still has among them."""
    path = str(server.table_path(table))
    server.expect_log(OVERTAKEN)
    lake.create(table, numbered(10))
    for start in range(10, 40, 10):
        lake.write(table, numbered(10, start=start))
    build(server.http(), table, "id", "BTREE")
    for branch in ("one", "two"):
        lance.dataset(path).create_branch(branch, lance.dataset(path).version)
    models: dict[str, set[int]] = {name: set(range(40)) for name in ("main", "one", "two")}

    def clean() -> None:
        for name in models:
            body = {**NOW, "branch": name}
            server.http().ok("POST", f"/v1/table/{table}/gc", body)

    def compact() -> None:
        for name in models:
            server.http().ok("POST", f"/v1/table/{table}/compact", {"branch": name})

    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    with beside(clean, compact) as counts:
        for turn in turns(8):
            name = dice.choice(sorted(models))
            model = models[name]
            start = 1_000 + 10 * turn
            lake.write(table, numbered(3, start=start), branch=name)
            model |= set(range(start, start + 3))
            some = dice.choice(sorted(model))
            body = {"predicate": f"id = {some}", "branch": name}
            server.http().ok("POST", f"/v1/table/{table}/delete", body)
            model.discard(some)
            other = dice.choice(sorted(models))
            found = lake.read(table, branch=other)["id"].to_pylist()
            assert sorted(found) == sorted(models[other]), other
    print(f"{counts[0]} cleanings and {counts[1]} compactions of three branches")
    assert min(counts) >= 2
    for name, model in models.items():
        assert sorted(lake.read(table, branch=name)["id"].to_pylist()) == sorted(model)
        there = lance.dataset(path)
        if name != "main":
            there = there.checkout_version((name, None))
        there.validate()
        assert sorted(there.to_table(columns=["id"])["id"].to_pylist()) == sorted(model)


def test_two_compactions_at_once(server: LakebedServer, lake: Lake, table: str) -> None:
    """Of the server's own one waits for the other; with that of another tool, one of the two is
    given up. No row is lost, doubled or renumbered."""
    path = str(server.table_path(table))
    server.expect_log(OVERTAKEN)
    lake.create(table, numbered(5))
    model = set(range(5))
    given_up = 0

    def ours() -> None:
        server.http().ok("POST", f"/v1/table/{table}/compact", {})

    def theirs() -> None:
        nonlocal given_up
        try:
            lance.dataset(path).optimize.compact_files(target_rows_per_fragment=1_000)
        except OSError as error:
            if "conflict" not in str(error).lower():
                raise
            given_up += 1

    with beside(ours, ours, theirs) as counts:
        for turn in turns(6):
            start = 100 + 5 * turn
            lake.write(table, numbered(5, start=start))
            model |= set(range(start, start + 5))
    found = lake.read(table, columns=["id", "_rowid"]).to_pydict()
    assert sorted(found["id"]) == sorted(model)
    assert len(set(found["_rowid"])) == len(model)
    dataset = lance.dataset(path)
    dataset.validate()
    print(f"{counts} compactions, {given_up} of another tool given up")
    assert min(counts) >= 2
    for version in (1, dataset.version // 2, dataset.version):
        there = lake.read(table, version=version)["id"].to_pylist()
        assert len(there) == len(set(there))
        assert set(there) <= model


@pytest.mark.timeout(300)
def test_a_manifest_of_10_000_fragments(make_server: Callable[..., LakebedServer]) -> None:
    """Opened, read, appended to, changed and compacted within sane times and bounded memory."""
    fragments = 10_000
    server = make_server().start()
    server.lake().create("t", numbered(1))
    path = str(server.table_path("t"))
    assert server.terminate() == 0
    # One file, which every fragment names: ten thousand files would only take longer to make.
    [template] = write_fragments(numbered(1, start=1), path, mode="append")
    made = [template] * (fragments - 1)
    dataset = lance.dataset(path)
    operation = lance.LanceOperation.Append(made)
    lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    assert len(lance.dataset(path).get_fragments()) == fragments
    began = time.monotonic()
    server.start()
    times = {"start": time.monotonic() - began}
    lake, http = server.lake(), server.http()

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        done = work()
        times[what] = time.monotonic() - began
        return done

    assert timed("first count", lambda: http.ok("POST", "/v1/table/t/count_rows", {}).json()) == (
        fragments
    )
    first = timed("first append", lambda: lake.write("t", numbered(1, start=10)))
    appends = []
    for number in range(10):
        began = time.monotonic()
        lake.write("t", numbered(1, start=20 + number))
        appends.append(time.monotonic() - began)
    times["median append"] = sorted(appends)[len(appends) // 2]
    timed("read of 100 rows", lambda: lake.read("t", limit=100))
    assert timed("read of all", lambda: lake.count("t")) == fragments + 11
    assert timed("filter", lambda: lake.count("t", filter="id >= 20")) == 10
    body = {"predicate": "id >= 20 AND id < 25"}
    deleted = timed("delete", lambda: http.ok("POST", "/v1/table/t/delete", body).json())
    assert deleted["num_deleted_rows"] == 5
    manifest = max(
        (server.table_path("t") / "_versions").glob("*.manifest"), key=lambda f: f.stat().st_size
    )
    told = ", ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in times.items())
    peak, size = server.peak_rss_bytes(), manifest.stat().st_size
    print(f"{told}; peak {peak >> 20} MiB; manifest {size >> 10} KiB")
    assert first["version"] == 3
    assert times["start"] < 10
    assert times["median append"] < 2
    assert times["read of 100 rows"] < 5
    assert max(times.values()) < 30
    assert peak < 1 << 30
    assert size < 8 << 20, "each commit writes the manifest anew"
