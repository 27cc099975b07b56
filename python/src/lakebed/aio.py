"""The client with awaitables: the same calls, each made by a thread of a pool.

pyarrow's Flight has no asynchronous interface, and a second gRPC in the process would bring more
trouble than it saves, so this is threads and says so: as many calls run at one time as the pool has
threads. A task that is cancelled stops waiting; its call runs to its end. Waiting for a job takes a
thread only while it asks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from lakebed._rows import Rows
from lakebed._write import Receipt
from lakebed.blob import BlobFile
from lakebed.connection import Connection, connect
from lakebed.jobs import Job, JobStatus, Records, Wait
from lakebed.model_registry import ModelVersion
from lakebed.row_sets import RowSet
from lakebed.table import Table

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")
THREADS = 32
_END = object()


class _Pool:
    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="lakebed")

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        return self._executor.submit(call)

    def run(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.wrap_future(self.submit(call))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class AsyncRows:
    """`Rows` with awaitables."""

    def __init__(self, pool: _Pool, rows: Rows) -> None:
        self._pool = pool
        self._rows = rows

    async def to_arrow(self) -> pa.Table:
        """All rows as one table."""
        return await self._pool.run(self._rows.to_arrow)

    async def to_pandas(self) -> "pandas.DataFrame":
        """All rows as a data frame of pandas."""
        return await self._pool.run(self._rows.to_pandas)

    async def to_polars(self) -> "polars.DataFrame":
        """All rows as a data frame of polars."""
        return await self._pool.run(self._rows.to_polars)

    async def to_list(self) -> list[dict[str, object]]:
        """All rows as dicts."""
        return await self._pool.run(self._rows.to_list)

    async def count(self) -> int:
        """How many rows there are."""
        return await self._pool.run(self._rows.count)

    async def to_batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows batch by batch, in order, in bounded memory."""
        batches: Iterator[pa.RecordBatch] = self._rows.to_batches()
        read: Future[Any] | None = None
        try:
            while True:
                read = self._pool.submit(lambda: next(batches, _END))
                if (batch := await asyncio.wrap_future(read)) is _END:
                    return
                yield batch
        finally:
            # A generator: closing it tells the server that nobody reads on. A read that was left by
            # a cancelled task is still inside of it, so it is closed when that is over.
            close = getattr(batches, "close", None)
            if read is not None and close is not None:
                read.add_done_callback(lambda _: close())


class AsyncBlobFile:
    """`BlobFile` with awaitables."""

    def __init__(self, pool: _Pool, file: BlobFile) -> None:
        self._pool = pool
        self.file = file
        self.size = file.size

    async def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer only at the end; everything for -1."""
        return await self._pool.run(lambda: self.file.read(size))

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a place; nothing is read."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next read begins."""
        return self.file.tell()


