"""Breakdown: accuracy by groups of blanks, each with an interval, from what a store holds."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..passages.passage import UNLABELLED
from ..passages.text import NOTHING
from ..statistics import wilson_interval
from .answers import gold_of

#: Grouping → group → ``accuracy``, ``interval_low``, ``interval_high`` (percent) and ``n_blanks``.
Breakdown = dict[str, dict[str, dict[str, Any]]]

#: Names of groups, and the group of each blank, ``int64 (blanks,)``.
_Grouping = tuple[Sequence[str], np.ndarray]


def break_down(store: Store, vocabulary: Vocabulary, answers: np.ndarray) -> Breakdown:
    """Accuracy by groups of labelled blanks, with :func:`wilson_interval`; groups without any are left out.

    *answers* are indices of the predicted candidates, the first of equal ones, ``int64 (blanks,)``.
    """
    gold = gold_of(store)
    labelled = gold != UNLABELLED
    right = labelled & (answers == gold)
    blanks_in, tokens_in = np.diff(store.blank_offsets), np.diff(store.token_offsets)
    passage = np.repeat(np.arange(len(store)), blanks_in)
    groupings = {
        "token class": _token_classes(store),
        "position of the blank": _positions(store, passage),
        "blanks in the passage": _bins(blanks_in[passage], (5, 10, 15, 20)),
        "tokens in the passage": _bins(tokens_in[passage], (200, 300, 400, 510)),
        "kind of the options": (KINDS, _kinds(store, vocabulary)),
    }
    folders = [store.id(number).rpartition("/")[0] or "(no folder)" for number in range(len(store))]
    names, folder = np.unique(folders, return_inverse=True)
    if len(names) > 1:
        groupings["folder"] = names.tolist(), folder[passage]
    return {name: _count(grouping, right, labelled) for name, grouping in groupings.items()}


def breakdown_lines(breakdown: Breakdown) -> list[str]:
    """A breakdown as a table."""
    lines = []
    for name, groups in breakdown.items():
        lines.append(f"{f'by {name}':32}{'accuracy %':>10}{'blanks':>10}  95% interval")
        for group, row in groups.items():
            interval = f"{row['interval_low']:.1f} to {row['interval_high']:.1f}"
            lines.append(f"  {group:30}{row['accuracy']:10.2f}{row['n_blanks']:10,}  {interval}")
    return lines


def _count(grouping: _Grouping, right: np.ndarray, labelled: np.ndarray) -> dict[str, dict[str, Any]]:
    names, group = grouping
    blanks = np.bincount(group[labelled], minlength=len(names)).tolist()
    hits = np.bincount(group[right], minlength=len(names)).tolist()
    out = {}
    for name, n_blanks, n_right in zip(names, blanks, hits):
        if n_blanks:
            low, high = (100.0 * end for end in wilson_interval(n_right, n_blanks))
            accuracy = 100.0 * n_right / n_blanks
            out[name] = {"accuracy": accuracy, "interval_low": low, "interval_high": high, "n_blanks": n_blanks}
    return out


def _token_classes(store: Store) -> _Grouping:
    several = np.diff(store.candidate_token_offsets) > 1
    multi = np.logical_or.reduceat(several, store.candidate_offsets[:-1]) if len(several) else several
    return ("one-token candidates", "multi-token candidates"), multi.astype(np.int64)


def _positions(store: Store, passage: np.ndarray) -> _Grouping:
    count = np.diff(store.blank_offsets)[passage]
    number = np.arange(store.blanks) - store.blank_offsets[passage]
    group = np.where(number == 0, 0, np.where(number == count - 1, 4, 1 + 3 * number // count))
    return ("first blank", "first third", "middle third", "last third", "last blank"), group


def _bins(values: np.ndarray, ends: Sequence[int]) -> _Grouping:
    names = [f"{low + 1} to {high}" for low, high in zip((0, *ends), ends)]
    return (*names, f"{ends[-1] + 1} or more"), np.digitize(values, ends, right=True)


def _kinds(store: Store, vocabulary: Vocabulary) -> np.ndarray:
    texts: dict[bytes, str] = {}
    candidates = []
    for candidate in range(store.candidate_offsets[-1]):
        tokens = store.candidate_tokens(candidate)
        key = tokens.tobytes()
        if key not in texts:
            texts[key] = vocabulary.decode(tokens.tolist()).strip()
        candidates.append(texts[key])
    ends = store.candidate_offsets.tolist()
    return np.array([KINDS.index(kind_of(candidates[start:end])) for start, end in pairwise(ends)], dtype=np.int64)


#: Closed classes of English, not complete; a word may stand in several.
_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "prepositions": """aboard about above across after against along alongside amid among around as at before behind
            below beneath beside besides between beyond by concerning despite down during except for from in inside
            into like near of off on onto opposite out outside over past per regarding round since through throughout
            till to toward towards under underneath unlike until up upon via with within without""",
        "conjunctions": """after although and as because before but either hence however if lest moreover neither
            nevertheless nor once or otherwise provided since so still than that then therefore though thus till unless
            until when whenever where whereas wherever whether while yet""",
        "question and relative words": """how that what whatever when whenever where wherever whether which whichever
            who whoever whom whose why""",
        "pronouns": """all another any anybody anyone anything both each either everybody everyone everything few he
            her hers herself him himself his i it its itself me mine most much myself neither nobody none nothing one
            ones other others our ours ourselves she some somebody someone something such that their theirs them
            themselves these they this those us we you your yours yourself yourselves""",
        "determiners": """a all an another any both each either enough every few fewer her his its less little many more
            most much my neither no other our several some such that the their these this those your""",
        "auxiliaries": """am are be been being can cannot could dare did do does had has have having is may might must
            need ought shall should was were will would""",
    }.items()
}

#: Words that end in -ly, -ing or -ed and are something else.
_ENDS_OTHERWISE = frozenset(
    """anything apply belly bring ceiling daily during early elderly everything evening family friendly hatred hundred
    likely lonely lovely morning nothing only rely reply sacred silly something spring string supply thing ugly
    wicked"""
    .split()
)  # fmt: skip

#: What :func:`kind_of` returns, in the order of the table.
KINDS = (*_WORDS, "adverbs in -ly", "verb forms in -ing", "verb forms in -ed", "phrases", "other words")


def kind_of(options: Sequence[str]) -> str:
    """The kind that more than half of a blank's options have: a guess, no part-of-speech tagger.

    Several words are a phrase.  A single word is looked up in the word lists, and otherwise judged by its ending; what
    shows neither is "other words", as is a mixture.  "Nothing goes here" counts for nothing.  Of two kinds with as many
    options the first in :data:`KINDS` wins.

    >>> kind_of(["since", "before", "until", "after"]), kind_of(["tired", "happy", "angry", "excited"])
    ('prepositions', 'other words')
    """
    words = [option.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") for option in options]
    words = [word for word in words if word not in NOTHING]
    counts = {kind: sum(kind in _kinds_of_word(word) for word in words) for kind in KINDS}
    best = max(KINDS, key=counts.__getitem__)
    return best if 2 * counts[best] > len(words) else "other words"


def _kinds_of_word(word: str) -> list[str]:
    if " " in word:
        return ["phrases"]
    found = [kind for kind, words in _WORDS.items() if word in words]
    if word.endswith("n't"):
        found.append("auxiliaries")
    if not found and word not in _ENDS_OTHERWISE and len(word) > 4:
        kinds = {"ly": "adverbs in -ly", "ing": "verb forms in -ing", "ed": "verb forms in -ed"}
        found += [kind for ending, kind in kinds.items() if word.endswith(ending) and not word.endswith("eed")]
    return found
