"""Options of a sheet: lists such as ``1. A. calm B. cold`` in lines, in columns, one a line, and in tables."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from .blanks import FILL, number_in
from .lines import Document, Line

_MOST_CHAINS = 50  # ways to part a line that are followed; two are too many
_ROUND = r"[\u2460-\u2473]"
_LETTER = r"(?P<letter>[A-Za-z\uff21-\uff3a])"

#: Before an option: the number of the blank it is for.
NUMBER = (
    rf"(?:(?:[Qq]uestion|Q|No\.?) ?)?[(\[\uff08\u3010]? ?(?P<number>\d{{1,3}}|{_ROUND}) ?[)\]\uff09\u3011]?"
    r"[.\uff0e\u3001:\uff1a)\uff09]? ?"
)

#: How the letters of options are written, by an example.
_STYLES = {
    "A.": rf"{_LETTER} ?[.\uff0e]",
    "(A)": rf"[(\uff08] ?{_LETTER} ?[)\uff09]",
    "[A]": rf"[\[\u3010] ?{_LETTER} ?[\]\u3011]",
    "A)": rf"{_LETTER} ?[)\uff09]",
    "A\u3001": rf"{_LETTER} ?\u3001",
    "A:": rf"{_LETTER} ?[:\uff1a]",
}
_HEADS = {name: re.compile(rf"(?:{NUMBER})?(?P<star>\*)? ?{marker}\s*") for name, marker in _STYLES.items()}
_MARKS = {name: re.compile(rf"(?P<star>\*)?{marker}\s*") for name, marker in _STYLES.items()}
_RESTART = re.compile(
    r"(?<=\s)(?=[(\[\uff08]?\d{1,3}[)\]\uff09.\uff0e\u3001]\s*(?:[(\[\uff08]?[Aa\uff21][.)\]\uff0e\uff09\u3001:]))"
)
_BARE = re.compile(rf"(?:{NUMBER})?(?P<letter>[A-Z]) (?P<text>\S.*)")
_LONE_NUMBER = re.compile(NUMBER.strip())
_LONE_LETTER = re.compile(r"(?:[Oo]ption |[Cc]hoice )?[(\[\uff08]?([A-Z\uff21-\uff3a])[.)\]\uff0e\uff09\u3001:]?")


@dataclass
class Entry:
    """The options of a blank."""

    line: Line
    number: int | None
    options: list[str] = field(default_factory=list)
    right: int | None = None  #: index of the option that is marked as right
    shape: str = "A."  #: how its letters are written


@dataclass
class _Head:
    """An option: its letter by index, its text, and the number before it."""

    number: int | None
    index: int
    is_upper: bool
    style: str
    text: str
    is_right: bool


def letter_index(letter: str) -> int:
    """The index of an option's letter."""
    return ord(unicodedata.normalize("NFKC", letter).upper()) - ord("A")


def _head(cell: str) -> _Head | None:
    for style, pattern in _HEADS.items():
        if match := pattern.match(cell):
            letter = unicodedata.normalize("NFKC", match["letter"])
            number = number_in(match["number"]) if match["number"] else None
            if style == "A:" and number is None and letter == "A":
                continue  # somebody speaks
            rest = cell[match.end() :]
            return _Head(number, letter_index(letter), letter.isupper(), style, rest, match["star"] is not None)
    return None


def _heads(line: Line) -> list[_Head]:
    """The options that begin in a line, one per cell that begins with one; none where the first cell does not."""
    found: list[_Head] = []
    number = None
    cells = [part.strip() for _, cell in line.cells for part in _RESTART.split(cell)]
    for place, cell in enumerate(cells):
        if not cell:
            continue
        head = _head(cell)
        if (
            head is None
            and re.fullmatch("[A-Z]", cell)
            and place + 1 < len(cells)
            and (line.is_row or "\t" in line.text)
        ):
            head = _Head(None, letter_index(cell), True, "A", "", False)
        if head is not None:
            head.number = number if head.number is None else head.number
            found.append(head)
            number = None
        elif number is None and (lone := _LONE_NUMBER.fullmatch(cell)) and (not found or place + 1 < len(cells)):
            number = number_in(lone["number"])
        elif found and number is None:
            found[-1].text = f"{found[-1].text} {cell}".strip()
        else:
            return _bare_heads(cells)
    return found if number is None and found else _bare_heads(cells)


def _bare_heads(cells: list[str]) -> list[_Head]:
    """As :func:`_heads`, of ``1 A calm   B cold``."""
    found = [_BARE.fullmatch(cell) for cell in cells if cell]
    letters = [each["letter"] for each in found if each]
    if len(letters) < max(2, len(found)) or letters != [chr(ord("A") + place) for place in range(len(letters))]:
        return []
    heads = [_Head(None, place, True, "A", each["text"], False) for place, each in enumerate(found) if each]
    first = found[0]
    heads[0].number = number_in(first["number"]) if first and first["number"] else None
    return heads


