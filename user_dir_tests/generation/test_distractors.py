from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairseq_cloze.generation.distractors import Distractors, related, vowel
from fairseq_cloze.generation.slots import Slot
from fairseq_cloze.generation.wordcounts import Counting, WordCounts, count
from fairseq_cloze.generation.words import CLOSED

NOUNS = "table tables apple office window garden river street kitchen teacher engine island"
VERBS = "opened closed painted washed carried dropped"
SEEN = "Nobody painted the window. He washed a table."


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> WordCounts:
    folder = tmp_path_factory.mktemp("counts")
    counting = Counting()
    counting.add(count([word for word in (NOUNS + " " + VERBS).split() for _ in range(5)] + [SEEN]))
    np.save(folder / "rows.npy", counting.rows)
    return WordCounts(counting.pools(), folder / "rows.npy")


DOOR = Slot(0, 5, 20, "river", "river", "NN", "the", ".", "painted", "", ("he", "painted", "the", "river", "."))


def offers(counts: WordCounts, slot: Slot, **options: object) -> set[str]:
    found = set()
    for seed in range(60):
        words = Distractors(counts, **options).offer(slot, random.Random(seed))  # type: ignore[arg-type]
        if words is not None:
            assert len(words) == len(set(words)) >= 3
            found.update(words)
    return found


def test_what_was_seen_there_is_left_out(counts: WordCounts) -> None:
    own = set(NOUNS.split()) - {"river", "tables"}
    assert offers(counts, DOOR) == own - {"window"}
    assert offers(counts, DOOR, evidence=False) == own


def test_no_word_of_the_sentence_and_no_help_from_the_article(counts: WordCounts) -> None:
    beside = replace(DOOR, sentence=("he", "painted", "the", "river", "and", "two", "tables", "."))
    assert "table" not in offers(counts, beside)
    after_an = replace(DOOR, before="an", gold="apple", word="apple", content_before="")
    assert offers(counts, after_an) == {"office", "engine", "island"}


def test_capitals_are_kept_and_rare_words_are_not_asked(counts: WordCounts) -> None:
    however = replace(DOOR, gold="However", word="however", kind="connective", before="", after=",", content_before="")
    found = offers(counts, however)
    assert {"Besides", "Otherwise"} <= found and all(word[0].isupper() for word in found)
    assert not found & {"Nevertheless", "Meanwhile", "Instead", "However"}  # could stand there, too
    assert not offers(counts, replace(DOOR, gold="ship", word="ship"))
    assert not offers(counts, replace(DOOR, gold="River"))


def test_the_article_that_stands_there_counts(counts: WordCounts) -> None:
    after_a = replace(DOOR, before="a", content_before="")
    assert not offers(counts, after_a) & {"apple", "office", "engine", "island"}
    wrong = replace(DOOR, before="an", content_before="")  # as in a text with a mistake
    assert offers(counts, wrong) == {"apple", "office", "engine", "island"}


@pytest.mark.parametrize("kind", sorted(CLOSED))
def test_every_closed_kind_can_be_asked(counts: WordCounts, kind: str) -> None:
    every = kind in ("have", "do", "be", "modal", "singular quantifier", "plural quantifier")
    slots = [replace(DOOR, gold=word, word=word, kind=kind, before="", after="") for word in CLOSED[kind]]
    found = [bool(offers(counts, slot, evidence=False)) for slot in slots]
    assert all(found) if every else any(found)


@pytest.mark.parametrize("kind", ["possessive", "object", "indefinite"])
def test_only_a_model_tells_what_fits_there(counts: WordCounts, kind: str) -> None:
    slot = replace(DOOR, gold=CLOSED[kind][0], word=CLOSED[kind][0], kind=kind)
    assert not offers(counts, slot) and offers(counts, slot, evidence=False)


def test_a_function_word_needs_evidence(tmp_path: Path) -> None:
    counting = Counting()
    counting.add(count(["He went into town."] * 60 + ["He went near town."] * 20))
    np.save(tmp_path / "rows.npy", counting.rows)
    counts = WordCounts(counting.pools(), tmp_path / "rows.npy")
    into = replace(DOOR, gold="into", word="into", kind="preposition", before="went", after="town")
    found = offers(counts, into)
    assert len(found) > 10 and "near" not in found
    assert not offers(counts, replace(into, before="ran", after="shops"))  # nothing is known of that place


def test_no_two_that_mean_the_same_stand_together(counts: WordCounts) -> None:
    slot = replace(
        DOOR, gold="despite", word="despite", kind="preposition", before="he", after="him", content_before=""
    )
    for seed in range(60):
        words = Distractors(counts, evidence=False).offer(slot, random.Random(seed))
        assert words is not None and not {"on", "upon"} <= set(words) and "with" not in words


def test_auxiliaries_get_others_that_cannot_stand_there(counts: WordCounts) -> None:
    slot = replace(DOOR, gold="has", word="has", kind="have", before="he", after="written", content_before="")
    assert offers(counts, slot) <= set("do does did can could will would must should may might".split())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("national", "nation", True),
        ("went", "goes", True),
        ("happy", "unhappy", True),
        ("better", "good", True),
        ("table", "chair", False),
        ("ran", "office", False),
    ],
)
def test_families(one: str, other: str, expected: bool) -> None:
    assert related(one, other) is related(other, one) is expected


def test_vowels() -> None:
    an = "hour apple unimportant unidentified uninvited onerous egg ugly usher utter urgent uncle heir honest"
    a = "unit house one once user unanimous utopian uranium ukulele useful european uniform universal utensil usual"
    assert all(vowel(word) for word in an.split()) and not any(vowel(word) for word in a.split())
