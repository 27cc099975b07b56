"""A whole worker with functions, against a stand-in for the server that can break by name."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lancedb import udf

from lakebed._target import target
from lakebed.functions.environment import Interpreter
from lakebed.functions.instance import Limits
from lakebed.worker.agent import Agent
from lakebed.worker.devices import functions_device, visible_to_functions
from lakebed.worker.function_runs import FunctionOptions
from lakebed.worker.protocol import Server
from support.functions import OWN_VERSION, described, rows
from support.waiting import wait_until
from support.wheels import only_from, write_wheel
from support.worker_server import Task, WorkerServer


@udf
def double(x: int) -> int:
    import time

    if x < 0:
        raise ValueError("less than nothing")
    if x >= 10_000:
        time.sleep(0.01)
    return 2 * x


@udf(
    input_schema=pa.schema([pa.field("x", pa.int64(), False)]),
    output_schema=pa.schema([pa.field("text", pa.string()), pa.field("n", pa.int64(), False)]),
)
def two_fields(x):
    if x == 1:
        raise ValueError("raised")
    return {"text": "a value", "n": x}


@udf
def always_raises(x: int) -> int:
    raise ValueError(f"at {x}")


@udf
class Counts:
    def __init__(self):
        self.rows = 0

    def __call__(self, x: int) -> int:
        self.rows += 1 + 0 * x
        return self.rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments that the tests of this file share."""
    return tmp_path_factory.mktemp("functions")


@pytest.fixture
def stand_in() -> Iterator[WorkerServer]:
    server = WorkerServer()
    server.lease_ms = 10_000
    yield server
    server.close()


Start = Callable[..., Agent]


@pytest.fixture
def start(stand_in: WorkerServer, cache: Path) -> Iterator[Start]:
    """Starts agents without a model; they leave at the end of the test."""
    begun: list[tuple[Agent, threading.Thread]] = []

    def start(slots: int = 2, **limits: Any) -> Agent:
        options = FunctionOptions(
            cache=cache, limits=Limits(**limits), interpreters=(Interpreter.own(),)
        )
        agent = Agent(
            Server(target(stand_in.url, "k")),
            {},
            name="w",
            slots=slots,
            decoders=1,
            functions=options,
        )
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        begun.append((agent, thread))
        return agent

    yield start
    for agent, thread in begun:
        agent.stop()
        thread.join(20)
        assert not thread.is_alive(), "the agent did not leave"


def numbers(*values: int | None) -> pa.Table:
    """A task's rows."""
    return pa.Table.from_batches([rows(x=pa.array(values, pa.int64()))])


