"""A registered model of texts: `tokenizer.json` and an ONNX graph, as transformers are exported.

The graph takes `input_ids`, and `attention_mask` and `token_type_ids` where it has them. It gives a
vector for each text, or one for each token, which `pooling` makes one of.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lakebed.models.model import Input, Precision, Prepared, RowError, Vectors
from lakebed.models.onnx_session import open_session
from lakebed.models.registered import Described, ModelFailed

TOKENS_MAX_DEFAULT = 512
# Before a text is split into tokens; see `minilm.py`.
CHARACTERS_A_TOKEN = 512
# Tokens of a batch on a GPU.
CUDA_TOKENS = 32_768
KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class OnnxText:
    """The loaded model; see `lakebed.models.model.Model`."""

    def __init__(
        self, described: Described, folder: Path, device: str, threads: int | None
    ) -> None:
        from tokenizers import Tokenizer

        settings = described.settings
        self.name = described.name
        self.digest = described.digest
        self.dimensions = described.dimensions
        self.input = Input.TEXT
        self._pooling = settings.get("pooling", "mean")
        self._normalize = bool(settings.get("normalize", False))
        graph = folder / settings["graph"]
        # In the numbers that it was registered with.
        self.session = open_session(lambda _: graph, device, threads, Precision.FP32)
        self.device, self.lanes = self.session.device, self.session.lanes
        self.precision = self.session.precision
        runtime = self.session.runtime
        self._inputs = {each.name for each in runtime.get_inputs()}
        if "input_ids" not in self._inputs or not self._inputs <= KNOWN_INPUTS:
            found = ", ".join(sorted(self._inputs))
            known = ", ".join(sorted(KNOWN_INPUTS))
            raise ModelFailed(f"model {described} takes {found}; of {known} it may take some")
        outputs = [each.name for each in runtime.get_outputs()]
        self._output = settings.get("output") or outputs[0]
        if self._output not in outputs:
            raise ModelFailed(f"model {described} has no output `{self._output}`")
        self._tokenizer: Any = Tokenizer.from_file(str(folder / settings["tokenizer"]))
        padding, truncation = self._tokenizer.padding, self._tokenizer.truncation
        self._padding = int(padding["pad_id"]) if padding else 0
        own = int(truncation["max_length"]) if truncation else TOKENS_MAX_DEFAULT
        tokens_max = int(settings.get("tokens_max", own))
        self._characters_max = tokens_max * CHARACTERS_A_TOKEN
        self.batch_rows, self.batch_cost = 16, 16 * tokens_max
        if self.device.startswith("cuda"):
            self.batch_rows, self.batch_cost = 512, CUDA_TOKENS
        # Rows are padded to the longest of their batch in `compute`.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(tokens_max)

    def check(self) -> None:
        """Computes one vector.

        Raises:
            ModelFailed: it is not as declared.
        """
        [row] = self.prepare(["a"])
        assert isinstance(row, Prepared)
        self.compute([row])

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
            texts.append(text[: self._characters_max])
            places.append(place)
        for place, encoding in zip(places, self._tokenizer.encode_batch_fast(texts), strict=True):
            # A graph wants one token at least; an empty text may have none.
            tokens = np.array(encoding.ids or [self._padding], np.int32)
            kinds = np.array(encoding.type_ids or [0], np.int32)
            ready[place] = Prepared((tokens, kinds), 2 * tokens.nbytes, len(tokens))
        return [row for row in ready if row is not None]

    def compute(self, rows: Sequence[Prepared]) -> Vectors:
        """Vectors of texts. Costs what the longest of them costs for each."""
        longest = max(row.cost for row in rows)
        ids = np.full((len(rows), longest), self._padding, np.int64)
        kinds = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for at, row in enumerate(rows):
            tokens, types = row.value
            ids[at, : row.cost] = tokens
            kinds[at, : row.cost] = types
            mask[at, : row.cost] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        found = self.session.run({name: given[name] for name in self._inputs}, self._output)
        return finished(
            self._pooled(found, mask),
            rows=len(rows),
            dimensions=self.dimensions,
            normalize=self._normalize,
        )

    def _pooled(
        self, found: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        if found.ndim != 3:
            return found
        if self._pooling == "cls":
            return found[:, 0]
        weights = mask[:, :, None].astype(np.float32)
        total = (found * weights).sum(axis=1)
        return np.asarray(total / np.maximum(weights.sum(axis=1), 1e-9), np.float32)


def finished(
    vectors: npt.NDArray[np.float32], *, rows: int, dimensions: int, normalize: bool
) -> Vectors:
    """Vectors as they were declared.

    Raises:
        ModelFailed: they are others.
    """
    if vectors.shape != (rows, dimensions):
        shape = " x ".join(map(str, vectors.shape))
        raise ModelFailed(f"the graph gives {shape} numbers for {rows} rows of {dimensions}")
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, 1e-12)
    return np.asarray(vectors, np.float32)
