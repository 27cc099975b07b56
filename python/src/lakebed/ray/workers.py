"""A number of workers on a Ray cluster, and the thread that fits it to the queue."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lakebed._retry import pause_s
from lakebed._target import DATABASE_DEFAULT, target
from lakebed._version import __version__
from lakebed.connection import Connection
from lakebed.errors import InvalidArgument, LakebedError
from lakebed.ray.actor import WorkerActor
from lakebed.worker.supervisor import LEAVE_S_MAX

log = logging.getLogger("lakebed.ray")

SLOTS_DEFAULT = 3
POLL_S_DEFAULT = 2.0
IDLE_S_DEFAULT = 30.0
ANSWER_S_MAX = 1.0
# For the look that is under way when it is asked to end.
LOOK_S_MAX = 10.0
# Names of Ray's own resources, as `ray.init` and `ray status` spell them, and its options.
RAY_RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def wanted(ready: int, running: int, are_full: bool, now: int, slots: int) -> int:
    """How many workers the queue asks for.

    Args:
        ready: tasks that nobody has.
        running: tasks that these workers have.
        are_full: whether each of them has as many as it can hold.
        now: how many there are.
        slots: tasks that one holds.
    """
    by_tasks = -(-(ready + running) // slots)
    # Also where the tasks are not seen: they may be those of a database that is not looked at.
    return max(by_tasks, now + 1) if are_full and now else by_tasks


def actor_options(resources: Mapping[str, float] | None) -> dict[str, Any]:
    """Ray's options for an actor with such resources.

    Raises:
        InvalidArgument: one is less than 0.
    """
    options: dict[str, Any] = {"num_cpus": 1, "resources": {}}
    for name, amount in (resources or {}).items():
        if amount < 0:
            raise InvalidArgument(f"resource `{name}` is {amount}; it cannot be less than 0")
        if name in RAY_RESOURCES:
            options[RAY_RESOURCES[name]] = amount
        else:
            options["resources"][name] = amount
    return options


@dataclass
class _Member:
    """One actor."""

    name: str
    actor: Any
    # What it was asked for and has not answered: while the cluster has no room for it, or while it
    # is started again, it is not asked twice.
    asked: Any = None
    # When it was first seen to have nothing to do.
    idle_since_s: float | None = None


class Workers:
    """Workers on a cluster, as `attach` made them. A context manager; or call `close`."""

    def __init__(
        self,
        db: Connection,
        databases: Sequence[str],
        start: Callable[[str], Any],
        *,
        least: int,
        most: int,
        slots: int,
        poll_s: float,
        idle_s: float,
    ) -> None:
        self._databases = [Connection(replace(db.target, database=name)) for name in databases]
        self._db = db
        self._start = start
        self._least, self._most, self._slots = least, most, slots
        self._poll_s, self._idle_s = poll_s, idle_s
        # So that those of two pools are told apart.
        self._prefix = f"ray-{uuid.uuid4().hex[:6]}"
        self._count = 0
        self._members: list[_Member] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failures = 0
        self._not_before_s = 0.0
        self._fit(least)
        self._thread = threading.Thread(target=self._watch, name="lakebed-ray", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Actors that there are, those included that the cluster has no room for yet."""
        with self._lock:
            return len(self._members)

    @property
    def names(self) -> list[str]:
        """The names of the workers, as `db.workers()` has them."""
        with self._lock:
            return [member.name for member in self._members]

    @property
    def actors(self) -> dict[str, Any]:
        """The handles of Ray by the names of the workers."""
        with self._lock:
            return {member.name: member.actor for member in self._members}

    def close(self) -> None:
        """Ends all workers: they give back what they hold."""
        self._stop.set()
        self._thread.join(LOOK_S_MAX)
        with self._lock:
            members, self._members = self._members, []
        _let_go(members)
        for db in (self._db, *self._databases):
            db.close()

    # ---- the queue ----------------------------------------------------------------------------

    def _watch(self) -> None:
        failures = 0
        while not self._stop.wait(self._poll_s if failures == 0 else pause_s(failures)):
            try:
                self.look()
                failures = 0
            except LakebedError as error:
                # The workers wait for the server too.
                log.warning("the queue at %s: %s", self._db.target.url, error)
                failures += 1
            except Exception:
                # Of Ray, whose errors are many; what is true then is seen at the next look.
                log.exception("look at the workers")
                failures += 1

    def look(self) -> None:
        """Looks at the queue once, and asks for more workers or lets some go.

        Raises:
            LakebedError: the server cannot be asked.
        """
        self._drop_failed()
        ready = sum(self._ready(db) for db in self._databases)
        held = self._held()
        names = self.names
        running = [held.get(name, 0) for name in names]
        are_full = all(count >= self._slots for count in running)
        number = wanted(ready, sum(running), are_full, len(names), self._slots)
        number = min(max(number, self._least), self._most)
        if number > len(names) and time.monotonic() >= self._not_before_s:
            log.info("%d tasks wait: %d workers, not %d", ready, number, len(names))
            self._fit(number)
        self._let_idle_go(number, held)

    @staticmethod
    def _ready(db: Connection) -> int:
        """Tasks of a database's jobs that nobody has."""
        tasks = 0
        for job in db.jobs.list():
            if job.state == "IN_PROGRESS":
                progress = db.jobs.describe(job.job_id).raw.get("progress")
                # Only jobs that workers run have tasks.
                tasks += progress.get("tasks_ready", 0) if isinstance(progress, dict) else 0
        return tasks

    def _held(self) -> dict[str, int]:
        """Tasks that the workers that are attached hold, by name."""
        mine = [it for it in self._db.workers() if it["worker"].startswith(self._prefix)]
        # One whose actor was lost is listed for a while beside the one that took its place.
        mine.sort(key=lambda it: it["since_ms"])
        return {it["worker"]: it["running"] for it in mine}

    def _let_idle_go(self, number: int, held: Mapping[str, int]) -> None:
        """Ends workers beyond a number that have had nothing to do for a while."""
        now = time.monotonic()
        going: list[_Member] = []
        with self._lock:
            for member in self._members:
                if held.get(member.name, 0):
                    member.idle_since_s = None
                elif member.idle_since_s is None:
                    member.idle_since_s = now
            for member in reversed(list(self._members)):
                if len(self._members) <= number:
                    break
                if member.idle_since_s is not None and now - member.idle_since_s >= self._idle_s:
                    self._members.remove(member)
                    going.append(member)
        if going:
            log.info("%d workers had nothing to do: %d are left", len(going), len(self))
            _let_go(going)

    # ---- actors -------------------------------------------------------------------------------

    def _fit(self, number: int) -> None:
        """Asks for actors until there are so many."""
        with self._lock:
            while len(self._members) < number and not self._stop.is_set():
                self._count += 1
                name = f"{self._prefix}-{self._count}"
                self._members.append(_Member(name, self._start(name)))

    def _drop_failed(self) -> None:
        """Lets go of actors whose worker cannot work, or that cannot be made; others are asked for
        after a pause."""
        import ray

        with self._lock:
            answers = {}
            for member in self._members:
                member.asked = member.asked or member.actor.state.remote()
                answers[member.asked] = member
        if not answers:
            return
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S_MAX)
        failed = []
        for answer in ready:
            answers[answer].asked = None
            try:
                code = ray.get(answer)["code"]
            except ray.exceptions.ActorUnavailableError:
                continue
            except ray.exceptions.RayActorError as error:
                log.error("worker %s is lost: %s", answers[answer].name, error)
            else:
                if code is None:
                    continue
                log.error("worker %s ended with %s; see its log", answers[answer].name, code)
            failed.append(answers[answer])
        if failed:
            self._failures += 1
            self._not_before_s = time.monotonic() + pause_s(self._failures + 2)
            with self._lock:
                self._members = [it for it in self._members if it not in failed]
            _let_go(failed)
        elif ready:
            self._failures = 0


