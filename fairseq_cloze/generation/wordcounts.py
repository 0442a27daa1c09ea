"""Word counts: how often words and pairs of words stand in the text, in bounded memory.

Rare words are dropped when there are too many.  Pairs (neighbours, and content words that follow each other in a
sentence) go into two rows of hashed counters, of which the lower one counts: never too low, seldom too high.
"""

import re
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from .words import FUNCTION_WORDS, TOKEN, pool_kinds

NEIGHBOURS, CONTENT = 1, 2  # kinds of pairs

_BITS = 24
_MOST_WORDS = 400_000
_MOST_POOLED = 15_000
_PLAIN = re.compile(r"[a-z]+\Z")
_SENTENCE_END = frozenset(".!?;")


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8")) | 1 << 32  # never 0


#: Counts of one chunk: words in lower case, and per row of counters places and additions.
ChunkCounts = tuple[Counter[str], list[tuple[np.ndarray, np.ndarray]]]


def count(paragraphs: Iterable[str]) -> ChunkCounts:
    """Count the words and pairs of paragraphs."""
    words: Counter[str] = Counter()
    near: list[int] = []
    content: list[int] = []
    for text in paragraphs:
        tokens = TOKEN.findall(text)
        words.update(token for token in tokens if _PLAIN.match(token))
        for token in tokens:
            lower = token.lower()
            code = _hash(lower)
            near.append(code)
            if len(lower) > 2 and lower not in FUNCTION_WORDS and lower.isalpha():
                content.append(code)
            elif lower in _SENTENCE_END:
                content.append(0)
        near.append(0)
        content.append(0)
    hashes = np.concatenate([_pairs(near, NEIGHBOURS), _pairs(content, CONTENT)])
    rows = [np.unique(places, return_counts=True) for places in _places(hashes)]
    return words, [(place.astype(np.uint32), times) for place, times in rows]


def _pairs(codes: list[int], kind: int) -> np.ndarray:
    array = np.array(codes, dtype=np.uint64)
    kept = (array[:-1] != 0) & (array[1:] != 0)
    return _mix(array[:-1][kept], array[1:][kept], kind)


def _mix(first: np.ndarray, second: np.ndarray, kind: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed: np.ndarray = first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(29)
        mixed = mixed * np.uint64(0xBF58476D1CE4E5B9 + 2 * kind)
        return mixed ^ (mixed >> np.uint64(32))


def _places(hashes: np.ndarray) -> list[np.ndarray]:
    mask = np.uint64((1 << _BITS) - 1)
    return [hashes & mask, (hashes >> np.uint64(64 - _BITS)) & mask]


@dataclass
class Counting:
    """Counts of chunks so far: words, how many they are, and ``uint16 (2, 2 ** 24)`` counters of pairs."""

    words: Counter[str] = field(default_factory=Counter)
    total: int = 0
    rows: np.ndarray = field(default_factory=lambda: np.zeros((2, 1 << _BITS), dtype=np.uint16))

    def add(self, counts: ChunkCounts) -> None:
        """Add those of the next chunk."""
        words, pairs = counts
        self.words.update(words)
        self.total += words.total()
        least = 1
        while len(self.words) > _MOST_WORDS:
            self.words = Counter({word: times for word, times in self.words.items() if times > least})
            least *= 2
        for row, (places, times) in zip(self.rows, pairs):
            row[places] = np.minimum(row[places].astype(np.int64) + times, 65535).astype(np.uint16)

    def pools(self) -> dict[str, list[tuple[int, str]]]:
        """By kind the words that can be distractors with their counts, rarest first."""
        least = max(1, self.total // 400_000)
        common = sorted(((times, word) for word, times in self.words.items() if times >= least), reverse=True)
        pools: dict[str, list[tuple[int, str]]] = {}
        for times, word in common[:_MOST_POOLED]:
            for kind in pool_kinds(word):
                pools.setdefault(kind, []).append((times, word))
        return {kind: sorted(entries) for kind, entries in pools.items()}


class WordCounts:
    """Finished counts: :meth:`Counting.pools`, and the file of :attr:`Counting.rows`, which processes share."""

    def __init__(self, pools: dict[str, list[tuple[int, str]]], rows: Path) -> None:
        self._pools = pools
        self._counts = {kind: {word: times for times, word in entries} for kind, entries in pools.items()}
        self._rows: np.ndarray = np.load(rows, mmap_mode="r")

    def known(self, kind: str, word: str) -> bool:
        """Whether a word is common enough to be asked for as that kind."""
        return word in self._counts.get(kind, ())

    def band(self, kind: str, word: str, size: int = 120) -> list[str]:
        """Words of a kind that are about as frequent as *word*: *size* of them, or four times rarer or commoner."""
        entries = self._pools.get(kind, [])
        times = self._counts.get(kind, {}).get(word, 1)
        middle = bisect_left(entries, (times, word))
        low = min(bisect_left(entries, (times // 4, "")), max(middle - size // 2, 0))
        high = max(bisect_left(entries, (times * 4, "")), middle + size // 2)
        return [entry for _, entry in entries[low:high] if entry != word]

    def pairs(self, kind: int, firsts: list[str], seconds: list[str]) -> np.ndarray:
        """How often each first word comes before its second one, both in lower case, ``int64 (pairs,)``."""
        first, second = (np.array([_hash(word) for word in words], np.uint64) for words in (firsts, seconds))
        one, two = _places(_mix(first, second, kind))
        found: np.ndarray = np.minimum(self._rows[0][one], self._rows[1][two]).astype(np.int64)
        return found
