"""What stands between a client and a server and goes wrong when it is told to."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping


class Proxy:
    """Passes bytes on between a client and the server, until it is told to break."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers_lost = 0
        self.is_losing: Callable[[], bool] = lambda: False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                for a, b, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(a, b, answers), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self.is_losing():
                    self.answers_lost += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()


class Cut:
    """Loses a connection once so many reads of the proxy have passed, and once only."""

    def __init__(self, proxy: Proxy, after: int) -> None:
        self._proxy = proxy
        self._left = after

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0 and self._proxy.answers_lost == 0


class Answering:
    """A port of HTTP that gives every request one answer."""

    def __init__(self, status: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        fixed = {"content-length": str(len(body)), "connection": "close"}
        lines = [f"{name}: {text}\r\n" for name, text in {**fixed, **(headers or {})}.items()]
        self._answer = f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode() + body
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    client.recv(1 << 16)
                    self.requests += 1
                    client.sendall(self._answer)

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
