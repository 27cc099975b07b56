"""Which GPU the functions of a worker get."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lakebed.models.onnx_session import DeviceMissing

DRIVER = Path("/dev/nvidiactl")


def functions_device(asked: str, models: Iterable[str]) -> str:
    """`cpu` or `cuda:N`: that of the models, which was tried out, or the one that was named.

    Without a model `auto` is the CPU: nothing here could tell whether a GPU works.

    Raises:
        ValueError: `asked` is not understood.
        DeviceMissing: `asked` names CUDA, and this machine has no driver.
    """
    for device in models:
        return device
    kind, _, index = asked.partition(":")
    if asked in {"auto", "cpu"}:
        return "cpu"
    if kind != "cuda" or (index and not index.isdigit()):
        raise ValueError(f"device `{asked}` is not understood; auto, cpu, cuda:N are")
    if not DRIVER.exists():
        raise DeviceMissing(f"device `{asked}` was asked for, and there is no driver of NVIDIA")
    return f"cuda:{int(index or 0)}"


def visible_to_functions(device: str, given: Mapping[str, str] = os.environ) -> str | None:
    """What functions see as CUDA_VISIBLE_DEVICES; None on a CPU. Where this worker itself sees a
    part of the machine's GPUs, its own are counted."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return None
    mine = [each.strip() for each in given.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    number = int(index or 0)
    return mine[number] if mine[0] and number < len(mine) else str(number)
