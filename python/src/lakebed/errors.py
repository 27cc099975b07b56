"""Errors by kind, as the server names them: the kind says what to do next.

The server sends a kind beside every error, in a gRPC trailer or an HTTP header. Both doors' errors
become the same exceptions here, once, so that `except NotFound` means the same everywhere. What
never reached the server gets the kind that asks for the same reaction: `Unavailable`,
`DeadlineExceeded`.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

KIND_HEADER = "x-lakebed-error-kind"
REQUEST_ID_HEADER = "x-request-id"
RETRY_AFTER_HEADER = "retry-after-ms"


class LakebedError(Exception):
    """Something that a call asked for was not done.

    Attributes:
        kind: the server's name of the kind, such as `not_found`.
        request_id: what to look for in the server's log; None where no server was reached.
        retry_after_ms: after how long trying again makes sense, where the server said so.
        write_id: of a write, what sends it again without doubling its rows.
    """

    kind: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
        write_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.retry_after_ms = retry_after_ms
        self.write_id = write_id

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class InvalidArgument(LakebedError):
    """Fix the request; sent again as it is, it fails again."""

    kind = "invalid_argument"


class Unauthenticated(LakebedError):
    """Present a key."""

    kind = "unauthenticated"


class Denied(LakebedError):
    """The key does not allow this."""

    kind = "denied"


class NotFound(LakebedError):
    """What was named does not exist."""

    kind = "not_found"


class AlreadyExists(LakebedError):
    """What was to be made exists."""

    kind = "already_exists"


class Conflict(LakebedError):
    """A race was lost: read again, then try again."""

    kind = "conflict"


class Busy(LakebedError):
    """A limit is in use: try again after `retry_after_ms`."""

    kind = "busy"


class Unavailable(LakebedError):
    """The server, or a part of it, cannot be reached: try again."""

    kind = "unavailable"


class DeadlineExceeded(LakebedError):
    """The call took longer than it was given."""

    kind = "deadline_exceeded"


class Cancelled(LakebedError):
    """The call was given up before it was done."""

    kind = "cancelled"


class CommitUnknown(LakebedError):
    """It is not known whether the change happened: look before doing it again."""

    kind = "commit_unknown"


class NotBuilt(LakebedError):
    """The server knows what was asked for and does not have it."""

    kind = "not_implemented"


class Corrupt(LakebedError):
    """The store holds something that it must not: stop and call someone."""

    kind = "corrupt"


class Internal(LakebedError):
    """A bug of the server or of this package."""

    kind = "internal"


BY_KIND: dict[str, type[LakebedError]] = {
    error.kind: error
    for error in (
        InvalidArgument,
        Unauthenticated,
        Denied,
        NotFound,
        AlreadyExists,
        Conflict,
        Busy,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        CommitUnknown,
        NotBuilt,
        Corrupt,
        Internal,
    )
}

# What a status means that comes without a kind: from a proxy, or from an older server.
_BY_STATUS = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: Denied,
    404: NotFound,
    409: Conflict,
    422: CommitUnknown,
    429: Busy,
    499: Cancelled,
    501: NotBuilt,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def from_headers(
    message: str, headers: Mapping[str, str], fallback: type[LakebedError]
) -> LakebedError:
    """The error that headers or trailers (names in lower case) describe; `fallback` without a
    kind."""
    kind = BY_KIND.get(headers.get(KIND_HEADER, ""), fallback)
    delay = headers.get(RETRY_AFTER_HEADER, "")
    return kind(
        message,
        request_id=headers.get(REQUEST_ID_HEADER),
        retry_after_ms=int(delay) if delay.isdigit() else None,
    )


def from_http(status: int, headers: Mapping[str, str], body: bytes) -> LakebedError:
    """The error of an HTTP answer that is not a success. Header names in lower case."""
    message = body.decode("utf-8", "replace")[:2_000]
    try:
        answer = json.loads(body)
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            message = answer["error"]
    except ValueError:
        pass
    default = InvalidArgument if 400 <= status < 500 else Internal
    fallback = _BY_STATUS.get(status, default)
    return from_headers(message or f"HTTP status {status}", headers, fallback)
