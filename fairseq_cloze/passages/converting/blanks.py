"""Blanks of a sheet: how it marks them, told by the numbers that its options have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: What is drawn to write on: underscores, or rows of dots or dashes; whole rows only, which takes linear time.
FILL = "(?:{})".format(
    "|".join(
        rf"(?<!{sign}){sign}{{{least},}}+"
        for sign, least in {
            "_": 1,
            r"\uff3f": 1,
            r"\u2026": 2,
            r"\.": 5,
            "-": 4,
            r"\u2014": 3,
            r"\u2500": 2,
            r"\u00b7": 4,
        }.items()
    )
)

_CIRCLED = {chr(0x2460 + number): number + 1 for number in range(20)}
_ROUND = r"[\u2460-\u2473]"
_N = r"\d{1,3}"
_OPEN, _CLOSE = r"[(\[{<\uff08\u3010]", r"[)\]}>\uff09\u3011]"
_BRACKETED = rf"{_OPEN} ?{_N} ?{_CLOSE}"
_ALONE = r"(?<![A-Za-z0-9.,:/$-])"  # what a number of a blank does not stand behind

#: How sheets mark blanks, by name, the surest first; the numbers are in what is found.
READINGS: dict[str, re.Pattern[str]] = {
    "with the number in or before them": re.compile(
        rf"{FILL} ?{_OPEN}? ?(?:{_N}|{_ROUND}) ?[.\u3001\uff0e]?{_CLOSE}? ?{FILL}|(?:{_BRACKETED}|{_ROUND}) ?{FILL}"
        rf"|{_ALONE}{_N} ?[.\uff0e\u3001)\uff09]? ?{FILL}"
    ),
    "with the number behind them": re.compile(rf"{FILL}{_OPEN}?{_N}{_CLOSE}?{FILL}|{FILL} ?(?:{_BRACKETED}|{_ROUND})"),
    "without numbers": re.compile(FILL),
    "in brackets": re.compile(rf"{_BRACKETED}|{_ROUND}"),
}
_NUMBERED = ("with the number in or before them", "with the number behind them", "in brackets")
_SURELY_NUMBERED = re.compile(
    rf"{FILL}(?:{_N}|{_ROUND}|{_BRACKETED}){FILL}|(?:{_BRACKETED}|{_ROUND}) ?{FILL}|{FILL} ?(?:{_BRACKETED}|{_ROUND})"
)
_LETTER = re.compile(r"[A-Za-z0-9\u00c0-\u024f]")


@dataclass(frozen=True)
class Reading:
    """Blanks that were found in a text."""

    name: str  #: of :data:`READINGS`
    spans: list[tuple[int, int]]
    numbers: list[int | None]
    shape: str  #: the first one as it stands there

    def article(self, text: str) -> tuple[str, int]:
        """The text with ``_`` for each blank, and how many had to be parted from a letter beside them."""
        out, end, parted = "", 0, 0
        for start, stop in self.spans:
            out += text[end:start]
            before = out[-1:] == "_" or bool(_LETTER.match(out[-1:]))
            after = bool(_LETTER.match(text[stop : stop + 1]))
            parted += before or after
            out += " " * before + "_" + " " * after
            end = stop
        return out + text[end:], parted


class NoReading(ValueError):
    """The blanks of a text do not fit its options; *offset* is of where they do not, in the text."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.offset = offset


def number_in(text: str) -> int | None:
    """The number that stands in a marker of a blank."""
    found = re.search(rf"{_N}|{_ROUND}", text)
    return None if found is None else _CIRCLED.get(found[0]) or int(found[0])


def read(text: str, name: str) -> Reading:
    """What one way of marking blanks finds in a text."""
    found = list(READINGS[name].finditer(text))
    numbers = [None if name == "without numbers" else number_in(match[0]) for match in found]
    return Reading(name, _without_stops(found), numbers, found[0][0] if found else "")


