"""Other indexes for vectors, each in a process of its own, all asked in one way.

    python -m bench.peers hnswlib

reads one JSON object a line and answers with one, as the program of the resident index does
(`cargo build --release -p lakebed-index --example resident`): `build`, `search`, `quit`. Vectors
and queries are files of raw float32, answers a file of uint64. A peer keeps its index in the folder
that `keep` names and takes it from there the next time.
"""

import importlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

NOTHING = np.uint64(2**64 - 1)


class Peer(ABC):
    """An index of vectors. It keeps itself in a folder and comes back from there."""

    @abstractmethod
    def __init__(self, distance: str, width: int) -> None:
        """An index of nothing yet."""

    @abstractmethod
    def build(self, vectors: np.ndarray, options: dict[str, Any]) -> None:
        """Takes in all vectors; their ids are the row numbers."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Keeps the index."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Takes the kept index."""

    def prepare(self, options: dict[str, Any]) -> None:  # noqa: B027
        """Makes ready what a search needs and is not timed."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Any:
        """The ids that all queries find, on one thread."""


class Hnswlib(Peer):
    """hnswlib, whose ids are the row numbers."""

    def __init__(self, distance: str, width: int) -> None:
        import hnswlib

        self.index = hnswlib.Index(space=distance, dim=width)

    def build(self, vectors: np.ndarray, options: dict[str, Any]) -> None:
        """The whole graph, its room no larger than needed."""
        self.index.init_index(
            len(vectors), M=options["m"], ef_construction=options["ef_construction"]
        )
        self.index.add_items(vectors, num_threads=options["threads"])

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index"))

    def load(self, folder: Path) -> None:
        self.index.load_index(str(folder / "index"))

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Any:
        self.index.set_ef(max(options["ef"], k))
        self.index.set_num_threads(1)
        return self.index.knn_query(queries, k=k, num_threads=1)[0]


class Faiss(Peer):
    """faiss's HNSW over floats; its storage is the flat index that `exact` searches."""

    def __init__(self, distance: str, width: int) -> None:
        import faiss

        self.faiss = faiss
        self.width = width
        self.by_angle = distance == "cosine"
        self.selector: tuple[str, Any, np.ndarray] | None = None

    def normal(self, vectors: np.ndarray) -> Any:
        """Of length 1 where angles count."""
        if not self.by_angle:
            return vectors
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def build(self, vectors: np.ndarray, options: dict[str, Any]) -> None:
        metric = self.faiss.METRIC_INNER_PRODUCT if self.by_angle else self.faiss.METRIC_L2
        self.index = self.faiss.IndexHNSWFlat(self.width, options["m"], metric)
        self.index.hnsw.efConstruction = options["ef_construction"]
        self.faiss.omp_set_num_threads(options["threads"])
        self.index.add(self.normal(vectors))

    def save(self, folder: Path) -> None:
        self.faiss.write_index(self.index, str(folder / "index"))

    def load(self, folder: Path) -> None:
        self.index = self.faiss.read_index(str(folder / "index"))

    def prepare(self, options: dict[str, Any]) -> None:
        """A bitmap of what passes the filter."""
        mask = options.get("mask")
        if mask is not None and (self.selector is None or self.selector[0] != mask):
            bits = np.packbits(allowed_rows(mask, self.index.ntotal), bitorder="little")
            pointer = self.faiss.swig_ptr(bits)
            self.selector = (mask, self.faiss.IDSelectorBitmap(len(bits), pointer), bits)

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Any:
        self.faiss.omp_set_num_threads(1)
        given = {}
        if options.get("mask") is not None and self.selector is not None:
            given["sel"] = self.selector[1]
        if options.get("exact"):
            index = self.faiss.downcast_index(self.index.storage)
            params = self.faiss.SearchParameters(**given)
        else:
            index = self.index
            params = self.faiss.SearchParametersHNSW(efSearch=options["ef"], **given)
        return index.search(self.normal(queries), k, params=params)[1]


class Usearch(Peer):
    """usearch's graph over floats."""

    def __init__(self, distance: str, width: int) -> None:
        self.metric = {"l2": "l2sq", "cosine": "cos"}[distance]
        self.width = width

    def made(self, options: dict[str, Any]) -> Any:
        """An empty index."""
        from usearch.index import Index

        return Index(
            ndim=self.width,
            metric=self.metric,
            dtype="f32",
            connectivity=options["m"],
            expansion_add=options["ef_construction"],
        )

    def build(self, vectors: np.ndarray, options: dict[str, Any]) -> None:
        self.index = self.made(options)
        self.index.add(np.arange(len(vectors)), vectors, threads=options["threads"])

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def load(self, folder: Path) -> None:
        """Takes the kept index into memory."""
        from usearch.index import Index

        self.index = Index.restore(str(folder / "index"), view=False)

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Any:
        self.index.expansion_search = options["ef"]
        return self.index.search(queries, k, threads=1).keys


