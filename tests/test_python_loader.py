"""The order of training rows, and the loader that reads them; without torch."""

import datetime
import itertools
import pickle
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

import lakebed
from lakebed.loader import Loader, Snapshot, decoded
from lakebed.order import Order, Permutation, part
from support.server import LakebedServer
from support.waiting import wait_until

# ---- the permutation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1_023, 1_025, 70_001]
)
def test_every_number_once(size: int) -> None:
    permutation = Permutation(size, seed=11)
    found = permutation.at(np.arange(size, dtype=np.uint64))
    assert np.array_equal(np.sort(found), np.arange(size, dtype=np.uint64))
    for place in range(0, size, max(1, size // 50)):
        assert permutation.place(int(found[place])) == place


def test_golden_permutation() -> None:
    """Another language that has the same seed has to have the same order."""
    assert Permutation(10, 0).at(np.arange(10, dtype=np.uint64)).tolist() == GOLDEN_10
    assert Permutation(1_000_000, 42).at(np.arange(5, dtype=np.uint64)).tolist() == GOLDEN_1M


GOLDEN_10 = [9, 0, 5, 2, 7, 6, 4, 1, 3, 8]
GOLDEN_1M = [634957, 716253, 418093, 43874, 452867]


def test_it_mixes() -> None:
    found = Permutation(10_000, 3).at(np.arange(10_000, dtype=np.uint64)).astype(float)
    assert abs(np.corrcoef(found, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    other = Permutation(10_000, 4).at(np.arange(10_000, dtype=np.uint64))
    assert (found == other).mean() < 0.01


# ---- the order --------------------------------------------------------------------------------


def rows_of(order: Order, begin: int, end: int) -> list[int]:
    """The rows that the windows of a range give."""
    found: list[int] = []
    for window in order.windows(begin, end):
        rows = np.concatenate([np.arange(s, s + n) for s, n in window.blocks])
        found += rows[window.picks].tolist()
    return found


SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 100, 129]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [None, 1])
def test_every_row_once_whatever_the_cut(size: int, seed: int | None) -> None:
    order = Order(size, seed, block_rows=8, window_blocks=3)
    whole = rows_of(order, 0, size)
    assert sorted(whole) == list(range(size))
    if seed is None:
        assert whole == list(range(size))
    for begin, end in itertools.combinations(range(0, size + 1, 5), 2):
        assert rows_of(order, begin, end) == whole[begin:end]


def test_epochs_and_seeds_differ() -> None:
    orders = [rows_of(Order(200, seed, epoch, 8, 3), 0, 200) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_parts_cover_everything(ranks: int) -> None:
    for size in SIZES:
        cuts = [part(0, size, rank, ranks, even=False) for rank in range(ranks)]
        assert [a for a, _ in cuts] == [0, *(b for _, b in cuts[:-1])]
        assert cuts[-1][1] == size
        sizes = {b - a for a, b in (part(0, size, r, ranks, even=True) for r in range(ranks))}
        assert sizes == {size // ranks}


# ---- over a server ----------------------------------------------------------------------------

ROWS = 1_000


@pytest.fixture(scope="module")
def frames(module_server: LakebedServer) -> Iterator[lakebed.Table]:
    """A table of several fragments, with blobs."""
    with lakebed.connect(f"http://{module_server.http_address}", module_server.admin_key) as db:
        table = db.create_table("frames", frame_rows(0, 400), blobs=["data"])
        table.add(frame_rows(400, ROWS))
        yield table


def frame_rows(start: int, stop: int) -> pa.Table:
    """Numbered rows with a blob that says the number."""
    ids = list(range(start, stop))
    return pa.table(
        {
            "id": ids,
            "vector": pa.array([[i, -i] for i in ids], pa.list_(pa.float32(), 2)),
            "data": pa.array([b"%d" % i * 50 for i in ids], pa.large_binary()),
        }
    )


def ids_of(batches: Iterator[pa.Table]) -> list[int]:
    return [i for batch in batches for i in batch["id"].to_pylist()]


SMALL = {"batch_rows": 32, "block_rows": 50, "window_blocks": 3}


def test_stored_order_and_blobs(frames: lakebed.Table) -> None:
    loader = Loader(Snapshot(frames), **SMALL)
    batches = list(loader)
    assert ids_of(iter(batches)) == list(range(ROWS))
    assert len(batches) == len(loader) == 32
    assert [batch.num_rows for batch in batches[:-1]] == [32] * 31
    for row in batches[7].to_pylist():
        assert row["data"] == b"%d" % row["id"] * 50
        assert row["vector"] == [row["id"], -row["id"]]


def test_shuffled_epochs(frames: lakebed.Table) -> None:
    loader = Loader(Snapshot(frames, columns=["id"]), seed=5, **SMALL)
    first, second = ids_of(iter(loader)), ids_of(iter(loader))
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != list(range(ROWS))
    loader.set_epoch(0)
    assert ids_of(iter(loader)) == first


def test_ranks_and_workers_share_the_rows(frames: lakebed.Table) -> None:
    snapshot = Snapshot(frames, columns=["id"])
    parts = [
        ids_of(iter(Loader(snapshot, seed=5, rank=r, ranks=3, worker=w, workers=2, **SMALL)))
        for r in range(3)
        for w in range(2)
    ]
    assert sorted(itertools.chain(*parts)) == list(range(ROWS))
    even = [Loader(snapshot, rank=r, ranks=3, even=True).rows for r in range(3)]
    assert even == [333, 333, 333]


def test_a_filter_and_a_version(frames: lakebed.Table) -> None:
    old = Snapshot(frames, columns=["id"], version=1)
    assert (old.version, old.rows) == (1, 400)
    now = datetime.datetime.now(datetime.UTC)
    assert Snapshot(frames, version=now).rows == ROWS
    odd = Snapshot(frames, columns=["id"], filter="id % 2 = 1")
    assert odd.rows == ROWS // 2
    assert ids_of(iter(Loader(odd, **SMALL))) == list(range(1, ROWS, 2))
    shuffled = ids_of(iter(Loader(odd, seed=1, **SMALL)))
    assert sorted(shuffled) == list(range(1, ROWS, 2))


def test_a_version_is_fixed_when_it_is_opened(module_server: LakebedServer) -> None:
    with lakebed.connect(f"http://{module_server.http_address}", module_server.admin_key) as db:
        table = db.create_table("growing", frame_rows(0, 50))
        snapshot = Snapshot(table, columns=["id"])
        table.add(frame_rows(50, 60))
        table.delete("id < 10")
        assert ids_of(iter(Loader(snapshot))) == list(range(50))


@pytest.mark.parametrize("stop_after", [0, 1, 5, 31, 32])
def test_the_state_is_exact(frames: lakebed.Table, stop_after: int) -> None:
    snapshot = Snapshot(frames, columns=["id"])
    whole = Loader(snapshot, seed=9, **SMALL)
    expected = ids_of(iter(whole)) + ids_of(iter(whole))
    first = Loader(snapshot, seed=9, **SMALL)
    given = ids_of(itertools.islice(first, stop_after))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = Loader(snapshot, seed=9, **SMALL)
    second.load_state_dict(state)
    given += ids_of(iter(second))
    if stop_after < 32:
        given += ids_of(iter(second))
    assert given == expected


def test_another_state_is_refused_by_name(frames: lakebed.Table) -> None:
    snapshot = Snapshot(frames, columns=["id"])
    state = Loader(snapshot, seed=9).state_dict()
    with pytest.raises(lakebed.errors.InvalidArgument, match="seed is 9, this loader's is 8"):
        Loader(snapshot, seed=8).load_state_dict(state)
    with pytest.raises(lakebed.errors.InvalidArgument, match="part"):
        Loader(snapshot, seed=9, rank=1, ranks=2).load_state_dict(state)


def test_drop_last(frames: lakebed.Table) -> None:
    loader = Loader(Snapshot(frames, columns=["id"]), drop_last=True, **SMALL)
    assert len(list(loader)) == len(loader) == 31
    assert loader.epoch == 1


def test_the_state_after_the_last_whole_batch(frames: lakebed.Table) -> None:
    """Nothing more comes of this epoch, so whoever goes on begins the next."""
    loader = Loader(Snapshot(frames, columns=["id"]), drop_last=True, **SMALL)
    batches = iter(loader)
    states = [loader.state_dict() for _ in itertools.islice(batches, 31)]
    assert (states[-2]["epoch"], states[-2]["position"]) == (0, 30 * 32)
    assert (states[-1]["epoch"], states[-1]["position"]) == (1, 0)
    again = Loader(Snapshot(frames, columns=["id"]), drop_last=True, **SMALL)
    again.load_state_dict(states[-1])
    assert len(list(again)) == 31


def test_the_next_window_is_read_while_one_is_consumed(frames: lakebed.Table) -> None:
    """Also where rows are so large that one window is more than may be read ahead."""
    snapshot = Snapshot(frames, columns=["id"])
    read, started = snapshot.block, []

    def block(start: int, rows: int) -> pa.Table:
        started.append(start)
        return read(start, rows)

    snapshot.block = block
    loader = Loader(snapshot, read_ahead_bytes=1, **SMALL)
    batches = iter(loader)
    first = next(batches)
    wait_until(lambda: len(started) == 6, "the second window", 10)
    assert sorted(started) == [0, 50, 100, 150, 200, 250]
    assert ids_of(iter([first])) + ids_of(batches) == list(range(ROWS))


def test_a_snapshot_can_be_pickled(frames: lakebed.Table) -> None:
    snapshot = pickle.loads(pickle.dumps(Snapshot(frames, columns=["id"])))
    assert ids_of(iter(Loader(snapshot, **SMALL))) == list(range(ROWS))


def test_columns_as_arrays(frames: lakebed.Table) -> None:
    [batch] = itertools.islice(Loader(Snapshot(frames), batch_rows=4), 1)
    columns = decoded(batch, {"data": len})
    assert columns["id"].tolist() == [0, 1, 2, 3]
    assert columns["vector"].tolist() == [[0, 0], [1, -1], [2, -2], [3, -3]]
    assert columns["data"] == [50] * 4


def test_leaving_early_ends_the_reads(frames: lakebed.Table) -> None:
    iterator = iter(Loader(Snapshot(frames), **SMALL))
    next(iterator)
    iterator.close()
