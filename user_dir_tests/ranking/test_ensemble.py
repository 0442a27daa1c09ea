"""Ensembles against averages by hand; weights against a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.files import split_paths
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import load
from fairseq_cloze.ranking.scores import Scores, fit_weights, mix

from ..support.commands import PASSAGES, run


def test_probabilities_are_averaged(finetuned: Path, pretrained: Path, data_bin: Path) -> None:
    data = DataBin(data_bin)
    store = data.open("valid")
    paths = [str(finetuned / "checkpoint_last.pt"), str(pretrained / "model.pt")]
    scored = [load(path).score(store) for path in paths]
    found = load(*paths, weights=[3, 1]).score(store)
    expected = 0.75 * np.exp(scored[0].log_probabilities) + 0.25 * np.exp(scored[1].log_probabilities)
    assert np.exp(found.log_probabilities) == pytest.approx(expected, abs=1e-6)
    assert found.forwards == scored[0].forwards + scored[1].forwards
    joined = ":".join(paths)
    assert evaluate(joined, data_bin).weights == [0.5, 0.5]
    assert evaluate(joined, data_bin, weights=[1, 0]).accuracy == evaluate(paths[0], data_bin).accuracy
    alone = predict(paths[0], [PASSAGES / "test"], True)
    assert predict(joined, [PASSAGES / "test"], True, weights=[1, 0]).answers == alone.answers


def test_weights_are_fitted_on_a_named_split(finetuned: Path, pretrained: Path, data_bin: Path) -> None:
    paths = f"{pretrained / 'model.pt'}:{finetuned / 'checkpoint_last.pt'}"
    with pytest.raises(ClozeError, match="^--weights and --fit-weights: expected one of them"):
        evaluate(paths, data_bin, weights=[1.0, 1.0], fit_on="train")
    result = evaluate(paths, data_bin, fit_on="train")
    assert result.weights[1] > 0.9 and sum(result.weights) == pytest.approx(1.0)
    assert f"weights of the checkpoints: {result.weights[0]:.3f} {result.weights[1]:.3f}" in result.lines()


@given(st.lists(st.tuples(*[st.floats(0.01, 1.0)] * 2), min_size=1, max_size=20))
def test_no_other_weights_make_the_answers_more_probable(shares: list) -> None:
    log_p = np.log(np.array(shares, dtype=np.float32).T)
    grid = np.linspace(0.0, 1.0, 101)

    def likelihood(weight: float) -> float:
        return float(np.log(weight * np.exp(log_p[0]) + (1 - weight) * np.exp(log_p[1])).sum())

    assert likelihood(fit_weights(log_p)[0]) >= max(map(likelihood, grid)) - 1e-2


def test_no_candidate_stays_impossible() -> None:
    scores = np.log(
        np.array([[0.5, 0.5, 0.0]], dtype=np.float32), where=[[True, True, False]], out=np.full((1, 3), -np.inf)
    )
    mixed = mix([Scores(scores.astype(np.float32))] * 2, [0.5, 0.5])
    assert mixed.log_probabilities.tolist() == [pytest.approx([np.log(0.5)] * 2 + [-np.inf])]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "weights: expected one for each of 2 checkpoints, found 1"),
        ([1.0, -1.0], "weights: expected numbers from 0 on, one of them above, found 1.0, -1.0"),
        ([0.0, 0.0], "weights: expected numbers from 0 on, one of them above, found 0.0, 0.0"),
    ],
)
def test_weights_that_do_not_fit(pretrained: Path, weights: list, message: str) -> None:
    with pytest.raises(ClozeError) as error:
        load(*[pretrained / "model.pt"] * 2, weights=weights)
    assert str(error.value) == message


def test_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a:b.pt"
    odd.touch()
    assert split_paths(odd) == [str(odd)]
    assert split_paths("a.pt:b.pt") == ["a.pt", "b.pt"]


def test_evaluate_and_predict_take_several(tmp_path: Path, finetuned: Path, pretrained: Path, data_bin: Path) -> None:
    paths = f"{finetuned / 'checkpoint_last.pt'}:{pretrained / 'model.pt'}"
    done = run("fairseq-cloze", "evaluate", paths, data_bin, "--weights", "0.6:0.4")
    assert "weights of the checkpoints: 0.600 0.400" in done.text
    run("fairseq-cloze", "predict", paths, PASSAGES / "test", "--weights", "0.6:0.4", "--out", tmp_path / "a.json")
    assert (tmp_path / "a.json").is_file()
    assert (
        "expected numbers with colons between them, found 'x'"
        in run("fairseq-cloze", "evaluate", paths, data_bin, "--weights", "x", code=2).text
    )
