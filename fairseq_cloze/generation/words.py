"""Words: the tokens of a sentence, their part of speech in context, and the kind of word a blank could ask for.

Tags are Penn's.  TextBlob's tagger proposes one per word, and a word has a kind only if Lemminflect's dictionary knows
it with that tag and nothing beside it speaks against it, as a doubtful word is no loss.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from ..errors import SetupError

TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d[\d.,]*\w*|\S")
_CONTRACTION = re.compile(r"(.+?)(n['’]t|['’](?:s|re|ve|ll|d|m))\Z", re.I)
_PLAIN = re.compile(r"[A-Z]?[a-z]+\Z|[AI]\Z")

#: Closed classes: words that can stand in for each other on an exam, by kind.
CLOSED: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "preposition": "in on at by for with from to of about into through during before after above below between "
        "under over against among without within along across behind beyond towards upon near since until beside "
        "despite except",
        "particle": "up out off down away back over on",
        "conjunction": "because although unless while since if when until before after whereas once though",
        "coordinator": "but and or so nor",
        "connective": "however nevertheless therefore thus consequently hence moreover furthermore besides instead "
        "otherwise meanwhile finally eventually fortunately unfortunately similarly likewise indeed",
        "question": "who whom whose which what when where why how whether",
        "adverb": "very too so quite enough even just only still already yet never always ever often again almost "
        "perhaps soon sometimes seldom rather once hardly",
        "indefinite": "something anything nothing everything someone anyone nobody everyone",
        "reflexive": "myself yourself himself herself itself ourselves themselves",
        "object": "me you him it us them",
        "possessive": "my your his her its our their",
        "singular quantifier": "every each another either neither",
        "plural quantifier": "many few several both",
        "have": "has have had",
        "do": "do does did",
        "be": "is are was were",
        "modal": "can could will would must should may might",
    }.items()
}

#: Kinds of open classes, by tag.
OPEN: dict[str, str] = {
    "NN": "NOUN", "NNS": "NOUN", "VB": "VERB", "VBP": "VERB", "VBD": "VERB", "VBN": "VERB", "VBG": "VERB",
    "VBZ": "VERB", "JJ": "ADJ", "JJR": "ADJ", "JJS": "ADJ", "RB": "ADV",
}  # fmt: skip

FUNCTION_WORDS: frozenset[str] = frozenset(word for words in CLOSED.values() for word in words) | frozenset(
    "i you he she it we they a an the this that these those some any much no not as than am been being be all most "
    "more there here then also her hers theirs mine yours ours such own same other others shall ought cannot one ones "
    "let s t".split()
)
_BE = frozenset("be is are was were am been being 's 're 'm".split())
_HAVE = frozenset("have has had having 've".split())
_TO_VERB = frozenset("to can could will would must should may might shall do does did n't 'll".split())
_SUBJECT = frozenset("i you he she it we they who there".split())
_ALSO_ADVERBS = frozenset(  # nouns and adjectives only where a noun or adjective follows
    "past straight long last next first right fast hard late early high low deep close ill short full home today "
    "yesterday tomorrow tonight".split()
)
_SKIPPED = frozenset("not never also always ever often just only still already".split())
_VERB = frozenset(("VERB", "ADV"))
_NOMINAL = ("DT", "PRP$", "NN", "NNS", "NNP", "JJ", "CD", "PRP", "VBG")


@dataclass(frozen=True)
class Token:
    """A word or mark of a text: where it stands, itself in lower case, its tag, and whether it is a plain word."""

    start: int
    end: int
    word: str
    tag: str
    plain: bool


_NOTHING = Token(0, 0, "", "", False)  # beside the first and the last token


class Tagger:
    """Tags sentences.

    Raises:
        SetupError: TextBlob or Lemminflect is not installed
    """

    def __init__(self) -> None:
        self._find_tags = _package("textblob._text").find_tags
        self._lexicon = _package("textblob.en").lexicon
        _package("lemminflect")

    def tag(self, text: str, start: int, end: int) -> list[Token]:
        """Tokens of the sentence ``text[start:end]``, with offsets in *text*."""
        spans = [match.span() for match in TOKEN.finditer(text, start, end)]
        pieces: list[str] = []
        firsts: list[int] = []
        for begin, stop in spans:
            firsts.append(len(pieces))
            word = text[begin:stop].replace("’", "'")
            split = _CONTRACTION.match(word) if "'" in word else None
            pieces += split.groups() if split else (word,)
        tagged = self._find_tags(
            pieces, lexicon=self._lexicon, morphology=self._lexicon.morphology, context=self._lexicon.context
        )
        tokens = []
        for (begin, stop), first, after in zip(spans, firsts, [*firsts[1:], len(pieces)]):
            plain = after == first + 1 and _PLAIN.match(pieces[first]) is not None and not _glued(text, begin, stop)
            tokens.append(Token(begin, stop, pieces[after - 1].lower(), tagged[first][1] or "NN", plain))
        return tokens


def _glued(text: str, start: int, end: int) -> bool:
    """Whether letters, digits or an apostrophe touch a word."""
    before, after, next_but_one = text[start - 1 : start], text[end : end + 1], text[end + 1 : end + 2]
    marks = ("'", "’", "-")
    return before.isalnum() or after.isalnum() or before in marks or after in marks and next_but_one.isalnum()


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise SetupError(
            f"generate: expected the package {package}, found none; "
            "install it with pip install 'fairseq-cloze[generate]'"
        ) from error


@lru_cache(maxsize=1 << 16)
def forms(word: str) -> tuple[tuple[str, str], ...]:
    """Tags a lower-case word can have as a form of a dictionary word, each with the lemma."""
    library = _package("lemminflect")
    found = []
    for part, lemmas in library.getAllLemmas(word).items():
        for lemma in lemmas:
            inflections = library.getAllInflections(lemma, upos=part)
            if "VBD" in inflections:  # the dictionary names a participle only where it differs
                inflections.setdefault("VBN", inflections["VBD"])
            for tag, spellings in inflections.items():
                if word in spellings and tag in OPEN and (tag, lemma) not in found:
                    found.append((tag, lemma))
    return tuple(found)


@lru_cache(maxsize=1 << 16)
def usual_tag(word: str) -> str:
    """The tag a word has most often, empty where TextBlob's lexicon does not have it."""
    return _package("textblob.en").lexicon.get(word) or ""


