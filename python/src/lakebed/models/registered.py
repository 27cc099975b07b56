"""Models that users registered: what the server says of one, and its files in the cache folder.

```text
  digest ──► <cache>/registered_models/<digest>/… ──► every file checked ──► session ──► vectors
                    ▲ what is missing or damaged, piece by piece from the server
```

A version is known by its digest, which stands for its files and all that is declared of it. Files
are checked against their own digests whenever a model is loaded: a disk that lost a bit must not
give vectors that nobody else would compute.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakebed.models.model import Input, Model

if TYPE_CHECKING:
    from lakebed.models.onnx_picture import OnnxPicture
    from lakebed.models.onnx_text import OnnxText

log = logging.getLogger("lakebed.worker")

FOLDER = "registered_models"
# Asked for at a time; the server may give less.
PIECE_BYTES = 2 << 20
READ_BYTES = 1 << 20

# The bytes of a file of the model from an offset on; none behind its end.
Fetch = Callable[[str, int, int], bytes]


class ModelFailed(Exception):
    """The model cannot be run; the message is for who registered it."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a model."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Described:
    """One version of a registered model, as the server describes it."""

    name: str
    version: int
    digest: str
    files: tuple[ModelFile, ...]
    input: Input
    dimensions: int
    # All that is declared, `input` and `dimensions` among it.
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def parse(body: bytes, digest: str) -> Described:
    """The description that the server sent for a digest.

    Raises:
        ModelFailed: it is not as the protocol has it.
    """
    try:
        given = json.loads(body)
        settings = dict(given["settings"])
        described = Described(
            name=str(given["name"]),
            version=int(given["version"]),
            digest=str(given["digest"]),
            files=tuple(
                ModelFile(_inside(file["path"]), int(file["size"]), str(file["sha256"]))
                for file in given["files"]
            ),
            input=Input(settings["input"]),
            dimensions=int(settings["dimensions"]),
            settings=settings,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFailed(f"the model's description is not understood: {error}") from None
    if described.digest != digest:
        raise ModelFailed(f"the model's description is of {described.digest}, not of {digest}")
    return described


def _inside(path: Any) -> str:
    parts = path.split("/")
    if any(part in {"", ".", ".."} or "\\" in part or ":" in part for part in parts):
        raise ValueError(f"`{path}` leads out of the model's folder")
    return str(path)


def fetched(described: Described, cache: Path, fetch: Fetch) -> Path:
    """The folder with all files of a model, each of which has its digest.

    Raises:
        ModelFailed: what the server sends is another file.
        OSError: the cache folder cannot be written.
    """
    folder = cache / FOLDER / described.digest.partition(":")[2]
    for file in described.files:
        path = folder / file.path
        if path.is_file():
            if path.stat().st_size == file.size and _sha256(path) == file.sha256:
                continue
            log.warning("model %s: %s is damaged and fetched again", described, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, path, fetch)
        log.info("model %s: fetched %s, %d bytes", described, file.path, file.size)
    return folder


def _fetch(file: ModelFile, path: Path, fetch: Fetch) -> None:
    """Writes a file under a temporary name and renames it: a reader finds it whole, whoever else
    writes it at the same time."""
    hasher = hashlib.sha256()
    handle, temporary = tempfile.mkstemp(prefix=".fetch-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            offset = 0
            while offset < file.size:
                piece = fetch(file.path, offset, PIECE_BYTES)
                if not piece:
                    break
                hasher.update(piece)
                out.write(piece)
                offset += len(piece)
            out.flush()
            os.fsync(out.fileno())
        if hasher.hexdigest() != file.sha256:
            raise ModelFailed(f"the server's `{file.path}` does not have the digest {file.sha256}")
        # mkstemp lets only its owner read; a cache may be shared.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


def load(described: Described, folder: Path, device: str, threads: int | None = None) -> Model:
    """Loads a model whose files lie in a folder, and computes one vector to see that it fits.

    Raises:
        ModelFailed: it is no graph, or gives something else than what is declared.
        DeviceMissing: the named device does not work here.
    """
    # Late, because each brings its own dependencies.
    from lakebed.models.onnx_session import DeviceMissing

    try:
        model = _made(described, folder, device, threads)
        model.check()
    except (ModelFailed, DeviceMissing, MemoryError):
        raise
    except Exception as error:
        # onnxruntime and tokenizers raise whatever they like for files that are none of theirs.
        text = f"model {described} cannot be loaded: {type(error).__name__}: {str(error)[:500]}"
        raise ModelFailed(text) from error
    return model


def _made(
    described: Described, folder: Path, device: str, threads: int | None
) -> "OnnxText | OnnxPicture":
    if described.input is Input.TEXT:
        from lakebed.models.onnx_text import OnnxText

        return OnnxText(described, folder, device, threads)
    from lakebed.models.onnx_picture import OnnxPicture

    return OnnxPicture(described, folder, device, threads)
