"""The datasets for torch. torch is large, so they run where it is installed and the long forms
run."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest

import lakebed
from support.server import LakebedServer

if os.environ.get("LAKEBED_SOAK") != "1":
    pytest.skip("the long form", allow_module_level=True)
torch = pytest.importorskip("torch")

ROWS = 300


@pytest.fixture(scope="module")
def table(module_server: LakebedServer) -> Iterator[lakebed.Table]:
    with lakebed.connect(f"http://{module_server.http_address}", module_server.admin_key) as db:
        rows = {"id": list(range(ROWS)), "data": [b"%d" % n for n in range(ROWS)]}
        yield db.create_table("torch", rows, blobs=["data"])


def number(cell: bytes) -> object:
    """A blob as a tensor of one number."""
    return torch.tensor(int(cell))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_table(table: lakebed.Table, workers: int) -> None:
    from lakebed.torch import IterableTable

    data = IterableTable(table, batch_rows=16, seed=3, block_rows=32, decode={"data": number})
    context = "spawn" if workers else None
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    batches = list(loader)
    assert all(torch.equal(batch["id"], batch["data"]) for batch in batches)
    ids = torch.cat([batch["id"] for batch in batches]).tolist()
    assert sorted(ids) == list(range(ROWS))
    assert ids != list(range(ROWS))


def test_workers_may_be_forked_where_nothing_was_read(
    module_server: LakebedServer, table: lakebed.Table
) -> None:
    """As DataLoader does it on Linux unless it is told otherwise. In a process of its own."""
    program = """
import sys, torch, lakebed
from lakebed.torch import IterableTable
db = lakebed.connect(sys.argv[1], sys.argv[2])
data = IterableTable(db.table(sys.argv[3]), columns=["id"], filter="id >= 100", batch_rows=16)
loader = torch.utils.data.DataLoader(
    data, batch_size=None, num_workers=2, multiprocessing_context="fork"
)
assert sorted(i for batch in loader for i in batch["id"].tolist()) == list(range(100, 300))
"""
    words = [f"http://{module_server.http_address}", module_server.admin_key, table.name]
    subprocess.run([sys.executable, "-c", program, *words], check=True, timeout=100)


def test_the_state_goes_on(table: lakebed.Table) -> None:
    from lakebed.torch import IterableTable

    def make() -> IterableTable:
        return IterableTable(table, columns=["id"], batch_rows=16, seed=3)

    whole = [batch["id"].tolist() for batch in make()]
    first = make()
    iterator = iter(first)
    given = [next(iterator)["id"].tolist() for _ in range(5)]
    second = make()
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert given + [batch["id"].tolist() for batch in second] == whole


def test_a_state_that_is_loaded_is_the_state(table: lakebed.Table) -> None:
    """Also in a dataset that has read before, and with the epoch that it names."""
    from lakebed.torch import IterableTable

    def make() -> IterableTable:
        return IterableTable(table, columns=["id"], batch_rows=16, seed=3)

    first = make()
    epochs = [[batch["id"].tolist() for batch in first] for _ in range(3)]
    begun = make()
    begun.set_epoch(1)
    iterator = iter(begun)
    for _ in range(5):
        next(iterator)
    state = begun.state_dict()
    assert (state["epoch"], state["position"]) == (1, 80)
    for _ in range(3):
        next(iterator)
    begun.load_state_dict(state)
    assert begun.state_dict() == state
    assert [batch["id"].tolist() for batch in begun] == epochs[1][5:]
    assert [batch["id"].tolist() for batch in begun] == epochs[2]


def test_a_map_table(table: lakebed.Table) -> None:
    from lakebed.torch import MapTable

    data = MapTable(table, decode={"data": number})
    assert len(data) == ROWS
    assert data[-1]["id"].item() == ROWS - 1
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    batches = list(loader)
    assert all(torch.equal(batch["id"], batch["data"]) for batch in batches)
    assert sorted(torch.cat([b["id"] for b in batches]).tolist()) == list(range(ROWS))
    with pytest.raises(IndexError):
        data[ROWS]
