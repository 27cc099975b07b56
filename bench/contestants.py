"""The sides of the benchmarks of vector search in process, each a process that is asked in JSON.

Lakebed's is the program that `LAKEBED_RESIDENT_BIN` names (`cargo build --release -p lakebed-index
--example resident`), the others are `bench.peers`. All are built with the same options, on two
threads, and search on one core, on one thread.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pyroaring import BitMap64

from bench.vectors import KEPT, Among, K, Vectors

OPTIONS = {"threads": 2, "m": 16, "ef_construction": 200}
OURS = "Lakebed"
# Distributions of the packages that `bench.peers` imports by these names.
PEERS = {
    "hnswlib": "hnswlib",
    "faiss": "faiss-cpu",
    "usearch": "usearch",
    "pylance": "pylance",
}
# For what builds with as many threads as it likes; lance prints no advice.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "LANCE_CPU_THREADS": "2", "LANCE_LOG": "error"}


@dataclass(frozen=True, order=True)
class Effort:
    """How much a search looks at: candidates of the graph, and for lance how many times k rows are
    compared by their own floats."""

    ef: int
    refine: int = 1

    def __str__(self) -> str:
        return f"ef {self.ef}" + (f", refine {self.refine}" if self.refine > 1 else "")


@dataclass(frozen=True)
class Found:
    """The ids of one pass over the queries, and how long it took."""

    ids: np.ndarray
    seconds: float

    @property
    def rate(self) -> float:
        """Queries a second."""
        return len(self.ids) / self.seconds


class ContestantFailed(Exception):
    """A side answered with an error, or not at all."""


class Contestant:
    """One side with its index of one data set."""

    def __init__(self, kind: str, data: Vectors, queries: int, folder: Path) -> None:
        self.kind = kind
        self.data = data
        self.folder = folder / f"{data.name}-{kind}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.title = kind if self.ours else f"{kind} {version(PEERS[kind])}"
        self.queries_path = self.folder / "queries.f32"
        data.queries[:queries].astype("<f4").tofile(self.queries_path)
        self.build_seconds: float | None = None
        self.bytes = 0
        self.masks: dict[Among, tuple[np.ndarray, Path]] = {}
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        log.close()
        # Answered with an error, as any word that is not known; then the process is up.
        with contextlib.suppress(ContestantFailed):
            self.ask(cmd="hello")
        assert self.process.poll() is None, f"{self.title} ended at once: {self.log()}"
        self.started_bytes = self.resident_bytes()
        self.grown_bytes = 0

    @property
    def ours(self) -> bool:
        """Whether this is Lakebed."""
        return self.kind == OURS

    def command(self) -> list[str]:
        """How its process is started."""
        if not self.ours:
            return [sys.executable, "-m", "bench.peers", self.kind]
        program = os.environ.get("LAKEBED_RESIDENT_BIN", "")
        if not Path(program).is_file():
            raise FileNotFoundError(
                f"LAKEBED_RESIDENT_BIN is {program!r}; it names what `cargo build --release "
                "-p lakebed-index --example resident` makes"
            )
        return [program]

    def log(self) -> str:
        """What it printed besides its answers."""
        return (self.folder / "log").read_text("utf-8", "replace")[-2000:]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it ended: {self.log()}"}
        if "error" in answer:
            raise ContestantFailed(f"{self.title}: {answer['error']}")
        return answer

    def build(self) -> None:
        """Makes the index, on all cores; a peer takes the one that it kept in an earlier run, with
        what was measured then. Searches keep to one core."""
        request = {
            "cmd": "build",
            "vectors": str(self.data.base_path),
            "dim": self.data.width,
            "distance": self.data.distance,
            **OPTIONS,
        }
        if self.ours:
            answer = self.ask(**request)
            self.bytes = answer["bytes"]
        else:
            np.save(self.folder / "draw.npy", self.data.draw())
            draw = str(self.folder / "draw.npy")
            answer = self.ask(**request, keep=str(self.kept), draw=draw)
        assert answer["rows"] == self.data.rows
        self.build_seconds = answer["seconds"]
        core = max(os.sched_getaffinity(0))
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {core})

    @property
    def kept(self) -> Path:
        """Where a peer keeps its index."""
        options = f"{OPTIONS['m']}-{OPTIONS['ef_construction']}"
        return KEPT / f"{self.data.base_path.stem}-{self.title.replace(' ', '-')}-{options}"

    def keep(self) -> None:
        """Called once all of the index was used: notes by how much the process has grown since its
        start. What a build took and weighs goes with a kept index, and comes back with it."""
        self.grown_bytes = self.resident_bytes() - self.started_bytes
        if self.ours:
            return
        note = self.kept / "whole"
        if note.exists():
            said = json.loads(note.read_text())
            self.build_seconds, self.grown_bytes = said["seconds"], said["grown_bytes"]
        else:
            said = {"seconds": self.build_seconds, "grown_bytes": self.grown_bytes}
            note.write_text(json.dumps(said))

    def resident_bytes(self) -> int:
        """Resident memory of its process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise KeyError("VmRSS")

    def search(self, effort: Effort, among: Among | None = None, *, exact: bool = False) -> Found:
        """All queries, among the rows that pass a filter; `exact` compares all of them. pylance
        filters by the number that was drawn for a row, and by nothing else."""
        out = self.folder / "ids.u64"
        request: dict[str, Any] = {
            "cmd": "search",
            "queries": str(self.queries_path),
            "k": K,
            "ef": effort.ef,
            "threads": 1,
            "ids": str(out),
            "mask": None if among is None else str(self.mask(among)[1]),
        }
        if not self.ours:
            request |= {"dim": self.data.width, "refine": effort.refine, "exact": exact}
            request["passing"] = None if among is None else self.data.passing(among.share)
        answer = self.ask(**request)
        found = np.fromfile(out, "<u8").reshape(-1, K)
        assert len(found) == answer["queries"]
        if among is not None:
            passes, _ = self.mask(among)
            there = found[found < self.data.rows].astype(np.int64)
            assert passes[there].all(), f"{self.title} found rows that do not pass the filter"
        return Found(found, answer["seconds"])

    def mask(self, among: Among) -> tuple[np.ndarray, Path]:
        """Which rows pass, and a file of them: a 64-bit roaring bitmap in its portable form."""
        if among not in self.masks:
            passes = self.data.passes(among)
            path = self.folder / f"{among.share:g}.{among.by}.roaring"
            path.write_bytes(BitMap64(np.flatnonzero(passes).tolist()).serialize())
            self.masks[among] = (passes, path)
        return self.masks[among]

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write('{"cmd":"quit"}\n')
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
