"""The core's model: transformers' and fairseq's numbers from the same weights, without fairseq."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RobertaForMaskedLM

from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.model.names import HEAD_NAME, RANKING_HEAD
from fairseq_cloze.weights.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (40, 126, 1, 77, 3)


@pytest.fixture(scope="module")
def checkpoint(pretrained: Path) -> Checkpoint:
    return Checkpoint.read(pretrained / "model.pt")


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> MaskedLM:
    return MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)


@pytest.fixture(scope="module")
def tokens(checkpoint: Checkpoint) -> Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(4, checkpoint.rows, (len(LENGTHS), max(LENGTHS)))
    tokens[:, 0] = 0
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None], 1)


def headed(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights with a ranking head beside them."""
    torch.manual_seed(2)
    width = checkpoint.architecture.encoder_embed_dim
    head = {
        "dense.weight": (width, width),
        "dense.bias": (width,),
        "out_proj.weight": (1, width),
        "out_proj.bias": (1,),
    }
    return {**checkpoint.weights, **{f"{RANKING_HEAD}{name}": torch.randn(shape) for name, shape in head.items()}}


def test_logits_of_ragged_rows_are_those_of_transformers(hf_folder: Path, model: MaskedLM, tokens: Tensor) -> None:
    theirs = RobertaForMaskedLM.from_pretrained(hf_folder).eval()
    present = tokens.ne(1)
    with torch.inference_mode():
        expected = theirs(tokens, attention_mask=present.long()).logits
        found, extra = model(tokens)
        some, _ = model(tokens, masked_tokens=present)
        features, _ = model(tokens, features_only=True)
    assert extra == {} and found.shape == expected.shape and features.shape == (*tokens.shape, 48)
    torch.testing.assert_close(found[present], expected[present], atol=1e-5, rtol=0)
    torch.testing.assert_close(some, expected[present], atol=1e-5, rtol=0)


def test_logits_and_ranking_head_are_those_of_fairseqs_roberta(checkpoint: Checkpoint, tokens: Tensor) -> None:
    weights = headed(checkpoint)
    ours = MaskedLM.from_weights(checkpoint.architecture, weights, ranking_head=True)
    theirs = plain_roberta(checkpoint)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict(dict(weights))
    present = tokens.ne(1)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens)[0][present], theirs(tokens)[0][present], atol=1e-5, rtol=0)
        scores = [model(tokens, features_only=True, classification_head_name=HEAD_NAME)[0] for model in (ours, theirs)]
    assert scores[0].shape == (len(LENGTHS), 1)
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


def plain_roberta(checkpoint: Checkpoint) -> Any:
    """fairseq's own RoBERTa, as ``--arch roberta_base`` builds it, of the checkpoint's shape."""
    from types import SimpleNamespace

    from fairseq.models.roberta import RobertaModel

    from fairseq_cloze.plugin.model import set_layer_norm_eps
    from fairseq_cloze.plugin.task import make_dictionary

    task = SimpleNamespace(source_dictionary=make_dictionary(checkpoint.vocabulary), max_positions=lambda: 126)
    model = RobertaModel.build_model(SimpleNamespace(**vars(checkpoint.architecture)), task)
    set_layer_norm_eps(model, checkpoint.architecture.layer_norm_eps)
    model.register_classification_head(HEAD_NAME, num_classes=1)
    return model.eval()


def test_weights_are_taken_over_as_they_are(checkpoint: Checkpoint, model: MaskedLM) -> None:
    state = model.state_dict()
    assert state.keys() == checkpoint.weights.keys()
    assert all(torch.equal(value, checkpoint.weights[name]) for name, value in state.items())
    assert not model.training and model.max_positions() == 126
    assert model.encoder.lm_head.weight is model.encoder.sentence_encoder.embed_tokens.weight
    with torch.no_grad():
        copied = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
        for parameter in copied.parameters():
            parameter.zero_()
    assert checkpoint.weights["encoder.lm_head.dense.weight"].any()


def test_an_lm_head_of_its_own(checkpoint: Checkpoint, tokens: Tensor) -> None:
    shape = Architecture(**{**vars(checkpoint.architecture), "untie_weights_roberta": True})
    weights = {**checkpoint.weights, "encoder.lm_head.weight": -checkpoint.weights["encoder.lm_head.weight"]}
    untied = MaskedLM.from_weights(shape, weights)
    tied = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    with torch.inference_mode():
        bias = tied.encoder.lm_head.bias
        torch.testing.assert_close(untied(tokens)[0] - bias, bias - tied(tokens)[0])


def test_names_that_do_not_fit(checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    del weights["encoder.lm_head.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "encoder\.lm_head\.bias"'):
        MaskedLM.from_weights(checkpoint.architecture, weights)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"classification_heads"):
        MaskedLM.from_weights(checkpoint.architecture, headed(checkpoint))


def test_checkpoints_without_fairseqs_mark(checkpoint: Checkpoint) -> None:
    weights = {name: value for name, value in checkpoint.weights.items() if not name.endswith(".version")}
    state = MaskedLM.from_weights(checkpoint.architecture, weights).state_dict()
    assert state["encoder.sentence_encoder.version"].tolist() == [3.0]


def test_bfloat16_and_half_precision(checkpoint: Checkpoint, model: MaskedLM, tokens: Tensor) -> None:
    cast = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights, autocast=True)
    half = copy.deepcopy(model).half()
    present = tokens.ne(1)
    with torch.inference_mode():
        exact, rounded, halved = (each(tokens)[0][present] for each in (model, cast, half))
    assert {value.dtype for value in cast.state_dict().values()} == {torch.float32}
    assert (exact.dtype, halved.dtype) == (torch.float32, torch.float16)
    assert 0 < (exact - rounded).abs().max() < 0.15
    assert 0 < (exact - halved.float()).abs().max() < 0.05


def test_the_room_knows_no_fairseq() -> None:
    rooms = "architecture attention cpu dropout encoder heads int8 losses masked_lm memory names onednn scores".split()
    found = sorted(path.stem for path in (ROOT / "fairseq_cloze" / "model").glob("*.py") if path.stem != "__init__")
    assert found == rooms
    script = "import importlib, sys\n"
    script += f"for room in {rooms}: importlib.import_module(f'fairseq_cloze.model.{{room}}')\n"
    script += "print([name for name in sys.modules if name.split('.')[0] in ('fairseq', 'omegaconf', 'hydra')])"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_gradients_reach_every_parameter_that_was_asked(tokens: Tensor) -> None:
    """Gradients reach every parameter but those of a head that is not asked."""
    torch.manual_seed(0)
    model = MaskedLM(Architecture(2, 16, 32, 2, 126), rows=600, ranking_head=True)
    model(tokens.clamp(max=599))[0].square().mean().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"{RANKING_HEAD}{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")}
    assert isinstance(model, nn.Module)
