"""Attention over packed rows: the formula, row by row."""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairseq_cloze.model.attention import Reads, Rows, _varlen_attention, attend, attend_padded, rows_of

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
#: Largest difference from the formula in double precision, by type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.02, torch.float16: 0.002}


def by_formula(qkv: Tensor, rows: Rows, reach: int | None = None) -> Tensor:
    """softmax(q k' / sqrt(width)) v, of each row and head; of tokens not farther away than *reach*."""
    out = torch.zeros_like(qkv[:, 0])
    start = 0
    for length in rows.lengths:
        for head in range(qkv.size(2)):
            query, key, value = qkv[start : start + length, :, head].unbind(1)
            places = torch.arange(length, device=qkv.device)
            far = (places - places[:, None]).abs() > (length if reach is None else reach)
            products = (query @ key.T / math.sqrt(qkv.size(3))).masked_fill(far, -math.inf)
            weights = products.softmax(dim=1)
            out[start : start + length, head] = weights @ value
        start += length
    return out


def packed(lengths: list[int], device: str = "cpu") -> Rows:
    present = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
    return rows_of(present)


def test_rows_of_a_padded_input() -> None:
    present = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    rows = rows_of(present)
    assert rows.lengths == [3, 1, 4, 0] and rows.longest == 4
    assert rows.ends.tolist() == [0, 3, 4, 8, 8] and rows.ends.dtype == torch.int32
    known = Rows.of_lengths([3, 1, 4, 0], torch.device("cpu"))
    assert known.lengths == rows.lengths and known.longest == 4
    assert torch.equal(known.ends, rows.ends) and known.ends.dtype == torch.int32
    for found in (rows, known):
        assert torch.equal(found.padded_places(4), present.flatten().nonzero()[:, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans(), st.sampled_from([attend, attend_padded]))
def test_output_and_gradient_are_those_of_the_formula(lengths: list[int], training: bool, attend: Any) -> None:
    torch.manual_seed(1)
    rows = packed(lengths)
    ours = torch.randn(sum(lengths), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    with torch.set_grad_enabled(training):
        found = attend(*ours.unbind(1), rows)
    expected = by_formula(theirs, rows)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    if training:
        found.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-11, rtol=0)


@pytest.mark.parametrize("attend", [attend, attend_padded])
@pytest.mark.parametrize("reach", [0, 4, 64, 100])
def test_local_attention_is_that_of_the_formula(reach: int, attend: Any) -> None:
    """Rows shorter than the reach, of one block, of some, and just at their ends."""
    torch.manual_seed(1)
    lengths = [3, 65, 1, 64, 300, 128, 129]
    rows = packed(lengths)
    ours = torch.randn(sum(lengths), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    reference = ours.detach().clone().requires_grad_()
    found, expected = attend(*ours.unbind(1), rows, 0.0, reach), by_formula(reference, rows, reach)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, atol=1e-11, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("attend", [attend, attend_padded])
@settings(max_examples=30)
@given(st.data())
def test_queries_of_some_tokens_get_what_they_get_among_all(attend: Any, device: str, data: st.DataObject) -> None:
    """Rows in which nothing is read among them; near tokens alone, too."""
    torch.manual_seed(1)
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    chosen = data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)).filter(any))
    reach = data.draw(st.sampled_from([None, 0, 3, 64]))
    rows, read = packed(lengths, device), torch.tensor(chosen, device=device)
    counts = [int(part.sum()) for part in read.split(lengths)]
    reads = Reads(read.nonzero()[:, 0], Rows.of_lengths(counts, read.device))
    ours = torch.randn(sum(lengths), 3, 2, 4, dtype=torch.float64, device=device, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    query, key, value = ours.unbind(1)
    found = attend(query[reads.tokens], key, value, rows, 0.0, reach, reads)
    expected = by_formula(theirs, rows, reach)[reads.tokens]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-11, rtol=0)


def test_local_attention_needs_memory_by_the_token() -> None:
    def kept(length: int, reach: int | None) -> int:
        seen: dict[int, int] = {}
        qkv = torch.randn(length, 3, 2, 8, requires_grad=True)

        def keep(x: Tensor) -> Tensor:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            held.append(x)
            return x

        held: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            attend(*qkv.unbind(1), packed([length]), 0.0, reach)
        return sum(seen.values())

    assert kept(2048, 64) < 2.05 * kept(1024, 64)
    assert kept(2048, None) > 3.5 * kept(1024, None) and kept(2048, None) > 5 * kept(2048, 64)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_every_type_on_every_device(device: str, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    lengths = [70, 1, 33, 128]
    exact = torch.randn(sum(lengths), 3, 4, 64, dtype=dtype).double()
    ours, theirs = exact.to(device, dtype).requires_grad_(), exact.requires_grad_()
    found, expected = attend(*ours.unbind(1), packed(lengths, device)), by_formula(theirs, packed(lengths))
    weight = torch.randn_like(expected)
    (found * weight.to(found)).sum().backward()
    (expected * weight).sum().backward()
    for value, reference in ((found, expected), (ours.grad, theirs.grad)):
        assert value is not None and reference is not None and value.dtype == dtype
        off = (value.detach().cpu().double() - reference.detach()).abs().max()
        assert float(off) < TOLERANCE[dtype] * float(reference.detach().abs().max())


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("attend", (attend, attend_padded))
def test_dropout_takes_attention_weights(attend: Any, device: str, dtype: torch.dtype) -> None:
    """Of weights that are all 1 / length, the sum of those that stay, scaled, is 1 on average; rows differ."""
    torch.manual_seed(5)
    qkv = torch.zeros(500 * 20, 3, 4, 8, device=device, dtype=dtype)
    qkv[:, 2] = 1
    rows = packed([20] * 500, device)
    out = attend(*qkv.unbind(1), rows, 0.25).float()
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    by_row = out[..., 0].view(500, 20 * 4)
    assert 0.1 < float(by_row.std()) < 0.16  # sqrt(0.25 / 0.75 / 20) = 0.129
    assert 0.1 < float(by_row.std(dim=0).mean()) < 0.16  # rows have numbers of their own
    torch.testing.assert_close(attend(*qkv.unbind(1), rows, 0.0), qkv[:, 2])


def test_torchs_attention_for_packed_rows_takes_what_it_is_given() -> None:
    """Its first seven arguments, which CUDA alone can compute with."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    assert _varlen_attention() is varlen.varlen_attn
    names = ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert list(inspect.signature(varlen.varlen_attn).parameters)[:7] == names
    has_windows = "window_size" in inspect.signature(varlen.varlen_attn).parameters
    assert _varlen_attention(local=True) is (varlen.varlen_attn if has_windows else None)


def test_rows_are_padded_where_torch_has_no_attention_for_packed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    _varlen_attention.cache_clear()
    try:
        assert _varlen_attention() is None
    finally:
        _varlen_attention.cache_clear()
