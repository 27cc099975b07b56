"""MinHash signatures of texts: a class that workers run.

```text
  text ─► letters and digits, lower case ─► words ─► 64 bits a word ─► n words in a row: a shingle
       ─► 32 bits a shingle ─► for each slot the smallest of (a · shingle + b) mod 2³² ─► 8 bits
```

Two texts have the same byte in a slot with the probability that their sets of shingles have in
common over what they have together (Jaccard), and by chance once in 256. Everything is done for a
block of texts at once, in numpy, so a signature costs a few microseconds. Nothing here depends on
who computes: the seed is a constant of the column, numpy is pinned, whole numbers wrap around alike
everywhere, and which character is a letter is what the function's version of Python says.

The class travels by its source alone, so what it uses lies inside of it. Any change of that source,
its words included, is another version of the function.
"""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb import udf

from lakebed.operators.packages import NUMPY


@udf(
    pip=[NUMPY],
    input_schema=pa.schema([pa.field("text", pa.large_string())]),
    output_schema=pa.binary(),
)
class minhash:
    """The MinHash signature of a text: `slots` bytes, or none where the text has no word.

    Args:
        ngram: words, or characters, of one shingle. A text with fewer has one shingle of all it
            has.
        unit: `word`, or `character` for languages that are written without spaces.
        slots: bytes of the signature, 16 to 1,024.
        seed: of the hash functions; signatures of different seeds cannot be compared.
    """

    def __init__(self, ngram: int = 5, unit: str = "word", slots: int = 128, seed: int = 1) -> None:
        if not 1 <= ngram <= 64:
            raise ValueError(f"ngram is {ngram}; 1 to 64 are allowed")
        if unit not in ("word", "character"):
            raise ValueError(f"unit is {unit!r}; word and character are known")
        if not 16 <= slots <= 1_024:
            raise ValueError(f"slots is {slots}; 16 to 1,024 are allowed")
        self.ngram, self.is_word, self.slots, self.seed = ngram, unit == "word", slots, seed
        numbers = self.mixed(np.arange(2 * slots + ngram + 1, dtype=np.uint64), seed)
        # An odd factor makes each a permutation of all numbers of 32 bits.
        self.factors = (numbers[:slots] >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
        self.terms = (numbers[slots : 2 * slots] >> np.uint64(32)).astype(np.uint32)
        self.steps = numbers[2 * slots :][:ngram] | np.uint64(1)
        # The powers of an odd number, and their inverses: what a character counts for by its place.
        self.base = int(numbers[-1]) | 1
        self.powers = self.inverses = np.ones(1, np.uint64)
        # Capitals become small, and what is no part of a word 0.
        self.ascii = bytes(ord(chr(n).lower()) if chr(n).isalnum() else 0 for n in range(128))
        self.ascii += bytes(128)
        # The same of all characters, in pages of 4,096 that came so far.
        self.pages: dict[int, Any] = {}
        self.letters = np.zeros(0, np.uint32)

    def __call__(self, text: pa.Array) -> pa.Array:
        """The signatures of a batch."""
        if not len(text):
            return pa.array([], pa.binary())
        # What lies below a null is anything, and has to count for nothing.
        text = text.cast(pa.large_string()).fill_null("")
        offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset :][: len(text) + 1]
        content = np.frombuffer(text.buffers()[2] or b"", np.uint8)
        found: list[bytes] = []
        row = 0
        while row < len(text):
            # As much as the processor's caches hold, and at least one text.
            last = int(np.searchsorted(offsets, offsets[row] + 1_048_576, "right")) - 1
            last = min(max(last, row + 1), len(text), row + 4_096)
            part = content[offsets[row] : offsets[last]].tobytes()
            found += self.block(part, offsets[row : last + 1] - offsets[row])
            row = last
        return pa.array(found, pa.binary())

    def block(self, content: bytes, limits: Any) -> list[bytes]:
        """The signatures of texts that lie between these limits, one after the other."""
        letters, limits = self.folded(content, limits)
        tokens, first = (self.words if self.is_word else self.spelled)(letters, limits)
        found = [b""] * (len(limits) - 1)
        counts = np.diff(first)
        if counts.any():
            signatures = self.smallest(*self.shingles(tokens, first[:-1], counts))
            for row, signature in zip(np.flatnonzero(counts), signatures, strict=True):
                found[row] = signature.tobytes()
        return found

    def mixed(self, numbers: Any, seed: int = 0) -> Any:
        """Numbers of 64 bits, all of whose bits depend on all: SplitMix64."""
        mixed = (numbers + np.uint64(seed & 0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))

    def folded(self, content: bytes, limits: Any) -> tuple[Any, Any]:
        """Characters in lower case, 0 for those that are no part of a word; and the limits among
        them."""
        if content.isascii():
            return np.frombuffer(content.translate(self.ascii), np.uint8), limits
        # Places in bytes become places in characters: the bytes that begin one are counted.
        is_begin = (np.frombuffer(content, np.uint8) & 0xC0) != 0x80
        begins = np.concatenate([[0], np.cumsum(is_begin)])
        points = np.frombuffer(content.decode().encode("utf-32-le"), np.uint32)
        for page in np.flatnonzero(np.bincount(points >> 12)).tolist():
            if page not in self.pages:
                self.learn(page)
        return self.letters[points], begins[limits]

    def learn(self, page: int) -> None:
        """Looks up the characters of a page."""
        import unicodedata

        folded = np.zeros(4_096, np.uint32)
        for place in range(4_096):
            letter = chr((page << 12) + place)
            # Marks are parts of words as well: vowels of Indic scripts are such.
            if letter.isalnum() or unicodedata.category(letter).startswith("M"):
                lower = letter.lower()
                folded[place] = ord(lower if len(lower) == 1 else letter)
        self.pages[page] = folded
        letters = np.zeros((max(self.pages) + 1) << 12, np.uint32)
        for at, known in self.pages.items():
            letters[at << 12 : (at + 1) << 12] = known
        self.letters = letters

    def words(self, letters: Any, limits: Any) -> tuple[Any, Any]:
        """A number for each word, and for each limit the place of the first one behind it."""
        is_part = letters != 0
        # A text begins and ends words, whatever is beside it.
        edge = limits[(limits > 0) & (limits < len(letters))]
        before, behind = np.zeros_like(is_part), np.zeros_like(is_part)
        before[1:], behind[:-1] = is_part[:-1], is_part[1:]
        before[edge] = behind[edge - 1] = False
        begins = np.flatnonzero(is_part & ~before)
        stops = np.flatnonzero(is_part & ~behind) + 1
        if len(self.powers) <= len(letters):
            self.powers = self.power(self.base, len(letters))
            self.inverses = self.power(pow(self.base, -1, 1 << 64), len(letters))
        sums = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum(letters * self.powers[: len(letters)], out=sums[1:])
        words = self.mixed((sums[stops] - sums[begins]) * self.inverses[begins])
        return words, np.searchsorted(begins, limits)

    def power(self, base: int, most: int) -> Any:
        """The powers of a number, up to the next power of two beyond `most` of them."""
        factors = np.full(1 << most.bit_length(), base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    def spelled(self, letters: Any, limits: Any) -> tuple[Any, Any]:
        """A number for each character, with one space between words; and where texts begin and
        end among them."""
        tokens, first = [], [0]
        for begin, end in itertools.pairwise(limits.tolist()):
            row = letters[begin:end].astype(np.uint64)
            at = np.flatnonzero(row)
            if len(at):
                row = row[at[0] : at[-1] + 1]
                kept = row != 0
                kept[1:] |= kept[:-1]
                row = row[kept]
                row[row == 0] = 32
            tokens.append(row if len(at) else row[:0])
            first.append(first[-1] + len(tokens[-1]))
        return self.mixed(np.concatenate(tokens)), np.array(first)

    def shingles(self, tokens: Any, first: Any, counts: Any) -> tuple[Any, Any]:
        """A number of 32 bits for each shingle, and where those of a text begin that has any."""
        first, counts = first[counts > 0], counts[counts > 0]
        made = np.maximum(counts - self.ngram + 1, 1)
        begins = np.cumsum(made) - made
        # One for each token, as if there were one text; of these the last of each text cross its
        # end.
        padded = np.concatenate([tokens, np.zeros(self.ngram - 1, np.uint64)])
        sums = np.zeros(len(tokens), np.uint64)
        for step in range(self.ngram):
            sums += padded[step : step + len(tokens)] * self.steps[step]
        at = np.arange(made.sum()) + np.repeat(first - begins, made)
        sums = sums[at]
        for row in np.flatnonzero(counts < self.ngram).tolist():
            few = int(counts[row])
            own = tokens[first[row] : first[row] + few]
            sums[begins[row]] = (own * self.steps[:few]).sum(dtype=np.uint64)
        return (self.mixed(sums) >> np.uint64(32)).astype(np.uint32), begins

    def smallest(self, shingles: Any, begins: Any) -> Any:
        """The signatures, a row for each text that has shingles."""
        found = np.empty((len(begins), self.slots), np.uint8)
        permuted = np.empty_like(shingles)
        for slot in range(self.slots):
            np.multiply(shingles, self.factors[slot], out=permuted)
            np.add(permuted, self.terms[slot], out=permuted)
            least = np.minimum.reduceat(permuted, begins)
            # Small numbers differ in their lower bits; these eight depend on all.
            found[:, slot] = (least * np.uint32(0x9E3779B1)) >> np.uint32(24)
        return found