def lone_number(line: Line) -> int | None:
    """The number in a line that holds nothing else."""
    match = _LONE_NUMBER.fullmatch(line.text.strip())
    return number_in(match["number"]) if match else None


def starts_options(line: Line) -> bool:
    """Whether a line begins as a list of options does."""
    heads = _heads(line)
    return bool(heads) and heads[0].index == 0


def split_question(text: str) -> tuple[str, str] | None:
    """A text and the list of options behind it in the same line."""
    for style, pattern in _MARKS.items():
        firsts = [
            m for m in pattern.finditer(text) if letter_index(m["letter"]) == 0 and text[: m.start()][-1:].isspace()
        ]
        for first in reversed(firsts):
            parts = text[first.start() :]
            later = [letter_index(m["letter"]) for m in pattern.finditer(parts)]
            if later[:2] == [0, 1] and style != "A:":
                return text[: first.start()].rstrip(), parts
    return None


def _split(document: Document, line: Line, head: _Head, last: int | None) -> list[_Head]:
    """An option, and those that follow it in the same cell, up to the index *last* where that is known."""
    if head.style not in _MARKS or (last is not None and last <= head.index):
        return [head]
    text = head.text

    def marks(glued: bool) -> Iterator[tuple[int, int, int, bool]]:
        for match in _MARKS[head.style].finditer(text):
            before = text[: match.start()]
            letter = unicodedata.normalize("NFKC", match["letter"])
            fits = not before or before[-1].isspace() or (glued and re.match("[a-z\u4e00-\u9fff/]", before[-1]))
            if fits and letter.isupper() == head.is_upper:
                yield match.start(), match.end(), letter_index(letter), match["star"] is not None

    found = list(marks(False))
    if head.is_upper and not any(index == head.index + 1 for *_, index, _ in found):
        found = list(marks(True))
    chains: list[list[tuple[int, int, int, bool]]] = [[]]
    wanted = head.index + 1
    while last is None or wanted <= last:
        longer = [
            [*chain, mark]
            for chain in chains
            for mark in found
            if mark[2] == wanted and (not chain or mark[0] >= chain[-1][1])
        ]
        if not longer:
            break
        chains, wanted = longer[:_MOST_CHAINS], wanted + 1
    if len(chains) > 1:
        letter = chr(ord("A" if head.is_upper else "a") + next(a[2] for a, b in zip(*chains[:2]) if a != b))
        raise document.error(
            line,
            f"expected one place where option {letter} begins, found several in '{line.text.strip()[:60]}'; "
            "put each option on a line of its own",
        )
    [chain] = chains
    ends = [mark[0] for mark in chain] + [len(text)]
    out = [_Head(head.number, head.index, head.is_upper, head.style, text[: ends[0]].strip(), head.is_right)]
    for (_, stop, index, star), end in zip(chain, ends[1:]):
        out.append(_Head(None, index, head.is_upper, head.style, text[stop:end].strip(), star))
    return out


def read_options(document: Document, start: int) -> tuple[list[Entry], int] | None:
    """The lists of options that begin at a line, and the number of the line after them; ``None`` where none begins.

    Raises:
        PassageError: a list that has begun is not whole
    """
    return _read_table(document, start) or _read_lists(document, start)


def _read_lists(document: Document, start: int) -> tuple[list[Entry], int] | None:
    lines, entries = document.lines, list[Entry]()
    row: list[Entry] = []  # what began in the same line
    at = end = start
    number = None
    while at < len(lines):
        line = lines[at]
        if not line.text.strip():
            at += 1
            continue
        heads = _heads(line)
        if not heads and (lone := lone_number(line)) is not None and _next_starts(lines, at + 1, 0):
            number, at = lone, at + 1
            continue
        fits = heads and (heads[0].index == 0 or any(len(entry.options) == heads[0].index for entry in row))
        if not fits:
            if len(row) == 1 and at == end and _next_starts(lines, at + 1, len(row[0].options), 3):
                row[0].options[-1] += " " + line.text.strip()  # an option over several lines
                at = end = at + 1
                continue
            break
        began = False
        for place, head in enumerate(heads):
            follower = (
                heads[place + 1] if place + 1 < len(heads) else _next_head(lines, at + 1) if len(row) < 2 else None
            )
            last = follower.index - 1 if follower is not None and follower.index > head.index else None
            if follower is not None and follower.index == 0 and place + 1 < len(heads):
                last = None
            for option in _split(document, line, head, last):
                if option.index == 0:
                    entry = Entry(line, number if option.number is None else option.number, shape=option.style)
                    row = [*row, entry] if began else [entry]
                    began, number = True, None
                    entries.append(entry)
                else:
                    takers = [each for each in row if len(each.options) == option.index]
                    if not takers or option.number is not None:
                        expected = chr(ord("A") + len(row[0].options)) if row else "A"
                        raise document.error(
                            line,
                            f"expected option {expected}, found {chr(ord('A') + option.index)}; letter the "
                            "options A, B, C, ...",
                        )
                    entry = takers[0]
                entry.options.append(option.text)
                if option.is_right:
                    entry.right = option.index
        at = end = at + 1
    if entries and len(entries[-1].options) < 2 and entries[-1].number is None:
        if len(entries) == 1:
            return None  # "A. Smith was late."
        end = lines.index(entries.pop().line)
    if entries and any(re.search(FILL, option) for option in entries[0].options):
        return None  # a dialogue
    for entry in entries:
        if len(entry.options) < 2:
            raise document.error(
                entry.line, f"expected options A, B and more, found A alone ('{entry.options[0][:40]}')"
            )
    return (entries, end) if entries else None


