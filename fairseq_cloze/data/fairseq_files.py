"""fairseq's files: the byte-level BPE and the dictionary of a RoBERTa, as fairseq's releases have them.

``encoder.json`` has BPE token → BPE number, ``vocab.bpe`` the merges in order, ``dict.txt`` a BPE number a line, whose
rank, after four special symbols, is the row of the embedding; ``<mask>`` is the last row where it is not listed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from ..errors import ClozeError, printable
from ..jsontext import NotJson, parse_json
from .bpe import byte_characters

DICTIONARY_FILE = "dict.txt"
ENCODER_FILE = "encoder.json"
MERGES_FILE = "vocab.bpe"
FAIRSEQ_FILES = (DICTIONARY_FILE, ENCODER_FILE, MERGES_FILE)

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_SYMBOL = "<mask>"
END_OF_TEXT = "<|endoftext|>"

_NUMBERS = 1 << 24  # BPE numbers are below

_PAIRS = re.compile(r"(?:[^ \r\n]+ [^ \r\n]+\n)+")

GPT2_BPE_URL = "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/"


class FairseqFiles:
    """The contents of :data:`FAIRSEQ_FILES`, which came from *origin*.

    Raises:
        ClozeError: they cannot be read or do not belong together
    """

    def __init__(self, files: Mapping[str, bytes], origin: str) -> None:
        self.files = {name: bytes(files[name]) for name in FAIRSEQ_FILES}
        self.origin = origin
        #: BPE token → BPE number
        self.numbers: dict[str, int] = _parse_json(self.files[ENCODER_FILE], f"{origin}: {ENCODER_FILE}")
        #: pairs of tokens in order of rank
        self.merges = self._pairs(MERGES_FILE, "two tokens with a space between them", "copy the file again")
        dictionary = self._pairs(
            DICTIONARY_FILE, "a symbol and a count", "take the dict.txt that came with the weights"
        )
        #: dictionary symbols by embedding row, special symbols and ``<mask>`` included
        self.symbols: list[str] = [*SPECIAL_SYMBOLS, *(symbol for symbol, _ in dictionary)]
        if MASK_SYMBOL not in self.symbols:  # as fairseq's masked_lm task does
            self.symbols.append(MASK_SYMBOL)
        rows = {symbol: row for row, symbol in enumerate(self.symbols)}
        if len(rows) != len(self.symbols):
            repeated = next(symbol for row, symbol in enumerate(self.symbols) if rows[symbol] != row)
            raise ClozeError(
                f"{origin}: {DICTIONARY_FILE} holds '{repeated}' twice; take the one that came with the weights"
            )
        if not 0 <= min(self.numbers.values()) <= max(self.numbers.values()) < _NUMBERS:
            token, number = next(pair for pair in self.numbers.items() if not 0 <= pair[1] < _NUMBERS)
            raise ClozeError(
                f"{origin}: {ENCODER_FILE}: expected numbers from 0 to {_NUMBERS:,}, found {number} for "
                f"'{token[:40]}'; copy the file again"
            )
        if len(set(self.numbers.values())) < len(self.numbers):
            raise ClozeError(
                f"{origin}: {ENCODER_FILE}: expected each number once, found one twice; copy the file again"
            )
        known = sum(str(number) in rows for number in self.numbers.values())
        if known < 0.5 * len(self.numbers):
            raise ClozeError(
                f"{origin}: {DICTIONARY_FILE} and {ENCODER_FILE} do not belong together: "
                f"{known:,} of {len(self.numbers):,} BPE tokens stand in the dictionary; "
                "take all three files from the folder of the weights"
            )
        named = {*chain.from_iterable(self.merges), *(left + right for left, right in self.merges)}
        if missing := named - self.numbers.keys():
            raise ClozeError(
                f"{origin}: {MERGES_FILE} and {ENCODER_FILE} do not belong together ('{min(missing)}', which a merge "
                "names, has no number); take all three files from the folder of the weights"
            )

    def _pairs(self, name: str, expected: str, what_to_do: str) -> list[tuple[str, str]]:
        """The two words of each line of a file."""
        text = self.files[name].decode("utf-8", "surrogateescape")
        body = text.partition("\n")[2] if text.startswith("#version") else text
        if _PAIRS.fullmatch(body):  # a sound file is read at once; line by line where it has to be said what is wrong
            words = body.replace("\n", " ").split(" ")
            firsts, seconds = words[:-1:2], words[1::2]
            if _is_text("".join(words)) and (name != DICTIONARY_FILE or "".join(seconds).isdecimal()):
                return list(zip(firsts, seconds))
        pairs = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line or (number == 1 and line.startswith("#version")):
                continue
            pair = line.rstrip("\r").split(" ")
            counted = name != DICTIONARY_FILE or pair[-1].isdecimal()
            if len(pair) != 2 or not all(pair) or not counted or not _is_text(pair[0] + pair[1]):
                where = f"{self.origin}: {name}, line {number}"
                raise ClozeError(f"{where}: expected {expected}, found '{line[:40]}'; {what_to_do}")
            pairs.append((pair[0], pair[1]))
        return pairs

    @cached_property
    def digests(self) -> dict[str, str]:
        """As manifests of formats 1 and 2 have them: of the symbols in order, of BPE numbers and merges in order."""
        bpe = [sorted(self.numbers.items()), self.merges]
        return {
            "dictionary_digest": hashlib.sha256("\n".join(self.symbols).encode()).hexdigest(),
            "bpe_digest": hashlib.sha256(json.dumps(bpe, separators=(",", ":")).encode()).hexdigest(),
        }

    def rows(self) -> tuple[list[str], list[str]]:
        """Tokens by row, special ones included, each once, and tokens of the BPE that have no row."""
        token_of = {str(number): token for token, number in self.numbers.items()}
        special = {*SPECIAL_SYMBOLS, MASK_SYMBOL}
        taken = {*special, *self.numbers}
        tokens: list[str] = []
        seen = set(special)
        for symbol in self.symbols:
            token = symbol if symbol in special else token_of.get(symbol, "")
            if not token or (symbol not in special and token in seen):
                token = symbol if not symbol.isdecimal() else f"madeupword{len(tokens):04d}"
                while token in taken:
                    token += "_"
                taken.add(token)
            seen.add(token)
            tokens.append(token)
        return tokens, [token for token in {**self.numbers, **byte_characters()} if token not in seen]


def write_fairseq_files(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> dict[str, bytes]:
    """The three files of *tokens* by row, from the fifth on, and merges in order of rank."""
    numbers = numbers_by_rule(merges)
    # The second column counts occurrences in fairseq's own files; only the order of the rows matters to a model.
    rows = [f"{symbol} {len(tokens) - row}\n" for row, symbol in enumerate(symbols_of(tokens, numbers))]
    lines = ["#version: 0.2\n", *(f"{left} {right}\n" for left, right in merges)]
    contents = ("".join(rows), json.dumps(numbers), "".join(lines))
    return {name: content.encode() for name, content in zip(FAIRSEQ_FILES, contents)}


def numbers_by_rule(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """BPE numbers by GPT-2's rule: bytes in its order, then one per merge, then the end of text."""
    numbers: dict[str, int] = {}
    for token in [*byte_characters(), *(left + right for left, right in merges), END_OF_TEXT]:
        numbers.setdefault(token, len(numbers))
    return numbers


def symbols_of(tokens: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    """What a dictionary calls *tokens*: by BPE number where they have one."""
    special = {*SPECIAL_SYMBOLS, MASK_SYMBOL}
    return [str(numbers[token]) if token in numbers and token not in special else token for token in tokens]


def _is_text(token: str) -> bool:
    return token.isascii() or printable(token) == token


def _parse_json(content: bytes, where: str) -> dict[str, Any]:
    try:
        numbers = parse_json(content)
    except NotJson as error:
        raise ClozeError(f"{where}: {error}; copy the file again") from error
    if not isinstance(numbers, dict) or not numbers or not all(type(value) is int for value in numbers.values()):
        raise ClozeError(f"{where}: expected a JSON object from BPE tokens to numbers; copy the file again")
    try:
        "".join(numbers).encode()
    except UnicodeEncodeError as error:
        raise ClozeError(
            f"{where}: expected BPE tokens, found half of a surrogate pair; copy the file again"
        ) from error
    return numbers
