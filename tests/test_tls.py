"""TLS on both ports: who gets in, who is refused, and that nothing else changes."""

import contextlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import flight

from support import child, raw_flight
from support.data import blobs, bulk, numbered
from support.flight import Lake, finish, write_command
from support.http import Http
from support.raw_flight import RawCall, write_messages
from support.server import LakebedServer, ServerFailed, built_binary
from support.tls import EC, RSA, Authority, Pair, in_traditional_form, openssl
from support.waiting import wait_until

Make = Callable[..., LakebedServer]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.pair()


@pytest.fixture(scope="module")
def module_server(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, pair: Pair
) -> Iterator[LakebedServer]:
    """In place of the usual one: the same server with TLS."""
    work = tmp_path_factory.mktemp("tls")
    server = LakebedServer(work, args=pair.flags, authority=authority).start()
    yield server
    server.kill()


@pytest.fixture
def own_server(make_server: Make, authority: Authority, pair: Pair) -> LakebedServer:
    """In place of the usual one: the same server with TLS."""
    return make_server(args=pair.flags, authority=authority).start()


def address(text: str) -> tuple[str, int]:
    host, port = text.rsplit(":", 1)
    return host, int(port)


def connected(text: str, timeout_s: float = 20.0) -> socket.socket:
    return socket.create_connection(address(text), timeout=timeout_s)


# ---- both doors -----------------------------------------------------------------------------


def test_flight_and_http_work_as_without(server: LakebedServer, lake: Lake, table: str) -> None:
    cells = [os.urandom(3 << 20), b"", None, b"x"]
    lake.create(table, blobs(cells))
    assert lake.read(table, blobs="bytes")["data"].to_pylist() == cells
    http = server.http()
    about = http.get("/version").json()
    assert about["flight"] == server.flight_address
    assert set(server.ready) == {"http", "flight", "pid", "version"}
    assert http.get(f"/v1/table/{table}/show").json()["rows"] == 4
    assert server.http(None).get("/v1/keys").status == 401
    nobody = server.lake(None)
    with nobody.refuses("unauthenticated"):
        nobody.read(table)


def test_large_streams(lake: Lake, table: str) -> None:
    """Many records of TLS in both directions, and more than any buffer holds."""
    rows = bulk(64, 1 << 20)
    lake.write(table, rows.to_batches(max_chunksize=8), "create", schema=rows.schema)
    assert lake.read(table).equals(rows)


@pytest.mark.parametrize(
    ("door", "offered", "chosen"),
    [
        ("http", ["h2", "http/1.1"], "h2"),
        ("http", ["http/1.1"], "http/1.1"),
        ("http", [], None),
        ("flight", ["h2"], "h2"),
        ("flight", ["http/1.1", "h2"], "h2"),
        ("flight", [], None),
    ],
)
def test_protocols(
    server: LakebedServer, authority: Authority, door: str, offered: list[str], chosen: str | None
) -> None:
    with (
        connected(server.ready[door]) as plain,
        authority.context(*offered).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == chosen
        assert tls.version() == "TLSv1.3"


def test_no_protocol_in_common(server: LakebedServer, authority: Authority) -> None:
    """HTTP/1.1 on the Flight port ends in the handshake."""
    with connected(server.flight_address) as plain, pytest.raises(ssl.SSLError):
        authority.context("http/1.1").wrap_socket(plain, server_hostname="localhost")


def test_versions_of_tls(server: LakebedServer, authority: Authority) -> None:
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert Http(server.http_address, None, context).get("/livez").status == 200
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Http(server.http_address, None, context).get("/livez")


def test_a_client_that_does_not_know_the_authority_refuses(server: LakebedServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Http(server.http_address, None, ssl.create_default_context()).get("/livez")
    stranger = flight.FlightClient(f"grpc+tls://{server.flight_address}")
    with pytest.raises(flight.FlightUnavailableError):
        list(stranger.list_flights(options=flight.FlightCallOptions(timeout=10)))


def test_the_sdk_of_lancedb(server: LakebedServer, authority: Authority, table: str) -> None:
    """In a process of its own: the SDK takes roots from the environment, once."""
    server.lake().create(table, numbered(3))
    script = """
import sys, lancedb
db = lancedb.connect("db://default", api_key=sys.argv[2], host_override=sys.argv[1])
print("\\n".join(db.table_names(limit=1000)))
"""
    url = f"https://localhost:{address(server.http_address)[1]}"
    command = [sys.executable, "-c", script, url, server.admin_key]
    environment = {**os.environ, "SSL_CERT_FILE": str(authority.own.cert)}
    assert table in child.printed(command, environment).split()


# ---- who speaks no TLS, or badly ------------------------------------------------------------


@pytest.mark.parametrize("door", ["http", "flight"])
@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        b"\x16\x03\x01\xff\xff" + b"x" * 100,
        bytes(64),
    ],
)
def test_what_is_no_tls_is_closed_at_once(server: LakebedServer, door: str, sent: bytes) -> None:
    began = time.monotonic()
    with connected(server.ready[door]) as plain:
        plain.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := plain.recv(1 << 16):
                answer += piece
    assert time.monotonic() - began < 5
    assert not answer.startswith(b"HTTP"), answer
    assert server.http(None).get("/livez").status == 200


