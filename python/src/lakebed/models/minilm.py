"""all-MiniLM-L6-v2: a text becomes 384 numbers of length 1.

The weights are a safetensors file: an 8-byte length, JSON, raw bytes. The graph is a BERT of 6
layers with mean pooling over the tokens of the text. Texts are cut after 128 tokens, as the model
was made for.

In half precision the layers compute in float16, with the lowest score of what is padding at -1e4
in place of the lowest float32, and the mean and the length in float32.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lakebed.models.graph import Graph
from lakebed.models.model import Input, Precision, Prepared, RowError, Vectors
from lakebed.models.onnx_session import cached_graph, open_session
from lakebed.models.registry import BuiltIn

if TYPE_CHECKING:
    import onnx

LAYERS = 6
HEADS = 12
HEAD_SIZE = 32
WIDTH = HEADS * HEAD_SIZE
TOKENS_MAX = 128
# A text is cut here before it is split into tokens, so that a huge one costs no more than a long
# one. No text of words has its first 128 tokens beyond this.
CHARACTERS_MAX = 1 << 16
# Counts up when the graph changes, because the cache is named by the weights alone otherwise.
GRAPH_REVISION = 1
HEADER_BYTES_MAX = 100 << 20
# Nothing is left of it after the softmax, and float16 ends at 65504.
HALF_LOWEST = -1e4
# Tokens of one batch on a GPU, what is padding included: 256 of the longest texts, or thousands of
# captions, which a GPU needs to be busy with one call.
CUDA_TOKENS = 256 * TOKENS_MAX
# Lengths on a GPU are multiples of this, as its matrix units like them, and batches are of fewer
# shapes.
CUDA_STEP = 8


def read_safetensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 tensors of a safetensors file by name.

    Raises:
        ValueError: the file is not what its header says.
    """
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data) if len(data) >= 8 else (0,)
    if not 0 < length <= min(len(data) - 8, HEADER_BYTES_MAX):
        raise ValueError(f"{path.name} is not a safetensors file")
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(body):
            raise ValueError(f"{path.name}: tensor `{name}` lies outside of the file")
        values = np.frombuffer(body[start:stop], "<f4")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_graph(
    tensors: dict[str, npt.NDArray[np.float32]], precision: Precision = Precision.FP32
) -> "onnx.ModelProto":
    """The network as a graph: token ids and mask in, normalised vectors out."""
    graph = Graph("all-MiniLM-L6-v2", precision)
    ids = graph.input("input_ids", np.int64, ["rows", "tokens"])
    mask = graph.input("attention_mask", np.int64, ["rows", "tokens"])

    def linear(value: str, name: str) -> str:
        # Stored as torch has it, outputs first.
        weight = graph.weight(f"{name}.weight_t", tensors[f"{name}.weight"].T)
        bias = graph.weight(f"{name}.bias", tensors[f"{name}.bias"])
        return graph.node("Add", graph.node("MatMul", value, weight), bias)

    def norm(value: str, name: str) -> str:
        scale = graph.weight(f"{name}.weight", tensors[f"{name}.weight"])
        bias = graph.weight(f"{name}.bias", tensors[f"{name}.bias"])
        return graph.node("LayerNormalization", value, scale, bias, axis=-1, epsilon=1e-12)

    def heads(value: str, order: list[int]) -> str:
        split = graph.node("Reshape", value, graph.numbers(0, 0, HEADS, HEAD_SIZE))
        return graph.node("Transpose", split, perm=order)

    # What is padding gets the lowest score there is: (1 - m) x f32::MIN.
    lowest = HALF_LOWEST if graph.is_half else float(np.finfo(np.float32).min)
    wide = graph.node("Unsqueeze", graph.real(mask), graph.numbers(1, 2))
    missing = graph.node("Sub", graph.number(1.0), wide)
    bias = graph.node("Mul", missing, graph.number(lowest))

    words = graph.weight("words", tensors["embeddings.word_embeddings.weight"])
    places = graph.weight("places", tensors["embeddings.position_embeddings.weight"])
    kinds = graph.weight("kind_0", tensors["embeddings.token_type_embeddings.weight"][0])
    length = graph.node("Shape", ids, start=1, end=2)
    place = graph.node("Slice", places, graph.numbers(0), length, graph.numbers(0))
    hidden = graph.node("Add", graph.node("Gather", words, ids), kinds)
    hidden = norm(graph.node("Add", hidden, place), "embeddings.LayerNorm")

    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        query = heads(linear(hidden, f"{at}.attention.self.query"), [0, 2, 1, 3])
        key = heads(linear(hidden, f"{at}.attention.self.key"), [0, 2, 3, 1])
        value = heads(linear(hidden, f"{at}.attention.self.value"), [0, 2, 1, 3])
        scores = graph.node("MatMul", query, key)
        scores = graph.node("Div", scores, graph.number(float(np.sqrt(HEAD_SIZE))))
        shares = graph.node("Softmax", graph.node("Add", scores, bias), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", mixed, graph.numbers(0, 0, WIDTH))
        mixed = linear(mixed, f"{at}.attention.output.dense")
        hidden = norm(graph.node("Add", mixed, hidden), f"{at}.attention.output.LayerNorm")
        inner = linear(hidden, f"{at}.intermediate.dense")
        error = graph.node("Erf", graph.node("Div", inner, graph.number(float(np.sqrt(2.0)))))
        inner = graph.node("Mul", inner, graph.node("Add", error, graph.number(1.0)))
        inner = graph.node("Mul", inner, graph.number(0.5))
        inner = linear(inner, f"{at}.output.dense")
        hidden = norm(graph.node("Add", inner, hidden), f"{at}.output.LayerNorm")

    weights = graph.node("Unsqueeze", graph.node("Cast", mask, to=1), graph.numbers(2))
    total = graph.node(
        "ReduceSum", graph.node("Mul", graph.wide(hidden), weights), graph.numbers(1), keepdims=0
    )
    count = graph.node("ReduceSum", weights, graph.numbers(1), keepdims=0)
    mean = graph.node("Div", total, graph.node("Max", count, graph.wide_number(1e-9)))
    length_l2 = graph.node("ReduceL2", mean, graph.numbers(1), keepdims=1)
    safe = graph.node("Max", length_l2, graph.wide_number(1e-12))
    return graph.build(graph.node("Div", mean, safe, output="embedding"), ["rows", WIDTH])


class MiniLm:
    """The loaded model; see `lakebed.models.model.Model`."""

    def __init__(
        self,
        built_in: BuiltIn,
        cache: Path,
        device: str,
        threads: int | None,
        precision: Precision,
    ) -> None:
        from tokenizers import Tokenizer

        weights = built_in.weights_path()
        self.name = built_in.name
        self.digest = built_in.digest()
        self.dimensions = built_in.dimensions
        self.input = Input.TEXT
        stem = f"{self.name}-{self.digest.partition(':')[2]}-r{GRAPH_REVISION}"

        def graph(on: Precision) -> Path:
            return cached_graph(cache, stem, on, lambda: write_graph(read_safetensors(weights), on))

        self.session = open_session(graph, device, threads, precision)
        self.device, self.lanes = self.session.device, self.session.lanes
        self.precision = self.session.precision
        # On a CPU larger batches leave its caches: measured, with sorted captions.
        self.batch_rows, self.batch_cost, self._step = 16, 16 * TOKENS_MAX, 1
        if self.device.startswith("cuda"):
            self.batch_rows, self.batch_cost = CUDA_TOKENS // CUDA_STEP, CUDA_TOKENS
            self._step = CUDA_STEP
        self._tokenizer: Any = Tokenizer.from_file(str(weights.parent / "tokenizer.json"))
        # The file pads to 128; rows are padded to the longest of their batch in `compute`.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS_MAX)

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        """Splits texts into tokens."""
        ready: list[Prepared | RowError | None] = [None] * len(cells)
        texts: list[str] = []
        places: list[int] = []
        for place, cell in enumerate(cells):
            try:
                text = cell if isinstance(cell, str) else cell.decode("utf-8")
            except UnicodeDecodeError as error:
                ready[place] = RowError(f"text is not UTF-8: byte {error.start}")
                continue
            texts.append(text[:CHARACTERS_MAX])
            places.append(place)
        for place, encoding in zip(places, self._tokenizer.encode_batch_fast(texts), strict=True):
            tokens = np.array(encoding.ids, np.int32)
            ready[place] = Prepared(tokens, tokens.nbytes, len(tokens))
        return [row for row in ready if row is not None]

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """Vectors of texts. Costs what the longest of them costs for each."""
        return self.session.run(self.tensors(rows))

    def tensors(self, rows: Sequence[Prepared]) -> dict[str, npt.NDArray[Any]]:
        """What the graph reads, padded to the longest of the texts."""
        longest = max(row.cost for row in rows)
        longest = min(-(-longest // self._step) * self._step, TOKENS_MAX)
        lengths = np.fromiter((row.cost for row in rows), np.int64, len(rows))
        mask = np.arange(longest) < lengths[:, None]
        ids = np.zeros((len(rows), longest), np.int64)
        ids[mask] = np.concatenate([row.value for row in rows])
        return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
