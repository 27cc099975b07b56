"""The Python environments that functions run in: built once each, and kept in the cache folder.

```text
environments/
  <key>            a symbolic link to the folder below: who follows it finds a whole environment
  <key>-<chance>/  a virtual environment, built where it stays
  <key>.lock       held by who builds
  arrow-<key>/     links to this worker's pyarrow
```

An environment is published by a rename of its link, and never moved itself: the scripts that pip
installs name the folder they were made in. What a crash left half-built has no link, and the next
one who builds the same takes it away.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lakebed.functions.definition import Definition, FunctionFailed

BUILD_SECONDS = 900.0
POLL_S = 0.1
# Of what pip said, for the author.
OUTPUT_LINES = 30
OUTPUT_CHARACTERS = 3_000
# A change of how environments are built makes others.
FORMAT = 1
# Runs a command, and ends it and all that it started when its standard input is closed: then this
# worker is gone, and nobody looks after the folder any more.
GUARD = """
import os, select, signal, subprocess, sys
command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
while command.poll() is None:
    if select.select([0], [], [], 0.02)[0]:
        os.killpg(0, signal.SIGKILL)
sys.exit(command.returncode != 0)
"""
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
# Where pip would install to another place than the environment.
_PIP_ELSEWHERE = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_DRY_RUN"}
_PASSED_TO_PIP = {
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
}


class EnvironmentFailed(FunctionFailed):
    """A command that makes an environment failed. Its author's fault at a check; later a check has
    passed before, and the cause is more likely this machine or the package index."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that environments are made of."""

    executable: str
    # "3.11", as functions ask for it.
    version: str
    # What its packages depend on: another build of the same version has environments of its own.
    identity: str = field(repr=False)
    # Whether this worker's own pyarrow can be loaded in it.
    shares_arrow: bool

    @classmethod
    def own(cls) -> "Interpreter":
        """The one that this worker runs on."""
        base = os.path.realpath(sys.executable)
        identity = f"{sys.version} {sysconfig.get_platform()} {base}"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return cls(sys.executable, version, identity, shares_arrow=True)


@dataclass(frozen=True)
class Environment:
    """Where a function runs."""

    folder: Path
    # What is looked up after everything else.
    fallback: Path | None

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.folder / "bin" / "python"


