"""Small encoders, and something for them to read."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.model.encoder import Encoder, TrainingOptions

PAD, WIDTH, LAYERS, ENTRIES = 1, 48, 3, 60
SHAPE = Architecture(LAYERS, WIDTH, 96, 4, max_positions=16)

#: Shapes that differ in all that a layer computes, by a family that has them.
FAMILIES = {
    "roberta": SHAPE,
    "modernbert": replace(
        SHAPE, norm_first=True, gated=True, without_biases=True, rotary_base=1e4, local_rotary_base=1e4
    ),
    "albert": replace(SHAPE, shared_layers=True, activation_fn="gelu_accurate"),
}

#: Tokens of each row, and the longest.
LENGTHS = (11, 7, 1, 10)


def build(shape: Architecture = SHAPE, compiled: bool = False, **options: float) -> Encoder:
    """Random weights that are the same for the same shape."""
    torch.manual_seed(3)
    embed_tokens = nn.Embedding(ENTRIES, shape.embedding_width, padding_idx=PAD)
    encoder = Encoder(shape, embed_tokens, TrainingOptions(**options), compiled)  # type: ignore[arg-type]
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def tokens_of(lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    """Rows of as many tokens, padded."""
    torch.manual_seed(4)
    tokens = torch.randint(4, ENTRIES, (len(lengths), max(lengths)))
    return tokens.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], PAD)
