"""Runs jobs of both built-in models, and says what share of the device's own speed they reach.

LAKEBED_BIN=… PYTHONPATH=tests python -m bench.gpu.run [--device cuda:0] [--rows N]

Exit codes: 0 when all ran, 1 when something is missing here, such as CUDA.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.gpu.ceiling import measure
from bench.gpu.utilisation import watched
from lakebed.models import Precision, RowError, load
from lakebed.models.model import Model, Prepared
from lakebed.models.onnx_session import DeviceMissing
from support.server import LakebedServer
from support.waiting import wait_until
from support.worker import CACHE, PICTURE_MODEL, TEXT_MODEL, Jobs, Worker

BAR = 0.85
STAMPS = CACHE / "data/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
RESULT = Path(__file__).parents[1] / "results/gpu.json"
# A few of these are in the memory of the device at a time, while it is measured.
CEILING_ROWS = 4_096
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
MODELS = {"text": TEXT_MODEL, "picture": PICTURE_MODEL}
JOB_S_MAX = 3_600.0


class Missing(Exception):
    """What is needed is not here."""


def texts(source: Path | None, count: int) -> list[str]:
    """Lines of a file, or of the captions of the pictures, over and over."""
    files = [source] if source is not None else sorted(STAMPS.rglob("*.txt"))
    lines = [
        line.strip()
        for file in files
        if file.is_file()
        for line in file.read_text("utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    if not lines:
        raise Missing("there are no texts; name a file by --texts")
    # Numbered, so that none is the same as another.
    return [f"{number}: {lines[number % len(lines)]}" for number in range(count)]


def pictures(source: Path | None, count: int) -> list[bytes]:
    """Files of a folder, over and over."""
    files = sorted(it for it in (source or STAMPS).rglob("*") if it.suffix.lower() in PICTURES)
    cells = [file.read_bytes() for file in files[:count]]
    if not cells:
        raise Missing("there are no pictures; name a folder by --pictures")
    return (cells * (1 + count // len(cells)))[:count]


def batches(kind: str, cells: list[Any]) -> pa.Table:
    """A table of one column."""
    if kind == "text":
        return pa.table({"cell": cells})
    blob = pa.field("cell", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    return pa.table([pa.array(cells, pa.large_binary())], schema=pa.schema([blob]))


def prepared(model: Model, cells: list[Any]) -> list[Prepared]:
    """Rows that can be decoded."""
    return [row for row in model.prepare(cells) if not isinstance(row, RowError)]


def one_model(
    server: LakebedServer, kind: str, cells: list[Any], options: argparse.Namespace
) -> dict[str, Any]:
    """A model's ceiling, then its jobs; what came of both."""
    name = MODELS[kind]
    model: Any = load(
        name, CACHE, options.device, options.threads, precision=Precision(options.precision)
    )
    device = model.device
    if device == "cpu" and options.device != "cpu":
        raise Missing("CUDA does not work here; --device cpu runs this small, on the processor")
    print(f"{name} on {device} in {model.precision.value}: the ceiling", flush=True)
    with watched(device) as of_ceiling:
        ceiling = measure(model, prepared(model, cells[:CEILING_ROWS]), options.seconds)
    # Its memory is the worker's from here on.
    precision, model.session = model.precision.value, None
    del model

    lake, jobs, table = server.lake(), Jobs(server), f"of_{kind}"
    lake.create(table, batches(kind, cells))
    lake.close()
    flags = ["--no-functions", "--device", device, "--precision", options.precision]
    if options.threads:
        flags += ["--threads", str(options.threads)]
    if options.processes > 1:
        flags += ["--processes", str(options.processes)]
    worker = Worker(server, f"bench-{kind}", slots=options.slots, arguments=flags).start()
    rates: list[float] = []
    try:
        jobs.wait_for_workers(options.processes)
        # The first job takes memory and chooses algorithms, and is not counted.
        for turn in range(1 + options.rounds):
            print(f"{name}: job {turn} of {options.rounds}", flush=True)
            with watched(device) as busy:
                begun = time.perf_counter()
                job = jobs.submit(table, "cell", "vector", name, recompute=True)
                ended = jobs.wait(job, JOB_S_MAX)
                passed = time.perf_counter() - begun
            if ended["job_state"] != "DONE":
                raise RuntimeError(f"the job ended otherwise: {ended}")
            if turn:
                rates.append(len(cells) / passed)
        lines = wait_until(
            lambda: [it for it in worker.log().splitlines() if job in it and "bottleneck" in it],
            "the worker's word on the job",
        )
    finally:
        worker.kill()
    rate = statistics.median(rates)
    return {
        "model": name,
        "device": busy.name or device,
        "precision": precision,
        "rows": len(cells),
        "bytes": sum(len(cell) for cell in cells),
        "rows_per_second": round(rate, 1),
        "ceiling_rows_per_second": round(ceiling.rows_per_second, 1),
        "ceiling_batch_factor": ceiling.factor,
        "ratio": round(rate / ceiling.rows_per_second, 4),
        "bar": BAR,
        "utilisation": busy.share,
        "ceiling_utilisation": of_ceiling.share,
        "memory_bytes": max(busy.memory, default=None),
        "said": [line.partition(" rows here in ")[2] for line in lines],
    }


