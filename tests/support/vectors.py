"""Vectors like those of embeddings, and what is nearest by comparing everything."""

import numpy as np


class Clusters:
    """Draws vectors that lie around common centers, as embeddings do."""

    def __init__(self, dice: np.random.Generator, centers: int, width: int, noise: float) -> None:
        self.dice, self.noise = dice, noise
        self.centers = dice.normal(size=(centers, width)).astype(np.float32)

    def draw(self, rows: int) -> np.ndarray:
        """So many more of them."""
        count, width = self.centers.shape
        noise = self.dice.normal(scale=self.noise, size=(rows, width)).astype(np.float32)
        return self.centers[self.dice.integers(0, count, rows)] + noise


def distances(vectors: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """Of each vector to the query, as a search tells them."""
    if metric == "l2":
        return ((vectors - query) ** 2).sum(axis=1)
    likeness = vectors @ query
    if metric == "cosine":
        likeness = likeness / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    return 1 - likeness


def nearest(vectors: np.ndarray, query: np.ndarray, k: int, metric: str = "l2") -> list[int]:
    """The places of the nearest vectors, the nearest first."""
    return np.argsort(distances(vectors, query, metric), kind="stable")[:k].tolist()
