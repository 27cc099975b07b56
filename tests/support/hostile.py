"""Arrow messages that lie: built from honest ones by changing the numbers they claim."""

import struct

import pyarrow as pa

from support.raw_flight import flight_data, ipc_messages, ipc_parts

BOMB_TYPE = pa.binary(1_024)


def compressed_claim(length: int, codec: str = "zstd") -> bytes:
    """A compressed batch whose buffers claim to hold `length` bytes once decompressed."""
    batch = pa.record_batch({"id": pa.array([7] * 4_096, pa.int64())})
    header, body = ipc_messages(batch, codec)[-1]
    true_claim = struct.pack("<q", 4_096 * 8)
    assert body.count(true_claim) == 1
    return flight_data(header, body.replace(true_claim, struct.pack("<q", length)))


def honest_bomb(mib: int) -> bytes:
    """A batch that is small on the wire and truly holds `mib` MiB of zeros, in few rows."""
    zeros = pa.Array.from_buffers(BOMB_TYPE, mib << 10, [None, pa.py_buffer(bytes(mib << 20))])
    batch = pa.RecordBatch.from_arrays([zeros], ["id"])
    return flight_data(*ipc_messages(batch, "zstd")[-1])


def changed_body(batch: pa.RecordBatch, old: bytes, new: bytes) -> bytes:
    """A batch in whose buffers the bytes `old` are `new`."""
    header, body = ipc_messages(batch)[-1]
    assert body.count(old) == 1
    assert len(old) == len(new)
    return flight_data(header, body.replace(old, new))


def changed_header(batch: pa.RecordBatch, old: int, new: int) -> bytes:
    """A batch whose header says `new` in every place where it said `old` as a 64-bit number."""
    header, body = ipc_parts(batch.serialize())
    before, after = struct.pack("<q", old), struct.pack("<q", new)
    assert before in header
    return flight_data(header.replace(before, after), body)


def damaged(message: bytes, every: int = 7) -> bytes:
    """The message with every n-th byte of it inverted."""
    return bytes(byte ^ 0xFF if i % every == 3 else byte for i, byte in enumerate(message))