def test_a_plain_flight_client_gets_an_error(server: LakebedServer) -> None:
    plain = flight.FlightClient(f"grpc+tcp://{server.flight_address}")
    with pytest.raises(flight.FlightUnavailableError):
        list(plain.list_flights(options=flight.FlightCallOptions(timeout=10)))


def test_a_handshake_that_stalls_blocks_nobody(
    make_server: Make, authority: Authority, pair: Pair
) -> None:
    env = {"LAKEBED_HEADER_WAIT_MS_MAX": "3000"}
    server = make_server(args=pair.flags, authority=authority, env=env).start()
    server.lake().create("t", numbered(3))
    hello = client_hello(authority)
    with contextlib.ExitStack() as open_sockets:
        stalled = []
        for door in ("http", "flight"):
            for sent in (b"", hello[:1], hello[: len(hello) // 2], hello):
                for _ in range(8):
                    one = open_sockets.enter_context(connected(server.ready[door]))
                    one.sendall(sent)
                    stalled.append(one)
        began = time.monotonic()
        assert server.http(None).get("/livez").status == 200
        assert server.lake().read("t").num_rows == 3
        assert time.monotonic() - began < 2, "the stalled ones kept others waiting"
        for one in stalled:
            with contextlib.suppress(ConnectionResetError):
                while one.recv(1 << 16):
                    pass
        assert time.monotonic() - began < 15, "they are given up in time"


def client_hello(authority: Authority) -> bytes:
    """The first message of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.context("h2").wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_stalled_handshakes_count_as_connections(
    make_server: Make, authority: Authority, pair: Pair
) -> None:
    """Whoever comes beyond the limit waits, and is served when the stalled ones are given up."""
    env = {"LAKEBED_HEADER_WAIT_MS_MAX": "2000", "LAKEBED_CONNECTIONS_MAX": "4"}
    server = make_server(args=pair.flags, authority=authority, env=env).start()
    with contextlib.ExitStack() as open_sockets:
        for _ in range(4):
            open_sockets.enter_context(connected(server.http_address))
        time.sleep(0.2)
        began = time.monotonic()
        assert server.http(None).get("/livez").status == 200
        assert 1 < time.monotonic() - began < 10


def test_a_peer_that_is_silent_after_the_handshake_is_given_up(
    make_server: Make, authority: Authority, pair: Pair
) -> None:
    env = {"LAKEBED_HEADER_WAIT_MS_MAX": "1000"}
    server = make_server(args=pair.flags, authority=authority, env=env).start()
    for door in ("http", "flight"):
        with (
            connected(server.ready[door]) as plain,
            authority.context("h2").wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while tls.recv(1 << 16):
                    pass
            assert 0.5 < time.monotonic() - began < 10, door


def test_a_slow_request_outlives_the_wait_for_its_first_byte(
    make_server: Make, authority: Authority, pair: Pair
) -> None:
    """The request rides on the end of the handshake: nothing is left to arrive on the socket."""
    env = {"LAKEBED_HEADER_WAIT_MS_MAX": "1000"}
    server = make_server(args=pair.flags, authority=authority, env=env).start()
    lake = server.lake()
    lake.create("t", numbered(3))
    call = RawCall(server.flight_address, server.admin_key, tls=authority.context("h2"))
    call.send(write_messages("t", numbered(2, start=3)))
    time.sleep(2.5)
    trailers = call.end().finish()
    assert trailers.get("grpc-status") == "0", trailers


def test_a_peer_that_takes_nothing_in_is_given_up(
    make_server: Make, authority: Authority, pair: Pair
) -> None:
    env = {"LAKEBED_LIMITS_READ_STALL_MS_MAX": "1500"}
    server = make_server(args=pair.flags, authority=authority, env=env).start()
    server.lake().create("t", blobs([os.urandom(32 << 20)]))
    with (
        connected(server.http_address) as plain,
        authority.context("http/1.1").wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        port = tls.getsockname()[1]
        tls.sendall(
            b"GET /v1/table/t/blob/data/0/bytes HTTP/1.1\r\nhost: localhost\r\n"
            + f"authorization: Bearer {server.admin_key}\r\n\r\n".encode()
        )
        began = time.monotonic()
        wait_until(
            lambda: port not in raw_flight.connections_to(server.http_address),
            "the server's end of the connection",
        )
        assert 1 < time.monotonic() - began < 15


def test_stalled_handshakes_do_not_hold_a_stop(own_server: LakebedServer) -> None:
    with connected(own_server.http_address), connected(own_server.flight_address):
        time.sleep(0.2)
        began = time.monotonic()
        assert own_server.terminate() == 0
        assert time.monotonic() - began < 5


# ---- what commits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    ["cancel", "no error", "cut", "reset", "end of TLS", "half a message", "half a record"],
)
@pytest.mark.parametrize("mode", ["append", "create"])
def test_a_broken_stream_commits_nothing(
    own_server: LakebedServer, authority: Authority, ending: str, mode: str
) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(3))
    name = "new" if mode == "create" else "t"
    messages = write_messages(name, numbered(500, start=3), mode, write_id="w")
    tls = authority.context("h2")
    call = RawCall(own_server.flight_address, own_server.admin_key, tls=tls).send(messages)
    port = call.local_port
    call.break_off(ending, messages[-1])
    if ending == "reset":
        linger = struct.pack("ii", 1, 0)
        call.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    elif ending == "end of TLS":
        with contextlib.suppress(OSError):
            call.socket.unwrap()
    elif ending == "half a record":
        # The head of a record that promises 200 bytes, on the socket below TLS.
        below = socket.socket(fileno=os.dup(call.socket.fileno()))
        below.sendall(b"\x17\x03\x03\x00\xc8" + b"x" * 50)
        below.close()
    call.close()
    wait_until(
        lambda: port not in raw_flight.connections_to(own_server.flight_address),
        "the server's end of the connection",
    )
    own_server.restart()
    lake = own_server.lake()
    assert lake.read("t").equals(numbered(3))
    with lake.refuses("not_found"):
        lake.read("t", version=2) if mode == "append" else lake.read("new")
    # The id of a write that never happened is free.
    assert lake.write(name, numbered(2, start=3), mode, write_id="w")["rows"] == 2


CLIENT = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from support.flight import Lake, write_command
from support.data import numbered
roots = pathlib.Path(sys.argv[4]).read_bytes()
lake = Lake(sys.argv[2], key=sys.argv[3], tls_roots=roots)
rows = numbered(100_000, start=3)
writer, reader = lake.begin(write_command("t"), rows.schema)
for batch in rows.to_batches(max_chunksize=1_000):
    writer.write_batch(batch)
print("sent", flush=True)
sys.stdin.read()
"""


def test_a_killed_client_commits_nothing(own_server: LakebedServer, authority: Authority) -> None:
    own_server.lake().create("t", numbered(3))
    before = raw_flight.connections_to(own_server.flight_address)
    command = [sys.executable, "-c", CLIENT, str(Path(__file__).parent)]
    arguments = [own_server.flight_address, own_server.admin_key, str(authority.own.cert)]
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout.readline() == b"sent\n"
        os.kill(client.pid, signal.SIGKILL)
        client.wait(30)
    wait_until(
        lambda: raw_flight.connections_to(own_server.flight_address) <= before,
        "the end of the killed client's connection",
    )
    own_server.restart()
    assert own_server.lake().read("t").equals(numbered(3))


def test_a_cut_upload_keeps_what_came_and_no_more(
    own_server: LakebedServer, authority: Authority
) -> None:
    http = own_server.http()
    upload = http.ok("POST", "/v1/uploads").json()["id"]
    head = (
        f"PUT /v1/uploads/{upload}?offset=0 HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {own_server.admin_key}\r\ncontent-length: 1000000\r\n\r\n"
    )
    plain = connected(own_server.http_address)
    tls = authority.context("http/1.1").wrap_socket(plain, server_hostname="localhost")
    tls.sendall(head.encode() + b"x" * 1000)
    with contextlib.suppress(ssl.SSLError):  # an answer may still come
        tls.unwrap()
    tls.close()
    path = f"/v1/uploads/{upload}"
    wait_until(lambda: http.get(path).json()["offset"] == 1000, "the bytes that came")
    body = {"size": 1_000_000, "sha256": "0" * 64}
    assert http.post(f"{path}/complete", body).status >= 400


def test_a_stop_lets_a_write_finish(own_server: LakebedServer) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(3))
    rows = numbered(2, start=3)
    stream = lake.begin(write_command("t"), rows.schema)
    stream[0].write_table(rows)
    time.sleep(0.5)
    codes: list[int] = []
    stopping = threading.Thread(target=lambda: codes.append(own_server.terminate()))
    stopping.start()
    wait_until(lambda: "stopping" in own_server.log(), "the beginning of the stop")
    assert finish(*stream)["version"] == 2
    stopping.join(60)
    assert codes == [0]


# ---- pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pkcs8 ec", "sec1", "pkcs8 rsa", "pkcs1", "ed25519", "chain"])
def test_forms_of_pairs(make_server: Make, authority: Authority, form: str) -> None:
    made = {
        "pkcs8 ec": lambda: authority.pair(EC),
        "sec1": lambda: in_traditional_form(authority.pair(EC), "ec"),
        "pkcs8 rsa": lambda: authority.pair(RSA),
        "pkcs1": lambda: in_traditional_form(authority.pair(RSA), "rsa"),
        "ed25519": lambda: authority.pair(("-algorithm", "ED25519")),
        "chain": authority.chained_pair,
    }[form]()
    server = make_server(args=made.flags, authority=authority).start()
    assert server.http(None).get("/livez").status == 200


def fails_to_start(server: LakebedServer, *words: str) -> None:
    with pytest.raises(ServerFailed) as caught:
        server.start()
    assert caught.value.exit_code == 2, caught.value
    missing = [word for word in words if word not in caught.value.log]
    assert not missing, f"{missing} not said in: {caught.value.log}"
    assert "panicked" not in caught.value.log


def test_a_bad_pair_is_refused_before_anything_is_made(
    make_server: Make, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    other = authority.pair()
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate\n")
    locked = tmp_path / "locked.key"
    openssl("pkcs8", "-topk8", "-in", pair.key, "-passout", "pass:x", "-out", locked)
    for index, (cert, key, words) in enumerate(
        [
            (pair.cert, other.key, ["not the key of the certificate", str(other.key)]),
            (pair.cert, tmp_path / "missing.key", ["missing.key", "No such file"]),
            (tmp_path / "missing.pem", pair.key, ["missing.pem", "No such file"]),
            (junk, pair.key, ["junk.pem", "no certificate"]),
            (pair.cert, junk, ["junk.pem", "no key"]),
            (pair.key, pair.cert, ["no certificate"]),
            (pair.cert, locked, ["locked.key", "without a password"]),
        ]
    ):
        server = make_server(f"s{index}", args=Pair(cert, key).flags)
        fails_to_start(server, *words)
        assert not Path(server.data).exists()
    fails_to_start(make_server("cert", args=["--tls-cert", str(pair.cert)]), "tls_key")
    fails_to_start(make_server("key", args=["--tls-key", str(pair.key)]), "tls_cert")


def test_tls_is_enough_beyond_loopback(make_server: Make, authority: Authority, pair: Pair) -> None:
    server = make_server(args=[*pair.flags, "--http-addr", "0.0.0.0:0"], authority=authority)
    server.start()
    local = f"localhost:{address(server.http_address)[1]}"
    about = Http(local, None, authority.context()).get("/version").json()
    assert about["flight"].startswith("localhost:")
    refused = make_server("b", args=["--http-addr", "0.0.0.0:0"])
    fails_to_start(refused, "--tls-cert", "--insecure")
    anonymous = [*pair.flags, "--http-addr", "0.0.0.0:0", "--allow-anonymous"]
    fails_to_start(make_server("c", args=anonymous), "allow-anonymous")


def test_settings_by_variable(make_server: Make, authority: Authority, pair: Pair) -> None:
    env = {"LAKEBED_TLS_CERT": str(pair.cert), "LAKEBED_TLS_KEY": str(pair.key)}
    server = make_server(env=env, authority=authority).start()
    assert server.http(None).get("/livez").status == 200


# ---- renewal --------------------------------------------------------------------------------


def shown(text: str, authority: Authority) -> bytes:
    """The certificate that a port shows to a new client."""
    with (
        connected(text) as plain,
        authority.context("h2").wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)


def der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.cert.read_text())


@pytest.fixture
def renewed(tmp_path: Path, authority: Authority) -> Pair:
    """A pair of this test alone."""
    mine = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    authority.pair().copy_to(mine)
    return mine


@pytest.mark.parametrize("by", ["file", "SIGHUP"])
def test_a_new_pair_is_taken_while_the_server_runs(
    make_server: Make, authority: Authority, renewed: Pair, by: str
) -> None:
    server = make_server(args=renewed.flags, authority=authority).start()
    lake = server.lake()
    lake.create("t", numbered(3))
    begun = RawCall(server.flight_address, server.admin_key, tls=authority.context("h2"))
    begun.send(write_messages("t", numbered(2, start=3)))
    first, second = der(renewed), authority.pair()
    assert shown(server.http_address, authority) == first
    # The key goes first, so a look in between finds a pair that does not fit.
    server.expect_log("was not renewed")
    second.copy_to(renewed)
    if by == "SIGHUP":
        os.kill(server.pid, signal.SIGHUP)
    for door in ("http", "flight"):
        wait_until(
            lambda door=door: shown(server.ready[door], authority) == der(second),
            "the new certificate",
            20,
        )
    assert server.running
    # What began with the old pair goes on.
    assert begun.end().finish().get("grpc-status") == "0"
    assert lake.read("t").num_rows == 5


def test_a_pair_that_does_not_fit_is_not_taken(
    make_server: Make, authority: Authority, renewed: Pair
) -> None:
    server = make_server(args=renewed.flags, authority=authority).start()
    first = der(renewed)
    server.expect_log("was not renewed")
    renewed.cert.write_bytes(authority.pair().cert.read_bytes())
    wait_until(lambda: "not the key of the certificate" in server.log(), "the warning", 20)
    assert shown(server.http_address, authority) == first
    renewed.cert.unlink()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "No such file" in server.log(), "the second warning", 20)
    assert shown(server.flight_address, authority) == first
    second = authority.pair()
    second.copy_to(renewed)
    wait_until(
        lambda: shown(server.http_address, authority) == der(second), "the new certificate", 20
    )