def results(task: Task) -> dict[int, dict[str, Any]]:
    """What was put for a task, by row. Every row came once."""
    assert task.recorded is not None, task.failures
    table = task.results[task.recorded]
    found = {row["_rowid"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows == task.rows.num_rows
    return found


def test_rows_get_their_values_or_errors(stand_in: WorkerServer, start: Start) -> None:
    task = stand_in.add_function(described(double), numbers(1, -1, None, *range(1_000)))
    empty = stand_in.add_function(described(double), numbers())
    start()
    stand_in.wait_recorded()
    found = results(task)
    assert found[0] == {
        "_rowid": 0, "error": None, "error_type": None, "traceback": None, "value": 2
    }  # fmt: skip
    assert (found[1]["error"], found[1]["error_type"]) == ("less than nothing", "ValueError")
    assert "user_function.py" in found[1]["traceback"]
    assert found[2]["error_type"] == "NullInput"
    assert found[1]["value"] is found[2]["value"] is None
    assert all(found[n + 3]["value"] == 2 * n for n in range(1_000))
    assert results(empty) == {}
    [interpreter] = stand_in.syncs[0].interpreters
    assert (interpreter.python_version, interpreter.gpu) == (OWN_VERSION, False)
    assert stand_in.syncs[0].device == "cpu"
    wait_until(lambda: stand_in.syncs[-1].stages[3].rows > 0, "the stages' times")
    stages = {stage.stage: stage.rows for stage in stand_in.syncs[-1].stages}
    assert (stages["read"], stages["compute"], stages["write"]) == (1_003, 1_003, 1_003)


def test_a_function_that_always_raises_sends_few_tracebacks(
    stand_in: WorkerServer, start: Start
) -> None:
    task = stand_in.add_function(described(always_raises), numbers(*range(1_000)))
    start()
    stand_in.wait_recorded()
    found = results(task)
    assert all(found[n]["error"] == f"at {n}" for n in range(1_000))
    assert sum(row["traceback"] is not None for row in found.values()) == 256


def test_a_struct_is_a_column_for_each_field(stand_in: WorkerServer, start: Start) -> None:
    """A row that failed has null in all of them."""
    task = stand_in.add_function(described(two_fields), numbers(0, 1))
    start()
    stand_in.wait_recorded()
    assert task.recorded is not None
    assert task.results[task.recorded].schema == pa.schema(
        [
            pa.field("_rowid", pa.uint64(), False),
            *(pa.field(name, pa.string()) for name in ("error", "error_type", "traceback")),
            *(pa.field("text", pa.string()), pa.field("n", pa.int64())),
        ]
    )
    found = results(task)
    assert (found[0]["error"], found[0]["text"], found[0]["n"]) == (None, "a value", 0)
    assert (found[1]["error"], found[1]["text"], found[1]["n"]) == ("raised", None, None)


def test_a_function_is_asked_for_and_loaded_once(stand_in: WorkerServer, start: Start) -> None:
    tasks = [stand_in.add_function(described(Counts), numbers(*range(50))) for _ in range(4)]
    start(slots=1)
    stand_in.wait_recorded()
    seen = sorted(row["value"] for task in tasks for row in results(task).values())
    assert seen == list(range(1, 201))
    assert stand_in.fired["function"] == 1


@pytest.mark.parametrize(
    "fault",
    ["function_unavailable", "read_unavailable", "read_breaks", "put_unavailable"],
)
def test_a_fault_costs_nothing_but_time(stand_in: WorkerServer, start: Start, fault: str) -> None:
    """Where the stream of rows broke, nothing is computed twice."""
    stand_in.break_next(fault, 2)
    task = stand_in.add_function(described(Counts), numbers(*range(350)))
    start()
    stand_in.wait_recorded()
    assert stand_in.fired[fault] == 2
    assert sorted(row["value"] for row in results(task).values()) == list(range(1, 351))
    assert task.attempt == 1


def test_what_is_stopped_is_dropped(stand_in: WorkerServer, start: Start) -> None:
    slow = stand_in.add_function(described(double), numbers(*range(10_000, 12_000)))
    start(slots=1)
    wait_until(lambda: slow.holder is not None, "the slow task to be taken")
    time.sleep(0.5)
    with stand_in.lock:
        slow.is_over = True
    quick = stand_in.add_function(described(double), numbers(1))
    begun = time.monotonic()
    stand_in.wait_recorded()
    assert time.monotonic() - begun < 5
    assert slow.results == {}
    assert results(quick)[0]["value"] == 2


def test_several_tasks_compute_at_once(stand_in: WorkerServer, start: Start) -> None:
    """A process for each slot: four tasks of a second in about two."""
    given = [numbers(*range(10_000, 10_100)) for _ in range(4)]
    tasks = [stand_in.add_function(described(double), table) for table in given]
    start(slots=4)
    begun = time.monotonic()
    stand_in.wait_recorded()
    assert time.monotonic() - begun < 3.5
    assert all(len(results(task)) == 100 for task in tasks)


# ---- checks -----------------------------------------------------------------------------------


def changed(source: str, **more: Any) -> dict[str, Any]:
    """A function with another source."""
    import base64
    import hashlib

    value = described(double, **more)
    content = source.encode()
    value["artifact"] |= {
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "content": {"encoding": "base64", "data": base64.b64encode(content).decode()},
    }
    return value


def test_checks_say_what_their_author_has_to_know(
    stand_in: WorkerServer, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path, "tinything", "1.0", "def main(): pass\n")
    only_from(tmp_path, monkeypatch)
    pip = {"kind": "pip", "packages": ["tinything"]}
    needs = "import tinything\ndef double(x): return x\n"
    good = [
        stand_in.add_function(described(double), None),
        stand_in.add_function(changed(needs, digest="needs", environment=pip), None),
        stand_in.add_function(described(Counts, digest="class"), None),
    ]
    bad = {
        "No module named 'nothing_such'": changed("import nothing_such", digest="import"),
        "no function or class `double`": changed("x = 1", digest="entry"),
        "nothing-like-this": described(
            double, digest="pip", environment={"kind": "pip", "packages": ["nothing-like-this"]}
        ),
        "use pip": described(double, digest="conda", environment={"kind": "conda"}),
        "was registered": {**described(double, digest="artifact"), "artifact": {
            **described(double)["artifact"], "digest": "sha256:0"}},
    }  # fmt: skip
    failing = {said: stand_in.add_function(value, None) for said, value in bad.items()}
    start(slots=4)
    stand_in.wait_recorded()
    assert all(task.recorded == 1 and task.results == {} for task in good)
    for said, task in failing.items():
        assert said in task.failures[0]
        assert task.retryable is False
        assert len(task.failures) == 1


def test_an_environment_that_fails_later_may_do_elsewhere(
    stand_in: WorkerServer, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check has passed on another worker."""
    only_from(tmp_path, monkeypatch)
    given = described(double, environment={"kind": "pip", "packages": ["nothing-like-this"]})
    task = stand_in.add_function(given, numbers(1))
    start()
    stand_in.wait_recorded()
    assert task.retryable is True
    assert len(task.failures) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "python_v2", "gpu": True}, "needs a GPU; this worker has none"),
        ({"python_version": "3.99"}, "needs Python 3.99"),
    ],
)
def test_what_another_worker_can_do_is_given_back(
    stand_in: WorkerServer, start: Start, changes: dict[str, Any], said: str
) -> None:
    task = stand_in.add_function(described(double, **changes), numbers(1))
    start()
    stand_in.wait_recorded()
    assert said in task.failures[0]
    assert task.retryable is True


def test_rows_of_other_columns_fail_the_task(stand_in: WorkerServer, start: Start) -> None:
    task = stand_in.add_function(described(double), pa.Table.from_batches([rows(y=[1])]))
    start()
    stand_in.wait_recorded()
    assert "rows are not as the protocol has them" in task.failures[0]
    assert task.retryable is False


def test_secrets_are_not_told(
    stand_in: WorkerServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = "import os\nraise ValueError('bad ' + os.environ['TOKEN'])\n"
    failing = stand_in.add_function(
        changed(source, secrets={"TOKEN": "s3cr3t-word"}, digest="a"), numbers(1)
    )
    odd = stand_in.add_function(
        {**described(double, secrets={"TOKEN": "s3cr3t-word"}, digest="b"), "runtime": None},
        numbers(1),
    )
    start()
    stand_in.wait_recorded()
    assert "ValueError: bad ***" in failing.failures[0]
    assert "not understood" in odd.failures[0]
    told = repr([*failing.failures, *odd.failures, caplog.text])
    assert "s3cr3t-word" not in told


@udf
def token_and_process(x: int) -> str:
    import os

    return f"{x} {os.environ['TOKEN']} {os.getpid()}"


def test_altered_secrets_are_of_new_processes(stand_in: WorkerServer, start: Start) -> None:
    start()
    found = []
    for token in ("first", "first", "second"):
        given = described(token_and_process, secrets={"TOKEN": token}, digest="same")
        task = stand_in.add_function(given, numbers(1))
        stand_in.wait_recorded()
        found.append(results(task)[0]["value"].split()[1:])
    assert [token for token, _ in found] == ["first", "first", "second"]
    assert found[0] == found[1], "the process is used again"
    assert found[1][1] != found[2][1]


# ---- the process ------------------------------------------------------------------------------


@pytest.fixture
def run_worker(stand_in: WorkerServer, cache: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts `lakebed-worker` with no model installed, as one would be from a shell."""
    # Packages of weights are not seen.
    program = (
        "import sys\n"
        "from lakebed.models import registry\n"
        "registry.available = lambda: []\n"
        "from lakebed.worker.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    made: list[subprocess.Popen[bytes]] = []

    def run(*words: str, before: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], Path]:
        path = tmp_path / "worker.log"
        given = ["--url", stand_in.url, "--cache-dir", str(cache), *words]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "LAKEBED_API_KEY": "k"}
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-c", program, *given],
                stderr=log,
                env={**os.environ, **environment},
            )
        made.append(process)
        return process, path

    yield run
    for process in made:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_worker_is_the_end_of_its_processes(
    stand_in: WorkerServer, run_worker: Any, how: signal.Signals
) -> None:
    process, _ = run_worker("--function-seconds", "60")
    stand_in.add_function(described(double, digest="a"), numbers(1))
    stand_in.wait_recorded()
    slow = stand_in.add_function(described(double, digest="b"), numbers(*range(10_000, 20_000)))
    started = wait_until(
        lambda: (found := children(process.pid)) and len(found) == 2 and found, "2"
    )
    process.send_signal(how)
    code = process.wait(20)
    assert code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "their end", 10)
    if how is signal.SIGTERM:
        assert slow.holder is None
    with stand_in.lock:
        slow.is_over = True


