"""When a write commits, and above all when it does not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import flight

from support import raw_flight
from support.data import bulk, numbered
from support.flight import Lake, batches_of, commit_marker, finish, write_command
from support.raw_flight import RawCall, write_messages
from support.server import LakebedServer
from support.waiting import wait_until


@pytest.fixture
def filled(lake: Lake, table: str) -> str:
    """A table with three rows, in version 1."""
    lake.create(table, numbered(3))
    return table


def check_untouched(lake: Lake, table: str) -> None:
    """The table is as `filled` made it."""
    assert lake.read(table).equals(numbered(3))
    with lake.refuses("not_found"):
        lake.read(table, version=2)


def check_untouched_for_good(server: LakebedServer, table: str) -> None:
    """The same, and nothing was still under way: a graceful stop waits for all that runs."""
    check_untouched(server.lake(), table)
    server.restart()
    check_untouched(server.lake(), table)


# ---- the commit marker ----------------------------------------------------------------------


def test_a_clean_end_commits(lake: Lake, filled: str) -> None:
    assert lake.write(filled, numbered(2, start=3))["version"] == 2


def test_an_explicit_write_commits_with_its_marker(lake: Lake, filled: str) -> None:
    receipt = lake.write(filled, numbered(2, start=3), commit="explicit", marker=commit_marker(2))
    assert (receipt["version"], receipt["rows"]) == (2, 2)
    assert lake.read(filled).equals(numbered(5))


def test_the_marker_may_ride_on_the_last_batch(lake: Lake, filled: str) -> None:
    rows = numbered(2, start=3)
    writer, reader = lake.begin(write_command(filled, commit="explicit"), rows.schema)
    first, second = rows.slice(0, 1).to_batches()[0], rows.slice(1).to_batches()[0]
    with writer:
        writer.write_batch(first)
        writer.write_with_metadata(second, commit_marker(2))
        writer.done_writing()
        assert json.loads(reader.read().to_pybytes())["rows"] == 2
    assert lake.read(filled).equals(numbered(5))


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        pytest.param(None, ["commit"], id="missing"),
        pytest.param(commit_marker(1), ["1", "2"], id="too few rows"),
        pytest.param(commit_marker(3), ["3", "2"], id="too many rows"),
        pytest.param(b'{"commit":false,"rows":2}', ["commit"], id="false"),
        pytest.param(b'{"commit":true}', ["rows"], id="without rows"),
        pytest.param(b'{"commit":true,"rows":2,"more":1}', ["more"], id="unknown field"),
        pytest.param(b'{"commit":true,"rows":2} x', ["trailing"], id="trailing bytes"),
        pytest.param(b"commit", ["commit"], id="not JSON"),
    ],
)
def test_an_explicit_write_without_the_right_marker(
    lake: Lake, filled: str, marker: bytes | None, words: list[str]
) -> None:
    with lake.refuses("invalid_argument", *words):
        lake.write(filled, numbered(2, start=3), commit="explicit", marker=marker)
    check_untouched(lake, filled)


def test_a_marker_that_is_not_last_commits_nothing(lake: Lake, filled: str) -> None:
    rows = numbered(2, start=3)
    writer, reader = lake.begin(write_command(filled, commit="explicit"), rows.schema)
    batch = rows.to_batches()[0]
    with lake.refuses("invalid_argument", "commit"), writer:
        writer.write_metadata(commit_marker(2))
        writer.write_batch(batch)
        writer.done_writing()
        reader.read()
    check_untouched(lake, filled)


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert", "create"])
def test_a_client_that_fails_inside_with_commits_nothing(
    lake: Lake, filled: str, mode: str
) -> None:
    """pyarrow ends the stream cleanly when the body of `with writer:` raises."""
    name = f"{filled}_new" if mode == "create" else filled
    fields = {"on": ["id"]} if mode == "upsert" else {}
    rows = numbered(2, start=3)
    writer, _ = lake.begin(write_command(name, mode, commit="explicit", **fields), rows.schema)

    def fail_half_way() -> None:
        with writer:
            writer.write_batch(rows.to_batches()[0])
            raise ZeroDivisionError("the client's own mistake")

    with pytest.raises((ZeroDivisionError, pa.ArrowInvalid)):
        fail_half_way()
    check_untouched(lake, filled)
    if mode == "create":
        with lake.refuses("not_found"):
            lake.read(name)


# ---- streams that break ---------------------------------------------------------------------


@pytest.mark.parametrize("commit", ["on_end", "explicit"])
def test_a_deadline_commits_nothing(make_server: Callable[..., LakebedServer], commit: str) -> None:
    server = make_server().start()
    lake = server.lake()
    lake.create("t", numbered(3))
    rows = numbered(2, start=3)
    descriptor = write_command("t", commit=commit)
    writer, reader = lake.begin(descriptor, rows.schema, timeout_s=0.5)
    writer.write_batch(rows.to_batches()[0])
    assert reader.read() is None, "the stream of receipts ends without one"
    # Either end may notice first; the server calls it a call that was cancelled.
    over = (flight.FlightTimedOutError, flight.FlightCancelledError)
    with pytest.raises(over, match=r"Timeout expired|Deadline Exceeded|deadline of the call"):
        writer.close()
    check_untouched_for_good(server, "t")


@pytest.mark.parametrize(
    "ending",
    ["cancel", "no error", "closed", "half a message", "half a message, then a clean end"],
)
@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert", "create"])
def test_a_broken_stream_commits_nothing(own_server: LakebedServer, ending: str, mode: str) -> None:
    lake = own_server.lake()
    lake.create("t", numbered(3))
    fields = {"on": ["id"]} if mode == "upsert" else {}
    name = "new" if mode == "create" else "t"
    messages = write_messages(name, numbered(500, start=3), mode, write_id="w", **fields)
    call = RawCall(own_server.flight_address, own_server.admin_key).send(messages)
    port = call.local_port
    how, _, after = ending.partition(", then ")
    call.break_off(how, messages[-1])
    if after == "a clean end":
        trailers = call.end().finish()
        assert trailers.get("grpc-status", "0") != "0", trailers
    call.close()
    wait_until(
        lambda: port not in raw_flight.connections_to(own_server.flight_address),
        "the server's end of the connection",
    )
    check_untouched_for_good(own_server, "t")
    if mode == "create":
        again = own_server.lake()
        with again.refuses("not_found"):
            again.read("new")
    # The id of a write that never happened is free.
    receipt = own_server.lake().write(name, numbered(2, start=3), mode, write_id="w", **fields)
    assert receipt["rows"] == 2


CLIENT = """
import sys, pyarrow as pa
sys.path.insert(0, sys.argv[1])
from support.flight import Lake, write_command
from support.data import numbered
lake = Lake(sys.argv[2], key=sys.argv[3])
rows = numbered(100_000, start=3)
writer, reader = lake.begin(write_command("t", commit=sys.argv[4]), rows.schema)
for batch in rows.to_batches(max_chunksize=1_000):
    writer.write_batch(batch)
