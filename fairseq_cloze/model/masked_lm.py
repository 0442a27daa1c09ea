"""Masked LM: encoder and heads as one model, which knows no fairseq.

``state_dict()`` has fairseq's names in fairseq's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..data.vocabulary import PAD
from .architecture import Architecture
from .encoder import Encoder
from .heads import LMHead, RankingHead
from .int8 import quantise
from .names import ENCODER, HEAD_NAME
from .onednn import is_faster, pack


class EncoderAndLMHead(nn.Module):
    """The part of a model that fairseq calls its encoder."""

    def __init__(self, architecture: Architecture, rows: int) -> None:
        super().__init__()
        embed_tokens = nn.Embedding(rows, architecture.embedding_width, padding_idx=PAD)
        self.sentence_encoder = Encoder(architecture, embed_tokens)
        self.lm_head = LMHead(architecture, rows, None if architecture.untie_weights_roberta else embed_tokens.weight)


class _Uninitialised(TorchFunctionMode):
    """Inside, parameters get no first values: on the meta device those cost the import of torch's whole compiler."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


class MaskedLM(nn.Module):
    """A masked LM that scores, with *rows* entries in its vocabulary.

    With *autocast* it computes in bfloat16 where that is safe, on CPU and CUDA; weights stay as they are.
    """

    def __init__(
        self, architecture: Architecture, rows: int, ranking_head: bool = False, autocast: bool = False
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.autocast = autocast
        self.encoder = EncoderAndLMHead(architecture, rows)
        self.classification_heads = nn.ModuleDict({HEAD_NAME: RankingHead(architecture)} if ranking_head else {})

    @classmethod
    def from_weights(
        cls, architecture: Architecture, weights: Mapping[str, Tensor], ranking_head: bool = False, **options: Any
    ) -> MaskedLM:
        """A model that holds *weights*, without time for random ones before; ready to score, on the CPU.

        They stand under fairseq's names of today, and are copied; their types stay.

        Raises:
            RuntimeError: names or shapes do not fit
        """
        model = cls._empty(architecture, weights[f"{ENCODER}embed_tokens.weight"].size(0), ranking_head, **options)
        model.load_state_dict({name: value.clone() for name, value in weights.items()}, strict=True, assign=True)
        if not architecture.untie_weights_roberta:
            model.encoder.lm_head.weight = model.encoder.sentence_encoder.embed_tokens.weight
        return model.eval()

    @classmethod
    def _empty(cls, *args: Any, **options: Any) -> MaskedLM:
        with torch.device("meta"), _Uninitialised():
            return cls(*args, **options)

    def forward(self, src_tokens: Tensor, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
        """As fairseq's RoBERTa, with no extras: :func:`outputs`, computed in bfloat16 where the model was asked to."""
        with self._precision(src_tokens.device):
            encoder, lm_head = self.encoder.sentence_encoder, self.encoder.lm_head
            return outputs(encoder, lm_head, self.classification_heads, src_tokens, **inputs), {}

    def at_reads(self, src_tokens: Tensor, reads: Tensor, **lengths: Any) -> Tensor:
        """What the LM head multiplies embeddings with where something is read, ``float32 (reads, width)``.

        *lengths*: ``row_lengths`` and ``read_counts``, see :meth:`fairseq_cloze.model.encoder.Encoder.forward`.
        """
        with self._precision(src_tokens.device):
            features = self.encoder.sentence_encoder(src_tokens, reads=reads, **lengths)
            return self.encoder.lm_head.transform(features).float()

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()

    def pack(self) -> None:
        """Lay out the weights of the encoder's layers as a CPU's products read them, where that is faster.

        The model can only score from now on, and on the CPU.
        """
        weight = self.encoder.sentence_encoder.embed_tokens.weight
        dtype = torch.bfloat16 if self.autocast else weight.dtype
        if weight.device.type == "cpu" and is_faster(dtype):
            pack(self.encoder.sentence_encoder, dtype)

    def to_int8(self) -> None:
        """Multiply the weights of the encoder's layers as 8-bit integers from now on, on a CPU."""
        quantise(self.encoder.sentence_encoder)

    def max_positions(self) -> int:
        """Most tokens of an input."""
        return self.architecture.max_positions


def shapes(architecture: Architecture, rows: int, ranking_head: bool) -> dict[str, tuple[int, ...]]:
    """Shape of every weight that a model of these arguments has, by name."""
    model = MaskedLM._empty(architecture, rows, ranking_head)
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.endswith(".version")}


def outputs(
    encoder: Encoder,
    lm_head: LMHead,
    heads: nn.ModuleDict,
    src_tokens: Tensor,
    features_only: bool = False,
    classification_head_name: str | None = None,
    masked_tokens: Tensor | None = None,
    candidate_tokens: Tensor | None = None,
    reads: Tensor | None = None,
    row_lengths: list[int] | None = None,
    read_counts: list[int] | None = None,
    **scoring: Any,
) -> Tensor:
    """What a model gives for an input; its last layer computes no more than that needs.

    Args:
        encoder, lm_head, heads: its parts
        src_tokens: ``int64 (rows, length)``
        features_only: encoder output, ``(rows, length, width)``
        classification_head_name: the output of that head
        masked_tokens: where to compute logits, ``bool (rows, length)``; everywhere without
        candidate_tokens: their scores, ``(blanks, candidates, tokens)``, by
            :meth:`fairseq_cloze.model.heads.LMHead.token_scores`, which takes the rest of a batch's ``net_input``
        reads, row_lengths, read_counts: see :meth:`fairseq_cloze.model.encoder.Encoder.forward`; *reads* are where
            *masked_tokens* is true, and spare the question where that is
    """
    if classification_head_name is not None:
        firsts = torch.arange(len(src_tokens), device=src_tokens.device) * src_tokens.size(1)
        features = encoder(src_tokens, None, None, firsts, row_lengths, [1] * len(src_tokens))
        scores: Tensor = heads[classification_head_name](features[:, None])
        return scores
    if reads is None and masked_tokens is not None:
        reads = masked_tokens.flatten().nonzero()[:, 0]
    if features_only or reads is None:
        features = encoder(src_tokens, row_lengths=row_lengths)
        return features if features_only else lm_head(features)
    features = encoder(src_tokens, None, None, reads, row_lengths, read_counts)
    if candidate_tokens is None:
        return lm_head(features)
    return lm_head.token_scores(features, candidate_tokens, **scoring)
