"""The fused optimizer: the updates of fairseq's ``adam``, its state and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.optim.adam import FairseqAdam
from torch import Tensor, nn

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.plugin.optimizer import FusedAdamW

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def config(**options: Any) -> Any:
    values = dict(lr=[0.01], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.1, use_old_adam=True)
    return SimpleNamespace(**{**values, "tpu": False, "fp16_adam_stats": False, **options})


def parameters(device: str = "cpu") -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(*shape).to(device)) for shape in ((5, 4), (7,), (2, 3, 2))]


def train(optimizer: Any, params: list[nn.Parameter], updates: int, seed: int = 2) -> list[Tensor]:
    """Parameters after some updates by gradients that the seed fixes."""
    torch.manual_seed(seed)
    for update in range(updates):
        optimizer.set_lr(0.01 / (1 + update))
        for parameter in params:
            parameter.grad = torch.randn(parameter.shape).to(parameter)
        optimizer.step()
    return [parameter.detach().clone() for parameter in params]


@pytest.mark.parametrize("device", DEVICES)
def test_updates_are_those_of_fairseqs_adam(device: str) -> None:
    ours, theirs = parameters(device), parameters(device)
    before = [parameter.detach().clone() for parameter in ours]
    found = train(FusedAdamW(config(), ours), ours, 20)
    expected = train(FairseqAdam(config(), theirs), theirs, 20)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert all(float((a - b).abs().max()) > 0.01 for a, b in zip(before, found))


@pytest.mark.parametrize("device", DEVICES)
def test_goes_on_from_its_state(device: str) -> None:
    whole = parameters(device)
    train(FusedAdamW(config(), whole), whole, 5)
    optimizer = FusedAdamW(config(), whole)  # forgets
    forgotten = train(optimizer, whole, 5, seed=3)
    params = parameters(device)
    first = FusedAdamW(config(), params)
    train(first, params, 5)
    state = first.state_dict()
    again = FusedAdamW(config(), params)
    again.load_state_dict(state)
    resumed = train(again, params, 5, seed=3)
    straight = parameters(device)
    optimizer = FusedAdamW(config(), straight)
    train(optimizer, straight, 5)
    torch.testing.assert_close(resumed, train(optimizer, straight, 5, seed=3), atol=0, rtol=0)
    assert float((resumed[0] - forgotten[0]).abs().max()) > 1e-4


def test_all_updates_are_one_kernel() -> None:
    params = parameters()
    optimizer = FusedAdamW(config(), params)
    train(optimizer, params, 1)
    with torch.profiler.profile() as profile:
        optimizer.step()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_fused_adamw_"] == 1 and "aten::addcdiv_" not in calls


@pytest.mark.parametrize("betas", ("(0.9)", "0.9", "(0.9, 0.98, 0.5)", "fast"))
def test_betas_that_are_not_two_numbers(betas: str) -> None:
    with pytest.raises(ClozeError) as caught:
        FusedAdamW(config(adam_betas=betas), parameters())
    expected = "two numbers from 0 to below 1, such as '(0.9, 0.98)'"
    assert str(caught.value) == f"--adam-betas: expected {expected}, found '{betas}'"


def test_memory_efficient_fp16_is_for_fairseqs_adam() -> None:
    assert not FusedAdamW(config(), parameters()).supports_memory_efficient_fp16
    assert FusedAdamW(config(), parameters()).supports_flat_params


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("max_norm", (0.0, 0.5, 100.0))
def test_norm_and_clipping_are_fairseqs(device: str, max_norm: float) -> None:
    results = []
    for kind in (FusedAdamW, FairseqAdam):
        params = parameters(device)
        optimizer = kind(config(), params)
        torch.manual_seed(4)
        for parameter in params[:2]:  # the third has no gradient
            parameter.grad = torch.randn(parameter.shape).to(parameter)
        optimizer.multiply_grads(torch.tensor(3.0))
        optimizer.multiply_grads(0.5)
        norm = optimizer.clip_grad_norm(max_norm)
        assert params[2].grad is None
        results.append([norm.cpu(), params[0].grad, params[1].grad])
        assert kind is FairseqAdam or norm.device.type == "cpu"  # nobody has to wait for it once more
    torch.testing.assert_close(*results)
    assert float(results[0][0]) > 5


def test_norms_of_shards_are_put_together_by_fairseq() -> None:
    params = parameters()
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    assert float(FusedAdamW(config(), params).clip_grad_norm(0.0, lambda norm: norm * 2)) == pytest.approx(2 * 39**0.5)
