from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.generation.slots import CONTENT_SHARE, GAP, Slot, choose, find_slots, wanted_blanks
from fairseq_cloze.generation.words import Tagger

TEXT = (
    "Anna opened the old brown door. The garden behind the house was quiet, and she walked slowly to the river.\n\n"
    '"Stay here," said Tom, because he was tired.'
)


def test_slots_know_their_surroundings() -> None:
    slots, words, first = find_slots(TEXT, Tagger())
    assert (words, first) == (28, 6)
    assert all(TEXT[slot.start : slot.end] == slot.gold and slot.place >= first for slot in slots)
    assert all(len(TEXT[: slot.start].replace('"', " ").split()) == slot.place for slot in slots)
    found = {slot.gold: slot for slot in slots}
    assert found["slowly"].kind == "RB-ly" and found["slowly"].content
    assert (found["slowly"].before, found["slowly"].after) == ("walked", "to")
    assert (found["slowly"].content_before, found["slowly"].content_after) == ("walked", "river")
    assert found["because"].kind == "conjunction" and not found["because"].content
    assert not {"Anna", "opened", "Tom"} & set(found)


def test_contractions_are_one_word_each_and_nothing_ends_in_a_blank() -> None:
    text = "Anna opened the old brown door. It's cold and they're tired, and he didn't close the old window"
    slots, words, _ = find_slots(text, Tagger())
    assert words == len(text.split()) == 18
    assert slots and all(len(text[: slot.start].split()) == slot.place for slot in slots)
    assert all(slot.end < len(text) for slot in slots)


def test_a_long_first_sentence_makes_no_crowd() -> None:
    assert wanted_blanks(170, 10) == 10 and wanted_blanks(170, 100) == 5 and wanted_blanks(20, 20) == 1


def slot(place: int, content: bool, number: int) -> Slot:
    kind = "NN" if content else "preposition"
    return Slot(place, place + 1, place, "w", f"w{number}", kind, "", "", "", "", ())


@given(st.lists(st.booleans(), min_size=1, max_size=400), st.integers(0, 30), st.integers(0, 99))
def test_spread_and_shares(content: list[bool], first: int, seed: int) -> None:
    words = first + len(content)
    slots = [slot(first + at, own, at) for at, own in enumerate(content)]
    blanks = choose(slots, words, first, random.Random(seed), lambda slot: ["x", "y", "z"])
    places = [blank.slot.place for blank in blanks]
    assert all(later - earlier > GAP for earlier, later in zip(places, places[1:]))
    assert all(place >= first for place in places)
    wanted = wanted_blanks(words, first)
    assert len(blanks) <= wanted and (len(blanks) == wanted or (words - first) / wanted <= 2 * GAP)
    assert blanks == choose(slots, words, first, random.Random(seed), lambda slot: ["x", "y", "z"])


def test_two_thirds_are_content_words() -> None:
    slots = [slot(10 + at, at % 2 == 0, at) for at in range(300)]
    for seed in range(20):
        blanks = choose(slots, 310, 10, random.Random(seed), lambda slot: ["x", "y", "z"])
        assert len(blanks) == 18 and sum(blank.slot.content for blank in blanks) == round(18 * CONTENT_SHARE)


def test_a_word_without_distractors_is_passed_over_and_none_asked_twice() -> None:
    slots = [slot(10 + at, True, at % 25) for at in range(300)]
    blanks = choose(slots, 310, 10, random.Random(1), lambda slot: None if slot.word == "w3" else ["x", "y", "z"])
    golds = [blank.slot.word for blank in blanks]
    assert len(golds) == len(set(golds)) == 18 and "w3" not in golds