class Environments:
    """The environments below a cache folder. May be shared with other workers."""

    def __init__(
        self,
        cache: Path,
        interpreters: Sequence[Interpreter],
        *,
        build_seconds: float = BUILD_SECONDS,
    ) -> None:
        self._root = cache / "environments"
        self._interpreters = {each.version: each for each in interpreters}
        self._build_seconds = build_seconds
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends what is being built, and builds nothing any more."""
        self._stop.set()

    def get(self, definition: Definition) -> Environment:
        """The environment of a function, built if it is not there.

        Raises:
            FunctionFailed: it cannot be built.
        """
        interpreter = self._interpreters.get(definition.python_version)
        if interpreter is None:
            has = ", ".join(sorted(self._interpreters))
            raise FunctionFailed(
                f"the function needs Python {definition.python_version}; this worker has {has}",
                retryable=True,
            )
        if definition.environment_kind != "pip":
            raise FunctionFailed(
                f"{definition.environment_kind} environments are not built; use pip"
            )
        packages = list(definition.packages)
        fallback = None
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            if interpreter.shares_arrow:
                fallback = arrow_folder(self._root)
            elif not any(re.match(r"pyarrow\b", package) for package in packages):
                packages.append("pyarrow")
            parts = {"format": FORMAT, "python": interpreter.identity, "packages": packages}
            key = _digest(json.dumps(parts, sort_keys=True))
            with self._lock:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:
                folder = self._published(key) or self._build(key, interpreter, packages)
        except OSError as error:
            # A full disk, or a cache folder that cannot be written: another worker may do better.
            raise FunctionFailed(f"no environment was made: {error}", retryable=True) from error
        return Environment(folder, fallback)

    def _published(self, key: str) -> Path | None:
        """The environment behind a link, where it is whole."""
        try:
            folder = self._root / Path(os.readlink(self._root / key)).name
        except OSError:
            return None
        # Its interpreter is a link as well, and may have been removed since.
        return folder if (folder / "bin" / "python").exists() else None

    def _build(self, key: str, interpreter: Interpreter, packages: Sequence[str]) -> Path:
        deadline = time.monotonic() + self._build_seconds
        with self._alone(key, deadline) as is_alone:
            # Somebody else may have built it meanwhile.
            if (found := self._published(key)) is not None:
                return found
            if is_alone:
                for left in self._root.glob(f"{key}-*"):
                    if left.is_symlink():
                        left.unlink(missing_ok=True)
                    else:
                        shutil.rmtree(left, ignore_errors=True)
            folder = self._root / f"{key}-{secrets.token_hex(4)}"
            try:
                self._install(folder, interpreter, packages, deadline)
                link = self._root / f"{folder.name}.link"
                link.symlink_to(folder.name)
                link.replace(self._root / key)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return folder

    def _install(
        self, folder: Path, interpreter: Interpreter, packages: Sequence[str], deadline: float
    ) -> None:
        has_pip = importlib.util.find_spec("pip") is not None
        venv = [interpreter.executable, "-s", "-m", "venv"]
        if has_pip or not packages:
            # Installing pip into every environment would take seconds each.
            venv.append("--without-pip")
        self._run([*venv, str(folder)], deadline, "the environment was not made")
        if not packages:
            return
        python = str(folder / "bin" / "python")
        pip = (
            [sys.executable, "-s", "-m", "pip", "--python", python]
            if has_pip
            else [python, "-m", "pip"]
        )
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        command = [*pip, "install", *quiet, "--", *packages]
        # What pip leaves behind when it is ended goes with the folder.
        scratch = folder / "tmp"
        scratch.mkdir()
        self._run(command, deadline, "the packages were not installed", {"TMPDIR": str(scratch)})
        shutil.rmtree(scratch, ignore_errors=True)

    def _run(
        self,
        command: Sequence[str],
        deadline: float,
        what: str,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Runs a command to its end.

        What packages bring to be built with is code of others as well: it sees pip's settings, and
        nothing of this worker's.
        """
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [sys.executable, "-s", "-c", GUARD, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**pip_variables(os.environ), **(more or {})},
                cwd=self._root,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    if self._stop.is_set():
                        raise FunctionFailed("the worker is ending", retryable=True)
                    if time.monotonic() > deadline:
                        raise EnvironmentFailed(
                            f"{what} within {self._build_seconds:.0f} s:\n{_last_words(output)}"
                        )
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if process.returncode != 0:
                raise EnvironmentFailed(f"{what}:\n{_last_words(output)}")

    @contextlib.contextmanager
    def _alone(self, key: str, deadline: float) -> Iterator[bool]:
        """Nobody else who shares the folder builds this one meanwhile. False where the file system
        has no locks: then both build, and one link stays."""
        with (self._root / f"{key}.lock").open("wb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self._stop.is_set() or time.monotonic() > deadline:
                        raise FunctionFailed(
                            "another worker builds the environment and does not come to an end",
                            retryable=True,
                        ) from None
                    time.sleep(POLL_S)
                except OSError:
                    yield False
                    return
                else:
                    yield True
                    return


def arrow_folder(root: Path) -> Path:
    """A folder that has this worker's pyarrow and nothing else, for the end of `sys.path`.

    The rows come and go as Arrow, so every environment needs a pyarrow; it weighs over 100 MB, and
    most functions never ask for it. So that nothing is fetched for it, they get the worker's own,
    after all that their packages bring. numpy goes with it only where pyarrow cannot be loaded
    without: a function that uses numpy has to say so, or it would run here and nowhere else.
    """
    import pyarrow

    package = Path(pyarrow.__file__).parent
    names = ["pyarrow"]
    needs = importlib.metadata.requires("pyarrow") or []
    if any(re.match(r"numpy\b", need) and "extra" not in need for need in needs):
        names.append("numpy")
    folder = root / f"arrow-{_digest(f'{FORMAT} {package} {pyarrow.__version__} {names}')}"
    if folder.is_dir():
        return folder
    made = Path(tempfile.mkdtemp(prefix=".arrow-", dir=root))
    try:
        # mkdtemp lets only its owner read; a cache may be shared.
        made.chmod(0o755)
        for name in names:
            site = Path(importlib.import_module(name).__file__ or "").parent.parent
            for found in [site / name, site / f"{name}.libs", *site.glob(f"{name}-*.dist-info")]:
                if found.exists():
                    (made / found.name).symlink_to(found)
        try:
            made.rename(folder)
        except OSError:
            # Somebody else was as fast.
            if not folder.is_dir():
                raise
            shutil.rmtree(made, ignore_errors=True)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def pip_variables(given: Mapping[str, str]) -> dict[str, str]:
    """Of this process's environment what pip may see: its settings, and the way to its index."""
    return {
        name: value
        for name, value in given.items()
        if name in _PASSED_TO_PIP or (name.startswith("PIP_") and name not in _PIP_ELSEWHERE)
    }


def _last_words(output: IO[bytes]) -> str:
    """The end of what a command said, without passwords of URLs."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * OUTPUT_CHARACTERS))
    text = _CREDENTIALS.sub("://***@", output.read().decode("utf-8", "replace"))
    return "\n".join(text.strip().splitlines()[-OUTPUT_LINES:])[-OUTPUT_CHARACTERS:]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
