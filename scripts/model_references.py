#!/usr/bin/env python3
"""Computes the reference vectors of the built-in models by torch, into tests/golden.

    scripts/model_references.py TEXT_MODEL_FOLDER PICTURE_WEIGHTS_FILE

Run once, in an environment with torch, transformers and efficientnet-lite-pytorch, which the tests
do not need: they compare with what it wrote. The committed file was made with torch 1.13 and
transformers 4.36 on a CPU.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def texts_by_torch(folder: Path, texts: list[str]) -> Any:
    """Mean over the tokens of the last layer, of length 1."""
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            given = tokenizer([text], truncation=True, max_length=128, return_tensors="pt")
            hidden = model(**given).last_hidden_state
            mask = given["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            rows.append(torch.nn.functional.normalize(mean, dim=1)[0].numpy())
    return np.stack(rows)


def pictures_by_torch(weights: Path, pixels: Any) -> Any:
    """Mean over the places of the last convolution, of length 1."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights))
    model.eval()
    given = torch.from_numpy((pixels.astype(np.float32) - 127.0) / 128.0).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = model.extract_features(given).mean((2, 3))
        return torch.nn.functional.normalize(features, dim=1).numpy()


def main(text_folder: Path, picture_weights: Path) -> None:
    """Writes the file."""
    from support.model_inputs import TEXTS, pixels

    vectors = {
        "all-MiniLM-L6-v2": texts_by_torch(text_folder, TEXTS),
        "efficientnet-lite0": pictures_by_torch(picture_weights, pixels()),
    }
    written = {
        name: {
            "shape": list(rows.shape),
            "float32": base64.b64encode(rows.astype("<f4").tobytes()).decode(),
        }
        for name, rows in vectors.items()
    }
    target = ROOT / "tests/golden/model_vectors.json"
    target.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
