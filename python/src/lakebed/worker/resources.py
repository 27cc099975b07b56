"""What a worker has that tasks may take, and how much of its GPUs is in use."""

import csv
import logging
import shutil
import subprocess
import threading
import time

from lakebed.worker.v1 import worker_pb2 as pb

log = logging.getLogger("lakebed.worker")

# How often GPUs are read: the program that does it takes a while.
GPU_SECONDS = 5.0
GPU_READ_S_MAX = 10.0
FIELDS = "name,memory.total,memory.used,utilization.gpu"


class Offered:
    """Processors and GPUs that tasks may take."""

    def __init__(self, cpus: int, gpus: int, gpu_memory_mb: int | None, device: str) -> None:
        """
        Args:
            gpu_memory_mb: what is offered; what the GPUs have without it.
            device: `cpu`, or `cuda:N`, whose memory it is then.
        """
        self._lock = threading.Lock()
        kind, _, index = device.partition(":")
        self._gpus: list[pb.Gpu] = read_gpus() if kind == "cuda" else []
        if gpu_memory_mb is None:
            first = int(index) if index.isdigit() else 0
            gpu_memory_mb = sum(gpu.memory_mb for gpu in self._gpus[first : first + gpus])
        self._message = pb.Resources(cpus=cpus, gpus=gpus, gpu_memory_mb=gpu_memory_mb)
        if self._gpus:
            threading.Thread(target=self._look, name="gpus", daemon=True).start()

    def message(self) -> pb.Resources:
        """What is offered, for the wire."""
        return self._message

    def gpus_in_use(self) -> list[pb.Gpu]:
        """The GPUs as they were a few seconds ago; none where they cannot be read."""
        with self._lock:
            return list(self._gpus)

    def _look(self) -> None:
        while True:
            time.sleep(GPU_SECONDS)
            found = read_gpus()
            with self._lock:
                self._gpus = found


def read_gpus() -> list[pb.Gpu]:
    """The GPUs of the machine, as the driver's own program tells them; none without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=GPU_READ_S_MAX, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.info("GPUs cannot be read: %s", error)
        return []
    return parse_gpus(told.stdout)


def parse_gpus(told: str) -> list[pb.Gpu]:
    """What the program said; a number that it does not know counts as 0."""

    def number(text: str) -> int:
        return int(text) if text.strip().isdigit() else 0

    found = []
    for row in csv.reader(told.splitlines(), skipinitialspace=True):
        if len(row) == len(FIELDS.split(",")):
            name, memory, used, busy = row
            found.append(
                pb.Gpu(
                    name=name,
                    memory_mb=number(memory),
                    memory_used_mb=number(used),
                    busy_percent=number(busy),
                )
            )
    return found
