"""Random operations on small tables against a plain model in memory.

Tables are made, written to, updated, deleted from, restored, tagged, branched, compacted, moved
between profiles, indexed, cleaned, renamed and dropped, and their columns added, renamed, retyped
and dropped. In between they are read through Flight and SQL, and from their folders by pylance
and DuckDB, and have what the model has. A failure prints the seed and a short history.
`LAKEBED_MODEL_SEED` gives the seed, and `LAKEBED_MODEL_HISTORY` names a file of such lines to be
played again.
"""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.model_runner import Difference, Runner, about, line_of, operation_of, replay, shortened
from support.server import LakebedServer
from support.table_model import Dice

WORKERS = 3
OPERATIONS = 10_000
OPERATIONS_SOAK = 100_000
# The short form ends by then, however far it came.
SECONDS_MAX = 75.0


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: thousands of commits, and what a disk takes for each is not the point."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def model_server(
    make_server: Callable[..., LakebedServer], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> LakebedServer:
    # Without it pylance refuses tables with overlays.
    monkeypatch.setenv("LANCE_ENABLE_UNSTABLE_DATA_OVERLAY_FILES", "1")
    limits = {
        "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0",
        # So that stamps are put up.
        "LAKEBED_LIMITS_STAMPS_BYTES_MAX": "300",
    }
    return make_server(data=memory / "lake", env=limits).start()


def failed(server: LakebedServer, runner: Runner, seed: str, error: Exception) -> str:
    """What to say of a difference: the seed, and a history that shows it."""
    last = runner.history[-1]["table"] if runner.history else ""
    operations = about(runner.history, last)
    shows = replay(server, f"{runner.database}-again", operations)
    if shows is None:
        operations = runner.history[-200:]
    else:
        operations = shortened(server, f"{runner.database}-short", operations, 60)
        shows = replay(server, f"{runner.database}-last", operations)
    lines = "\n".join(line_of(operation) for operation in operations)
    again = f"played again it gives: {shows}" if shows else "played again it gives no difference"
    return f"seed {seed}: {error}\n{again}\n{lines}"


@pytest.mark.timeout(7_200)
def test_random_operations(model_server: LakebedServer, soak: bool) -> None:
    seed = int(os.environ.get("LAKEBED_MODEL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    each = (OPERATIONS_SOAK if soak else OPERATIONS) // WORKERS + 1
    began = time.monotonic()
    deadline = float("inf") if soak else began + SECONDS_MAX
    done: Counter[str] = Counter()
    compared: Counter[str] = Counter()

    def work(worker: int) -> str | None:
        runner = Runner(model_server, f"model{worker}")
        try:
            runner.run(Dice(f"{seed}-{worker}"), each, deadline)
            runner.compare_all()
        except Exception as error:  # whatever a reader says of a table is about the table
            return failed(model_server, runner, f"{seed}-{worker}", error)
        finally:
            done.update(runner.done)
            compared.update(runner.compared)
            runner.close()
        return None

    with ThreadPoolExecutor(WORKERS) as pool:
        wrong = [text for text in pool.map(work, range(WORKERS)) if text]
    print(f"{done.total()} operations in {time.monotonic() - began:.0f} s: {dict(done)}")
    print(f"compared: {dict(compared)}")
    assert not wrong, "\n\n".join(wrong)
    readers = ("Flight", "SQL", "pylance", "DuckDB", "overlays")
    assert min(compared[reader] for reader in readers) > 0


def test_a_history_is_played_again(model_server: LakebedServer) -> None:
    """One that was given, or one that was written down and read again; and a model that is wrong
    is told from a server that is right."""
    given = os.environ.get("LAKEBED_MODEL_HISTORY")
    if given is not None:
        lines = Path(given).read_text().splitlines()
        difference = replay(model_server, "given", [operation_of(line) for line in lines])
        assert difference is None, difference
        return
    runner = Runner(model_server, "first")
    runner.run(Dice("a fixed seed"), 60, time.monotonic() + 60)
    lines = [line_of(operation) for operation in runner.history]
    again = [operation_of(line) for line in lines]
    assert replay(model_server, "again", again) is None
    state = next(iter(runner.tables.values())).branches[None].state
    state.rows[-1] = dict.fromkeys(state.columns)
    with pytest.raises(Difference):
        runner.compare_all()
    runner.close()