def shown(found: dict[str, Any]) -> str:
    """A result for people."""
    busy = found["utilisation"]
    utilisation = "" if busy is None else f", GPU busy {busy:.0%}"
    lines = [
        f"{found['model']} on {found['device']} in {found['precision']}: "
        f"{found['ratio']:.2f} x the ceiling (bar {found['bar']})",
        f"  {found['rows']:,} rows, {found['rows_per_second']:,.0f} a second end to end, "
        f"{found['ceiling_rows_per_second']:,.0f} from the device's memory{utilisation}",
    ]
    return "\n".join([*lines, *(f"  worker: {said}" for said in found["said"])])


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(prog="bench.gpu.run", description=__doc__)
    made.add_argument("--device", default="cuda:0", help="cuda:N or cpu [default: %(default)s]")
    made.add_argument("--precision", default="auto", help="[default: %(default)s]")
    made.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    made.add_argument("--rows", type=int, default=500_000, help="of texts [default: %(default)s]")
    made.add_argument("--picture-rows", type=int, default=20_000, help="[default: %(default)s]")
    made.add_argument("--rounds", type=int, default=3, help="jobs that count [default: 3]")
    made.add_argument("--seconds", type=float, default=5.0, help="of a ceiling [default: 5]")
    made.add_argument("--processes", type=int, default=1, help="of the worker [default: 1]")
    made.add_argument("--threads", type=int, help="of the worker [default: all cores]")
    made.add_argument("--slots", type=int, default=3, help="of the worker [default: 3]")
    made.add_argument("--texts", type=Path, help="a file with a text a line")
    made.add_argument("--pictures", type=Path, help="a folder of pictures")
    made.add_argument("--out", type=Path, default=RESULT, help="[default: %(default)s]")
    return made


def main() -> int:
    """The exit code."""
    options = parser().parse_args()
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="lakebed-bench-") as folder:
            cells = {
                "text": lambda: texts(options.texts, options.rows),
                "picture": lambda: pictures(options.pictures, options.picture_rows),
            }
            server = LakebedServer(Path(folder) / "server").start()
            try:
                version = server.ready["version"]
                for kind in options.models:
                    results.append(one_model(server, kind, cells[kind](), options))
            finally:
                server.kill()
    except (Missing, DeviceMissing, ImportError) as error:
        print(f"bench.gpu.run: {error}", file=sys.stderr)
        return 1
    print()
    for found in results:
        print(shown(found))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"lakebed": version, "cores": os.cpu_count(), "results": results}
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
