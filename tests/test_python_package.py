"""The package as it is shipped: what is in it, what importing it costs, the generated code, the
command line of the worker, and jobs through the client."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import lakebed
from lakebed import errors
from lakebed.jobs import Jobs, JobStatus
from support.server import LakebedServer, built_binary
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Worker

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python"


def test_the_wheel_has_all_of_it(tmp_path: Path) -> None:
    """Built without an index, by what the lock brings."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, *offline, str(PACKAGE)], check=True, timeout=100)
    [wheel] = tmp_path.glob("lakebed-*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        info = next(name for name in names if name.endswith("/entry_points.txt"))
        assert "lakebed-worker = lakebed.worker.main:main" in file.read(info).decode()
    sources = {
        path.relative_to(PACKAGE / "src").as_posix()
        for path in (PACKAGE / "src/lakebed").rglob("*")
        if path.suffix in {".py", ".pyi"} or path.name == "py.typed"
    }
    assert sources <= names
    assert {name for name in names if not name.startswith("lakebed-")} == sources


def test_importing_it_is_light() -> None:
    program = "import sys, lakebed, lakebed.loader; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in eval(done.stdout)}
    heavy = {"torch", "onnx", "onnxruntime", "pandas", "polars", "PIL", "grpc", "ray"}
    assert not loaded & heavy


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    """By the same compiler that setup installs; and it loads without a warning."""
    script = ROOT / "scripts/generate_python_proto.sh"
    (tmp_path / "lakebed/worker/v1").mkdir(parents=True)
    subprocess.run([script, str(tmp_path)], check=True, timeout=60)
    for made in (tmp_path / "lakebed/worker/v1").iterdir():
        committed = PACKAGE / "src/lakebed/worker/v1" / made.name
        assert committed.read_text() == made.read_text(), f"{made.name}: run {script.name}"
    program = "from lakebed.worker.v1 import worker_pb2 as pb; pb.SyncRequest(slots=3)"
    for implementation in ("upb", "python"):
        environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation}
        command = [sys.executable, "-W", "error", "-c", program]
        subprocess.run(command, env=environment, check=True, timeout=60)


# ---- the worker's command line ----------------------------------------------------------------


