"""One picture of all ratios, and of what was measured without a peer."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

# Beyond this ratio a linear axis would hide the others.
LINEAR_MOST = 20.0


def draw(report: dict[str, Any], path: Path) -> None:
    """A bar for each ratio and a mark where it has to reach; measures with a bound below."""
    comparisons = report["comparisons"][::-1]
    measures = [it for it in report.get("measures", []) if it["most"] is not None]
    height = 1.2 + 0.6 * len(comparisons) + 0.17 * len(measures)
    figure, axes = plt.subplots(figsize=(9, height))
    for row, comparison in enumerate(comparisons):
        bar, ratio = comparison["bar"], comparison["ratio"]
        good = bar is None or ratio >= bar
        axes.barh(row, ratio, height=0.6, color="#3b7ea1" if good else "#c4820e")
        axes.text(ratio, row, f" {ratio:.2f} x", va="center")
        if bar is not None:
            axes.plot([bar, bar], [row - 0.4, row + 0.4], color="black", linewidth=2)
    labels = [f"{comparison['name']}\nagainst {comparison['peer']}" for comparison in comparisons]
    axes.set_yticks(range(len(comparisons)), labels)
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    most = max([1.0, *(comparison["ratio"] for comparison in comparisons)])
    if most > LINEAR_MOST:
        axes.set_xscale("log")
        axes.set_xlim(0.1, most * 4)
    else:
        axes.set_xlim(0, most * 1.2)
    label = "times the peer's speed; black: the bar to reach"
    axes.set_xlabel("\n".join([label, *map(line_of, measures)]), fontsize=8)
    machine, versions = report["machine"], report["versions"]
    axes.set_title(
        f"Lakebed {versions['lakebed']} ({versions['commit']}), pyarrow {versions['pyarrow']}, "
        f"pylance {versions['pylance']}\n{machine['cpu']}, {machine['cores']} cores; "
        f"medians of {report['rounds']} rounds",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def line_of(measure: dict[str, Any]) -> str:
    """A measure with a bound, in words."""
    value = f"{measure['value']:,.4g} {measure['unit']}"
    return f"{measure['name']}: {value}, at most {measure['most']:,g}"
