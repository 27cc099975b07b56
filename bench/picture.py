"""One picture of all ratios, and of what was measured without a peer."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

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
    versions = list(report["runs"].values())[-1]["versions"]
    axes.set_title(
        f"{server_of(report, report['comparisons'])}\n"
        f"pyarrow {versions['pyarrow']}, pylance {versions['pylance']}; medians",
        fontsize=9,
    )
    save(figure, path)


def draw_curve(curve: dict[str, Any], report: dict[str, Any], path: Path) -> None:
    """Answers a second on the left, median and 99th percentile on the right, by the load."""
    figure, (rates, times) = plt.subplots(1, 2, figsize=(10, 4))
    points = curve["points"]
    colors = ["#3b7ea1", "#c4820e", "#7a7a7a"]
    for side, color in zip(dict.fromkeys(it["side"] for it in points), colors, strict=False):
        mine = [it for it in points if it["side"] == side]
        loads = [it["load"] for it in mine]
        rates.plot(loads, [it["per_second"] for it in mine], "o-", color=color, label=side)
        times.plot(loads, [it["p50_ms"] for it in mine], "o-", color=color, label=f"{side}, p50")
        times.plot(loads, [it["p99_ms"] for it in mine], "o--", color=color, label=f"{side}, p99")
    for axes in (rates, times):
        axes.set_xscale("log", base=2)
        loads = sorted({it["load"] for it in points})
        axes.set_xticks(loads, [str(load) for load in loads])
        axes.set_xlabel(curve["load"])
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    rates.set_ylim(bottom=0)
    rates.set_ylabel("answers a second")
    times.set_yscale("log")
    times.set_ylabel("milliseconds")
    measured = server_of(report, [curve])
    figure.suptitle(f"{curve['what']}\n{measured}", fontsize=8)
    save(figure, path)


def draw_recall(curves: dict[str, Any], report: dict[str, Any], path: Path) -> None:
    """A panel for each data set: what is found to the right, queries a second upwards. The axis of
    recall is stretched towards 1, where the differences are."""
    names = list(dict.fromkeys(it["data"] for it in curves["sides"]))
    figure, panels = plt.subplots(1, len(names), figsize=(6 * len(names), 4.5), squeeze=False)
    looks = zip(["#3b7ea1", "#c4820e", "#5a8f4e", "#8c6bb1", "#7a7a7a"], "os^Dv", strict=True)
    sides = dict.fromkeys(it["side"] for it in curves["sides"])
    styles = {
        side: {"color": color, "marker": marker}
        for side, (color, marker) in zip(sides, looks, strict=False)
    }
    for axes, name in zip(panels[0], names, strict=True):
        for side in (it for it in curves["sides"] if it["data"] == name):
            # The best points only: of lance there are two ways to refine.
            best: list[dict[str, Any]] = []
            for point in sorted(side["points"], key=lambda it: it["recall"], reverse=True):
                if not best or point["per_second"] > best[-1]["per_second"]:
                    best.append(point)
            axes.plot(
                [1 - it["recall"] for it in best],
                [it["per_second"] for it in best],
                label=f"{side['side']}, {side['bytes'] / 1e6:,.0f} MB",
                linewidth=2 if side["side"] == curves["sides"][0]["side"] else 1,
                markersize=4,
                **styles[side["side"]],
            )
        axes.set_yscale("log")
        axes.set_xscale("log")
        axes.set_xlim(0.16, 0.0008)
        ticks = [0.85, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999]
        axes.set_xticks([1 - tick for tick in ticks], [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.axvline(0.05, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlabel("recall@10")
        axes.set_ylabel("queries a second")
        axes.set_title(name, fontsize=9)
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(fontsize=7)
    measured = server_of(report, [curves])
    figure.suptitle(f"{curves['what']}\n{measured}", fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Also forgets the figure, which matplotlib would keep."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def server_of(report: dict[str, Any], figures: list[dict[str, Any]]) -> str:
    """What was measured, and where: of all runs that figures are from."""
    said = {}
    for name in dict.fromkeys(figure["run"] for figure in figures):
        run = report["runs"][name]
        machine = run["machine"]
        where = f"{machine['cpu']}, {machine['cores']} cores"
        said.setdefault(f"Lakebed {run['versions']['lakebed']}, {where}", []).append(name)
    return "; ".join(f"{what} ({', '.join(names)})" for what, names in said.items())


def line_of(measure: dict[str, Any]) -> str:
    """A measure with a bound, in words."""
    value = f"{measure['value']:,.4g} {measure['unit']}"
    return f"{measure['name']}: {value}, at most {measure['most']:,g}"
