"""Vocabulary: the tokenizer of one set of weights, and which embedding row each of its tokens has.

A data-bin and a checkpoint carry it in two files.  ``tokenizer.json`` is Hugging Face's, as it came with the weights;
``vocabulary.json`` says how many rows the embedding has, and which tokens are special.  Rows 0 to 3 are those of begin,
padding, end and unknown; then come all others in the order of the tokenizer's numbers, and the mask at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClozeError, printable
from ..files import PathLike, read_regular, write_bytes
from ..jsontext import NotJson, parse_json
from .blanks import ROLES, BlankEncoder, looked_for
from .bpe import WordEncoder, byte_characters
from .fairseq_files import (
    ENCODER_FILE,
    FAIRSEQ_FILES,
    GPT2_BPE_URL,
    MASK_SYMBOL,
    MERGES_FILE,
    SPECIAL_SYMBOLS,
    FairseqFiles,
    numbers_by_rule,
    symbols_of,
    write_fairseq_files,
)
from .tokenizer_file import BYTES, MOST_TOKENS, UNIGRAM, TokenizerFile

TOKENIZER_FILE = "tokenizer.json"
ROWS_FILE = "vocabulary.json"
FILES = (TOKENIZER_FILE, ROWS_FILE)

BOS, PAD, EOS, UNK = 0, 1, 2, 3

#: The special tokens of fairseq's RoBERTa by role.
FAIRSEQ_SPECIAL = dict(zip(ROLES, (*SPECIAL_SYMBOLS, MASK_SYMBOL)))

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>\Z")
_SPACE_BEFORE_PUNCTUATION = re.compile(r" ([.,!?;:)\]])")


class Vocabulary:
    """Text ↔ embedding rows, from the contents of :data:`FILES`, or of fairseq's three, and their place for messages.

    Raises:
        ClozeError: the files cannot be read or do not belong together
    """

    def __init__(self, files: Mapping[str, bytes], origin: str) -> None:
        self.origin = origin
        where = f"{origin}: {TOKENIZER_FILE}"
        self._given = {name: bytes(files[name]) for name in FILES} if TOKENIZER_FILE in files else None
        if self._given is not None:
            self.file = TokenizerFile.parse(self._given[TOKENIZER_FILE], where)
            rows, self.special, in_order = _parse_rows(self._given[ROWS_FILE], f"{origin}: {ROWS_FILE}")
        else:
            theirs = FairseqFiles(files, origin)
            content = _byte_level(*theirs.rows(), theirs.merges)
            rows, self.special, in_order = len(theirs.symbols), FAIRSEQ_SPECIAL, True
            self.file = TokenizerFile(content, where)
        numbers = [self._number(role) for role in ROLES]
        if max(numbers) >= rows or len(set(numbers)) < len(ROLES) or (in_order and numbers[:4] != [0, 1, 2, 3]):
            raise ClozeError(
                f"{origin}: {ROWS_FILE}: expected special tokens with a row of their own below {rows:,}, found the "
                f"numbers {', '.join(map(str, numbers))}; copy both files again"
            )
        special = set(numbers)
        others = [number for number in range(rows) if number not in special]
        #: for each row the number that ``tokenizer.json`` gives its token
        self.order = list(range(rows)) if in_order else [*numbers[:4], *others, numbers[4]]
        self.tokens = self._names()  #: the token of each row, as the tokenizer writes it

    def _number(self, role: str) -> int:
        """The number of a special token."""
        try:
            return self.file.tokens[self.special[role]]
        except KeyError as error:
            token = printable(self.special[role])[:40]
            raise ClozeError(
                f"{self.origin}: expected the token {token} in the tokenizer, found none; take the tokenizer files "
                "that came with the weights"
            ) from error

    def _names(self) -> list[str]:
        token_at = {number: token for token, number in self.file.tokens.items()}
        names = []
        for number in self.order:
            name = token_at.get(number, "")
            if not name:
                name = f"madeupword{number:04d}"
                while name in self.file.tokens:
                    name += "_"
            names.append(name)
        return names

    def __reduce__(self) -> Any:
        """Other processes read the files anew rather than get what was made of them."""
        return Vocabulary, (self.files, self.origin)

    # -- files ---------------------------------------------------------------------------------------------------------

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Contents of :data:`FILES`, as they were given or, of fairseq's three files, as they are written."""
        if self._given is not None:
            return self._given
        listed = set(self.tokens)
        others = [token for token in self.file.own if token not in listed]
        return _write(_byte_level(self.tokens, others, self.merges), len(self), self.special, True)

    @classmethod
    def load(cls, folder: PathLike) -> Vocabulary:
        """Read the files of a folder.

        Raises:
            ClozeError: a file is missing or does not fit, or there are two vocabularies
        """
        vocabulary = cls(cls.read(folder), os.fspath(folder))
        if all(os.path.isfile(Path(folder, name)) for name in (*FILES, *FAIRSEQ_FILES)):
            other = cls(_read_files(folder, FAIRSEQ_FILES), os.fspath(folder))
            if other.digests != vocabulary.digests:
                raise ClozeError(
                    f"{folder}: {TOKENIZER_FILE} and {', '.join(FAIRSEQ_FILES)} are of two vocabularies; move away "
                    "those that are not of the weights"
                )
        return vocabulary

    @staticmethod
    def lies_in(folder: PathLike) -> bool:
        """Whether a folder has the files of a vocabulary."""
        return any(all(os.path.isfile(Path(folder, name)) for name in files) for files in (FILES, FAIRSEQ_FILES))

    @staticmethod
    def read(folder: PathLike, names: Sequence[str] = ()) -> dict[str, bytes]:
        """What the files of a folder hold: those of these *names*, else :data:`FILES`, else fairseq's three.

        Raises:
            ClozeError: a file is missing or cannot be read
        """
        if not names and not os.path.isdir(folder):
            source = shlex.quote(os.fspath(folder))
            raise ClozeError(
                f"{folder}: expected a folder of weights, found {'a file' if os.path.exists(folder) else 'none'}; of a "
                f"tarball of fairseq's or a name on the Hugging Face hub 'fairseq-cloze import-hf {source} --out DIR' "
                "makes one; then give DIR"
            )
        if not names and all(os.path.lexists(Path(folder, name)) for name in FILES):
            names = FILES
        gone = [name for name in names or FILES if not os.path.lexists(Path(folder, name))]
        if names and not gone:
            return _read_files(folder, names)
        missing = [name for name in FAIRSEQ_FILES if not os.path.exists(Path(folder, name))]
        if TOKENIZER_FILE in names or (missing and os.path.lexists(Path(folder, ROWS_FILE))):
            raise ClozeError(f"{folder}: {' and '.join(gone)} not found; copy the folder again")
        if missing and os.path.lexists(Path(folder, "config.json")):
            raise ClozeError(
                f"{folder}: is a model of Hugging Face, from which no training starts; run 'fairseq-cloze import-hf "
                f"{shlex.quote(os.fspath(folder))} --out DIR' and give DIR"
            )
        if missing:
            raise ClozeError(
                f"{folder}: {' and '.join(missing)} not found; a folder of weights needs {', '.join(FAIRSEQ_FILES)} "
                f"(for fairseq's own RoBERTa tarballs, get {ENCODER_FILE} and {MERGES_FILE} from {GPT2_BPE_URL})"
            )
        return _read_files(folder, FAIRSEQ_FILES)

    def save(self, folder: PathLike, replace: bool = True) -> None:
        """Write what :meth:`load` reads: for a RoBERTa fairseq's three files, which its own loaders want, too.

        Raises:
            ClozeError: one cannot be written, or is there with other content and not to *replace*
        """
        files = self.fairseq_files() if self.is_fairseqs else self.files
        others = FILES if self.is_fairseqs else FAIRSEQ_FILES
        stale = [Path(folder, name) for name in others] if os.path.lexists(Path(folder, others[-1])) else []
        for path in () if replace else (*(Path(folder, name) for name in files), *stale):
            if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == files.get(path.name)):
                raise ClozeError(f"{path}: already exists and is of another vocabulary; choose another folder")
        for name, content in files.items():
            write_bytes(Path(folder, name), content)
        for path in stale:
            path.unlink(missing_ok=True)

    def fairseq_files(self) -> dict[str, bytes]:
        """The vocabulary of a RoBERTa in fairseq's three files; for others there are none.

        Raises:
            ClozeError: it is another kind
        """
        if not self.is_fairseqs:
            raise ClozeError(f"{self.origin}: {self.file.kind} of its own kind, for which fairseq has no files")
        return self._fairseq_files

    @cached_property
    def _fairseq_files(self) -> dict[str, bytes]:
        listed = self.tokens[4:] if self.tokens[-1] != MASK_SYMBOL else self.tokens[4:-1]
        return write_fairseq_files(listed, self.merges)

    # -- making --------------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, content: Mapping[str, Any], rows: int, special: Mapping[str, str], origin: str) -> Vocabulary:
        """Of a ``tokenizer.json``, the number of embedding rows, and the token of each of :data:`ROLES`."""
        return cls(_write(content, rows, special, False), origin)

    @classmethod
    def build(cls, tokens: Sequence[str], merges: Sequence[tuple[str, str]], origin: str) -> Vocabulary:
        """Of a RoBERTa, from Hugging Face's tokens by row, without special ones, and merges in order of rank."""
        return cls(write_fairseq_files(tokens, merges), origin)

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """Learn a byte-level BPE of about *size* embedding rows from *texts*.

        Raises:
            ClozeError: *size* leaves no room for merges
        """
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        reserved = len(ROLES)
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

    # -- tokens and rows -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Embedding rows."""
        return len(self.order)

    @cached_property
    def mask(self) -> int:
        """Row of the mask."""
        return self.order.index(self.file.tokens[self.special["mask"]])

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of tokens in order of rank; none where it is no BPE."""
        return self.file.merges

    @cached_property
    def is_fairseqs(self) -> bool:
        """Whether it is a byte-level BPE as fairseq's RoBERTa has it, and so fits into fairseq's three files."""
        added = self.file.added.keys() - self.special.values()
        return self.special == FAIRSEQ_SPECIAL and not added and self.file.splits_as_gpt2

    @cached_property
    def symbols(self) -> list[str]:
        """The entries of fairseq's dictionary by row, each another one; those of a RoBERTa are BPE numbers."""
        if self.is_fairseqs:
            return symbols_of(self.tokens, numbers_by_rule(self.merges))
        reserved = {BOS: "<s>", PAD: "<pad>", EOS: "</s>", UNK: "<unk>", self.mask: MASK_SYMBOL}
        symbols = [reserved.get(row, token) for row, token in enumerate(self.tokens)]
        taken = {*self.tokens, *reserved.values()}
        for row, symbol in enumerate(symbols):
            if row not in reserved and symbol in reserved.values():
                while symbol in taken:
                    symbol += "_"
                taken.add(symbol)
                symbols[row] = symbol
        return symbols

    @cached_property
    def dictionary_digest(self) -> str:
        """SHA-256 of the tokens by row."""
        return _digest([self.tokens, self.mask])

    @cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of all that cuts a text into tokens, whatever row they have; layout of the files does not matter."""
        return _digest([self.file.canonical(looked_for(self.file, self.special)), self.special])

    @property
    def digests(self) -> dict[str, str]:
        """As a manifest has them."""
        return {"dictionary_digest": self.dictionary_digest, "tokenizer_digest": self.tokenizer_digest}

    def token_rows(self) -> dict[str, int]:
        """Tokens as Hugging Face writes them → embedding rows."""
        return {token: row for row, token in enumerate(self.tokens)}

    # -- text → rows ---------------------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of the model alone, for which special tokens are text."""
        return self.file.build({}, ())

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Embedding rows of each text, without special symbols; ``int64`` arrays of shape ``(tokens,)``."""
        return [np.frombuffer(rows, self.token_type).astype(np.int64) for rows in self.encode_raw(texts)]

    def encode_raw(self, texts: Sequence[str]) -> list[bytes]:
        """:meth:`encode` as raw bytes of :attr:`token_type`."""
        return self.words.encode(texts) if self.is_fairseqs else self.blanks.texts(texts)

    @cached_property
    def words(self) -> WordEncoder:
        """Encodes texts word by word, which may be cut between any two words; of a RoBERTa only."""
        rows = np.full(max(self.file.tokens.values()) + 1, UNK, self.token_type)
        rows[self.order] = np.arange(len(self))
        return WordEncoder(self.tokenizer, rows)

    @cached_property
    def blanks(self) -> BlankEncoder:
        """Encodes whole texts, blanks and candidates, whatever kind of tokenizer it is."""
        return BlankEncoder(self.file, self.special, self.token_rows(), UNK, self.token_type)

    @property
    def token_type(self) -> np.dtype:
        """The smallest type that holds an embedding row."""
        return token_type(len(self))

    @cached_property
    def nothing(self) -> np.ndarray:
        """Tokens that stand for the empty candidate where it is scored at a mask: a slash, as exams print it."""
        if self.is_fairseqs:
            return self.encode([" /"])[0]
        return np.frombuffer(self.blanks.candidates([(" ", "/")])[0], self.token_type).astype(np.int64)

    @cached_property
    def makeshift(self) -> np.ndarray:
        """Rows of tokens that stand where no token fits: the unknown one and parts of characters, ``bool (rows,)``."""
        found = np.zeros(len(self), dtype=bool)
        found[UNK] = True
        for row, (token, text) in enumerate(zip(self.tokens, self._texts)):
            found[row] |= not (text.isascii() or _is_utf8(text)) or bool(_BYTE_TOKEN.match(token))
        return found

    # -- rows → text ---------------------------------------------------------------------------------------------------

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of embedding rows; special symbols appear by name.

        Of byte-level BPE it is the text that was encoded; others keep less of it, such as no white space but one space.
        """
        out = ""
        run = b""
        names = {BOS, PAD, EOS, UNK, self.mask}
        for token in tokens:
            if token in names:
                out += run.decode("utf-8", "replace") + self.tokens[token]
                run = b""
            else:
                run += self._texts[token]
        out += run.decode("utf-8", "replace")
        return out if self.file.kind == BYTES else _SPACE_BEFORE_PUNCTUATION.sub(r"\1", out)

    @cached_property
    def words_of_rows(self) -> dict[str, int]:
        """The text of each token that is whole characters, with a space before it where it begins a word → its row."""
        special = {BOS, PAD, EOS, UNK, self.mask}
        texts = ((text.decode("utf-8", "replace"), row) for row, text in enumerate(self._texts) if row not in special)
        return {text: row for text, row in texts if "\ufffd" not in text}

    @cached_property
    def _texts(self) -> list[bytes]:
        """What each row stands for in a text, with a space before it where it begins a word."""
        kind, added, byte_of = self.file.kind, self.file.added, byte_characters()
        prefix = self.file.model.get("continuing_subword_prefix")
        texts = []
        for token in self.tokens:
            if token in added:
                text = token.encode()
            elif kind == BYTES:
                try:
                    text = bytes([byte_of[character] for character in token])
                except KeyError:
                    text = token.encode()
            elif _BYTE_TOKEN.match(token) and kind == UNIGRAM:
                text = bytes([int(token[3:5], 16)])
            elif kind == UNIGRAM:
                text = token.replace("\u2581", " ").encode()
            else:
                text = (token[len(prefix) :] if prefix and token.startswith(prefix) else f" {token}").encode()
            texts.append(text)
        return texts


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def token_type(rows: int) -> np.dtype:
    """The smallest type that holds one of *rows* embedding rows."""
    return np.dtype("uint16" if rows <= 1 << 16 else "uint32")


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_files(folder: PathLike, names: Sequence[str]) -> dict[str, bytes]:
    contents = {}
    for name in names:
        try:
            contents[name] = read_regular(Path(folder, name))
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            raise ClozeError(f"{Path(folder, name)}: {problem}; copy the file again") from error
    return contents


