"""One picture of all ratios."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt


def draw(report: dict[str, Any], path: Path) -> None:
    """A bar for each ratio and a mark where it has to reach."""
    comparisons = report["comparisons"][::-1]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(comparisons)))
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
    axes.set_xlim(0, max([1.0, *(comparison["ratio"] for comparison in comparisons)]) * 1.2)
    axes.set_xlabel("times the peer's speed; black: the bar to reach")
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