class AsyncTable:
    """`Table` with awaitables; arguments are the same."""

    def __init__(self, pool: _Pool, table: Table) -> None:
        self._pool = pool
        self._table = table
        self.name = table.name

    async def add(self, data: Any, **options: Any) -> Receipt:
        """See `Table.add`."""
        return await self._pool.run(lambda: self._table.add(data, **options))

    async def upsert(self, data: Any, on: str | Sequence[str], **options: Any) -> Receipt:
        """See `Table.upsert`."""
        return await self._pool.run(lambda: self._table.upsert(data, on, **options))

    async def overwrite(self, data: Any, **options: Any) -> Receipt:
        """See `Table.overwrite`."""
        return await self._pool.run(lambda: self._table.overwrite(data, **options))

    async def update(self, *args: Any, **options: Any) -> int:
        """See `Table.update`."""
        return await self._pool.run(lambda: self._table.update(*args, **options))

    async def delete(self, where: str) -> int:
        """See `Table.delete`."""
        return await self._pool.run(lambda: self._table.delete(where))

    def scan(self, *args: Any, **options: Any) -> AsyncRows:
        """See `Table.scan`; nothing is sent before the rows are asked for."""
        return AsyncRows(self._pool, self._table.scan(*args, **options))

    def search(self, *args: Any, **options: Any) -> AsyncRows:
        """See `Table.search`."""
        return AsyncRows(self._pool, self._table.search(*args, **options))

    async def facets(self, *args: Any, **options: Any) -> dict[str, Any]:
        """See `Table.facets`."""
        return await self._pool.run(lambda: self._table.facets(*args, **options))

    async def suggest(self, *args: Any, **options: Any) -> dict[str, Any]:
        """See `Table.suggest`."""
        return await self._pool.run(lambda: self._table.suggest(*args, **options))

    async def blob(self, column: str, row_id: int, **options: Any) -> AsyncBlobFile | None:
        """See `Table.blob`."""
        file = await self._pool.run(lambda: self._table.blob(column, row_id, **options))
        return AsyncBlobFile(self._pool, file) if file is not None else None

    async def schema(self, **options: Any) -> pa.Schema:
        """See `Table.schema`."""
        return await self._pool.run(lambda: self._table.schema(**options))

    async def version(self) -> int:
        """See `Table.version`."""
        return await self._pool.run(self._table.version)

    async def count(self, *args: Any, **options: Any) -> int:
        """See `Table.count`."""
        return await self._pool.run(lambda: self._table.count(*args, **options))

    @property
    def row_sets(self) -> "AsyncRowSets":
        """See `Table.row_sets`."""
        return AsyncRowSets(self._pool, self._table)

    async def compare_embeddings(self, a: str, b: str, **options: Any) -> dict[str, Any]:
        """See `Table.compare_embeddings`."""
        return await self._pool.run(lambda: self._table.compare_embeddings(a, b, **options))

    async def list_vector_aliases(self, **options: Any) -> dict[str, str]:
        """See `VectorAliases.list`."""
        return await self._pool.run(lambda: self._table.vector_aliases.list(**options))

    async def set_vector_alias(self, alias: str, column: str, **options: Any) -> int:
        """See `VectorAliases.set`."""
        aliases = self._table.vector_aliases
        return await self._pool.run(lambda: aliases.set(alias, column, **options))

    async def drop_vector_alias(self, alias: str, **options: Any) -> int:
        """See `VectorAliases.drop`."""
        return await self._pool.run(lambda: self._table.vector_aliases.drop(alias, **options))

    async def drop(self) -> None:
        """See `Table.drop`."""
        await self._pool.run(self._table.drop)


class AsyncRowSets:
    """`RowSets` with awaitables; arguments are the same."""

    def __init__(self, pool: _Pool, table: Table) -> None:
        self._pool = pool
        self._sets = table.row_sets

    async def create(self, name: str, **options: Any) -> RowSet:
        """See `RowSets.create`."""
        return await self._pool.run(lambda: self._sets.create(name, **options))

    async def list(self, **options: Any) -> list[RowSet]:
        """See `RowSets.list`."""
        return await self._pool.run(lambda: self._sets.list(**options))

    async def describe(self, name: str) -> RowSet:
        """See `RowSets.describe`."""
        return await self._pool.run(lambda: self._sets.describe(name))

    async def rows(self, name: str) -> Sequence[int]:
        """All row ids of a set, in rising order."""
        return await self._pool.run(lambda: [*self._sets.rows(name)])

    async def roaring(self, name: str) -> bytes:
        """See `RowSets.roaring`."""
        return await self._pool.run(lambda: self._sets.roaring(name))

    async def drop(self, name: str) -> int:
        """See `RowSets.drop`."""
        return await self._pool.run(lambda: self._sets.drop(name))


class AsyncJobs:
    """`Jobs` with awaitables."""

    def __init__(self, pool: _Pool, connection: Connection) -> None:
        self._pool = pool
        self._jobs = connection.jobs

    async def submit(self, table: str, **options: Any) -> Job:
        """See `Jobs.submit`; the handle's own methods block."""
        return await self._pool.run(lambda: self._jobs.submit(table, **options))

    async def list(self) -> list[JobStatus]:
        """All jobs that are remembered."""
        return await self._pool.run(lambda: [*self._jobs.list()])

    async def describe(self, job_id: str) -> JobStatus:
        """See `Jobs.describe`."""
        return await self._pool.run(lambda: self._jobs.describe(job_id))

    async def pause(self, job_id: str) -> None:
        """See `Jobs.pause`."""
        await self._pool.run(lambda: self._jobs.pause(job_id))

    async def resume(self, job_id: str) -> None:
        """See `Jobs.resume`."""
        await self._pool.run(lambda: self._jobs.resume(job_id))

    async def cancel(self, job_id: str) -> None:
        """See `Jobs.cancel`."""
        await self._pool.run(lambda: self._jobs.cancel(job_id))

    async def errors(self, job_id: str, limit: int = 100) -> Records:
        """See `Jobs.errors`."""
        return await self._pool.run(lambda: self._jobs.errors(job_id, limit))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobStatus:
        """See `Jobs.wait`; shows no bar."""
        wait = Wait(self._jobs, job_id, timeout_s)
        while (ended := await self._pool.run(wait.look)) is None:
            await asyncio.sleep(wait.pause_s)
        return ended