def _next_head(lines: list[Line], at: int) -> _Head | None:
    while at < len(lines) and not lines[at].text.strip():
        at += 1
    heads = _heads(lines[at]) if at < len(lines) else []
    return heads[0] if heads else None


def _next_starts(lines: list[Line], at: int, index: int, most: int = 1) -> bool:
    """Whether one of the next lines begins with the option of an index; *most* lines, none of them empty if several."""
    if most == 1:
        head = _next_head(lines, at)
        return head is not None and head.index == index and head.number is None
    for line in lines[at : at + most]:
        heads = _heads(line)
        if heads or not line.text.strip():
            return bool(heads) and heads[0].index == index and heads[0].number is None
    return False


def _read_table(document: Document, start: int) -> tuple[list[Entry], int] | None:
    """As :func:`read_options`, of tables: a row for each blank, or a column."""
    line = document.lines[start]
    texts = [cell for _, cell in line.cells]
    letters = [_LONE_LETTER.fullmatch(cell) for cell in texts]
    numbers = [_LONE_NUMBER.fullmatch(cell) for cell in texts]
    for skipped in (0, 1):
        if len(texts) - skipped >= 2 and all(letters[skipped:]) and not (skipped and (letters[0] or numbers[0])):
            if [letter_index(each[1]) for each in letters[skipped:] if each] == list(range(len(texts) - skipped)):
                return _read_rows(document, start + 1, len(texts) - skipped)
        if len(texts) - skipped >= 2 and all(numbers[skipped:]) and not (skipped and (letters[0] or numbers[0])):
            found = [number_in(each["number"]) for each in numbers[skipped:] if each]
            if found == list(range(found[0] or 0, (found[0] or 0) + len(found))):
                return _read_columns(document, start, found)
    if (line.is_row or "\t" in line.text) and len(texts) >= 3 and numbers[0] and _head(texts[1]) is None:
        if all(texts) and not any(numbers[1:]) and not (texts[1] == "A" and "B" in texts[2:4]):
            return _read_rows(document, start, len(texts) - 1)
    return None


def _read_rows(document: Document, at: int, count: int) -> tuple[list[Entry], int] | None:
    entries: list[Entry] = []
    end = at
    while at < len(document.lines):
        line = document.lines[at]
        cells = [cell for _, cell in line.cells]
        if not line.text.strip():
            at += 1
            continue
        number = _LONE_NUMBER.fullmatch(cells[0])
        if not number or (len(cells) < 3 and not entries):
            break
        if len(cells) != count + 1:
            raise document.error(
                line, f"expected a number and {count} options, one in each column, found {len(cells) - 1}"
            )
        entries.append(Entry(line, number_in(number["number"]), cells[1:], shape="columns"))
        at = end = at + 1
    heads = [_head(option) for entry in entries for option in entry.options]
    if all(head and head.number is None and head.index == place % count for place, head in enumerate(heads)):
        for place, head in enumerate(heads):  # the letters stand in the cells
            entries[place // count].options[place % count] = head.text if head else ""
    return (entries, end) if entries else None


def _read_columns(document: Document, at: int, numbers: list[int | None]) -> tuple[list[Entry], int] | None:
    top = document.lines[at]
    entries = [Entry(top, number, shape="rows") for number in numbers]
    at += 1
    while at < len(document.lines):
        line = document.lines[at]
        cells = [cell for _, cell in line.cells]
        letter = _LONE_LETTER.fullmatch(cells[0]) if cells else None
        if letter is None or letter_index(letter[1]) != len(entries[0].options):
            break
        if len(cells) != len(entries) + 1:
            expected = f"expected option {letter[1]} of {len(entries)} blanks, one in each column"
            raise document.error(line, f"{expected}, found {len(cells) - 1}")
        if not entries[0].options and all(len(cell) == 1 for cell in cells[1:]):
            return None  # an answer key
        for entry, cell in zip(entries, cells[1:]):
            entry.options.append(cell)
        at += 1
    return (entries, at) if len(entries[0].options) > 1 else None
