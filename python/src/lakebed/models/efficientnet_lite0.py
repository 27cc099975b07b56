"""EfficientNet-Lite0: a picture becomes 1280 numbers of length 1.

The weights are torch's legacy format: pickles for magic, version and sizes, the state, the list of
keys, then an int64 count and raw bytes for each storage. They are read by an unpickler that knows
four names and so can run no code. Batch norm is folded into the convolutions. In half precision
these compute in float16, and the length of the vector is taken in float32.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lakebed.models.graph import Graph
from lakebed.models.model import Input, Precision, Prepared, RowError, Vectors
from lakebed.models.onnx_session import cached_graph, open_session
from lakebed.models.pictures import SIDE, decode_picture
from lakebed.models.registry import BuiltIn

if TYPE_CHECKING:
    import onnx

Tensors = dict[str, npt.NDArray[Any]]

# repeat, kernel, stride, expansion, channels
BLOCKS = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
STEM_CHANNELS = 32
DIMENSIONS = 1280
CLASSES = 1000
BATCH_NORM_EPSILON = 1e-3
GRAPH_REVISION = 1
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


class _Storage:
    """A storage that is named before its bytes are read."""

    def __init__(self, kind: str, size: int) -> None:
        self.dtype = {"FloatStorage": "<f4", "LongStorage": "<i8"}[kind]
        self.size = size
        self.values: npt.NDArray[Any] = np.empty(0)


class _Tensor:
    """A view of a storage. Some weights are stored in another order than they are used in."""

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def values(self) -> npt.NDArray[Any]:
        sizes = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in sizes)
        if min((self.offset, *self.stride, *(size - 1 for size in self.shape))) < 0:
            raise ValueError("a tensor has a negative size")
        if last >= len(self.storage.values):
            raise ValueError("a tensor lies outside of its storage")
        start = self.storage.values[self.offset :]
        strides = tuple(step * start.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False)


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, shape, stride)


class _Unpickler(pickle.Unpickler):
    """Knows the names that a state of tensors needs, and no other."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in {"FloatStorage", "LongStorage"}:
            return name
        raise pickle.UnpicklingError(f"weights name `{module}.{name}`, which no state needs")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, size, *_ = pid
        return self.storages.setdefault(str(key), _Storage(kind, int(size)))


def read_torch_legacy(path: Path) -> Tensors:
    """The tensors of a file of torch's legacy format by name.

    Raises:
        ValueError: the file is not of that format, or is cut.
        pickle.UnpicklingError: it asks for code to be run.
    """
    file = io.BytesIO(path.read_bytes())
    if _Unpickler(file).load() != TORCH_MAGIC or _Unpickler(file).load() != TORCH_PROTOCOL:
        raise ValueError(f"{path.name} is not of torch's legacy format")
    _Unpickler(file).load()  # sizes of C types on the machine that wrote it
    reader = _Unpickler(file)
    state = reader.load()
    keys = _Unpickler(file).load()
    for key in keys:
        storage = reader.storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        data = file.read(count * np.dtype(storage.dtype).itemsize)
        if count != storage.size or len(data) != count * np.dtype(storage.dtype).itemsize:
            raise ValueError(f"{path.name}: storage `{key}` is cut")
        storage.values = np.frombuffer(data, storage.dtype)
    return {name: tensor.values() for name, tensor in state.items()}


