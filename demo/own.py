"""What users bring along: a function that fills a column, and a model of their own."""

import time
from pathlib import Path
from typing import Annotated, Any

import lancedb
import onnx
import pyarrow as pa
from lancedb import udf
from onnx import TensorProto, helper

SIDE = 4
"""The model of colours sees a picture as so many squares on a side."""


@udf
def words(caption: str) -> Annotated[int, pa.int64()]:
    """How many words a caption has."""
    return len(caption.split())


def register(url: str) -> None:
    """Registers the function, with LanceDB's own client."""
    lancedb.connect("db://default", api_key="anonymous", host_override=url).create_function(words)


def colours(folder: Path) -> Path:
    """A model of pictures as anybody may have one: an ONNX graph and what has to be known of it."""
    folder.mkdir(exist_ok=True)
    squares = SIDE * SIDE * 3
    shape = ["rows", 3, SIDE, SIDE]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["rows", squares])
    node = helper.make_node("Flatten", ["pixels"], ["vector"])
    graph = helper.make_graph([node], "colours", [pixels], [vector])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    told = f'task = "embedding"\ninput = "picture"\ndimensions = {squares}\n'
    (folder / "model.toml").write_text(told)
    return folder


def wait_for(db: Any, query: str, seconds: float = 60.0) -> float:
    """Waits until a query has a row; how long that took."""
    began = time.monotonic()
    while not db.sql(query).to_list():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"nothing came for {seconds:.0f} s: {query}")
        time.sleep(0.05)
    return time.monotonic() - began