def _write(content: Mapping[str, Any], rows: int, special: Mapping[str, str], in_order: bool) -> dict[str, bytes]:
    """The files of a vocabulary."""
    about = {"rows": rows, "special": dict(special), "in_order": in_order}
    return {
        TOKENIZER_FILE: json.dumps(content, ensure_ascii=False).encode(),
        ROWS_FILE: (json.dumps(about, indent=1) + "\n").encode(),
    }


def _parse_rows(content: bytes, where: str) -> tuple[int, dict[str, str], bool]:
    """What ``vocabulary.json`` says: rows, special tokens by role, and whether rows are in the order of numbers."""
    try:
        about = parse_json(content)
    except NotJson as error:
        raise ClozeError(f"{where}: {error}; copy the file again") from error
    fields: dict[str, Any] = about if isinstance(about, dict) else {}
    rows: Any
    special: Any
    in_order: Any
    rows, special, in_order = (fields.get(name) for name in ("rows", "special", "in_order"))
    fits = type(rows) is int and 0 < rows <= MOST_TOKENS and type(in_order) is bool and isinstance(special, dict)
    if not fits or set(special) != set(ROLES) or not all(map(_is_text, special.values())):
        raise ClozeError(
            f"{where}: expected 'rows', a number, 'special', the tokens of {', '.join(ROLES)}, and 'in_order', true or "
            "false; copy the file again"
        )
    return rows, {role: special[role] for role in ROLES}, in_order


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and printable(value) == value


def _byte_level(tokens: Sequence[str], others: Sequence[str], merges: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A ``tokenizer.json`` of a RoBERTa whose *tokens* are numbered by row; *others* have no row."""
    special = [
        {"id": tokens.index(token), "content": token, "single_word": False, "lstrip": token == MASK_SYMBOL,
         "rstrip": False, "normalized": False, "special": True}
        for token in FAIRSEQ_SPECIAL.values()
    ]  # fmt: skip
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    around = {"sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": bytes_alone,
        "post_processor": {"type": "RobertaProcessing", **around},
        "decoder": {**bytes_alone, "add_prefix_space": True},
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": ""},
            **{"end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
            "vocab": {token: number for number, token in enumerate([*tokens, *others])},
            "merges": [" ".join(pair) for pair in merges],
        },
    }
