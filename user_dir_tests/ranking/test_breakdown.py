from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.answers import read_predictions
from fairseq_cloze.ranking.breakdown import KINDS, break_down, breakdown_lines, kind_of
from fairseq_cloze.statistics import wilson_interval

from ..support.commands import PASSAGES, run

LONG = "night"  # two tokens in the vocabulary of the tests; "a", "the", "and", "to" are one each


def make_store(vocabulary: Any, *passages: tuple[str, str, Sequence[Sequence[str]], Sequence[int]]) -> Store:
    """A store of passages: id, article, options, gold."""
    made = [
        Passage(key, key, article, tuple(tuple(choices) for choices in options), tuple(gold))
        for key, article, options, gold in passages
    ]
    return Store.from_columns([encode_passages(made, vocabulary)], len(vocabulary))


def counts(groups: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Blanks answered rightly and all blanks, by group."""
    return {name: (round(row["accuracy"] * row["n_blanks"] / 100), row["n_blanks"]) for name, row in groups.items()}


# -- groups ----------------------------------------------------------------------------------------------------------


def test_every_grouping(vocabulary: Any) -> None:
    """Two passages in two folders, one blank of them unlabelled, one with equal options."""
    four = ("a", "the", "and", "to")
    assert [len(tokens) for tokens in vocabulary.encode([" " + text for text in (LONG, *four)])] == [2, 1, 1, 1, 1]
    store = make_store(
        vocabulary,
        (
            "x/one",
            "She _ to _ and _ or _ it _ .",
            [four, (LONG, "the"), ("to", "a", "to"), four, four],
            [0, 1, 2, 3, 0],
        ),
        ("y/z/two", "A _ b _ c _ d _ e _ f _ g .", [four] * 6, [1, 1, 1, 1, 1, -1]),
    )
    # one: right in blanks 1, 2, 3 (gold C, equal to A), wrong in 4 and 5.  two: right in 2 and 4; 6 is unlabelled.
    answers = np.array([0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1])
    result = break_down(store, vocabulary, answers)
    assert {name: counts(groups) for name, groups in result.items()} == {
        "token class": {"one-token candidates": (4, 9), "multi-token candidates": (1, 1)},
        "position of the blank": {
            "first blank": (1, 2),
            "first third": (2, 2),
            "middle third": (2, 4),
            "last third": (0, 1),
            "last blank": (0, 1),
        },
        "blanks in the passage": {"1 to 5": (3, 5), "6 to 10": (2, 5)},
        "tokens in the passage": {"1 to 200": (5, 10)},
        "kind of the options": {"prepositions": (1, 1), "other words": (4, 9)},
        "folder": {"x": (3, 5), "y/z": (2, 5)},
    }
    row = result["folder"]["x"]
    low, high = wilson_interval(3, 5)
    assert row == {
        "accuracy": 60.0,
        "interval_low": pytest.approx(100 * low),
        "interval_high": pytest.approx(100 * high),
        "n_blanks": 5,
    }


def test_edges_of_the_bins(vocabulary: Any) -> None:
    pair = ("a", "the")

    def groups(name: str, *blanks_and_words: tuple[int, int]) -> dict[str, int]:
        made = [
            (f"p{number}", " and" * words + " _" * blanks, [pair] * blanks, [0] * blanks)
            for number, (blanks, words) in enumerate(blanks_and_words)
        ]
        store = make_store(vocabulary, *made)
        return {
            key: row["n_blanks"] for key, row in break_down(store, vocabulary, np.zeros(store.blanks))[name].items()
        }

    number = "blanks in the passage"
    assert groups(number, (5, 0), (6, 0), (10, 0), (11, 0)) == {"1 to 5": 5, "6 to 10": 16, "11 to 15": 11}
    assert groups(number, (15, 0), (16, 0), (20, 0), (21, 0)) == {"11 to 15": 15, "16 to 20": 36, "21 or more": 21}
    length = "tokens in the passage"  # the blank is a token, too
    assert groups(length, (1, 199), (1, 200), (1, 299)) == {"1 to 200": 1, "201 to 300": 2}
    assert groups(length, (1, 509), (1, 510), (1, 900)) == {"401 to 510": 1, "511 or more": 2}
    place = "position of the blank"
    assert groups(place, (1, 0)) == {"first blank": 1}
    assert groups(place, (2, 0)) == {"first blank": 1, "last blank": 1}
    thirds = {"first third": 3, "middle third": 4, "last third": 3}
    assert groups(place, (12, 0)) == {"first blank": 1, **thirds, "last blank": 1}


def test_folders_only_where_there_are_several(vocabulary: Any) -> None:
    one = ("x/one", "She _ .", [("a", "to")], [0])
    assert "folder" not in break_down(make_store(vocabulary, one), vocabulary, np.zeros(1))
    top = ("two", "She _ .", [("a", "to")], [0])
    result = break_down(make_store(vocabulary, one, top), vocabulary, np.zeros(2))
    assert counts(result["folder"]) == {"(no folder)": (1, 1), "x": (1, 1)}


def test_groups_are_those_of_the_metrics(data_bin: Path, vocabulary: Any) -> None:
    """Every grouping counts every labelled blank once; right where ranking says so."""
    from fairseq_cloze.data.databin import DataBin

    store = DataBin(data_bin).open("train")
    gold = [g for passage in read_passages([PASSAGES / "train"]) for g in passage.gold]
    result = break_down(store, vocabulary, np.zeros(store.blanks))
    for groups in result.values():
        assert sum(row["n_blanks"] for row in groups.values()) == len(gold) == 405
        assert sum(hits for hits, _ in counts(groups).values()) == gold.count(0)


# -- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["in", "On", "at", "to"], "prepositions"),
        (["although", "because", "so", "if"], "conjunctions"),
        (["since", "before", "until", "as"], "prepositions"),  # all stand in both lists, the first one wins
        (["who", "which", "whose", "that"], "question and relative words"),
        (["himself", "nobody", "it", "they"], "pronouns"),
        (["my", "his", "their", "our"], "determiners"),
        (["a", "the", "/", "\\"], "determiners"),  # both that say anything
        (["must", "sings", "don’t", "wouldn't"], "auxiliaries"),
        (["quickly", "slowly", "Hardly", "family"], "adverbs in -ly"),
        (["going", "taking", "seen", "making"], "verb forms in -ing"),
        (["walked", "agreed", "stopped", "moved"], "verb forms in -ed"),
        (["walked", "needed", "sings", "went"], "other words"),  # two of four are not more than half
        (["look after", "look for", "give up", "went"], "phrases"),
        (["morning", "evening", "king", "ring"], "other words"),
        (["exceed", "speed", "succeed", "indeed"], "other words"),
        (["happy", "sad", "tall", "old"], "other words"),
        (["/", "\\"], "other words"),
    ],
)
def test_kinds(options: list[str], kind: str) -> None:
    assert kind_of(options) == kind
    assert kind_of(options[::-1]) == kind


@given(st.lists(st.sampled_from(["in", "going", "quickly", "tree", "must", "go on", "/", ""]), max_size=6))
def test_every_blank_has_a_kind(options: list[str]) -> None:
    assert kind_of(options) in KINDS


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, finetuned: Path, data_bin: Path, vocabulary: Any) -> None:
    """The table below the usual one, in the JSON as well; figures are those of the predictions beside it."""
    from fairseq_cloze.data.databin import DataBin
    from fairseq_cloze.passages.passage import LETTERS

    out, predictions = tmp_path / "out.json", tmp_path / "predictions.json"
    options = ("--breakdown", "--json", out, "--predictions", predictions)
    done = run("fairseq-cloze", "evaluate", finetuned / "checkpoint_last.pt", data_bin, *options)
    answers = [LETTERS.index(letter) for entry in read_predictions(predictions).values() for letter in entry.answers]
    expected = break_down(DataBin(data_bin).open("valid"), vocabulary, np.array(answers))
    result = json.loads(out.read_text())
    assert result["breakdown"] == expected
    classes = expected["token class"]
    assert classes["one-token candidates"]["accuracy"] == pytest.approx(result["accuracy_one_token"])
    assert classes["multi-token candidates"]["n_blanks"] == result["n_multi_token"]
    table = breakdown_lines(expected)
    assert done.text.splitlines()[-len(table) :] == table


def test_the_table() -> None:
    row = {"accuracy": 43.405, "interval_low": 42.48, "interval_high": 44.33, "n_blanks": 11067}
    assert breakdown_lines({"folder": {"high": row, "middle": {**row, "n_blanks": 1}}}) == [
        "by folder                       accuracy %    blanks  95% interval",
        "  high                               43.41    11,067  42.5 to 44.3",
        "  middle                             43.41         1  42.5 to 44.3",
    ]