@lru_cache(maxsize=1 << 16)
def open_kind(word: str, tag: str) -> str | None:
    """Kind of a content word that has *tag*: forms that look alike are one; distractors are of the same kind."""
    tags = {own for own, _ in forms(word)}
    if tag not in tags or word in FUNCTION_WORDS or len(word) < 3:
        return None
    if tag in ("VBD", "VBN"):
        return "VBD/VBN" if {"VBD", "VBN"} <= tags else tag
    if tag in ("VB", "VBP"):
        return "VB"
    if tag == "RB":
        return "RB-ly" if word.endswith("ly") else None
    if tag == "JJ" and word.endswith(("ed", "ing")):
        return f"JJ-{word[-2:]}"
    return tag


def pool_kinds(word: str) -> tuple[str, ...]:
    """Kinds a word of the text can be a distractor of, by its usual tag alone: *bore* is no infinitive."""
    kind = open_kind(word, usual_tag(word))
    if kind is None:
        return ()
    return ("VBD", "VBD/VBN", "VBN") if kind == "VBD/VBN" else (kind,)


def kind_at(tokens: Sequence[Token], at: int) -> str | None:
    """What a blank at ``tokens[at]`` asks for: a key of :data:`CLOSED`, an open kind, ``None`` for no blank."""
    token = tokens[at]
    before, after = _beside(tokens, at)
    if not token.plain or before.tag[:3] == after.tag[:3] == "NNP":  # as in Bank of England
        return None
    if token.word in FUNCTION_WORDS:
        return _closed_kind(tokens, at)
    if not at or token.tag not in OPEN:
        return None
    part, usual = OPEN[token.tag], OPEN.get(usual_tag(token.word), "")
    told = _told(tokens, at)
    if part not in told and (part != usual or told):
        return None
    may_be_past = token.tag in ("VB", "VBP") and any(tag == "VBD" for tag, _ in forms(token.word))  # put, found
    if may_be_past and _teller(tokens, at).word not in _TO_VERB:
        return None
    if token.word in _ALSO_ADVERBS and (not after.tag.startswith(("NN", "JJ")) or after.word in _ALSO_ADVERBS):
        return None
    if (token.tag, _verb_form(tokens, at)) in (("VBD", "VBN"), ("VBN", "VBD")):
        return open_kind(token.word, "VBN" if token.tag == "VBD" else "VBD")
    if part == "VERB" and before.word == "the" or part == "ADJ" and before.word in ("more", "most"):
        return None
    return open_kind(token.word, token.tag)


def _beside(tokens: Sequence[Token], at: int) -> tuple[Token, Token]:
    return tokens[at - 1] if at else _NOTHING, tokens[at + 1] if at + 1 < len(tokens) else _NOTHING


