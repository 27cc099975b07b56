"""A fault at every call that an operation makes to its store, of every kind.

A proxy between the server and a real S3 server spoils one call: it refuses it, asks to slow down,
is slow, does it and loses the answer, does it and says that it was done already, does it and says
that it failed. The operation then succeeded, or it was refused with words that say what to do; what
readers see is what was there before or what an undisturbed run leaves, and nothing else; sent
again, it has happened once. Versions have no gaps, readers of another table notice nothing, and the
table takes the next write.
"""

import itertools
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from support.flight import Failure
from support.s3 import BUCKET, S3Server
from support.server import LakebedServer
from support.store_operations import OPERATIONS, Case, Operation, Refused, rows
from support.store_proxy import KINDS, UNDER_WAY, Call, Fault, StoreProxy

LANES = 3
# A lake with very many databases is slow to make tables in; each lake gets so many trials.
TRIALS_EACH = 40
PROGRESS_S = 5.0
SIDE = "side"
EXPECTED_LOG = "store|storage|s3|object|commit|unavailable|audit|maintenance|job|write"

# What a server asks its store for as time goes by, whatever it is asked for.
BY_THE_CLOCK = {"audit", "keys", "lake", "probe", "servers"}

# Errors that say what a client should do: try again, or look first.
TOLD = {"unavailable", "busy", "conflict", "commit_unknown", "job"}


def is_of_an_operation(call: Call) -> bool:
    """Not of the reader beside it, nor of what the server does by the clock."""
    place = call.name.split(" ", 1)[1]
    return f"/{SIDE}" not in call.key and place not in BY_THE_CLOCK


