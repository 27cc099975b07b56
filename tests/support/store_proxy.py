"""Stands between a server and its object store, names every call that it makes, and spoils one when
it is told to.

Requests are passed on as they came, with their Host header, so that their signatures stay valid.
Each is named by what is done and to what: `CREATE manifest` is a put where nothing is
(`If-None-Match: *`) of a version, `REPLACE cursors` one of what was read before (`If-Match`), `LIST
catalog` a listing.
"""

import contextlib
import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

SLOW_S = 2.0

# What may happen to a call:
# - refused: the connection is closed, and it is not done
# - slow_down: the store asks to slow down, and it is not done
# - slow: it is done, after a while
# - lost: it is done, and the connection is closed without an answer
# - conflict: a conditional put is done and told that something is there, as a put that was sent
#   twice on its way; any other change is not done, because another one is under way; an answer to a
#   read breaks off in its middle
# - failed: it is done, and the answer is an internal error. A put that is sent again meets itself.
KINDS = ["refused", "slow_down", "slow", "lost", "conflict", "failed"]
# A conditional put that is not done and told 409, because another one of the object is under way.
UNDER_WAY = "under_way"


@dataclass(frozen=True)
class Call:
    """One call: its name, and its key below the bucket."""

    name: str
    key: str


def place_of(key: str) -> str:
    """What lies at a key of a lake: `manifest`, `data`, `catalog`, …"""
    parts = key.split("/")
    if "_lakebed" in parts:
        below = parts[parts.index("_lakebed") + 1 :]
        name = below[0] if below else "system"
        return re.sub(r"\.json$", "", name) or "system"
    if "_blobs" in parts:
        return "large blob"
    tables = [i for i, part in enumerate(parts) if part.endswith(".lance")]
    if not tables:
        return "folder"
    below = [part for part in parts[tables[0] + 1 :] if part]
    if below[:1] == ["tree"]:
        below = below[2:]
    folder = below[0] if below else "table"
    if folder == "_versions":
        return "hint" if key.endswith("hint.json") else "manifest"
    if folder == "_refs":
        return "tag" if "tags" in below else "branch"
    if folder == "data" and key.endswith(".blob"):
        return "blob"
    return folder.strip("_")


def call_of(method: str, target: str, headers: dict[str, str], body: bytes) -> Call:
    """The call that a request is."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    _, _, key = unquote(parts.path).lstrip("/").partition("/")
    verb = method
    if method == "GET" and "list-type" in query:
        verb, key = "LIST", unquote(query.get("prefix", [""])[0])
    elif method == "PUT":
        if "partNumber" in query:
            verb = "PART"
        elif "x-amz-copy-source" in headers:
            verb = "COPY"
        elif headers.get("if-none-match") == "*":
            verb = "CREATE"
        elif "if-match" in headers:
            verb = "REPLACE"
    elif method == "POST":
        if "delete" in query:
            found = re.search(rb"<Key>([^<]*)</Key>", body)
            verb, key = "DELETE", found.group(1).decode() if found else ""
        else:
            verb = "BEGIN" if "uploads" in query else "COMPLETE"
    elif method == "DELETE" and "uploadId" in query:
        verb = "ABORT"
    return Call(f"{verb} {place_of(key)}", key)


@dataclass
class Fault:
    """Spoils the calls of one name from the `number`-th on, counted from 1, `times` of them."""

    name: str
    kind: str
    number: int = 1
    times: int = 1
    seen: int = 0
    fired: int = 0

    def takes(self, call: Call) -> bool:
        """Whether this call is to be spoiled; counts it."""
        if call.name != self.name:
            return False
        self.seen += 1
        if self.seen < self.number or self.fired >= self.times:
            return False
        self.fired += 1
        return True


@dataclass
class Request:
    """A request that was read whole."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


@dataclass
class Answer:
    """An answer that was read whole."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


def error_answer(status: int, reason: str, code: str) -> Answer:
    """An error as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(status, reason, [("Content-Type", "application/xml")], body.encode())