def write_graph(
    tensors: Tensors, precision: Precision = Precision.FP32, *, scores: bool = False
) -> "onnx.ModelProto":
    """The network as a graph: uint8 RGB pixels in, normalised vectors out, or with `scores` those
    of ImageNet's classes, which are 1 together."""
    graph = Graph("efficientnet-lite0", precision)
    pixels = graph.input("pixels", np.uint8, ["rows", SIDE, SIDE, 3])
    value = graph.node("Transpose", graph.real(pixels), perm=[0, 3, 1, 2])
    value = graph.node("Div", graph.node("Sub", value, graph.number(127.0)), graph.number(128.0))
    size = SIDE

    def convolve(value: str, at: str, norm: str, stride: int, activate: bool) -> str:
        """A convolution with its batch norm folded in and TensorFlow's "same" padding."""
        nonlocal size
        kernel = tensors[f"{at}.weight"].astype(np.float64)
        scale = tensors[f"{norm}.weight"] / np.sqrt(
            tensors[f"{norm}.running_var"].astype(np.float64) + BATCH_NORM_EPSILON
        )
        bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        folded = (kernel * scale[:, None, None, None]).astype(np.float32)
        side = kernel.shape[-1]
        out = -(-size // stride)
        # Where the padding is odd, the bottom and the right get more.
        padding = max((out - 1) * stride + side - size, 0)
        before, after = padding // 2, padding - padding // 2
        size = out
        value = graph.node(
            "Conv",
            value,
            graph.weight(f"{at}.weight", folded),
            graph.weight(f"{at}.bias", bias.astype(np.float32)),
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            # A depthwise convolution has one input channel in each group.
            group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
        )
        if not activate:
            return value
        return graph.node("Clip", value, graph.number(0.0), graph.number(6.0))

    value = convolve(value, "_conv_stem", "_bn0", 2, True)
    channels, block = STEM_CHANNELS, 0
    for repeat, _, first_stride, expansion, out_channels in BLOCKS:
        for turn in range(repeat):
            at, stride, before = f"_blocks.{block}", first_stride if turn == 0 else 1, value
            if expansion != 1:
                value = convolve(value, f"{at}._expand_conv", f"{at}._bn0", 1, True)
            value = convolve(value, f"{at}._depthwise_conv", f"{at}._bn1", stride, True)
            value = convolve(value, f"{at}._project_conv", f"{at}._bn2", 1, False)
            if stride == 1 and channels == out_channels:
                value = graph.node("Add", value, before)
            channels, block = out_channels, block + 1
    value = convolve(value, "_conv_head", "_bn1", 1, True)
    value = graph.node("Flatten", graph.node("GlobalAveragePool", value), axis=1)
    if scores:
        weights = graph.weight("_fc.weight", tensors["_fc.weight"])
        bias = graph.weight("_fc.bias", tensors["_fc.bias"])
        value = graph.wide(graph.node("Gemm", value, weights, bias, transB=1))
        return graph.build(graph.node("Softmax", value, axis=1, output="scores"), ["rows", CLASSES])
    value = graph.wide(value)
    length = graph.node("ReduceL2", value, graph.numbers(1), keepdims=1)
    safe = graph.node("Max", length, graph.wide_number(1e-12))
    return graph.build(graph.node("Div", value, safe, output="embedding"), ["rows", DIMENSIONS])


class EfficientNetLite0:
    """The loaded model; see `lakebed.models.model.Model`."""

    def __init__(
        self,
        built_in: BuiltIn,
        cache: Path,
        device: str,
        threads: int | None,
        precision: Precision,
    ) -> None:
        weights = built_in.weights_path()
        self.name = built_in.name
        self.digest = built_in.digest()
        self.dimensions = built_in.dimensions
        self.input = Input.PICTURE
        stem = f"{self.name}-{self.digest.partition(':')[2]}-r{GRAPH_REVISION}"

        def graph(on: Precision) -> Path:
            return cached_graph(
                cache, stem, on, lambda: write_graph(read_torch_legacy(weights), on)
            )

        self.session = open_session(graph, device, threads, precision)
        self.device, self.lanes = self.session.device, self.session.lanes
        self.precision = self.session.precision
        # On a CPU larger batches leave its caches: 16 take 15 % longer for each picture.
        self.batch_rows = 128 if self.device.startswith("cuda") else 4
        # All pictures cost 1.
        self.batch_cost = self.batch_rows

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        """Decodes pictures one after the other; several threads may do so at once."""
        ready: list[Prepared | RowError] = []
        for cell in cells:
            try:
                pixels = decode_picture(cell if isinstance(cell, bytes) else cell.encode())
                ready.append(Prepared(pixels, pixels.nbytes, 1))
            except RowError as error:
                ready.append(error)
        return ready

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """Vectors of decoded pictures."""
        return self.session.run(self.tensors(rows))

    def tensors(self, rows: Sequence[Prepared]) -> dict[str, npt.NDArray[Any]]:
        """What the graph reads."""
        return {"pixels": np.stack([row.value for row in rows])}
