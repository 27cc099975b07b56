"""Contestants in alternating rounds, the ratio of two medians; measures; curves."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Comparison:
    """Seconds of each round of both sides. A ratio above 1 means that Lakebed was faster."""

    name: str
    peer: str
    what: str
    bar: float | None
    ours_s: list[float]
    peer_s: list[float]

    @property
    def ratio(self) -> float:
        """The peer's median time over ours."""
        return statistics.median(self.peer_s) / statistics.median(self.ours_s)

    def line(self) -> str:
        """One line for people."""
        ours, peer = statistics.median(self.ours_s), statistics.median(self.peer_s)
        bar = "" if self.bar is None else f", bar {self.bar} x"
        return (
            f"{self.name:<18} {self.ratio:5.2f} x {self.peer}{bar}  "
            f"({self.what}; medians {ours:.3f} s and {peer:.3f} s)"
        )

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "peer": self.peer,
            "what": self.what,
            "bar": self.bar,
            "ratio": round(self.ratio, 4),
            "ours_s": [round(seconds, 6) for seconds in self.ours_s],
            "peer_s": [round(seconds, 6) for seconds in self.peer_s],
        }


@dataclass
class Measure:
    """A figure of Lakebed alone, a value a round: bytes, seconds or a share. Less is better."""

    name: str
    what: str
    unit: str
    most: float | None
    values: list[float]

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def line(self) -> str:
        """One line for people."""
        most = "" if self.most is None else f", at most {self.most:,g}"
        return f"{self.name:<18} {self.value:,.4g} {self.unit}{most}  ({self.what})"

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "most": self.most,
            "value": round(self.value, 4),
            "values": [round(value, 6) for value in self.values],
        }


@dataclass
class Point:
    """What one side did under a load: answers a second, and how long they took, in milliseconds."""

    side: str
    load: int
    per_second: float
    p50_ms: float
    p99_ms: float

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.side:<24} {self.load:>4}  {self.per_second:8.0f} a second, "
            f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"
        )


@dataclass
class Curve:
    """Rate and latency of some sides by the load on them, which has a picture of its own."""

    name: str
    what: str
    load: str
    points: list[Point]

    def line(self) -> str:
        """Some lines for people."""
        points = "\n".join(f"  {point.line()}" for point in self.points)
        return f"{self.name} ({self.what}), by {self.load}\n{points}"

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "what": self.what,
            "load": self.load,
            "points": [
                {
                    "side": point.side,
                    "load": point.load,
                    "per_second": round(point.per_second, 1),
                    "p50_ms": round(point.p50_ms, 3),
                    "p99_ms": round(point.p99_ms, 3),
                }
                for point in self.points
            ],
        }


@dataclass
class Sweep:
    """One side's searches of one data set at some efforts: how much each finds, and the queries a
    second of each round. `bytes` is the memory that the index takes; how long it took to build is
    not known of every kept one."""

    side: str
    data: str
    build_s: float | None
    bytes: int
    efforts: list[Any]
    recalls: list[float]
    rates: list[list[float]]

    def lines(self) -> list[str]:
        """A line for each effort."""
        return [
            f"  {self.side:<18} {effort!s:<18} recall {recall:.4f}  "
            f"{statistics.median(rates):8,.0f} a second"
            for effort, recall, rates in zip(self.efforts, self.recalls, self.rates, strict=True)
        ]


@dataclass
class Filtered:
    """What one side finds among a share of the rows, and its median rate."""

    side: str
    data: str
    share: float
    recall: float
    per_second: float

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {
            "side": self.side,
            "data": self.data,
            "share": self.share,
            "recall": round(self.recall, 5),
            "per_second": round(self.per_second, 1),
        }


@dataclass
class RecallCurves:
    """Recall against rate of some sides over some data sets, which has a picture of its own."""

    name: str
    what: str
    sweeps: list[Sweep]
    filtered: list[Filtered]

    def line(self) -> str:
        """Some lines for people."""
        lines = [f"{self.name} ({self.what})"]
        for data in dict.fromkeys(sweep.data for sweep in self.sweeps):
            lines.append(f" {data}")
            lines += [line for it in self.sweeps if it.data == data for line in it.lines()]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "name": self.name,
            "what": self.what,
            "sides": [
                {
                    "side": sweep.side,
                    "data": sweep.data,
                    "build_s": None if sweep.build_s is None else round(sweep.build_s, 1),
                    "bytes": sweep.bytes,
                    "points": [
                        {
                            "effort": str(effort),
                            "recall": round(recall, 5),
                            "per_second": round(statistics.median(rates), 1),
                            "rates": [round(rate, 1) for rate in rates],
                        }
                        for effort, recall, rates in zip(
                            sweep.efforts, sweep.recalls, sweep.rates, strict=True
                        )
                    ],
                }
                for sweep in self.sweeps
            ],
            "filtered": [it.record() for it in self.filtered],
        }


def measure(name: str, what: str, unit: str, most: float | None, values: list[float]) -> Measure:
    """A measure, printed."""
    result = Measure(name, what, unit, most, values)
    print(result.line(), flush=True)
    return result


def seconds_of(work: Callable[[], None]) -> float:
    """How long a piece of work takes."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(
    name: str,
    peer: str,
    what: str,
    bar: float | None,
    rounds: int,
    ours: Callable[[], None],
    theirs: Callable[[], None],
    before: Callable[[], None] | None = None,
) -> Comparison:
    """Runs both once to warm up, then `rounds` times in turn, each first in every other round.
    `before` makes the same start for both; it runs before each round and counts for nobody."""
    if before is not None:
        before()
    ours()
    theirs()
    result = Comparison(name, peer, what, bar, [], [])
    for number in range(rounds):
        if before is not None:
            before()
        sides = [(result.ours_s, ours), (result.peer_s, theirs)]
        for times, work in sides if number % 2 == 0 else reversed(sides):
            times.append(seconds_of(work))
    print(result.line(), flush=True)
    return result
