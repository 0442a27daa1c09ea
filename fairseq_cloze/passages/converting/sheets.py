"""Sheets: an exam as people write it becomes passages, or is refused where it may be read in more than one way.

A sheet holds texts with blanks, lists of options, and maybe a key; whatever else it holds is left out by name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ..passage import LETTERS
from .blanks import FILL, NoReading, find_blanks, has_blanks, numbers_of, read
from .keys import HEADING, Answer, answer_index, parse_answers, read_key
from .lines import Document, Line
from .options import Entry, lone_number, read_options, split_question, starts_options

_LONGEST = 300  # characters of a line that is no part of a text

_COUNT = r"(?:\d{1,3}|[IVX]{1,5}|[A-H]|one|two|three|four|five|six|seven|eight|nine|ten)"
_REST = r"(?:\s*[:.\u2013\u2014(\uff08-].{0,60}|\s+[A-Z].{0,50}|)"

#: Headings that part passages.
PART = re.compile(
    rf"\W*(?:(?:passage|text|cloze(?: test| passage)?|article|reading|story|exercise|section|part|unit|test"
    rf"|task)\s*{_COUNT}{_REST}"
    rf"|(?:[IVX]{{1,5}}|[\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]{{1,2}})\s*[.\u3001]\s*.{{1,60}}"
    r"|(?:\u77ed\u6587|\u7bc7\u7ae0|\u6587\u7ae0)\s*[\d\u4e00-\u5341A-H]{1,2}\W*|(?-i:\([A-H]\)|[A-H]$))\s*$",
    re.IGNORECASE,
)
#: How directions begin, which are no part of a text.
_DIRECTIONS = re.compile(
    r"\W*(?:directions?|instructions?|task)\s*[:\uff1a.]|\W*(?:please )?(?:read|choose|complete|fill"
    r"|for (?:each|questions?|blanks?)|for numbers?"
    r"|there (?:is|are) \w+ (?:blanks?|passages?|texts?))\b.*"
    r"\b(?:blanks?|gaps?|options?|choices?|passages?|texts?|answers?|A,? ?B|spaces?)\b"
    r"|(?:\u9605\u8bfb|\u8bf7|\u4ece|\u5148).*(?:\u9009|\u586b|\u9898)|\u5b8c\u5f62\u586b\u7a7a",
    re.IGNORECASE,
)
_KEYWORD = (
    r"(?:name|class|date|school|score|marks?|points|grade|student(?: no\.?| number| id)?|no\.|time|teacher|total|id"
    r"|\u59d3\u540d|\u73ed\u7ea7|\u5b66\u53f7|\u5f97\u5206|\u5206\u6570|\u65e5\u671f|\u5b66\u6821|\u8003\u53f7)"
)
_NAME = re.compile(
    rf"(?:\W*{_KEYWORD}\s*(?:[:\uff1a]\s*[\w /.-]{{0,20}}?\s*(?:{FILL}|[/\d. ]+)?|{FILL})(?:\s*/\s*\d+)?[\s,;|]*)+",
    re.IGNORECASE,
)
_FURNITURE = re.compile(
    r"\W*(?:page|p\.)\s*\d+(?:\s*(?:of|/)\s*\d+)?\W*|\W?\s*\d+\s*(?:/|of)\s*\d+\s*\W?|-\s*\d+\s*-|\u7b2c\s*\d+\s*\u9875.*"
    r"|[-=*~\u2014\u2500#\u00b7.]{5,}|_{20,}|(?:\* ?){3,}"
    r"|\W*(?:options?|choices|questions?|(?:multiple[- ]choice )?cloze(?: test| passage)?"
    r"|the end|end of (?:the )?(?:test|exam|paper))(?: for (?:passage|text) \w+| \d+\s*[-\u2013]\s*\d+)?\s*[:.]?",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[.!?:)\u3002\uff01\uff1f\uff1a\uff09]\W*$")
_NUMBERED = re.compile(r"\s*[(\[\uff08]?(\d{1,3})[)\]\uff09]?[.\uff0e\u3001)]?\s+")


@dataclass
class _Block:
    """Lines of one text."""

    lines: list[Line] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line.text.strip() for line in self.lines).strip("\n")

    def line_at(self, offset: int) -> Line:
        """The line of an offset in the text."""
        filled = [line for number, line in enumerate(self.lines) if line.text.strip() or number]
        return filled[min(self.text[:offset].count("\n"), len(filled) - 1)]


@dataclass
class SheetPassage:
    """A passage of a sheet; its ``id`` is given later."""

    article: str
    options: list[list[str]]
    numbers: list[int]
    line: Line  #: where it begins
    marks: tuple[str, str]  #: how its blanks are marked, and the first one
    shape: str  #: how its options are written
    right: list[int | None]
    parted: int = 0  #: blanks that touched a letter
    keyed_by: str | None = None
    key: tuple[Document, Line] | None = None  #: where its last answer stands

    def to_json(self) -> dict[str, Any]:
        """As ``prepare`` reads it; numbers that are not 1, 2, 3, ... are kept for ``--to``."""
        fields: dict[str, Any] = {"article": self.article, "options": self.options}
        answers = [LETTERS[index] for index in self.right if index is not None]
        if answers:
            fields["answers"] = answers
        if self.numbers != list(range(1, len(self.numbers) + 1)):
            fields["numbers"] = self.numbers
        return fields


def read_sheet(document: Document, key: Document | None = None, uneven: bool = False) -> list[SheetPassage]:
    """The passages of a sheet; *document* gets notes of what was left out.

    Args:
        document: the sheet
        key: its answers, where they are in a file of their own
        uneven: whether blanks may have different numbers of options

    Raises:
        PassageError: it may be read in more than one way, or not at all
    """
    reader = _Reader(document, uneven)
    reader.read()
    passages = reader.passages
    if key is not None:
        if any(index is not None for passage in passages for index in passage.right):
            raise document.error(
                None, f"expected one key, found answers in the sheet and {key.source}; leave out --key"
            )
        answers, _ = read_key(key, 0, PART, to_end=True)
        _assign(key, passages, answers, f"in {key.source}")
    _check_answers(document, passages)
    return passages


class _Reader:
    """Goes through the lines of a sheet."""

    def __init__(self, document: Document, uneven: bool) -> None:
        self.document = document
        self.uneven = uneven
        self.passages: list[SheetPassage] = []
        self.blocks = [_Block()]
        self.entries: list[Entry] = []
        self.left_out: list[Line] = []
        self.keyed = 0  #: passages for which answers were read

    def read(self) -> None:
        lines, at = self.document.lines, 0
        while at < len(lines):
            at = self.step(lines, at)
        self.close()
        self.finish()
        if not self.passages:
            raise self.document.error(None, "expected a text with blanks, and options for each, found none")

    def step(self, lines: list[Line], at: int) -> int:
        """Take the line *at*, and maybe others; returns which is next."""
        document, line = self.document, lines[at]
        text = line.text.strip()
        if not text:
            if self.blocks[-1].lines:
                self.blocks[-1].lines.append(line)
            return at + 1
        heading = HEADING.match(text)
        if heading and (rest := text[heading.end() :].strip()):
            single = parse_answers(document, line, rest)
            if (
                single
                and len(single) == 1
                and single[0].number is None
                and self.entries
                and self.entries[-1].right is None
            ):
                self.entries[-1].right = answer_index(document, single[0], self.entries[-1].options)
                return at + 1
            if single is None:
                heading = None  # a text that begins so
        numbered = (self.entries or self.passages) and parse_answers(document, line, text)
        if heading or (numbered and numbered[0].number is not None and len(numbered) > 1):
            self.close()
            answers, at = read_key(document, at, PART)
            if not self.passages[self.keyed :]:
                raise document.error(line, "expected a text and its options before the answers, found none")
            _assign(document, self.passages[self.keyed :], answers, "in the sheet")
            self.keyed = len(self.passages)
            return at
        if starts_options(line) or line.is_row or lone_number(line) is not None or "\t" in line.text or "  " in text:
            if found := read_options(document, at):
                self.entries += found[0]
                return found[1]
        alone = len(text) <= _LONGEST and self.stands_alone(lines, at)
        if len(text) <= _LONGEST and _NAME.fullmatch(text) and (alone or re.search(FILL, text)):
            return self.leave_out(lines, at, at + 1, parts=True)
        if alone:
            if PART.fullmatch(text) and not has_blanks(text):
                return self.leave_out(lines, at, at + 1, parts=True)
            if _FURNITURE.fullmatch(text):
                return self.leave_out(lines, at, at + 1)
            if _DIRECTIONS.match(text):
                return self.leave_out(lines, at, self.end_of_directions(lines, at), parts=True)
        question = split_question(text) if has_blanks(text) else None
        self.open()
        if question:
            self.blocks[-1].lines.append(Line(question[0], line.place))
            lines[at] = Line(question[1], line.place)
            return at
        self.blocks[-1].lines.append(line)
        return at + 1

    def stands_alone(self, lines: list[Line], at: int) -> bool:
        """Whether no text goes on in a line, such as one that was wrapped before ``Part 2 of the story``."""
        before = lines[at - 1] if at else None
        text = self.blocks[-1].lines
        return before is None or not before.text.strip() or not text or text[-1] is not before or _is_paragraph(before)

    def leave_out(self, lines: list[Line], at: int, end: int, parts: bool = False) -> int:
        """Lines that are no part of a text."""
        self.left_out += [line for line in lines[at:end] if line.text.strip()]
        if parts and not self.entries:
            self.blocks.append(_Block())
        elif parts:
            self.open()
        return end

    def end_of_directions(self, lines: list[Line], at: int) -> int:
        end = at
        while end < len(lines) and lines[end].text.strip() and not starts_options(lines[end]):
            end += 1
        said = "\n".join(line.text for line in lines[at:end])
        if _is_paragraph(lines[at]) or re.search(FILL, said) or len(numbers_of(said)) > 1:
            end = at + 1
            if not _is_paragraph(lines[at]):
                while end < len(lines) and lines[end].text.strip() and not _ENDS.search(lines[end - 1].text):
                    end += 1
        return end

    def open(self) -> None:
        """A text begins; if options came before, theirs has ended."""
        if self.entries:
            self.close()

    def close(self) -> None:
        """Options have ended: they and the texts before them become passages."""
        if not self.entries:
            return
        texts = [block for block in self.blocks if has_blanks(block.text)]
        document, entries = self.document, self.entries
        if not texts:
            raise document.error(
                entries[0].line,
                "expected a text with blanks before its options, found none; mark each blank ____ or with "
                "its number, such as __1__",
            )
        after = next(
            (block for block in self.blocks[self.blocks.index(texts[0]) :] if block.text and block not in texts), None
        )
        if after is not None:
            line = next(line for line in after.lines if line.text.strip())
            raise document.error(
                line,
                f"expected options, or a text with blanks, found '{line.text.strip()[:60]}'; if it belongs to the text "
                "before, take out what stands between them",
            )
        self.drop_texts()
        for block, own in zip(texts, self.shared(texts)):
            self.passages.append(self.make(block, own))
        self.blocks, self.entries = [_Block()], []

    def drop_texts(self) -> None:
        for block in self.blocks:
            if block.text and not has_blanks(block.text):
                self.left_out += [line for line in block.lines if line.text.strip()]

    def finish(self) -> None:
        """The sheet has ended."""
        document = self.document
        for block in self.blocks:
            if has_blanks(block.text):
                line = next(line for line in block.lines if has_blanks(line.text))
                raise document.error(
                    line, f"expected options for the blanks of this text, found none ('{line.text.strip()[:60]}')"
                )
        self.drop_texts()
        if self.left_out and (self.left_out[-1] in [line for block in self.blocks for line in block.lines]):
            line = next(line for block in self.blocks for line in block.lines if line.text.strip())
            raise document.error(
                line,
                f"expected options or answers, found '{line.text.strip()[:60]}'; put a text before its "
                "options, and take out what belongs to none",
            )
        if self.left_out:
            places = {id(line): place for place, line in enumerate(document.lines)}
            lines = sorted(self.left_out, key=lambda line: places[id(line)])
            shown = "; ".join(f"{line.place}: '{_short(line.text)}'" for line in lines)
            document.notes.append(f"left out, as no part of a text ({len(lines):,}): {shown}")

    def shared(self, texts: Sequence[_Block]) -> list[list[Entry]]:
        """The options of each text."""
        entries, document = self.entries, self.document
        if len(texts) == 1:
            return [entries]
        if all(entry.number is not None for entry in entries):
            wanted = [set(numbers_of(block.text)) for block in texts]
            own = [[entry for entry in entries if entry.number in numbers] for numbers in wanted]
            if sum(map(len, own)) == len(entries) and all(own) and len({e.number for e in entries}) == len(entries):
                return own
            if not any(wanted) or len({e.number for e in entries}) < len(entries):
                runs = _runs(entries)
                if len(runs) == len(texts):
                    return runs
        counts = [len(read(block.text, "without numbers").spans) for block in texts]
        if sum(counts) == len(entries) and all(counts):
            ends = [sum(counts[:number]) for number in range(len(counts) + 1)]
            return [entries[start:end] for start, end in zip(ends, ends[1:])]
        raise document.error(
            entries[0].line,
            f"expected options for {len(texts)} texts with "
            f"{' + '.join(str(len(numbers_of(b.text)) or c) for b, c in zip(texts, counts))} blanks, found "
            f"{len(entries)} lists; put the options of each text behind it",
        )

    def make(self, block: _Block, entries: list[Entry]) -> SheetPassage:
        document = self.document
        if len(entries) == 1:
            block = self.without_title(block)
        text = block.text
        numbers = [entry.number for entry in entries if entry.number is not None]
        if numbers and len(numbers) < len(entries):
            line = next(entry.line for entry in entries if entry.number is None)
            raise document.error(line, "expected a number before the options, as others have, found none")
        for before, after in zip(entries, entries[1:]):
            if before.number is not None and after.number != before.number + 1:
                raise document.error(
                    after.line, f"expected the options of blank {before.number + 1}, found those of {after.number}"
                )
        for entry in entries:
            self.check_entry(entry, entries[0])
        own = _NUMBERED.match(text)
        if len(entries) == 1 and own and (not numbers or numbers == [int(own[1])]) and has_blanks(text[own.end() :]):
            numbers, text = [int(own[1])], text[own.end() :]  # "3. He ____ home."
            found = _find(document, block, text, 1, own.end())
        elif len(entries) == 1 and not numbers and not _is_single(text):
            found = _find_bank(document, block, text, entries[0])
            entries = [entries[0]] * len(found.spans)
        else:
            found = _find(document, block, text, numbers or len(entries), 0)
        if not numbers:
            numbers = [number for number in found.numbers if number is not None] or list(range(1, len(entries) + 1))
        article, parted = found.article(text)
        line = next(line for line in block.lines if line.text.strip())
        options = [_without_ends(entry.options) for entry in entries]
        right = [entry.right for entry in entries]
        return SheetPassage(article, options, numbers, line, (found.name, found.shape), entries[0].shape, right, parted)

    def without_title(self, block: _Block) -> _Block:
        """A question without the lines before it, if it has a number and they have no blank."""
        start = next(place for place, line in enumerate(block.lines) if has_blanks(line.text))
        before = [line for line in block.lines[:start] if line.text.strip()]
        if not before or block.lines[start - 1].text.strip() or not _NUMBERED.match(block.lines[start].text):
            return block
        self.left_out += before
        return _Block(block.lines[start:])

    def check_entry(self, entry: Entry, first: Entry) -> None:
        name = "the options" if entry.number is None else f"the options of blank {entry.number}"
        if "" in entry.options:
            letter = LETTERS[entry.options.index("")]
            raise self.document.error(
                entry.line, f"{name}: expected a text for option {letter}, found none; write / where nothing goes"
            )
        if len(entry.options) != len(first.options) and not self.uneven:
            raise self.document.error(
                entry.line,
                f"{name}: expected {len(first.options)}, as the first blank has, found {len(entry.options)}; "
                "if that is meant, pass --uneven",
            )
        if len(entry.options) > 26:
            raise self.document.error(entry.line, f"{name}: expected at most 26, found {len(entry.options)}")


def _is_paragraph(line: Line) -> bool:
    """Whether a line is a whole paragraph, as in Word."""
    return not line.place.startswith("line")


def _is_single(text: str) -> bool:
    return len(read(text, "without numbers").spans) == 1 or (
        not read(text, "without numbers").spans and len(numbers_of(text)) <= 1
    )


def _find_bank(document: Document, block: _Block, text: str, bank: Entry) -> Any:
    """One list of options for all blanks."""
    count = len(numbers_of(text)) or len(read(text, "without numbers").spans)
    if len(bank.options) < count:
        raise document.error(
            bank.line,
            f"expected options for each of {count} blanks, or one list with at least as many, found one list "
            f"of {len(bank.options)}",
        )
    document.notes.append(f"{bank.line.place}: one list of {len(bank.options)} options stands for all {count} blanks")
    return _find(document, block, text, count, 0)


def _find(document: Document, block: _Block, text: str, expected: Sequence[int] | int, shift: int) -> Any:
    try:
        return find_blanks(text, expected)
    except NoReading as error:
        raise document.error(block.line_at(error.offset + shift), str(error)) from error


def _runs(entries: list[Entry]) -> list[list[Entry]]:
    """Parted where numbers begin anew."""
    starts = [
        place
        for place, entry in enumerate(entries)
        if not place or (entry.number or 0) <= (entries[place - 1].number or 0)
    ]
    return [entries[start:end] for start, end in zip(starts, [*starts[1:], len(entries)])]


def _without_ends(options: list[str]) -> list[str]:
    """Without commas or semicolons that part them."""
    ends = {option[-1] for option in options[:-1]}
    if len(ends) == 1 and ends <= set(",;\uff0c\uff1b"):
        return [
            *(option[:-1].rstrip() for option in options[:-1]),
            options[-1].rstrip(".") if options[-1][:-1].strip() else options[-1],
        ]
    return options


def _assign(document: Document, passages: Sequence[SheetPassage], answers: Sequence[Answer], where: str) -> None:
    """Give each blank its answer."""
    parts = [part for part, _ in groupby(answers, key=lambda answer: answer.part)]
    if len(parts) > 1 and None not in parts and len(parts) == len(passages):
        for passage, (_, own) in zip(passages, groupby(answers, key=lambda answer: answer.part)):
            _assign(document, [passage], [Answer(a.number, a.text, a.line) for a in own], where)
        return
    blanks = [(passage, place) for passage in passages for place in range(len(passage.numbers))]
    plain = [answer for answer in answers if answer.number is None]
    if plain and len(plain) < len(answers):
        raise document.error(plain[0].line, "expected a number before each answer, as others have, found none")
    if plain:
        if len(plain) != len(blanks):
            raise document.error(plain[0].line, f"expected {len(blanks)} answers, one per blank, found {len(plain)}")
        for (passage, place), answer in zip(blanks, plain):
            _set(document, passage, place, answer, where)
        return
    current = 0
    for answer in answers:
        fits = [number for number, passage in enumerate(passages) if answer.number in passage.numbers]
        free = [n for n in fits if passages[n].right[passages[n].numbers.index(answer.number or 0)] is None]
        later = [n for n in free if n >= current] or (free if len(fits) == 1 else [])
        if not later:
            what = "two answers" if fits else "an answer, and no such blank"
            raise document.error(answer.line, f"expected one answer for each blank, found {what} for {answer.number}")
        current = later[0]
        _set(document, passages[current], passages[current].numbers.index(answer.number or 0), answer, where)


def _set(document: Document, passage: SheetPassage, place: int, answer: Answer, where: str) -> None:
    passage.right[place] = answer_index(document, answer, passage.options[place])
    passage.keyed_by = where
    passage.key = document, answer.line


def _check_answers(document: Document, passages: Sequence[SheetPassage]) -> None:
    """Answers are there for all blanks or for none."""
    known = sum(index is not None for passage in passages for index in passage.right)
    total = sum(len(passage.right) for passage in passages)
    if 0 < known < total:
        passage = next(passage for passage in passages if None in passage.right)
        keys = [each.key for each in (passage, *reversed(passages)) if each.key]
        document, line = keys[0] if keys else (document, passage.line)
        number = passage.numbers[passage.right.index(None)]
        raise document.error(
            line,
            f"expected answers for all {total} blanks or for none, found {known}; blank {number} of this text has none",
        )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:37] + "..."
