"""How often and how patiently a call is made again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from lakebed.errors import Busy, CommitUnknown, Conflict, LakebedError, Unavailable

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
PAUSE_S_MAX = 5.0
# The pause is at its longest long before, and 2.0 ** 1024 is no number.
DOUBLINGS_MAX = 16

# The server promises that nothing happened, or the call can be made twice without harm.
SAFE: tuple[type[LakebedError], ...] = (Busy, Unavailable, Conflict)
# With a write id the server knows a write that it has done.
SAFE_WITH_WRITE_ID: tuple[type[LakebedError], ...] = (*SAFE, CommitUnknown)


def pause_s(attempt: int, error: LakebedError | None = None) -> float:
    """How long to wait after the attempt numbered from 0: doubling, half of it by chance."""
    if error is not None and error.retry_after_ms is not None:
        return error.retry_after_ms / 1_000 * (1 + random.random() / 4)
    longest = min(FIRST_PAUSE_S * 2.0 ** min(attempt, DOUBLINGS_MAX), PAUSE_S_MAX)
    return longest * (0.5 + random.random() / 2)


def retried(
    call: Callable[[], T],
    on: tuple[type[LakebedError], ...] = SAFE,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `call` returns, made again after errors of the kinds in `on`."""
    for attempt in range(attempts):
        try:
            return call()
        except on as error:
            if attempt == attempts - 1:
                raise
            sleep(pause_s(attempt, error))
    raise AssertionError("there is at least one attempt")
