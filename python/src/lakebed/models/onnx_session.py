"""Runs a graph by onnxruntime, and keeps graphs in the cache folder.

onnxruntime falls back to the CPU without a word when CUDA does not start, so what a session really
runs on is compared with what was asked for.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# ONNX as both the converter and every onnxruntime from 1.16 on know it.
OPSET = 18
IR_VERSION = 9


class DeviceMissing(Exception):
    """The device that was asked for does not work on this machine."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cached_graph(cache: Path, stem: str, write: Callable[[], "onnx.ModelProto"]) -> Path:
    """The graph named `stem`, written by `write` unless the cache has it.

    It is written under a temporary name and renamed, so that a reader finds a whole file or none,
    whoever else writes it at the same time.
    """
    folder = cache / "models"
    path = folder / f"{stem}.onnx"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    data = write().SerializeToString()
    handle, temporary = tempfile.mkstemp(prefix=f".{stem}-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets only its owner read; a cache may be shared.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def open_session(graph: Path, device: str, threads: int | None) -> tuple[Any, str, int]:
    """A session of a graph, where it really runs, and how many calls at once it is for.

    On a CPU each call has one thread and as many run at once as `threads` says: calls that share
    their threads wait for the slowest at every node (measured: a quarter more rows a second).

    Raises:
        DeviceMissing: `device` names CUDA and it does not work.
        ValueError: `device` is not understood.
    """
    import onnxruntime

    wanted = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=wanted)
    except Exception as error:
        if device == "auto" and len(wanted) > 1:
            session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        elif device.startswith("cuda"):
            raise DeviceMissing(f"device `{device}` does not start: {error}") from error
        else:
            raise
    runs_on_cuda = "CUDAExecutionProvider" in session.get_providers()
    if device.startswith("cuda") and not runs_on_cuda:
        raise DeviceMissing(f"device `{device}` was asked for and onnxruntime fell back to the CPU")
    if runs_on_cuda:
        return session, f"cuda:{_cuda_index(device)}", 1
    return session, "cpu", threads or cores()


def _providers(device: str, known: list[str]) -> list[Any]:
    cpu = "CPUExecutionProvider"
    if device == "cpu":
        return [cpu]
    if device != "auto" and device != "cuda" and not device.startswith("cuda:"):
        raise ValueError(f"device `{device}` is not understood; auto, cpu, cuda:N are")
    index = _cuda_index(device)
    if "CUDAExecutionProvider" in known:
        return [("CUDAExecutionProvider", {"device_id": index}), cpu]
    if device != "auto":
        raise DeviceMissing(f"device `{device}` was asked for and this onnxruntime knows no CUDA")
    return [cpu]


def _cuda_index(device: str) -> int:
    text = device.partition(":")[2]
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(f"device `{device}` is not understood; auto, cpu, cuda:N are")
    return int(text)
