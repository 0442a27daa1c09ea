"""Text of a passage: normalisation, blanks, sentences; plain strings, no tokens."""

import re

#: One run of underscores is one blank; a number inside the run (``___41___``) belongs to it, one beside it is text.
BLANK = re.compile(r"_+(?:[0-9]+_+)?")

TEXT_NORMS = ("standard", "none")

#: Options that mean "nothing goes here" (the zero article).
NOTHING = frozenset({"/", "\\", ""})

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]+")
_INVISIBLE_AT_BLANK = re.compile("(?<=[_0-9])[\u00ad\u200b\u2060\ufeff]+(?=[_0-9])")
_SPACE_BEFORE_PUNCTUATION = re.compile(r" ([!?;)]|[,.:](?!\d))")
_SENTENCE_BREAK = re.compile(r"[.!?…][\"'”’)\]]*(?=\s+[\"'“‘(\[]*[A-Z0-9_])")

#: What stands for a blank elsewhere, the surest first.
_OTHER_BLANKS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\[ ?(?:mask|blank|gap)[ \d]*\]|< ?/?(?:mask|blank|gap)[ \d]*>|@placeholder",
        r"\{\{[^{}]{0,40}\}\}|\uff3f+",
        r"\[ ?\d* ?\]|\{ ?\d* ?\}|\( {0,20}\)|\u2026{2,}|\.{4,}|-{3,}|\u2014{2,}|\u2500+|\*{2,}|#{2,}",
        r"\( ?\d{1,9} ?\)|<[^<>]{0,40}>",
    )
]


def normalise(text: str, norm: str = "standard") -> str:
    """Bring exam text into the form pretraining text had.

    ``standard`` turns control characters and every run of white space into one space, drops invisible characters
    and closes up the space before ``, . ! ? ; : )`` (not before a decimal such as ``.5``).  ``none`` keeps the text.
    """
    if norm == "none":
        return text
    spaced = " ".join(text.split())
    if not spaced.isprintable():
        text = _INVISIBLE_AT_BLANK.sub(" ", _CONTROL.sub(" ", text))  # what parts two runs must go on parting them
        spaced = " ".join(_INVISIBLE.sub("", text).split())
    return _SPACE_BEFORE_PUNCTUATION.sub(r"\1", spaced)


def sentence_breaks(article: str) -> list[int]:
    """Offsets of the white space between two sentences, in ascending order."""
    return [match.end() for match in _SENTENCE_BREAK.finditer(article)]


def likely_blank(article: str) -> str:
    """Advice for a text that seems to mark its blanks otherwise than with underscores; empty where it does not."""
    for pattern in _OTHER_BLANKS:
        if found := pattern.search(article):
            return f"; if '{found[0][:40]}' stands for one, write _ in its place"
    return ""


def opens_sentence(before: str) -> bool:
    """Whether a word after the text *before* would be the first of a sentence."""
    text = before.rstrip()
    return not text or text[-1] in ".!?"


def capitalise(word: str) -> str:
    """Upper-case the first letter, keep the rest."""
    return word[:1].upper() + word[1:]