def _teller(tokens: Sequence[Token], at: int) -> Token:
    """The nearest word before that is no adverb."""
    back = at - 1
    while back > 0 and (tokens[back].word in _SKIPPED or tokens[back].word.endswith("ly")):
        back -= 1
    return tokens[back]


def _told(tokens: Sequence[Token], at: int) -> frozenset[str]:
    """Parts of speech that the words before allow; empty where they say nothing."""
    before, tag = _teller(tokens, at), tokens[at].tag
    any_part = frozenset(("VERB", "NOUN", "ADJ", "ADV"))
    if before.word in _TO_VERB:
        return any_part - {"ADV"} if before.word == "to" and tag[:2] != "VB" else _VERB
    if before.word in _SUBJECT:
        return _VERB
    if before.word in _HAVE:
        return any_part
    if before.word in _BE:
        return any_part if tag not in ("VB", "VBP", "VBD") else frozenset("-")
    if before.tag in ("DT", "PRP$", "POS", "CD", "JJ", "WP$"):
        if tag in ("VBG", "VBN"):
            return frozenset("-")
        return any_part - ({"VERB"} if before.tag != "JJ" else _VERB)
    return frozenset()


def _verb_form(tokens: Sequence[Token], at: int) -> str:
    """``VBN`` after a form of have or be, ``VBD`` after a subject, else nothing."""
    for back in range(at - 1, max(at - 4, -1), -1):
        word = tokens[back].word
        if word in _HAVE or word in _BE:
            return "VBN"
        if word in _SUBJECT:
            return "VBD"
        if word not in _SKIPPED and not word.endswith("ly"):
            return ""
    return ""


def _closed_kind(tokens: Sequence[Token], at: int) -> str | None:
    word, tag = tokens[at].word, tokens[at].tag
    before, after = _beside(tokens, at)
    if after is _NOTHING:
        return "reflexive" if word in CLOSED["reflexive"] else None
    following = after.tag
    comma = after.word == ","
    if word in CLOSED["connective"] and (comma or before.word in (",", ";")):
        return "connective" if comma else None
    if word in CLOSED["coordinator"] and before.word in (",", ";") and after.word in _SUBJECT:
        return "coordinator"
    clause = after.word in _SUBJECT - {"you", "it"}
    if word in CLOSED["conjunction"] and after.word in _SUBJECT | {"the", "a", "his", "her", "my", "their", "this"}:
        if clause or word in ("because", "although", "unless", "while", "if", "when"):
            return "conjunction"
    if word in CLOSED["particle"] and tag in ("RP", "RB", "IN") and before.tag.startswith("VB"):
        if before.word not in _BE and following not in _NOMINAL and not comma:
            return "particle"
    if word in CLOSED["preposition"] and tag in ("IN", "TO") and following in _NOMINAL and not comma:
        if word == "to" and following not in ("DT", "PRP$", "PRP"):
            return None
        if word == "for" and not any(near.word[0].isalnum() for near in tokens[:at]):
            return None  # often a conjunction
        return "preposition" if not clause else None
    fits = {
        "question": at > 0 and not comma and tag[:1] == "W",
        "reflexive": True,
        "indefinite": True,
        "object": word not in ("you", "it") and (before.tag.startswith("VB") or before.tag in ("IN", "TO")),
        "possessive": following in ("NN", "NNS", "JJ"),
        "singular quantifier": following == "NN",
        "plural quantifier": following == "NNS",
        "adverb": tag == "RB" and not comma and at > 0,
    }
    found = next((kind for kind, fit in fits.items() if fit and word in CLOSED[kind]), None)
    return found or _auxiliary(word, tokens, at)


def _auxiliary(word: str, tokens: Sequence[Token], at: int) -> str | None:
    """Kind of an auxiliary before the verb it helps, whose form only that kind takes."""
    ahead = at + 1
    while ahead < len(tokens) - 1 and tokens[ahead].word in _SKIPPED:
        ahead += 1
    if not at or tokens[at - 1].word not in _SUBJECT and not tokens[at - 1].tag.startswith("NN"):
        return None
    verb = tokens[ahead].word
    tags = {tag for tag, _ in forms(verb)} | ({"VBN"} if verb == "been" else set())
    infinitive = "VB" in tags and not tags & {"VBN", "NN", "JJ"}
    fits = {
        "have": "VBN" in tags and "VB" not in tags,
        "modal": infinitive or verb in ("be", "have"),
        "do": infinitive and ahead > at + 1,
        "be": "VBG" in tags and not tags & {"NN", "JJ"},
    }
    return next((kind for kind, fit in fits.items() if fit and word in CLOSED[kind]), None)