class Pylance(Peer):
    """Lance's IVF_HNSW_SQ in process, of one partition, which is its own choice for fewer than a
    million rows. Filters are an expression over an indexed column; rows are named by their row id,
    which in a table of one fragment is the row number."""

    def __init__(self, distance: str, width: int) -> None:
        self.distance = distance
        self.width = width

    def build(self, vectors: np.ndarray, options: dict[str, Any]) -> None:
        """A table of one fragment, its index and one of the column that filters look at."""
        import lance
        import pyarrow as pa

        path = str(Path(options["keep"]) / "table.lance")
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.width)
        rows = pa.table({"draw": np.load(options["draw"]), "vector": column})
        self.dataset = lance.write_dataset(rows, path, mode="overwrite")
        assert len(self.dataset.get_fragments()) == 1
        self.dataset.create_scalar_index("draw", "BTREE")
        self.dataset.create_index(
            "vector",
            "IVF_HNSW_SQ",
            metric=self.distance,
            num_partitions=1,
            m=options["m"],
            ef_construction=options["ef_construction"],
        )

    def save(self, folder: Path) -> None:
        """It lies there already."""

    def load(self, folder: Path) -> None:
        """Opens the table and takes its index into memory."""
        import lance

        self.dataset = lance.dataset(str(folder / "table.lance"))

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Any:
        """One query after the other, which is the only way."""
        found = np.full((len(queries), k), NOTHING)
        limit, refine = options.get("passing"), options.get("refine") or 1
        options["ef"] = max(options["ef"], k * refine)
        for row, query in enumerate(queries):
            nearest = {"column": "vector", "q": query, "k": k, "ef": options["ef"]}
            if refine > 1:
                nearest["refine_factor"] = refine
            ids = self.dataset.to_table(
                columns=["_rowid"],
                nearest=nearest,
                filter=None if limit is None else f"draw < {limit}",
                prefilter=limit is not None,
                disable_scoring_autoprojection=True,
            )["_rowid"]
            found[row, : len(ids)] = ids.to_numpy()
        return found


# Imported before the first answer, so that a process has grown by its index alone.
MODULES = {
    "hnswlib": "hnswlib",
    "faiss": "faiss",
    "usearch": "usearch.index",
    "pylance": "lance",
}
PEERS: dict[str, type[Peer]] = {
    "hnswlib": Hnswlib,
    "faiss": Faiss,
    "usearch": Usearch,
    "pylance": Pylance,
}


def allowed_rows(mask: str, rows: int) -> np.ndarray:
    """Which rows a file of a 64-bit roaring bitmap names."""
    from pyroaring import BitMap64

    allowed = np.zeros(rows, bool)
    allowed[list(BitMap64.deserialize(Path(mask).read_bytes()))] = True
    return allowed


def build(kind: str, request: dict[str, Any]) -> tuple[Peer, dict[str, Any]]:
    """The peer with its index, and what to answer."""
    vectors = np.memmap(request["vectors"], "<f4", "r").reshape(-1, request["dim"])
    peer = PEERS[kind](request["distance"], request["dim"])
    folder = Path(request["keep"])
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if (folder / "whole").exists():
        peer.load(folder)
    else:
        peer.build(vectors, request)
    seconds = time.perf_counter() - began
    if not (folder / "whole").exists():
        peer.save(folder)
    return peer, {"rows": len(vectors), "seconds": seconds}


def search(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Answers all queries of a file."""
    queries = np.fromfile(request["queries"], "<f4").reshape(-1, request["dim"])
    peer.prepare(request)
    began = time.perf_counter()
    found = peer.search(queries, request["k"], request)
    seconds = time.perf_counter() - began
    np.asarray(found).astype("<u8").tofile(request["ids"])
    return {"queries": len(queries), "seconds": seconds}


def main() -> None:
    """Answers until it is told to quit; what a library prints does not get between."""
    kind = sys.argv[1]
    importlib.import_module(MODULES[kind])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["cmd"] == "quit":
                break
            if request["cmd"] == "build":
                peer, answer = build(kind, request)
            elif peer is not None and request["cmd"] == "search":
                answer = search(peer, request)
            else:
                answer = {"error": "build and search are known, in this order"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
