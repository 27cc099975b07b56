"""The peer of DoGet: pyarrow's C++ Flight server, a process of its own with the table in memory.

python -m bench.arrow_server ROWS    prints its port once it serves
"""

import sys

import pyarrow as pa
from pyarrow import flight

from bench.rows import make_batches


class TableServer(flight.FlightServerBase):
    """Serves one table; a ticket `i/n` is the i-th of n equal parts."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.table = table

    def do_get(self, _context: object, ticket: flight.Ticket) -> flight.RecordBatchStream:
        """A stream straight out of memory: batches are sent by C++, Python is not asked again."""
        part, parts = map(int, ticket.ticket.decode().split("/"))
        batches = self.table.to_batches()
        share = batches[len(batches) * part // parts : len(batches) * (part + 1) // parts]
        return flight.RecordBatchStream(pa.Table.from_batches(share, self.table.schema))


if __name__ == "__main__":
    server = TableServer(pa.Table.from_batches(make_batches(int(sys.argv[1]))))
    print(server.port, flush=True)
    server.serve()
