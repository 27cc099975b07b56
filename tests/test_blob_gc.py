"""Large blobs go once nothing refers to them, and never before, whatever runs beside."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.cli import Cli
from support.data import blobs, extension_field
from support.flight import Lake
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer, new_key
from support.uploads import upload
from support.waiting import wait_until

Make = Callable[..., LakebedServer]

LARGE = (16 << 20) + 1
DAY_S = 24 * 3_600
# Versions may be young in these tests, and tickets keep them for a second.
YOUNG = {"LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0", "LAKEBED_LIMITS_TICKET_TTL_MS": "1000"}
# Blobs, too, where no upload is to be kept.
AT_ONCE = {
    **YOUNG,
    "LAKEBED_LIMITS_ORPHAN_AGE_MS": "0",
    "LAKEBED_LIMITS_UPLOAD_TTL_MS": "1000",
}
NOW = {"keep_age_ms": 0, "keep_versions": 1}
STEPS = [
    *("append", "overwrite", "delete", "delete", "restore"),
    *("tag", "untag", "upload", "clean", "drop"),
]


def large(number: int, size: int = LARGE) -> bytes:
    """A blob of its own for each number."""
    return number.to_bytes(4, "big") * (size // 4 + 1)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gc_blobs(server: LakebedServer, **body: Any) -> dict[str, Any]:
    return server.http().ok("POST", "/v1/blobs/gc", body).json()


def clean(server: LakebedServer, table: str, **body: Any) -> list[int]:
    """Deletes old versions, also those that were just read by tickets."""
    versions: list[int] = []

    def is_done() -> bool:
        done = server.http().ok("POST", f"/v1/table/{table}/gc", {**NOW, **body}).json()
        versions.extend(done["versions"])
        return all("ticket" not in kept["kept_by"] for kept in done["kept"])

    wait_until(is_done, "the end of tickets", poll_s=0.1)
    return versions


def delete(server: LakebedServer, table: str, predicate: str) -> None:
    server.http().ok("POST", f"/v1/table/{table}/delete", {"predicate": predicate})


def blob_folder(server: LakebedServer) -> Path:
    return Path(server.data) / "_blobs/sha256"


def stored(server: LakebedServer) -> set[str]:
    return {path.name for path in blob_folder(server).glob("*/*")}


def age(server: LakebedServer) -> None:
    """Makes every blob eight days old, but not what is being written."""
    long_ago = time.time() - 8 * DAY_S
    for path in blob_folder(server).glob("*/" + "[0-9a-f]" * 64):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (long_ago, long_ago))


def shown(lake: Lake, table: str, **at: Any) -> dict[int, str]:
    """The digests of the blobs of a version, read to the last byte, by `id`."""
    rows = lake.read(table, blobs="bytes", **at)
    cells = zip(rows["id"].to_pylist(), rows["data"].to_pylist(), strict=True)
    return {number: digest(cell) for number, cell in cells if cell is not None}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """With room for blobs that are written again and again."""
    server = S3Server(tmp_path_factory.mktemp("store"), volumes=80)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakebedServer]:
    """The server that the tests of this module share."""
    server = LakebedServer(tmp_path_factory.mktemp("shared"), env=YOUNG).start()
    yield server
    server.kill()


def test_it_explains_before_it_deletes(
    server: LakebedServer, lake: Lake, table: str, tmp_path: Path
) -> None:
    cells = [large(1), large(2), b"small"]
    lake.create(table, blobs([*cells]))
    delete(server, table, "id = 0")
    one = {"blobs": 1, "bytes": len(cells[0])}
    two = {"blobs": 2, "bytes": 2 * len(cells[0])}
    none = {"blobs": 0, "bytes": 0}
    assert gc_blobs(server)["kept"] == {"version": two}
    clean(server, table)
    assert gc_blobs(server)["kept"] == {"version": one, "young": one}
    age(server)
    planned = gc_blobs(server, dry_run=True)
    expected = {"deleted": one, "half_written": none, "kept": {"version": one}, "spared": 0}
    assert planned == {"dry_run": True, **expected}
    assert stored(server) == {digest(cell) for cell in cells[:2]}

    cli = Cli(server, tmp_path)
    told = cli.ok("gc", "--blobs", "--dry-run")
    assert f"1 blobs, {len(cells[0])} bytes stay: a version refers to them" in told
    assert "nothing was deleted" in told
    assert json.loads(cli.ok("gc", "--blobs", "--dry-run", "--format", "json")) == planned
    told = cli.ok("gc", "--blobs", "--yes")
    assert f"deleted: 1 blobs, {len(cells[0])} bytes" in told
    assert stored(server) == {digest(cells[1])}
    assert shown(lake, table) == {1: digest(cells[1]), 2: digest(cells[2])}
    assert cli.ok("gc", "--blobs").strip().endswith("nothing to delete")
    assert cli.run("gc").returncode == 2
    assert cli.run("gc", table, "--blobs").returncode == 2

    def audited() -> str:
        lines = (Path(server.data) / "_lakebed/audit").rglob("*.jsonl")
        return "".join(path.read_text() for path in lines)

    wait_until(lambda: '"verb":"gc_blobs"' in audited(), "the audit line")


def test_who_may_and_what_is_refused(server: LakebedServer) -> None:
    admin = server.http()
    key = admin.ok("POST", "/v1/keys", {"name": "w", "role": "write"}).json()["key"]
    for body in ({}, {"dry_run": True}):
        assert server.http(key).post("/v1/blobs/gc", body).status == 403
    answer = admin.post("/v1/blobs/gc", {"age": 1})
    assert answer.status == 400
    assert "age" in answer.text


def test_whoever_may_need_a_blob_keeps_it(make_server: Make) -> None:
    """Another table, a tag, a branch, a rename, an upload, a drop."""
    server = make_server(env=YOUNG).start()
    lake, table, cell = server.lake(), "t", large(3)
    http = server.http()
    lake.create(table, blobs([cell]))
    other = f"{table}_other"
    lake.create(other, blobs([cell]))
    http.ok("POST", f"/v1/table/{table}/tags/create", {"tag": "gold", "version": 1})
    lance.dataset(str(server.table_path(other))).create_branch("exp", 1)
    delete(server, table, "true")
    lake.write(other, blobs([b"small"]), "overwrite")
    age(server)

    def kept(reason: str) -> None:
        clean(server, table)
        clean(server, other)
        assert gc_blobs(server, dry_run=True)["deleted"]["blobs"] == 0
        assert gc_blobs(server)["kept"][reason]["blobs"] == 1
        assert digest(cell) in stored(server)

    kept("version")
    http.ok("POST", f"/v1/table/{table}/tags/delete", {"tag": "gold"})
    kept("version")
    assert shown(lake, other, branch="exp") == {0: digest(cell)}
    http.ok("POST", f"/v1/table/{other}/rename", {"new_table_name": f"{table}_new"})
    assert gc_blobs(server)["kept"]["version"]["blobs"] == 1
    upload_id = upload(http, cell)
    http.ok("POST", f"/v1/table/{table}_new/drop")
    # The folder goes when the tickets of the reads above are over.
    wait_until(lambda: not server.table_path(other).exists(), "the end of the folder", 90)
    age(server)
    assert gc_blobs(server)["kept"]["upload"]["blobs"] == 1
    rows = [{"data": None, "uri": f"upload:{upload_id}"}]
    data = pa.array(rows, extension_field().type)
    schema = pa.schema([("id", pa.int64()), extension_field()])
    lake.write(table, pa.table([pa.array([7], pa.int64()), data], schema=schema))
    http.ok("DELETE", f"/v1/uploads/{upload_id}")
    assert gc_blobs(server)["kept"]["version"]["blobs"] >= 1
    assert shown(lake, table) == {7: digest(cell)}


def test_it_runs_by_itself(make_server: Make) -> None:
    """Once a day, which is every 24th cleaning."""
    quick = {
        **YOUNG,
        "LAKEBED_LIMITS_MAINTENANCE_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_CLEANING_INTERVAL_MS": "100",
        "LAKEBED_LIMITS_RETENTION_MS": "0",
        "LAKEBED_LIMITS_RETENTION_VERSIONS": "1",
    }
    server = make_server(env=quick).start()
    lake = server.lake()
    lake.create("t", blobs([large(1), large(2)]))
    delete(server, "t", "id = 0")
    half_written = blob_folder(server) / digest(large(1))[:2] / f"{'ab' * 32}#1"
    half_written.write_bytes(b"half")
    long_ago = time.time() - 8 * DAY_S
    os.utime(half_written, (long_ago, long_ago))
    age(server)
    wait_until(lambda: stored(server) == {digest(large(2))}, "the sweep")
    wait_until(lambda: server.metric("lakebed_swept_blobs_total") == 1, "the count of it")
    assert server.metric("lakebed_swept_blob_bytes_total") == len(large(1))
    assert shown(lake, "t") == {1: digest(large(2))}


@pytest.mark.timeout(600)
def test_random_histories(make_server: Make, soak: bool) -> None:
    """Beside a model of what each version shows, with restarts: what is needed stays and reads, and
    nothing else does."""
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    server = make_server(env=YOUNG).start()
    cells = [large(number) for number in range(1, 5)]
    digests = [digest(cell) for cell in cells]
    # The blobs of each version that is there, by table.
    model: dict[str, dict[int, dict[int, str]]] = {}
    tags: dict[str, tuple[str, int]] = {}
    uploads: dict[str, str] = {}
    counts = {"deleted": 0, "kept": 0}
    for step in range(200 if soak else 30):
        lake, http = server.lake(), server.http()
        pick = dice.randrange(len(cells))
        row = blobs([cells[pick]], start=step)
        if not model or (len(model) < 3 and dice.random() < 0.15):
            name = f"t{step}"
            lake.create(name, row)
            model[name] = {1: {step: digests[pick]}}
            continue
        name = dice.choice(list(model))
        versions = model[name]
        now = dict(versions[max(versions)])
        old = dice.choice(list(versions))
        match dice.choice(STEPS):
            case "append":
                versions[lake.write(name, row)["version"]] = {**now, step: digests[pick]}
            case "overwrite":
                versions[lake.write(name, row, "overwrite")["version"]] = {step: digests[pick]}
            case "delete" if now:
                victim = dice.choice(list(now))
                body = {"predicate": f"id = {victim}"}
                done = http.ok("POST", f"/v1/table/{name}/delete", body).json()
                versions[done["version"]] = {k: v for k, v in now.items() if k != victim}
            case "restore":
                done = http.ok("POST", f"/v1/table/{name}/restore", {"version": old}).json()
                versions[done["version"]] = versions[old]
            case "tag":
                tags[f"g{step}"] = (name, old)
                http.ok(
                    "POST", f"/v1/table/{name}/tags/create", {"tag": f"g{step}", "version": old}
                )
            case "untag" if tags:
                tag, (tagged, _) = tags.popitem()
                http.ok("POST", f"/v1/table/{tagged}/tags/delete", {"tag": tag})
            case "upload" if uploads:
                http.ok("DELETE", f"/v1/uploads/{uploads.popitem()[0]}")
            case "upload":
                uploads[upload(http, cells[pick])] = digests[pick]
            case "drop" if len(model) > 1:
                http.ok("POST", f"/v1/table/{name}/drop")
                del model[name]
                tags = {tag: on for tag, on in tags.items() if on[0] != name}
                server.restart()
            case "clean":
                for version in clean(server, name):
                    del versions[version]
        if step % 6 == 5:
            age(server)
            before = stored(server)
            counts["deleted"] += gc_blobs(server)["deleted"]["blobs"]
            needed = {
                found
                for table in model.values()
                for rows in table.values()
                for found in rows.values()
            }
            needed |= set(uploads.values())
            assert stored(server) == needed & before, f"step {step}"
            counts["kept"] += len(needed)
            for table, of_table in model.items():
                version = dice.choice(list(of_table))
                assert shown(server.lake(), table, version=version) == of_table[version]
    print(counts)
    # A short run may never lose a blob by itself.
    lake = server.lake()
    lake.create("last", blobs([large(5)]))
    delete(server, "last", "true")
    clean(server, "last")
    age(server)
    assert gc_blobs(server)["deleted"]["blobs"] >= 1
    assert digest(large(5)) not in stored(server)
    if soak:
        assert min(counts.values()) > 0
    for table in model:
        lance.dataset(str(server.table_path(table))).validate()


def many_tables(lake: Lake, count: int) -> None:
    """What makes a look at all references take some time."""
    for number in range(count):
        lake.create(f"many{number}", pa.table({"id": [number]}))


def swept_beside_writers(
    writers: list[LakebedServer], sweeper: LakebedServer, goal: int, timeout_s: int
) -> None:
    """Writers store one and the same blob and let it go again, while it is swept all the time."""
    cell, stop = large(9), threading.Event()
    is_local = not str(sweeper.data).startswith("s3://")
    problems: list[BaseException] = []
    counts = {"written": 0, "swept": 0, "sweeps": 0}

    def run(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            problems.append(error)
            stop.set()

    def writer(server: LakebedServer, table: str) -> Callable[[], None]:
        mine = server.lake()
        mine.create(table, blobs([b"small"]))

        http, row_ids = server.http(), itertools.count(1)

        def write() -> None:
            mine.write(table, blobs([cell], start=1))
            # Not by a ticket, which would keep the version.
            path = f"/v1/table/{table}/blob/data/{next(row_ids)}/bytes"
            assert digest(http.ok("GET", path).body) == digest(cell)
            counts["written"] += 1
            delete(server, table, "id = 1")
            http.ok("POST", f"/v1/table/{table}/gc", NOW)
            time.sleep(random.random() * 0.4)

        return write

    def sweep() -> None:
        if is_local:
            age(sweeper)
        done = gc_blobs(sweeper)
        counts["swept"] += done["deleted"]["blobs"]
        counts["sweeps"] += 1

    works = [writer(server, f"w{number}") for number, server in enumerate(writers)]
    threads = [threading.Thread(target=run, args=(work,)) for work in [*works, sweep]]
    for thread in threads:
        thread.start()

    def waited() -> int:
        return sum(
            server.metric("lakebed_blob_claims_waited_total") for server in {*writers, sweeper}
        )

    deadline = time.monotonic() + timeout_s
    while not stop.is_set() and time.monotonic() < deadline:
        time.sleep(0.2)
        if waited() >= goal and counts["swept"] >= goal and counts["written"] >= 3 * goal:
            break
    stop.set()
    for thread in threads:
        thread.join(120)
    print(counts, "writes that met a mark:", waited())
    assert not problems, problems
    assert waited() >= goal
    assert counts["swept"] >= goal


@pytest.mark.timeout(1_200)
def test_a_blob_that_is_written_again_while_it_is_swept(make_server: Make, soak: bool) -> None:
    server = make_server(env=AT_ONCE).start()
    many_tables(server.lake(), 40)
    swept_beside_writers([server, server], server, 40 if soak else 6, 900 if soak else 150)


@pytest.mark.timeout(1_800)
def test_killed_in_the_middle_of_a_sweep(make_server: Make, soak: bool) -> None:
    """What a version refers to is there, and the next sweep takes what is left."""
    kills = 60 if soak else 3
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    server = make_server(env=YOUNG).start()
    cell = large(1)
    server.lake().create("t", blobs([cell]))
    cut = 0
    for _ in range(kills):
        left = []
        for _ in range(3_000):
            name = dice.randbytes(32).hex()
            path = blob_folder(server) / name[:2] / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"left")
            left.append(path)
        age(server)

        def sweep() -> None:
            with contextlib.suppress(OSError, AssertionError):
                gc_blobs(server)

        thread = threading.Thread(target=sweep)
        thread.start()
        # They go in no order, so each is somewhere in the middle.
        one = dice.choice(left)
        wait_until(lambda: not one.exists(), "a part of it", poll_s=0)  # noqa: B023
        server.kill()
        thread.join(60)
        cut += 1 < len(stored(server)) < 3_000
        server.start()
        assert shown(server.lake(), "t") == {0: digest(cell)}
        server.lake().write("t", blobs([cell], start=1), "overwrite")
        assert shown(server.lake(), "t") == {1: digest(cell)}
        server.lake().write("t", blobs([cell]), "overwrite")
        gc_blobs(server)
        assert stored(server) == {digest(cell)}
    print(f"{cut} of {kills} kills hit a sweep")
    assert cut > 0


# ---- in a bucket ------------------------------------------------------------------------------


def in_bucket(store: S3Server, table: str) -> set[str]:
    """The names of the large blobs of the lake in that prefix."""
    from pyarrow import fs

    selector = fs.FileSelector(
        f"{BUCKET}/{table}/_blobs/sha256", recursive=True, allow_not_found=True
    )
    return {
        info.base_name
        for info in store.filesystem().get_file_info(selector)
        if info.type == fs.FileType.File
    }


@pytest.mark.timeout(1_200)
def test_two_servers_on_a_bucket(
    store: S3Server, make_server: Make, table: str, soak: bool
) -> None:
    """One writes what the other sweeps."""
    place = f"s3://{BUCKET}/{table}"
    env = {**AT_ONCE, **store.environment()}
    shared = {"data": place, "env": env, "admin_key": new_key()}
    writer, sweeper = (make_server(name, **shared).start() for name in ("a", "b"))
    many_tables(writer.lake(), 12)
    swept_beside_writers([writer, writer], sweeper, 12 if soak else 2, 900 if soak else 240)
    writer.lake().create("kept", blobs([large(1)]))
    gc_blobs(sweeper)
    assert in_bucket(store, table) == {digest(large(1))}
    assert shown(sweeper.lake(), "kept") == {0: digest(large(1))}
    below = f"{BUCKET}/{table}/_lakebed"
    from pyarrow import fs

    for folder in ("blob_claims", "blob_marks"):
        selector = fs.FileSelector(f"{below}/{folder}", recursive=True, allow_not_found=True)

        def files(selector: fs.FileSelector = selector) -> list[str]:
            found = store.filesystem().get_file_info(selector)
            return [info.path for info in found if info.type == fs.FileType.File]

        wait_until(lambda files=files: not files(), f"the end of {folder}")


def test_what_killed_servers_leave_in_a_bucket(
    store: S3Server, make_server: Make, table: str
) -> None:
    """A claim keeps a blob until it is old; a mark keeps a write waiting until it is old."""
    env = {**YOUNG, **store.environment(), "LAKEBED_LIMITS_UPLOAD_TTL_MS": "1000"}
    server = make_server(
        data=f"s3://{BUCKET}/{table}", env={**env, "LAKEBED_LIMITS_ORPHAN_AGE_MS": "0"}
    ).start()
    lake, cell = server.lake(), large(5)
    lake.create("t", blobs([cell]))
    delete(server, "t", "true")
    clean(server, "t")
    below = f"{BUCKET}/{table}/_lakebed"
    files = store.filesystem()

    def put(path: str, text: str) -> None:
        with files.open_output_stream(f"{below}/{path}") as out:
            out.write(text.encode())

    # Of a sweep that was killed a quarter of an hour ago, and one just now.
    old = {"sweep": "gone", "at_ms": int((time.time() - 1_000) * 1_000)}
    young = {**old, "at_ms": int(time.time() * 1_000)}
    wait_until(
        lambda: gc_blobs(server, dry_run=True)["deleted"]["blobs"] == 1, "the age", poll_s=0.2
    )
    put(f"blob_marks/{digest(cell)}", json.dumps(young))
    assert gc_blobs(server)["kept"]["write"]["blobs"] == 1
    done = threading.Event()
    thread = threading.Thread(target=lambda: (lake.write("t", blobs([cell])), done.set()))
    thread.start()
    assert not done.wait(1.5), "a write does not wait for a mark"
    put(f"blob_marks/{digest(cell)}", json.dumps(old))
    assert done.wait(30)
    thread.join()
    assert shown(lake, "t") == {0: digest(cell)}
    delete(server, "t", "true")
    clean(server, "t")
    put(f"blob_marks/{digest(cell)}", json.dumps(old))
    wait_until(lambda: gc_blobs(server)["deleted"]["blobs"] == 1, "the sweep", poll_s=0.2)
    assert in_bucket(store, table) == set()
    server.terminate()

    patient = make_server("patient", data=f"s3://{BUCKET}/{table}", env=env).start()
    patient.lake().write("t", blobs([cell]))
    delete(patient, "t", "true")
    clean(patient, "t")
    put(f"blob_claims/{digest(cell)}/killed", "")
    assert gc_blobs(patient)["kept"]["write"]["blobs"] == 1
