"""Small ONNX models whose vectors can be computed by hand."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ["[PAD]", "[UNK]", "red", "blue", "green", "car", "cat"]
WIDTH = 4
SIDE = 8
COLOURS = 3


def word_vectors(seed: int) -> npt.NDArray[np.float32]:
    """A vector for each word."""
    return np.random.default_rng(seed).normal(size=(len(WORDS), WIDTH)).astype(np.float32)


def mean_of_words(text: str, seed: int) -> list[float]:
    """What the model of texts gives."""
    known = word_vectors(seed)
    rows = [known[WORDS.index(word) if word in WORDS else 1] for word in text.split()]
    return [float(value) for value in np.mean(rows, axis=0)]


def text_model(folder: Path, seed: int = 1, **declared: Any) -> Path:
    """A folder with a model of texts: the mean of a vector for each word."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", "tokens"])
    shape = ["rows", "tokens", WIDTH]
    answer = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
    words = numpy_helper.from_array(word_vectors(seed), "words")
    gather = helper.make_node("Gather", ["words", "input_ids"], ["last_hidden_state"])
    save(folder / "onnx/model.onnx", [gather], [ids, mask], answer, [words])
    declare(folder, {"task": "embedding", "input": "text", "dimensions": WIDTH, **declared})
    return folder


def picture_model(folder: Path, **declared: Any) -> Path:
    """A folder with a model of pictures: the mean of each colour, between 0 and 1."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = ["rows", COLOURS, SIDE, SIDE]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("colours", TensorProto.FLOAT, ["rows", COLOURS, 1, 1])
    node = helper.make_node("GlobalAveragePool", ["pixels"], ["colours"])
    save(folder / "model.onnx", [node], [pixels], answer, [])
    declare(folder, {"input": "picture", "dimensions": COLOURS, **declared})
    return folder


def picture(red: int, green: int, blue: int) -> bytes:
    """A PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (red, green, blue)).save(out, "PNG")
    return out.getvalue()


def save(path: Path, nodes: list[Any], inputs: list[Any], output: Any, weights: list[Any]) -> None:
    graph = helper.make_graph(nodes, "small", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def declare(folder: Path, declared: dict[str, Any]) -> None:
    """Writes a `model.toml`. Its values are written as JSON has them, which TOML shares here."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in declared.items()]
    (folder / "model.toml").write_text("".join(lines))


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
