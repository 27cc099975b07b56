"""Workers as actors of a Ray cluster of this machine: they follow the queue, and outlive what
happens to them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read when ray is imported: nothing is reported home, and no token is left in the home folder.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

import pyarrow as pa
import pytest
import ray

import lakebed
import lakebed.ray
from lakebed import errors
from lakebed.ray.workers import actor_options, wanted
from support.ray_cluster import local_cluster
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import CACHE, TEXT_MODEL, Jobs

FLAGS = ("--no-functions", "--cache-dir", str(CACHE))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two processors; its address."""
    with local_cluster(2) as address:
        yield address


@pytest.fixture
def server(make_server: Callable[..., LakebedServer]) -> LakebedServer:
    """One that gives tasks of a lost worker soon to another."""
    return make_server(env={"LAKEBED_LIMITS_TASK_LEASE_MS": "2000"}).start()


@pytest.fixture
def pool(server: LakebedServer, cluster: str) -> Iterator[Callable[..., lakebed.ray.Workers]]:
    """Attaches workers; closes them at the end."""
    assert cluster
    made: list[lakebed.ray.Workers] = []

    def attach(**options: Any) -> lakebed.ray.Workers:
        given = {"slots": 1, "poll_s": 0.2, "idle_s": 0.5, "worker_flags": FLAGS, **options}
        url = f"http://{server.http_address}"
        made.append(lakebed.ray.attach(url, api_key=server.admin_key, **given))
        return made[-1]

    yield attach
    for workers in made:
        workers.close()


def attached(jobs: Jobs, workers: lakebed.ray.Workers) -> set[str]:
    """The workers of a pool that the server knows."""
    return {it["worker"] for it in jobs.workers()} & set(workers.names)


# ---- what is decided --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ready", "running", "are_full", "now", "slots", "number"),
    [
        pytest.param(0, 0, False, 3, 2, 0, id="nothing to do"),
        pytest.param(7, 0, False, 0, 2, 4, id="from none"),
        pytest.param(3, 4, True, 2, 2, 4, id="all full, and more wait"),
        pytest.param(0, 4, True, 2, 2, 3, id="all full with tasks that are not seen"),
        pytest.param(0, 3, False, 2, 2, 2, id="nobody waits"),
        pytest.param(0, 0, True, 0, 2, 0, id="none are not full"),
    ],
)
def test_how_many_are_wanted(
    ready: int, running: int, are_full: bool, now: int, slots: int, number: int
) -> None:
    assert wanted(ready, running, are_full, now, slots) == number


def test_resources_by_rays_names() -> None:
    assert actor_options(None) == {"num_cpus": 1, "resources": {}}
    found = actor_options({"CPU": 4, "GPU": 0.5, "fast_disk": 1})
    assert found == {"num_cpus": 4, "num_gpus": 0.5, "resources": {"fast_disk": 1}}
    with pytest.raises(errors.InvalidArgument, match="GPU"):
        actor_options({"GPU": -1})


def test_what_is_refused_at_once(server: LakebedServer) -> None:
    url = f"http://{server.http_address}"
    with pytest.raises(errors.InvalidArgument, match="min_workers"):
        lakebed.ray.attach(url, num_workers=1, min_workers=2)
    with pytest.raises(errors.Unauthenticated):
        lakebed.ray.attach(url, num_workers=1, api_key="wrong")


# ---- on a cluster -----------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_they_grow_and_shrink_with_the_queue(
    server: LakebedServer, pool: Callable[..., lakebed.ray.Workers]
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    workers = pool(num_workers=2)
    wait_until(lambda: len(attached(jobs, workers)) == 1, "the first worker", 60)
    lake.create("t", pa.table({"id": range(1_200), "text": [f"row {n}" for n in range(1_200)]}))
    job = jobs.submit("t", "text", "vector", TEXT_MODEL, task_rows=8)
    # A second one comes because tasks wait, and a third one does not.
    wait_until(lambda: len(workers) == 2, "another actor", 30)
    ended = jobs.wait(job)["result"]
    assert (ended["rows"], ended["errors"]) == (1_200, 0)
    assert lake.read("t")["vector"].null_count == 0
    wait_until(lambda: len(workers) == 1, "the end of one", 60)
    wait_until(lambda: len(attached(jobs, workers)) == 1, "one worker", 60)
    workers.close()
    # They left in order: the server does not wait for a minute to forget them.
    wait_until(lambda: not jobs.workers(), "their leave", 10)


