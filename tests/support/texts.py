"""Texts with planted near duplicates, and what brute force says of them."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


def made_texts(count: int, *, words: int = 60, vocabulary: int = 5_000, seed: int = 3) -> list[str]:
    """Texts of `words` words on average, of made-up words that are as unevenly common as real
    ones. They have nothing to do with each other."""
    dice = np.random.default_rng(seed)
    known = ["".join(dice.choice(SYLLABLES, dice.integers(2, 5))) for _ in range(vocabulary)]
    found = []
    for _ in range(count):
        length = int(dice.integers(words // 2, words * 3 // 2 + 1))
        at = np.minimum((dice.pareto(0.9, length) * 40).astype(int), vocabulary - 1)
        found.append(" ".join(known[place] for place in at))
    return found


def edited(text: str, words: int, seed: int) -> str:
    """The same text with some of its words replaced by others."""
    dice = np.random.default_rng(seed)
    parts = text.split()
    for at in dice.choice(len(parts), words, replace=False):
        parts[at] = "".join(dice.choice(SYLLABLES, 6))
    return " ".join(parts)


def with_near_duplicates(texts: Sequence[str], share: float, seed: int = 5) -> list[str]:
    """The texts, of which a share is replaced by copies of others in which a word or two, or
    nothing, is changed."""
    dice = np.random.default_rng(seed)
    found = list(texts)
    copies = dice.choice(len(found), int(len(found) * share), replace=False)
    originals = np.setdiff1d(np.arange(len(found)), copies)
    for number, at in enumerate(copies):
        original = texts[int(dice.choice(originals))]
        found[at] = edited(original, int(dice.integers(0, 3)), seed + number)
    return found


def shingles(text: str, ngram: int = 5) -> set[tuple[str, ...]]:
    """What the page about operators says that a text consists of."""
    words = re.findall(r"[^\W_]+", text.lower())
    count = max(len(words) - ngram + 1, 1)
    return {tuple(words[at : at + ngram]) for at in range(count)} if words else set()


def similarity(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Jaccard: what two sets have in common over what they have together."""
    return len(a & b) / len(a | b) if a or b else 0.0


def alike(texts: Sequence[str], threshold: float, ngram: int = 5) -> set[tuple[int, int]]:
    """All pairs of texts whose similarity is at least this, by comparing all."""
    sets = [shingles(text, ngram) for text in texts]
    pairs = itertools.combinations(range(len(texts)), 2)
    return {(a, b) for a, b in pairs if similarity(sets[a], sets[b]) >= threshold}
