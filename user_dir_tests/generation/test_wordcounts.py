from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.generation import wordcounts
from fairseq_cloze.generation.wordcounts import CONTENT, NEIGHBOURS, Counting, WordCounts, count

TEXTS = ["The old man saw a dog. The dog barked, and the man ran.", "A tall man ran home."]


def finished(texts: list[str], folder: Path) -> WordCounts:
    counting = Counting()
    for text in texts:
        counting.add(count([text]))
    np.save(folder / "rows.npy", counting.rows)
    return WordCounts(counting.pools(), folder / "rows.npy")


def test_words_and_pairs_are_counted(tmp_path: Path) -> None:
    counting = Counting()
    for text in TEXTS:
        counting.add(count([text]))
    assert counting.words["man"] == 3 and counting.words["dog"] == 2 and "The" not in counting.words
    assert counting.total == 15
    counts = finished(TEXTS, tmp_path)
    firsts = ["man", "the", "the", "man", "dog", "ran"]
    assert counts.pairs(NEIGHBOURS, firsts, ["ran", "dog", "man", "saw", "the", "a"]).tolist() == [2, 1, 1, 1, 0, 0]
    assert counts.pairs(CONTENT, ["saw", "dog", "dog"], ["dog", "barked", "man"]).tolist() == [1, 1, 0]


@pytest.mark.parametrize("full", [0, 1])
def test_the_rarer_of_two_counters_counts(tmp_path: Path, full: int) -> None:
    counting = Counting()
    counting.add(count(TEXTS))
    counting.rows[full] = 9  # as if every counter of the row were shared with other pairs
    np.save(tmp_path / "rows.npy", counting.rows)
    counts = WordCounts({}, tmp_path / "rows.npy")
    assert counts.pairs(NEIGHBOURS, ["man", "the", "dog"], ["ran", "dog", "the"]).tolist() == [2, 1, 0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("abc .", max_size=40), max_size=8), st.integers(0, 8))
def test_chunks_can_be_cut_anywhere(texts: list[str], at: int) -> None:
    whole, parts = Counting(), Counting()
    whole.add(count(texts))
    for part in (texts[:at], texts[at:]):
        parts.add(count(part))
    assert whole.words == parts.words and whole.total == parts.total and (whole.rows == parts.rows).all()


def test_full_counters_stay_full() -> None:
    counting = Counting()
    for _ in range(3):
        counting.add(count(["to be " * 30_000]))
    assert counting.rows.max() == 65535


def test_rare_words_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordcounts, "_MOST_WORDS", 3)
    counting = Counting()
    counting.add(count(["a a a b b c", "d d d d e e"]))
    assert counting.words == Counter({"d": 4, "a": 3, "b": 2, "e": 2}) or len(counting.words) <= 3
    assert set(counting.words) == {"a", "d"} and counting.total == 12


def test_bands_are_near_in_frequency(tmp_path: Path) -> None:
    nouns = "table chair window door garden river street kitchen".split()
    text = " ".join(" ".join([noun] * 4**power) for power, noun in enumerate(nouns[:6]))
    counts = finished([text], tmp_path)
    assert counts.known("NN", "chair") and not counts.known("NN", "ship") and not counts.known("VB", "chair")
    assert counts.band("NN", "window", size=0) == ["chair"]
    assert set(counts.band("NN", "window", size=4)) == {"table", "chair", "door"}
    assert counts.band("XX", "window") == []
