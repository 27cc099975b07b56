"""What a model is to the worker: rows in, prepared rows, vectors out.

Decoding and computing are two steps so that they can run in different threads: `prepare` turns the
raw cell into numbers of bounded size, `compute` runs the network over many of them at once.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Input(enum.Enum):
    """What a model reads."""

    TEXT = "text"
    PICTURE = "picture"


class Precision(enum.Enum):
    """The numbers in which a network computes. What goes in and comes out is the same in all."""

    # Half precision on a GPU, float32 on a CPU, which has no instructions for less.
    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"

    def on(self, device: str) -> "Precision":
        """What it is on a device: `FP32` or `FP16`."""
        if self is not Precision.AUTO:
            return self
        return Precision.FP32 if device == "cpu" else Precision.FP16


class OutOfMemory(Exception):
    """A batch does not fit into the memory of the device; a smaller one may."""


class RowError(Exception):
    """One row has no vector; the message says why, without the row's contents."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One row, ready to be computed."""

    value: Any
    # Memory that it holds, for queues that are bounded by bytes.
    nbytes: int
    # Rows of like cost are computed together: the number of tokens of a text, 1 for a picture.
    cost: int


class Model(Protocol):
    """A loaded model. All its methods may be called from several threads at once."""

    name: str
    # "sha256:" and the digest of its weights in hexadecimal digits.
    digest: str
    dimensions: int
    input: Input
    # One call of `compute` is fastest with so many rows, or with so many that their number times
    # the cost of the dearest, to which all are padded, is this cost; whichever is less.
    batch_rows: int
    batch_cost: int
    # Where it runs: "cpu" or "cuda:0".
    device: str
    # In which numbers it computes: `FP32` or `FP16`.
    precision: Precision
    # Calls of `compute` at once with which it is fastest.
    lanes: int

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        """Decodes cells. A cell that cannot be decoded gives its error and harms no other."""
        ...

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """The vectors of prepared rows, in their order.

        Raises:
            OutOfMemory: they are too many for the memory of the device.
        """
        ...