@dataclass
class Learnt:
    """What an undisturbed run showed."""

    operation: Operation
    calls: Counter[str]
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One fault at one call of one operation."""

    operation: str
    call: str
    number: int
    kind: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.call} #{self.number} {self.kind}"


@dataclass
class Found:
    """What the trials showed."""

    fired: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Lane:
    """A server behind a proxy of its own, and a reader that never stops."""

    def __init__(self, number: int, work: Path, store: S3Server) -> None:
        self.store = store
        self.proxy = StoreProxy(f"127.0.0.1:{store.port}")
        self.proxy.is_counted = is_of_an_operation
        endpoint = f"http://{self.proxy.address}"
        env = {
            **store.environment(),
            "AWS_ENDPOINT": endpoint,
            "AWS_ENDPOINT_URL": endpoint,
            "LAKEBED_LIMITS_VERSION_AGE_MS_MIN": "0",
            # It reads the store whenever something changed, between the calls of operations.
            "LAKEBED_CATALOGUE_SEARCH": "false",
        }
        self.number = number
        self.server = LakebedServer(work, env=env)
        self.server.expect_log(EXPECTED_LOG)
        self.names = itertools.count()
        self.reads = 0
        self.trials = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None
        self.renew()

    def renew(self) -> None:
        """A fresh lake, with a reader beside everything."""
        self.stop()
        self.server.data = f"s3://{BUCKET}/lane{self.number}-{secrets.token_hex(4)}"
        self.server.start()
        case = Case(self.server, SIDE)
        case.write(rows(0, 10), "create")
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(case,))
        self._reader.start()

    def stop(self) -> None:
        """Ends the reader and the server, gently, as it is expected to."""
        if self._reader is not None:
            self._stop.set()
            self._reader.join()
            self._reader = None
        if self.server.running:
            assert self.server.terminate() == 0

    def _read(self, case: Case) -> None:
        """Reads of a table that no fault is about."""
        while not self._stop.wait(0.1):
            began = time.monotonic()
            try:
                assert case.read() == rows(0, 10)
            except (Refused, AssertionError) as error:
                self.wrong.append(f"a read of another table: {error}")
            if time.monotonic() - began > PROGRESS_S:
                self.wrong.append(f"a read of another table took {time.monotonic() - began:.1f} s")
            self.reads += 1

    def close(self) -> None:
        """Ends what still runs, however the tests ended."""
        self._stop.set()
        self.server.kill()
        self.proxy.close()

    def new_case(self) -> Case:
        return Case(self.server, f"db{next(self.names)}")

    # ---- undisturbed --------------------------------------------------------------------------

    def learn(self, operation: Operation) -> Learnt:
        """The calls of an operation that are made every time, and what it changes."""
        before: dict[str, Any] = {}
        runs: list[Counter[str]] = []
        for is_run in (False, True, True):
            case = self.new_case()
            operation.prepare(case)
            if is_run:
                self.proxy.begin_recording()
                operation.run(case)
                runs.append(Counter(call.name for call in self.proxy.recorded()))
                after = case.look()
            else:
                before = case.look()
        return Learnt(operation, runs[0] & runs[1], before, after)

    # ---- disturbed ----------------------------------------------------------------------------

    def run(self, learnt: Learnt, trial: Trial, found: Found) -> None:
        """Makes a trial until its fault was met; what is wrong afterwards goes to `found`."""
        self.trials += 1
        if self.trials % TRIALS_EACH == 0:
            self.renew()
        for _ in range(4):
            case = self.new_case()
            learnt.operation.prepare(case)
            fault = Fault(trial.call, trial.kind, trial.number)
            self.proxy.arm(fault)
            outcome = attempt(learnt.operation, case)
            self.proxy.disarm()
            if fault.fired:
                break
            case.lake.close()
        else:
            found.missed.append(str(trial))
            return
        found.fired[trial.kind] += 1
        found.outcomes[outcome or "done"] += 1
        try:
            self.check(learnt, case, outcome)
        except (AssertionError, Refused, *Failure) as error:
            found.wrong.append(f"{trial} in {case.database}, {outcome or 'done'}: {error}"[:600])
            print(f"wrong: {found.wrong[-1]}")
        case.lake.close()

    def check(self, learnt: Learnt, case: Case, outcome: str | None) -> None:
        """What has to hold after a fault."""
        operation = learnt.operation
        seen = case.look()
        if outcome is None:
            assert seen == learnt.after, f"acknowledged, and there is {seen}"
        else:
            assert outcome in TOLD, "not an error that says what to do"
            whole = (learnt.before, learnt.after)
            if operation.has_steps:
                assert rows_of(seen) in [rows_of(look) for look in whole], f"half done: {seen}"
            elif outcome == "commit_unknown" or operation.has_write_id:
                assert seen in whole, f"half done: {seen}"
            else:
                assert seen == learnt.before, f"refused and not as before: {seen}"
        began = time.monotonic()
        if seen != learnt.after or operation.is_repeatable:
            operation.run(case)
            seen = case.look()
            assert seen == learnt.after, f"sent again: {seen}"
        took = time.monotonic() - began
        steps = 2 if operation.has_steps else 1
        assert took < PROGRESS_S * steps, f"{took:.1f} s until it was done again"
        for table in seen:
            self.check_table(case, table, seen[table]["rows"]["id"])
        if not seen:
            case.write(rows(0, 1), "create")

    def check_table(self, case: Case, table: str, ids: list[int]) -> None:
        """A table takes the next write, has no gaps in its versions, and Lance finds it whole."""
        began = time.monotonic()
        case.write(pa.table({"id": [900]}), table=table)
        took = time.monotonic() - began
        assert took < PROGRESS_S, f"{took:.1f} s for the next write"
        versions = case.versions(table)
        assert versions == list(range(versions[0], versions[-1] + 1)), f"gaps: {versions}"
        # Its folder has the name that it was made under.
        place = f"s3://{BUCKET}/{self.server.data.rsplit('/', 1)[1]}/{case.database}/t.lance"
        dataset = lance.dataset(place, storage_options=options_of(self.store))
        dataset.validate()
        assert sorted(dataset.to_table(columns=["id"])["id"].to_pylist()) == [*ids, 900]
        assert dataset.version == versions[-1]


def rows_of(look: dict[str, Any]) -> dict[str, Any]:
    """The rows of the tables alone."""
    return {name: table["rows"] for name, table in look.items()}


def options_of(store: S3Server) -> dict[str, str]:
    """The store for pylance, without a proxy."""
    skipped = {"AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL"}
    return {k.lower(): v for k, v in store.environment().items() if k not in skipped}


def attempt(operation: Operation, case: Case) -> str | None:
    """Nothing when the operation was acknowledged, or the kind of its refusal."""
    try:
        operation.run(case)
    except Refused as refused:
        return refused.kind or str(refused)
    return None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store with room for the large blobs of all trials."""
    server = S3Server(tmp_path_factory.mktemp("store"), volumes=400)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory, store: S3Server) -> Iterator[list[Lane]]:
    """Lanes that the tests of this module share; their servers' logs are checked at the end."""
    made: list[Lane] = []
    try:
        for number in range(LANES):
            made.append(Lane(number, tmp_path_factory.mktemp(f"lane{number}"), store))
        yield made
        for lane in made:
            lane.stop()
            lane.server.check_log()
    finally:
        for lane in made:
            lane.close()


