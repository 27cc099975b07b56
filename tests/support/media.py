"""Files for imports: tiny honest ones, and ones that lie."""

import os
import random
import struct
import zlib
from pathlib import Path


def png(width: int = 3, height: int = 2, colour: tuple[int, int, int] = (9, 9, 9)) -> bytes:
    """A small picture."""
    rows = b"".join(b"\0" + bytes(colour) * width for _ in range(height))
    return _png(width, height, zlib.compress(rows))


def huge_png(width: int = 20990, height: int = 29700) -> bytes:
    """A picture of 623 megapixels in a few bytes: its pixels are not there."""
    return _png(width, height, zlib.compress(b"\0" * 64))


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_with_exif() -> bytes:
    """The beginning of a picture of 16 x 8 pixels whose EXIF says when, where and how."""

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")

    def ifd(entries: list[bytes]) -> bytes:
        return struct.pack(">H", len(entries)) + b"".join(entries) + b"\0\0\0\0"

    def place(degrees: int, minutes: int, seconds: int) -> bytes:
        return struct.pack(">6I", degrees, 1, minutes, 1, seconds, 1)

    first = 8
    exif = first + 2 + 3 * 12 + 4
    gps = exif + 2 + 2 * 12 + 4
    data = gps + 2 + 4 * 12 + 4
    values = b"2024:05:06 07:08:09\0" + b"+02:00\0\0" + place(52, 30, 0) + place(13, 24, 36)
    time, offset, latitude, longitude = data, data + 20, data + 28, data + 52
    tiff = b"MM\0*" + struct.pack(">I", first)
    tiff += ifd(
        [
            entry(0x0112, 3, 1, struct.pack(">H", 6)),
            entry(0x8769, 4, 1, struct.pack(">I", exif)),
            entry(0x8825, 4, 1, struct.pack(">I", gps)),
        ]
    )
    tiff += ifd(
        [
            entry(0x9003, 2, 20, struct.pack(">I", time)),
            entry(0x9011, 2, 7, struct.pack(">I", offset)),
        ]
    )
    tiff += ifd(
        [
            entry(1, 2, 2, b"S\0"),
            entry(2, 5, 3, struct.pack(">I", latitude)),
            entry(3, 2, 2, b"E\0"),
            entry(4, 5, 3, struct.pack(">I", longitude)),
        ]
    )
    tiff += values
    segment = b"Exif\0\0" + tiff
    frame = struct.pack(">BHHB", 8, 8, 16, 1) + b"\1\x11\0"
    return (
        b"\xff\xd8\xff\xe1"
        + struct.pack(">H", len(segment) + 2)
        + segment
        + b"\xff\xc0"
        + struct.pack(">H", len(frame) + 2)
        + frame
        + b"\xff\xd9"
    )


def small_files(folder: Path, count: int, seed: int = 1) -> int:
    """Pictures of 2 to 20 KB of noise in folders of a hundred; their bytes."""
    noise, total = random.Random(seed), 0
    for at in range(count):
        below = folder / f"{at // 100:03}"
        below.mkdir(parents=True, exist_ok=True)
        data = png(4, 4) + noise.randbytes(noise.randrange(2_000, 20_000))
        (below / f"{at:05}.png").write_bytes(data)
        total += len(data)
    return total


def noise(path: Path, size: int, piece: int = 1 << 20) -> None:
    """A file of bytes that do not compress."""
    with path.open("wb") as file:
        for at in range(0, size, piece):
            file.write(os.urandom(min(piece, size - at)))
