"""The two built-in models, torch-free and offline once installed.

```text
  weights (an installed package)          cache folder
  ──► digest ──► graph written once ──► models/<name>-<digest>-r1.onnx ──► session ──► vectors
                 in float32 or half precision (-fp16)
```

A model is named, and its identity is the SHA-256 of its weights: two workers that announce the same
digest give the same vectors. The weights come from packages that are found without being imported,
because importing them would want torch. `registry.py` lists the models, `minilm.py` and
`efficientnet_lite0.py` write their graphs, `pictures.py` decodes, `onnx_session.py` runs.
"""

from lakebed.models.model import Input, Model, OutOfMemory, Precision, Prepared, RowError
from lakebed.models.registry import BUILT_IN, available, load

__all__ = [
    "BUILT_IN",
    "Input",
    "Model",
    "OutOfMemory",
    "Precision",
    "Prepared",
    "RowError",
    "available",
    "load",
]
