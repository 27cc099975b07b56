"""Batches of the worker: where they are cut, what does not fit into memory, and what kept a job."""

import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lakebed.models import load
from lakebed.models.model import Input, OutOfMemory, Precision, Prepared, Vectors
from lakebed.models.onnx_session import is_out_of_memory
from lakebed.worker.batches import REMEMBER_S, Batches, cut
from lakebed.worker.main import default_cache
from lakebed.worker.pool import BATCHES_SORTED, Pool
from lakebed.worker.stages import Stages
from support.waiting import wait_until
from support.worker import PICTURE_MODEL, TEXT_MODEL

# ---- where they are cut -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "rows_max", "cost_max", "sizes"),
    [
        ([], 4, 100, []),
        ([1] * 10, 4, 100, [4, 4, 2]),
        # Padded to the dearest: 3 x 30 is within 100, 4 x 30 is not.
        ([10, 20, 30, 30, 50], 8, 100, [3, 2]),
        # One row is always let through, however dear it is.
        ([500, 500], 8, 100, [1, 1]),
        ([5, 5, 5, 90], 8, 100, [3, 1]),
    ],
)
def test_batches_are_cut(costs: list[int], rows_max: int, cost_max: int, sizes: list[int]) -> None:
    parts = list(cut(costs, rows_max, cost_max))
    assert [part.stop - part.start for part in parts] == sizes
    assert [cost for part in parts for cost in costs[part]] == costs


class Small:
    """A model whose device has memory for so much, and tells what it was asked for."""

    name = "small"
    digest = "sha256:00"
    dimensions = 1
    input = Input.TEXT
    batch_rows = 8
    batch_cost = 800
    device = "cpu"
    precision = Precision.FP32
    lanes = 2

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        cost = len(rows) * max(row.cost for row in rows)
        self.asked.append(cost)
        if cost > self.room:
            raise OutOfMemory("no room")
        return np.array([[row.value] for row in rows], np.float32)


def prepared(costs: Sequence[int]) -> list[Prepared]:
    return [Prepared(place, 8, cost) for place, cost in enumerate(costs)]


def test_what_does_not_fit_is_halved_and_remembered() -> None:
    now = [0.0]
    batches, model = Batches(lambda: now[0]), Small(room=30)
    found = batches.compute(model, prepared([10] * 8))
    assert found.places == list(range(8))
    assert found.vectors[:, 0].tolist() == list(range(8))
    # 80 and 40 did not fit; from then on nothing is tried that is not known to be less.
    assert model.asked == [80, 40, 20, 20, 20, 20]
    model.asked.clear()
    batches.compute(model, prepared([10] * 8))
    assert model.asked == [20, 20, 20, 20]
    # After a while there may be room again.
    now[0], model.room = REMEMBER_S + 1, 80
    model.asked.clear()
    batches.compute(model, prepared([10] * 8))
    assert model.asked == [80]


def test_a_row_that_does_not_fit_is_an_error_of_its_own() -> None:
    batches, model = Batches(), Small(room=30)
    found = batches.compute(model, prepared([5, 5, 200, 5]))
    assert found.places == [0, 1, 3]
    assert found.vectors[:, 0].tolist() == [0, 1, 3]
    assert {at: "does not fit" in str(error) for at, error in found.errors.items()} == {2: True}


def test_a_row_is_tried_alone_before_it_is_given_up() -> None:
    """Another call may have the memory that it needs."""
    batches = Batches()
    inside, leave, failed = threading.Event(), threading.Event(), threading.Event()

    class Shared(Small):
        running = 0

        def compute(self, rows: Sequence[Prepared]) -> Vectors:
            if rows[0].cost == 1:
                inside.set()
                self.running += 1
                assert leave.wait(20)
                self.running -= 1
            elif self.running:
                failed.set()
                raise OutOfMemory("somebody else has it")
            return np.array([[row.value] for row in rows], np.float32)

    model = Shared(room=0)
    other = threading.Thread(target=batches.compute, args=(model, prepared([1])))
    other.start()
    assert inside.wait(20)
    found = []
    large = threading.Thread(target=lambda: found.append(batches.compute(model, prepared([50]))))
    large.start()
    assert failed.wait(20)
    leave.set()
    for thread in (other, large):
        thread.join(20)
    assert found[0].places == [0]
    assert found[0].errors == {}


def test_another_error_is_not_memory() -> None:
    class Broken(Small):
        def compute(self, rows: Sequence[Prepared]) -> Vectors:
            self.asked.append(len(rows))
            raise RuntimeError("the graph is broken")

    model = Broken(room=0)
    with pytest.raises(RuntimeError, match="broken"):
        Batches().compute(model, prepared([1, 1]))
    assert model.asked == [2]


# ---- with the real models ---------------------------------------------------------------------


class Narrow:
    """onnxruntime's session with memory for so many numbers of input; the words are its own."""

    def __init__(self, runtime: object, room: int) -> None:
        self.runtime = runtime
        self.room = room
        self.sizes: list[int] = []

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> object:
        size = max(each.size for each in inputs.values())
        self.sizes.append(size)
        if size > self.room:
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while "
                "running Conv node. Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::"
                "AllocateRawInternal(...) Failed to allocate memory for requested buffer of size "
                f"{size}"
            )
        return self.runtime.run(names, inputs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [TEXT_MODEL, PICTURE_MODEL])
