"""What the cases of tests/node and tests/rust write, and what has to come back."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.vectors import distances, nearest

# What the case `update` leaves of ten people.
UPDATED = [
    {"id": 100, "name": "very young", "vector": [0, 10]},
    {"id": 101, "name": "o'neil", "vector": [1, 9]},
    {"id": 102, "name": None, "vector": [7, 8]},
    {"id": 103, "name": "name 3", "vector": [3, 7]},
    {"id": 104, "name": "name 4", "vector": [4, 6]},
]

# What Python writes for the case `shared`.
OF_PYTHON = pa.table(
    {
        "id": pa.array([1, None], pa.int64()),
        "words": pa.array([["a", "b"], []], pa.list_(pa.large_string())),
        "vector": pa.array([[0.5, 1.5], [2.5, 3.5]], pa.list_(pa.float32(), 2)),
    }
)


def person(number: int) -> dict[str, Any]:
    """A row of most cases."""
    return {"id": number, "name": f"name {number}", "vector": [number, 10 - number]}


# What the case `shared` leaves for Python.
FOR_PYTHON = [person(0), person(1), {**person(2), "name": "two"}, person(3)]


def scene_vectors(rows: int) -> np.ndarray:
    """The vectors of the cases with indexes."""
    ids, places = np.arange(rows)[:, None], np.arange(8)[None, :]
    return ((ids * 7919 + places * 104_729) % 1009) / 1009


def check_nearest(found: list[tuple[int, float]], k: int, metric: str) -> None:
    """The ids and distances that the case `nearest` has to find among ten people."""
    vectors = np.array([person(number)["vector"] for number in range(10)])
    query = np.array([3.1, 6.9])
    wanted = nearest(vectors, query, k, metric)
    assert [number for number, _ in found] == wanted
    away = distances(vectors, query, metric)[wanted]
    assert [distance for _, distance in found] == pytest.approx(away.tolist(), abs=1e-4)
