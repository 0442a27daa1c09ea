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
_SENTENCE_END = re.compile(r"[.!?]\s*\Z|\A\s*\Z")


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


def opens_sentence(before: str) -> bool:
    """Whether a word after the text *before* would be the first of a sentence."""
    return _SENTENCE_END.search(before) is not None


def capitalise(word: str) -> str:
    """Upper-case the first letter, keep the rest."""
    return word[:1].upper() + word[1:]