def test_a_model_goes_on_with_less(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = load(name, default_cache(), "cpu", 1)
    if name == TEXT_MODEL:
        rows = model.prepare([f"caption number {n} of a few" for n in range(8)])
        room = 3 * rows[0].cost
    else:
        pixels = np.random.default_rng(3).integers(0, 255, (8, 224, 224, 3), np.uint8)
        rows = [Prepared(each, each.nbytes, 1) for each in pixels]
        room = 3 * pixels[0].size
    expected = model.compute(rows)
    narrow = Narrow(model.session.runtime, room)
    model.session.runtime = narrow
    with caplog.at_level(logging.WARNING, "lakebed.worker"):
        found = Batches().compute(model, rows)
    assert len(narrow.sizes) == 2 + 4
    assert found.places == list(range(8))
    assert np.abs(found.vectors - expected).max() < 1e-5
    assert "do not fit into the memory of cpu" in caplog.text


def test_memory_that_is_really_not_there() -> None:
    """A process that may have little: the arena of onnxruntime is refused by the system."""
    program = f"""
        import resource
        import numpy as np
        from lakebed.models import load
        from lakebed.models.model import Prepared
        from lakebed.worker.batches import Batches
        from lakebed.worker.main import default_cache

        model = load("{PICTURE_MODEL}", default_cache(), "cpu", 1)
        pixels = np.zeros((256, 224, 224, 3), np.uint8)
        rows = [Prepared(each, each.nbytes, 1) for each in pixels]
        expected = model.compute(rows[:1])
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (600 << 20),) * 2)
        batches = Batches()
        found = batches.compute(model, rows)
        assert found.places == list(range(256)), found.errors
        assert np.abs(found.vectors - expected).max() < 1e-5
        print("limit", batches.limit(model))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    word, limit = done.stdout.split()
    assert word == "limit"
    assert 1 <= int(limit) < 256


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bfc_arena.cc:360 Available memory of 129 is smaller than requested bytes of 385", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=gpu", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", True),
        ("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("std::bad_alloc", True),
        ("Non-zero status code returned while running Gather node", False),
        ("CUDA failure 700: an illegal memory access was encountered", False),
    ],
)
def test_words_that_mean_memory(text: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is expected


# ---- rows that wait ---------------------------------------------------------------------------


class Wanted:
    """A run of which nothing is known but its model."""

    def __init__(self) -> None:
        self.model = Small(room=10_000)

    def is_cancelled(self) -> bool:
        return False


def numbered(costs: Sequence[int], start: int = 0) -> list[tuple[int, Prepared]]:
    return [(start + at, Prepared(at, 8, cost)) for at, cost in enumerate(costs)]


def taken_from(pool: "Pool[Wanted]") -> tuple[Callable[[], None], list[list[int]]]:
    """Takes batches in a thread of its own; what came."""
    found: list[list[int]] = []

    def take() -> None:
        found.append([row.cost for _, row in pool.take()[1]])

    return lambda: threading.Thread(target=take, daemon=True).start(), found


def test_texts_are_sorted_within_a_window() -> None:
    pool, run = Pool[Wanted](1 << 20, lanes=2), Wanted()
    costs = [2 + (7 * n) % 50 for n in range(8 * BATCHES_SORTED)]
    pool.put(run, numbered(costs))
    batches = [pool.take()[1] for _ in range(BATCHES_SORTED)]
    assert [row.cost for batch in batches for _, row in batch] == sorted(costs)
    assert sorted(number for batch in batches for number, _ in batch) == list(range(len(costs)))


def test_a_device_does_not_idle_for_a_better_order() -> None:
    """One of two that compute waits for more to sort; where both wait, a batch is enough."""
    pool, run = Pool[Wanted](1 << 20, lanes=2), Wanted()
    take, found = taken_from(pool)
    take()
    pool.put(run, numbered([5] * 8))
    with pytest.raises(TimeoutError):
        wait_until(lambda: found, "a batch", 0.2)
    take()
    wait_until(lambda: found, "a batch")
    assert found[0] == [5] * 8
    # The other one gets what is left once nothing more will come.
    pool.put(run, numbered([6] * 3, 8))
    pool.complete(run)
    wait_until(lambda: len(found) == 2, "the rest")
    assert found[1] == [6] * 3


# ---- where the time went ----------------------------------------------------------------------


def spend(stages: Stages, now: list[int], stage: str, milliseconds: int, lanes: int = 1) -> None:
    with stages.busy(stage, 10, job="j", lanes=lanes):
        now[0] += milliseconds * 1_000_000


def test_the_busiest_stage_is_named() -> None:
    now = [0]
    stages = Stages(lambda: now[0])
    spend(stages, now, "read", 50)
    spend(stages, now, "decode", 300, lanes=4)
    spend(stages, now, "compute", 650)
    spend(stages, now, "write", 0)
    # Four decoders were there and one had something to do: a quarter of the stage was busy.
    assert stages.read()["decode"] == (75, 10)
    assert stages.over({"j"}, 0) == []
    now[0] += 2_000_000_000
    assert stages.over(set(), 3) == []
    [job] = stages.over(set(), 1)
    assert job.bottleneck == "compute"
    assert job.seconds == pytest.approx(1.0)
    assert "busy: read 5%, decode 8%, compute 65%, write 0%" in job.line()
    assert job.line().endswith("bottleneck: compute, which is the device")
    assert stages.over(set(), 0) == []


def test_no_stage_is_named_where_all_waited() -> None:
    now = [0]
    stages = Stages(lambda: now[0])
    spend(stages, now, "read", 10)
    now[0] += 900_000_000
    spend(stages, now, "write", 10)
    now[0] += 1
    [job] = stages.over(set(), 0)
    assert job.bottleneck is None
    assert "it waited for tasks" in job.line()
