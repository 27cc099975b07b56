"""The benchmark of a GPU, run small on a processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from bench.gpu.ceiling import batches
from lakebed.models import load
from support.server import built_binary
from support.worker import CACHE, TEXT_MODEL

ROOT = Path(__file__).parents[1]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.gpu.run", *words],
        cwd=ROOT,
        env={
            **os.environ,
            "LAKEBED_BIN": str(built_binary()),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_both_models_small(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run(
        *("--device", "cpu", "--rows", "80", "--picture-rows", "16", "--rounds", "1"),
        *("--seconds", "0.1", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    text, picture = json.loads(out.read_text())["results"]
    assert (text["rows"], picture["rows"]) == (80, 16)
    for found in (text, picture):
        assert (found["device"], found["precision"]) == ("cpu", "fp32")
        assert 0 < found["rows_per_second"] < found["ceiling_rows_per_second"] * 2
        assert found["utilisation"] is None
        assert "bottleneck: " in found["said"][-1]
        assert f"{found['model']} on cpu in fp32" in done.stdout


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here"
)
def test_without_cuda_it_says_so() -> None:
    done = run("--rows", "10")
    assert done.returncode == 1
    assert "cuda:0" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ceiling_has_all_rows_in_batches_of_its_size() -> None:
    model = load(TEXT_MODEL, CACHE, "cpu", 1)
    rows = model.prepare([f"text number {n}" + " and more" * (n % 9) for n in range(100)])
    for factor in (0.5, 2.0):
        made = batches(rows, model, factor)
        assert sum(map(len, made)) == 100
        assert max(map(len, made)) == model.batch_rows * factor
