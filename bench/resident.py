"""The resident vector index in process, on one thread: its rate by recall, its memory, its filters.

Beside it hnswlib, faiss, usearch and pylance's IVF_HNSW_SQ with the same options, on the same
vectors, each in a process of its own (`bench.contestants`). What each effort finds is counted once;
then all sides search at each of their efforts in turn, round by round, and rates are compared at
equal recall.
"""

import bisect
import contextlib
import math
import statistics
from pathlib import Path

from bench import vectors
from bench.contestants import OURS, PEERS, Contestant, Effort
from bench.rounds import Comparison, Filtered, Measure, RecallCurves, Sweep, measure
from bench.vectors import Among, K, Vectors
from support.server import LakebedServer

QUERIES = 500
# What is measured takes at least so long.
PASS_S = 0.2
EFFORTS = [10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280]
# Efforts that find less are not of interest; nor those beyond the first that finds so much, or
# hardly more than the one two before (the least ones may come to the same).
LEAST_RECALL, MOST_RECALL, LEAST_GAIN = 0.85, 0.993, 0.002
RECALL = 0.95
LEVELS = [0.95, 0.97, 0.99]
BARS = {"hnswlib": 0.6, "pylance": 6.0}
MEMORY_BAR = 0.5
BY_CHANCE = [Among(share) for share in [0.5, 0.1, 0.01, 0.001, 0.0001]]
MIDDLE = Among(0.01)
BY_PLACE = [Among(share, by) for share in [0.5, 0.1, 0.01] for by in ["near", "far"]]
FILTERED_BAR = 0.5

Figures = list[Comparison | Measure | RecallCurves]


def run(_server: LakebedServer, folder: Path, rounds: int, table_mb: int) -> Figures:
    """Both data sets, one after the other."""
    figures: Figures = []
    sweeps: list[Sweep] = []
    shares: list[Filtered] = []
    for data in vectors.load(table_mb):
        with contextlib.ExitStack() as open_sides:
            sides = []
            for kind in [OURS, *PEERS]:
                side = Contestant(kind, data, QUERIES, folder / "resident")
                open_sides.callback(side.close)
                side.build()
                sides.append(side)
            swept = sweep(sides, rounds)
            sweeps += swept
            figures += compared(data, swept)
            figures += weighed(data, sides)
            found, beside = filtered(data, sides, swept, rounds)
            shares += found
            figures += beside
            figures.append(filtered_by_place(data, sides[0], effort_of(swept[0])))
    what = f"{K} rows each, one thread, {QUERIES} queries, medians of {rounds} rounds"
    curves = RecallCurves("recall against rate", what, sweeps, shares)
    print(curves.line(), flush=True)
    return [*figures, curves]


def sweep(sides: list[Contestant], rounds: int) -> list[Sweep]:
    """The efforts of each side that are of interest, with what they find, and the rates of rounds
    in which each side begins in its turn."""
    points = [efforts_of(side) for side in sides]
    rates: list[list[list[float]]] = [[[] for _ in efforts] for efforts in points]
    both = list(zip(sides, points, rates, strict=True))
    for number in range(rounds):
        turn = number % len(both)
        for side, efforts, of_side in both[turn:] + both[:turn]:
            for effort, of_effort in zip(efforts, of_side, strict=True):
                of_effort.append(steady_rate(side, effort))
    swept = []
    for side, efforts, of_side in both:
        side.keep()
        took = "before" if side.build_seconds is None else f"in {side.build_seconds:.0f} s"
        print(
            f"{side.data.what}: {side.title}, built {took}, "
            f"grown by {side.grown_bytes / 1e6:,.0f} MB",
            flush=True,
        )
        swept.append(
            Sweep(
                side.title,
                side.data.what,
                side.build_seconds,
                side.bytes or side.grown_bytes,
                list(efforts),
                list(efforts.values()),
                of_side,
            )
        )
    return swept


def steady_rate(
    side: Contestant, effort: Effort, among: Among | None = None, *, exact: bool = False
) -> float:
    """Queries a second over as many passes as fill some time."""
    queries, seconds = 0, 0.0
    while seconds < PASS_S:
        found = side.search(effort, among, exact=exact)
        queries, seconds = queries + len(found.ids), seconds + found.seconds
    return queries / seconds


