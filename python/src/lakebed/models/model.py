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
    # Rows of one call of `compute` at which it is fastest.
    batch_rows: int
    # Where it runs: "cpu" or "cuda:0".
    device: str
    # Calls of `compute` at once with which it is fastest.
    lanes: int

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        """Decodes cells. A cell that cannot be decoded gives its error and harms no other."""
        ...

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """The vectors of prepared rows, in their order."""
        ...
