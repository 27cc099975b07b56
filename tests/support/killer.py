"""Kills of workers and of the server while they work on a job."""

import random
import time
from collections import Counter
from collections.abc import Callable

from support.server import LakebedServer
from support.worker import Jobs, Worker


def at_fixed_ports(
    make_server: Callable[..., LakebedServer], environment: dict[str, str]
) -> LakebedServer:
    """A running server that keeps its ports when it is started again, so that workers find it."""
    port = make_server("ports").start()
    ports = (port.http_address, port.flight_address)
    port.kill()
    arguments = ["--http-addr", ports[0], "--flight-addr", ports[1]]
    return make_server("chaos", args=arguments, env=environment).start()


class Killer:
    """Kills one of some workers, or the server, while it has work, and starts it again."""

    def __init__(self, server: LakebedServer, workers: list[Worker], seed: int) -> None:
        self.server = server
        self.jobs = Jobs(server)
        self.workers = workers
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()

    def kill_one(self, job: str) -> bool:
        """Waits until somebody has work and kills him; false when the job is over before."""
        victim = self.dice.choice(["server", *(worker.name for worker in self.workers)])
        deadline = time.monotonic() + 60
        while not self.has_work(victim, job):
            if self.jobs.describe(job)["job_state"] != "IN_PROGRESS":
                return False
            assert time.monotonic() < deadline, f"{victim} gets no work"
            time.sleep(0.01)
        if victim == "server":
            self.server.kill()
            self.server.start()
        else:
            worker = next(worker for worker in self.workers if worker.name == victim)
            worker.kill()
            worker.start()
        self.kills[victim] += 1
        return True

    def has_work(self, victim: str, job: str) -> bool:
        """Whether it has tasks in its hands, as the server says."""
        if victim == "server":
            return self.jobs.progress(job).get("tasks_held", 0) > 0
        return any(it["worker"] == victim and it["running"] > 0 for it in self.jobs.workers())
