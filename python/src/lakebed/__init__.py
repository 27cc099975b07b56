"""Client, worker and training loader of the Lakebed lakehouse server.

    import lakebed

    db = lakebed.connect("http://127.0.0.1:10024")
    table = db.create_table("frames", [{"id": 1, "caption": "a red car"}])
    print(table.scan(filter="id = 1").to_pandas())

The parts: `connection.py` and `table.py` are the client, `aio.py` the same with awaitables,
`loader.py` and `torch.py` read for training, `worker/` and `models/` compute columns, `ray/` runs
workers on a cluster. Importing this package imports neither torch nor onnxruntime nor ray. What the
LanceDB SDK does well (indexes, schema changes, tags) is left to it: it speaks to the same server.
"""

from lakebed import errors
from lakebed._rows import Rows
from lakebed._version import __version__
from lakebed._write import Receipt
from lakebed.aio import AsyncConnection, connect_async
from lakebed.blob import BlobFile
from lakebed.connection import Connection, connect
from lakebed.errors import LakebedError
from lakebed.importing import import_paths
from lakebed.jobs import Job, JobFailed, Jobs, JobStatus
from lakebed.row_sets import RowSet, RowSets
from lakebed.serving import Server, serve
from lakebed.table import Table

__all__ = [
    "AsyncConnection",
    "BlobFile",
    "Connection",
    "Job",
    "JobFailed",
    "JobStatus",
    "Jobs",
    "LakebedError",
    "Receipt",
    "RowSet",
    "RowSets",
    "Rows",
    "Server",
    "Table",
    "__version__",
    "connect",
    "connect_async",
    "errors",
    "import_paths",
    "serve",
]
