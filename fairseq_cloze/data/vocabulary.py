"""Vocabulary: the byte-level BPE and the dictionary that belong to one set of RoBERTa weights, in fairseq's files.

``encoder.json`` has BPE token → BPE number, ``vocab.bpe`` the merges in order, ``dict.txt`` a BPE number a line, whose
rank, after four special symbols, is the row of the embedding; ``<mask>`` is the last row where it is not listed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClozeError, printable
from ..files import PathLike, read_regular, write_bytes
from ..jsontext import NotJson, parse_json
from .bpe import WordEncoder

DICTIONARY_FILE = "dict.txt"
ENCODER_FILE = "encoder.json"
MERGES_FILE = "vocab.bpe"
FILES = (DICTIONARY_FILE, ENCODER_FILE, MERGES_FILE)

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_SYMBOL = "<mask>"
END_OF_TEXT = "<|endoftext|>"

_NUMBERS = 1 << 24  # BPE numbers are below

GPT2_BPE_URL = "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/"


class Vocabulary:
    """Text ↔ embedding rows, from the contents of :data:`FILES` and where they came from, for messages.

    Raises:
        ClozeError: the files cannot be read or do not belong together
    """

    def __init__(self, files: Mapping[str, bytes], origin: str) -> None:
        self.files = {name: bytes(files[name]) for name in FILES}
        self.origin = origin
        self._numbers: dict[str, int] = _parse_json(self.files[ENCODER_FILE], f"{origin}: {ENCODER_FILE}")
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
        for token, number in self._numbers.items():
            if not 0 <= number < _NUMBERS:
                raise ClozeError(
                    f"{origin}: {ENCODER_FILE}: expected numbers from 0 to {_NUMBERS:,}, found {number} for "
                    f"'{token[:40]}'; copy the file again"
                )
        self._row_of_number = np.full(max(self._numbers.values()) + 1, UNK, dtype=np.int64)
        for number in self._numbers.values():
            self._row_of_number[number] = rows.get(str(number), UNK)
        known = int((self._row_of_number != UNK).sum())
        if known < 0.5 * len(self._numbers):
            raise ClozeError(
                f"{origin}: {DICTIONARY_FILE} and {ENCODER_FILE} do not belong together: "
                f"{known:,} of {len(self._numbers):,} BPE tokens stand in the dictionary; "
                "take all three files from the folder of the weights"
            )

    def _pairs(self, name: str, expected: str, what_to_do: str) -> list[tuple[str, str]]:
        """The two words of each line of a file."""
        pairs = []
        for number, line in enumerate(self.files[name].decode("utf-8", "surrogateescape").split("\n"), 1):
            if not line or (number == 1 and line.startswith("#version")):
                continue
            pair = line.rstrip("\r").split(" ")
            counted = name != DICTIONARY_FILE or pair[-1].isdecimal()
            if len(pair) != 2 or not all(pair) or not counted or not _is_text(pair[0] + pair[1]):
                where = f"{self.origin}: {name}, line {number}"
                raise ClozeError(f"{where}: expected {expected}, found '{line[:40]}'; {what_to_do}")
            pairs.append((pair[0], pair[1]))
        return pairs

    def __reduce__(self) -> Any:
        """Other processes read the files anew rather than get what was made of them."""
        return Vocabulary, (self.files, self.origin)

    @classmethod
    def load(cls, folder: PathLike) -> Vocabulary:
        """Read the three files of a folder.

        Raises:
            ClozeError: a file is missing or does not fit
        """
        return cls(cls.read(folder), os.fspath(folder))

    @staticmethod
    def read(folder: PathLike) -> dict[str, bytes]:
        """What the three files of a folder hold.

        Raises:
            ClozeError: a file is missing or cannot be read
        """
        missing = [name for name in FILES if not os.path.exists(Path(folder, name))]
        if missing:
            raise ClozeError(
                f"{folder}: {' and '.join(missing)} not found; a folder of weights needs {', '.join(FILES)} "
                f"(for fairseq's own RoBERTa tarballs, get {ENCODER_FILE} and {MERGES_FILE} from {GPT2_BPE_URL})"
            )
        contents = {}
        for name in FILES:
            try:
                contents[name] = read_regular(Path(folder, name))
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error})"
                raise ClozeError(f"{Path(folder, name)}: {problem}; copy the file again") from error
        return contents

    def save(self, folder: PathLike, replace: bool = True) -> None:
        """Write the three files, byte for byte as they were read.

        Raises:
            ClozeError: one cannot be written, or is there with other content and not to *replace*
        """
        for path in () if replace else (Path(folder, name) for name in FILES):
            if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == self.files[path.name]):
                raise ClozeError(f"{path}: already exists and is of another vocabulary; choose another folder")
        for name, content in self.files.items():
            write_bytes(Path(folder, name), content)

    @classmethod
    def build(cls, tokens: Sequence[str], merges: Sequence[tuple[str, str]], origin: str) -> Vocabulary:
        """Make the three files from Hugging Face's tokens by row, without special ones, and merges in order of rank.

        BPE numbers follow GPT-2's rule: bytes in its order, then one per merge, then the end of text.
        """
        numbers: dict[str, int] = {}
        for token in [*_byte_characters(), *(left + right for left, right in merges), END_OF_TEXT]:
            numbers.setdefault(token, len(numbers))
        # The second column counts occurrences in fairseq's own files; only the order of the rows matters to a model.
        rows = [f"{numbers.get(token, token)} {len(tokens) - row}\n" for row, token in enumerate(tokens)]
        lines = ["#version: 0.2\n", *(f"{left} {right}\n" for left, right in merges)]
        contents = ("".join(rows), json.dumps(numbers), "".join(lines))
        return cls({name: content.encode() for name, content in zip(FILES, contents)}, origin)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """Learn a byte-level BPE of about *size* embedding rows from *texts*.

        Raises:
            ClozeError: *size* leaves no room for merges
        """
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        reserved = len(SPECIAL_SYMBOLS) + 1  # <mask>
        if size < 256 + reserved + 1:
            raise ClozeError(f"a byte-level BPE needs at least {256 + reserved + 1} rows, {size} were asked for")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size - reserved, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
        return cls.build(tokens, merges, "learned vocabulary")

    def __len__(self) -> int:
        """Embedding rows."""
        return len(self.symbols)

    @cached_property
    def mask(self) -> int:
        """Row of ``<mask>``."""
        return self.symbols.index(MASK_SYMBOL)

    @cached_property
    def dictionary_digest(self) -> str:
        """SHA-256 of the symbols in order; counts in ``dict.txt`` do not matter."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    @cached_property
    def bpe_digest(self) -> str:
        """SHA-256 of the BPE numbers and the merges in order; layout of the files does not matter."""
        content = json.dumps([sorted(self._numbers.items()), self.merges], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` over BPE numbers, as GPT-2 splits and merges."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        try:
            tokenizer = Tokenizer(models.BPE(vocab=self._numbers, merges=self.merges))
        except Exception as error:  # tokenizers raises plain Exception
            raise ClozeError(
                f"{self.origin}: {MERGES_FILE} and {ENCODER_FILE} do not belong together ({error}); "
                "take all three files from the folder of the weights"
            ) from error
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Embedding rows of each text, without special symbols; ``int64`` arrays of shape ``(tokens,)``."""
        return [np.frombuffer(rows, self.token_type).astype(np.int64) for rows in self.encode_raw(texts)]

    def encode_raw(self, texts: Sequence[str]) -> list[bytes]:
        """:meth:`encode` as raw bytes of :attr:`token_type`."""
        return self._encoder.encode(texts)

    @cached_property
    def _encoder(self) -> WordEncoder:
        return WordEncoder(self.tokenizer, self._row_of_number.astype(self.token_type))

    @property
    def token_type(self) -> np.dtype:
        """The smallest type that holds an embedding row."""
        return token_type(len(self))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of embedding rows; special symbols appear by name."""
        out = ""
        run = b""
        for token in tokens:
            symbol = self.symbols[token]
            if symbol in self._text_of_symbol:
                run += self._text_of_symbol[symbol]
            else:
                out += run.decode("utf-8", "replace") + symbol
                run = b""
        return out + run.decode("utf-8", "replace")

    @cached_property
    def nothing(self) -> np.ndarray:
        """Tokens that stand for the empty candidate where it is scored at a mask: a slash, as exams print it."""
        return self.encode([" /"])[0]

    @cached_property
    def _text_of_symbol(self) -> dict[str, bytes]:
        byte_of = _byte_characters()
        return {
            str(number): bytes(byte_of[character] for character in token)
            for token, number in self._numbers.items()
            if byte_of.keys() >= set(token)
        }

    @cached_property
    def is_part(self) -> np.ndarray:
        """Whether each row is a part of a character, which byte-level BPE falls back to; ``bool (rows,)``."""
        return np.array([_is_part(self._text_of_symbol.get(symbol, b"")) for symbol in self.symbols])

    def token_rows(self) -> dict[str, int]:
        """Tokens as Hugging Face writes them (``vocab.json``) → embedding rows."""
        token_of = {str(number): token for token, number in self._numbers.items()}
        return {token_of.get(symbol, symbol): row for row, symbol in enumerate(self.symbols)}


def _is_part(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _is_text(token: str) -> bool:
    return token.isascii() or printable(token) == token


def token_type(rows: int) -> np.dtype:
    """The smallest type that holds one of *rows* embedding rows."""
    return np.dtype("uint16" if rows <= 1 << 16 else "uint32")


def _byte_characters() -> dict[str, int]:
    """The visible character that byte-level BPE writes for each byte, in GPT-2's order: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _parse_json(content: bytes, where: str) -> dict[str, int]:
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