# ---- the command line -----------------------------------------------------------------------


def test_client_verbs(server: LakebedServer, authority: Authority, table: str) -> None:
    server.lake().create(table, numbered(3))
    port = address(server.http_address)[1]

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        base = {"PATH": os.environ["PATH"], "LAKEBED_API_KEY": server.admin_key, **env}
        return subprocess.run(
            [str(built_binary()), *args],
            env=base,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    roots = str(authority.own.cert)
    url = f"https://localhost:{port}"
    show = ["show", table, "--format", "json", "--url"]
    done = run(*show, url, "--ca-cert", roots)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3
    assert run(*show, f"https://127.0.0.1:{port}", LAKEBED_CA_CERT=roots).returncode == 0
    assert run(*show, url, SSL_CERT_FILE=roots).returncode == 0, "the system's roots"
    for args, word in [
        ([url], "certificate"),
        ([url, "--ca-cert", "/nonexistent/x.pem"], "x.pem"),
        ([url, "--ca-cert", str(authority.own.key)], "no certificate"),
        ([f"http://localhost:{port}"], "cannot be reached"),
    ]:
        failed = run(*show, *args)
        assert failed.returncode != 0, args
        assert word in failed.stderr, failed.stderr
        assert "panicked" not in failed.stderr


def test_an_import_over_tls(
    own_server: LakebedServer, authority: Authority, tmp_path: Path
) -> None:
    """Over both ports and through an upload, checked against the authority that is given."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "small.txt").write_text("small")
    (folder / "large.bin").write_bytes(os.urandom(17 << 20))
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.roots)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LAKEBED_URL": f"https://{own_server.http_address}",
        "LAKEBED_API_KEY": own_server.admin_key,
    }

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(built_binary()), "import", str(folder), "--table", "files", *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run().returncode == 1, "nobody vouches for the server"
    done = run("--ca-cert", str(roots))
    assert done.returncode == 0, done.stderr
    assert own_server.lake().read("files", columns=["path"]).num_rows == 2
