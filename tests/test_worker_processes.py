"""Several workers of one machine that start, live and end as one."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import lakebed
from lakebed.worker.main import arguments_of, parser
from lakebed.worker.supervisor import ENDS_MAX, Supervisor
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import TEXT_MODEL, Jobs, Worker

# What a process does that stands for a worker: it says that it is there, and how it ends.
PROGRAM = """
import os, pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[sys.argv.index("--name") + 1]
def end(number, _):
    (folder / f"{name}.ended").write_text(str(number))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
(folder / f"{name}.{os.getpid()}").write_text("")
code = folder / f"{name}.code"
if code.exists():
    sys.exit(int(code.read_text()))
while os.read(0, 1):
    pass
(folder / f"{name}.eof").write_text("")
"""


def supervisor(folder: Path, *names: str) -> Supervisor:
    """One whose processes only say what happens to them."""
    command = (sys.executable, "-c", PROGRAM, str(folder))
    return Supervisor({name: [] for name in names}, command=command, pause_s=lambda _: 0.01)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[tuple[Supervisor, list[int]]]:
    """A supervisor of two at work, and the exit code once it has one."""
    made = supervisor(tmp_path, "a", "b")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run()))
    thread.start()
    wait_until(lambda: len(list(tmp_path.glob("[ab].[0-9]*"))) == 2, "both processes")
    yield made, codes
    made.stop()
    thread.join(30)
    assert not thread.is_alive()


def pids(made: Supervisor) -> dict[str, int | None]:
    return {it.name: it.pid for it in made.states()}


def test_one_that_dies_is_started_again(
    ended: tuple[Supervisor, list[int]], tmp_path: Path
) -> None:
    made, codes = ended
    before = pids(made)
    os.kill(before["a"], signal.SIGKILL)
    wait_until(lambda: pids(made)["a"] not in {None, before["a"]}, "another process")
    assert pids(made)["b"] == before["b"]
    assert [it.starts for it in made.states()] == [2, 1]
    wait_until(lambda: len(list(tmp_path.glob("a.[0-9]*"))) == 2, "its word")
    made.stop(signal.SIGINT)
    wait_until(lambda: codes, "the end")
    assert codes == [0]
    # The signal that came was passed on.
    for name in "ab":
        assert (tmp_path / f"{name}.ended").read_text() == str(int(signal.SIGINT))


def test_one_that_cannot_work_ends_all(tmp_path: Path) -> None:
    (tmp_path / "b.code").write_text("1")
    made = supervisor(tmp_path, "a", "b")
    assert made.run() == 1
    assert len(list(tmp_path.glob("b.[0-9]*"))) == ENDS_MAX
    assert [it.pid for it in made.states()] == [None, None]


def test_wrong_usage_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "a.code").write_text("2")
    made = supervisor(tmp_path, "a")
    assert made.run() == 2
    assert len(list(tmp_path.glob("a.[0-9]*"))) == 1


def test_processes_get_the_same_flags() -> None:
    words = [
        *("--url", "http://h:1", "--slots", "5", "--device", "cuda:0,cuda:1", "--no-functions"),
        *("--precision", "fp32", "--processes", "4", "--api-key", "secret", "--name", "n"),
        *("--cache-dir", "/c", "--function-seconds", "7.5"),
    ]
    again = parser().parse_args(arguments_of(parser().parse_args(words)))
    assert (again.url, again.slots, again.no_functions) == ("http://h:1", 5, True)
    assert (again.precision, again.cache_dir, again.function_seconds) == ("fp32", Path("/c"), 7.5)
    # What each has of its own, and the key, which travels in the environment.
    own = (again.processes, again.device, again.name, again.api_key)
    assert own == (1, "auto", None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "0"], "processes"),
        (["--threads", "0"], "threads"),
        (["--device", "cuda:0,cuda:1"], "--processes"),
        (["--precision", "int8"], "int8"),
        (["--processes", "2", "--device", "tpu"], "tpu"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lakebed.worker", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def workers_of(jobs: Jobs, name: str) -> set[tuple[str, str]]:
    """The names and instances that are attached."""
    return {
        (it["worker"], it["instance"])
        for it in jobs.workers()
        if it["worker"].startswith(f"{name}-")
    }


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or waits for a parent to look."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def children(worker: Worker) -> list[int]:
    assert worker.process is not None
    pid = worker.process.pid
    return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_workers_of_one_command(make_server: Callable[..., LakebedServer]) -> None:
    server = make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "2000"}).start()
    lake, jobs = server.lake(), Jobs(server)
    flags = ["--processes", "2", "--no-functions", "--device", "cpu"]
    worker = Worker(server, "pair", slots=1, arguments=flags).start()
    wait_until(lambda: len(workers_of(jobs, "pair")) == 2, "both workers", 60)
    before = workers_of(jobs, "pair")
    assert {name for name, _ in before} == {"pair-1", "pair-2"}
    lake.create("t", pa.table({"id": range(400), "text": [f"row {n}" for n in range(400)]}))
    job = jobs.submit("t", "text", "vector", TEXT_MODEL, task_rows=10)
    first = children(worker)
    os.kill(first[0], signal.SIGKILL)
    ended = jobs.wait(job)["result"]
    assert (ended["rows"], ended["errors"]) == (400, 0)
    wait_until(lambda: len(set(children(worker)) - {first[0]}) == 2, "another process", 60)
    # The one that died is listed for a minute more.
    [(name, _)] = wait_until(lambda: workers_of(jobs, "pair") - before, "a new worker", 60)
    assert name == "pair-1"
    # The client names what kept them, of those that have worked.
    for found in lakebed.connect(f"http://{server.http_address}", server.admin_key).workers():
        busy = {stage: busy_ms for stage, busy_ms, _ in found["stages"]}
        assert set(busy) == {"read", "decode", "compute", "write"}
        most = max(busy.values())
        assert found["bottleneck"] == (max(busy, key=busy.__getitem__) if most else None)
    last = children(worker)
    assert worker.stop() == 0
    assert all(is_gone(pid) for pid in last)
    assert workers_of(jobs, "pair") < before
    assert "pair-2 INFO left" in worker.log()


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_the_supervisor_keeps_the_key_to_itself() -> None:
    """Others of its account, such as processes of functions, must not read its environment."""
    program = (
        "import ctypes\n"
        "from lakebed.worker import main, supervisor\n"
        "is_dumpable = lambda _: print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)) or 0\n"
        "is_dumpable(None)\n"
        "supervisor.Supervisor.run = is_dumpable\n"
        "main.main(['--processes', '2'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["1", "0"]


def test_processes_end_with_their_supervisor(server: LakebedServer) -> None:
    jobs = Jobs(server)
    flags = ["--processes", "2", "--no-functions", "--device", "cpu"]
    worker = Worker(server, "orphan", arguments=flags).start()
    wait_until(lambda: len(workers_of(jobs, "orphan")) == 2, "both workers", 60)
    left = children(worker)
    assert len(left) == 2
    worker.kill()
    wait_until(lambda: all(is_gone(pid) for pid in left), "the end of both")
    # They left in order: the server does not wait for a minute to forget them.
    wait_until(lambda: not workers_of(jobs, "orphan"), "their leave", 10)
