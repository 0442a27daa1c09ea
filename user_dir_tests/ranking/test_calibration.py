"""Three numbers of the LM head, fitted to choosing among candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.cli.calibrate import command
from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.model.scores import candidate_scores
from fairseq_cloze.ranking.calibration import BLANKS, SETTINGS, calibrate, fit, holding
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.views.making import make_view
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES, run


def scores_of(path: Path, data_bin: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and gold of the training split without contrast, by the weights as they are."""
    checkpoint, data = Checkpoint.read(path), DataBin(data_bin)
    view = make_view(SETTINGS, data.open("train"), data.vocabulary, checkpoint.architecture.max_positions)
    sample = view.collate([view.item(number) for number in range(len(view))])
    model = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights).float()
    with torch.inference_mode():
        return candidate_scores(model, sample, SETTINGS), sample["gold"]


def test_the_weights_score_as_the_formula(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """Loss and accuracy that were promised are those of the file that was written, scored as any other."""
    source, out = pretrained / "model.pt", tmp_path / "out.pt"
    found = calibrate(source, data_bin, out, blanks=10_000)
    for path, loss, accuracy in (
        (source, found.loss_before, found.accuracy_before),
        (out, found.loss_after, found.accuracy_after),
    ):
        scores, gold = scores_of(path, data_bin)
        assert len(gold) == found.n_blanks
        assert float(torch.nn.functional.cross_entropy(scores, gold)) == pytest.approx(loss, abs=1e-5)
        assert 100.0 * float(scores.argmax(dim=1).eq(gold).double().mean()) == pytest.approx(accuracy)
    assert found.loss_after < found.loss_before
    result = evaluate(out, data_bin, "train")  # with the settings that it carries
    assert (result.contrast, result.accuracy) == (0.0, pytest.approx(found.accuracy_after))
    before, after = Checkpoint.read(source).weights, Checkpoint.read(out).weights
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    assert changed == {f"encoder.lm_head.{name}" for name in ("layer_norm.weight", "layer_norm.bias", "bias")}


@pytest.mark.parametrize(
    "parts", [{}, {"without_biases": True}, {"embedding_dim": 6}, {"untie_weights_roberta": True}], ids=str
)
def test_every_kind_of_head_holds_the_numbers(parts: dict[str, Any]) -> None:
    """Logits of the changed weights are the formula's, whatever the LM head is made of."""
    torch.manual_seed(1)
    model = MaskedLM(Architecture(1, 12, 20, 3, 30, **parts), 50)
    for parameter in model.encoder.lm_head.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(7, 12)
    alpha, beta, gamma = 0.4, 0.3, 0.2
    with torch.no_grad():
        x = model.encoder.lm_head.transform(features)
        mean, rows, bias = x.mean(dim=0), model.encoder.lm_head.weight, model.encoder.lm_head.bias
        expected = alpha * x @ rows.T - beta * (rows @ mean) + gamma * bias
        changed = holding(dict(model.state_dict()), mean, alpha, beta, gamma)
        model.load_state_dict(changed)
        torch.testing.assert_close(model.encoder.lm_head(features), expected)


def test_a_second_time_finds_nothing(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """Calibrated weights are the best that these three numbers can do."""
    calibrate(pretrained / "model.pt", data_bin, tmp_path / "once.pt")
    again = calibrate(tmp_path / "once.pt", data_bin, tmp_path / "twice.pt")
    assert again.loss_after == pytest.approx(again.loss_before, abs=2e-3)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.tuples(st.floats(0.2, 3.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0)))
def test_it_finds_what_made_the_answers(seed: int, numbers: tuple[float, float, float]) -> None:
    """Answers drawn from a model of three numbers lead back to these, within what 4,000 blanks can tell."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.randn(4000, 4, 3, generator=generator, dtype=torch.float64)
    distinct = torch.ones(4000, 4, dtype=torch.bool)
    distinct[::3, 3] = False
    wanted = torch.tensor(numbers, dtype=torch.float64)
    chances = (terms @ wanted).masked_fill(~distinct, float("-inf")).softmax(dim=1)
    gold = torch.multinomial(chances, 1, generator=generator)[:, 0]
    found = fit(terms, distinct, gold)
    assert (found - wanted).abs().max() < 0.2 + 0.1 * wanted.abs().max()


def test_the_command(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """It says what it found, and writes what the function writes."""
    ran = run("fairseq-cloze", "calibrate", pretrained, data_bin, "--out", "out.pt", cwd=tmp_path)
    found = calibrate(pretrained / "model.pt", data_bin, tmp_path / "same.pt")
    assert ran.text.splitlines() == [*found.lines(), "wrote out.pt"]
    one, other = (Checkpoint.read(tmp_path / name) for name in ("out.pt", "same.pt"))
    assert one.identity == other.identity


def test_the_help_names_the_default() -> None:
    """The command line may not import torch for it."""
    [blanks] = [option.default for option in command.params if option.name == "blanks"]
    assert blanks == BLANKS


def test_what_is_refused(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """Nothing is overwritten, and nothing fitted to blanks without answers."""
    with pytest.raises(ClozeError, match="would replace the weights"):
        calibrate(pretrained / "model.pt", data_bin, pretrained / "model.pt")
    passage = json.loads(next((PASSAGES / "valid").glob("*.json")).read_text())
    del passage["answers"]
    (tmp_path / "blind.json").write_text(json.dumps(passage))
    prepare({"test": [tmp_path / "blind.json"]}, pretrained, tmp_path / "bin", workers=1)
    with pytest.raises(ClozeError, match="expected blanks with answers in split 'test' to fit to, found none"):
        calibrate(pretrained / "model.pt", tmp_path / "bin", tmp_path / "out.pt", "test")
    assert not (tmp_path / "out.pt").exists()
