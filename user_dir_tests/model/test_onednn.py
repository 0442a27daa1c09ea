"""oneDNN: its products are torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.onednn import PackedWeight, is_faster, pack
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.ranking.resources import Resources
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.encoders import FAMILIES, build, tokens_of

TYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not is_faster(dtype), reason=f"nothing is gained in {dtype} here"))
    for dtype in (torch.float32, torch.bfloat16)
]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 8e-3}  # relative


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", [None, F.gelu, torch.tanh])
@pytest.mark.parametrize("tokens", [0, 1, 37])
def test_a_packed_product(tokens: int, activation: Callable[[Tensor], Tensor] | None, dtype: torch.dtype) -> None:
    """With a bias or without, with an activation function, and with something added."""
    torch.manual_seed(1)
    x, weight, bias, other = (torch.randn(size).to(dtype) for size in ((tokens, 48), (64, 48), (64,), (tokens, 64)))
    packed = PackedWeight(weight.float(), dtype)
    for added in (bias, None):
        exact = F.linear(x.double(), weight.double(), None if added is None else added.double())
        found = packed.times(x, added, activation), packed.added(x, added, other)
        for out, expected in zip(found, (exact if activation is None else activation(exact), exact + other.double())):
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), expected, rtol=ROUNDING[dtype], atol=4 * ROUNDING[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)
def test_a_packed_encoder(shape: Architecture, dtype: torch.dtype) -> None:
    """All of its output, and what is read alone."""
    encoder, tokens = build(shape).eval(), tokens_of()
    packed = copy.deepcopy(encoder)
    pack(packed, dtype)
    for reads in (None, torch.tensor([1, 4, 11, 33, 40])):
        with torch.inference_mode():
            exact = encoder(tokens, reads=reads)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                expected, found = encoder(tokens, reads=reads), packed(tokens, reads=reads)
        assert found.dtype == expected.dtype == dtype
        if dtype == torch.float32:
            torch.testing.assert_close(found, exact, rtol=0, atol=2e-5)
        else:  # as far from what is exact as torch's own products
            assert (found - exact).norm() < 1.3 * (expected - exact).norm()


@pytest.mark.parametrize(
    ("dtype", "capabilities", "faster"),
    [
        (torch.float32, {"avx2": True, "cpu_name": "AMD EPYC"}, True),
        (torch.float32, {"avx2": False, "cpu_name": "AMD Opteron"}, False),
        (torch.float32, {"avx2": True, "cpu_name": "Intel(R) Xeon(R)"}, False),
        (torch.float32, {"avx2": True}, False),
        (torch.bfloat16, {"avx2": True, "avx512_f": True}, False),
        (torch.bfloat16, {"avx2": True, "avx512_bf16": True}, True),
        (torch.bfloat16, {"amx_bf16": True}, True),
        (torch.float16, {"avx2": True, "amx_bf16": True}, False),
        (torch.float32, None, False),
    ],
    ids=str,
)
def test_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, capabilities: dict[str, bool] | None, faster: bool
) -> None:
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert is_faster(dtype) is faster
    monkeypatch.setattr("fairseq_cloze.model.onednn._OPERATORS", ("_linear_of_old",))
    assert not is_faster(dtype)


@pytest.mark.skipif(not is_faster(torch.float32), reason="nothing is gained here")
def test_the_first_scoring_packs(pretrained: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the weights are tensors, as the doctor wants them; scores are those of before."""
    store = DataBin(data_bin).open("test")

    def ranker(fp16: bool = False) -> tuple[Ranker, nn.Module]:
        found = Ranker([Checkpoint.read(pretrained / "model.pt")], resources=Resources(device="cpu", fp16=fp16))
        return found, found.members[0].model.encoder.sentence_encoder.layers[0].fc1

    (packing, fc1), (half, fc1_of_half) = ranker(), ranker(fp16=True)
    assert isinstance(fc1.weight, nn.Parameter)
    found, again, _ = packing.score(store).raw, packing.score(store).raw, half.score(store)
    assert isinstance(fc1.weight, PackedWeight) and isinstance(fc1_of_half.weight, nn.Parameter)
    monkeypatch.setattr("fairseq_cloze.model.onednn._OPERATORS", ("_linear_of_old",))
    plain, fc1 = ranker()
    np.testing.assert_allclose(found, plain.score(store).raw, rtol=0, atol=1e-5)
    assert isinstance(fc1.weight, nn.Parameter) and (found == again).all()