print("sent", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("commit", ["on_end", "explicit"])
def test_a_killed_client_commits_nothing(own_server: LakebedServer, commit: str) -> None:
    own_server.lake().create("t", numbered(3))
    before = raw_flight.connections_to(own_server.flight_address)
    command = [sys.executable, "-c", CLIENT, str(Path(__file__).parent)]
    with subprocess.Popen(
        [*command, own_server.flight_address, own_server.admin_key, commit],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout.readline() == b"sent\n"
        os.kill(client.pid, signal.SIGKILL)
        client.wait(30)
    wait_until(
        lambda: raw_flight.connections_to(own_server.flight_address) <= before,
        "the end of the killed client's connection",
    )
    check_untouched_for_good(own_server, "t")


def test_what_a_broken_stream_left_on_disk_is_removed(own_server: LakebedServer) -> None:
    """A large write that breaks leaves no files behind once the server has noticed."""
    lake = own_server.lake()
    lake.create("t", bulk(10, 1_000))
    before = own_server.files("default")
    call = RawCall(own_server.flight_address, own_server.admin_key)
    call.send(write_messages("t", bulk(40, 1 << 20)))
    call.reset(raw_flight.CANCEL)
    call.close()
    wait_until(lambda: own_server.files("default") == before, "the removal of the files")


# ---- the other side of the promise ----------------------------------------------------------


def test_an_answer_means_committed_even_if_nobody_reads_it(own_server: LakebedServer) -> None:
    """A client that ends its stream cleanly and goes away may have written, once."""
    lake = own_server.lake()
    lake.create("t", numbered(3))
    messages = write_messages("t", numbered(2, start=3), write_id="w")
    RawCall(own_server.flight_address, own_server.admin_key).send(messages).end().close()
    own_server.restart()
    receipt = own_server.lake().write("t", numbered(2, start=3), write_id="w")
    assert receipt["version"] == 2
    assert own_server.lake().read("t").equals(numbered(5))


def test_a_refused_write_is_answered_while_the_client_still_sends(lake: Lake, filled: str) -> None:
    """An error ends the call at once; the client need not send everything first."""
    rows = pa.table({"wrong": list(range(10_000))})
    writer, reader = lake.begin(write_command(filled), rows.schema)
    _, batches = batches_of(rows)
    with lake.refuses("invalid_argument", "wrong"):
        finish(writer, reader, batches)
    check_untouched(lake, filled)


# ---- a table that goes meanwhile ------------------------------------------------------------


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_write_whose_table_was_dropped(own_server: LakebedServer, mode: str) -> None:
    """It is refused, and leaves nothing in the next table of the name."""
    lake, other = own_server.lake(), own_server.lake()
    rows = bulk(rows=40, row_bytes=1 << 20)
    lake.create("t", rows.slice(0, 1))
    on = {"on": ["id"]} if mode == "upsert" else {}
    stream = lake.begin(write_command("t", mode, **on), rows.schema)
    # More than fits in between: the write has begun when all of it is sent.
    stream[0].write_table(rows, 1)
    own_server.http().ok("POST", "/v1/table/t/drop")
    assert other.create("t", numbered(1))["version"] == 1
    with lake.refuses("not_found", "dropped"):
        finish(*stream)
    own_server.restart()
    other = own_server.lake()
    assert other.read("t").equals(numbered(1))
    with other.refuses("not_found"):
        other.read("t", version=2)
    other.write("t", numbered(1, start=1))
    assert other.read("t").equals(numbered(2))
