"""Slots: which words of a text to ask for: spread evenly, two thirds content words, as in the exams of CLOTH."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .prose import sentences
from .words import CLOSED, FUNCTION_WORDS, Tagger, kind_at

#: Words per blank, least number of words between two blanks, share of blanks that are content words.
WORDS_PER_BLANK, GAP, CONTENT_SHARE = 17, 5, 2 / 3

#: How much more often than others a kind is chosen where several could be.
_WEIGHTS: dict[str, float] = {
    "preposition": 0.3, "conjunction": 4, "connective": 4, "particle": 2, "question": 3, "adverb": 2, "indefinite": 1.5,
    "object": 0.3, "possessive": 0.3, "have": 0.5, "do": 0.5, "be": 0.4, "modal": 0.7, "NN": 0.8, "NNS": 0.9,
    "VB": 1.3, "VBZ": 1.3, "VBD/VBN": 1.3, "VBD": 1.3, "VBN": 1.3, "VBG": 1.2, "JJ": 1.2, "JJR": 0.6, "JJS": 0.3,
    "RB-ly": 1.3,
}  # fmt: skip
_FIRST = 6  # words: a shorter first sentence, such as a greeting, is kept whole with the next one
_TRIES = 8  # words of a stretch for which distractors are looked for


@dataclass(frozen=True)
class Slot:
    """A word that could become a blank."""

    start: int
    end: int
    place: int  #: number of words before it in the text
    gold: str  #: the word as it stands there
    word: str  #: in lower case, as all that follows
    kind: str  #: see :func:`fairseq_cloze.generation.words.kind_at`
    before: str  #: the token beside it in its sentence, empty where there is none
    after: str
    content_before: str  #: the nearest content word of its sentence, likewise
    content_after: str
    sentence: tuple[str, ...]

    @property
    def content(self) -> bool:
        """Whether it is a content word."""
        return self.kind not in CLOSED


@dataclass(frozen=True)
class Blank:
    """A chosen slot and words of its kind that may be its distractors, best first."""

    slot: Slot
    distractors: tuple[str, ...]


def find_slots(text: str, tagger: Tagger) -> tuple[list[Slot], int, int]:
    """Every word of *text* but the last that could become a blank, in order.

    Returns:
        the slots, the number of words in the text, and how many of them are in the first sentence
    """
    slots: list[Slot] = []
    words = first = offset = 0
    for paragraph in text.split("\n\n"):
        for start, end in sentences(paragraph):
            tokens = tagger.tag(paragraph, start, end)
            sentence = tuple(token.word for token in tokens)
            content = [
                word if word.isalpha() and len(word) > 2 and word not in FUNCTION_WORDS else "" for word in sentence
            ]
            for at, token in enumerate(tokens):
                if not paragraph[token.start].isalnum():
                    continue
                kind = kind_at(tokens, at) if first else None
                if kind is not None:
                    slots.append(
                        Slot(
                            start=offset + token.start,
                            end=offset + token.end,
                            place=words,
                            gold=paragraph[token.start : token.end],
                            word=token.word,
                            kind=kind,
                            before=sentence[at - 1] if at else "",
                            after=sentence[at + 1] if at + 1 < len(tokens) else "",
                            content_before=next(filter(None, reversed(content[:at])), ""),
                            content_after=next(filter(None, content[at + 1 :]), ""),
                            sentence=sentence,
                        )
                    )
                words += 1
            first = first or (words if words >= _FIRST else 0)
        offset += len(paragraph) + 2
    if slots and slots[-1].end == len(text):
        del slots[-1]
    return slots, words, first


def with_gaps(text: str, blanks: Sequence[Blank]) -> str:
    """The article of a passage: a text with underscores in place of its blanks."""
    article, at = "", 0
    for blank in blanks:
        article += text[at : blank.slot.start] + "_"
        at = blank.slot.end
    return article + text[at:]


def wanted_blanks(words: int, first: int, words_per_blank: float = WORDS_PER_BLANK) -> int:
    """How many blanks a text should have; fewer where a long first sentence leaves little room."""
    return max(min(round(words / words_per_blank), round((words - first) / (0.75 * words_per_blank))), 1)


def choose(
    slots: Sequence[Slot],
    words: int,
    first: int,
    rng: random.Random,
    offer: Callable[[Slot], Sequence[str] | None],
    words_per_blank: float = WORDS_PER_BLANK,
) -> list[Blank]:
    """Choose blanks: one, if possible, in each of the equal stretches into which the text is cut behind its beginning.

    Args:
        slots, words, first: what :func:`find_slots` found
        rng: decides where several words would do
        offer: the distractors of a slot, or ``None`` where there are too few
        words_per_blank: density
    """
    number = wanted_blanks(words, first, words_per_blank)
    stretch = (words - first) / number
    content = round(number * CONTENT_SHARE)
    wanted = [True] * content + [False] * (number - content)
    rng.shuffle(wanted)
    chosen: list[Blank] = []
    golds = set()
    owed = 0  # content words that stood where a function word was wanted, less the reverse
    for index, want in enumerate(wanted):
        low, high = first + index * stretch, first + (index + 1) * stretch
        if chosen:
            low = max(low, chosen[-1].slot.place + GAP + 1)
        inside = [slot for slot in slots if low <= slot.place < high and slot.word not in golds]
        if owed and (owed > 0) == want:
            want = not want
            owed += 1 if want else -1
        ranked = sorted(
            (slot.content != want, -(rng.random() ** (1 / _WEIGHTS.get(slot.kind, 1.0))), slot.start, slot)
            for slot in inside
        )
        own = [entry for entry in ranked if not entry[0]][:_TRIES]
        for other, _, _, slot in own + [entry for entry in ranked if entry[0]][:_TRIES]:
            distractors = offer(slot)
            if distractors is not None:
                chosen.append(Blank(slot, tuple(distractors)))
                golds.add(slot.word)
                owed += 0 if not other else 1 if slot.content else -1
                break
    return chosen
