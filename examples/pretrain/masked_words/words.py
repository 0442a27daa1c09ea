"""Words: where they begin in a row of tokens, how common they are, and which of them are masked.

Masking any token with the same chance, most masks hide "the", "of" and commas, which an exam hardly ever leaves out.
So here a word's chance depends on how common it is, as in the example passages: those blank out one in eight of the
words that stand 100 to 2,000 times in 15 million, one in thirty of those that stand 16,000 times, and nearly none of
the commonest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairseq_cloze.data.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

#: Chance of a word to be masked, relative to others, by the logarithm to base 2 of how often it stands in the text.
_COMMONNESS = (0, 3, 5, 8, 11, 12, 13, 14, 15, 17, 20)
_RELATIVE = (0.3, 0.6, 0.9, 1.0, 1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.12)

_OTHERS = 0.04  #: of what is no word, such as punctuation


class Masked(NamedTuple):
    """A row of tokens with some words masked, each by one mask, whatever number of tokens it has."""

    tokens: np.ndarray  #: with masks, ``int64 (tokens,)``
    places: np.ndarray  #: of the mask, for each hidden token, ascending, ``int64 (hidden,)``
    hidden: np.ndarray  #: the tokens that the masks stand for, ``int64 (hidden,)``
    weights: np.ndarray  #: one over the number of tokens of the word, ``float32 (hidden,)``


class Words:
    """Words of a text.

    Args:
        tokens: of the whole text, ``(tokens,)``
        vocabulary: theirs
        known: tokens of the text whose counts say what is common; the same text without
    """

    def __init__(self, tokens: np.ndarray, vocabulary: Vocabulary, known: Words | None = None) -> None:
        texts = [vocabulary.decode([row]) for row in range(len(vocabulary))]
        special = np.zeros(len(texts), dtype=bool)
        special[[BOS, PAD, EOS, UNK, vocabulary.mask]] = True
        opens = np.array([text[:1].isalpha() for text in texts]) & ~special
        closes = np.array([text[-1:].isalpha() for text in texts]) & ~special
        is_word = np.array([text.strip()[:1].isalpha() for text in texts]) & ~special
        self.starts = np.ones(len(tokens), dtype=bool)  #: whether a token begins a word, or is none
        self.starts[1:] = ~(opens[tokens[1:]] & closes[tokens[:-1]])
        firsts = np.flatnonzero(self.starts)
        names = _names(tokens, firsts)
        if known is None:
            self._names, self._counts = np.unique(names, return_counts=True)
        else:
            self._names, self._counts = known._names, known._counts
        found = np.searchsorted(self._names, names).clip(max=len(self._names) - 1)
        counts = np.where(self._names[found] == names, self._counts[found], 0)
        relative = np.interp(np.log2(counts + 1), _COMMONNESS, _RELATIVE)
        of_words = np.where(is_word[tokens[firsts]], relative, 0.0)
        numbers = np.cumsum(self.starts) - 1
        self._relative = of_words.astype(np.float32)[numbers]  # of each token's word
        self._others = ~(is_word | special)[tokens[firsts]][numbers]
        self._mask = vocabulary.mask
        self.tokens = tokens

    def masked(self, start: int, stop: int, share: float, random: np.random.Generator) -> Masked:
        """The tokens from *start* to *stop* with words masked: the likeliest ones with a chance of *share*."""
        tokens, starts = self.tokens[start:stop].astype(np.int64), self.starts[start:stop].copy()
        starts[0] = True
        firsts, word = np.flatnonzero(starts), np.cumsum(starts) - 1
        chances = self._relative[start:stop] * share + self._others[start:stop] * _OTHERS
        hidden = (random.random(len(firsts)) < chances[firsts])[word]
        kept = starts | ~hidden
        place = (np.cumsum(kept) - 1)[firsts[word]]
        weights = 1.0 / np.bincount(word)[word]
        row = np.where(hidden, self._mask, tokens)[kept]
        return Masked(row, place[hidden], tokens[hidden], weights[hidden].astype(np.float32))


def _names(tokens: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """A number for each word, the same for the same tokens and hardly ever for others, ``uint64 (words,)``."""
    random = np.random.default_rng(0)
    factors = random.integers(1, 2**63, size=32, dtype=np.uint64) | np.uint64(1)
    lengths = np.diff(firsts, append=len(tokens))
    within = np.arange(len(tokens)) - np.repeat(firsts, lengths)
    parts = (tokens.astype(np.uint64) + np.uint64(1)) * factors[within % len(factors)]
    return np.add.reduceat(parts, firsts)
