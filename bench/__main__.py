"""Runs the benchmarks, prints them, and writes results/latest.json, latest.png and curves.

python -m bench [--rounds N] [--table-mb N] [--only NAME [--only NAME]]

Each figure says of which benchmark it is, and which run it is from: figures of benchmarks that did
not run stay as they are.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench import (
    add_column,
    compaction,
    dispatch,
    do_get,
    do_put,
    embedding,
    importing,
    many_searches,
    minhash,
    remote_tables,
    resident,
    resident_rest,
    restart,
    search,
    sql,
    take,
    update_cells,
    upserts,
)
from bench.machine import describe_machine, describe_versions
from bench.picture import draw, draw_curve, draw_recall
from bench.rounds import Comparison, Curve, Measure, RecallCurves
from support.server import LakebedServer

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "do_put": do_put,
    "do_get": do_get,
    "take": take,
    "upserts": upserts,
    "add_column": add_column,
    "update_cells": update_cells,
    "compaction": compaction,
    "restart": restart,
    "sql": sql,
    "search": search,
    "remote_tables": remote_tables,
    "many_searches": many_searches,
    "dispatch": dispatch,
    "embedding": embedding,
    "importing": importing,
    "minhash": minhash,
    "resident": resident,
    "resident_rest": resident_rest,
}

Figure = Comparison | Measure | Curve | RecallCurves
KINDS = {
    "comparisons": Comparison,
    "measures": Measure,
    "curves": Curve,
    "recall_curves": RecallCurves,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (at least 5)")
    parser.add_argument("--table-mb", type=int, default=1_000, help="size of the tables, in MB")
    parser.add_argument(
        "--only", choices=BENCHMARKS, action="append", help="one benchmark; may be said again"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    if options.rounds < 5:
        parser.error("medians of fewer than 5 rounds say nothing")

    ran = options.only or list(BENCHMARKS)
    found: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="lakebed-bench-") as folder:
        server = LakebedServer(Path(folder) / "server").start()
        try:
            versions = describe_versions(server)
            for name in ran:
                found[name] = BENCHMARKS[name].run(
                    server, Path(folder), options.rounds, options.table_mb
                )
        finally:
            server.kill()

    machine = describe_machine()
    print(f"\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    for figures in found.values():
        for figure in figures:
            print(figure.line())
    options.out.mkdir(parents=True, exist_ok=True)
    run = {
        "machine": machine,
        "versions": versions,
        "rounds": options.rounds,
        "table_mb": options.table_mb,
    }
    path = options.out / "latest.json"
    before = json.loads(path.read_text()) if path.is_file() else {"runs": {}}
    report = reported(before, versions["commit"], run, found)
    path.write_text(json.dumps(report, indent=2) + "\n")
    draw(report, options.out / "latest.png")
    for curve in report["curves"]:
        draw_curve(curve, report, options.out / f"{curve['name'].replace(' ', '_')}.png")
    for curves in report["recall_curves"]:
        draw_recall(curves, report, options.out / f"{curves['name'].replace(' ', '_')}.png")
    print(f"written: {options.out / 'latest.json'}, {options.out / 'latest.png'}")


def reported(
    before: dict[str, Any], commit: str, run: dict[str, Any], found: dict[str, list[Figure]]
) -> dict[str, Any]:
    """The report before with the figures of the benchmarks that ran instead of their own there."""
    order = list(BENCHMARKS)
    kinds = {}
    for kind, of in KINDS.items():
        kept = [
            it
            for it in before.get(kind, [])
            if it["benchmark"] in order and it["benchmark"] not in found
        ]
        new = [
            {"benchmark": name, "run": commit, **figure.record()}
            for name, figures in found.items()
            for figure in figures
            if isinstance(figure, of)
        ]
        kinds[kind] = sorted(kept + new, key=lambda it: order.index(it["benchmark"]))
    named = {it["run"] for figures in kinds.values() for it in figures}
    runs = {name: it for name, it in {**before["runs"], commit: run}.items() if name in named}
    return {"runs": runs, **kinds}


if __name__ == "__main__":
    main()
