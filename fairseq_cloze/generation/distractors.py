"""Distractors: words of the kind and frequency of the right one that do not fit, with the text itself as evidence.

A content word that was seen with the content words beside the blank may fit and is left out; of the others those come
first that were seen with its function words, as they fit the grammar.  A function word is kept if it was seen with the
words beside the blank far less often than the right one.
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from ..passages.text import capitalise
from .slots import Slot
from .wordcounts import CONTENT, NEIGHBOURS, WordCounts
from .words import CLOSED, FUNCTION_WORDS, forms

#: Distractors that a blank needs.
NEEDED = 3

#: Function words that can mean the same; they never stand together.
_GROUPS = (
    "although though while whereas", "because since as", "when while as once if after", "until before",
    "however nevertheless", "therefore thus consequently hence", "moreover furthermore besides",
    "meanwhile however",
    "finally eventually", "similarly likewise", "indeed moreover furthermore", "instead however", "who whom",
    "what which", "when where", "how why", "when how", "whether why", "although but",
    "in into within at", "on upon", "about of", "below under beneath", "above over", "between among",
    "against with", "through across along over", "towards to into", "besides beside", "by beside near at",
    "before until", "after since", "without except", "during in", "for during", "from of", "despite with",
    "very so too quite rather", "still yet already", "never seldom hardly", "always often sometimes ever",
    "even just only", "almost quite", "soon again", "someone everyone anyone", "something everything anything",
    "nobody no", "has have had", "do does did", "is are was were", "off away out", "up over", "down over",
    "back away", "but and", "so and",
)  # fmt: skip

_ALIKE: dict[str, frozenset[str]] = {
    word: frozenset(other for group in _GROUPS if word in group.split() for other in group.split()) - {word}
    for words in _GROUPS
    for word in words.split()
}

#: Kinds whose distractors are other kinds' words: the form of what follows allows only the right kind.
_OTHERS: dict[str, tuple[str, ...]] = {
    "have": ("do", "modal"),
    "do": ("have", "be"),
    "be": ("have", "do", "modal"),
    "modal": ("have", "be"),
    "singular quantifier": ("plural quantifier",),
    "plural quantifier": ("singular quantifier",),
}
_AN = re.compile(
    r"hour|honest|honou?r|heir|(?!one(?:s|self|ness)?\Z|once\Z|eu|ewe|uni(?:[cfloqptv]|s[eo]|direct)|unanim|ubi|uk[eu]|"
    r"ur(?:a|e|i[cn]|olog)|us(?:a[bg]|e|u)|ut(?:[io]|e[nr])|uv)[aeiou]"
)
_COORDINATORS = ("but", "or", "nor", "so", "unless")
_WEIGHED = ("preposition", "particle", "adverb", "question", "conjunction")  # their neighbours tell what fits
_UNTOLD = ("possessive", "object", "indefinite")  # their neighbours do not; only a model can
_FITS = 0.02  # share of the right word's evidence from which on a function word may fit
_PROPOSED = 10  # distractors for a model to judge
_TRIED = 40  # words of the frequency band that are looked at


class Distractors:
    """Proposes distractors: without what was seen in the blank's place, or, without *evidence*, more for a model."""

    def __init__(self, counts: WordCounts, evidence: bool = True) -> None:
        self._counts = counts
        self._evidence = evidence
        self._most = NEEDED if evidence else _PROPOSED

    def offer(self, slot: Slot, rng: random.Random) -> list[str] | None:
        """Distractors of a slot, best first, capitalised as the right word is; ``None`` where there are too few."""
        found = self._open(slot, rng) if slot.content else self._closed(slot, rng)
        if len(found) < NEEDED:
            return None
        return [capitalise(word) if slot.gold[0].isupper() else word for word in found[: self._most]]

    def _open(self, slot: Slot, rng: random.Random) -> list[str]:
        if not self._counts.known(slot.kind, slot.word) or slot.gold[0].isupper():
            return []
        band = self._counts.band(slot.kind, slot.word)
        near = frozenset(lemma for word in slot.sentence if word.isalpha() for lemma in family(word))
        tried = [
            word
            for word in rng.sample(band, min(_TRIED, len(band)))
            if suits_article(word, slot) and near.isdisjoint(family(word))
        ]
        if len(tried) < NEEDED:
            return []
        fits = np.zeros(len(tried), dtype=bool)
        grammatical = np.zeros(len(tried), dtype=np.int64)
        for neighbour, seen in self._seen(slot, [slot.word, *tried]):
            if neighbour in FUNCTION_WORDS or not neighbour.isalpha():
                grammatical += (seen[1:] > 0) | (seen[0] == 0)
            else:
                fits |= seen[1:] > 0
        kept = [number for number in range(len(tried)) if not (self._evidence and fits[number])]
        kept.sort(key=lambda number: -int(grammatical[number]))  # stable: chance decides among equals
        return apart([tried[number] for number in kept], slot.word, self._most)

    def _seen(
        self, slot: Slot, words: list[str], kinds: Sequence[int] = (NEIGHBOURS, CONTENT)
    ) -> Iterator[tuple[str, np.ndarray]]:
        """The neighbours of the blank, and how often each word was seen beside them."""
        beside = {NEIGHBOURS: (slot.before, slot.after), CONTENT: (slot.content_before, slot.content_after)}
        for kind in kinds:
            before, after = beside[kind]
            if before:
                yield before, self._counts.pairs(kind, [before] * len(words), words)
            if after:
                yield after, self._counts.pairs(kind, words, [after] * len(words))

    def _closed(self, slot: Slot, rng: random.Random) -> list[str]:
        if slot.kind in _UNTOLD and self._evidence:
            return []
        if slot.kind in _OTHERS:
            words = [word for kind in _OTHERS[slot.kind] for word in CLOSED[kind]]
        elif slot.kind == "coordinator":
            words = list(_COORDINATORS) if slot.word in ("but", "so") else []
        else:
            words = list(CLOSED[slot.kind])
        unfit = {slot.word, slot.before, slot.after, *_ALIKE.get(slot.word, ())}
        words = [word for word in words if word not in unfit and suits_article(word, slot)]
        rng.shuffle(words)
        if self._evidence and slot.kind in _WEIGHED and words:
            fit = np.ones(len(words) + 1)
            for _, seen in self._seen(slot, [slot.word, *words], [NEIGHBOURS]):
                fit = fit * (seen + 0.5)
            words = [word for word, own in zip(words, fit[1:]) if own < _FITS * fit[0]]
        if slot.kind in _OTHERS:
            return words
        kept: list[str] = []
        for word in words:  # no two that can mean the same
            if _ALIKE.get(word, frozenset()).isdisjoint(kept):
                kept.append(word)
        return kept


def suits_article(word: str, slot: Slot) -> bool:
    """Whether a word can stand after the article before a blank, if there is one."""
    return slot.before not in ("a", "an") or vowel(word) == (slot.before == "an")


def apart(words: Sequence[str], gold: str, most: int) -> list[str]:
    """The first *most* words that are of no family with *gold* or each other."""
    kept: list[str] = []
    for word in words:
        if len(kept) == most:
            break
        if not related(word, gold) and not any(related(word, other) for other in kept):
            kept.append(word)
    return kept


def related(one: str, other: str) -> bool:
    """Whether two words are of one family: the same lemma, one inside the other, or the same long beginning."""
    short, long = sorted((one, other), key=len)
    if len(short) >= 4 and short in long:
        return True
    shared = next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), len(short))
    return shared >= 5 or shared >= 4 and shared >= len(short) - 2 or not family(one).isdisjoint(family(other))


@lru_cache(maxsize=1 << 16)
def family(word: str) -> frozenset[str]:
    """A word and its lemmas."""
    return frozenset(lemma for _, lemma in forms(word)) | {word}


def vowel(word: str) -> bool:
    """Whether *an* stands before a word, as before *hour* and not before *unit*."""
    return _AN.match(word) is not None
