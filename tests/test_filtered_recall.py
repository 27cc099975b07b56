"""A filter before a search costs no recall, however few rows pass it, whatever the index."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.lancedb import connect
from support.server import LakebedServer
from support.vectors import Clusters, nearest
from support.waiting import wait_until

WIDTH = 32
CENTERS = 200
QUERIES = 30
K = 10
RECALL = 0.95
# The largest leaves more rows than are compared one by one, so that the index is asked.
SHARES = [0.4, 0.1, 0.01, 0.001, 0.0001]
ROWS = 60_000
ROWS_SOAK = 500_000


@dataclass(frozen=True)
class Data:
    """Vectors in clusters, a number from 0 to 1 that filters ask for, and queries."""

    vectors: np.ndarray
    numbers: np.ndarray
    queries: np.ndarray

    def nearest(self, share: float) -> list[set[int]]:
        """The rows that each query has to find, by comparing all that pass."""
        passing = np.flatnonzero(self.numbers < share)
        vectors = self.vectors[passing]
        return [set(passing[nearest(vectors, query, K)].tolist()) for query in self.queries]


@pytest.fixture(scope="module")
def data(soak: bool) -> Data:
    dice = np.random.default_rng(1)
    clusters = Clusters(dice, CENTERS, WIDTH, noise=0.5)
    rows = ROWS_SOAK if soak else ROWS
    return Data(clusters.draw(rows), dice.random(rows), clusters.draw(QUERIES))


@pytest.fixture(scope="module")
def table(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A table of a server."""
    folder: Path = tmp_path_factory.mktemp("recall") / "server"
    server = LakebedServer(folder).start()
    column = pa.FixedSizeListArray.from_arrays(pa.array(data.vectors.ravel()), WIDTH)
    ids = np.arange(len(data.numbers))
    rows = pa.table({"id": ids, "number": data.numbers, "vector": column})
    yield connect(server).create_table("clusters", rows)
    server.kill()


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ"])
def test_a_filter_costs_no_recall(data: Data, table: Any, kind: str) -> None:
    # Its default, a code for 16 floats, finds too little among half a million rows, filter or not.
    finer = {"num_sub_vectors": WIDTH // 4} if kind == "IVF_PQ" else {}
    table.create_index("l2", vector_column_name="vector", index_type=kind, **finer)

    def is_built() -> bool:
        # Until then it is the index of the kind before.
        found = table.index_stats("vector_idx")
        return found and found.index_type == kind and found.num_unindexed_rows == 0

    wait_until(is_built, f"an index {kind}", 2_400, poll_s=0.5)
    for share in SHARES:
        wanted = data.nearest(share)
        hits = 0
        for query, near in zip(data.queries, wanted, strict=True):
            search = table.search(query).where(f"number < {share}").limit(K).select(["id"])
            # What is compressed this much is found among more candidates.
            search = search.refine_factor(20) if kind in {"IVF_PQ", "IVF_RQ"} else search
            found = search.to_arrow()["id"].to_pylist()
            assert len(found) == len(near), f"{share}: as many rows as pass, {K} at most"
            hits += len(near & set(found))
        recall = hits / sum(map(len, wanted))
        print(f"{kind}, {share:.2%} pass: recall {recall:.3f}")
        assert recall >= RECALL, f"{kind}, {share:.2%} pass"
