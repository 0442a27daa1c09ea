"""Terminal: a text, the options of its blanks, and which the model prefers."""

import unicodedata
from collections.abc import Callable, Sequence

from ..errors import ClozeError, PassageError, printable
from ..passages.markers import Marker, compile_marker, mark_blanks
from ..passages.text import BLANK, plain
from ..ranking.ranker import Ranked, Ranker

_WIDEST = 40  # columns of an option
_BAR = 24  # columns of the bar of a probability of 1
_AROUND = 30  # characters of text shown on each side of a blank


def split_options(line: str) -> list[str]:
    """Options in a line: with ``|`` between them where there is one, else with commas."""
    return [option.strip() for option in line.split("|" if "|" in line else ",")]


def converse(ranker: Ranker, ask: Callable[[str], str], tell: Callable[[str], None], blank: str | None = None) -> None:
    """Ask for a text and the options of each blank, and tell how the ranker ranks them, again and again.

    Args:
        ask: given a question, returns a line; ``EOFError`` or an empty text ends it
        tell: given a line of what was found
        blank: regular expression of what stands for a blank, as the ranker was told
    """
    marker = compile_marker(blank)
    tell(f"A text with {_mark(marker)} for each blank, then the options of each: a, b, c or a | b | c. Ctrl-D ends.")
    while True:
        try:
            text = ask("text: ")
            if not text.strip():
                return
            marked = mark_blanks(text, marker)
            blanks = list(BLANK.finditer(marked))
            options = [split_options(ask(f"options of blank {number}: ")) for number in range(1, len(blanks) + 1)]
        except EOFError:
            return
        if not blanks:
            tell(f"no blank: write {_mark(marker)} where something is missing")
            continue
        try:
            ranked = ranker.rank(text, options)
        except PassageError as error:
            tell(error.problem)
        except ClozeError as error:
            tell(str(error))
        else:
            for number, (found, one) in enumerate(zip(blanks, ranked), 1):
                before = plain(marked[max(0, found.start() - _AROUND) : found.start()])
                after = plain(marked[found.end() :][:_AROUND])
                tell(f"blank {number}: {printable(before)}[{printable(one.answer)}]{printable(after)}")
                for line in table(one):
                    tell(line)


def _mark(marker: Marker | None) -> str:
    return "_" if marker is None else f"'{printable(marker.pattern)}'"


def table(ranked: Ranked) -> list[str]:
    """The candidates of a blank, the best first: letter-free lines of option, probability and a bar."""
    shown = [_cut(printable(option) or "(nothing)") for option in ranked.options]
    width = max(map(_columns, shown))
    lines = []
    for place, index in enumerate(ranked.order, 1):
        probability = ranked.probabilities[index]
        space = " " * (width - _columns(shown[index]))
        bar = "#" * round(_BAR * probability)
        lines.append(f"{place:4}  {shown[index]}{space}  {probability:6.4f}  {bar}".rstrip())
    return lines


def _columns(text: str) -> int:
    """Columns that a terminal needs: two for the wide characters of Chinese and its like, none for combining ones."""
    wide: Sequence[str] = ("W", "F")
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in wide else 1 for c in text)


def _cut(text: str) -> str:
    if _columns(text) <= _WIDEST:
        return text
    while _columns(text) > _WIDEST - 3:
        text = text[:-1]
    return text + "..."
