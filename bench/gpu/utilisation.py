"""How busy a GPU was, as its driver has it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lakebed.worker.devices import visible_to_functions

SAMPLE_S = 0.05


@dataclass
class Utilisation:
    """Samples of a GPU: per cent of the time in which a kernel ran, and bytes of its memory."""

    name: str | None = None
    busy: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """The mean, from 0 to 1; None without a GPU."""
        return sum(self.busy) / len(self.busy) / 100 if self.busy else None


@contextmanager
def watched(device: str) -> Iterator[Utilisation]:
    """Samples a device such as `cuda:0` for the time of the block; nothing on a CPU."""
    found = Utilisation()
    if not device.startswith("cuda"):
        yield found
        return
    import pynvml

    pynvml.nvmlInit()
    # The driver counts all GPUs of the machine, and this process may see a part of them.
    visible = visible_to_functions(device) or "0"
    handle = (
        pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        if visible.isdigit()
        else pynvml.nvmlDeviceGetHandleByUUID(visible)
    )
    found.name = str(pynvml.nvmlDeviceGetName(handle))
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            found.busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            found.memory.append(pynvml.nvmlDeviceGetMemoryInfo(handle).used)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        pynvml.nvmlShutdown()
