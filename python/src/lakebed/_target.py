"""Which server, which key, which database: what a connection is made from.

It holds no socket, so it can be pickled and cross a fork; whoever talks opens its own connection.
"""

import contextlib
import json
import os
import ssl
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakebed.errors import InvalidArgument

URL_DEFAULT = "http://127.0.0.1:10024"
DATABASE_DEFAULT = "default"


@dataclass(frozen=True)
class Target:
    """A server and who speaks to it."""

    url: str
    api_key: str | None = field(repr=False)
    database: str
    # How long a call may take that does not stream, and how long a stream may take as a whole.
    timeout_s: float = 60.0
    stream_timeout_s: float = 3_600.0
    # Certificates in PEM to trust instead of the system's.
    ca_file: str | None = None

    @property
    def is_tls(self) -> bool:
        """Whether both doors speak TLS."""
        return self.url.startswith("https://")

    @property
    def host(self) -> str:
        """The host of the URL, without brackets."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    @property
    def netloc(self) -> str:
        """host:port of the HTTP door."""
        parts = urllib.parse.urlsplit(self.url)
        port = parts.port or (443 if self.is_tls else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """What checks the server's certificate; None without TLS."""
        return ssl.create_default_context(cafile=self.ca_file) if self.is_tls else None

    def tls_roots(self) -> bytes | None:
        """Certificates for the Flight door; None means the library's own.

        Raises:
            InvalidArgument: the file cannot be read.
        """
        file = self.ca_file or os.environ.get("SSL_CERT_FILE")
        try:
            return Path(file).read_bytes() if file else None
        except OSError as error:
            raise InvalidArgument(f"certificates `{file}` cannot be read: {error}") from error


def target(
    url: str | None = None,
    api_key: str | None = None,
    database: str | None = None,
    *,
    timeout_s: float = 60.0,
    stream_timeout_s: float = 3_600.0,
    ca_file: str | None = None,
) -> Target:
    """A target of arguments and, where they are None, of `LAKEBED_URL`, `LAKEBED_API_KEY` and
    `LAKEBED_DATABASE`.

    Raises:
        InvalidArgument: the URL is not one of HTTP, or `ca_file` holds no certificates.
    """
    chosen = url or os.environ.get("LAKEBED_URL") or URL_DEFAULT
    parts = urllib.parse.urlsplit(chosen)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidArgument(f"url `{chosen}` is not understood; it looks like {URL_DEFAULT}")
    if parts.path not in {"", "/"} or parts.query or parts.username:
        raise InvalidArgument(f"url `{chosen}` has more than scheme, host and port")
    if ca_file is not None:
        try:
            # At once, because each door would find it out in a way of its own.
            ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise InvalidArgument(f"ca_file `{ca_file}` cannot be used: {error}") from error
    return Target(
        url=f"{parts.scheme}://{parts.netloc}",
        api_key=api_key or os.environ.get("LAKEBED_API_KEY") or None,
        database=database or os.environ.get("LAKEBED_DATABASE") or DATABASE_DEFAULT,
        timeout_s=timeout_s,
        stream_timeout_s=stream_timeout_s,
        ca_file=ca_file,
    )


def local_admin_key(lake_id: str) -> str | None:
    """The key that a server of this user's wrote when it first started, if it is there to be
    read."""
    if not lake_id or not all(letter.isalnum() or letter in "-_" for letter in lake_id):
        return None
    with contextlib.suppress(OSError):
        return Path(f"~/.config/lakebed/{lake_id}.key").expanduser().read_text().strip() or None
    return None


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is something else.
    """
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")
    return value
