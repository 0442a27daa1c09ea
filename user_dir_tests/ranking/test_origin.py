"""What prediction files and results say of the checkpoints that answered."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze import __version__, register
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.answers import PassagePrediction, read_predictions, write_predictions
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.ranking.origin import Origin, Source, origin_of, read_origin
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.report.page import report
from fairseq_cloze.views.settings import PartialSettings
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES
from ..support.reported import ORIGIN, SOURCE

register()

#: What a prediction file of a model at work holds but its checkpoints.
HOW = {
    "version": __version__,
    "encoding": {"text_norm": "standard", "sentence_case": False, "language": "en"},
    "device": "cpu",
    "fp16": False,
    "bf16": False,
    "int8": False,
}


def test_evaluate_says_it_in_both_files(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    path, out = finetuned / "checkpoint_last.pt", tmp_path / "p.json"
    checkpoint = Checkpoint.read(path)
    result = evaluate(path, data_bin, "test", PartialSettings(contrast=0.5), predictions_path=out)
    written = json.loads(out.read_text())["fairseq_cloze"]
    [source] = written["checkpoints"]
    training = source.pop("training")
    assert source == {
        **{"name": "checkpoint_last.pt", "path": str(path), "digest": checkpoint.identity},
        **{"epoch": checkpoint.progress.epoch, "updates": checkpoint.progress.updates, "weight": 1.0},
        **{"view": "joint", "scorer": "mean", "other_blanks": "remove", "contrast": 0.5},
        "logs": [str(finetuned / "metrics.jsonl")],
    }
    assert training["model"] == {"_name": "cloze_roberta", "encoder_layers": 2, "encoder_embed_dim": 48}
    assert training["optimization"] == {"lr": [0.001], "update_freq": [1]} and training["task"]["contrast"] == 0.7
    assert training["dataset"] == {"max_tokens": 1024} and training["lr_scheduler"]["_name"] == "fixed"
    assert Path(training["checkpoint"]["finetune_from_model"]).name == "model.pt"
    assert {**written, "checkpoints": []} == {**HOW, "checkpoints": [], "data_bin": str(data_bin), "split": "test"}
    assert json.loads(result.to_json())["checkpoints"] == [{**source, "training": training}]
    assert read_predictions(out).origin == read_origin(json.loads(out.read_text())["fairseq_cloze"])


def test_predict_says_it(tmp_path: Path, finetuned: Path, pretrained: Path) -> None:
    """Of each checkpoint of an average; weights that were not trained further have no training."""
    both = f"{finetuned / 'checkpoint_last.pt'}:{pretrained / 'model.pt'}"
    out = tmp_path / "p.json"
    predict(both, [PASSAGES / "test"], with_probabilities=True, weights=[3, 1], out=out)
    origin = read_predictions(out).origin
    assert origin is not None and origin.inputs == [str(PASSAGES / "test")] and origin.data_bin is None
    first, second = origin.checkpoints
    assert (first.weight, second.weight) == (0.75, 0.25)
    assert (second.name, second.updates, second.logs) == ("model.pt", 0, [])
    assert second.training == {"model": {"_name": "roberta", "encoder_layers": 2, "encoder_embed_dim": 48}}
    assert second.digest == Checkpoint.read(pretrained / "model.pt").identity != first.digest
    predict(both, [PASSAGES / "test"], out=out)
    assert len(json.loads(out.read_text())) == 8  # answers alone


def test_a_pipe_gets_passages_only(finetuned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    predict(finetuned / "checkpoint_last.pt", [PASSAGES / "test"], with_probabilities=True, out="-")
    out = capfd.readouterr().out
    assert out.count('"answers": ') == 8 and '"fairseq_cloze"' not in out


def test_a_passage_may_have_its_name(tmp_path: Path, finetuned: Path) -> None:
    """It keeps its answers, and the origin is left out."""
    one = PassagePrediction(["A"], ["B"])
    write_predictions(tmp_path / "p.json", {"fairseq_cloze": one, "x": one}, read_origin(ORIGIN))
    found = read_predictions(tmp_path / "p.json")
    assert found == {"fairseq_cloze": one, "x": one} and found.origin is None
    passage = {"id": "fairseq_cloze", "article": "It was _ .", "options": [["cold", "old"]]}
    (tmp_path / "a.jsonl").write_text(json.dumps(passage))
    predict(finetuned / "checkpoint_last.pt", [tmp_path / "a.jsonl"], with_probabilities=True, out=tmp_path / "p.json")
    assert len(read_predictions(tmp_path / "p.json")["fairseq_cloze"].answers) == 1


def test_a_file_of_before_int8_is_read() -> None:
    before = {name: value for name, value in ORIGIN.items() if name != "int8"}
    assert read_origin(before) == read_origin(ORIGIN)


def test_in_a_file_of_lines(tmp_path: Path) -> None:
    """The last line; the report reads it, too."""
    one = PassagePrediction(["A"], ["B"])
    path = tmp_path / "p.jsonl"
    write_predictions(path, {"x": one, "y": one}, read_origin(ORIGIN))
    assert json.loads(path.read_text().splitlines()[-1]) == {"id": "fairseq_cloze", **ORIGIN}
    found = read_predictions(path)
    assert found == {"x": one, "y": one} and found.origin == read_origin(ORIGIN)
    [row] = report([path]).data["runs"]
    assert row["known"] and row["valid"]["blanks"] == 2 and row["sources"][0]["digest"] == SOURCE["digest"]


def test_settings_from_anybody(tmp_path: Path, finetuned: Path) -> None:
    """Of a checkpoint's configuration texts, numbers and lists of numbers are taken, as JSON can hold them."""
    checkpoint = Checkpoint.read(finetuned / "checkpoint_last.pt")
    checkpoint.state["cfg"] = {
        "optimization": {"lr": [1e-3, float("nan"), "x", [1]], "update_freq": {"a": 1}},
        "dataset": {"batch_size": float("inf"), "max_tokens": True},
        "lr_scheduler": {"_name": "x" * 10_000, "warmup_updates": b"7"},
        "checkpoint": {"finetune_from_model": "https://me:1234@example.org/x"},
        "common": [1],
        "model": checkpoint.configuration["model"],
    }
    ranker = Ranker([checkpoint])
    [source] = origin_of([checkpoint], ranker.members, [1.0], ranker.resources, {}).checkpoints
    model = source.training.pop("model")
    assert source.training == {
        "optimization": {"lr": [1e-3]},
        "dataset": {"max_tokens": True},
        "lr_scheduler": {"_name": "x" * 4096},
        "checkpoint": {"finetune_from_model": "https://***@example.org/x"},
    }
    assert model == {"_name": "cloze_roberta", "encoder_layers": 2, "encoder_embed_dim": 48}


