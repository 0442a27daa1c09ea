"""What a training is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.answers import PassagePrediction, write_predictions
from fairseq_cloze.ranking.compare import compare
from fairseq_cloze.training.outcome import Outcome, average, difference, find_result, prediction_files, read_scored
from fairseq_cloze.training.plan import Given
from fairseq_cloze.weights.checkpoint import Checkpoint


def write(path: Path, *answers: str, gold: str = "AAAA") -> Path:
    """A prediction file: per passage a letter for each blank; ``-`` in gold is an unlabelled one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        PassagePrediction(list(text), [None if letter == "-" else letter for letter in gold]) for text in answers
    ]
    write_predictions(path, {f"p{number}": entry for number, entry in enumerate(entries)})
    return path


def test_the_table_of_seeds(tmp_path: Path) -> None:
    before = write(tmp_path / "before.json", *["ABBB"] * 8, *["AAAB"] * 2)
    paths = [tmp_path / f"seed{number}" / "answers.json" for number in (1, 2, 3)]
    for path, right in zip(paths, (8, 9, 10)):
        write(path, *["AAAB"] * right, *["BBBB"] * (10 - right))
    runs = [read_scored(path, f"fine-tuned, seed {number}") for number, path in enumerate(paths, 1)]
    differences = [difference("fine-tuned - pretrained", paths, [before])]
    mean = read_scored(write(tmp_path / "average.json", *["AAAB"] * 10), "average of their weights")
    outcome = Outcome("test", 25.0, read_scored(before, "pretrained"), runs, mean, differences)
    assert outcome.lines() == [
        "test, 40 blanks                   accuracy %   95% interval",
        "chance                                 25.00",
        "pretrained                             35.00   22.1 to 50.5",
        "fine-tuned, seed 1                     60.00   44.6 to 73.7",
        "fine-tuned, seed 2                     67.50   52.0 to 79.9",
        "fine-tuned, seed 3                     75.00   59.8 to 85.8",
        "mean of 3 seeds                        67.50   ± 7.50 between seeds",
        "average of their weights               75.00   59.8 to 85.8",
        "fine-tuned - pretrained: +32.50 points, p = 0.0391 (sign-flip test over passages): hardly luck",
    ]
    result = json.loads(outcome.to_json())
    assert (result["n_blanks"], result["pretrained"], result["mean"], result["spread"]) == (40, 35.0, 67.5, 7.5)
    assert [run["accuracy"] for run in result["runs"]] == [60.0, 67.5, 75.0]
    assert result["average"] == {
        "name": "average of their weights", "accuracy": 75.0, "predictions": str(tmp_path / "average.json")
    }  # fmt: skip
    alone = Outcome("test", 25.0, None, runs[:1], None, [])
    assert [line[:9] for line in alone.lines()] == ["test, 40 ", "chance   ", "fine-tune"]
    assert "average" not in json.loads(alone.to_json())
    assert prediction_files(tmp_path) == paths and prediction_files(paths[0]) == [paths[0]]


def test_one_against_one_is_what_compare_finds(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", "AABB", "ABBB", "AAAA", gold="AAA-")
    b = write(tmp_path / "b.json", "AAAB", "ABAB", "AABA", gold="AAA-")
    found, expected = difference("B - A", [b], [a]), compare(a, b)
    assert (found.points, found.p) == (pytest.approx(expected.difference), expected.p_passages)
    assert found.line() == "B - A: +11.11 points, p = 1.0000 (sign-flip test over passages): may be luck"


def test_a_training_is_as_good_as_itself(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.json", "AABB", "ABAB"[number:] + "A" * number) for number in range(2)]
    found = difference("x", paths, paths)
    assert (found.points, found.p) == (0.0, 1.0)


def test_other_passages_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", "AAAA"), write(tmp_path / "b.json", "AAAA", "AAAA")
    with pytest.raises(ClozeError) as error:
        difference("x", [a], [b])
    assert str(error.value) == f"{b}: expected the passages and answers of {a}, found others; answer the same"
    with pytest.raises(ClozeError, match="expected gold beside the answers, found none"):
        read_scored(write(tmp_path / "c.json", "AAAA", gold="----"), "x")
    with pytest.raises(ClozeError) as error:
        prediction_files(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: expected answers.json of 'fairseq-cloze train', found none; give its --out folder"
    )


def test_trainings_from_the_same_weights_are_averaged(tmp_path: Path, finetuned: Path) -> None:
    said: list[str] = []
    results = [finetuned / "checkpoint_last.pt", tmp_path / "other.pt"]
    state = torch.load(results[0], weights_only=False)
    torch.save({**state, "model": {name: value + 1.0 for name, value in state["model"].items()}}, results[1])
    for words in (["--from-scratch"], ["--scorer", "head"]):
        assert average(results, Given(words), tmp_path, said.append) is None
    assert average(results[:1], Given([]), tmp_path, said.append) is None and not said
    path = average(results, Given(["--scorer", "mean"]), tmp_path, said.append)
    assert path == tmp_path / "average.pt" and not said
    before, after = (Checkpoint.read(each).weights for each in (results[0], tmp_path / "average.pt"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value + 0.5)
    assert average([*results, tmp_path / "no.pt"], Given([]), tmp_path, said.append) is None
    assert said == [f"no average of the weights: {tmp_path}/no.pt: no such checkpoint; check the path"]


def test_the_checkpoint_that_counts(tmp_path: Path) -> None:
    with pytest.raises(ClozeError, match="the training has left no checkpoint"):
        find_result(tmp_path, True)
    for name, unwatched, watched in (
        ("checkpoint_last.pt", "checkpoint_last.pt", "checkpoint_last.pt"),
        ("checkpoint_best.pt", "checkpoint_best.pt", "checkpoint_best.pt"),
        ("checkpoint_best_accuracy.pt", "checkpoint_best.pt", "checkpoint_best_accuracy.pt"),
    ):
        (tmp_path / name).touch()
        assert find_result(tmp_path, False).name == unwatched
        assert find_result(tmp_path, True).name == watched