def _let_go(members: Sequence[_Member]) -> None:
    """Ends actors; those that answer give back first what they hold."""
    import ray

    if not members or not ray.is_initialized():
        return
    stops = [member.actor.stop.remote() for member in members]
    ray.wait(stops, num_returns=len(stops), timeout=LEAVE_S_MAX)
    for member in members:
        ray.kill(member.actor, no_restart=True)


def attach(
    url: str | None = None,
    *,
    num_workers: int,
    resources: Mapping[str, float] | None = None,
    min_workers: int = 1,
    api_key: str | None = None,
    worker_api_key: str | None = None,
    databases: Sequence[str] = (DATABASE_DEFAULT,),
    slots: int = SLOTS_DEFAULT,
    worker_flags: Sequence[str] = (),
    ca_file: str | None = None,
    options: Mapping[str, Any] | None = None,
    poll_s: float = POLL_S_DEFAULT,
    idle_s: float = IDLE_S_DEFAULT,
) -> Workers:
    """Runs workers as actors of the Ray cluster that this process is connected to; without one Ray
    is started, or connected to as `RAY_ADDRESS` says.

    There are `min_workers` to `num_workers` of them, as many as tasks wait for. One that is lost is
    started again by Ray. They end with `close`, and are killed when this process is lost.

    Args:
        url: of the server's HTTP port, as the machines of the cluster reach it; `LAKEBED_URL`.
        num_workers: at most.
        resources: of each, by Ray's names, such as `{"CPU": 4, "GPU": 1}`; a CPU without. With a
            GPU models run on it.
        min_workers: at least. With 0 a search by text or picture finds no worker while no job runs.
        api_key: to look at jobs and workers, of the role `read` or above; `LAKEBED_API_KEY`.
        worker_api_key: what the workers present; the same without it.
        databases: whose jobs are looked at.
        slots: tasks that one worker holds.
        worker_flags: more of the command line of `lakebed-worker`.
        ca_file: certificates to trust, a file on every machine.
        options: more of Ray's options for the actors, such as `runtime_env`.
        poll_s: how often the queue is looked at.
        idle_s: how long a worker has nothing to do before it is let go.

    Raises:
        LakebedError: the server cannot be reached, or refuses the key.
        InvalidArgument: a number is out of its range.
        ImportError: ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("ray is not installed; pip install 'lakebed[worker,ray]'") from error
    if num_workers < 1 or not 0 <= min_workers <= num_workers or slots < 1:
        raise InvalidArgument(
            f"num_workers is {num_workers}, min_workers {min_workers}, slots {slots}; at least 1 "
            "worker of 1 slot and no more at least than at most are possible"
        )
    asked = {**actor_options(resources), **(options or {})}
    db = Connection(target(url, api_key, ca_file=ca_file))
    # At once, so that a wrong key is seen here and not in the logs of a cluster.
    db.workers()
    if not ray.is_initialized():
        ray.init()
    flags = [
        *("--url", db.target.url, "--slots", str(slots)),
        *("--device", "cuda:0" if asked.get("num_gpus") else "cpu"),
        *("--threads", str(max(1, int(asked["num_cpus"])))),
        *(("--ca-file", ca_file) if ca_file else ()),
        *worker_flags,
    ]
    key = worker_api_key or db.target.api_key
    environment = {} if key is None else {"LAKEBED_API_KEY": key}
    actor_class = ray.remote(WorkerActor).options(max_restarts=-1, **asked)

    def start(name: str) -> Any:
        return actor_class.remote(name, flags, environment, __version__)

    log.info("attach to %s with %d to %d workers", db.target.url, min_workers, num_workers)
    return Workers(
        db,
        databases,
        start,
        least=min_workers,
        most=num_workers,
        slots=slots,
        poll_s=poll_s,
        idle_s=idle_s,
    )
