"""A registered model of pictures: an ONNX graph over the pixels of squares.

Its one input is `[rows, 3, side, side]` or `[rows, side, side, 3]`. Of bytes it gets the pixels as
they are; of floats red, green and blue between 0 and 1, less `mean` and divided by `std`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lakebed.models.model import Input, Precision, Prepared, RowError, Vectors
from lakebed.models.onnx_session import open_session
from lakebed.models.onnx_text import finished
from lakebed.models.pictures import SIDE, decode_picture
from lakebed.models.registered import Described, ModelFailed

COLOURS = 3
KINDS: dict[str, Any] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class OnnxPicture:
    """The loaded model; see `lakebed.models.model.Model`."""

    def __init__(
        self, described: Described, folder: Path, device: str, threads: int | None
    ) -> None:
        settings = described.settings
        self.name = described.name
        self.digest = described.digest
        self.dimensions = described.dimensions
        self.input = Input.PICTURE
        self._normalize = bool(settings.get("normalize", False))
        self._mean = np.array(settings.get("mean", [0.0] * COLOURS), np.float32)
        self._std = np.array(settings.get("std", [1.0] * COLOURS), np.float32)
        graph = folder / settings["graph"]
        # In the numbers that it was registered with.
        self.session = open_session(lambda _: graph, device, threads, Precision.FP32)
        self.device, self.lanes = self.session.device, self.session.lanes
        self.precision = self.session.precision
        runtime = self.session.runtime
        inputs, outputs = runtime.get_inputs(), runtime.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in KINDS:
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise ModelFailed(f"model {described} takes {found}; one input of pixels is understood")
        [pixels] = inputs
        self._pixels, self._kind = pixels.name, KINDS[pixels.type]
        # Where both may be meant, colours come first: that is how most are exported.
        self._colours_last = pixels.shape[1] != COLOURS and pixels.shape[3] == COLOURS
        fixed = pixels.shape[1] if self._colours_last else pixels.shape[2]
        self._side = int(settings.get("side") or (fixed if isinstance(fixed, int) else SIDE))
        self._output = settings.get("output") or outputs[0].name
        if self._output not in {each.name for each in outputs}:
            raise ModelFailed(f"model {described} has no output `{self._output}`")
        self.batch_rows = 128 if self.device.startswith("cuda") else 4
        # All pictures cost 1.
        self.batch_cost = self.batch_rows

    def check(self) -> None:
        """Computes one vector.

        Raises:
            ModelFailed: it is not as declared.
        """
        pixels = np.zeros((self._side, self._side, COLOURS), np.uint8)
        self.compute([Prepared(pixels, pixels.nbytes, 1)])

    def prepare(self, cells: Sequence[str | bytes]) -> list[Prepared | RowError]:
        """Decodes pictures one after the other; several threads may do so at once."""
        ready: list[Prepared | RowError] = []
        for cell in cells:
            try:
                data = cell if isinstance(cell, bytes) else cell.encode()
                pixels = decode_picture(data, self._side)
                ready.append(Prepared(pixels, pixels.nbytes, 1))
            except RowError as error:
                ready.append(error)
        return ready

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """Vectors of decoded pictures."""
        pixels = np.stack([row.value for row in rows])
        if self._kind is not np.uint8:
            scaled = pixels.astype(np.float32) / np.float32(255)
            pixels = ((scaled - self._mean) / self._std).astype(self._kind)
        if not self._colours_last:
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        vectors = self.session.run({self._pixels: pixels}, self._output)
        return finished(
            vectors.reshape(len(rows), -1),
            rows=len(rows),
            dimensions=self.dimensions,
            normalize=self._normalize,
        )
