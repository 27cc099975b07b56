"""A small builder over `onnx.helper`: nodes are added as they are called, weights as they come.

A graph in half precision has its weights and numbers stored as float16. Where sums are long or
squares are taken, the network goes back to float32 by `wide`; its output always is float32.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lakebed.models.model import Precision
from lakebed.models.onnx_session import IR_VERSION, OPSET

if TYPE_CHECKING:
    import onnx


class Graph:
    """A graph in the making. Every method that adds a node returns the name of its output."""

    def __init__(self, name: str, precision: Precision = Precision.FP32) -> None:
        self._name = name
        self.is_half = precision is Precision.FP16
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._inputs: list[Any] = []

    def input(self, name: str, kind: npt.DTypeLike, shape: list[int | str]) -> str:
        """Declares an input."""
        from onnx import helper

        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self._inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        """Adds a constant, of real numbers in the graph's own precision; the same name again is
        the same constant."""
        half = self.is_half and np.issubdtype(value.dtype, np.floating)
        return self._constant(name, value.astype(np.float16) if half else value)

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def number(self, value: float) -> str:
        """A scalar in the graph's own precision."""
        return self.weight(f"real_{value!r}", np.array(value, np.float32))

    def wide_number(self, value: float) -> str:
        """A float32 scalar, to be used with what `wide` gives."""
        return self._constant(f"f32_{value!r}", np.array(value, np.float32))

    def real(self, value: str) -> str:
        """Something as numbers of the graph's own precision."""
        from onnx import TensorProto

        return self.node(
            "Cast", value, to=TensorProto.FLOAT16 if self.is_half else TensorProto.FLOAT
        )

    def wide(self, value: str) -> str:
        """Numbers of the graph's own precision as float32."""
        from onnx import TensorProto

        return self.node("Cast", value, to=TensorProto.FLOAT) if self.is_half else value

    def numbers(self, *values: int) -> str:
        """An int64 list, as shapes and axes are given."""
        return self.weight(f"i64_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def node(self, operator: str, *inputs: str, output: str | None = None, **fields: Any) -> str:
        """Adds a node."""
        from onnx import helper

        name = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **fields))
        return name

    def build(self, output: str, shape: list[int | str]) -> "onnx.ModelProto":
        """The model with `output` as its one output, checked."""
        import onnx
        from onnx import helper

        answer = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, [answer], list(self._weights.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model
