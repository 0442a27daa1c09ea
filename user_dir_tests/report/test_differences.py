from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq_cloze.ranking.answers import PassagePrediction, Predictions, write_predictions
from fairseq_cloze.ranking.compare import compare
from fairseq_cloze.report.differences import compared, differences
from fairseq_cloze.report.page import report
from fairseq_cloze.report.sources import PredictionFile


def made(**passages: tuple[str, str]) -> Predictions:
    """Per passage its answers and its gold; ``-`` in gold is an unlabelled blank."""
    return Predictions(
        {
            key: PassagePrediction(list(answers), [None if letter == "-" else letter for letter in gold])
            for key, (answers, gold) in passages.items()
        }
    )


def test_as_compare_says_it(tmp_path: Path) -> None:
    """In the page's data, each pair of files, an earlier one first."""
    numbers = range(12)
    files = {
        "bad": made(**{f"p{n}": ("BBB", "AAA") for n in numbers}),
        "good": made(**{f"p{n}": ("AAB", "AAA") for n in numbers}),
        "close": made(**{f"p{n}": ("AAB" if n else "AAA", "AAA") for n in numbers}),
        "other": made(**{f"p{n}": ("ABA", "AAA") for n in numbers}),
    }
    for name, predictions in files.items():
        write_predictions(tmp_path / f"{name}.json", predictions)
    paths = [tmp_path / f"{name}.json" for name in files]
    found = report(paths).data["differences"]
    assert [(one["a"]["label"], one["b"]["label"], one["verdict"]) for one in found] == [
        *(("bad", "good", "better"), ("bad", "close", "better"), ("bad", "other", "better")),
        *(("good", "close", "luck"), ("good", "other", "same"), ("close", "other", "luck")),
    ]
    expected = compare(paths[1], paths[2])
    assert expected.p_passages == 1.0
    assert found[3] == {
        "a": {"run": 1, "label": "good"},
        "b": {"run": 2, "label": "close"},
        **{"blanks": 36, "passages": 12, "difference": 2.7778, "verdict": "luck", "p": 1.0},
        "interval_low": float(f"{expected.interval_low:.5g}"),
        "interval_high": float(f"{expected.interval_high:.5g}"),
    }
    turned = report(paths[1::-1]).data["differences"]
    assert [one["verdict"] for one in turned] == ["worse"]


def test_on_the_blanks_that_both_answered() -> None:
    first = made(x=("AB", "AA"), y=("AAA", "AB-"), only=("B", "A"))
    second = made(other=("A", "A"), y=("ABC", "AB-"), x=("AA", "AA"))
    found = compared(first, second)
    assert found is not None
    assert (found.n_passages, found.n_blanks, found.both_right, found.only_a, found.only_b) == (2, 4, 2, 0, 2)


def test_what_cannot_be_compared() -> None:
    first = made(x=("AB", "AA"))
    others: list[dict[str, Any]] = [{"y": ("AB", "AA")}, {"x": ("AB", "AB")}, {"x": ("A", "A")}]
    assert [compared(first, made(**other)) for other in others] == [None] * 3
    assert compared(made(x=("AB", "--")), made(x=("AB", "--"))) is None


def test_no_more_than_twelve_files() -> None:
    files = [PredictionFile(Path("p.json"), None, made(x=("A", "A")), run, str(run)) for run in range(14)]
    assert len(differences(files)) == 12 * 11 / 2


def test_what_is_not_compared_is_said(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(13)]
    for path in paths:
        write_predictions(path, made(x=("A", "A")))
    assert report(paths[:12]).data["notes"] == []
    found = report(paths).data
    assert found["notes"] == ["Of 13 prediction files, the first 12 are compared with each other."]
    assert len(found["differences"]) == 12 * 11 // 2
