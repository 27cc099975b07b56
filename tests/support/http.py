"""The HTTP door as a client of the standard library sees it."""

import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Body = bytes | Iterable[bytes] | dict[str, Any] | None


@dataclass
class Response:
    """One answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class Http:
    """Requests to one server, one connection each. `key=None` sends no key; `tls` means https."""

    def __init__(self, address: str, key: str | None, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.key = key
        self.tls = tls

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.address, timeout=timeout_s)
        return http.client.HTTPSConnection(self.address, timeout=timeout_s, context=self.tls)

    def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> Response:
        """Sends a request. A dict goes as JSON, an iterable of bytes is streamed in chunks."""
        sent = dict(headers or {})
        if self.key is not None:
            sent.setdefault("authorization", f"Bearer {self.key}")
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return Response(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Response:
        """GET with headers given as `if_none_match="…"`."""
        return self.request(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def post(self, path: str, body: Body = None) -> Response:
        """POST of JSON, bytes or nothing."""
        return self.request("POST", path, body)

    def ok(self, method: str, path: str, body: Body = None, **options: Any) -> Response:
        """A request that has to succeed."""
        answer = self.request(method, path, body, **options)
        assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {answer.text}"
        return answer
