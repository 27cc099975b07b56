"""Deleted rows that an index still names take no place in an answer."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support import indexes
from support.flight import Lake
from support.server import LakebedServer
from support.vectors import nearest

ROWS = 3_000
WIDTH = 8
VECTORS = np.random.default_rng(5).random((ROWS, WIDTH), np.float32)
QUERY = np.full(WIDTH, 0.5, np.float32)
# Deleted rows that the mask names, and so many that it names those which are left.
FEW, MOST = 20, 2_500


def rows() -> pa.Table:
    """Rows of vectors; three in seven speak of rain."""
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "words": [f"a night of {'rain' if n % 7 < 3 else 'snow'}" for n in range(ROWS)],
            "vector": pa.FixedSizeListArray.from_arrays(VECTORS.reshape(-1), WIDTH),
        }
    )


def left_after(count: int) -> list[int]:
    """The ids that are left when the nearest of the query are deleted."""
    gone = set(nearest(VECTORS, QUERY, count))
    return [key for key in range(ROWS) if key not in gone]


def found(lake: Lake, table: str, **fields: Any) -> list[int]:
    return lake.search({"table": table, "columns": ["id"], **fields})["id"].to_pylist()


@pytest.mark.parametrize("deleted", [FEW, MOST])
@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_HNSW_SQ"])
def test_they_take_no_place(
    server: LakebedServer, lake: Lake, table: str, kind: str, deleted: int
) -> None:
    lake.create(table, rows())
    vectors = {"index_type": kind, "num_partitions": 2, "distance_type": "l2"}
    kinds: dict[str, dict[str, Any]] = {
        "id": {"index_type": "BTREE"},
        "words": {"index_type": "FTS"},
        "vector": vectors,
    }
    indexes.build(server, table, kinds)
    left = left_after(deleted)
    wanted = [left[place] for place in nearest(VECTORS[left], QUERY, 10)]
    gone = sorted(set(range(ROWS)) - set(left))
    predicate = f"id IN ({', '.join(map(str, gone))})"
    http = server.http()
    http.ok("POST", f"/v1/table/{table}/delete", {"predicate": predicate})
    by_vector: dict[str, Any] = {"vector": QUERY.tolist(), "nprobes": 2, "refine_factor": 10}

    def check() -> None:
        close = set(found(lake, table, **by_vector, k=10))
        assert len(close) == 10
        assert close <= set(left)
        # Codes of a graph tell a few apart wrongly; a flat index is exact.
        assert len(close & set(wanted)) >= (10 if kind == "IVF_FLAT" else 8)
        # Row ids alone are fetched from nowhere.
        ids = lake.search({"table": table, "columns": ["_rowid"], "k": 10, **by_vector})
        live = lake.read(table, columns=["_rowid"])["_rowid"].to_pylist()
        assert ids.num_rows == 10
        assert set(ids["_rowid"].to_pylist()) <= set(live)
        for prefilter in (True, False):
            passing = found(lake, table, **by_vector, k=10, filter="id >= 0", prefilter=prefilter)
            assert set(passing) == close
        several = found(lake, table, vector=[QUERY.tolist()] * 3, nprobes=2, k=10)
        assert len(several) == 30
        assert set(several) <= set(left)
        rain = [key for key in left if key % 7 < 3]
        text = {"query": "rain", "columns": ["words"]}
        hits = found(lake, table, full_text_query=text, k=len(rain))
        assert sorted(hits) == rain
        some = found(lake, table, full_text_query=text, k=10)
        assert len(some) == 10
        assert set(some) <= set(rain)
        both = found(lake, table, vector=QUERY.tolist(), full_text_query=text, k=10, nprobes=2)
        assert len(both) == 10
        assert set(both) <= set(left)

    check()
    settings = {"lakebed.compaction_deleted_percent": "0"}
    http.ok("POST", f"/v1/table/{table}/schema_metadata/update", settings)
    done = http.ok("POST", f"/v1/table/{table}/compact", {}).json()
    assert done["fragments_removed"] == 1, done
    check()
    # A fragment that no index covers: lance makes its own mask.
    lake.write(table, rows().slice(0, 1).set_column(0, "id", pa.array([ROWS], pa.int64())))
    left.append(ROWS)
    again = found(lake, table, vector=VECTORS[0].tolist(), k=10, nprobes=2)
    assert len(again) == 10
    assert set(again) <= set(left)
    assert ROWS in again
