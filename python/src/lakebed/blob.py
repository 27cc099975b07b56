"""A blob as a file: seekable, read by ranges, with read-ahead that grows while reading goes
straight on.

The version is pinned when the file is opened, so its bytes never change under a reader.
"""

import io
import threading
from collections.abc import Mapping
from typing import Any

from lakebed._http import HttpDoor, quoted
from lakebed._retry import retried
from lakebed.errors import Internal

READ_AHEAD_BYTES_MIN = 64 << 10
READ_AHEAD_BYTES_MAX = 8 << 20


class BlobFile(io.RawIOBase):
    """One blob, for whatever reads files: PIL, av, zipfile, shutil.copyfileobj.

    Attributes:
        size: bytes of the blob.
        version: the table's version that it is read from.
        media_type: as the server tells it from the bytes.
    """

    def __init__(
        self, http: HttpDoor, path: str, headers: Mapping[str, str], size: int, beginning: bytes
    ) -> None:
        super().__init__()
        self._http = http
        self._path = path
        self.size = size
        self.version = int(headers.get("x-lancedb-version", "0"))
        self.media_type = headers.get("content-type", "application/octet-stream")
        self.etag = headers.get("etag")
        self._position = 0
        # What was read last, and from where.
        self._window = beginning
        self._window_at = 0
        self._ahead = READ_AHEAD_BYTES_MIN
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<BlobFile of {self.size} bytes, {self.media_type}>"

    # ---- io -----------------------------------------------------------------------------------

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"place {base + offset} lies before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as the blob goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Everything from here on."""
        return self.read(-1)

    def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer only at the end; everything for -1.

        Raises:
            LakebedError: the server refused or could not be reached.
        """
        if self.closed:
            raise ValueError("the blob is closed")
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        with self._lock:
            data = self._read(self._position, wanted)
            self._position += len(data)
        return data

    # ---- ranges -------------------------------------------------------------------------------

    def _read(self, start: int, wanted: int) -> bytes:
        if wanted == 0:
            return b""
        offset = start - self._window_at
        held = self._window[offset : offset + wanted] if 0 <= offset < len(self._window) else b""
        if len(held) == wanted:
            return held
        goes_on = bool(held) or start == self._window_at + len(self._window)
        self._ahead = (
            min(self._ahead * 2, READ_AHEAD_BYTES_MAX) if goes_on else READ_AHEAD_BYTES_MIN
        )
        missing = wanted - len(held)
        begin = start + len(held)
        fetched = self._fetch(begin, min(self.size, begin + max(missing, self._ahead)))
        # What one read takes whole is not worth being kept.
        self._window, self._window_at = fetched[missing:], begin + missing
        return held + fetched[:missing] if held else fetched[:missing]

    def _fetch(self, start: int, stop: int) -> bytes:
        headers = {"range": f"bytes={start}-{stop - 1}"}
        if self.etag:
            headers["if-range"] = self.etag
        answer = retried(lambda: self._http.request("GET", self._path, headers=headers))
        if answer.status == 200 and start == 0 and len(answer.body) == self.size:
            return answer.body[: stop - start]
        if answer.status != 206 or len(answer.body) != stop - start:
            raise Internal(
                f"asked for bytes {start} to {stop}, got status {answer.status} "
                f"with {len(answer.body)} bytes"
            )
        return answer.body


def open_blob(
    http: HttpDoor, table: str, column: str, row_id: int, version: int | str | None
) -> BlobFile | None:
    """The blob of a cell, or None where the cell is null.

    Raises:
        NotFound: there is no such row or table.
    """
    path = f"/v1/table/{quoted(table)}/blob/{quoted(column)}/{int(row_id)}/bytes"
    name = "version" if isinstance(version, int) else "tag"
    params = "" if version is None else f"?{name}={quoted(str(version))}"
    # The first read of most readers is at the beginning, so the look at the size brings that along.
    headers = {"range": f"bytes=0-{READ_AHEAD_BYTES_MIN - 1}"}
    answer = retried(lambda: http.request("GET", path + params, headers=headers, empty_is_ok=True))
    if answer.status == 204:
        return None
    # From here on the version that answered, so that the bytes cannot change.
    pinned = answer.headers.get("x-lancedb-version")
    place = path + (f"?version={pinned}" if pinned else params)
    size = answer.headers.get("content-range", "").rpartition("/")[2]
    beginning = b"" if answer.status == 416 else answer.body
    if not size.isdigit():
        raise Internal(f"asked for a range, got status {answer.status} without a size")
    return BlobFile(http, place, answer.headers, int(size), beginning)
