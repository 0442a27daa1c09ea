"""The public face at work, against the command line's own results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fairseq_cloze
from fairseq_cloze.errors import CheckpointError, ClozeError, NoBlankError, PassageError
from fairseq_cloze.passages.passage import LETTERS, Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking import ranker as ranker_module
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import Ranked, Ranker
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES

TEXT = "She ___ to school _ day, and was _ late."
OPTIONS = [["went", "go", "went"], ["every", "/", "most of the"], ["never", "not ever"]]


@pytest.fixture(scope="module")
def ranker(pretrained: Path) -> Ranker:
    return fairseq_cloze.load(pretrained / "model.pt", device="cpu")


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return list(read_passages([PASSAGES / "valid"]))


def test_a_text(ranker: Ranker) -> None:
    first, second, third = ranker.rank(TEXT, OPTIONS)
    assert (first.options, second.options) == (("went", "go", "went"), ("every", "/", "most of the"))
    for blank in (first, second, third):
        assert len(blank.scores) == len(blank.probabilities) == len(blank.options)
        assert sum(blank.probabilities) == pytest.approx(1.0, abs=1e-6)
        assert blank.best == int(np.argmax(blank.scores)) == blank.order[0]
        assert blank.answer == blank.options[blank.best]
    assert first.scores[0] == first.scores[2] and first.probabilities[0] == first.probabilities[2]
    assert first.best in (0, 1)  # the first of equals
    shares = np.exp(second.scores) / np.exp(second.scores).sum()
    assert second.probabilities == pytest.approx(shares.tolist(), abs=1e-6)


def test_order_is_by_score_and_equals_stay_in_theirs() -> None:
    blank = Ranked(("a", "b", "c", "d"), (1.0, 3.0, 1.0, 2.0), (0.1, 0.5, 0.1, 0.3), 1)
    assert (blank.order, blank.answer) == ((1, 3, 0, 2), "b")


def test_many_are_answered_as_predict_answers(
    ranker: Ranker, passages: list[Passage], pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, whatever they are given as, and however many are taken at a time."""
    expected = predict(pretrained / "model.pt", [PASSAGES / "valid"], with_probabilities=True).answers
    ways: list[list[Any]] = [
        passages,
        [(passage.article, passage.candidates) for passage in passages],
        [{"article": passage.article, "options": passage.candidates, "id": passage.id} for passage in passages],
    ]
    monkeypatch.setattr(ranker_module, "_CHUNK", 3)
    for given in ways:
        found = list(ranker.rank_many(given))
        assert [[LETTERS[blank.best] for blank in blanks] for blanks in found] == [
            expected[passage.id]["answers"] for passage in passages
        ]
        for passage, blanks in zip(passages, found):
            for blank, row in zip(blanks, expected[passage.id]["probabilities"]):
                assert blank.probabilities == pytest.approx(row, abs=2e-6)


