"""Functions that hang, grow, die, shout and spy: what it costs their own rows, and nobody else."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lancedb import udf

from lakebed.functions import instance as instances
from lakebed.functions.definition import FunctionFailed
from lakebed.functions.evaluate import Evaluator
from lakebed.functions.instance import Cancelled, Limits
from lakebed.functions.pool import Instances
from lakebed.functions.prints import Redactor
from lakebed.functions.results import Results
from lakebed.functions.scratch import Scratch
from support.functions import Bench, Collected, defined, rows
from support.waiting import wait_until

INT = pa.schema([pa.field("x", pa.int64(), False)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments that the tests of this file share."""
    return tmp_path_factory.mktemp("functions")


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches with limits, and ends their processes."""
    made: list[Bench] = []

    def start(**limits: Any) -> Bench:
        made.append(Bench(cache, **limits))
        return made[-1]

    yield start
    for bench in made:
        bench.close()
        assert bench.instances.live == []


Start = Callable[..., Bench]


def is_running(pid: int) -> bool:
    """Whether a process runs: not a dead one that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


# ---- processes that end in the middle ---------------------------------------------------------


@udf
def hangs(x: int) -> int:
    import time

    if x in (3, 40):
        time.sleep(1_000)
    return x


@udf(input_schema=INT, output_schema=pa.int64())
def hangs_in_batches(x: pa.Array) -> pa.Array:
    import time

    if 3 in x.to_pylist():
        time.sleep(1_000)
    return x


def test_a_row_that_hangs_is_known_at_once(start: Start) -> None:
    bench = start(call_seconds=0.5)
    begun = time.monotonic()
    found = bench.run(defined(hangs), rows(x=list(range(64))))
    assert time.monotonic() - begun < 6
    assert sorted(found.errors) == [3, 40]
    error, kind, stack = found.errors[3]
    assert (error, kind) == ("the call took longer than 0.5 s", "TimeLimit")
    # Where it was.
    assert 'File "user_function.py", line' in (stack or "")
    assert "in hangs" in (stack or "")
    assert "runner" not in (stack or "")
    assert len(found.values) == 62


def test_a_batch_that_hangs_is_taken_apart(start: Start) -> None:
    bench = start(call_seconds=0.4)
    found = bench.run(defined(hangs_in_batches), rows(x=list(range(8))))
    assert {row: error[1] for row, error in found.errors.items()} == {3: "TimeLimit"}
    assert len(found.values) == 7


@udf
def crashes(x: int) -> int:
    import os

    if x == 5:
        os.kill(os.getpid(), 11)
    if x == 6:
        os._exit(3)
    if x == 7:
        os.abort()
    return x


def test_a_row_that_ends_the_process_costs_itself(start: Start) -> None:
    found = start().run(defined(crashes), rows(x=list(range(20))))
    assert {row: error[:2] for row, error in found.errors.items()} == {
        5: ("the process was ended by SIGSEGV", "ProcessDied"),
        6: ("the process ended itself with exit code 3", "ProcessDied"),
        7: ("the process was ended by SIGABRT", "ProcessDied"),
    }
    assert 'File "user_function.py", line' in (found.errors[7][2] or "")
    assert len(found.values) == 17


@udf(input_schema=INT, output_schema=pa.int64())
def crashes_in_batches(x: pa.Array) -> pa.Array:
    import os

    if 50 in x.to_pylist() or 51 in x.to_pylist():
        os.kill(os.getpid(), 11)
    return x


def test_a_batch_that_ends_the_process_is_taken_apart(start: Start) -> None:
    found = start().run(defined(crashes_in_batches), rows(x=list(range(64))))
    assert sorted(found.errors) == [50, 51]
    assert len(found.values) == 62


