"""Encoder: RoBERTa's transformer encoder without work on padding.

The tokens of all rows lie one after the other; products, layer norms and dropout see nothing else.  Parameters, their
names and their order are fairseq's, so checkpoints go both ways.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.vocabulary import PAD
from .architecture import Architecture
from .attention import Rows, attend, rows_of

Activation = Callable[[Tensor], Tensor]


def _gelu_accurate(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


#: Activation functions by fairseq's names.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_accurate": _gelu_accurate,
    "gelu_fast": _gelu_accurate,
    "linear": torch.positive,
    "relu": F.relu,
    "tanh": torch.tanh,
}


def activation_of(name: str) -> Activation:
    """The activation function of that name, or a ValueError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation function, one of {', '.join(ACTIVATIONS)}; found '{name}'")
    return ACTIVATIONS[name]


@dataclass(frozen=True)
class TrainingOptions:
    """How an encoder behaves in training, by probabilities; nothing of it changes what a trained one computes."""

    dropout: float = 0.0  #: after embeddings and after each residual branch
    attention_dropout: float = 0.0  #: of dropping an attention weight
    activation_dropout: float = 0.0  #: inside the feed-forward layers
    layerdrop: float = 0.0  #: of leaving a layer out
    recompute: bool = False  #: recompute the activations of each layer in the backward pass, which saves memory


