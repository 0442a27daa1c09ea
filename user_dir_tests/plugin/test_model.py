from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.models.roberta import RobertaModel

from fairseq_cloze import register
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.weights.checkpoint import Checkpoint

register()

from fairseq_cloze.model.architecture import BASE, LARGE  # noqa: E402
from fairseq_cloze.plugin.model import ClozeRobertaModel, fill_config  # noqa: E402
from fairseq_cloze.ranking.ranker import build_model  # noqa: E402

SMALL = Architecture(2, 32, 64, 4, max_positions=60)


@pytest.fixture(scope="module")
def model(vocabulary: Vocabulary) -> ClozeRobertaModel:
    torch.manual_seed(3)
    built = build_model(SMALL, vocabulary, head=False).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built


def inputs(vocabulary: Vocabulary) -> Any:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, len(vocabulary) - 1, (3, 20), generator=generator)
    source[:, 0], source[1, 12:], source[2, 19] = 0, 1, 2
    positions = torch.tensor([3, 7, 20 + 5, 40 + 1, 40 + 18])
    candidates = torch.randint(4, len(vocabulary), (5, 4, 3), generator=generator)
    return source, positions, candidates


def reading(positions: torch.Tensor, candidates: torch.Tensor, **options: Any) -> Any:
    """every token is scored at its blank's own mask; the first two blanks share a window, and the last two."""
    reads = torch.arange(5)[:, None, None].expand(candidates.shape)
    windows = torch.tensor([0, 0, 1, 2, 2])
    return {"reads": positions, "candidate_tokens": candidates, "token_reads": reads, "windows": windows, **options}


