"""FLOPs: how many floating-point operations a model needs, by formula, and how many of them a machine gave.

Counted are the products of matrices, two operations for each multiplication with its addition (Kaplan et al., "Scaling
Laws for Neural Language Models", 2020, section 2.1).  Norms, activations, softmax and the look-up of embeddings are
left out, and so is padding: what is computed on it is waste.  The backward pass has two products for each of the
forward pass.

Operations so counted, in a second, over those that the machine can do are the *model FLOPs utilisation* of Chowdhery et
al., "PaLM: Scaling Language Modeling with Pathways" (2022), section 4.1 and appendix B, whose term for attention this
is, with each sequence's own length.  What is computed twice to save memory counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Shape(Protocol):
    """What of a model the formula needs; :class:`fairseq_cloze.weights.checkpoint.Architecture` has it."""

    @property
    def encoder_layers(self) -> int:
        """Number of layers."""

    @property
    def encoder_embed_dim(self) -> int:
        """Width."""

    @property
    def encoder_ffn_embed_dim(self) -> int:
        """Width inside the feed-forward layers."""


def forward_flops(shape: Shape, lengths: Sequence[int], reads: Sequence[int], pieces: int) -> int:
    """Operations of scoring blanks: the encoder, the LM head at each blank, a row of the embedding for each piece.

    In each layer a token needs four projections of :math:`d \\times d` and two of :math:`d \\times f`; and in a
    sequence of :math:`L` tokens :math:`2 L d` for its attention weights, and as many for their sum of values.  In the
    last layer, tokens that are not read need the projections of keys and of values alone.

    Args:
        shape: of the encoder
        lengths: tokens of each sequence, ``<s>`` and ``</s>`` included, padding not
        reads: tokens of each sequence that the LM head transforms
        pieces: tokens of all candidates
    """
    width, inner = shape.encoder_embed_dim, shape.encoder_ffn_embed_dim
    tokens, read = np.asarray(lengths, dtype=np.int64), np.asarray(reads, dtype=np.int64)

    def layer(queries: np.ndarray) -> int:
        looked_at = 2 * 2 * width * width * int(tokens.sum())
        asking = 2 * (2 * width * width + 2 * width * inner) * int(queries.sum())
        return looked_at + asking + 4 * width * int((queries * tokens).sum())

    encoder = (shape.encoder_layers - 1) * layer(tokens) + layer(read)
    return encoder + 2 * width * width * int(read.sum()) + 2 * width * pieces


def training_flops(shape: Shape, lengths: Sequence[int], reads: Sequence[int], pieces: int) -> int:
    """Operations of a training step without the optimizer: three times :func:`forward_flops`."""
    return 3 * forward_flops(shape, lengths, reads, pieces)
