"""What bad input gets: the right kind in plain words, nothing written, and a server that goes on.

Each case is one row of a table. The fixture `intact` compares the lake before and after, file by
file, and reads a table that no case may touch.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest
from pyarrow import flight

from support import hostile
from support.data import blob_cells, blobs, numbered
from support.flight import GRPC_CODES, Lake, command, status_name
from support.raw_flight import (
    RawCall,
    batch_message,
    descriptor,
    flight_data,
    ipc_messages,
    ipc_parts,
    schema_message,
)
from support.server import LakebedServer

MIB = 1 << 20
CARS = numbered(3)
TABLES = {"cars", "media", "strict"}


@pytest.fixture(scope="module")
def prepared(module_server: LakebedServer) -> LakebedServer:
    """Tables that the cases aim at: `cars`, `strict` with a column that is never null, `media`."""
    lake = module_server.lake()
    lake.create("cars", CARS)
    strict = pa.schema([pa.field("id", pa.int64(), nullable=False), ("small", pa.int8())])
    lake.create("strict", pa.table([[1], [1]], schema=strict))
    lake.create("media", blobs([b"one"]))
    return module_server


@pytest.fixture
def intact(prepared: LakebedServer, lake: Lake) -> Iterator[Lake]:
    """A client; afterwards nothing may have been written and the server must serve."""
    before = prepared.files("default")
    peak_before = prepared.peak_rss_bytes()
    yield lake
    again = prepared.lake()
    tables = again.tables()
    after = prepared.files("default")
    peak_after = prepared.peak_rss_bytes()
    # A table that should not have come goes, so that the next case does not fail for it too.
    for name in set(tables) - TABLES:
        prepared.http().ok("POST", f"/v1/table/{name}/drop")
    assert set(tables) == TABLES
    assert after == before
    assert again.read("cars").equals(CARS)
    assert peak_after - peak_before < 256 * MIB
    assert prepared.http().get("/readyz").status == 200


# ---- reads ----------------------------------------------------------------------------------


@dataclass
class Case:
    """One bad request: what it is called, what is sent, and the kind and words of the answer."""

    name: str
    sent: Any
    kind: str
    words: list[str] = field(default_factory=list)


def cases(*table: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(case := Case(*row), id=case.name) for row in table]


READS = cases(
    ("table", {"table": "carz"}, "not_found", ["carz", "cars"]),
    ("namespace", {"table": "nope$cars"}, "not_found", ["nope$cars"]),
    ("version", {"table": "cars", "version": 9}, "not_found", ["9", "cars", "1"]),
    ("version zero", {"table": "cars", "version": 0}, "not_found", ["0"]),
    ("negative version", {"table": "cars", "version": -1}, "invalid_argument", ["version"]),
    ("tag", {"table": "cars", "tag": "gold"}, "not_found", ["gold"]),
    ("time", {"table": "cars", "as_of": "2001-01-01T00:00:00Z"}, "not_found", ["2001"]),
    ("no zone", {"table": "cars", "as_of": "2026-01-01T00:00:00"}, "invalid_argument", ["as_of"]),
    ("column", {"table": "cars", "columns": ["nme"]}, "not_found", ["nme", "name"]),
    ("column twice", {"table": "cars", "columns": ["id", "id"]}, "invalid_argument", ["id"]),
    ("empty list", {"table": "cars", "columns": []}, "invalid_argument", ["columns"]),
    ("filter", {"table": "cars", "filter": "id >"}, "invalid_argument", ["filter"]),
    ("filter column", {"table": "cars", "filter": "idd = 1"}, "not_found", ["idd", "id"]),
    ("filter type", {"table": "cars", "filter": "name + 1"}, "invalid_argument", ["filter"]),
    ("filter text", {"table": "cars", "filter": ""}, "invalid_argument", ["filter"]),
    ("long filter", {"table": "cars", "filter": "id=1 OR " * 140_000 + "id=1"},
     "invalid_argument", ["sql_bytes_max"]),
    ("deep filter", {"table": "cars", "filter": "(" * 3_000 + "id=1" + ")" * 3_000},
     "invalid_argument", ["filter"]),
    ("subquery", {"table": "cars", "filter": "id IN (SELECT 1)"}, "invalid_argument", ["filter"]),
    ("expression", {"table": "cars", "columns": {"x": "id +"}}, "invalid_argument", ["x"]),
    ("expression column", {"table": "cars", "columns": {"x": "idd"}}, "not_found", ["idd", "id"]),
    ("unknown function", {"table": "cars", "columns": {"x": "magic(id)"}},
     "invalid_argument", ["magic"]),
    ("limit", {"table": "cars", "limit": -1}, "invalid_argument", ["limit"]),
    ("limit type", {"table": "cars", "limit": "ten"}, "invalid_argument", ["limit"]),
    ("offset", {"table": "cars", "offset": 1.5}, "invalid_argument", ["offset"]),
    ("order", {"table": "cars", "order": "random"}, "invalid_argument", ["order", "random"]),
    ("blobs", {"table": "cars", "blobs": "all"}, "invalid_argument", ["blobs"]),
    ("row id", {"table": "cars", "row_ids": [999_999]}, "not_found", ["999999"]),
    ("row id type", {"table": "cars", "row_ids": ["a"]}, "invalid_argument", ["row_ids"]),
    ("row ids and filter", {"table": "cars", "row_ids": [0], "filter": "id=1"},
     "invalid_argument", ["row_ids", "filter"]),
    ("many row ids", {"table": "cars", "row_ids": list(range(1_000_001))},
     "invalid_argument", ["row_ids_max"]),
    ("two versions", {"table": "cars", "version": 1, "tag": "x"},
     "invalid_argument", ["version", "tag"]),
    ("branch", {"table": "cars", "branch": "nope"}, "not_found", ["nope"]),
    ("unknown field", {"table": "cars", "filtre": "id=1"}, "invalid_argument", ["filtre"]),
    ("no table", {"columns": ["id"]}, "invalid_argument", ["table"]),
    ("table type", {"table": 7}, "invalid_argument", ["table"]),
)  # fmt: skip


@pytest.mark.parametrize("case", READS)
def test_a_bad_read(intact: Lake, case: Case) -> None:
    with intact.refuses(case.kind, *case.words):
        info = intact.client.get_flight_info(command({"read": case.sent}), intact.options())
        for endpoint in info.endpoints:
            intact.fetch(endpoint)


NAMES = [
    "", ".", "..", "../cars", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb", "a b", "ä", "%2e%2e",
    "cars$", "$cars", "a$..$b", "_lakebed.keys", "_lakebed", "_blobs$t", "ns$_Lakebed$t",
    "x" * 129, "$".join("a" * 18), "a\u202eb",
    "public$deep$t", "x.lance$t",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[1:30])
def test_a_hostile_name(intact: Lake, name: str) -> None:
    with intact.refuses("invalid_argument", "name" if len(name) < 30 else ""):
        intact.write(name, numbered(1), "overwrite")
    with intact.refuses("invalid_argument"):
        intact.read(name)


@pytest.mark.parametrize(
    "name", ["..", "a/../b", "_lakebed", "_blobs", "a/_blobs", "x.lance", "a//b"]
)
def test_a_hostile_database(prepared: LakebedServer, intact: Lake, name: str) -> None:
    assert intact
    lake = prepared.lake(database=name)
    with lake.refuses("invalid_argument", "database"):
        lake.write("t", numbered(1), "create")


# ---- commands, tickets, actions -------------------------------------------------------------

COMMANDS = cases(
    ("empty", b"", "invalid_argument"),
    ("not JSON", b"{", "invalid_argument", ["command"]),
    ("a list", b"[]", "invalid_argument"),
    ("two commands", b'{"read":{"table":"cars"},"write":{}}', "invalid_argument", ["command"]),
    ("no command", b"{}", "invalid_argument", ["command"]),
    ("misspelt", b'{"raed":{"table":"cars"}}', "invalid_argument", ["raed"]),
    ("trailing", b'{"read":{"table":"cars"}} {}', "invalid_argument", ["trailing"]),
    ("field twice", b'{"read":{"table":"cars","table":"x"}}', "invalid_argument", ["table"]),
    ("not UTF-8", b'{"read":{"table":"\xff"}}', "invalid_argument"),
    ("deep", b'{"search":' + b"[" * 200 + b"]" * 200 + b"}", "invalid_argument"),
    ("a write", b'{"write":{"table":"cars","mode":"append"}}', "invalid_argument", ["write"]),
    ("search field", b'{"search":{"table":"cars","vektor":[1]}}', "invalid_argument", ["vektor"]),
    ("search vector", b'{"search":{"table":"cars","vector":[1]}}', "invalid_argument", ["vectors"]),
    ("search table", b'{"search":{"table":"carz","vector":[1]}}', "not_found", ["carz", "cars"]),
    ("search text", b'{"search":{"table":"cars","full_text_query":{"query":{"mach":{}}}}}',
     "invalid_argument", ["full_text_query"]),
    ("search both", b'{"search":{"table":"cars","vector":[1],"full_text_query":{"query":"x"},'
     b'"k":70000}}', "invalid_argument", ["65536"]),
    ("noise", bytes(range(1, 120)), "invalid_argument"),
)  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_a_bad_command(intact: Lake, case: Case) -> None:
    with intact.refuses(case.kind, *case.words):
        intact.client.get_flight_info(command(case.sent), intact.options())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"hello", id="text"),
        pytest.param(lambda ticket: ticket[:-1], id="cut"),
        pytest.param(lambda ticket: ticket + b"x", id="longer"),
        pytest.param(lambda ticket: hostile.damaged(ticket, 11), id="damaged"),
        pytest.param(lambda _: bytes(100_000), id="zeros"),
    ],
)
def test_a_bad_ticket(intact: Lake, change: Callable[[bytes], bytes]) -> None:
    ticket = intact.info("cars").endpoints[0].ticket.ticket
    with intact.refuses("invalid_argument", "ticket"):
        intact.stream(flight.Ticket(change(ticket))).read_all()


def test_a_command_as_a_ticket_is_checked_alike(intact: Lake) -> None:
    """A read may stand in for a ticket, and then its fields are checked as in any command."""
    with intact.refuses("invalid_argument", "../../etc"):
        intact.stream(flight.Ticket(b'{"read":{"table":"../../etc"}}')).read_all()
    with intact.refuses("invalid_argument", "write"):
        intact.stream(flight.Ticket(b'{"write":{"table":"cars"}}')).read_all()


def test_json_that_is_nested_deep(intact: Lake) -> None:
    """Its reader calls itself for each level, and a stack that overflows ends the server."""
    deep = "[" * 300_000 + "]" * 300_000
    extension = {"ARROW:extension:name": "arrow.json"}
    schema = pa.schema([("id", pa.int64()), pa.field("j", pa.string(), metadata=extension)])
    with intact.refuses("invalid_argument", "row 1", "deep"):
        intact.create("json", pa.table({"id": [1, 2], "j": ["{}", deep]}, schema=schema))


def test_binary_json_that_is_nested_deep(intact: Lake) -> None:
    levels = 300_000
    inside = (4 + 8 * below for below in reversed(range(levels)))
    nested = b"".join(struct.pack(">II", 0x8000_0001, 0x5000_0000 | size) for size in inside)
    extension = {"ARROW:extension:name": "lance.json"}
    schema = pa.schema([pa.field("j", pa.large_binary(), metadata=extension)])
    for value in (nested + struct.pack(">I", 0x8000_0000), b"no JSON"):
        with intact.refuses("invalid_argument", "row 0", "deep"):
            intact.create("json", pa.table({"j": [value]}, schema=schema))


def test_an_unknown_action_and_an_exchange(intact: Lake) -> None:
    with intact.refuses("invalid_argument", "Frobnicate"):
        list(intact.client.do_action(("Frobnicate", b""), intact.options()))
    with intact.refuses("not_implemented"):
        writer, reader = intact.client.do_exchange(command({"read": {}}), intact.options())
        with writer:
            writer.done_writing()
            reader.read_chunk()


# ---- writes that pyarrow can send -----------------------------------------------------------

MANY = pa.table({f"c{i}": [1] for i in range(4_097)})
INTERVAL = pa.table({"v": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
SMALL_DECIMAL = pa.table({"v": pa.array([1], pa.decimal32(5, 0))})
TWICE = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
SYSTEM = pa.table({"_rowid": [1]})
EXTRA = pa.table({"id": [1], "colour": ["red"]})
WIDE_INT = pa.table({"id": [1], "small": [300]})
FRACTION = pa.table({"id": [1.5]})
NULL_ID = pa.table({"id": pa.array([1, None], pa.int64()), "small": pa.array([1, 1], pa.int8())})

WRITES = cases(
    ("missing table", ("nope", "append", CARS, {}), "not_found", ["nope"]),
    ("existing table", ("cars", "create", CARS, {}), "already_exists", ["cars"]),
    ("unknown mode", ("cars", "replace", CARS, {}), "invalid_argument", ["mode", "replace"]),
    ("unknown field", ("cars", "append", CARS, {"ifExists": 1}), "invalid_argument", ["ifExists"]),
    ("commit rule", ("cars", "append", CARS, {"commit": "maybe"}), "invalid_argument", ["commit"]),
    ("branch", ("cars", "append", CARS, {"branch": "nope"}), "not_found", ["nope"]),
    ("keys for append", ("cars", "append", CARS, {"on": ["id"]}), "invalid_argument", ["on"]),
    ("extra column", ("cars", "append", EXTRA, {}), "invalid_argument", ["colour"]),
    ("text for a number", ("cars", "append", pa.table({"id": ["x"]}), {}),
     "invalid_argument", ["id", "int64"]),
    ("fraction for a number", ("cars", "append", FRACTION, {}), "invalid_argument", ["id"]),
    ("narrowing", ("strict", "append", WIDE_INT, {}), "invalid_argument", ["small", "int8"]),
    ("null", ("strict", "append", NULL_ID, {}), "invalid_argument", ["id", "row 1"]),
    ("missing column", ("strict", "append", pa.table({"small": pa.array([1], pa.int8())}), {}),
     "invalid_argument", ["id"]),
    ("column twice", ("new", "create", TWICE, {}), "invalid_argument", ["a"]),
    ("no columns", ("new", "create", pa.table({}), {}), "invalid_argument", ["column"]),
    ("too many columns", ("new", "create", MANY, {}), "invalid_argument", ["columns_max"]),
    ("system column", ("new", "create", SYSTEM, {}), "invalid_argument", ["_rowid"]),
    ("interval", ("new", "create", INTERVAL, {}), "invalid_argument", ["v", "interval"]),
    ("decimal32", ("new", "create", SMALL_DECIMAL, {}), "invalid_argument", ["v", "decimal32"]),
    ("text for a blob", ("media", "append", pa.table({"id": [1], "data": [7]}), {}),
     "invalid_argument", ["data"]),
)  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_a_bad_write(intact: Lake, case: Case) -> None:
    table, mode, rows, fields = case.sent
    with intact.refuses(case.kind, *case.words):
        intact.write(table, rows, mode, **fields)


def test_a_row_far_into_the_stream_that_does_not_fit(intact: Lake) -> None:
    good = pa.table({"id": list(range(200_000)), "small": pa.array([1] * 200_000, pa.int8())})
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("small", pa.int8())])
    batches = [*good.cast(schema).to_batches(max_chunksize=10_000), *NULL_ID.to_batches()]
    with intact.refuses("invalid_argument", "id", "200001"):
        intact.write("strict", batches, schema=schema)


def test_a_batch_beyond_the_limits(intact: Lake) -> None:
    rows = (4 << 20) + 1
    batch = pa.record_batch({"id": pa.nulls(rows)})
    with intact.refuses("invalid_argument", "batch_rows_max"):
        intact.write("cars", [batch], schema=batch.schema)


def test_a_message_beyond_64_mib(intact: Lake) -> None:
    batch = blobs([bytes(65 * MIB)]).to_batches()[0]
    with pytest.raises(pa.ArrowException) as caught:
        intact.write("media", [batch], schema=batch.schema)
    refusals = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"}
    assert status_name(caught.value) in refusals, caught.value


BLOB_URIS = cases(
    ("file", "file:///etc/passwd", "denied", ["file"]),
    ("path", "/etc/passwd", "denied", []),
    ("relative path", "../../secret", "denied", []),
    ("loopback", "http://127.0.0.1:9/x", "denied", []),
    ("loopback by name", "https://localhost/x", "denied", []),
    ("loopback, IPv6", "http://[::1]/x", "denied", []),
    ("link-local", "http://169.254.169.254/latest/meta-data/", "denied", []),
    ("bucket", "s3://bucket/key", "denied", []),
    ("memory", "memory://x", "denied", []),
    ("unknown upload", "upload:0190c7a0000070008000000000000000", "not_found", ["upload"]),
    ("odd upload", "upload:../../x", "invalid_argument", ["upload"]),
    ("no upload", "upload:", "invalid_argument", ["upload"]),
)  # fmt: skip


@pytest.mark.parametrize("case", BLOB_URIS)
def test_a_blob_from_elsewhere(intact: Lake, case: Case) -> None:
    with intact.refuses(case.kind, *case.words):
        intact.write("media", blob_cells([{"data": None, "uri": case.sent}], start=9))


@pytest.mark.parametrize(
    "cell",
    [{"data": b"x", "uri": "upload:y"}, {"data": None, "uri": None}, {"data": b"x", "uri": ""}],
    ids=["bytes and uri", "neither", "bytes and an empty uri"],
)
def test_a_blob_cell_that_is_not_one_thing(intact: Lake, cell: dict[str, Any]) -> None:
    with intact.refuses("invalid_argument", "data"):
        intact.write("media", blob_cells([cell], start=9))


# ---- writes that no client would send -------------------------------------------------------

ONE = pa.record_batch({"id": pa.array([1, 2, 3], pa.int64())})
INT_SCHEMA = ONE.schema
TEXT = pa.record_batch({"id": ["ab", "cd"]})
TEXT_SCHEMA = TEXT.schema
WORDS = pa.schema([("id", pa.dictionary(pa.int32(), pa.string()))])


def to_new(schema: pa.Schema) -> bytes:
    """The first message of a write that would make the table `new`."""
    return schema_message(schema, {"write": {"table": "new", "mode": "create"}})


def offsets(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little", signed=True) for value in values)


def text_with(old: bytes, new: bytes) -> list[bytes]:
    """A write of two texts in whose buffers `old` became `new`."""
    return [to_new(TEXT_SCHEMA), hostile.changed_body(TEXT, old, new)]


def with_dictionary(index: int) -> list[bytes]:
    """A dictionary of one word and a batch that points beyond it."""
    array = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), ["word"])
    dictionary, (header, body) = ipc_messages(pa.RecordBatch.from_arrays([array], schema=WORDS))
    return [
        flight_data(*dictionary),
        flight_data(header, index.to_bytes(4, "little", signed=True) + body[4:]),
    ]


MESSAGES = cases(
    ("nothing at all", [], "invalid_argument"),
    ("an empty message", [b""], "invalid_argument"),
    ("noise", [b"\xff" * 64], "invalid_argument"),
    ("no descriptor", [flight_data(ipc_parts(INT_SCHEMA.serialize())[0])],
     "invalid_argument", ["descriptor"]),
    ("no schema", [flight_data(describe=descriptor({"write": {"table": "new", "mode": "create"}}))],
     "invalid_argument", ["schema"]),
    ("schema is noise", [flight_data(b"\x10" * 80, describe=descriptor(
        {"write": {"table": "new", "mode": "create"}}))], "invalid_argument"),
    ("batch before schema", [flight_data(*ipc_parts(ONE.serialize()), describe=descriptor(
        {"write": {"table": "new", "mode": "create"}}))], "invalid_argument", ["schema"]),
    ("batch is noise", [to_new(INT_SCHEMA), flight_data(b"\x07" * 99, b"\x01" * 99)],
     "invalid_argument"),
    ("batch header is damaged", [to_new(INT_SCHEMA), flight_data(
        hostile.damaged(ipc_parts(ONE.serialize())[0]), ipc_parts(ONE.serialize())[1])],
     "invalid_argument"),
    ("batch without its body", [to_new(INT_SCHEMA), flight_data(ipc_parts(ONE.serialize())[0])],
     "invalid_argument"),
    ("body is cut", [to_new(INT_SCHEMA), flight_data(
        ipc_parts(ONE.serialize())[0], ipc_parts(ONE.serialize())[1][:-8])], "invalid_argument"),
    ("second schema", [to_new(INT_SCHEMA), flight_data(ipc_parts(TEXT_SCHEMA.serialize())[0])],
     "invalid_argument", ["schema"]),
    ("more rows than bytes", [to_new(INT_SCHEMA), hostile.changed_header(ONE, 3, 3 << 20)],
     "invalid_argument"),
    ("rows beyond memory", [to_new(INT_SCHEMA), hostile.changed_header(ONE, 3, 1 << 60)],
     "invalid_argument"),
    ("a negative number of rows", [to_new(INT_SCHEMA), hostile.changed_header(ONE, 3, -3)],
     "invalid_argument"),
    ("4 TiB by zstd", [to_new(INT_SCHEMA), hostile.compressed_claim(4 << 40)],
     "invalid_argument", ["batch_bytes_max"]),
    ("4 TiB by lz4", [to_new(INT_SCHEMA), hostile.compressed_claim(4 << 40, "lz4")],
     "invalid_argument", ["batch_bytes_max"]),
    ("all of i64 by zstd", [to_new(INT_SCHEMA), hostile.compressed_claim((1 << 63) - 1)],
     "invalid_argument"),
    ("a negative claim", [to_new(INT_SCHEMA), hostile.compressed_claim(-5)], "invalid_argument"),
    ("a claim that is too small", [to_new(INT_SCHEMA), hostile.compressed_claim(8)],
     "invalid_argument"),
    ("a real bomb", [to_new(pa.schema([("id", hostile.BOMB_TYPE)])), hostile.honest_bomb(300)],
     "invalid_argument", ["batch_bytes_max"]),
    ("offsets beyond the text", text_with(offsets(0, 2, 4), offsets(0, 2, 900)),
     "invalid_argument", ["id"]),
    ("offsets that go back", text_with(offsets(0, 2, 4), offsets(0, 3, 1)),
     "invalid_argument", ["id"]),
    ("a negative offset", text_with(offsets(0, 2, 4), offsets(-4, 0, 4)),
     "invalid_argument", ["id"]),
    ("text that is not UTF-8", text_with(b"abcd", b"ab\xff\xfe"),
     "invalid_argument", ["id", "utf"]),
    ("a word beyond the dictionary", [to_new(WORDS), *with_dictionary(9)],
     "invalid_argument", ["id"]),
    ("a negative word", [to_new(WORDS), *with_dictionary(-1)], "invalid_argument", ["id"]),
    ("words without a dictionary", [to_new(WORDS), with_dictionary(0)[-1]], "invalid_argument"),
    ("another descriptor later", [to_new(INT_SCHEMA), to_new(INT_SCHEMA)], "invalid_argument"),
)  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES)
def test_a_bad_stream(prepared: LakebedServer, intact: Lake, case: Case) -> None:
    assert intact
    call = RawCall(prepared.flight_address, prepared.admin_key)
    answer = call.send(case.sent).end().finish()
    text = unquote(answer.get("grpc-message", ""))
    assert answer.get("grpc-status") == str(GRPC_CODES[case.kind][0]), answer
    assert answer.get("x-lakebed-error-kind") == case.kind, answer
    assert all(word.lower() in text.lower() for word in case.words), text


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_write(prepared: LakebedServer, intact: Lake, seed: int) -> None:
    """Damage in many places: an answer each time, and never a new table from a damaged header."""
    assert intact
    header, body = ipc_messages(ONE, "lz4")[-1]
    place = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    broken = bytearray(header)
    for step in range(3):
        broken[(place * (step + 1)) % len(header)] ^= 0x80 >> (seed % 8)
    to_cars = schema_message(INT_SCHEMA, {"write": {"table": "nope", "mode": "append"}})
    call = RawCall(prepared.flight_address, prepared.admin_key)
    answer = call.send([to_cars, flight_data(bytes(broken), body)]).end().finish()
    assert answer.get("grpc-status") in {"3", "5"}, answer


def test_wrong_keys(prepared: LakebedServer, intact: Lake) -> None:
    assert intact
    for key in (None, "", "wrong", prepared.admin_key[:-1], "x" * 10_000):
        stranger = Lake(prepared.flight_address, key=key)
        with stranger.refuses("unauthenticated", "key"):
            stranger.read("cars")
        with stranger.refuses("unauthenticated", "key"):
            stranger.write("cars", CARS)
        stranger.close()


def test_good_messages_by_hand_are_taken(prepared: LakebedServer) -> None:
    """The harness of this file can write: what it sends is refused for its content alone."""
    schema = schema_message(INT_SCHEMA, {"write": {"table": "by_hand", "mode": "create"}})
    call = RawCall(prepared.flight_address, prepared.admin_key)
    call.send([schema, batch_message(ONE), batch_message(ONE, "zstd"), batch_message(ONE, "lz4")])
    assert call.end().finish().get("grpc-status") == "0"
    lake = prepared.lake()
    assert lake.read("by_hand")["id"].to_pylist() == [1, 2, 3] * 3
    prepared.http().ok("POST", "/v1/table/by_hand/drop")
    assert "by_hand" not in lake.tables()
