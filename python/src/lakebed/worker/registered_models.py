"""Registered models of a worker: fetched when a task needs one, loaded, and kept for the next.

Fetching may take minutes, so it is done in a thread of its own, one model at a time; tasks of
models that are loaded go on. A few stay loaded: the one that was not used for longest goes first.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from lakebed._retry import pause_s
from lakebed.errors import LakebedError
from lakebed.models.model import Model
from lakebed.models.onnx_session import DeviceMissing
from lakebed.models.registered import ModelFailed, fetched, load, parse
from lakebed.worker.pipeline import RETRY_KINDS, RETRYABLE_KINDS, Outcome
from lakebed.worker.state import Attempt

log = logging.getLogger("lakebed.worker")

T = TypeVar("T")

# How a worker says that it runs models as docs/models.md declares them.
RUNNER = "onnx-1"
LOADED_MAX = 2
ERROR_CHARACTERS_MAX = 4_000


@dataclass(frozen=True)
class ModelOptions:
    """How a worker runs registered models."""

    # Their files are kept below it.
    cache: Path
    device: str
    # Of a processor that compute at once; its cores without it.
    threads: int | None = None


class ModelSource(Protocol):
    """Where models come from; see `lakebed.worker.protocol.Server`."""

    def model(self, attempt: Attempt) -> bytes:
        """The description of the model of an attempt."""
        ...

    def model_file(self, attempt: Attempt, path: str, offset: int, length: int) -> bytes:
        """A piece of one of its files."""
        ...


class _Over(Exception):
    """The attempt has come to its end already."""


class RegisteredModels:
    """The models, by digest."""

    def __init__(self, source: ModelSource, outcome: Outcome, options: ModelOptions) -> None:
        self._source = source
        self._outcome = outcome
        self._options = options
        # The one that was used last is last.
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model")

    def stop(self) -> None:
        """Begins nothing more."""
        self._stop.set()
        self._loader.shutdown(wait=False, cancel_futures=True)

    def with_model(self, attempt: Attempt, digest: str, go_on: Callable[[Model], None]) -> None:
        """Goes on with an attempt once its model is loaded; where that fails, says so."""
        model = self._take(digest)
        if model is not None:
            go_on(model)
        else:
            self._loader.submit(self._load, attempt, digest, go_on)

    def _take(self, digest: str) -> Model | None:
        with self._lock:
            model = self._loaded.get(digest)
            if model is not None:
                self._loaded.move_to_end(digest)
            return model

    def _load(self, attempt: Attempt, digest: str, go_on: Callable[[Model], None]) -> None:
        try:
            # The one before in the queue may have loaded it.
            model = self._take(digest) or self._loaded_anew(attempt, digest)
        except _Over:
            return
        except ModelFailed as error:
            self._fail(attempt, str(error), retryable=False)
        except (DeviceMissing, MemoryError, OSError) as error:
            # Of this worker; another one may do better.
            self._fail(attempt, f"the model cannot be loaded here: {error}", retryable=True)
        except Exception as error:
            log.exception("%s: failed", attempt)
            text = f"the worker failed: {type(error).__name__}: {error}"
            self._fail(attempt, text, retryable=True)
        else:
            go_on(model)

    def _loaded_anew(self, attempt: Attempt, digest: str) -> Model:
        source = self._source
        body = self._patiently(attempt, lambda: source.model(attempt))
        described = parse(body, digest)

        def fetch(path: str, offset: int, length: int) -> bytes:
            return self._patiently(
                attempt, lambda: source.model_file(attempt, path, offset, length)
            )

        folder = fetched(described, self._options.cache, fetch)
        model = load(described, folder, self._options.device, self._options.threads)
        log.info("model %s on %s, %s", described, model.device, model.digest)
        with self._lock:
            self._loaded[digest] = model
            while len(self._loaded) > LOADED_MAX:
                self._loaded.popitem(last=False)
        return model

    def _patiently(self, attempt: Attempt, call: Callable[[], T]) -> T:
        """What `call` gives. Tried again while the attempt is held and the server is away.

        Raises:
            _Over: the attempt has ended, or it is somebody else's.
        """
        tries = 0
        while not self._stop.is_set() and self._outcome.holds(attempt):
            try:
                return call()
            except LakebedError as error:
                if error.kind in RETRY_KINDS:
                    log.warning("%s: its model again after: %s", attempt, error)
                    self._stop.wait(pause_s(min(tries, 6), error))
                    tries += 1
                    continue
                retryable = error.kind in RETRYABLE_KINDS
                self._fail(attempt, f"its model: {error}", retryable=retryable)
                break
        raise _Over

    def _fail(self, attempt: Attempt, error: str, *, retryable: bool) -> None:
        log.error("%s: failed: %s", attempt, error)
        self._outcome.failed(attempt, error[:ERROR_CHARACTERS_MAX], retryable=retryable)
