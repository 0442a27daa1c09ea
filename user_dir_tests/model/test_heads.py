"""The LM head scores candidates by their own rows: what the whole vocabulary would have given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.masked_lm import MaskedLM

SMALL = Architecture(2, 32, 64, 4, max_positions=60)
ENTRIES = 300


@pytest.fixture(scope="module")
def model() -> MaskedLM:
    torch.manual_seed(3)
    built = MaskedLM(SMALL, ENTRIES).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return built


def inputs() -> Any:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, ENTRIES - 1, (3, 20), generator=generator)
    source[:, 0], source[1, 12:], source[2, 19] = 0, 1, 2
    positions = torch.tensor([3, 7, 20 + 5, 40 + 1, 40 + 18])
    candidates = torch.randint(4, ENTRIES, (5, 4, 3), generator=generator)
    return source, positions, candidates


def reading(positions: torch.Tensor, candidates: torch.Tensor, **options: Any) -> Any:
    """every token is scored at its blank's own mask; the first two blanks share a window, and the last two."""
    reads = torch.arange(5)[:, None, None].expand(candidates.shape)
    windows = torch.tensor([0, 0, 1, 2, 2])
    return {"reads": positions, "candidate_tokens": candidates, "token_reads": reads, "windows": windows, **options}


def test_candidate_rows_equal_the_full_projection(model: MaskedLM) -> None:
    source, positions, candidates = inputs()
    with torch.inference_mode():
        full = model(source)[0].flatten(0, 1)[positions]
        found = model(source, **reading(positions, candidates))[0]
        plain = model(source, masked_tokens=mask_of(source, positions))[0]
    expected = full.gather(1, candidates.flatten(1)).view_as(candidates)
    assert found.shape == (5, 4, 3)
    assert (found - expected).abs().max() < 1e-5
    assert (plain - full).abs().max() < 1e-5


@pytest.mark.parametrize("contrast", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("normalise", [False, True])
def test_contrast_subtracts_the_mean_at_the_other_masks(model: MaskedLM, contrast: float, normalise: bool) -> None:
    source, positions, candidates = inputs()
    with torch.inference_mode():
        full = model(source)[0].flatten(0, 1)[positions].double()
        found = model(source, **reading(positions, candidates, contrast=contrast, normalise=normalise))[0]
    full = full.log_softmax(dim=-1) if normalise else full
    partner = {0: 1, 1: 0, 3: 4, 4: 3}  # the third blank is alone in its window
    for blank, rows in enumerate(candidates):
        expected = full[blank] - contrast * full[partner[blank]] if blank in partner else full[blank]
        assert (found[blank] - expected[rows]).abs().max() < 1e-5


def mask_of(source: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(source.numel(), dtype=torch.bool)
    mask[positions] = True
    return mask.view_as(source)


def test_gradients_equal_those_of_the_full_projection(model: MaskedLM) -> None:
    source, positions, candidates = inputs()
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