@pytest.mark.timeout(240)
def test_there_may_be_none_while_there_is_nothing_to_do(
    server: LakebedServer, pool: Callable[..., lakebed.ray.Workers]
) -> None:
    """Also for a database of its own, whose jobs are looked at by its name."""
    db = lakebed.connect(f"http://{server.http_address}", server.admin_key, "other")
    db.create_table("t", {"text": ["one", "two"]})
    workers = pool(num_workers=2, min_workers=0, databases=["default", "other"])
    assert len(workers) == 0
    job = db.jobs.submit("t", input="text", output="vector", model=TEXT_MODEL)
    assert job.wait(90).rows_done == 2
    wait_until(lambda: len(workers) == 0, "the end of it", 60)


@pytest.mark.timeout(240)
def test_a_lost_actor_is_started_again(
    server: LakebedServer, pool: Callable[..., lakebed.ray.Workers]
) -> None:
    lake, jobs = server.lake(), Jobs(server)
    workers = pool(num_workers=1)
    wait_until(lambda: len(attached(jobs, workers)) == 1, "the worker", 60)
    [before] = jobs.workers()
    [(name, actor)] = workers.actors.items()
    first = ray.get(actor.state.remote())["pid"]
    lake.create("t", pa.table({"id": range(400), "text": [f"row {n}" for n in range(400)]}))
    job = jobs.submit("t", "text", "vector", TEXT_MODEL, task_rows=8)
    wait_until(lambda: jobs.progress(job).get("tasks_held"), "work")
    # As when its machine is lost; Ray knows nothing of the worker that it started.
    ray.kill(actor, no_restart=False)
    ended = jobs.wait(job)["result"]
    assert (ended["rows"], ended["errors"]) == (400, 0)
    assert workers.names == [name]
    assert ray.get(workers.actors[name].state.remote(), timeout=30)["pid"] != first
    assert {it["instance"] for it in jobs.workers()} != {before["instance"]}
    assert not Path(f"/proc/{first}").exists()


@pytest.mark.timeout(240)
def test_a_worker_that_cannot_work_is_replaced(
    server: LakebedServer, pool: Callable[..., lakebed.ray.Workers]
) -> None:
    """Its flags are wrong, so all that come after it fare alike: they are asked for ever more
    slowly, and nothing else suffers."""
    workers = pool(num_workers=1, worker_flags=("--slots", "1000"))
    [first] = workers.names
    wait_until(lambda: workers.names and workers.names != [first], "another", 60)
    assert not Jobs(server).workers()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_command(server: LakebedServer, cluster: str, how: signal.Signals) -> None:
    log = server.work / "ray.log"
    words = [
        *("--url", f"http://{server.http_address}", "--num-workers", "1", "--resource", "CPU=1"),
        *("--ray-address", cluster, "--", *FLAGS),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lakebed.ray", *words],
            env={**os.environ, "LAKEBED_API_KEY": server.admin_key},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        jobs = Jobs(server)
        [worker] = wait_until(jobs.workers, "its worker", 90)
        assert worker["worker"].startswith("ray-")
        assert (worker["slots"], worker["device"]) == (3, "cpu")
        [pid] = wait_until(
            lambda: re.findall(r"process ray-\S+ is (\d+)", log.read_text()), "its number", 30
        )
        process.send_signal(how)
        assert process.wait(60) == (0 if how is signal.SIGTERM else -how), log.read_text()
        # Of one that was killed Ray ends the actors, and what these have started.
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the worker", 40)
        if how is signal.SIGTERM:
            assert not jobs.workers()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--num-workers", "1", "--resource", "GPU"], 2, "GPU=1"),
        ([], 2, "--num-workers"),
    ],
)
def test_wrong_usage_of_the_command(words: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lakebed.ray", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
