"""Reads a table for training: a fixed version, cut among ranks and workers, ahead of who consumes
it.

`order.py` says which rows come when; this file fetches them over several Flight streams at one time
and gives them as batches of Arrow. The position is exact: after a batch, `state_dict` names the
next row, and a loader that gets it back goes on there. No torch in here; `lakebed.torch` wraps it.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakebed._commands import columns_field, encode, without_none
from lakebed._rows import resumed
from lakebed.errors import InvalidArgument
from lakebed.order import BLOCK_ROWS, WINDOW_BLOCKS, Order, Window, part
from lakebed.table import ROW_ID, Table, Version

STREAMS = 4
READ_AHEAD_BYTES = 256 << 20
STATE_FORMAT = 1


class Snapshot:
    """A fixed version of a table, and rows of it by their places from 0. Can be pickled;
    connections are opened anew in each process.

    Args:
        columns: names, or expressions in SQL by alias; all columns without it.
        filter: rows for which this condition in SQL is true.
        row_set: only rows of this set, `NAME` or `NAME@VERSION`.
        version: a number, a tag's name or a time; the latest at this moment without it. Tag a
            version that a long run needs, so that it is kept.
        blobs: `bytes`, or `descriptor` for where the bytes lie.
    """

    def __init__(
        self,
        table: Table,
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        filter: str | None = None,
        version: Version | None = None,
        blobs: str = "bytes",
        row_set: str | None = None,
    ) -> None:
        self.table = table
        self.filter = filter
        # With its version, so that each process reads the same one.
        self.row_set = None if row_set is None else str(table.row_sets.describe(row_set))
        # Without Flight, so that worker processes may be forked from one that has only this.
        self.version, self.rows = table.pin(version, filter, row_set=self.row_set)
        self._fields = {"columns": columns_field(columns), "blobs": blobs}
        # Under a filter or in a set a place says nothing about where a row lies, so their ids are
        # fetched, once in each process, 8 bytes a row. Without they are not needed to read blocks.
        self._row_ids: npt.NDArray[np.uint64] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def row_ids(self) -> npt.NDArray[np.uint64]:
        """The ids of all rows, in stored order; fetched when first asked for."""
        with self._lock:
            if self._row_ids is None:
                scan = self.table.scan(
                    [ROW_ID], filter=self.filter, version=self.version, row_set=self.row_set
                )
                column = scan.to_arrow()[ROW_ID].combine_chunks()
                self._row_ids = np.asarray(column.to_numpy(zero_copy_only=False), np.uint64)
            return self._row_ids

    def block(self, start: int, rows: int) -> pa.Table:
        """Rows that lie together, from a place on."""
        if self.filter is not None or self.row_set is not None:
            return self.take(np.arange(start, start + rows))
        return self._read({"offset": start, "limit": rows}, rows)

    def take(self, places: npt.NDArray[Any]) -> pa.Table:
        """Rows at places, in their order."""
        ids = self.row_ids()[places]
        return self._read({"row_ids": ids.tolist()}, len(ids))

    def _read(self, which: dict[str, Any], rows: int) -> pa.Table:
        read = {"table": self.table.name, "version": self.version, **self._fields, **which}
        # A command may stand for a ticket, so one call is enough.
        ticket = encode({"read": without_none(read)})
        schema, batches = resumed(self.table._flight, ticket)
        found = pa.Table.from_batches(batches, schema)
        if found.num_rows != rows:
            raise InvalidArgument(
                f"version {self.version} of {self.table.name} gave {found.num_rows} rows for {rows}"
            )
        return found


class Loader:
    """Batches of one epoch after the other, for one worker of one rank.

    Args:
        batch_rows: rows of a batch; the last of an epoch may have fewer.
        seed: shuffles by this seed, differently in each epoch; None reads as stored.
        rank, ranks: which part of the rows is this process's.
        worker, workers: which part of that part.
        even: whether all ranks get equally many rows, leaving out up to `ranks - 1`.
        drop_last: whether a last batch with fewer rows is left out.
        block_rows: rows that are read together. Larger blocks read faster and mix less.
        window_blocks: blocks whose rows are mixed with one another.
        streams: reads that are under way at one time.
        read_ahead_bytes: how much may be read ahead of who consumes it; one window at least. Where
            rows are large, about three windows are held: what is consumed, what was read, and what
            is under way.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        batch_rows: int = 64,
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        worker: int = 0,
        workers: int = 1,
        even: bool = False,
        drop_last: bool = False,
        block_rows: int = BLOCK_ROWS,
        window_blocks: int = WINDOW_BLOCKS,
        streams: int = STREAMS,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
    ) -> None:
        for name, value in [
            ("batch_rows", batch_rows),
            ("block_rows", block_rows),
            ("window_blocks", window_blocks),
            ("streams", streams),
        ]:
            if value < 1:
                raise InvalidArgument(f"{name} is {value}; it has to be at least 1")
        self.snapshot = snapshot
        self.batch_rows = batch_rows
        self._seed = seed
        self._even = even
        self._drop_last = drop_last
        self._blocking = (block_rows, window_blocks)
        self._streams = streams
        self._read_ahead_bytes = read_ahead_bytes
        begin, end = part(0, snapshot.rows, rank, ranks, even=even)
        self._begin, self._end = part(begin, end, worker, workers, even=False)
        self._place = (rank, ranks, worker, workers)
        self.epoch = 0
        # Rows of this epoch that were given.
        self._position = 0

    @property
    def rows(self) -> int:
        """Rows of one epoch, for this worker of this rank."""
        return self._end - self._begin

    def __len__(self) -> int:
        """Batches of one epoch."""
        whole, rest = divmod(self.rows, self.batch_rows)
        return whole + (rest > 0 and not self._drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch anew; iterating to the end of one begins the next by itself."""
        self.epoch, self._position = epoch, 0

    def __iter__(self) -> Iterator[pa.Table]:
        order = Order(self.snapshot.rows, self._seed, self.epoch, *self._blocking)
        held: deque[pa.Table] = deque()
        held_rows = 0
        windows = order.windows(self._begin + self._position, self._end)
        for table in self._read_ahead(windows):
            held.append(table)
            held_rows += table.num_rows
            while held_rows >= self.batch_rows:
                batch = _first(held, self.batch_rows)
                held_rows -= self.batch_rows
                # Before it is given, so that the state in between is the one after it.
                self._position += batch.num_rows
                yield batch
        if held_rows and not self._drop_last:
            self._position += held_rows
            yield _first(held, held_rows)
        self.epoch, self._position = self.epoch + 1, 0

    def _read_ahead(self, windows: Iterator[Window]) -> Iterator[pa.Table]:
        """The rows of windows in order, with later windows on their way."""
        waiting: deque[tuple[Window, list[Future[pa.Table]]]] = deque()
        row_bytes = 0.0
        pool = ThreadPoolExecutor(self._streams, thread_name_prefix="lakebed-loader")

        def top_up() -> None:
            # By what rows were found to take; before the first is known, one window.
            ahead_bytes = sum(_rows_of(window) for window, _ in waiting) * row_bytes
            while not waiting or (row_bytes and ahead_bytes < self._read_ahead_bytes):
                window = next(windows, None)
                if window is None:
                    return
                block = self.snapshot.block
                reads = [pool.submit(block, start, rows) for start, rows in window.blocks]
                waiting.append((window, reads))
                ahead_bytes += _rows_of(window) * row_bytes

        try:
            top_up()
            while waiting:
                window, reads = waiting.popleft()
                table = pa.concat_tables([read.result() for read in reads])
                row_bytes = max(1.0, table.nbytes / max(1, table.num_rows))
                # Before the rows are given: while they are consumed, the next ones are read.
                top_up()
                if not _is_plain(window):
                    table = table.take(pa.array(window.picks))
                yield table
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    # ---- position -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain values."""
        return {"format": STATE_FORMAT, **self._identity(), **self._where()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another loader of the same rows, order and part stood.

        Raises:
            InvalidArgument: it was of other rows, another order or another part; the message names
                what differs.
        """
        expected = {"format": STATE_FORMAT, **self._identity()}
        for name, value in expected.items():
            if state.get(name) != value:
                raise InvalidArgument(
                    f"the state's {name} is {state.get(name)!r}, this loader's is {value!r}"
                )
        self.epoch, self._position = int(state["epoch"]), int(state["position"])

    def _where(self) -> dict[str, int]:
        # A rest that makes no batch is never given, so the epoch is over before it.
        if self.rows - self._position < (self.batch_rows if self._drop_last else 1):
            return {"epoch": self.epoch + 1, "position": 0}
        return {"epoch": self.epoch, "position": self._position}

    def _identity(self) -> dict[str, Any]:
        return {
            "table": self.snapshot.table.name,
            "version": self.snapshot.version,
            "filter": self.snapshot.filter,
            "row_set": self.snapshot.row_set,
            "rows": self.snapshot.rows,
            "seed": self._seed,
            "even": self._even,
            "blocking": list(self._blocking),
            "part": list(self._place),
        }


def decoded(table: pa.Table, decode: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Columns by name: numbers as arrays of numpy, vectors as two-dimensional ones, everything else
    as lists. A column that `decode` names has its function called for each cell that is not
    null."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if name in decode:
            function = decode[name]
            cells = (cell.as_py() for cell in column)
            columns[name] = [None if cell is None else function(cell) for cell in cells]
        else:
            columns[name] = _plain(column)
    return columns


def _plain(column: pa.ChunkedArray) -> Any:
    kind = column.type
    if column.null_count == 0:
        if _is_number(kind):
            return column.to_numpy()
        if pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
            flat = column.combine_chunks()
            if isinstance(flat, pa.ChunkedArray):
                flat = pa.concat_arrays(flat.chunks)
            return flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
    return column.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind == pa.bool_())


def _rows_of(window: Window) -> int:
    return sum(rows for _, rows in window.blocks)


def _is_plain(window: Window) -> bool:
    """Whether the picks are all rows in their order."""
    count = len(window.picks)
    return count == _rows_of(window) and bool((window.picks == np.arange(count)).all())


def _first(held: "deque[pa.Table]", rows: int) -> pa.Table:
    """Takes rows from the beginning of tables."""
    taken: list[pa.Table] = []
    while rows:
        table = held.popleft()
        if table.num_rows > rows:
            held.appendleft(table.slice(rows))
            table = table.slice(0, rows)
        taken.append(table)
        rows -= table.num_rows
    return pa.concat_tables(taken)
