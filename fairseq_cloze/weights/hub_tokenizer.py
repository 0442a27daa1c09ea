"""Hub tokenizer: the byte-level BPE of a Hugging Face folder, or what in it is another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.vocabulary import MASK_SYMBOL, PAD, SPECIAL_SYMBOLS, Vocabulary
from ..errors import CheckpointError, first_line
from ..files import PathLike
from .hub_files import read_json, refuse_pointer
from .plain import show

TOKENIZER, VOCAB, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_SYMBOLS = (*SPECIAL_SYMBOLS, MASK_SYMBOL)

#: What the BPE of ``tokenizer.json`` must say of itself where it says something.
_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}

_SURROGATE = re.compile(r"[\ud800-\udfff]")

#: Added tokens that no passage holds, such as ``[BLANK]`` or ``<|endoftext|>``.
_MARKER = re.compile(r"<.*>|\[.*\]")


def read_tokenizer(
    folder: Path, gpt2_bpe: PathLike | None, rows: int
) -> tuple[Vocabulary, list[int] | None, list[str]]:
    """The vocabulary, for each of its rows the row of the source (``None``: the same), and notes of what is not kept.

    Raises:
        CheckpointError: it is no byte-level BPE with RoBERTa's special tokens, or not of *rows*; says what differs
    """
    if gpt2_bpe is not None:
        vocabulary = Vocabulary.load(gpt2_bpe)
        own = [name for name in (VOCAB, TOKENIZER) if (folder / name).is_file()]
        if own:
            raise CheckpointError(
                f"{folder}: has tokenizer files of its own ({', '.join(own)}), which belong to the weights; "
                "leave --gpt2-bpe out"
            )
        if len(vocabulary) != rows:
            raise CheckpointError(
                f"{gpt2_bpe}: expected a dictionary of {rows:,} rows, as the embedding of {folder} has, "
                f"found {len(vocabulary):,}; give the files that belong to the model"
            )
        return vocabulary, None, []
    numbers, merges, added = _read_files(folder)
    notes = _check_added(folder, added)
    for token, number in added.items():
        if numbers.setdefault(token, number) != number:
            raise CheckpointError(
                f"{folder}: token '{show(token)}' is {numbers[token]} in the vocabulary, {number} among the added "
                "tokens; take the tokenizer files that came with the weights"
            )
    for symbol in _SYMBOLS:
        if symbol not in numbers:
            problem = f"expected the token {symbol} in the tokenizer, found none; it is not RoBERTa's"
            raise CheckpointError(f"{folder}: {problem}")
    last = max(numbers.values())
    if last >= rows:
        problem = f"expected {rows:,} tokens at most, as the embedding has rows, found number {last:,}"
        raise CheckpointError(f"{folder}: {problem}; files of the tokenizer and weights are of two models")
    if numbers[SPECIAL_SYMBOLS[PAD]] != PAD:
        raise CheckpointError(
            f"{folder}: expected {SPECIAL_SYMBOLS[PAD]} to be token {PAD}, as pad_token_id of config.json says, found "
            f"{numbers[SPECIAL_SYMBOLS[PAD]]}; positions are counted from there, so such a model cannot be imported"
        )
    token_at: dict[int, str] = {}
    for token, number in numbers.items():
        if token_at.setdefault(number, token) != token:
            raise CheckpointError(
                f"{folder}: expected one token for each number, found '{show(token_at[number])}' and "
                f"'{show(token)}' for {number}; take the tokenizer files that came with the weights"
            )
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in numbers:
                raise CheckpointError(
                    f"{folder}: expected a number for '{show(token)}', which a merge names, found none; take the "
                    "tokenizer files that came with the weights"
                )
    special = [numbers[symbol] for symbol in _SYMBOLS]
    known = {*(left + right for left, right in merges)}
    others = [row for row in range(rows) if row not in set(special)]
    tokens = [_row_name(token_at.get(row), row, known, numbers) for row in others]
    return Vocabulary.build(tokens, merges, str(folder)), [*special[:-1], *others, special[-1]], notes


def _row_name(token: str | None, row: int, known: set[str], numbers: Mapping[str, int]) -> str:
    """What the dictionary calls a row: its token, unless that is no word of its own there."""
    if token is not None and (token in known or len(token) == 1 or re.fullmatch(r"(?!\d+$)\S+", token)):
        return token
    name = f"madeupword{row:04d}"
    while name in numbers:
        name += "_"
    return name


def _check_added(folder: Path, added: Mapping[str, int]) -> list[str]:
    """A note of added tokens that passages do not hold; others would be encoded otherwise here."""
    others = sorted(token for token in added if token not in _SYMBOLS)
    words = [token for token in others if not _MARKER.fullmatch(token)]
    if words:
        more = f" and {len(words) - 1:,} more" if len(words) > 1 else ""
        raise CheckpointError(
            f"{folder}: expected no tokens but those of the BPE and {', '.join(_SYMBOLS)}, found the added token "
            f"'{show(words[0])}'{more}; text with it would be encoded otherwise, so such a model cannot be imported"
        )
    if not others:
        return []
    listed = ", ".join(map(show, others[:5])) + (f" and {len(others) - 5:,} more" if len(others) > 5 else "")
    return [f"added tokens are not kept, text with them is encoded in pieces: {listed}"]


def _read_files(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    """Tokens of the BPE → their numbers, merges, and added tokens → their numbers."""
    whole, plain = folder / TOKENIZER, (folder / VOCAB, folder / MERGES)
    has_plain = all(path.is_file() for path in plain)
    if not whole.is_file() and not has_plain:
        suffixes = {".json", ".txt", ".model", ".codes"}
        found = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in suffixes))
        raise CheckpointError(
            f"{folder}: expected the files of a byte-level BPE (vocab.json and merges.txt, or tokenizer.json), "
            f"found {found}; pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
        )
    if not whole.is_file():
        numbers = _check_numbers(read_json(plain[0]), plain[0])
        return numbers, _check_merges(_read_lines(plain[1]), plain[1]), _read_added(folder)
    numbers, merges, added = _read_whole(whole)
    if has_plain:  # transformers reads tokenizer.json; the others must not say otherwise
        other = _check_numbers(read_json(plain[0]), plain[0])
        all_numbers = {**numbers, **added}
        for token, number in other.items():
            if all_numbers.get(token) != number:
                raise CheckpointError(
                    f"{folder}: {VOCAB} and {TOKENIZER} differ: token '{show(token)}' is {number} in the one, "
                    f"{all_numbers.get(token, 'missing')} in the other; delete the one that is not the model's"
                )
        if _check_merges(_read_lines(plain[1]), plain[1]) != merges:
            raise CheckpointError(
                f"{folder}: the merges of {MERGES} and {TOKENIZER} differ; delete the one that is not the model's"
            )
    return numbers, merges, added


def _read_whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]:
    content = read_json(path)
    if content.get("normalizer") is not None:
        raise _other(path, "no normalizer, as RoBERTa has none", _kind(content["normalizer"]))
    step: Any = content.get("pre_tokenizer")
    while isinstance(step, dict) and step.get("type") == "Sequence" and len(step.get("pretokenizers") or []) == 1:
        step = step["pretokenizers"][0]
    if _kind(step) != "ByteLevel" or step.get("use_regex", True) is not True:
        raise _other(path, "the pre_tokenizer ByteLevel alone, as RoBERTa has", _kind(step))
    model = content.get("model")
    if not isinstance(model, dict):
        raise _other(path, "a byte-level BPE", _kind(model))
    for field, values in _MODEL.items():
        found = model.get(field, values[0])
        if found not in values:
            raise _other(path, f"a byte-level BPE with {field} {values[0]}", show(found))
    numbers = _check_numbers(model.get("vocab"), path)
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _other(path, "added_tokens as objects", _kind(entries))
    added = _check_numbers({entry.get("content"): entry.get("id") for entry in entries}, path)
    merges = model.get("merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges or []]
    return numbers, _check_merges(pairs, path), added


def _kind(step: Any) -> str:
    """What a part of ``tokenizer.json`` calls itself, with the parts of a sequence."""
    if not isinstance(step, dict):
        return "none" if step is None else type(step).__name__
    parts = step.get("pretokenizers")
    inside = f" of {', '.join(map(_kind, parts))}" if isinstance(parts, list) else ""
    return show(step.get("type")) + inside


def _other(path: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(f"{path}: expected {expected}, found {found}; such a model cannot be imported")


def _read_added(folder: Path) -> dict[str, int]:
    """What transformers adds to ``vocab.json``: an older list, and its newer place."""
    added: dict[str, int] = {}
    if (folder / ADDED).is_file():
        added = _check_numbers(read_json(folder / ADDED), folder / ADDED)
    path = folder / TOKENIZER_CONFIG
    decoder = read_json(path).get("added_tokens_decoder") if path.is_file() else None
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        token = entry.get("content") if isinstance(entry, dict) else entry
        added.update(_check_numbers({token: int(number) if re.fullmatch(r"[0-9]{1,9}", number) else number}, path))
    return added


def _read_lines(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error
    refuse_pointer(path)
    return [line.rstrip("\r").split(" ") for line in lines if line.strip("\r") and not line.startswith("#version")]


def _check_numbers(numbers: Any, path: Path) -> dict[str, int]:
    """Tokens → numbers, as they have to be."""
    if not isinstance(numbers, dict):
        raise CheckpointError(f"{path}: expected tokens and their numbers, found {_kind(numbers)}; download it again")
    for token, number in numbers.items():
        text = isinstance(token, str) and token and not _SURROGATE.search(token)
        if not text or type(number) is not int or number < 0:
            raise CheckpointError(
                f"{path}: expected tokens and their numbers, from 0 on, found {show(number)} for "
                f"'{show(token)}'; copy or download it again"
            )
    return numbers


def _check_merges(merges: Sequence[Any], path: Path) -> list[tuple[str, str]]:
    for number, pair in enumerate(merges, 1):
        parts = pair if isinstance(pair, list) else []
        if len(parts) != 2 or not all(isinstance(part, str) and part and part.split() == [part] for part in parts):
            found = show(pair)
            raise CheckpointError(f"{path}: merge {number}: expected two tokens, found {found}; download it again")
    return [(left, right) for left, right in merges]
