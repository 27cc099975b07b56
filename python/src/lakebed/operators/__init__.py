"""Operators that every data team needs, as functions on the machinery of functions and models.

```text
  minhash, image_statistics, image_tags     for `db.create_function` of LanceDB's client
  compute                                   a column by any such function, in one call
  text_embedding, image_embedding           a column by a built-in model, in one call
  near_duplicates                           signatures by workers, then clusters by the server
```

What workers run travels by its source, with pinned packages, so the same function gives the same
values wherever it runs. It needs `lancedb` and `numpy` (`lakebed[operators]`).
"""

from lakebed.operators.compute import compute
from lakebed.operators.duplicates import NearDuplicates, near_duplicates
from lakebed.operators.embeddings import image_embedding, text_embedding
from lakebed.operators.signatures import minhash
from lakebed.operators.statistics import image_statistics
from lakebed.operators.tags import tagging as image_tags

__all__ = [
    "NearDuplicates",
    "compute",
    "image_embedding",
    "image_statistics",
    "image_tags",
    "minhash",
    "near_duplicates",
    "text_embedding",
]
