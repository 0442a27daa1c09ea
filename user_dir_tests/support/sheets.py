"""Passages as exam sheets, in the layouts that people use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from fairseq_cloze.passages.text import BLANK

from .commands import ROOT

Fields = dict[str, Any]


def example_passages() -> list[Fields]:
    """The example passages, in order."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "examples" / "passages").rglob("*.json"))]


def plain(fields: Fields) -> Fields:
    """What a sheet can hold of a passage: white space in it is not kept."""
    article = " ".join(BLANK.sub("_", fields["article"]).split())
    return {"article": article, "options": fields["options"], "answers": fields.get("answers")}


Mark = Callable[[int], str]
Lister = Callable[[Sequence[Sequence[str]], int], Iterator[str]]
Key = Callable[[Sequence[str], int], Iterator[str]]


def filled(article: str, mark: Mark, first: int) -> str:
    """The article with marks for its blanks."""
    parts = BLANK.split(article)
    return "".join(part + (mark(first + place) if place < len(parts) - 1 else "") for place, part in enumerate(parts))


def circled(number: int) -> str:
    return chr(0x245F + number) if number <= 20 else f"({number})"


# Options


def in_a_line(letter: str = "{}. ", number: str = "{}. ", gap: str = " ", lower: bool = False) -> Lister:
    def lines(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
        for place, own in enumerate(options):
            parts = (letter.format(_letter(index, lower)) + option for index, option in enumerate(own))
            yield number.format(first + place) + gap.join(parts)

    return lines


def _letter(index: int, lower: bool) -> str:
    return ascii_uppercase[index].lower() if lower else ascii_uppercase[index]


def one_a_line(letter: str = "{}. ", number: str = "{}. ", alone: bool = False, empty: bool = False) -> Lister:
    def lines(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
        for place, own in enumerate(options):
            head = number.format(first + place)
            if alone:
                yield head.strip()
            for index, option in enumerate(own):
                start = (head if index == 0 else " " * len(head)) if not alone else "    "
                yield start + letter.format(ascii_uppercase[index]) + option
            if empty:
                yield ""

    return lines


def two_by_two(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
    for place, own in enumerate(options):
        parts = [f"{ascii_uppercase[index]}. {option}" for index, option in enumerate(own)]
        for start in range(0, len(parts), 2):
            head = f"{first + place}." if start == 0 else ""
            yield f"{head:5}" + "     ".join(f"{part:20}" for part in parts[start : start + 2]).rstrip()


def side_by_side(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
    for start in range(0, len(options), 3):
        own = options[start : start + 3]
        for index in range(len(own[0])):
            cells = []
            for place, each in enumerate(own):
                head = f"{first + start + place}." if index == 0 else ""
                cells.append(f"{head:4}{ascii_uppercase[index]}. {each[index]}")
            yield "   ".join(f"{cell:24}" for cell in cells).rstrip()
        yield ""


def two_a_line(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
    lines = list(in_a_line()(options, first))
    for start in range(0, len(lines), 2):
        yield "    ".join(lines[start : start + 2])


def in_rows(head: bool = True, letters: bool = False) -> Lister:
    def lines(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
        if head:
            yield "\t".join(["No.", *ascii_uppercase[: len(options[0])]])
        for place, own in enumerate(options):
            texts = [f"{ascii_uppercase[index]}. {option}" if letters else option for index, option in enumerate(own)]
            yield "\t".join([str(first + place), *texts])

    return lines


def in_columns(options: Sequence[Sequence[str]], first: int) -> Iterator[str]:
    for start in range(0, len(options), 5):
        own = options[start : start + 5]
        yield "\t".join(["", *(str(first + start + place) for place in range(len(own)))])
        for index in range(len(own[0])):
            yield "\t".join([ascii_uppercase[index], *(each[index] for each in own)])
        yield ""


# Keys


def ranges(heading: str = "Answers:", dash: str = "-", gap: str = "", lower: bool = False) -> Key:
    def lines(answers: Sequence[str], first: int) -> Iterator[str]:
        parts = []
        for start in range(0, len(answers), 5):
            own = answers[start : start + 5]
            letters = gap.join(own)
            parts.append(f"{first + start}{dash}{first + start + len(own) - 1} {letters.lower() if lower else letters}")
        yield f"{heading} {'  '.join(parts)}"

    return lines


def singly(heading: str = "Answer key", item: str = "{}. {}", together: str | None = "  ") -> Key:
    def lines(answers: Sequence[str], first: int) -> Iterator[str]:
        items = [item.format(first + place, answer) for place, answer in enumerate(answers)]
        yield heading
        if together is None:
            yield from items
        else:
            yield together.join(items)

    return lines


def key_table(answers: Sequence[str], first: int) -> Iterator[str]:
    yield "KEY"
    for start in range(0, len(answers), 10):
        own = answers[start : start + 10]
        yield "  ".join(f"{first + start + place:2}" for place in range(len(own)))
        yield "  ".join(f"{answer:>2}" for answer in own)


def letters_only(answers: Sequence[str], first: int) -> Iterator[str]:
    yield "Keys: " + " ".join("".join(answers[start : start + 5]) for start in range(0, len(answers), 5))


def no_key(answers: Sequence[str], first: int) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True)
class Layout:
    """How a sheet looks."""

    mark: Mark
    options: Lister
    key: Key = ranges()
    first: int = 1
    before: str = ""
    between: str = "\n\n"

    def sheet(self, passages: Sequence[Fields], with_key: bool = True) -> str:
        """The sheet of some passages, with numbers that go on."""
        out, first = self.before, self.first
        keys: list[str] = []
        for fields in passages:
            out += filled(fields["article"], self.mark, first) + self.between
            out += "\n".join(self.options(fields["options"], first)) + "\n\n"
            keys += fields["answers"]
            first += len(fields["options"])
        if with_key:
            out += "\n".join(self.key(keys, self.first)) + "\n"
        return out

    def key_file(self, passages: Sequence[Fields]) -> str:
        """The key alone."""
        return "\n".join(self.key([answer for fields in passages for answer in fields["answers"]], self.first)) + "\n"


HEAD = """Spring Term Test, Grade 9
Name: ____________  Class: ______  Score: ____ / 20

Part I Cloze (20 points)
Directions: Read the passage below and choose the best answer
for each blank from A, B, C and D.

"""

#: Layouts of plain text, by name.
LAYOUTS: dict[str, Layout] = {
    "plain": Layout("___{}___".format, in_a_line()),
    "brackets within": Layout("__({})__".format, one_a_line(), singly(together=None), before=HEAD),
    "number before": Layout("({})____".format, in_a_line(gap="    "), singly(heading="Key:", item="{}.{}")),
    "number and space": Layout("{} ______".format, two_by_two, key_table, first=41),
    "number and point": Layout("{}.____".format, in_a_line("{}) "), singly("ANSWERS", "{}) {}"), first=21),
    "square brackets": Layout(
        "[{}]".format, in_a_line("({}) ", "[{}] "), singly(item="[{}] {}"), before="Passage 1\n\n"
    ),
    "no numbers": Layout(
        lambda number: "_____",
        in_a_line("{}．", "{}．"),
        ranges("参考答案：", "—"),
        before="完形填空（共20分）\n阅读下面短文，选择最佳答案。\n\n",
    ),
    "number behind": Layout("____({})".format, in_a_line("{}) ", "{}) ", lower=True), ranges("Solutions", lower=True)),
    "rows": Layout("__{}__".format, in_rows(), ranges("Answer Key:", "~", " "), before="Text A\n"),
    "rows without head": Layout("__ {} __".format, in_rows(head=False), singly(item="{}{}")),
    "rows with letters": Layout(
        "( {} )".format, in_rows(head=False, letters=True), singly(item="{}\t{}", together=None)
    ),
    "columns": Layout("___{}___".format, in_columns, letters_only),
    "side by side": Layout("({}) ______".format, side_by_side),
    "two a line": Layout("__{}__".format, two_a_line, ranges(gap=", "), between="\n\nOptions:\n"),
    "circled": Layout(circled, in_a_line("{}、", "{}、"), ranges("答案：")),
    "dots": Layout("({}) ..........".format, one_a_line(number="{}  "), singly(item="{} {}")),
    "number alone": Layout("……({})……".format, one_a_line("{}) ", alone=True, empty=True), singly(item="({}) {}")),
    "glued": Layout("___{}___".format, in_a_line("{}.", "{}."), singly(item="{}-{}")),
    "question": Layout("__{}__".format, in_a_line("[{}] ", "Question {}: "), ranges("The answer key:", " - ")),
}
