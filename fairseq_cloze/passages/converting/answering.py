"""Answering: answers become a key as teachers write it, or a sheet that is filled in."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ClozeError, printable
from ...files import PathLike, check_stdin_once, replacing, write_text
from ...jsontext import NotJson, parse_json
from ..passage import LETTERS, Passage
from ..text import BLANK
from .convert import NO_CHOICES, Choices, load, read_bytes
from .word import write_word

_MEND = "write it with 'fairseq-cloze predict'"

#: A filled sheet: paragraphs of pieces of text, each filled in or not.
Paragraphs = list[list[tuple[str, bool]]]


def read_letters(path: PathLike) -> dict[str, list[str]]:
    """The letters that were predicted, by passage id, from what ``predict --out`` writes.

    Raises:
        ClozeError: it cannot be read, or holds something else
    """
    content = read_bytes(Path(path))
    name = str(path)
    entries: list[tuple[Any, Any]] = []
    try:
        found = parse_json(content)
        if isinstance(found, dict) and isinstance(found.get("id"), str):
            raise NotJson("lines")
    except NotJson as error:
        if not content.lstrip().startswith(b'{"id"'):
            raise ClozeError(f"{name}: {error}; {_MEND}") from error
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                entry = parse_json(line)
            except NotJson as problem:
                raise ClozeError(f"{name}, line {number}: {problem}; {_MEND}") from problem
            entries.append((entry.get("id"), entry) if isinstance(entry, dict) else (None, entry))
    else:
        if not isinstance(found, dict):
            raise ClozeError(f"{name}: expected a JSON object of passages; {_MEND}")
        entries = list(found.items())
    out: dict[str, list[str]] = {}
    for key, entry in entries:
        if key == "fairseq_cloze" and isinstance(entry, dict) and "answers" not in entry:
            continue  # where the answers come from
        letters = entry.get("answers") if isinstance(entry, dict) else entry
        if (
            not isinstance(key, str)
            or not isinstance(letters, list)
            or not all(letter in LETTERS for letter in letters)
        ):
            raise ClozeError(
                f"{name}: passage '{printable(str(key))}': expected a list of letters, found something else; {_MEND}"
            )
        out[key] = letters
    return out


def answer(
    predictions: PathLike, passages: Sequence[PathLike], to: str, out: PathLike, choices: Choices = NO_CHOICES
) -> str:
    """Write a key or a filled sheet, and say what was written in a line.

    Args:
        predictions: what ``predict --out`` wrote
        passages: what was predicted, in any format that :func:`.convert.convert` reads
        to: ``key`` or ``sheet``
        out: ``.docx`` is a document of Word, anything else plain text
        choices: what the user says of the passages

    Raises:
        ClozeError: answers and passages do not belong together
    """
    check_stdin_once([predictions, *passages])
    letters = read_letters(predictions)
    found = list(load(passages, choices=choices))
    ids = {passage.id for _, passage in found}
    for key in letters:
        if key not in ids:
            raise ClozeError(
                f"{predictions}: passage '{printable(key)}': expected one of the passages, found none of this "
                "id; give all passages that were predicted"
            )
    paragraphs: Paragraphs = []
    for number, (fields, passage) in enumerate(found, 1):
        own = letters.get(passage.id)
        if own is None or len(own) != len(passage.candidates):
            answers = "none" if own is None else f"{len(own)}"
            raise ClozeError(
                f"{predictions}: passage '{printable(passage.id)}': expected {len(passage.candidates)} "
                f"answers, found {answers}; predict these passages"
            )
        for place, (letter, options) in enumerate(zip(own, passage.candidates), 1):
            if LETTERS.index(letter) >= len(options):
                raise ClozeError(
                    f"{predictions}: passage '{printable(passage.id)}', blank {place}: expected a letter of "
                    f"{len(options)} options, found {letter}"
                )
        numbers = _numbers(fields, passage)
        if len(found) > 1:
            paragraphs.append([(f"Passage {number} ({passage.id})", False)])
        if to == "sheet":
            paragraphs += [*_filled(passage, own, numbers), [("", False)]]
        paragraphs += [
            [(("Answers: " if to == "sheet" and first else "") + line, False)]
            for first, line in _key_lines(own, numbers)
        ]
        paragraphs.append([("", False)])
    paragraphs = [[("Answer key", False)], *paragraphs[:-1]] if to == "key" else paragraphs[:-1]
    if str(out).lower().endswith(".docx"):
        with replacing(out) as temporary:
            write_word(paragraphs, temporary)
    else:
        lines = ["".join(f"__{text}__" if filled else text for text, filled in pieces) for pieces in paragraphs]
        write_text(out, "\n".join(lines) + "\n")
    blanks = sum(len(passage.candidates) for _, passage in found)
    return f"{len(found):,} passages, {blanks:,} answers; wrote {out}"


def _numbers(fields: Mapping[str, Any], passage: Passage) -> list[int]:
    """The numbers of the blanks in the sheet that the passage came from."""
    numbers = fields.get("numbers")
    count = len(passage.candidates)
    fits = isinstance(numbers, list) and len(numbers) == count and all(type(number) is int for number in numbers)
    return numbers if fits else list(range(1, count + 1))  # type: ignore[return-value]


def _key_lines(letters: Sequence[str], numbers: Sequence[int]) -> Iterator[tuple[bool, str]]:
    """Lines such as ``1-5 ABCDA 6-10 BCDAB``, and whether each is the first."""
    parts = []
    for start in range(0, len(letters), 5):
        own, first, last = letters[start : start + 5], numbers[start], numbers[min(start + 5, len(numbers)) - 1]
        parts.append(
            f"{first}. {own[0]}"
            if len(own) == 1
            else f"{first}-{last} {('' if max(map(len, own)) == 1 else ' ').join(own)}"
        )
    for start in range(0, len(parts), 4):
        yield start == 0, "  ".join(parts[start : start + 4])


def _filled(passage: Passage, letters: Sequence[str], numbers: Sequence[int]) -> Iterator[list[tuple[str, bool]]]:
    """The paragraphs of a text with the answers filled in."""
    pieces: list[tuple[str, bool]] = []
    texts = BLANK.split(passage.article)
    for place, text in enumerate(texts):
        for number, part in enumerate(re.split(r"\n", text)):
            if number:
                yield pieces
                pieces = []
            pieces.append((part, False))
        if place < len(letters):
            word = passage.candidates[place][LETTERS.index(letters[place])]
            pieces.append((f" {numbers[place]} {word} ", True))
    yield pieces