def run_worker(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A worker that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "lakebed.worker", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "--nonsense"),
        (["--url", "ftp://x"], "ftp://x"),
        (["--slots", "0"], "slots"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_usage_is_2(words: list[str], said: str) -> None:
    done = run_worker(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_is_not_there_is_1() -> None:
    done = run_worker("--device", "cuda:7")
    assert done.returncode == 1
    assert "cuda:7" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_1(server: LakebedServer) -> None:
    done = run_worker("--url", f"http://{server.http_address}", "--api-key", "wrong")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "wrong" not in done.stderr


def test_it_waits_for_a_server_and_leaves_by_sigterm(
    make_server: Callable[..., LakebedServer],
) -> None:
    server = make_server()
    server.ready = {"http": "127.0.0.1:1"}
    worker = Worker(server, "early").start()
    wait_until(lambda: "sync with" in worker.log(), "a first try")
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    # It looks for the server once more to give back what it holds; a second signal does not wait.
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) in {0, 1}
    worker.process = None


# ---- jobs through the client ------------------------------------------------------------------


def test_a_job_is_steered(server: LakebedServer, table: str) -> None:
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    db.create_table(table, {"id": [1, 2], "text": ["a", "b"]})
    job = db.jobs.submit(table, input="text", output="vector", model=TEXT_MODEL)
    assert job.describe().state == "IN_PROGRESS"
    job.pause()
    assert job.describe().state == "PAUSED"
    job.resume()
    with pytest.raises(errors.DeadlineExceeded, match=job.id):
        job.wait(0.2)
    assert job.id in {status.job_id for status in db.jobs.list()}
    job.cancel()
    with pytest.raises(lakebed.JobFailed, match="CANCELLED") as caught:
        job.wait(30)
    assert caught.value.status.table == table
    assert job.errors() == []
    assert db.workers() == []
    with pytest.raises(errors.NotFound):
        db.jobs.submit("nope", input="text", output="vector", model=TEXT_MODEL)
    with pytest.raises(errors.NotFound):
        db.jobs.pause("nope")


def test_a_failed_job_can_be_pickled() -> None:
    status = JobStatus("j", "t", "FAILED", "cars", 1, 2, 3, 4, "no model", {"a": 1})
    error = pickle.loads(pickle.dumps(lakebed.JobFailed(status)))
    assert error.status == status
    assert "no model" in str(error)


def flaky(jobs: Jobs, failures: list[errors.LakebedError]) -> Jobs:
    """Jobs whose `describe` fails a few times before the server is asked."""
    asked = jobs.describe

    def describe(job_id: str) -> JobStatus:
        if failures:
            raise failures.pop(0)
        return asked(job_id)

    jobs.describe = describe
    return jobs


@pytest.mark.parametrize("is_async", [False, True])
def test_a_wait_outlives_what_passes(server: LakebedServer, table: str, is_async: bool) -> None:
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    db.create_table(table, {"id": [1], "text": ["a"]})
    job = db.jobs.submit(table, input="text", output="vector", model=TEXT_MODEL)
    job.cancel()
    failures = [
        errors.Busy("full", retry_after_ms=1),
        errors.DeadlineExceeded("slow"),
        errors.Unavailable("away", retry_after_ms=1),
    ]
    flaky(db.jobs, failures)
    with pytest.raises(lakebed.JobFailed, match="CANCELLED"):
        if is_async:
            asyncio.run(lakebed.AsyncConnection(db).jobs.wait(job.id, 30))
        else:
            job.wait(30)
    assert failures == []
    flaky(db.jobs, [errors.NotFound("gone")])
    with pytest.raises(errors.NotFound, match="gone"):
        job.wait(30)


def test_many_waits_leave_threads_for_others(server: LakebedServer, table: str) -> None:
    """More waits than threads, and calls go on; a wait that is given up asks no more."""
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    db.create_table(table, {"id": [1], "text": ["a"]})
    job = db.jobs.submit(table, input="text", output="vector", model=TEXT_MODEL)
    looks = []
    asked = db.jobs.describe

    def describe(job_id: str) -> JobStatus:
        looks.append(job_id)
        return asked(job_id)

    db.jobs.describe = describe

    async def go() -> None:
        async with lakebed.AsyncConnection(db, threads=2) as later:
            waits = [asyncio.create_task(later.jobs.wait(job.id, 60)) for _ in range(8)]
            await asyncio.sleep(0.5)
            assert await asyncio.wait_for(later.table(table).count(), 10) == 1
            for wait in waits[1:]:
                wait.cancel()
            ended = await asyncio.gather(*waits[1:], return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)
            # Of eight, one is left.
            await asyncio.sleep(0.5)
            before = len(looks)
            await asyncio.sleep(2)
            assert 0 < len(looks) - before <= 4
            await later.jobs.cancel(job.id)
            with pytest.raises(lakebed.JobFailed, match="CANCELLED"):
                await waits[0]

    asyncio.run(go())


def test_closing_needs_no_thread_of_the_pool(server: LakebedServer) -> None:
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    over = threading.Event()

    async def go() -> None:
        later = lakebed.AsyncConnection(db, threads=1)
        held = asyncio.ensure_future(later._pool.run(lambda: over.wait(30)))
        await asyncio.sleep(0)
        await asyncio.wait_for(later.close(), 10)
        over.set()
        assert await held

    asyncio.run(go())


def test_an_import(server: LakebedServer, stamps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEBED_BIN", str(built_binary()))
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key)
    folder = stamps / "animals/birds"
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert db.import_paths(folder, "birds")
    birds = db.table("birds")
    assert birds.count() == len(files)
    [row] = birds.scan(["path", "_rowid"], filter="name LIKE '%.png'", limit=1).to_list()
    blob = birds.blob("data", row["_rowid"])
    assert blob is not None
    assert blob.read() == (folder / row["path"]).read_bytes()
    with pytest.raises(errors.LakebedError):
        db.import_paths(folder / "nothing here", "birds")


def test_import_runs_the_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program in the binary's place that says how it was called."""
    program = tmp_path / "lakebed"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "words = {k: v for k, v in os.environ.items() if k.startswith('LAKEBED_')}\n"
        "print('warming up', file=sys.stderr)\n"
        "sys.exit(2) if '--bad' in sys.argv else None\n"
        "print(json.dumps({'words': sys.argv[1:], 'environment': words}))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("LAKEBED_BIN", str(program))
    monkeypatch.setenv("LAKEBED_CACHE", "x")
    db = lakebed.connect("http://127.0.0.1:7", "key", "db")
    said = db.import_paths([tmp_path, "-odd"], "pictures", "--blob-column", "bytes")
    words = ["import", "--table", "pictures", "--format", "json", "--blob-column", "bytes", "--"]
    assert said["words"] == [*words, str(tmp_path), "-odd"]
    expected = {"URL": "http://127.0.0.1:7", "API_KEY": "key", "DATABASE": "db"}
    assert said["environment"] == {f"LAKEBED_{name}": text for name, text in expected.items()}
    assert json.dumps(said)
    with pytest.raises(errors.InvalidArgument, match="warming up"):
        db.import_paths(tmp_path, "pictures", "--bad")
