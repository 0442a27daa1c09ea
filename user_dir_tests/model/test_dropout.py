"""Dropout on a CPU."""

from __future__ import annotations

import pytest
import torch

from fairseq_cloze.model.dropout import dropout

SIZE = (1000, 1003)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_elements_are_dropped_by_chance_alone(probability: float, dtype: torch.dtype) -> None:
    """As many as the probability says, at every place of the 64 bits, one not more likely beside another."""
    torch.manual_seed(1)
    kept = dropout(torch.ones(SIZE, dtype=dtype), probability) != 0
    error = (probability * (1 - probability)) ** 0.5
    assert abs(1 - float(kept.double().mean()) - probability) < 4 * error / kept.numel() ** 0.5
    places = kept.flatten()[: kept.numel() // 4 * 4].view(-1, 4).double()
    assert (1 - places.mean(dim=0) - probability).abs().max() < 4 * error / len(places) ** 0.5
    together = torch.corrcoef(places.t()) - torch.eye(4)
    assert together.abs().max() < 4 / len(places) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_stays_is_scaled_and_so_is_the_gradient(dtype: torch.dtype) -> None:
    """To the last bit."""
    torch.manual_seed(2)
    x = torch.randn(7, 9, 5, dtype=dtype).transpose(0, 2).requires_grad_()
    out = dropout(x, 0.25)
    kept = out != 0
    assert 0 < int(kept.sum()) < x.numel()
    assert torch.equal(out, x * kept * (1 / 0.75))
    gradient = torch.randn_like(out)
    out.backward(gradient)
    assert x.grad is not None and torch.equal(x.grad, gradient * kept * (1 / 0.75))


def test_a_seed_gives_the_same_and_nothing_is_drawn_for_nothing() -> None:
    x = torch.ones(50)
    torch.manual_seed(3)
    first, state = dropout(x, 0.3), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.3), first) and torch.equal(torch.get_rng_state(), state)
    assert dropout(x, 0.0) is x and torch.equal(torch.get_rng_state(), state)
    assert not dropout(x, 1.0).any() and not dropout(x, 0.999999).any()
    assert dropout(torch.ones(0, 4), 0.5).shape == (0, 4)