# -- reading ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read() -> None:
    origin = read_origin(ORIGIN)
    assert isinstance(origin, Origin) and origin.to_dict() == ORIGIN
    assert asdict(origin.checkpoints[0]) == SOURCE and isinstance(origin.checkpoints[0], Source)
    least = {name: value for name, value in ORIGIN.items() if name not in ("data_bin", "split")}
    assert read_origin({**least, "later": 1}).to_dict() == least  # of a later version


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"checkpoints": []}, "field 'checkpoints': expected a list with at least one checkpoint"),
        ({"checkpoints": ["a.pt"]}, "checkpoint 1, expected an object"),
        ({"checkpoints": [SOURCE, {**SOURCE, "path": 7}]}, "checkpoint 2, field 'path': expected a text"),
        ({"checkpoints": [{**SOURCE, "updates": -1}]},
         "checkpoint 1, field 'updates': expected a whole number or null"),
        ({"checkpoints": [{name: SOURCE[name] for name in SOURCE if name != "updates"}]},
         "checkpoint 1, field 'updates': expected a whole number or null"),
        ({"checkpoints": [{**SOURCE, "weight": True}]}, "checkpoint 1, field 'weight': expected a number"),
        ({"checkpoints": [{**SOURCE, "logs": "a.log"}]}, "checkpoint 1, field 'logs': expected a list of texts"),
        ({"version": None}, "field 'version': expected a text"),
        ({"encoding": []}, "field 'encoding': expected an object"),
        ({"fp16": 0}, "field 'fp16': expected true or false"),
        ({"split": None}, "field 'split': expected a text"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"x": {"answers": ["A"]}, "fairseq_cloze": {**ORIGIN, **change}}))
    with pytest.raises(ClozeError) as error:
        read_predictions(path)
    assert str(error.value) == (
        f"{path}: 'fairseq_cloze': {problem}; write it with 'fairseq-cloze predict --scores' or "
        "'fairseq-cloze evaluate --predictions'"
    )
