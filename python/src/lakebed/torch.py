"""Datasets for torch over a fixed version of a table.

    from torch.utils.data import DataLoader
    from lakebed.torch import IterableTable

    data = IterableTable(db.table("stamps"), columns=["data", "label"], batch_rows=64, seed=7,
                         decode={"data": to_tensor})
    for batch in DataLoader(data, batch_size=None, num_workers=2):
        ...

Ranks are those of `torch.distributed`, or `RANK` and `WORLD_SIZE`; workers are the DataLoader's.
gRPC does not survive a fork: the datasets connect in the process that reads. Where the parent has
read before its workers are forked, give the DataLoader `multiprocessing_context="spawn"`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data

from lakebed.loader import Loader, Snapshot, decoded
from lakebed.table import Table, Version

Decode = Mapping[str, Callable[[Any], Any]]


def _rank() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def tensors(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns with arrays of numbers as tensors, and lists of tensors of one shape stacked."""
    made: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            # Arrow's memory is read-only, which torch's tensors are not.
            made[name] = torch.from_numpy(column.copy())
        elif column and all(isinstance(cell, torch.Tensor) for cell in column):
            same = len({cell.shape for cell in column}) == 1
            made[name] = torch.stack(column) if same else column
        else:
            made[name] = column
    return made


class MapTable(torch.utils.data.Dataset[dict[str, Any]]):  # type: ignore[misc]
    """Rows by their number, in stored order; for samplers. A DataLoader asks for all rows of a
    batch at once, which is one read.

    Args:
        decode: functions by column, called for each cell in the worker that reads it.
    """

    def __init__(
        self,
        table: Table,
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        filter: str | None = None,
        version: Version | None = None,
        decode: Decode | None = None,
        row_set: str | None = None,
    ) -> None:
        self.snapshot = Snapshot(
            table, columns=columns, filter=filter, version=version, row_set=row_set
        )
        self._decode = dict(decode or {})

    def __len__(self) -> int:
        return self.snapshot.rows

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Rows at places, by one read."""
        rows = self.snapshot.rows
        asked = np.asarray([place + rows if place < 0 else place for place in places], np.int64)
        if ((asked < 0) | (asked >= rows)).any():
            raise IndexError(f"the table has {rows} rows")
        columns = tensors(decoded(self.snapshot.take(asked), self._decode))
        return [{name: column[at] for name, column in columns.items()} for at in range(len(asked))]


class IterableTable(torch.utils.data.IterableDataset[dict[str, Any]]):  # type: ignore[misc]
    """Batches in a shuffled or the stored order, read ahead of who consumes them. Give it to a
    DataLoader with `batch_size=None`.

    Its state is exact: with torchdata's `StatefulDataLoader`, or without worker processes,
    `state_dict` and `load_state_dict` go on at the very row.

    Args:
        decode: functions by column, called for each cell in the worker that reads it.
        options: of `lakebed.loader.Loader`, such as `seed`, `even`, `drop_last`, `block_rows`.
    """

    def __init__(
        self,
        table: Table,
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        filter: str | None = None,
        version: Version | None = None,
        decode: Decode | None = None,
        row_set: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.snapshot = Snapshot(
            table, columns=columns, filter=filter, version=version, row_set=row_set
        )
        self._decode = dict(decode or {})
        self._options = options
        self._epoch = 0
        self._loader: Loader | None = None
        self._state: Mapping[str, Any] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration reads. To be called before it begins, as for samplers.

        Worker processes get a copy of this dataset when they begin. So with `persistent_workers`
        they do not hear of it and count by themselves; without, each epoch is to be named.
        """
        self._epoch = epoch
        self._loader = self._state = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        rank, ranks = _rank()
        self._loader = Loader(
            self.snapshot, rank=rank, ranks=ranks, worker=worker, workers=workers, **self._options
        )
        self._loader.set_epoch(self._epoch)
        if self._state is not None:
            self._loader.load_state_dict(self._state)
            self._state = None
        for table in self._loader:
            yield tensors(decoded(table, self._decode))
        self._epoch = self._loader.epoch

    def state_dict(self) -> dict[str, Any]:
        """Where this worker stands, or what was loaded last; empty before the first batch."""
        if self._loader is not None:
            return self._loader.state_dict()
        return dict(self._state or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on there."""
        self._state = dict(state) or None
        # Whatever was read before is over.
        self._loader = None
        if self._state is not None:
            self._epoch = int(self._state.get("epoch", self._epoch))
