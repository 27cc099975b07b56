"""What a model does in a second when nothing but the device is in its way."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lakebed.models.model import Model, Prepared
from lakebed.worker.batches import cut

# More of a batch than the model takes by itself, and less: the best counts.
FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Ceiling:
    """Rows a second, and the size of batches that gave them, over the model's own."""

    rows_per_second: float
    factor: float


def batches(rows: list[Prepared], model: Model, factor: float) -> list[list[Prepared]]:
    """Rows sorted by cost, in batches as the worker cuts them, but for their size."""
    ordered = sorted(rows, key=lambda row: row.cost)
    costs = [row.cost for row in ordered]
    rows_max = max(1, int(model.batch_rows * factor))
    cost_max = max(1, int(model.batch_cost * factor))
    return [ordered[part] for part in cut(costs, rows_max, cost_max)]


def bound(model: Any, rows: list[Prepared]) -> Any:
    """A batch whose inputs lie on the device, and whose output stays there."""
    import onnxruntime

    kind, _, index = model.device.partition(":")
    binding = model.session.runtime.io_binding()
    for name, tensor in model.tensors(rows).items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(tensor, kind, int(index or 0))
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("embedding", kind, int(index or 0))
    return binding


def measure(model: Any, rows: list[Prepared], seconds: float) -> Ceiling:
    """The best of some sizes of batches, each run over all rows again and again."""
    best = Ceiling(0.0, 0.0)
    for factor in FACTORS:
        bindings = [bound(model, batch) for batch in batches(rows, model, factor)]

        def run(binding: Any) -> None:
            model.session.runtime.run_with_iobinding(binding)
            binding.synchronize_outputs()

        with ThreadPoolExecutor(model.lanes) as pool:
            # Memory is taken and algorithms are chosen at the first look at each shape.
            list(pool.map(run, bindings))
            done, begun = 0, time.perf_counter()
            while (passed := time.perf_counter() - begun) < seconds or not done:
                list(pool.map(run, bindings))
                done += len(rows)
            passed = time.perf_counter() - begun
        best = max(best, Ceiling(done / passed, factor), key=lambda it: it.rows_per_second)
    return best
