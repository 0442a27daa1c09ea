"""Answer keys: ``1-5 ABCDA``, ``1. A 2. B``, tables, letters in a row; in a sheet or in a file of their own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .blanks import number_in
from .lines import Document, Line
from .options import letter_index

_N = r"(?:\d{1,3}(?!\d)|[\u2460-\u2473])"
_L = r"[A-Za-z\uff21-\uff3a]"
_BETWEEN = r"[\s,;\uff0c\uff1b\u3001|./\u3002]*"

HEADING = re.compile(
    r"\W*(?:(?:the )?(?:correct |right )?answers?(?: keys?)?|(?:answer )?keys?|solutions?"
    r"|\u53c2\u8003\u7b54\u6848|\u6b63\u786e\u7b54\u6848|\u7b54\u6848)(?P<end>\s*[:\uff1a.]\s*|\W*$|\s+(?=\d+\s*[-\u2013.):A-D]))",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"({_N})\s*[-\u2010-\u2015~\uff5e\u81f3]\s*({_N})\s*[)\uff09.\uff0e\u3001:\uff1a]*\s*((?:{_L}(?:[\s,;\uff0c\uff1b\u3001/|]|\.(?!\w))*)+)"
)
_SINGLE = re.compile(
    rf"[(\[\uff08\u3010]?\s*({_N})\s*[)\]\uff09\u3011]?[\s.\uff0e\u3001:\uff1a=,\uff0c-]*[(\[\uff08]?({_L})(?![A-Za-z0-9'\u2019])[)\]\uff09.]?"
)
_LETTERS = re.compile(r"[A-Z\uff21-\uff3a](?:[\s,;\uff0c\uff1b\u3001|]*[A-Z\uff21-\uff3a])*")
_WORDS = re.compile(rf"[(\[\uff08\u3010]?\s*({_N})\s*[)\]\uff09\u3011]?[.\uff0e\u3001:\uff1a)=\t]*\s*(\S.*)")
_TITLES = re.compile(
    r"\W*(?:no\.?|nr\.?|number|blank|question|#|id)?[\s,;:|]*(?:answers?|keys?|letters?|correct)\W*", re.IGNORECASE
)


@dataclass(frozen=True)
class Answer:
    """An answer of a key."""

    number: int | None  #: of its blank; none where the key has letters only
    text: str  #: a letter, or the option itself
    line: Line
    part: int | None = None  #: under which heading of a passage it stands, counted from 1


def parse_answers(document: Document, line: Line, text: str, words: bool = False) -> list[Answer] | None:
    """The answers in a line; ``None`` where it holds something else.

    Args:
        document: where the line is, for messages
        line: the line
        text: what is in it
        words: whether it may be an option's text, behind its number

    Raises:
        PassageError: a range of numbers has too many or too few answers
    """
    text, found, at = text.strip(), [], 0
    if not text:
        return None
    if _LETTERS.fullmatch(text):
        return [Answer(None, letter, line) for letter in re.findall(_L, text)]
    while at < len(text):
        if match := _RANGE.match(text, at):
            first, last = number_in(match[1]) or 0, number_in(match[2]) or 0
            letters = re.findall(_L, match[3])
            if len(letters) != last - first + 1:
                raise document.error(
                    line, f"expected {max(last - first + 1, 0)} answers for {match[1]}-{match[2]}, found {len(letters)}"
                )
            found += [Answer(first + place, letter, line) for place, letter in enumerate(letters)]
        elif match := _SINGLE.match(text, at):
            found.append(Answer(number_in(match[1]), match[2], line))
        else:
            break
        at = re.compile(_BETWEEN).match(text, match.end()).end()  # type: ignore[union-attr]
    if at == len(text):
        return found
    match = _WORDS.fullmatch(text)
    return [Answer(number_in(match[1]), match[2].strip(), line)] if words and match else None


def read_key(
    document: Document, start: int, is_part: re.Pattern[str], to_end: bool = False
) -> tuple[list[Answer], int]:
    """The answers from a line on, and the number of the line after them.

    Args:
        document: the sheet, or a key of its own
        start: the line
        is_part: what headings of passages look like
        to_end: whether the document holds nothing else

    Raises:
        PassageError: no answers where some are expected, or something else between them
    """
    lines, answers, at, part = document.lines, list[Answer](), start, 0
    while at < len(lines):
        line = lines[at]
        text = line.text.strip()
        if heading := HEADING.match(text):
            text = text[heading.end() :].strip()
        if not text or _TITLES.fullmatch(text):
            at += 1
            continue
        two = _two_rows(lines, at)
        if two:
            answers += [Answer(number, letter, line, part or None) for number, letter in two]
            at += 2
            continue
        if is_part.match(text):
            if answers and not to_end and not _answers_follow(document, at + 1):
                break
            part, at = part + 1, at + 1
            continue
        found = parse_answers(document, line, text, words=True)
        if found is None:
            if answers and not to_end and not re.match(r"\W?\d", text):
                break
            if not answers and to_end:
                document.notes.append(f"left out {line.place}: '{text[:60]}'")
                at += 1
                continue
            raise document.error(line, f"expected answers such as '1-5 ABCDA' or '1. A 2. B', found '{text[:60]}'")
        answers += [Answer(each.number, each.text, each.line, part or None) for each in found]
        at += 1
    if not answers:
        raise document.error(
            lines[start] if lines else None, "expected answers such as '1-5 ABCDA' or '1. A 2. B', found none"
        )
    return answers, at


def _answers_follow(document: Document, at: int) -> bool:
    while at < len(document.lines) and not document.lines[at].text.strip():
        at += 1
    if at == len(document.lines):
        return False
    line = document.lines[at]
    return bool(_two_rows(document.lines, at)) or parse_answers(document, line, line.text) is not None


def _two_rows(lines: Sequence[Line], at: int) -> list[tuple[int, str]] | None:
    """Numbers in one row and letters in the next, as tables of answers have them."""
    if at + 1 >= len(lines):
        return None
    rows = [[cell for cell in re.split(r"[\s|]+", line.text.strip()) if cell] for line in lines[at : at + 2]]
    for row in rows:
        if row and re.fullmatch(
            r"(?:no\.?|nr\.?|blank|question|#|answers?|key|\u9898\u53f7|\u7b54\u6848)[:.]?", row[0], re.IGNORECASE
        ):
            del row[0]
    if not rows[0] or len(rows[0]) != len(rows[1]):
        return None
    if all(re.fullmatch(_N + r"\.?", cell) for cell in rows[0]) and all(re.fullmatch(_L, cell) for cell in rows[1]):
        return [(number_in(number) or 0, letter) for number, letter in zip(*rows)]
    return None


def answer_index(document: Document, answer: Answer, options: Sequence[str]) -> int:
    """The index of the option that an answer names, by letter, by text, or by both.

    Raises:
        PassageError: there is no such option
    """
    if re.fullmatch(_L, answer.text):
        index = letter_index(answer.text)
        if index < len(options):
            return index
    else:
        wanted = " ".join(answer.text.split()).casefold()
        for name, text in _spellings(options):
            if text == wanted:
                return name
    number = "" if answer.number is None else f" of blank {answer.number}"
    raise document.error(
        answer.line,
        f"expected an answer{number} that is a letter A-{chr(ord('A') + len(options) - 1)} or one of its "
        f"options, found '{answer.text[:60]}'",
    )


def _spellings(options: Sequence[str]) -> list[tuple[int, str]]:
    plain = [" ".join(option.split()).casefold() for option in options]
    both = [
        (index, f"{chr(97 + index)}{mark} {text}")
        for index, text in enumerate(plain)
        for mark in (".", ")", "", ":", " -")
    ]
    return [*((index, text) for index, text in enumerate(plain) if plain.count(text) == 1), *both]