def test_many_are_taken_as_they_are_needed(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def endless() -> Iterator[tuple[str, list[list[str]]]]:
        while True:
            taken.append(1)
            yield "It was _ .", [["cold", "odd"]]

    monkeypatch.setattr(ranker_module, "_CHUNK", 4)
    results = ranker.rank_many(endless())
    assert not taken
    first = [next(results) for _ in range(5)]
    assert len(taken) == 8
    assert all(blanks == first[0] for blanks in first)
    assert list(ranker.rank_many([])) == []


def test_several_are_averaged(ranker: Ranker, pretrained: Path) -> None:
    path = pretrained / "model.pt"
    assert fairseq_cloze.load(path, weights=[7]).rank(TEXT, OPTIONS) == ranker.rank(TEXT, OPTIONS)
    mixed, other = fairseq_cloze.load(path, path, weights=[3, 1]), fairseq_cloze.load(path, view="full")
    mixed.members[1] = other.members[0]  # as if the second checkpoint had been trained so
    for blank, one, two in zip(mixed.rank(TEXT, OPTIONS), ranker.rank(TEXT, OPTIONS), other.rank(TEXT, OPTIONS)):
        expected = 0.75 * np.array(one.probabilities) + 0.25 * np.array(two.probabilities)
        assert blank.probabilities == pytest.approx(expected.tolist(), abs=1e-6)
    assert repr(mixed) == f"Ranker('{path}', '{path}')"


def test_everything_that_holds_weights_opens_in_place(ranker: Ranker, pretrained: Path, hf_folder: Path) -> None:
    """A folder of weights, a Hugging Face folder: nothing is written."""
    before = sorted(path for path in hf_folder.rglob("*"))
    expected = ranker.rank(TEXT, OPTIONS)
    for source in (pretrained, hf_folder, str(hf_folder)):
        for blank, same in zip(fairseq_cloze.load(source).rank(TEXT, OPTIONS), expected):
            assert blank.scores == pytest.approx(same.scores, abs=1e-5)
    assert sorted(path for path in hf_folder.rglob("*")) == before


def test_weights_without_a_vocabulary(tmp_path: Path, ranker: Ranker, pretrained: Path) -> None:
    """As fairseq's releases are; theirs is one folder for all."""
    state = Checkpoint.read(pretrained / "model.pt").state
    torch.save({key: value for key, value in state.items() if key != "task_state"}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="carries no vocabulary and none lies beside it; put dict.txt, "):
        fairseq_cloze.load(tmp_path)
    found = fairseq_cloze.load(tmp_path, gpt2_bpe=pretrained)
    assert found.rank(TEXT, OPTIONS) == ranker.rank(TEXT, OPTIONS)
    [note] = found.notes
    assert note.endswith(f"could not be compared, {tmp_path / 'model.pt'} came without")


@pytest.mark.parametrize(
    ("passage", "kind", "message"),
    [
        (("no gap", []), NoBlankError, "passage 2: no blank: the article holds no underscore"),
        (
            ("a _ b", [["x"]]),
            PassageError,
            "passage 2: blank 1, field 'options': expected a list of 2 to 127 strings, found 1",
        ),
        (
            {"article": "a _ b", "options": [["x", "y"], ["z", "w"]], "id": "mine"},
            PassageError,
            "passage 2 ('mine'): field 'options': expected a list of 1, one entry for the blank in 'article', found 2",
        ),
        (
            {"article": "a _ b", "options": [["x", {"y"}]]},
            PassageError,
            "passage 2: expected strings and numbers in lists, found something else "
            "(Object of type set is not JSON serializable)",
        ),
        ("a _ b", PassageError, "passage 2: expected a pair of text and options, or a dictionary, found str"),
        (
            ("a _ b", [["x", "y"]], "more"),
            PassageError,
            "passage 2: expected a pair of text and options, or a dictionary, found tuple",
        ),
    ],
)
def test_a_passage_that_does_not_fit(ranker: Ranker, passage: Any, kind: type[PassageError], message: str) -> None:
    with pytest.raises(PassageError) as error:
        list(ranker.rank_many([("a _ b", [["x", "y"]]), passage]))
    assert type(error.value) is kind and str(error.value) == message


def test_a_text_that_does_not_fit(ranker: Ranker) -> None:
    with pytest.raises(PassageError) as error:
        ranker.rank("a _ b", [["x", ""], ["z", "w"]])
    assert str(error.value) == (
        "text: field 'options': expected a list of 1, one entry for the blank in 'article', found 2"
    )


def test_what_cannot_be_loaded(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{tmp_path / 'gone.pt'}: no such checkpoint; check the path$"):
        fairseq_cloze.load(tmp_path / "gone.pt")
    with pytest.raises(ClozeError, match="^--view joint needs --scorer .*, found --scorer head$"):
        fairseq_cloze.load(pretrained / "model.pt", view="joint", scorer="head")
    with pytest.raises(ClozeError, match="^weights: expected one for each of 1 checkpoints, found 2$"):
        fairseq_cloze.load(pretrained / "model.pt", weights=[1, 2])
    with pytest.raises(ClozeError, match=r"^device nowhere cannot be used \("):
        fairseq_cloze.load(pretrained / "model.pt", device="nowhere")
