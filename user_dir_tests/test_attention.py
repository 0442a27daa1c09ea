"""Faster self-attention: the same numbers as fairseq's."""

from __future__ import annotations

from typing import Any, Tuple

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from fairseq.modules.gelu import gelu
from torch import Tensor, nn

from fairseq_cloze.attention import SelfAttention, attend, speed_up

WIDTH, HEADS, LENGTH, ROWS = 48, 4, 11, 3


def pair(**options: Any) -> Tuple[MultiheadAttention, MultiheadAttention]:
    """fairseq's attention, and the same after :func:`speed_up`."""
    torch.manual_seed(3)
    theirs = MultiheadAttention(WIDTH, HEADS, self_attention=True, **options)
    ours = MultiheadAttention(WIDTH, HEADS, self_attention=True, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict())
    speed_up(nn.ModuleList([ours]))
    return theirs, ours


def inputs(padded: bool) -> Tuple[Tensor, Any]:
    torch.manual_seed(4)
    x = torch.randn(LENGTH, ROWS, WIDTH, requires_grad=True)
    padding = torch.arange(LENGTH) >= torch.tensor([LENGTH, 7, 1])[:, None]
    return x, padding if padded else None


@pytest.mark.parametrize("padded", (False, True))
@pytest.mark.parametrize("training", (False, True))
def test_output_and_gradients_are_fairseqs(padded: bool, training: bool) -> None:
    results = []
    for module in pair():
        module.double().train(training)
        x, padding = inputs(padded)
        x = x.detach().double().requires_grad_()
        out, weights = module(x, x, x, padding, need_weights=False)
        assert weights is None
        out.square().sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in module.parameters())])
    for theirs, ours in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_inference_is_fairseqs() -> None:
    theirs, ours = (module.eval() for module in pair())
    x, padding = inputs(True)
    with torch.no_grad():
        expected, found = (module(x, x, x, padding, need_weights=False)[0] for module in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_it_is_not_made_for_is_fairseqs() -> None:
    theirs, ours = (module.eval() for module in pair())
    x, padding = inputs(True)
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    for options in ({"need_weights": True}, {"need_weights": False, "attn_mask": mask}):
        (a, b), (c, d) = (module(x, x, x, padding, **options) for module in (theirs, ours))
        torch.testing.assert_close(c, a)
        if b is None:
            assert d is None
        else:
            torch.testing.assert_close(d, b)


def test_dropout_takes_attention_weights() -> None:
    """Of weights that are all 1 / length, the sum of those that stay, scaled, is 1 on average."""
    torch.manual_seed(5)
    q, values = torch.zeros(50, 4, 20, 8, requires_grad=True), torch.ones(50, 4, 20, 8)
    out = attend(q, q, values, None, 0.25).detach()
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    assert 0.1 < float(out[..., 0].std()) < 0.16  # sqrt(0.25 / 0.75 / 20) = 0.129
    torch.testing.assert_close(attend(q, q, values, None, 0.0), values)


def test_only_plain_attention_is_replaced() -> None:
    class Other(MultiheadAttention):
        pass

    plain, own = MultiheadAttention(8, 2, self_attention=True), Other(8, 2, self_attention=True)
    noisy = MultiheadAttention(8, 2, self_attention=True, q_noise=0.5, qn_block_size=4)
    crossing = MultiheadAttention(8, 2, encoder_decoder_attention=True)
    biased = MultiheadAttention(8, 2, self_attention=True, add_bias_kv=True)
    padded = MultiheadAttention(8, 2, self_attention=True, add_zero_attn=True)
    left = [noisy, crossing, biased, padded]
    speed_up(nn.ModuleList([plain, own, *left]))
    assert type(plain) is SelfAttention and type(own) is Other
    assert [type(module) for module in left] == [MultiheadAttention] * 4
    names = set(MultiheadAttention(8, 2, self_attention=True).state_dict())
    assert set(plain.state_dict()) == names


def test_gelu_does_without_float32(pretrained: Any) -> None:
    from fairseq_cloze.scorer import Scorer

    model = Scorer(pretrained / "model.pt").model
    layers = [module for module in model.modules() if hasattr(module, "self_attn")]
    assert len(layers) == 2
    assert all(layer.activation_fn is F.gelu and type(layer.self_attn) is SelfAttention for layer in layers)
    x = torch.randn(100)
    assert torch.equal(F.gelu(x), gelu(x))