def _without_stops(found: Sequence[re.Match[str]]) -> list[tuple[int, int]]:
    """Where markers stand; of dots, one more than in others is the end of a sentence."""
    counts = [len(match[0]) - len(match[0].rstrip(".")) for match in found]
    fewest = min(counts, default=0)
    return [(match.start(), match.end() - (0 < fewest == count - 1)) for match, count in zip(found, counts)]


def has_blanks(text: str) -> bool:
    """Whether something in a text may be a blank."""
    return any(pattern.search(text) for pattern in READINGS.values())


def numbers_of(text: str) -> list[int]:
    """The numbers of a text's blanks, as far as they go up by one; empty where they have none."""
    for name in _NUMBERED:
        numbers = [number for number in read(text, name).numbers if number is not None]
        if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return numbers
    return []


def find_blanks(text: str, expected: Sequence[int] | int) -> Reading:
    """The blanks of a text.

    Args:
        text: of a passage
        expected: their numbers, or how many there are where the options have none

    Raises:
        NoReading: no way of marking blanks fits
    """
    count = expected if isinstance(expected, int) else len(expected)
    readings = [read(text, name) for name in READINGS]
    for reading in readings:
        numbers: Sequence[int | None] = reading.numbers
        if len(numbers) != count:
            continue
        first = numbers[0]
        wanted = expected
        if isinstance(wanted, int):
            wanted = range(first, first + count) if first is not None else ()
        if list(numbers) == list(wanted) or (reading.name == "without numbers" and not _is_numbered(text, expected)):
            _check_rest(text, reading)
            return reading
    raise _misfit(text, expected, readings)


def _is_numbered(text: str, expected: Sequence[int] | int) -> bool:
    """Whether blanks of a text have numbers, though not those that they should have."""
    if _SURELY_NUMBERED.search(text):
        return True
    wanted = range(1, expected + 1) if isinstance(expected, int) else expected
    return 2 * len(set(read(text, _NUMBERED[0]).numbers) & set(wanted)) > len(wanted) > 1


def _check_rest(text: str, reading: Reading) -> None:
    """Make sure that nothing else in the text looks like a blank."""
    taken = set[int]()
    for start, stop in reading.spans:
        taken.update(range(start, stop))
    for match in re.finditer(r"_+|\uff3f+", text):
        if match.start() not in taken:
            found = "in brackets" if reading.name == "in brackets" else "with numbers"
            raise NoReading(
                f"expected blanks {found} only, such as '{reading.shape}', found '{match[0][:20]}'; number it, give "
                "it options, or take it out",
                match.start(),
            )


def _misfit(text: str, expected: Sequence[int] | int, readings: list[Reading]) -> NoReading:
    count = expected if isinstance(expected, int) else len(expected)
    numbered = max((r for r in readings if r.name != "without numbers"), key=lambda r: _fitting(r, expected))
    plain = next(r for r in readings if r.name == "without numbers")
    if not isinstance(expected, int) and _fitting(numbered, expected) * 2 > count:
        for place, number in enumerate(expected):
            found = numbered.numbers[place] if place < len(numbered.numbers) else None
            if found != number:
                at = numbered.spans[min(place, len(numbered.spans) - 1)][0]
                what = f"blank {found}" if found is not None else "no more blanks"
                return NoReading(
                    f"expected blank {number}, which has options, found {what}; number blanks and options alike", at
                )
        at, more = numbered.spans[count][0], numbered.numbers[count]
        return NoReading(f"expected {count} blanks, as many as have options, found blank {more}, which has none", at)
    best = plain if plain.spans else numbered
    lists = f"{count} list{'s' * (count > 1)} of options"
    return NoReading(
        f"expected {count} blank{'s' * (count > 1)} for {lists}, found {len(best.spans)}; give each blank "
        "options, and mark it ____ or with its "
        "number, such as __1__",
        best.spans[0][0] if best.spans else 0,
    )


def _fitting(reading: Reading, expected: Sequence[int] | int) -> int:
    return 0 if isinstance(expected, int) else len(set(reading.numbers) & set(expected))
