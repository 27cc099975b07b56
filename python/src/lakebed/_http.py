"""The HTTP door over the standard library.

A connection is kept for each thread and process. A request that changes something is sent once on a
fresh connection: whether a lost one was acted on cannot be known, and the error says so.
"""

import http.client
import json
import os
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakebed._target import Target, local_admin_key, parse_json
from lakebed.errors import (
    KIND_HEADER,
    CommitUnknown,
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
    from_http,
)

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# What a proxy answers whose server broke off or was slow: the request may have arrived.
LOST_BEHIND_PROXY = {502, 504}


@dataclass(frozen=True)
class Answer:
    """A successful answer, read whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class HttpDoor:
    """Requests to the HTTP port of one server."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._local = threading.local()
        self._version: dict[str, Any] | None = None
        self._key: str | None = target.api_key
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpDoor, (self.target,)

    def version(self) -> dict[str, Any]:
        """What `/version` says: `version`, `flight`, `lake_id`. Asked once.

        Raises:
            InvalidArgument: what answers there is no Lakebed server.
        """
        if self._version is None:
            answer = self._send("GET", "/version", None, {}, None, False)
            try:
                said = parse_json(answer.body)
                if not isinstance(said.get("flight"), str):
                    raise ValueError("its `/version` does not say where Flight is")
            except ValueError as error:
                raise InvalidArgument(f"{self.target.url} is no Lakebed server: {error}") from error
            self._version = said
        return self._version

    def forget_version(self) -> None:
        """The next `version` asks again."""
        self._version = None

    def close(self) -> None:
        """Ends this thread's connection; those of other threads end with their threads."""
        kept = getattr(self._local, "kept", None)
        self._local.kept = None
        # One that was inherited over a fork is the parent's to end.
        if kept is not None and kept[0] == os.getpid():
            kept[1].close()

    def key(self) -> str | None:
        """The key to present: the given one, else, for a server on this machine, the one in the
        file that its first start wrote."""
        with self._lock:
            if self._key is None and self.target.host in LOOPBACK:
                self._key = local_admin_key(str(self.version().get("lake_id", ""))) or ""
            return self._key or None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        changes: bool = False,
        empty_is_ok: bool = False,
    ) -> Answer:
        """Sends a request; a body that is no bytes goes as JSON.

        Args:
            changes: whether the request changes something, so that it must not be sent twice.
            empty_is_ok: whether a range behind the end is an answer, as it is for an empty blob.

        Raises:
            LakebedError: the answer is an error, by its kind; `CommitUnknown` where a request that
                changes something was sent and no answer came.
        """
        sent = {"x-lancedb-database": self.target.database, **(headers or {})}
        if (key := self.key()) is not None:
            sent["authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        return self._send(method, path, body, sent, timeout_s, changes, empty_is_ok)

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.target.is_tls:
            return http.client.HTTPSConnection(
                self.target.netloc, timeout=timeout_s, context=self.target.ssl_context()
            )
        return http.client.HTTPConnection(self.target.netloc, timeout=timeout_s)

    def _kept(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection of this process, and whether it was used before."""
        kept = getattr(self._local, "kept", None)
        # A connection that was inherited over a fork belongs to the parent.
        if kept is not None and kept[0] == os.getpid():
            connection: http.client.HTTPConnection = kept[1]
            connection.timeout = timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
                return connection, True
            return connection, False
        connection = self._connect(timeout_s)
        self._local.kept = (os.getpid(), connection)
        return connection, False

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float | None,
        changes: bool,
        empty_is_ok: bool = False,
    ) -> Answer:
        timeout_s = timeout_s or self.target.timeout_s
        while True:
            if changes:
                connection, was_used = self._connect(timeout_s), False
            else:
                connection, was_used = self._kept(timeout_s)
            is_sent = False
            try:
                if connection.sock is None:
                    connection.connect()
                connection.request(method, path, body=body, headers=dict(headers))
                is_sent = True
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # The server may have closed an idle connection; a fresh one tells.
                if was_used and not isinstance(error, TimeoutError):
                    continue
                raise self._failure(error, is_sent and changes) from error
            if changes:
                connection.close()
            found = {name.lower(): value for name, value in response.getheaders()}
            is_empty = empty_is_ok and response.status == 416
            if response.status >= 400 and not is_empty:
                refusal = from_http(response.status, found, data)
                if changes and response.status in LOST_BEHIND_PROXY and KIND_HEADER not in found:
                    raise CommitUnknown(refusal.message, request_id=refusal.request_id)
                raise refusal
            return Answer(response.status, found, data)

    def _failure(
        self, error: Exception, may_have_happened: bool
    ) -> CommitUnknown | DeadlineExceeded | Unavailable:
        where = self.target.netloc
        if may_have_happened:
            return CommitUnknown(
                f"the connection to {where} was lost after a change was sent: {error}"
            )
        if isinstance(error, (TimeoutError, socket.timeout)):
            return DeadlineExceeded(f"{where} did not answer in time")
        return Unavailable(f"{where} cannot be reached: {error}")


def quoted(*segments: str) -> str:
    """Segments of a path, each quoted."""
    return "/".join(urllib.parse.quote(segment, safe="") for segment in segments)