def efforts_of(side: Contestant) -> dict[Effort, float]:
    """Efforts and their recall: of each way to refine those from LEAST_RECALL to MOST_RECALL."""
    exact = side.data.nearest()
    found: dict[Effort, float] = {}
    rates: dict[Effort, float] = {}
    for refine in [1, 2] if side.kind == "pylance" else [1]:
        recalls = [0.0, 0.0]
        for ef in EFFORTS:
            effort = Effort(ef, refine)
            if ef < K * refine:
                continue
            answer = side.search(effort)
            found[effort] = side.data.recall(answer.ids, exact)
            rates[effort] = answer.rate
            recalls.append(found[effort])
            if recalls[-1] >= MOST_RECALL or recalls[-1] - recalls[-3] < LEAST_GAIN:
                break
    most = max(found.values())
    return {
        effort: recall
        for effort, recall in found.items()
        if recall >= min(LEAST_RECALL, most)
        # Twice as fast with a better answer: not of interest, however much the rates waver.
        and not any(found[it] >= recall and rates[it] > 2 * rates[effort] for it in found)
    }


def rate_at(wanted: float, recalls: list[float], rates: list[float]) -> float | None:
    """Queries a second at a recall, between the two nearest of the best points, straight in the
    logarithms of the rate and of what is missed. None where no point finds so much."""
    best: list[tuple[float, float]] = []
    for recall, rate in sorted(zip(recalls, rates, strict=True), reverse=True):
        if not best or rate > best[-1][1]:
            best.append((recall, rate))
    best.reverse()
    above = bisect.bisect_left([recall for recall, _ in best], wanted)
    if above == len(best):
        return None
    if above == 0 or best[above][0] == wanted:
        return best[above][1]
    (low, fast), (high, slow) = best[above - 1], best[above]
    missed = [math.log(max(1 - recall, 1e-6)) for recall in (low, high, wanted)]
    part = (missed[2] - missed[0]) / (missed[1] - missed[0])
    return math.exp(math.log(fast) + part * (math.log(slow) - math.log(fast)))


def compared(data: Vectors, swept: list[Sweep]) -> list[Comparison]:
    """Seconds for a thousand queries at equal recall, round by round."""
    result = []
    ours, *peers = swept
    for kind, peer in zip(PEERS, peers, strict=True):
        # Where there is no bar the curves say the rest.
        for level in LEVELS if kind in BARS else [RECALL]:
            sides = []
            for side in (ours, peer):
                by_round = [list(rates) for rates in zip(*side.rates, strict=True)]
                rates = [rate_at(level, side.recalls, it) for it in by_round]
                sides.append([1_000 / rate for rate in rates if rate is not None])
            if not all(sides):
                lacking = ours.side if not sides[0] else peer.side
                print(f"{data.what}: {lacking} does not reach a recall of {level}", flush=True)
                assert sides[0] or level > RECALL, "the resident index finds too little"
                continue
            result.append(
                Comparison(
                    f"{data.title}, recall {level}",
                    peer.side,
                    f"1,000 queries at equal recall of {data.what}; one thread",
                    BARS.get(kind),
                    sides[0],
                    sides[1],
                )
            )
            print(result[-1].line(), flush=True)
    return result


def weighed(data: Vectors, sides: list[Contestant]) -> list[Measure]:
    """Memory of the index over hnswlib's: what Lakebed says, and what its process has grown by."""
    ours = sides[0]
    theirs = next(side for side in sides if side.kind == "hnswlib").grown_bytes
    raw = data.rows * data.width * 4
    what = f"of {data.what}; hnswlib {theirs / 1e6:,.0f} MB, the floats {raw / 1e6:,.0f} MB"
    return [
        measure(
            f"{data.title}, memory{how}",
            f"{number / 1e6:,.0f} MB {what}",
            "x hnswlib's",
            MEMORY_BAR,
            [number / theirs],
        )
        for how, number in [("", ours.bytes), (" of the process", ours.grown_bytes)]
    ]


