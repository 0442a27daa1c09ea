"""Blanks: what a blank needs of a tokenizer, which no other module asks of it.

A blank stands in its text as the mask token does; a candidate becomes the tokens that it would have in the blank's
place.  Where white space stands before the blank, or nothing at all, that is a word of its own.  Directly behind a word
it goes on with it: WordPiece then writes ``##``, SentencePiece leaves out its ``▁``, byte-level BPE the space.

What looks like a special token in a text is text: inside the tokenizer that encodes, special tokens have names that no
text has, five code points that Unicode keeps free for such uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..errors import ClozeError, first_line
from .tokenizer_file import UNIGRAM, WORDPIECE, Added, TokenizerFile

#: What special tokens are for.
ROLES = ("begin", "pad", "end", "unknown", "mask")

_NAMES = dict(zip(ROLES, "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4"))
_NAME = re.compile("[\ufdd0-\ufdd4]")
_NO_NAME = "\ufdef"  # is as free as they are, and no token anywhere

_KEPT = 200_000  # candidates that are remembered

T = TypeVar("T")


class BlankEncoder:
    """Encodes articles with blanks, and candidates for them, as a tokenizer says.

    Args:
        file: the tokenizer
        special: the token of each of :data:`ROLES`
        rows: the embedding row of each token; others are unknown
        unknown: the row of the unknown token
        token_type: of what is returned
    """

    def __init__(
        self,
        file: TokenizerFile,
        special: Mapping[str, str],
        rows: Mapping[str, int],
        unknown: int,
        token_type: np.dtype,
    ) -> None:
        self._file, self._unknown = file, unknown
        added = looked_for(file, special)
        names = {token: _NAMES[role] for role, token in special.items()}
        self._tokenizer = file.build(names, added)
        if self._guarded(self._tokenizer.encode, _NAMES["mask"]).tokens != [_NAMES["mask"]]:  # normalised away
            added[0] = replace(added[0], normalized=False)
            self._tokenizer = file.build(names, added)
        numbers = {names.get(token, token): number for token, number in file.own.items()}
        for each in added:
            name = names.get(each.content, each.content)
            numbers[name] = self._tokenizer.token_to_id(name)
        self._row_of_number = np.full(max(numbers.values()) + 1, unknown, token_type)
        for token, row in rows.items():
            if (number := numbers.get(names.get(token, token))) is not None:
                self._row_of_number[number] = row
        self._known: dict[tuple[str, str], bytes] = {}

    def texts(self, texts: Sequence[str]) -> list[bytes]:
        """The rows of texts without blanks."""
        return [self._rows(encoding.ids) for encoding in self._encode(list(map(_free_of_names, texts)))]

    def articles(self, articles: Sequence[tuple[str, Sequence[tuple[int, int]]]]) -> list[tuple[bytes, np.ndarray]]:
        """The rows of each article with its blanks, given as spans, and where in the text each token begins.

        A blank counts as one character of the text there, whatever its length.
        """
        texts = []
        for article, blanks in articles:
            ends = [0, *(end for _, end in blanks)]
            starts = [*(start for start, _ in blanks), len(article)]
            texts.append(_NAMES["mask"].join(_free_of_names(article[a:b]) for a, b in zip(ends, starts)))
        return [
            (self._rows(found.ids), np.maximum.accumulate([start for start, _ in found.offsets], dtype=np.int64))
            for found in self._encode(texts)
        ]

    def candidates(self, candidates: Sequence[tuple[str, str]]) -> list[bytes]:
        """The rows of candidates, each with the one character before its blank, or none; one token at least.

        All white space is given as ``" "``.
        """
        if len(self._known) > _KEPT:
            self._known.clear()
        new = [pair for pair in dict.fromkeys(candidates) if pair not in self._known]
        words = [pair for pair in new if pair[0] in ("", " ")]
        for pair, encoding in zip(words, self._encode([_free_of_names(before + text) for before, text in words])):
            self._known[pair] = self._rows(encoding.ids or [-1])
        for before, text in set(new).difference(words):
            ids = self._guarded(lambda text: self._behind(*text), (_free_of_names(before), _free_of_names(text)))
            self._known[before, text] = self._rows(ids or [-1])
        return [self._known[pair] for pair in candidates]

    def _behind(self, before: str, text: str) -> list[int]:
        """Numbers of the tokens of a text directly behind a character."""
        kind, words = self._file.kind, self._words(text)
        if kind == WORDPIECE:
            ahead = self._words(before)
            both = self._words(before + text)
            if ahead and len(both) >= len(ahead) and len(both[len(ahead) - 1]) > len(ahead[-1]):
                rest = both[len(ahead) - 1][len(ahead[-1]) :]
                return [*self._continued(rest), *self._numbers(both[len(ahead) :])]
            return self._numbers(words)
        sign = "\u2581" if kind == UNIGRAM else "\u0120"
        if words and words[0].startswith(sign) and not text[:1].isspace() and not text.startswith(sign):
            words[0] = words[0][1:]
        return self._numbers(words)

    def _continued(self, word: str) -> list[int]:
        """WordPiece of the rest of a word: the longest token that fits, each time."""
        ids: list[int] = []
        prefix, start = self._file.model["continuing_subword_prefix"], 0
        while start < len(word) <= self._file.model["max_input_chars_per_word"]:
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self._file.own), start)
            if end == start:
                return [-1]
            ids.append(self._file.own[prefix + word[start:end]])
            start = end
        return ids if start == len(word) else [-1]

    def _words(self, text: str) -> list[str]:
        """A text as the model gets it."""
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]

    def _numbers(self, words: Sequence[str]) -> list[int]:
        return [token.id for word in words if word for token in self._tokenizer.model.tokenize(word)]

    def _rows(self, ids: Sequence[int]) -> bytes:
        """Rows of numbers, of which -1 stands for the unknown token."""
        numbers = np.asarray(ids, dtype=np.int64)
        rows = self._row_of_number[numbers]
        rows[numbers < 0] = self._unknown
        return rows.tobytes()

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        return self._guarded(lambda texts: self._tokenizer.encode_batch(texts, add_special_tokens=False), texts)

    def _guarded(self, work: Callable[[Any], T], given: Any) -> T:
        try:
            return work(given)
        except BaseException as error:  # tokenizers raises plain Exception, and panics are no Exceptions
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                problem = f"its tokenizer fails ({first_line(error)[:200]}); take the file that came with the weights"
                raise ClozeError(f"{self._file.where}: {problem}") from error
            raise


def looked_for(file: TokenizerFile, special: Mapping[str, str]) -> list[Added]:
    """The tokens that are looked for in a text before anything else: the mask, and those that are not special."""
    mask = file.added.get(special["mask"], Added(special["mask"]))
    return [mask, *(token for content, token in file.added.items() if content not in special.values())]


def _free_of_names(text: str) -> str:
    return text if text.isascii() else _NAME.sub(_NO_NAME, text)