class StoreProxy:
    """Passes requests on to the store at `target` (host:port) and notes them."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._calls: list[Call] | None = None
        self._fault: Fault | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.fired: Counter[str] = Counter()
        self.is_counted: Callable[[Call], bool] = lambda call: True  # noqa: ARG005
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends it with all its connections."""
        self._listener.close()
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with contextlib.suppress(OSError):
                end.close()

    # ---- what a test asks for -----------------------------------------------------------------

    def begin_recording(self) -> None:
        """Forgets what was recorded and records."""
        with self._lock:
            self._calls = []

    def recorded(self) -> list[Call]:
        """The calls since `begin_recording`, in the order in which they were made."""
        with self._lock:
            calls, self._calls = self._calls or [], None
        return calls

    def arm(self, fault: Fault) -> None:
        """Waits for the calls that the fault is about."""
        with self._lock:
            self._fault = fault

    def disarm(self) -> None:
        """Everything passes from now on."""
        with self._lock:
            self._fault = None

    # ---- passing on ---------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        store = http.client.HTTPConnection(self._target, timeout=60)
        source = client.makefile("rb")
        try:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                while (request := read_request(source)) is not None:
                    if not self._handle(client, store, request):
                        break
        finally:
            store.close()
            with self._lock:
                self._open.discard(client)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def _kind_for(self, call: Call) -> str | None:
        with self._lock:
            if not self.is_counted(call):
                return None
            if self._calls is not None:
                self._calls.append(call)
            if self._fault is None or not self._fault.takes(call):
                return None
            self.fired[self._fault.kind] += 1
            return self._fault.kind

    def _handle(
        self, client: socket.socket, store: http.client.HTTPConnection, request: Request
    ) -> bool:
        """Answers one request; false when the connection is to be closed."""
        fields = request.fields
        call = call_of(request.method, request.target, fields, request.body)
        kind = self._kind_for(call)
        if kind == "refused":
            return False
        if kind == "slow_down":
            send_answer(client, request.method, error_answer(503, "Slow Down", "SlowDown"))
            return True
        is_read = request.method in {"GET", "HEAD"}
        is_conditional = "if-none-match" in fields or "if-match" in fields
        if kind == UNDER_WAY or (kind == "conflict" and not is_read and not is_conditional):
            code = "ConditionalRequestConflict" if is_conditional else "OperationAborted"
            conflict = error_answer(409, "Conflict", code)
            send_answer(client, request.method, conflict)
            return True
        if kind == "slow":
            time.sleep(SLOW_S)
        answer = forward(store, request)
        if kind == "lost":
            return False
        if kind == "failed":
            answer = error_answer(500, "Internal Server Error", "InternalError")
        elif kind == "conflict":
            if is_read:
                send_answer(client, request.method, answer, cut=True)
                return False
            answer = error_answer(412, "Precondition Failed", "PreconditionFailed")
        send_answer(client, request.method, answer)
        return True


def read_request(source: object) -> Request | None:
    """The next request of a connection, or nothing at its end."""
    line = source.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers: list[tuple[str, str]] = []
    while (field := source.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = field.partition(":")
        headers.append((name, value.strip()))
    fields = {name.lower(): value for name, value in headers}
    if "chunked" in fields.get("transfer-encoding", ""):
        raise ValueError("no client of a store sends chunks")
    length = int(fields.get("content-length", 0))
    body = source.read(length) if length else b""
    if len(body) < length:
        return None
    return Request(method, target, headers, body)


def forward(store: http.client.HTTPConnection, request: Request) -> Answer:
    """What the store says to a request. A connection that it closed meanwhile is opened anew."""
    for attempt in (1, 2):
        try:
            if store.sock is None:
                store.connect()
                store.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            store.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                store.putheader(name, value)
            store.endheaders(request.body or None)
            answer = store.getresponse()
            return Answer(answer.status, answer.reason, answer.getheaders(), answer.read())
        except (http.client.RemoteDisconnected, ConnectionError):
            store.close()
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def send_answer(client: socket.socket, method: str, answer: Answer, cut: bool = False) -> None:
    """Sends an answer, or the first half of it."""
    skipped = {"transfer-encoding", "connection", "keep-alive"}
    if method != "HEAD":
        skipped.add("content-length")
    headers = [(name, value) for name, value in answer.headers if name.lower() not in skipped]
    if method != "HEAD" and answer.status not in {204, 304}:
        headers.append(("Content-Length", str(len(answer.body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{lines}\r\n".encode("latin-1")
    whole = head + (b"" if method == "HEAD" else answer.body)
    if cut:
        # At least one byte is missing, of the head where there is no body.
        end = len(head) + len(answer.body) // 2 if len(whole) > len(head) else len(head) - 1
        whole = whole[:end]
    client.sendall(whole)
