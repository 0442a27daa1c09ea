"""BPE: text → embedding rows, word by word; a word that was met before is looked up.

Byte-level BPE first splits a text into words and never merges across them.  The few ten thousand words of a language
make up nearly all of its texts, so that most of the work is one regular expression and one dictionary.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

#: GPT-2's pattern of words for the characters of :data:`_PLAIN`, where it needs no Unicode properties.
_WORD = re.compile(
    r" ?[A-Za-z]+| ?[0-9]+|'(?:[stmd]|re|ve|ll)| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)  # fmt: skip
#: ASCII, and the dashes, quotation marks and dots of typography, which are no letters, digits or white space.
_PLAIN = re.compile("[\x00-\x7f\u2010-\u2027]*")

_KEPT = 16_000_000  # bytes of words that are remembered, some 80,000 of them
_WORD_BYTES = 200  # what a word takes beside its characters


class WordEncoder:
    """Encode texts with a ``tokenizers.Tokenizer`` and the row of each of its numbers, remembering words."""

    def __init__(self, tokenizer: Any, row_of_number: np.ndarray) -> None:
        self._tokenizer = tokenizer
        self._row_of_number = row_of_number
        self._known: dict[str, bytes] = {}
        self._bytes = 0

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The embedding rows of each text as raw bytes; a text of other characters counts as one word."""
        if self._bytes > _KEPT:
            self._known.clear()
            self._bytes = 0
        look_up, rows = self._known.get, self._known.__getitem__
        encoded: list[bytes] = []
        late: list[tuple[int, list[str]]] = []  # texts with words that are new
        for text in texts:
            found = look_up(text)
            if found is None:
                words = _WORD.findall(text) if text.isascii() or _PLAIN.fullmatch(text) else [text]
                try:
                    found = b"".join(map(rows, words))
                except KeyError:
                    late.append((len(encoded), words))
                    found = b""
            encoded.append(found)
        self._learn(list(set(chain.from_iterable(words for _, words in late)).difference(self._known)))
        for number, words in late:
            encoded[number] = b"".join(map(rows, words))
        return encoded

    def _learn(self, words: Sequence[str]) -> None:
        for word, encoding in zip(words, self._tokenizer.encode_batch(words) if words else ()):
            self._known[word] = self._row_of_number[np.asarray(encoding.ids, dtype=np.int64)].tobytes()
            self._bytes += len(word) + _WORD_BYTES


def byte_characters() -> dict[str, int]:
    """The visible character that byte-level BPE writes for each byte, in GPT-2's order: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
