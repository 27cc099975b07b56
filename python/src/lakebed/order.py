"""In which order a training run reads rows: a pure function of seed, epoch and size.

```text
  rows      0 ......................................... n   as stored
  blocks    [  0  ][  1  ][  2  ][  3  ][  4  ][  5  ][ 6 ]   read as a whole, because rows that
                                                              lie together are cheap to read
  windows   [  4      0  ][  6   2  ][  5      1  ][  3  ]    blocks in an order of their own
  sequence  rows of a window in an order of their own         what is cut among ranks and workers
```

Nothing is stored: a position in the sequence is a number, so a run that was stopped goes on exactly
where it was, and ranks share nothing but the seed. The permutation is a Feistel network over the
next power of four, walked until it falls inside the size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint64]

# Small sizes have few bits to mix; with 4 rounds many numbers stayed where they were.
ROUNDS = 8
BLOCK_ROWS = 1_024
WINDOW_BLOCKS = 8
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """Sixty-four bits out of sixty-four, each of which depends on all (SplitMix64's finish)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_all(values: Indices) -> Indices:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Permutation:
    """The numbers below `size`, each once, in an order that `seed` alone decides."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 0:
            raise ValueError(f"a permutation of {size} numbers is not possible")
        self.size = size
        # Half of the bits of the network; at least one, so that there are two halves.
        self._half = max(1, -(-max(size - 1, 1).bit_length() // 2))
        self._keys = [mix((seed & _MASK) ^ mix(round_)) for round_ in range(ROUNDS)]

    def at(self, places: Indices) -> Indices:
        """What stands at places, all below `size`."""
        found = self._once(places.astype(np.uint64))
        while (outside := found >= np.uint64(self.size)).any():
            found[outside] = self._once(found[outside])
        return found

    def place(self, number: int) -> int:
        """Where a number stands."""
        half, mask = self._half, (1 << self._half) - 1
        while True:
            left, right = number >> half, number & mask
            for key in reversed(self._keys):
                left, right = right ^ (mix(left ^ key) & mask), left
            number = left << half | right
            if number < self.size:
                return number

    def _once(self, numbers: Indices) -> Indices:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = numbers >> half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix_all(right ^ np.uint64(key)) & mask)
        return (left << half) | right


@dataclass(frozen=True)
class Window:
    """Rows that are read together: blocks as (first row, rows), and which of their rows to give, in
    order, counted over the blocks as they are listed."""

    blocks: tuple[tuple[int, int], ...]
    picks: Indices


@dataclass(frozen=True)
class Order:
    """The sequence of all rows of one epoch.

    Attributes:
        rows: of the table's version, or of what a filter leaves of it.
        seed: of the order; None reads as stored.
    """

    rows: int
    seed: int | None
    epoch: int = 0
    block_rows: int = BLOCK_ROWS
    window_blocks: int = WINDOW_BLOCKS

    def share(self, rank: int, ranks: int, *, even: bool) -> tuple[int, int]:
        """The part of the sequence that is one rank's: (begin, end). Parts differ by one row at
        most; with `even` not at all, and up to `ranks - 1` rows are left out."""
        return part(0, self.rows, rank, ranks, even=even)

    def windows(self, begin: int, end: int) -> Iterator[Window]:
        """What to read for the places from `begin` to `end` of the sequence."""
        while begin < end:
            number, start = self._window_at(begin)
            blocks = self._blocks(number)
            size = sum(rows for _, rows in blocks)
            stop = min(end, start + size)
            places = np.arange(begin - start, stop - start, dtype=np.uint64)
            if self.seed is not None:
                places = Permutation(size, self._key(2 + number)).at(places)
            yield Window(blocks, places)
            begin = stop

    # ---- arithmetic ---------------------------------------------------------------------------

    def _key(self, use: int) -> int:
        assert self.seed is not None, "only a shuffled order has keys"
        return mix(mix(self.seed & _MASK) ^ mix(self.epoch) ^ use)

    def _block_count(self) -> int:
        return -(-self.rows // self.block_rows)

    def _short(self) -> int:
        """By how much the last block is shorter than the others."""
        return self._block_count() * self.block_rows - self.rows

    def _window_start(self, number: int) -> int:
        """Where a window begins in the sequence: all blocks before it are full, but perhaps one."""
        blocks = min(number * self.window_blocks, self._block_count())
        last = self._block_count() - 1
        place = last if self.seed is None else Permutation(last + 1, self._key(1)).place(last)
        return blocks * self.block_rows - (self._short() if place < blocks else 0)

    def _window_at(self, place: int) -> tuple[int, int]:
        number = place // (self.window_blocks * self.block_rows)
        # A short block before it moves a place by less than one block.
        while place >= self._window_start(number + 1):
            number += 1
        return number, self._window_start(number)

    def _blocks(self, number: int) -> tuple[tuple[int, int], ...]:
        count = self._block_count()
        first = number * self.window_blocks
        numbers = np.arange(first, min(first + self.window_blocks, count), dtype=np.uint64)
        if self.seed is not None:
            numbers = Permutation(count, self._key(1)).at(numbers)
        starts = (int(block) * self.block_rows for block in numbers)
        return tuple((start, min(self.block_rows, self.rows - start)) for start in starts)


def part(begin: int, end: int, number: int, count: int, *, even: bool) -> tuple[int, int]:
    """One of `count` parts of a range."""
    if not 0 <= number < count:
        raise ValueError(f"part {number} of {count} does not exist")
    size = end - begin
    if even:
        size = size // count * count
    return begin + size * number // count, begin + size * (number + 1) // count
