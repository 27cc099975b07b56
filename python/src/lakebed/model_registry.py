"""Models that are registered in a lake: versions of files, which tags name and workers run."""

import hashlib
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakebed._http import HttpDoor, quoted
from lakebed._retry import pause_s, retried
from lakebed.errors import Corrupt, InvalidArgument, LakebedError, NotFound

# What declares a model beside its files; see docs/models.md.
DECLARATION = "model.toml"
PIECE_BYTES = 8 << 20
TRIES_MAX = 6
# After these the server is asked how much it has.
RETRY_KINDS = {"unavailable", "deadline_exceeded", "busy", "commit_unknown", "conflict"}
COMPLETE_S_MAX = 6 * 3_600.0
# Named here, because `Models` has a method `list`.
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        digest: stands for its files and all that decides its results.
        raw: the server's answer as it came.
    """

    name: str
    version: int
    digest: str
    raw: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class _File:
    source: Path
    path: str
    size: int
    sha256: str


class Models:
    """The models of a lake. `NAME@3` and `NAME@TAG` name versions; `NAME` alone is the newest."""

    def __init__(self, http: HttpDoor) -> None:
        self._http = http

    def list(self) -> Records:
        """All models: built into workers, offered by one that is attached, and registered."""
        found: Records = self._get("/v1/models")["models"]
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """The versions of a registered model, and its tags.

        Raises:
            NotFound: there is none of that name.
        """
        if "@" in name:
            raise InvalidArgument(
                "describe takes a name alone; version(...) takes one of a version"
            )
        return self._get(f"/v1/models/{quoted(name)}")

    def version(self, model: str) -> ModelVersion:
        """The version that `NAME`, `NAME@VERSION` or `NAME@TAG` names, with its files.

        Raises:
            NotFound: there is no such version or tag.
        """
        if "@" in model:
            return _version(self._get(f"/v1/models/{quoted(model)}"))
        described = self.describe(model)
        return _version({**described["versions"][-1], "name": described["name"]})

    def register(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        task: str | None = None,
        input: str | None = None,
        dimensions: int | None = None,
        licence: str | None = None,
        **settings: Any,
    ) -> ModelVersion:
        """Registers a version: a file, or a folder with all below it but what is hidden. Only what
        the lake has not yet is sent. The same again is the same version. Needs the role admin.

        Args:
            task: what it is for, such as `embedding`.
            input: `text` or `picture`, where workers are to run it.
            dimensions: numbers of its vectors.
            settings: whatever else `model.toml` may declare, which stands in the folder otherwise.

        Raises:
            InvalidArgument: what is declared does not fit the files.
        """
        root = Path(path)
        given = {"task": task, "input": input, "dimensions": dimensions, "licence": licence}
        body = _declared(root) | {k: v for k, v in given.items() if v is not None} | settings
        files = list(_files(root))
        digests = sorted({file.sha256 for file in files})
        missing = self._post("/v1/model_files/missing", {"sha256": digests})["missing"]
        by_digest = {file.sha256: file for file in files}
        uploads = {sha256: self._upload(by_digest[sha256]) for sha256 in missing}
        body["files"] = [
            {
                "path": file.path,
                "size": file.size,
                "sha256": file.sha256,
                "upload": uploads.get(file.sha256),
            }
            for file in files
        ]
        return _version(self._post(f"/v1/models/{quoted(name)}/register", body))

    def tag(self, name: str, version: int, tag: str) -> None:
        """Has a tag name a version, whatever it named before."""
        self._post(f"/v1/models/{quoted(name)}/tag", {"version": version, "tag": tag})

    def untag(self, name: str, tag: str) -> None:
        """Takes a tag away; its version stays."""
        self._post(f"/v1/models/{quoted(name)}/untag", {"tag": tag})

    def export(self, model: str, to: str | os.PathLike[str]) -> ModelVersion:
        """Writes the files of a version to a folder, each checked against its digest.

        Raises:
            NotFound: there is no such version or tag.
            Corrupt: what arrived has another digest.
        """
        found = self.version(model)
        for file in found.raw["files"]:
            self._export(str(found), file["path"], file["size"], file["sha256"], Path(to))
        return found

    def drop(self, name: str, version: int | None = None, *, force: bool = False) -> None:
        """Drops a version, or the whole model. One that made the vectors of a column is kept
        without `force`."""
        body = {"version": version, "force": force}
        self._post(f"/v1/models/{quoted(name)}/drop", body)

    def _export(self, model: str, path: str, size: int, sha256: str, to: Path) -> None:
        # What a server says is not trusted to stay inside of the folder.
        if any(part in {"", ".", ".."} or "\\" in part for part in path.split("/")):
            raise Corrupt(f"`{path}` is no path of a model's file")
        target = to / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
        hasher = hashlib.sha256()
        try:
            with temporary.open("wb") as out:
                for offset in range(0, size, PIECE_BYTES):
                    piece = self._piece(model, path, offset)
                    hasher.update(piece)
                    out.write(piece)
            if hasher.hexdigest() != sha256:
                raise Corrupt(f"`{path}` of {model} arrived with another digest than {sha256}")
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _piece(self, model: str, path: str, offset: int) -> bytes:
        query = f"path={quoted(path)}&offset={offset}&length={PIECE_BYTES}"
        url = f"/v1/models/{quoted(model)}/file?{query}"
        return retried(lambda: self._http.request("GET", url)).body

    def _upload(self, file: _File) -> str:
        """Sends a file piece by piece; the id of the upload. After a lost connection it goes on
        where the server's bytes end."""
        upload: str = self._post("/v1/uploads", None)["id"]
        at, failures = 0, 0
        with file.source.open("rb") as source:
            while at < file.size:
                source.seek(at)
                piece = source.read(min(PIECE_BYTES, file.size - at))
                if not piece:
                    raise InvalidArgument(f"{file.source} was cut while it was read")
                try:
                    path = f"/v1/uploads/{upload}?offset={at}"
                    self._http.request("PUT", path, piece, changes=True)
                    at, failures = at + len(piece), 0
                except LakebedError as error:
                    failures += 1
                    if error.kind not in RETRY_KINDS or failures > TRIES_MAX:
                        raise
                    time.sleep(pause_s(failures, error))
                    at = int(self._get(f"/v1/uploads/{upload}")["offset"])
        body = {"size": file.size, "sha256": file.sha256}
        path = f"/v1/uploads/{upload}/complete"
        self._http.request("POST", path, body, timeout_s=COMPLETE_S_MAX)
        return upload

    def _get(self, path: str) -> dict[str, Any]:
        return dict(retried(lambda: self._http.request("GET", path)).json())

    def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        return dict(self._http.request("POST", path, body, changes=True).json())


def _version(said: dict[str, Any]) -> ModelVersion:
    return ModelVersion(said["name"], said["version"], said["digest"], said)


def _declared(root: Path) -> dict[str, Any]:
    path = root / DECLARATION
    if not root.is_dir() or not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}") from error


def _files(root: Path) -> Iterator[_File]:
    """Every file of a model by its path in the folder, without what is hidden. Links are followed:
    folders of downloaded models are made of them."""
    if not root.exists():
        raise NotFound(f"{root} does not exist")
    if root.is_file():
        yield _file(root, root.name)
        return
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                source = Path(place) / name
                yield _file(source, source.relative_to(root).as_posix())


def _file(source: Path, path: str) -> _File:
    hasher = hashlib.sha256()
    size = 0
    with source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            hasher.update(piece)
            size += len(piece)
    return _File(source, path, size, hasher.hexdigest())
