"""int8 weights: what they compute is what is written down, and near what float32 computes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_cloze.model import int8
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.int8 import Int8Weight, missing, products, quantise

from ..support.encoders import FAMILIES, build, tokens_of

needs_vnni = pytest.mark.skipif(missing() is not None, reason="needs a CPU with VNNI or AMX")


def by_hand(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same quantisation, in float64."""
    x, weight = x.double(), weight.double()
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    weight = (weight / scale).round() * scale
    low, top = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    step, middle = (top - low) / 254, (top + low) / 2
    x = ((x - middle) / step).round() * step + middle
    out = x @ weight.T
    return out if bias is None else out + bias.double()


@needs_vnni
@pytest.mark.parametrize("tokens", [1, 37])
def test_products_are_those_of_the_levels(tokens: int) -> None:
    """One outlier stands in a row, another row is far from 0; a bias may be missing."""
    torch.manual_seed(1)
    x = torch.randn(tokens, 48)
    x[0, 5], x[-1] = 60.0, x[-1] + 9
    weights, bias = [torch.randn(size, 48) * 0.05 for size in (64, 20)], torch.randn(64)
    out = products(x, [Int8Weight(weight) for weight in weights], [bias, None])
    expected = [by_hand(x, weights[0], bias), by_hand(x, weights[1], None)]
    assert [part.dtype for part in out] == [torch.float32] * 2
    torch.testing.assert_close([part.double() for part in out], expected, rtol=1e-5, atol=2e-5)


@needs_vnni
def test_what_is_all_alike_and_what_is_no_number() -> None:
    """Zeros and constants are exact; NaN and infinity stay in their row, and a token sees no other one."""
    weight, bias = torch.tensor([[1.0, -2.0, 127.0], [0.0, 0.0, 0.0]]), torch.tensor([0.5, 0.25])
    bad = torch.tensor([[0.0, float("nan"), 1.0], [0.0, float("inf"), 1.0]])
    x = torch.cat([torch.zeros(1, 3), torch.full((1, 3), 2.0), bad])
    [out] = products(x, [Int8Weight(weight)], [bias])
    assert out[:2].tolist() == [[0.5, 0.25], [252.5, 0.25]]
    assert not out[2:, 0].isfinite().any()
    assert torch.equal(products(x[1:2], [Int8Weight(weight)], [bias])[0], out[1:2])


@needs_vnni
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_behind_a_product(dtype: torch.dtype) -> None:
    """Only where something is added, what went in may be overwritten."""
    torch.manual_seed(1)
    x, bias, other = torch.randn(5, 48).to(dtype), torch.randn(20), torch.randn(5, 20)
    weight, before = Int8Weight(torch.randn(20, 48)), x.clone()
    [plain] = products(x, [weight], [bias])
    for activation in (None, F.gelu, F.relu):
        out = weight.times(x, bias, activation)
        torch.testing.assert_close(out, plain if activation is None else activation(plain), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)
    assert torch.equal(weight.added(x, bias, other), plain + other)


@needs_vnni
@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)
def test_an_encoder_is_near_float32(monkeypatch: pytest.MonkeyPatch, shape: Architecture) -> None:
    """In chunks that end anywhere, too."""
    encoder, tokens = build(shape).eval(), tokens_of()
    eight = copy.deepcopy(encoder)
    quantise(eight)
    with torch.inference_mode():
        expected, found = encoder(tokens), eight(tokens)
        monkeypatch.setattr(int8, "_CHUNK", 8)
        in_chunks = eight(tokens)
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(in_chunks, found) or (in_chunks - found).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("capabilities", "why"),
    [
        ({"avx512_vnni": True}, None),
        ({"avx_vnni": True, "avx512_vnni": False}, None),
        ({"amx_int8": True}, None),
        ({"avx2": True, "avx512_vnni": False}, "this CPU has neither VNNI nor AMX"),
        (None, "this torch does not say whether the CPU has VNNI"),
    ],
)
def test_what_the_cpu_can_do(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool] | None, why: str | None
) -> None:
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert missing() == why


def test_an_operator_that_torch_no_longer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq_cloze.model.int8._OPERATORS", ("qlinear_prepack", "qlinear_of_old"))
    assert missing() == f"torch {torch.__version__} has no operator onednn::qlinear_of_old"