@udf
class Tires:
    """Every instance dies at its third row, whatever that is."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x: int) -> int:
        import os

        self.rows += 1
        if self.rows == 3:
            os.kill(os.getpid(), 9)
        return x


def test_a_row_is_not_blamed_for_those_before_it(start: Start) -> None:
    found = start().run(defined(Tires), rows(x=list(range(12))))
    assert found.errors == {}
    assert len(found.values) == 12


@udf
def always_crashes(x: int) -> int:
    import os

    os._exit(1 + 0 * x)


def test_a_function_that_always_crashes_comes_to_an_end(start: Start) -> None:
    with pytest.raises(FunctionFailed, match="ended 21 times in 20 rows") as caught:
        start().run(defined(always_crashes), rows(x=list(range(1_000))))
    assert not caught.value.retryable
    assert "exit code 1" in str(caught.value)


# ---- memory and output ------------------------------------------------------------------------


@udf
def grows(x: int) -> int:
    if x == 4:
        held = []
        while True:
            held.append(bytes(10 << 20) + b"x")
    return x


@udf
class Leaks:
    def __init__(self):
        self.held = []

    def __call__(self, x: int) -> int:
        import time

        self.held.append(b"x" * (8 << 20))
        time.sleep(0.002)
        return x


def test_a_process_that_grows_is_ended(start: Start) -> None:
    bench = start(memory_bytes=300 << 20)
    found = bench.run(defined(grows), rows(x=list(range(10))))
    assert {row: error[:2] for row, error in found.errors.items()} == {
        4: ("the process took more than 300 MiB of memory", "MemoryLimit")
    }
    assert len(found.values) == 9


def test_a_leak_costs_processes_and_no_rows(start: Start) -> None:
    """Some 25 rows to a process."""
    found = start(memory_bytes=300 << 20).run(defined(Leaks), rows(x=list(range(120))))
    assert found.errors == {}
    assert len(found.values) == 120


@udf
def spawns(x: int) -> int:
    import subprocess

    if x:
        program = "import time; held = b'x' * (400 << 20); time.sleep(1000)"
        subprocess.run(["python", "-c", program])
    return x


def test_what_a_function_starts_counts_and_ends_with_it(start: Start) -> None:
    bench = start(memory_bytes=300 << 20)
    found = bench.run(defined(spawns), rows(x=[0, 1]))
    assert found.errors[1][1] == "MemoryLimit"


@udf
def lets_escape(x: int) -> int:
    import subprocess

    # Ends when nobody reads any more.
    shouts = "while :; do echo free || exit; sleep 0.01; done"
    subprocess.Popen(["sh", "-c", shouts], start_new_session=True)
    return x


def test_what_escapes_holds_nobody_up(start: Start) -> None:
    bench = start()
    assert bench.run(defined(lets_escape), rows(x=[1])).values == {0: 1}
    begun = time.monotonic()
    bench.close()
    assert time.monotonic() - begun < 4


@udf
def large(x: int) -> bytes:
    return b"x" * x


@udf(input_schema=INT, output_schema=pa.binary())
def large_in_batches(x: pa.Array) -> pa.Array:
    import pyarrow

    return pyarrow.array([b"x" * each for each in x.to_pylist()])


@pytest.mark.parametrize("function", [large, large_in_batches], ids=["rows", "arrays"])
def test_a_result_that_is_too_large_is_an_error(start: Start, function: Any) -> None:
    """And many that are large are handed over in pieces."""
    sizes = [1 << 20, 3 << 20, *[700 << 10] * 6]
    found = start(output_bytes=2 << 20).run(defined(function), rows(x=sizes))
    assert {row: error[:2] for row, error in found.errors.items()} == {
        1: ("the result has 3 MiB, and 2 MiB are possible", "OutputLimit")
    }
    assert {row: len(value) for row, value in found.values.items()} == {
        row: size for row, size in enumerate(sizes) if row != 1
    }


def test_results_go_to_a_file_and_come_back_as_often_as_asked_for() -> None:
    """More than stays in memory, in messages that are not too large."""
    results = Results(defined(large))
    text = pa.schema([pa.field(name, pa.string()) for name in ("error", "type", "stack")])
    schema = pa.schema([*text, pa.field("value", pa.binary())])
    for start in range(0, 60, 20):
        errors = ["bad" if n == 3 else None for n in range(20)]
        columns = [pa.array(errors, pa.string())] * 3
        values = pa.array([bytes([start + n]) * (1 << 20) for n in range(20)], pa.binary())
        ids = pa.array(range(start, start + 20), pa.uint64())
        results.take(ids, pa.RecordBatch.from_arrays([*columns, values], schema=schema))
    results.fail(pa.array([60], pa.uint64()), "late", "Late", None)
    results.finish()
    assert (results.rows, results.errors) == (61, 4)
    for _ in range(2):
        batches = list(results.batches())
        assert all(batch.nbytes <= 9 << 20 for batch in batches)
        found = {row["_rowid"]: row for batch in batches for row in batch.to_pylist()}
        assert len(found) == 61
        assert {row for row, each in found.items() if each["error"]} == {3, 23, 43, 60}
        assert found[59]["value"] == bytes([59]) * (1 << 20)
        assert found[3]["value"] is None


# ---- prints, secrets, surroundings ------------------------------------------------------------


@udf
def shouts(x: int) -> int:
    import os

    for n in range(20_000):
        print(f"line {n} " + "x" * 1_000)
    os.write(2, b"no end of line")
    return x


def test_prints_are_bounded_and_block_nobody(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = start()
    assert bench.run(defined(shouts), rows(x=[1])).values == {0: 1}
    bench.close()
    printed = [r.getMessage() for r in caplog.records if "prints:" in r.getMessage()]
    assert len(printed) == 100
    assert printed[0].startswith("default/shouts@1 prints: line 0 xxx")
    assert all(len(line) < 600 for line in printed)
    assert "printed 19901 lines more" in caplog.text


@udf(env={"MODE": "fast"})
def spies(x: int) -> str:
    import os

    print("the token is", os.environ["TOKEN"])
    if x == 1:
        raise ValueError(f"bad token {os.environ['TOKEN']}")
    if x == 2:
        os.kill(os.getpid(), 11)
    return " ".join(sorted(os.environ))


def test_secrets_are_in_no_log_and_no_error(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEBED_API_KEY", "lb_mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates.pem")
    for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)
    bench = start()
    found = bench.run(defined(spies, secrets={"TOKEN": "s3cr3t-word"}), rows(x=[0, 1, 2]))
    bench.close()
    assert found.errors[1][0] == "bad token ***"
    assert "***" in (found.errors[1][2] or "")
    assert "the token is ***" in caplog.text
    assert "s3cr3t-word" not in caplog.text
    assert "s3cr3t-word" not in repr(found.errors)
    seen = set(found.values[0].split())
    # The interpreter itself sets the last one.
    assert seen - {"LC_CTYPE"} == {
        *("PATH", "HOME", "TMPDIR", "LANG", "CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE"),
        *("MODE", "TOKEN"),
    }


def test_secrets_of_several_lines_are_hidden_line_by_line() -> None:
    redactor = Redactor(["BEGIN KEY\nabcdefghijkl\nEND", "abc", ""])
    assert redactor.clean("x abcdefghijkl y abc z BEGIN KEY") == "x *** y *** z ***"
    assert Redactor([]).clean("text") == "text"


@udf
def looks_around(suffix: str) -> list[str]:
    import os
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        place = os.path.dirname(file.name)
    return [os.getcwd(), os.path.expanduser("~"), place, *sorted(os.listdir("/proc/self/fd"))]


def test_a_process_has_a_folder_of_its_own_and_no_descriptors_of_the_worker(start: Start) -> None:
    bench = start()
    with open(__file__) as mine:
        os.set_inheritable(mine.fileno(), True)
        given = defined(looks_around)
        work, home, temporary, *descriptors = bench.run(given, rows(suffix=["x"])).values[0]
    assert home == work
    assert temporary == f"{work}/tmp"
    # The standard ones, three of the runner's, and the one that lists.
    assert len(descriptors) <= 8
    assert Path(work).is_dir()
    bench.close()
    assert not Path(work).exists()


# ---- the end of processes ---------------------------------------------------------------------


@udf
class Keeps:
    def __init__(self, path: str):
        self.path = path

    def __call__(self, x: int) -> int:
        import os

        return os.getpid() + 0 * x

    def close(self):
        with open(self.path, "a") as file:
            file.write("closed\n")


def test_an_idle_process_closes(start: Start, tmp_path: Path) -> None:
    bench = start()
    bench.instances.stop()
    bench.instances = Instances(Limits(), idle_seconds=1.0)
    given = defined(Keeps, initialization={"path": str(tmp_path / "note")})
    first = bench.run(given, rows(x=[1])).values[0]
    assert bench.run(given, rows(x=[1])).values[0] == first
    assert bench.instances.live == [first]
    wait_until(lambda: not is_running(first), "the end of the process", 5)
    wait_until(lambda: bench.instances.live == [], "its place to be free")
    assert (tmp_path / "note").read_text() == "closed\n"
    assert bench.run(given, rows(x=[1])).values[0] != first


def test_others_make_place(start: Start, tmp_path: Path) -> None:
    bench = start()
    bench.instances.stop()
    bench.instances = Instances(Limits(), live_max=2)
    note = str(tmp_path / "note")
    pids = [
        bench.run(
            defined(Keeps, digest=f"d{n}", initialization={"path": note}), rows(x=[1])
        ).values[0]
        for n in range(3)
    ]
    assert bench.instances.live == sorted(pids[1:])
    assert not is_running(pids[0])
    assert (tmp_path / "note").read_text() == "closed\n"


def test_a_process_that_died_while_idle_is_not_used(start: Start, tmp_path: Path) -> None:
    bench = start()
    given = defined(Keeps, initialization={"path": str(tmp_path / "note")})
    first = bench.run(given, rows(x=[1])).values[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_running(first), "its end")
    assert bench.run(given, rows(x=[1])).values[0] != first


def test_the_end_lets_idle_ones_close_and_ends_the_others(start: Start, tmp_path: Path) -> None:
    bench = start()
    given = defined(Keeps, initialization={"path": str(tmp_path / "note")})
    idle = bench.run(given, rows(x=[1])).values[0]
    failed: list[Exception] = []

    def run() -> None:
        try:
            bench.run(defined(hangs, digest="hangs"), rows(x=[3]))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(bench.instances.live) == 2, "a second process")
    [busy] = set(bench.instances.live) - {idle}
    time.sleep(0.3)
    bench.instances.stop()
    thread.join(10)
    assert not is_running(idle)
    assert not is_running(busy)
    assert (tmp_path / "note").read_text() == "closed\n"
    assert [type(error) for error in failed] == [Cancelled]


def cancelled_after(bench: Bench, function: Any, seconds: float, batch: pa.RecordBatch) -> float:
    """How long it takes until a cancelled evaluation is over."""
    given = defined(function)
    stop = threading.Event()
    where = bench.environment(given)
    evaluator = Evaluator(bench.instances, given, where, stop.is_set, Collected())
    threading.Timer(seconds, stop.set).start()
    with pytest.raises(Cancelled):
        evaluator.evaluate(batch)
    evaluator.close()
    assert stop.is_set()
    return time.monotonic()


@udf
def slow(x: int) -> int:
    import time

    time.sleep(0.05)
    return x


def test_a_cancelled_task_stops_between_rows(start: Start) -> None:
    """And its process is good for the next one."""
    bench = start()
    begun = time.monotonic()
    assert cancelled_after(bench, slow, 1.0, rows(x=list(range(2_000)))) - begun < 3
    [kept] = bench.instances.live
    assert bench.run(defined(slow), rows(x=[1])).values == {0: 1}
    assert bench.instances.live == [kept]


def test_a_cancelled_call_that_does_not_end_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "CANCEL_S", 0.5)
    bench = start()
    begun = time.monotonic()
    assert cancelled_after(bench, hangs_in_batches, 0.5, rows(x=[3])) - begun < 4
    assert bench.instances.live == []


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a loop"])
def test_a_killed_worker_leaves_nothing(cache: Path, busy: bool) -> None:
    """In a loop the function's process never gives its interpreter back."""
    program = f"""
        import sys, threading, time
        from pathlib import Path
        from support.functions import Bench, defined, rows
        from test_functions_limits import loops
        bench = Bench(Path({str(cache)!r}))
        bench.run(defined(loops), rows(x=[0]))
        print(bench.instances.live[0], flush=True)
        if {busy}:
            threading.Timer(0.5, lambda: print("looping", flush=True)).start()
            bench.run(defined(loops), rows(x=[1]))
        time.sleep(1000)
    """.replace("\n        ", "\n")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    worker = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    if busy:
        assert worker.stdout.readline() == "looping\n"
    assert is_running(child)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not is_running(child), "the end of the function's process", 10)


def test_the_folder_of_a_killed_worker_is_taken_away_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, sys\n"
        "from lakebed.functions.scratch import Scratch\n"
        "scratch = Scratch()\n"
        "open(scratch.folder() + '/left', 'w').close()\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    [theirs] = tmp_path.iterdir()
    mine = Scratch()
    assert theirs.is_dir()
    worker.kill()
    worker.communicate()
    another = Scratch()
    assert not theirs.exists()
    assert Path(mine.folder()).is_dir()
    mine.close()
    another.close()
    assert list(tmp_path.iterdir()) == []


@udf
def loops(x: int) -> int:
    import re

    if x:
        # Backtracks for ages, inside of one call that holds the interpreter.
        re.match(r"(a+)+$", "a" * 64 + "b")
    return x