@pytest.fixture(scope="module")
def learnt(lanes: list[Lane]) -> list[Learnt]:
    """What each operation does, learnt on all lanes side by side and on each one after the
    other."""

    def learn(number: int) -> list[Learnt]:
        return [lanes[number].learn(operation) for operation in OPERATIONS[number::LANES]]

    with ThreadPoolExecutor(LANES) as pool:
        return list(itertools.chain(*pool.map(learn, range(LANES))))


def trials_of(learnt: list[Learnt], dice: random.Random, count: int | None) -> list[Trial]:
    """All trials, or some of them in which every name of a call of every operation occurs."""
    every = [
        Trial(it.operation.name, call, number + 1, kind)
        for it in learnt
        for call, calls in sorted(it.calls.items())
        for number in range(calls)
        for kind in KINDS
    ]
    dice.shuffle(every)
    if count is None:
        return every
    chosen: dict[tuple[str, str], Trial] = {}
    for trial in every:
        chosen.setdefault((trial.operation, trial.call), trial)
    first = set(chosen.values())
    return [*first, *(trial for trial in every if trial not in first)][:count]


def run_all(lanes: list[Lane], learnt: list[Learnt], trials: list[Trial]) -> Found:
    """Makes the trials, each on the lane that is free."""
    known = {it.operation.name: it for it in learnt}
    waiting = iter(trials)
    lock = threading.Lock()
    found = Found()

    def work(lane: Lane) -> None:
        while True:
            with lock:
                trial = next(waiting, None)
            if trial is None:
                return
            try:
                lane.run(known[trial.operation], trial, found)
            except (Refused, AssertionError) as error:
                found.wrong.append(f"{trial}, before its fault: {error}"[:600])

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(work, lanes))
    calls = sum(it.calls.total() for it in learnt)
    print(f"{len(learnt)} operations with {calls} calls; {found.fired.total()} faults fired")
    print(f"by kind {dict(found.fired)}, outcomes {dict(found.outcomes)}")
    print(f"{sum(lane.reads for lane in lanes)} reads beside them; {len(found.missed)} not met")
    wrong = [*found.wrong, *(text for lane in lanes for text in lane.wrong)]
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong)
    # Some calls are made only when what the server remembers has grown old.
    assert len(found.missed) <= max(2, len(trials) // 50), f"never fired: {found.missed}"
    return found


@pytest.mark.timeout(7_200)
def test_a_fault_at_every_call(lanes: list[Lane], learnt: list[Learnt], soak: bool) -> None:
    seed = int(os.environ.get("LAKEBED_FAULT_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    trials = trials_of(learnt, random.Random(seed), None if soak else 150)
    found = run_all(lanes, learnt, trials)
    assert set(found.fired) == set(KINDS)
    assert found.fired.total() + len(found.missed) == len(trials)


@pytest.mark.timeout(600)
def test_a_put_beside_another_one(lanes: list[Lane], learnt: list[Learnt]) -> None:
    """A bucket may answer a conditional put with 409 though nothing is there yet: it is tried
    again, or refused as something to be tried again, and never taken for an object that exists."""
    trials = [
        Trial(it.operation.name, call, number + 1, UNDER_WAY)
        for it in learnt
        for call, calls in sorted(it.calls.items())
        for number in range(calls)
        if call.startswith(("CREATE ", "REPLACE "))
    ]
    assert len(trials) > 20
    run_all(lanes, learnt, trials)
