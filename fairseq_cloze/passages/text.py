"""Text of a passage: normalisation, blanks, sentences, by language; plain strings, no tokens."""

import re

#: What stands for a blank, and for an underscore that is text, where a marker of blanks was chosen (see
#: :mod:`fairseq_cloze.passages.markers`): characters that Unicode keeps for use inside of programs.
MARKED, UNDERSCORE = "\ufdd0", "\ufdd1"

#: One run of underscores is one blank; a number inside the run (``___41___``) belongs to it, one beside it is text.
#: (``__*`` is ``_+`` with a first character by itself, which a search finds in two thirds of the time.)
BLANK = re.compile(f"{MARKED}|__*(?:[0-9]+_+)?")

#: White space as Unicode's property and all tokenizers have it; ``str.isspace`` and ``str.strip`` count four control
#: characters more (U+001C to U+001F), which have tokens.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

#: Options that mean "nothing goes here" (the zero article).
NOTHING = frozenset({"/", "\\", "", "\uff0f", "\uff3c"})

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]+")
_INVISIBLE_AT_BLANK = re.compile("(?<=[_0-9])[\u00ad\u200b\u2060\ufeff]+(?=[_0-9])")

_SPACE_BEFORE_PUNCTUATION = {
    "en": re.compile(r" ([!?;)]|[,.:](?!\d))"),
    "fr": re.compile(r" (\)|[,.](?!\d))"),
    "zh": re.compile(r" ([!?;)]|[,.:](?!\d))"),
}
#: Chinese and Japanese characters, with the punctuation of such text.
_CJK = (
    "\u2014\u2018-\u201d\u2026\u2e80-\u2fdf\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60"
    "\U00020000-\U0003ffff"
)
_SPACE_IN_CHINESE = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}_{MARKED}])|(?<=[_{MARKED}]) (?=[{_CJK}])")

_SENTENCE_BREAK = {
    "en": re.compile(rf"""[.!?…]["'”’)\]]*(?=\s+["'“‘(\[]*[A-Z0-9_{MARKED}])"""),
    "fr": re.compile(rf"""[.!?…](?:\s?[»"”’)\]])*(?=\s+(?:["“‘«(\[—–-]\s*)*[A-ZÀ-ÖØ-ÞŒŸ0-9_{MARKED}])"""),
    # before an opening mark there is none: byte-level BPE has one token for both marks
    "zh": re.compile(rf"[。！？!?][”’」』）】》]*(?=\s*[\w{MARKED}])"),
}
_ENDS = {"en": ".!?", "fr": ".!?", "zh": ".!?。！？"}

#: Words that are common in French and not in the languages beside it.
_FRENCH = re.compile(
    r"\b(?:(?:les|des|du|une|et|est|qui|dans|pour|pas|sur|au|aux|ce|je|elle|nous|vous|mon|sa|ses|était|avec|très|où)\b"
    r"|(?:j|n|qu)['’])",
    re.IGNORECASE,
)
_CHINESE = re.compile(f"[{_CJK}]")


def normalise(text: str, norm: str = "standard", language: str = "en") -> str:
    """Bring exam text into the form pretraining text had.

    ``standard`` turns control characters and every run of white space into one space, drops invisible characters
    and closes up the space before ``, . ! ? ; : )`` (not before a decimal such as ``.5``).  French keeps that before
    ``! ? ; :``, as one ordinary space, and those in guillemets; Chinese has no spaces between its characters and at
    blanks beside them.  ``none`` keeps the text.
    """
    if norm == "none":
        return text
    spaced = " ".join(text.split())
    if not spaced.isprintable():
        text = _INVISIBLE_AT_BLANK.sub(" ", _CONTROL.sub(" ", text))  # what parts two runs must go on parting them
        spaced = " ".join(_INVISIBLE.sub("", text).split())
    if language == "zh":
        spaced = _SPACE_IN_CHINESE.sub("", spaced)
    return _SPACE_BEFORE_PUNCTUATION[language].sub(r"\1", spaced)


def plain(text: str) -> str:
    """A part of an article without its blanks, with its underscores."""
    return text.replace(UNDERSCORE, "_")


def sentence_breaks(article: str, language: str = "en") -> list[int]:
    """Offsets where a sentence ends and another one follows, in ascending order; of the white space between them."""
    return [match.end() for match in _SENTENCE_BREAK[language].finditer(article)]


def opens_sentence(before: str, language: str = "en") -> bool:
    """Whether a word after the text *before* would be the first of a sentence; in French also after ``: «``."""
    text, ends = before.rstrip(), _ENDS[language]
    if language == "fr" and text.endswith("«"):
        text, ends = text[:-1].rstrip(), ends + ":"
    return not text or text[-1] in ends


def capitalise(word: str) -> str:
    """Upper-case the first letter, keep the rest."""
    return word[:1].upper() + word[1:]


def likely_language(text: str) -> str | None:
    """The language, of :data:`.choices.LANGUAGES`, that a text seems to be in by its commonest words; else ``None``."""
    words = len(text.split())
    if len(_CHINESE.findall(text)) > max(len(text) // 4, 1):
        return "zh"
    return "fr" if len(_FRENCH.findall(text)) > max(0.1 * words, 3) else None