def test_candidate_rows_equal_the_full_projection(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    source, positions, candidates = inputs(vocabulary)
    with torch.inference_mode():
        full = model(source)[0].flatten(0, 1)[positions]
        found = model(source, **reading(positions, candidates))[0]
        plain = RobertaModel.forward(model, source, masked_tokens=mask_of(source, positions))[0]
    expected = full.gather(1, candidates.flatten(1)).view_as(candidates)
    assert found.shape == (5, 4, 3)
    assert (found - expected).abs().max() < 1e-5
    assert (plain - full).abs().max() < 1e-5


@pytest.mark.parametrize("contrast", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("normalise", [False, True])
def test_contrast_subtracts_the_mean_at_the_other_masks(
    model: ClozeRobertaModel, vocabulary: Vocabulary, contrast: float, normalise: bool
) -> None:
    source, positions, candidates = inputs(vocabulary)
    with torch.inference_mode():
        full = model(source)[0].flatten(0, 1)[positions].double()
        found = model(source, **reading(positions, candidates, contrast=contrast, normalise=normalise))[0]
    full = full.log_softmax(dim=-1) if normalise else full
    partner = {0: 1, 1: 0, 3: 4, 4: 3}  # the third blank is alone in its window
    for blank, rows in enumerate(candidates):
        expected = full[blank] - contrast * full[partner[blank]] if blank in partner else full[blank]
        assert (found[blank] - expected[rows]).abs().max() < 1e-5


def test_autocast_computes_in_bfloat16(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    source, positions, candidates = inputs(vocabulary)
    cast = build_model(SMALL, vocabulary, head=False, bf16=True).eval()
    cast.load_state_dict(model.state_dict())
    with torch.inference_mode():
        one = model(source, **reading(positions, candidates))[0]
        two = cast(source, **reading(positions, candidates))[0]
    assert {value.dtype for value in cast.state_dict().values()} == {torch.float32}
    assert 0 < (one - two).abs().max() < 0.1


def mask_of(source: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(source.numel(), dtype=torch.bool)
    mask[positions] = True
    return mask.view_as(source)


def test_gradients_equal_those_of_the_full_projection(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    source, positions, candidates = inputs(vocabulary)
    grads = []
    for narrow in (True, False):
        model.zero_grad()
        if narrow:
            logits = model(source, **reading(positions, candidates))[0]
        else:
            full = model(source)[0].flatten(0, 1)[positions]
            logits = full.gather(1, candidates.flatten(1)).view_as(candidates)
        logits.mean(dim=2).log_softmax(dim=1)[:, 0].sum().backward()
        grads.append({name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None})
    assert grads[0].keys() == grads[1].keys() == dict(model.named_parameters()).keys()
    for name in grads[0]:
        assert (grads[0][name] - grads[1][name]).abs().max() < 1e-5, name


def test_half_precision_on_cpu(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    source, positions, candidates = inputs(vocabulary)
    half = build_model(SMALL, vocabulary, head=False).eval()
    half.load_state_dict(model.state_dict())
    half.half()
    with torch.inference_mode():
        one = model(source, **reading(positions, candidates))[0]
        two = half(source, **reading(positions, candidates))[0]
    assert two.dtype == torch.float16
    assert (one - two.float()).abs().max() < 0.05


def test_parameter_names_are_robertas(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    names = set(model.state_dict())
    assert len(names) == 2 * 16 + 4 + 6 + 1
    assert {
        "encoder.sentence_encoder.embed_tokens.weight",
        "encoder.sentence_encoder.embed_positions.weight",
        "encoder.sentence_encoder.layernorm_embedding.weight",
        "encoder.sentence_encoder.layers.1.self_attn.q_proj.weight",
        "encoder.sentence_encoder.layers.1.fc2.bias",
        "encoder.lm_head.dense.weight",
        "encoder.lm_head.weight",
        "encoder.lm_head.bias",
    } < names
    assert model.encoder.lm_head.weight is model.encoder.sentence_encoder.embed_tokens.weight
    assert model.max_positions() == 60


def test_every_layer_norm_has_the_epsilon(vocabulary: Vocabulary) -> None:
    built = build_model(Architecture(2, 32, 64, 4, 60, layer_norm_eps=3e-7), vocabulary, head=True)
    eps = [module.eps for module in built.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert eps == [3e-7] * (1 + 2 * 2 + 1)


def test_weights_of_0_12_2_load(model: ClozeRobertaModel, vocabulary: Vocabulary) -> None:
    """fairseq 0.12.2 saves second copies of each layer's parameters."""
    state = dict(model.state_dict())
    for layer in range(2):
        prefix = f"encoder.sentence_encoder.layers.{layer}."
        state[f"{prefix}in_proj_weight"] = torch.zeros(96, 32)
        state[f"{prefix}fc1_bias"] = torch.zeros(64)
    other = build_model(SMALL, vocabulary, head=False)
    other.load_state_dict(dict(state), strict=True)
    assert all(other.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    from pathlib import Path

    assert set(Checkpoint({"model": state}, Path("x.pt")).weights) == set(model.state_dict())


def test_heads_of_other_tasks_are_dropped(model: ClozeRobertaModel, vocabulary: Vocabulary, caplog: Any) -> None:
    state = dict(model.state_dict())
    state["classification_heads.mnli.dense.weight"] = torch.zeros(32, 32)
    state["classification_heads.mnli.dense.bias"] = torch.zeros(32)
    state["classification_heads.mnli.out_proj.weight"] = torch.zeros(3, 32)
    state["classification_heads.mnli.out_proj.bias"] = torch.zeros(3)
    build_model(SMALL, vocabulary, head=False).load_state_dict(state, strict=True)
    assert "deleting classification head (mnli) from checkpoint" in caplog.text


def test_named_architectures_fill_what_is_not_given() -> None:
    from argparse import Namespace

    given = Namespace(encoder_layers=4)
    fill_config(given, vars(LARGE))
    assert vars(given) == {**vars(LARGE), "encoder_layers": 4}
    assert (BASE.encoder_layers, BASE.encoder_embed_dim, LARGE.encoder_layers) == (12, 768, 24)
