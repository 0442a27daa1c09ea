"""Tokenizer file: Hugging Face's ``tokenizer.json``, read strictly.

It may come from a stranger.  So every step of it has to be known here, with its options and their values: no pattern
that could search for hours, no table that leads out of itself, no size without a bound.  What is known is also what a
digest covers, and what the tokenizer that encodes is built from; the rest of the file (how to decode, which special
tokens to put around a text) changes no token of a text.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..errors import ClozeError, printable
from ..jsontext import NotJson, parse_json
from .bpe import byte_characters
from .charsmap import charsmap_problem

Step = dict[str, Any]

BYTES, WORDPIECE, UNIGRAM = "byte-level BPE", "WordPiece", "Unigram"

#: Numbers of tokens are below.
MOST_TOKENS = 1 << 24

_LONGEST_WORD = 1000  # of a WordPiece, whose work grows as its square

#: Patterns that are known to take time in proportion to the text.
_PATTERNS = frozenset(
    {
        " {2,}",
        r"\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    }
)
_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def _flag(value: Any) -> bool:
    return type(value) is bool


def _text(value: Any) -> bool:
    return isinstance(value, str) and _encodes(value)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def _pattern(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    return _text(value.get("String")) or value.get("Regex") in _PATTERNS


def _charsmap(value: Any) -> bool:
    try:
        return isinstance(value, str) and not charsmap_problem(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return False


#: Type of a step → its options: the value where the file is silent (``...``: it must not be), and what it may be.
_Options = dict[str, tuple[Any, Callable[[Any], bool]]]
_NORMALIZERS: dict[str, _Options] = {
    "BertNormalizer": {
        "clean_text": (True, _flag),
        "handle_chinese_chars": (True, _flag),
        "strip_accents": (None, _one_of(None, True, False)),
        "lowercase": (True, _flag),
    },
    **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
    "Strip": {"strip_left": (..., _flag), "strip_right": (..., _flag)},
    "Replace": {"pattern": (..., _pattern), "content": (..., _text)},
    "Prepend": {"prepend": (..., _text)},
    "Precompiled": {"precompiled_charsmap": (..., _charsmap)},
}
_PRE_TOKENIZERS: dict[str, _Options] = {
    **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")},
    "ByteLevel": {"add_prefix_space": (True, _flag), "use_regex": (True, _flag)},
    "Metaspace": {
        "replacement": ("\u2581", _one_of("\u2581")),
        "prepend_scheme": ("always", _one_of("always", "first", "never")),
        "split": (True, _one_of(True)),
    },
    "Punctuation": {"behavior": ("Isolated", _one_of(*_BEHAVIORS))},
    "Digits": {"individual_digits": (False, _flag)},
    "Split": {"pattern": (..., _pattern), "behavior": (..., _one_of(*_BEHAVIORS)), "invert": (False, _flag)},
}
_MODELS: dict[str, _Options] = {
    "BPE": {
        "unk_token": (None, lambda value: value is None or _text(value)),
        "fuse_unk": (False, _flag),
        "ignore_merges": (False, _flag),
        "dropout": (None, _one_of(None, 0, 0.0)),
        "continuing_subword_prefix": (None, _one_of(None, "")),
        "end_of_word_suffix": (None, _one_of(None, "")),
        "byte_fallback": (False, _one_of(False)),
    },
    "WordPiece": {
        "unk_token": ("[UNK]", _text),
        "continuing_subword_prefix": ("##", _text),
        "max_input_chars_per_word": (100, lambda value: type(value) is int and 1 <= value <= _LONGEST_WORD),
    },
    "Unigram": {
        "unk_id": (None, lambda value: value is None or (type(value) is int and value >= 0)),
        "byte_fallback": (False, _flag),
    },
}

#: What the file may say beside, as it changes no token.
_SILENT = {"type", "vocab", "merges", "trim_offsets", "add_prefix_space", "str_rep"}


@dataclass(frozen=True)
class Added:
    """A token that is looked for in a text before anything else."""

    content: str
    lstrip: bool = False  #: takes the white space before it
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False  #: looked for after normalisation


class TokenizerFile:
    """The content of a ``tokenizer.json``, called *where* in messages.

    Raises:
        ClozeError: something in it is not known, or does not fit
    """

    def __init__(self, content: Any, where: str) -> None:
        self.where = where
        content = self._object(content, "the file")
        self.normalizer = self._steps(content.get("normalizer"), "normalizer", "normalizers", _NORMALIZERS)
        self.pre_tokenizer = self._steps(
            content.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS
        )
        model = self._object(content.get("model"), "model")
        kind = model.get("type", "BPE" if "merges" in model else "WordPiece")
        if not isinstance(kind, str) or kind not in _MODELS:
            raise self._other("the model", f"one of {', '.join(_MODELS)}", kind)
        self.model = self._options({**model, "type": kind}, "model", _MODELS[kind])
        self.scores: list[float] = []  #: of Unigram, by number
        self.own = self._unigram(model.get("vocab")) if kind == "Unigram" else self._numbers(model.get("vocab"))
        self.merges = self._read_merges(model.get("merges")) if kind == "BPE" else []
        self.kind = self._find_kind(kind)
        self.added: dict[str, Added] = {}
        #: all tokens, those that are added included, and their numbers
        self.tokens = dict(self.own)
        self._read_added(content.get("added_tokens"))
        if len(set(self.tokens.values())) < len(self.tokens):
            seen: dict[int, str] = {}
            for token, number in self.tokens.items():
                if seen.setdefault(number, token) != token:
                    found = f"'{_shown(seen[number])}' and '{_shown(token)}' for {number}"
                    raise self._error(f"expected one token for each number, found {found}")
        self._check_unknown()

    @classmethod
    def parse(cls, content: bytes, where: str) -> TokenizerFile:
        """Read the bytes of a file.

        Raises:
            ClozeError: see above, or it is no JSON
        """
        try:
            return cls(parse_json(content), where)
        except NotJson as error:
            raise ClozeError(f"{where}: {error}; copy the file again") from error

    # -- what a digest covers ------------------------------------------------------------------------------------------

    def canonical(self, added: Collection[Added]) -> dict[str, Any]:
        """All that changes a token of a text in which these *added* tokens are looked for, but no numbers."""
        if self.kind == BYTES and not self.model["ignore_merges"]:  # other tokens are never reached
            tokens: Any = [sorted(byte_characters().keys() & self.own.keys()), self.merges]
        elif self.kind == UNIGRAM:
            tokens = sorted((token, self.scores[number]) for token, number in self.own.items())
        else:
            tokens = [sorted(self.own), self.merges]
        model = {name: value for name, value in self.model.items() if name not in ("dropout", "unk_id") and value != ""}
        if self.kind == BYTES and self._has_all_bytes:
            model["unk_token"], model["fuse_unk"] = None, False
        if self.kind == UNIGRAM:
            model["unk_token"] = next(token for token, number in self.own.items() if number == self.model["unk_id"])
        return {
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "model": {name: value for name, value in model.items() if value is not None},
            "tokens": tokens,
            "added": [asdict(token) for token in sorted(added, key=lambda token: token.content)],
        }

    # -- the tokenizer that encodes ------------------------------------------------------------------------------------

    def build(self, names: Mapping[str, str], added: Collection[Added]) -> Any:
        """The ``tokenizers.Tokenizer``, in which some tokens have other *names*, with these *added* tokens alone.

        Raises:
            ClozeError: the library refuses it
        """
        from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

        if self.splits_as_gpt2 and not names and not added:  # nothing more than this, which takes a third of the time
            try:
                tokenizer = Tokenizer(models.BPE(vocab=self.own, merges=self.merges))
            except Exception as error:  # tokenizers raises plain Exception
                raise self._error(f"its parts do not belong together ({error})") from error
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            return tokenizer
        own = {names.get(token, token): number for token, number in self.own.items()}
        model = {**self.model, "vocab": own}
        if self.kind == UNIGRAM:
            ordered = sorted(self.own.items(), key=lambda pair: pair[1])
            model["vocab"] = [[names.get(token, token), self.scores[number]] for token, number in ordered]
        elif self.kind == BYTES:
            model["merges"] = [" ".join(pair) for pair in self.merges]  # as all versions of the library read them
        if model.get("unk_token"):
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        content = {
            **dict.fromkeys(("truncation", "padding", "post_processor", "decoder")),
            "version": "1.0",
            "added_tokens": [],
            "normalizer": _sequence(self.normalizer, "normalizers"),
            "pre_tokenizer": _sequence(
                [{**step, "trim_offsets": True} for step in self.pre_tokenizer], "pretokenizers"
            ),
            "model": model,
        }
        try:
            tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
            for token in added:
                options = {**asdict(token), "content": names.get(token.content, token.content)}
                tokenizer.add_tokens([AddedToken(**options)])
        except Exception as error:  # tokenizers raises plain Exception
            raise self._error(f"its parts do not belong together ({error})") from error
        return tokenizer

    # -- reading -------------------------------------------------------------------------------------------------------

    def _error(self, problem: str, advice: str = "copy or download it again") -> ClozeError:
        return ClozeError(f"{self.where}: {problem}; {advice}")

    def _other(self, what: str, expected: str, found: Any) -> ClozeError:
        return self._error(f"{what}: expected {expected}, found {_shown(found)}", "such a tokenizer cannot be used")

    def _object(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._other(what, "a JSON object", value)
        return value

    def _steps(self, value: Any, what: str, inside: str, known: Mapping[str, _Options]) -> list[Step]:
        """The steps of a part, those of sequences in one list."""
        if value is None:
            return []
        step = self._object(value, what)
        kind = step.get("type")
        if kind == "Sequence":
            parts = step.get(inside)
            if not isinstance(parts, list):
                raise self._other(f"{what}.{inside}", "a list", parts)
            return [each for part in parts for each in self._steps(part, what, inside, known)]
        if not isinstance(kind, str) or kind not in known:
            raise self._other(what, f"one of {', '.join(known)}", kind)
        if kind == "Metaspace" and "prepend_scheme" not in step and step.get("add_prefix_space") is False:
            step = {**step, "prepend_scheme": "never"}  # as older files say it
        return [self._options(step, what, known[kind])]

    def _options(self, step: Mapping[str, Any], what: str, known: _Options) -> Step:
        kind = step["type"]
        for name, value in step.items():
            if name not in known and name not in _SILENT and value not in (None, False):
                raise self._other(f"{what} {kind}", f"no {_shown(name)}", value)
        options = {"type": kind}
        for name, (default, fits) in known.items():
            value = step.get(name, default)
            if value is ... or not fits(value):
                what_fits = "a pattern that is known" if name == "pattern" else "another value"
                if name == "precompiled_charsmap":
                    what_fits, value = "a sound table", "a damaged one"
                raise self._other(f"{what} {kind}", f"{what_fits} of {name}", None if value is ... else value)
            options[name] = value
        return options

    def _numbers(self, vocab: Any) -> dict[str, int]:
        if not isinstance(vocab, dict) or not vocab:
            raise self._other("model.vocab", "tokens and their numbers", vocab)
        if not _encodes("".join(vocab)):
            raise self._error("expected tokens, found half of a surrogate pair")
        if (
            set(map(type, vocab.values())) != {int}
            or "" in vocab
            or not 0 <= min(vocab.values()) <= max(vocab.values()) < MOST_TOKENS
        ):
            for token, number in vocab.items():
                self._check_number(token, number)
        return dict(vocab)

    def _check_number(self, token: Any, number: Any) -> None:
        if not _text(token) or not token or type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise self._error(
                f"expected tokens and their numbers, from 0 to {MOST_TOKENS:,}, found {_shown(number)} for "
                f"'{_shown(token)}'"
            )

    def _unigram(self, vocab: Any) -> dict[str, int]:
        if not isinstance(vocab, list) or not vocab or len(vocab) > MOST_TOKENS:
            raise self._other("model.vocab", "pairs of a token and a score", vocab)
        numbers: dict[str, int] = {}
        for number, pair in enumerate(vocab):
            fits = isinstance(pair, list) and len(pair) == 2 and _text(pair[0]) and type(pair[1]) in (int, float)
            if not fits or not pair[0] or abs(pair[1]) > 1e30:
                raise self._other(f"model.vocab {number}", "a token and a score", pair)
            if numbers.setdefault(pair[0], number) != number:
                raise self._error(f"expected each token once, found '{_shown(pair[0])}' twice")
            self.scores.append(float(pair[1]))
        return numbers

    def _read_merges(self, merges: Any) -> list[tuple[str, str]]:
        if not isinstance(merges, list):
            raise self._other("model.merges", "a list", merges)
        pairs: list[tuple[str, str]] = []
        for number, merge in enumerate(merges, 1):
            pair = merge.split(" ") if type(merge) is str else merge
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
                raise self._error(f"merge {number}: expected two tokens, found {_shown(merge)}")
            pairs.append((pair[0], pair[1]))
        parts = {part for pair in pairs for part in pair}.union(left + right for left, right in pairs)
        if missing := parts - self.own.keys():
            found = f"expected a number for '{_shown(min(missing))}', which a merge names, found none"
            raise self._error(found, "take the tokenizer files that came with the weights")
        return pairs

    def _read_added(self, entries: Any) -> None:
        if entries is None:
            return
        if not isinstance(entries, list):
            raise self._other("added_tokens", "a list", entries)
        names = ("lstrip", "rstrip", "single_word", "normalized", "special")
        for entry in entries:
            if not isinstance(entry, dict) or not all(type(entry.get(name, False)) is bool for name in names):
                raise self._other("added_tokens", "tokens with flags", entry)
            content: Any = entry.get("content")
            number: Any = entry.get("id")
            self._check_number(content, number)
            if self.tokens.setdefault(content, number) != number:
                raise self._error(
                    f"token '{_shown(content)}' is {self.tokens[content]} in the vocabulary, {number} among the added "
                    "tokens", "take the tokenizer files that came with the weights",
                )  # fmt: skip
            flags = {name: entry[name] for name in names if name in entry}
            special = flags.pop("special", False)
            flags.setdefault("normalized", not special)
            self.added[content] = Added(content, **flags)

    def _find_kind(self, model: str) -> str:
        last = self.pre_tokenizer[-1]["type"] if self.pre_tokenizer else "none"
        types = {step["type"] for step in self.pre_tokenizer}
        if model == "BPE" and last == "ByteLevel" and "Metaspace" not in types:
            return BYTES
        if model == "Unigram" and last == "Metaspace" and types <= {"Metaspace", "WhitespaceSplit", "Whitespace"}:
            return UNIGRAM
        if model == "WordPiece" and types and not types & {"ByteLevel", "Metaspace"}:
            return WORDPIECE
        expected = {"BPE": "ByteLevel as the last", "Unigram": "Metaspace as the last", "WordPiece": "one for words"}
        raise self._other("pre_tokenizer", f"{expected[model]}, as {model} has", last)

    def _check_unknown(self) -> None:
        """What the model says of unknown words is a token."""
        unknown, number = self.model.get("unk_token"), self.model.get("unk_id")
        if (unknown is not None and unknown not in self.own) or (number is not None and number >= len(self.scores)):
            found = unknown if number is None else number
            raise self._error(f"expected the unknown token '{_shown(found)}' in the vocabulary, found none")
        if self.kind == UNIGRAM and number is None:
            raise self._other("model Unigram", "unk_id, the number of the unknown token", None)

    # -- fairseq's kind ------------------------------------------------------------------------------------------------

    @cached_property
    def splits_as_gpt2(self) -> bool:
        """Whether this is a byte-level BPE that splits and merges as GPT-2's does, whatever its tokens are."""
        options = {**self.model, "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        plain = {"type": "BPE", **{name: default for name, (default, _) in _MODELS["BPE"].items()}}
        plain["unk_token"], options["unk_token"], options["fuse_unk"] = None, None, False  # every byte has a token
        bytes_alone = [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]
        return (
            self.kind == BYTES
            and not self.normalizer
            and self.pre_tokenizer == bytes_alone
            and options == plain
            and self._has_all_bytes
        )

    @cached_property
    def _has_all_bytes(self) -> bool:
        """Whether no text is unknown to a byte-level BPE."""
        return byte_characters().keys() <= self.own.keys()


def _sequence(steps: list[Step], inside: str) -> Any:
    return {"type": "Sequence", inside: steps} if steps else None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, default=str))[:40]
