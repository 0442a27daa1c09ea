"""Markers: what stands for a blank in a text, a run of underscores unless another one is chosen (``--blank``)."""

import re
import warnings
from collections import Counter

from ..errors import ClozeError, printable
from .text import BLANK, MARKED, UNDERSCORE

Marker = re.Pattern[str]

_LONGEST = 200  # characters of a regular expression
_CHOICES = 12  # places at which matching may take more than one way

#: Escapes and sets; what stands in them repeats nothing.
_INERT = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_INNER = re.compile(f"[{MARKED}{UNDERSCORE}]")

#: What stands for a blank in texts that were seen, the surest first.
_OTHERS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!_)_+ ?[(\[] ?\d+ ?[)\]] ?_+",
        r"\[ ?(?:mask|blank|gap)[ \d]*\]|< ?/?(?:mask|blank|gap)[ \d]*>|@placeholder",
        r"\{\{[^{}]{0,40}\}\}|\uff3f+",
        r"\[ ?\d* ?\]|\{ ?\d* ?\}|\( {0,20}\)|\uff08[\d \u3000]{0,20}\uff09",
        r"\u2026{2,}|\.{4,}|-{3,}|\u2014{2,}|\u2500+|\*{2,}|#{2,}",
        r"\( ?\d{1,9} ?\)|<[^<>]{0,40}>",
    )
]

#: How a regular expression says that a run is long enough for one of these.
_RUNS = {"\uff3f": "+", "\u2500": "+", "-": "{3,}", ".": "{4,}"}


def compile_marker(regex: str | None) -> Marker | None:
    """The marker that a regular expression describes; ``None`` for none, which stands for underscores.

    What is accepted takes no exponential time: no group is repeated, and there are few places to choose at.

    Raises:
        ClozeError: it is no regular expression, fits the empty text, or may take for ever
    """
    if regex is None:
        return None
    shown = printable(regex)[:60]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of sets that look nested
            marker = re.compile(regex)
    except (re.error, FutureWarning, DeprecationWarning, OverflowError, RecursionError) as error:
        raise ClozeError(
            f"--blank: expected a regular expression, found '{shown}' ({error}); write \\ before each of "
            r". ^ $ * + ? { } [ ] \ | ( ) that stands for itself"
        ) from error
    if marker.search(""):
        raise _fits_nothing(marker)
    bare = _INERT.sub("x", regex).replace("(?", "(")
    if len(regex) > _LONGEST or len(re.findall(r"[*+?{|]", bare)) > _CHOICES:
        raise ClozeError(
            f"--blank: expected at most {_LONGEST} characters and {_CHOICES} of * + ? {{ |, found "
            f"'{shown}', which may take for ever; write a simpler one"
        )
    if re.search(r"\)\s*[*+{]", bare) or "(#" in bare or marker.flags & re.VERBOSE:
        raise ClozeError(
            f"--blank: expected no group that is repeated and no comment, found '{shown}', which may take for "
            "ever; repeat single characters and sets only"
        )
    return marker


def _fits_nothing(marker: Marker) -> ClozeError:
    return ClozeError(
        f"--blank: expected what stands for a blank, found '{printable(marker.pattern)[:60]}', which fits where "
        "nothing stands; write one that needs at least one character"
    )


def mark_blanks(article: str, marker: Marker | None) -> str:
    """The article with :data:`MARKED` for what *marker* finds, white space at its ends kept, and other underscores as
    text; without a marker as it is.  The two characters that this takes are no text: where they stand, U+FFFD does.

    Raises:
        ClozeError: the marker fits where nothing stands
    """
    if MARKED in article or UNDERSCORE in article:
        article = _INNER.sub("\ufffd", article)
    if marker is None:
        return article
    parts, end = [], 0
    for match in marker.finditer(article):
        found = match[0]
        if not found:
            raise _fits_nothing(marker)
        parts.append(article[end : match.start()].replace("_", UNDERSCORE))
        parts += [" " * found[0].isspace(), MARKED, " " * found[-1].isspace()]
        end = match.end()
    return "".join([*parts, article[end:].replace("_", UNDERSCORE)])


def likely_marker(text: str, marker: Marker | None, expected: int) -> str:
    """Advice for an article, as given, that seems to mark its *expected* blanks otherwise; empty where it does not."""
    meant = "they stand for blanks" if expected > 1 else "it stands for the blank"
    runs = BLANK.findall(text) if marker is not None else []
    if len(runs) == expected > 0:
        return f"; the text holds {expected:,} '{runs[0][:40]}': if {meant}, leave out --blank"
    first = None
    for pattern in _OTHERS:
        found = Counter(match[0] for match in pattern.finditer(text))
        first = first or next(iter(found), None)
        counts: Counter[str] = Counter()
        shown: dict[str, str] = {}
        for one, count in found.items():
            regex = _generalised(one)
            counts[regex] += count
            shown.setdefault(regex, printable(one)[:40])
        for regex, count in counts.items():
            if count == expected > 0:
                return f"; the text holds {count:,} '{shown[regex]}': if {meant}, give --blank '{regex}'"
    if first is None or marker is not None:
        return ""
    return f"; if '{printable(first)[:40]}' stands for one, write _ in its place"


def _generalised(found: str) -> str:
    """A regular expression for what looks like *found*."""
    if len(set(found)) == 1:
        return re.escape(found[0]) + _RUNS.get(found[0], "{2,}")
    if found.startswith("{{"):
        return r"\{\{[^{}]*\}\}"
    escaped = re.sub(r"\d+", r"\\d+", re.sub(r"_+", "_+", re.sub(r"(?:\\?\s)+", r"\\s*", re.escape(found))))
    return escaped.replace("'", ".")