class AsyncModels:
    """`Models` with awaitables; arguments are the same."""

    def __init__(self, pool: _Pool, connection: Connection) -> None:
        self._pool = pool
        self._models = connection.models

    async def list(self) -> Records:
        """See `Models.list`."""
        return await self._pool.run(self._models.list)

    async def describe(self, name: str) -> dict[str, Any]:
        """See `Models.describe`."""
        return await self._pool.run(lambda: self._models.describe(name))

    async def version(self, model: str) -> ModelVersion:
        """See `Models.version`."""
        return await self._pool.run(lambda: self._models.version(model))

    async def register(self, name: str, path: str | Path, **options: Any) -> ModelVersion:
        """See `Models.register`."""
        return await self._pool.run(lambda: self._models.register(name, path, **options))

    async def tag(self, name: str, version: int, tag: str) -> None:
        """See `Models.tag`."""
        await self._pool.run(lambda: self._models.tag(name, version, tag))

    async def untag(self, name: str, tag: str) -> None:
        """See `Models.untag`."""
        await self._pool.run(lambda: self._models.untag(name, tag))

    async def export(self, model: str, to: str | Path) -> ModelVersion:
        """See `Models.export`."""
        return await self._pool.run(lambda: self._models.export(model, to))

    async def drop(self, name: str, version: int | None = None, *, force: bool = False) -> None:
        """See `Models.drop`."""
        await self._pool.run(lambda: self._models.drop(name, version, force=force))


class AsyncConnection:
    """`Connection` with awaitables."""

    def __init__(self, connection: Connection, threads: int = THREADS) -> None:
        self._pool = _Pool(threads)
        self.sync = connection
        self.jobs = AsyncJobs(self._pool, connection)
        self.models = AsyncModels(self._pool, connection)

    async def __aenter__(self) -> "AsyncConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the sockets and the threads."""
        # Not by the pool, whose threads may all be taken by calls that wait.
        await asyncio.to_thread(self.sync.close)
        self._pool.close()

    def table(self, name: str) -> AsyncTable:
        """A table by its id."""
        return AsyncTable(self._pool, self.sync.table(name))

    async def create_table(self, name: str, data: Any = None, **options: Any) -> AsyncTable:
        """See `Connection.create_table`."""
        await self._pool.run(lambda: self.sync.create_table(name, data, **options))
        return self.table(name)

    async def tables(self) -> list[str]:
        """The ids of all tables."""
        return await self._pool.run(self.sync.tables)

    async def find(self, text: str, **options: Any) -> list[dict[str, Any]]:
        """See `Connection.find`."""
        return await self._pool.run(lambda: self.sync.find(text, **options))

    async def workers(self) -> list[dict[str, Any]]:
        """See `Connection.workers`."""
        return await self._pool.run(self.sync.workers)

    async def sql(self, query: str, parameters: Sequence[Any] | None = None) -> AsyncRows:
        """See `Connection.sql`."""
        return AsyncRows(self._pool, await self._pool.run(lambda: self.sync.sql(query, parameters)))

    async def import_paths(
        self, paths: str | Path | Sequence[str | Path], table: str | None = None, *options: str
    ) -> dict[str, Any]:
        """See `lakebed.import_paths`."""
        return await self._pool.run(lambda: self.sync.import_paths(paths, table, *options))


async def connect_async(
    url: str | None = None,
    api_key: str | None = None,
    database: str | None = None,
    *,
    threads: int = THREADS,
    **options: Any,
) -> AsyncConnection:
    """`lakebed.connect` with awaitables, over a pool of `threads`."""
    return AsyncConnection(connect(url, api_key, database, **options), threads)
