"""Runs a graph by onnxruntime, and keeps graphs in the cache folder.

onnxruntime falls back to the CPU without a word when CUDA does not start, so what a session really
runs on is compared with what was asked for. Memory that is not there has no error of its own in
onnxruntime; its words are looked at, and `OutOfMemory` is raised.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lakebed.models.model import OutOfMemory, Precision, Vectors

if TYPE_CHECKING:
    import onnx

# ONNX as both the converter and every onnxruntime from 1.16 on know it.
OPSET = 18
IR_VERSION = 9
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# While one call waits for the device to be done, another one makes its tensors and sends them.
CUDA_LANES = 2
# What is said, in small letters, where memory was asked for and not got: by onnxruntime's arena, on
# every device, by CUDA and its libraries, and by the C++ runtime.
OUT_OF_MEMORY = (
    "failed to allocate memory for requested buffer",
    "is smaller than requested bytes of",
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "device_allocation_failed",
    "bad_alloc",
    "bad allocation",
)


class DeviceMissing(Exception):
    """The device that was asked for does not work on this machine."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a session means that memory was not there."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return any(words in said for words in OUT_OF_MEMORY)


class Session:
    """A graph that is ready to run. May be called from several threads at once.

    Attributes:
        device: where it really runs: "cpu" or "cuda:0".
        lanes: calls at once that it is for.
        precision: in which numbers it computes.
        runtime: onnxruntime's own session.
    """

    def __init__(self, runtime: Any, device: str, lanes: int, precision: Precision) -> None:
        self.runtime = runtime
        self.device = device
        self.lanes = lanes
        self.precision = precision

    def run(self, inputs: Mapping[str, npt.NDArray[Any]], output: str = "embedding") -> Vectors:
        """An output of the graph, as float32.

        Raises:
            OutOfMemory: the inputs are too many for the memory of the device.
        """
        try:
            [vectors] = self.runtime.run([output], dict(inputs))
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from error
            raise
        return np.asarray(vectors, np.float32)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cached_graph(
    cache: Path, stem: str, precision: Precision, write: Callable[[], "onnx.ModelProto"]
) -> Path:
    """The graph named `stem` in a precision, written by `write` unless the cache has it.

    It is written under a temporary name and renamed, so that a reader finds a whole file or none,
    whoever else writes it at the same time.
    """
    if precision is not Precision.FP32:
        stem = f"{stem}-{precision.value}"
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


def open_session(
    graph: Callable[[Precision], Path],
    device: str,
    threads: int | None,
    precision: Precision = Precision.AUTO,
) -> Session:
    """A session of a graph.

    On a CPU each call has one thread and as many run at once as `threads` says: calls that share
    their threads wait for the slowest at every node (measured: a quarter more rows a second).

    Args:
        graph: gives the graph's file in the precision in which it will run.
        precision: `AUTO` is half precision on CUDA and float32 on a CPU.

    Raises:
        DeviceMissing: `device` names CUDA and it does not work.
        ValueError: `device` is not understood.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def on_cpu() -> Session:
        on = precision.on("cpu")
        made = onnxruntime.InferenceSession(str(graph(on)), options, providers=[CPU])
        return Session(made, "cpu", threads or cores(), on)

    if not _takes_cuda(device, onnxruntime.get_available_providers()):
        return on_cpu()
    name = f"cuda:{_cuda_index(device)}"
    on = precision.on(name)
    providers = [(CUDA, _cuda_options(_cuda_index(device), on)), CPU]
    # Outside of what follows: that a graph cannot be written is no fault of the device.
    path = graph(on)
    # The libraries of CUDA lie among the packages where they came as such; from 1.21 on.
    if (preload := getattr(onnxruntime, "preload_dlls", None)) is not None:
        preload()
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        if device == "auto":
            return on_cpu()
        raise DeviceMissing(f"device `{device}` does not start: {error}") from error
    if CUDA in made.get_providers():
        return Session(made, name, CUDA_LANES, on)
    if device == "auto":
        return on_cpu()
    raise DeviceMissing(f"device `{device}` was asked for and onnxruntime fell back to the CPU")


def _takes_cuda(device: str, known: list[str]) -> bool:
    if device == "cpu":
        return False
    if device != "auto" and device != "cuda" and not device.startswith("cuda:"):
        raise ValueError(f"device `{device}` is not understood; auto, cpu, cuda:N are")
    _cuda_index(device)
    if CUDA not in known and device != "auto":
        raise DeviceMissing(f"device `{device}` was asked for and this onnxruntime knows no CUDA")
    return CUDA in known


def _cuda_options(index: int, precision: Precision) -> dict[str, str]:
    return {
        "device_id": str(index),
        # Doubling what the arena takes would leave less for the batch than the device has.
        "arena_extend_strategy": "kSameAsRequested",
        # Batches differ in size, and an exhaustive search is made anew for every size.
        "cudnn_conv_algo_search": "HEURISTIC",
        # With it float32 is rounded to 10 bits on devices that know TF32.
        "use_tf32": "0" if precision is Precision.FP32 else "1",
    }


def _cuda_index(device: str) -> int:
    text = device.partition(":")[2]
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(f"device `{device}` is not understood; auto, cpu, cuda:N are")
    return int(text)