@udf
def looks_at_the_worker(x: int) -> str:
    import os

    found = []
    for name in ("environ", "mem", "fd/0"):
        try:
            with open(f"/proc/{os.getppid()}/{name}", "rb"):
                found.append(name)
        except OSError:
            pass
    return f"{x} {found}"


def test_a_function_cannot_look_into_the_worker(stand_in: WorkerServer, run_worker: Any) -> None:
    """Of the same account, which is not root: the API key is in there."""
    nobody_special = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    run_worker(before=nobody_special if os.geteuid() == 0 else [])
    task = stand_in.add_function(described(looks_at_the_worker), numbers(1))
    stand_in.wait_recorded()
    assert results(task)[0]["value"] == "1 []"


def test_without_functions_and_models_registered_ones_are_run(
    stand_in: WorkerServer, run_worker: Any
) -> None:
    process, _ = run_worker("--no-functions")
    wait_until(lambda: stand_in.syncs, "a report", 20)
    assert list(stand_in.syncs[0].runners) == ["onnx-1"]
    assert process.poll() is None


@pytest.mark.parametrize(
    "words",
    [
        ["--function-seconds", "0"],
        ["--function-memory-mb", "-1"],
        ["--function-output-mb", "0"],
        ["--function-start-seconds", "nan"],
    ],
)
def test_limits_are_more_than_nothing(run_worker: Any, words: list[str]) -> None:
    process, log = run_worker(*words)
    assert process.wait(20) == 2
    assert words[0] in log.read_text()


# ---- devices ----------------------------------------------------------------------------------


def test_functions_get_the_gpu_of_the_models() -> None:
    assert functions_device("auto", ["cuda:1"]) == "cuda:1"
    assert functions_device("auto", ["cpu"]) == "cpu"
    assert functions_device("auto", []) == "cpu"
    with pytest.raises(ValueError, match="tpu"):
        functions_device("tpu", [])


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cpu", "0,1", None),
        ("cuda:0", None, "0"),
        ("cuda:1", None, "1"),
        ("cuda:1", "4, 5", "5"),
        ("cuda:0", "GPU-abc", "GPU-abc"),
    ],
)
def test_a_function_sees_one_gpu(device: str, visible: str | None, expected: str | None) -> None:
    given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert visible_to_functions(device, given) == expected
