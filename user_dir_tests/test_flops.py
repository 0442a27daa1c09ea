"""Operations by formula, against a count by hand and against torch's own counter on real models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fairseq_cloze import register
from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.model.architecture import Architecture

from .support.commands import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from bench_flops import forward_flops, training_flops

register()

from fairseq_cloze.model.scores import candidate_scores  # noqa: E402
from fairseq_cloze.ranking.ranker import load  # noqa: E402
from fairseq_cloze.views.making import make_view  # noqa: E402


def test_by_hand() -> None:
    """Layers of width 2, feed-forward 3; sequences of 4 tokens and of 1, of which 2 and 1 are read."""
    keys_and_values = 5 * 2 * (2 * 2 * 2)
    queries_and_outputs, feed_forward = 5 * 2 * (2 * 2 * 2), 5 * 2 * (2 * 2 * 3)
    attention = 2 * (2 * 4 * 4 * 2) + 2 * (2 * 1 * 1 * 2)  # weights and values
    layer = keys_and_values + queries_and_outputs + feed_forward + attention
    attention_of_reads = 2 * (2 * 2 * 4 * 2) + 2 * (2 * 1 * 1 * 2)
    last = keys_and_values + (queries_and_outputs + feed_forward) * 3 // 5 + attention_of_reads
    head, candidates = 3 * (2 * 2 * 2), 7 * (2 * 2)  # 3 blanks, 7 tokens of candidates
    for layers in (1, 5):
        found = forward_flops(Architecture(layers, 2, 3, 1, 16), [4, 1], [2, 1], 7)
        assert found == (layers - 1) * layer + last + head + candidates
        assert training_flops(Architecture(layers, 2, 3, 1, 16), [4, 1], [2, 1], 7) == 3 * found


def counted(function: Any) -> int:
    """Operations of a call by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def test_our_model(pretrained: Path, data_bin: Path) -> None:
    """Forward and backward pass, passage by passage, as padding would count there.

    The counter knows products of matrices; the candidates' rows are multiplied element by element.
    """
    data = DataBin(data_bin)
    [member] = load(pretrained / "model.pt", device="cpu").members
    view = make_view(member.settings, data.open("valid"), data.vocabulary, member.architecture.max_positions)
    for index in (0, len(view) // 2, len(view) - 1):
        sample = view.collate([view.item(index)])
        arguments = (member.architecture, [int(view.row_length[index])], [len(sample["blanks"])], 0)
        scores: list[torch.Tensor] = []
        forward = counted(lambda s=sample, out=scores: out.append(candidate_scores(member.model, s, member.settings)))
        assert forward == forward_flops(*arguments)
        loss = scores[0].masked_fill(~sample["distinct"], 0.0).sum()
        assert forward + counted(loss.backward) == training_flops(*arguments)


def test_the_model_of_transformers() -> None:
    """The same shape built by somebody else; its LM head projects every position to the whole vocabulary."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    shape = Architecture(3, 48, 96, 4, 62)
    config = RobertaConfig(
        vocab_size=100,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    model = RobertaForMaskedLM._from_config(config, attn_implementation="eager").eval()
    tokens = torch.randint(3, 100, (5, 33))
    expected = forward_flops(shape, [33] * 5, reads=[33] * 5, pieces=5 * 33 * 100)
    assert counted(lambda: model(tokens)) == expected


def test_a_real_shape() -> None:
    """RoBERTa-base, a token of a passage of 300: close to two operations for each of its 85M parameters in layers.

    What is read alone spares 7% of it.
    """
    shape = Architecture(12, 768, 3072, 12, 512)
    per_token = forward_flops(shape, [300], [300], 0) / 300
    assert per_token == 2 * 12 * (4 * 768**2 + 2 * 768 * 3072) + 12 * 4 * 300 * 768 + 2 * 768**2
    assert 1.0 < per_token / (2 * 84.9e6) < 1.08
    assert 1.06 < per_token * 300 / forward_flops(shape, [300], [15], 0) < 1.08
