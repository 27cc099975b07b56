"""Uploads that are open, byte by byte."""

import hashlib
import socket
import struct
from pathlib import Path

from support.http import Http
from support.server import LakebedServer


def new_upload(http: Http) -> str:
    """The URL of a new upload."""
    return f"/v1/uploads/{http.ok('POST', '/v1/uploads').json()['id']}"


def upload(http: Http, data: bytes, chunk: int = 4 << 20) -> str:
    """Uploads bytes in pieces; the id."""
    upload_id = http.ok("POST", "/v1/uploads").json()["id"]
    for offset in range(0, len(data), chunk):
        piece = data[offset : offset + chunk]
        http.ok("PUT", f"/v1/uploads/{upload_id}?offset={offset}", piece)
    digest = hashlib.sha256(data).hexdigest()
    body = {"size": len(data), "sha256": digest}
    http.ok("POST", f"/v1/uploads/{upload_id}/complete", body)
    return upload_id


class OpenPut:
    """A PUT that announces `length` bytes and sends some of them."""

    def __init__(self, server: LakebedServer, url: str, length: int, offset: int = 0) -> None:
        host, port = server.http_address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        head = (
            f"PUT {url}?offset={offset} HTTP/1.1\r\nhost: {server.http_address}\r\n"
            f"authorization: Bearer {server.admin_key}\r\ncontent-length: {length}\r\n\r\n"
        )
        self.socket.sendall(head.encode())

    def send(self, data: bytes) -> "OpenPut":
        self.socket.sendall(data)
        return self

    def answer(self) -> str:
        """The status line."""
        return self.socket.recv(1 << 16).split(b"\r\n", 1)[0].decode()

    def is_read(self) -> bool:
        """Whether the server has taken all that was sent out of its socket."""
        client = self.socket.getsockname()[1]
        server = self.socket.getpeername()[1]
        queues = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, waiting, *_ = line.split()
            ports = tuple(int(end.rsplit(":", 1)[1], 16) for end in (local, remote))
            queues[ports] = waiting
        unsent, unread = queues[client, server], queues[server, client]
        return int(unsent.split(":")[0], 16) == 0 and int(unread.split(":")[1], 16) == 0

    def close(self, how: str) -> None:
        """Ends the connection: politely, or by a reset as when a machine vanishes."""
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()