class Attention(nn.Module):
    """Parameters of self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width of the encoder, {width}, must be a multiple of its attention heads, {heads}")
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        # Drawn as in fairseq, so that a seed gives the same model.
        for each in (self.k_proj, self.v_proj, self.q_proj):
            nn.init.xavier_uniform_(each.weight, gain=0.5**0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network over packed rows, a layer norm after each."""

    def __init__(
        self, architecture: Architecture, training: TrainingOptions, compiled: tuple[Callable[..., Tensor], ...]
    ) -> None:
        super().__init__()
        width, eps = architecture.encoder_embed_dim, architecture.layer_norm_eps
        self.self_attn = Attention(width, architecture.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, architecture.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(architecture.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width, eps)
        self.activation_fn = activation_of(architecture.activation_fn)
        self.in_training = training
        self.before_attention, self.after_attention = compiled

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Compute a layer of the *rows* in *x*, ``(tokens, width)``, in its type."""
        if self.in_training.recompute and torch.is_grad_enabled():
            return checkpoint(self._compute, x, rows, use_reentrant=False)
        return self._compute(x, rows)

    def _compute(self, x: Tensor, rows: Rows) -> Tensor:
        attention, options = self.self_attn, self.in_training if self.training else TrainingOptions()
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        qkv = self.before_attention(x, [each.weight for each in projections], [each.bias for each in projections])
        attended = attend(qkv.view(len(x), 3, attention.heads, -1), rows, options.attention_dropout)
        parts = (attention.out_proj, self.self_attn_layer_norm, self.fc1, self.fc2, self.final_layer_norm)
        parameters = [parameter for part in parts for parameter in (part.weight, part.bias)]
        how = (self.final_layer_norm.eps, options.dropout, options.activation_dropout, self.activation_fn)
        return self.after_attention(x, attended.flatten(1), parameters, *how)


class Encoder(nn.Module):
    """Token and position embeddings, and the layers.

    Args:
        architecture: its shape
        embed_tokens: the token embedding, made by the caller as the LM head may share its weight
        training: behaviour in training
        compiled: compile what comes before and after attention with ``torch.compile``, once for all layers
    """

    version: Tensor

    def __init__(
        self,
        architecture: Architecture,
        embed_tokens: nn.Embedding,
        training: TrainingOptions = TrainingOptions(),
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.in_training = training
        self.register_buffer("version", torch.tensor([3.0]))  # fairseq's mark of today's names
        self.embed_tokens = embed_tokens
        # Positions are counted from the one after padding's, as in fairseq.
        self.embed_positions = nn.Embedding(
            architecture.max_positions + PAD + 1, architecture.encoder_embed_dim, padding_idx=PAD
        )
        nn.init.normal_(self.embed_positions.weight, std=architecture.encoder_embed_dim**-0.5)
        self.layernorm_embedding = nn.LayerNorm(architecture.encoder_embed_dim, architecture.layer_norm_eps)
        functions: tuple[Callable[..., Tensor], ...] = (before_attention, after_attention)
        if compiled:
            functions = tuple(compile_for_all_layers(function) for function in functions)
        self.layers = nn.ModuleList(
            EncoderLayer(architecture, training, functions) for _ in range(architecture.encoder_layers)
        )

    def forward(
        self, tokens: Tensor, states: list[Tensor] | None = None, token_embeddings: Tensor | None = None
    ) -> Tensor:
        """Encode *tokens*, ``int64 (rows, length)``, as ``(rows, length, width)``, 0 at padding.

        Under autocast, everything after the embeddings is computed and kept in its type; layer norms and softmax add
        up in float32 inside.

        Args:
            tokens: padded with ``<pad>``
            states: a list that gets what goes into the first layer and what comes out of each
            token_embeddings: instead of those of *tokens*, ``(rows, length, width)``
        """
        present = tokens.ne(PAD)
        rows = rows_of(present)
        index = present.flatten().nonzero()[:, 0] if sum(rows.lengths) < present.numel() else None

        def packed(values: Tensor) -> Tensor:
            values = values.flatten(0, 1)
            return values if index is None else values[index]

        def padded(x: Tensor) -> Tensor:
            if index is not None:
                x = x.new_zeros(present.numel(), x.size(1)).index_copy(0, index, x)
            return x.view(*tokens.shape, -1)

        positions = packed(present.int().cumsum(dim=1, dtype=torch.int64) * present + PAD)
        device = tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            x = self.embed_tokens(packed(tokens)) if token_embeddings is None else packed(token_embeddings)
            x = _layer_norm(x + self.embed_positions(positions), self.layernorm_embedding)
            x = F.dropout(x, self.in_training.dropout, self.training)
            x = x if dtype is None else x.to(dtype)
            if states is not None:
                states.append(padded(x))
            for layer in self._layers_to_compute():
                x = layer(x, rows)
                if states is not None:
                    states.append(padded(x))
        return padded(x)

    def _layers_to_compute(self) -> list[nn.Module]:
        layers = list(self.layers)
        if not (self.training and self.in_training.layerdrop):
            return layers
        drawn = torch.empty(len(layers)).uniform_().tolist()
        return [layer for layer, number in zip(layers, drawn) if number > self.in_training.layerdrop]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.setdefault(f"{prefix}version", torch.tensor([3.0]))  # older checkpoints have none
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def before_attention(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Query, key and value of ``(tokens, width)`` in one product, ``(tokens, 3 * width)``.

    A function of tensors, as :func:`after_attention` is, so that all layers share its compilation.
    """
    weight = torch.cat([each.to(x.dtype) for each in weights])
    return F.linear(x, weight, torch.cat([each.to(x.dtype) for each in biases]))


def after_attention(
    x: Tensor,
    attended: Tensor,
    parameters: list[Tensor],
    eps: float,
    dropout: float,
    activation_dropout: float,
    activation: Activation,
) -> Tensor:
    """What an encoder layer with the input *x* does after attention, ``(tokens, width)`` all three.

    Args:
        parameters: weight and bias of output projection, first layer norm, both feed-forward layers, second layer norm
    """
    cast = [parameter.to(x.dtype) for parameter in parameters]
    out_weight, out_bias, norm_1, shift_1, weight_1, bias_1, weight_2, bias_2, norm_2, shift_2 = cast
    width = x.shape[-1:]
    x = x + _drop(F.linear(attended, out_weight, out_bias), dropout)
    x = F.layer_norm(x, width, norm_1, shift_1, eps)
    inner = _drop(activation(F.linear(x, weight_1, bias_1)), activation_dropout)
    x = x + _drop(F.linear(inner, weight_2, bias_2), dropout)
    return F.layer_norm(x, width, norm_2, shift_2, eps)


def compile_for_all_layers(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors with a row per token and lists, compiled at its first call for any number of tokens."""
    compiled = torch.compile(function)

    def call(*arguments: Any) -> Tensor:
        for argument in arguments:
            if isinstance(argument, Tensor):
                torch._dynamo.maybe_mark_dynamic(argument, 0)
        out: Tensor = compiled(*arguments)
        return out

    return call


def _layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)


def _drop(x: Tensor, probability: float) -> Tensor:
    return F.dropout(x, probability) if probability else x