def filtered(
    data: Vectors, sides: list[Contestant], swept: list[Sweep], rounds: int
) -> tuple[list[Filtered], list[Comparison | Measure]]:
    """Searches among a share of the rows, at the effort that reaches the recall without a filter.
    faiss also compares everything that passes. Only what has a bar is measured in all rounds."""
    searchers = {}
    for side, result in zip(sides, swept, strict=True):
        if side.kind in {OURS, "faiss", "pylance"}:
            searchers[side.title] = (side, effort_of(result), False)
        if side.kind == "faiss":
            searchers[f"{side.title} flat"] = (side, Effort(K), True)
    seconds: dict[tuple[str, Among | None], list[float]] = {}
    recalls: dict[tuple[str, Among | None], float] = {}
    order = list(searchers.items())
    for number in range(rounds):
        turn = number % len(order)
        for title, (side, effort, exact) in order[turn:] + order[:turn]:
            for among in [None, *BY_CHANCE]:
                if number > 0 and among not in {None, MIDDLE}:
                    continue
                if number == 0:
                    found = side.search(effort, among, exact=exact)
                    recalls[title, among] = data.recall(found.ids, data.nearest(among))
                rate = steady_rate(side, effort, among, exact=exact)
                seconds.setdefault((title, among), []).append(1_000 / rate)
    for title, (_, effort, exact) in order:
        told = ", ".join(
            f"{among or 'all'} {recalls[title, among]:.3f} at "
            f"{1_000 / statistics.median(seconds[title, among]):,.0f}/s"
            for among in [None, *BY_CHANCE]
        )
        print(f"{data.title}, filtered: {title} ({'all' if exact else effort}): {told}", flush=True)
    figures = [
        Filtered(
            title,
            data.what,
            among.share if among else 1.0,
            recall,
            1_000 / statistics.median(seconds[title, among]),
        )
        for (title, among), recall in recalls.items()
    ]
    return figures, filter_figures(data, list(searchers), recalls, seconds)


def effort_of(result: Sweep) -> Effort:
    """The least effort that reaches the recall without a filter."""
    pairs = zip(result.efforts, result.recalls, strict=True)
    return next((effort for effort, recall in pairs if recall >= RECALL), result.efforts[-1])


def filtered_by_place(data: Vectors, side: Contestant, effort: Effort) -> Measure:
    """What is missed where the rows that pass have to do with the query: they are near to it or
    nowhere near."""
    missed = {}
    for among in BY_PLACE:
        found = side.search(effort, among)
        missed[among] = 1 - data.recall(found.ids, data.nearest(among))
        rate = steady_rate(side, effort, among)
        print(f"{data.title}, filtered by place: {among} {1 - missed[among]:.3f} at {rate:,.0f}/s")
    said = ", ".join(f"{among}: {share:.4f}" for among, share in missed.items())
    return measure(
        f"{data.title}, missed with a filter by place",
        f"of the {K} nearest that pass, at the worst of these, near a row or far from it; {said}",
        "of 1",
        1 - RECALL,
        [max(missed.values())],
    )


def filter_figures(
    data: Vectors,
    titles: list[str],
    recalls: dict[tuple[str, Among | None], float],
    seconds: dict[tuple[str, Among | None], list[float]],
) -> list[Comparison | Measure]:
    """What is missed at the worst share, the rate beside the unfiltered one, and beside peers."""
    ours, *peers = titles
    said = ", ".join(f"{among}: {1 - recalls[ours, among]:.4f}" for among in BY_CHANCE)
    missed = max(1 - recalls[ours, among] for among in BY_CHANCE)
    figures: list[Comparison | Measure] = [
        measure(
            f"{data.title}, missed with a filter",
            f"of the {K} nearest that pass, at the worst of these shares of {data.what}; {said}",
            "of 1",
            1 - RECALL,
            [missed],
        ),
        Comparison(
            f"{data.title}, filter of {MIDDLE.share:.0%}",
            f"{OURS} without a filter",
            f"1,000 queries of {data.what}",
            FILTERED_BAR,
            seconds[ours, MIDDLE],
            seconds[ours, None],
        ),
    ]
    for peer in peers:
        found = recalls[peer, MIDDLE]
        figures.append(
            Comparison(
                f"{data.title}, filter of {MIDDLE.share:.0%}",
                peer,
                f"1,000 queries of {data.what}; its recall {found:.3f}",
                None,
                seconds[ours, MIDDLE],
                seconds[peer, MIDDLE],
            )
        )
    for figure in figures[1:]:
        print(figure.line(), flush=True)
    return figures
