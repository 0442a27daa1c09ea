"""Encoder: fairseq's transformer encoder without work on padding.

The tokens of all rows lie one after the other; products, layer norms and dropout see nothing else.  Parameters and
their names stay fairseq's, so checkpoints go both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models.transformer import TransformerEncoder
from fairseq.modules import LearnedPositionalEmbedding, MultiheadAttention
from fairseq.modules.checkpoint_activations import unwrap_checkpoint
from fairseq.modules.transformer_layer import TransformerEncoderLayer, TransformerEncoderLayerBase
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Rows, attend, rows_of


class PackedEncoder(TransformerEncoder):
    """fairseq's encoder, whose layers see the tokens without the padding."""

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, Any]:
        """As fairseq's, with zeros at padding.

        Under autocast, everything after the embeddings is computed and kept in its type; layer norms and softmax add
        up in float32 inside.

        Args:
            src_tokens: ``int64 (rows, length)``
            src_lengths: unused, as in fairseq
            return_all_hiddens: fairseq's own computation, with the output of every layer
            token_embeddings: the same, with these for embeddings, ``(rows, length, width)``
        """
        if return_all_hiddens or token_embeddings is not None:
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        present = src_tokens.ne(self.padding_idx)
        rows = rows_of(present)
        padded = sum(rows.lengths) < present.numel()
        positions = utils.make_positions(src_tokens, self.padding_idx)
        tokens = src_tokens.flatten()
        if padded:
            index = present.flatten().nonzero()[:, 0]
            tokens, positions = tokens[index], positions.flatten()[index]
        device = src_tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            x = self._embed(tokens, positions.flatten())
            x = x if dtype is None else x.to(dtype)
            for layer in self.layers:
                x = layer(x, rows)
            if self.layer_norm is not None:
                x = _layer_norm(x, self.layer_norm)
        if padded:
            x = x.new_zeros(present.numel(), x.size(1)).index_copy(0, index, x)
        x = x.view(*src_tokens.shape, -1).transpose(0, 1)
        return {"encoder_out": [x], "encoder_padding_mask": [~present], "encoder_states": []}

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.embed_scale * self.embed_tokens(tokens)
        x = x + F.embedding(positions, self.embed_positions.weight, self.padding_idx)
        if self.layernorm_embedding is not None:
            x = _layer_norm(x, self.layernorm_embedding)
        return self.dropout_module(x)


class PackedLayer(TransformerEncoderLayer):
    """fairseq's encoder layer over packed rows."""

    #: recompute activations in the backward pass
    recompute = False
    #: what comes before and after attention, compiled or not
    before_attention: Callable[..., Tensor]
    after_attention: Callable[..., Tensor]

    def forward(self, x: Tensor, encoder_padding_mask: Any, attn_mask: Tensor | None = None) -> Tensor:
        """As fairseq's, or over packed rows.

        Args:
            x: ``(tokens, width)``, in the type to compute in
            encoder_padding_mask: the :class:`fairseq_cloze.model.attention.Rows` of *x*; with anything else this is
                fairseq's own layer
            attn_mask: fairseq's

        Returns:
            as *x*
        """
        if not isinstance(encoder_padding_mask, Rows):
            return super().forward(x, encoder_padding_mask, attn_mask)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._packed, x, encoder_padding_mask, use_reentrant=False)
        return self._packed(x, encoder_padding_mask)

    def _packed(self, x: Tensor, rows: Rows) -> Tensor:
        attention = self.self_attn
        norm = self.self_attn_layer_norm if self.normalize_before else None
        qkv = self.before_attention(
            x,
            [part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj)],
            [part.bias for part in (attention.q_proj, attention.k_proj, attention.v_proj)],
            [norm.weight, norm.bias] if norm is not None else [],
            self.self_attn_layer_norm.eps,
        )
        qkv = qkv.view(len(x), 3, attention.num_heads, attention.head_dim)
        attended = attend(qkv, rows, attention.dropout_module.p if self.training else 0.0)
        parts = (attention.out_proj, self.self_attn_layer_norm, self.fc1, self.fc2, self.final_layer_norm)
        return self.after_attention(
            x,
            attended.flatten(1),
            [parameter for part in parts for parameter in (part.weight, part.bias)],
            self.final_layer_norm.eps,
            self.dropout_module.p if self.training else 0.0,
            self.activation_dropout_module.p if self.training else 0.0,
            self.activation_fn,
            self.normalize_before,
        )


def before_attention(x: Tensor, weights: list[Tensor], biases: list[Tensor], norm: list[Tensor], eps: float) -> Tensor:
    """Query, key and value in one product, as a function of tensors, so that all layers share its compilation.

    Args:
        x: input of the layer, ``(tokens, width)``
        weights: of the three projections, ``(width, width)``
        biases: of the three projections, ``(width,)``
        norm: weight and bias of a layer norm before, or nothing
        eps: epsilon of the layer norm

    Returns:
        ``(tokens, 3 * width)``
    """
    if norm:
        x = F.layer_norm(x, x.shape[-1:], norm[0].to(x.dtype), norm[1].to(x.dtype), eps)
    weight = torch.cat([each.to(x.dtype) for each in weights])
    return F.linear(x, weight, torch.cat([each.to(x.dtype) for each in biases]))


def after_attention(
    x: Tensor,
    attended: Tensor,
    parameters: list[Tensor],
    eps: float,
    dropout: float,
    activation_dropout: float,
    activation: Callable[[Tensor], Tensor],
    normalize_before: bool,
) -> Tensor:
    """What an encoder layer does after attention, as a function of tensors, so that all layers share its compilation.

    Args:
        x: input of the layer, ``(tokens, width)``
        attended: ``(tokens, width)``
        parameters: weight and bias of output projection, first layer norm, both feed-forward layers, second layer norm
        eps: epsilon of both layer norms
        dropout: probability after each of the two residual branches
        activation_dropout: probability inside the feed-forward layers
        activation: of the feed-forward layers
        normalize_before: layer norms before the residual branches rather than after

    Returns:
        ``(tokens, width)``
    """
    cast = [parameter.to(x.dtype) for parameter in parameters]
    out_weight, out_bias, norm_1, shift_1, weight_1, bias_1, weight_2, bias_2, norm_2, shift_2 = cast
    width = x.shape[-1:]
    x = x + _drop(F.linear(attended, out_weight, out_bias), dropout)
    if not normalize_before:
        x = F.layer_norm(x, width, norm_1, shift_1, eps)
    source = F.layer_norm(x, width, norm_2, shift_2, eps) if normalize_before else x
    inner = _drop(activation(F.linear(source, weight_1, bias_1)), activation_dropout)
    x = x + _drop(F.linear(inner, weight_2, bias_2), dropout)
    return x if normalize_before else F.layer_norm(x, width, norm_2, shift_2, eps)


def compile_for_all_layers(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors, compiled at its first call for any number of tokens.

    Args:
        function: its tensor arguments have a row per token, or are in lists
    """
    compiled = torch.compile(function)

    def call(*arguments: Any) -> Tensor:
        for argument in arguments:
            if isinstance(argument, Tensor):
                torch._dynamo.maybe_mark_dynamic(argument, 0)
        out: Tensor = compiled(*arguments)
        return out

    return call


def pack(model: nn.Module, compiled: bool = False) -> None:
    """Let the encoder of a RoBERTa compute without padding what it computed before.

    Args:
        model: any; encoders with quantisation noise, offloaded activations or parts of another make stay as they are
        compiled: compile what comes before and after attention, once for all layers
    """
    functions: list[Callable[..., Tensor]] = [before_attention, after_attention]
    if compiled:
        functions = [compile_for_all_layers(function) for function in functions]
    for encoder in [module for module in model.modules() if type(module) is TransformerEncoder]:
        layers = [module for module in encoder.modules() if isinstance(module, TransformerEncoderLayerBase)]
        learned = isinstance(encoder.embed_positions, LearnedPositionalEmbedding)
        if not learned or encoder.quant_noise is not None or not all(map(_is_plain, layers)):
            continue
        for layer in layers:
            recompute = hasattr(layer, "precheckpoint_forward")
            unwrap_checkpoint(layer)
            layer.__dict__.pop("forward", None)
            layer.__class__ = PackedLayer
            layer.recompute = recompute
            layer.before_attention, layer.after_attention = functions
            if getattr(layer.activation_fn, "__name__", "") == "gelu":
                layer.activation_fn = F.gelu  # fairseq's goes through float32 and back
        encoder.__class__ = PackedEncoder


def _is_plain(layer: TransformerEncoderLayerBase) -> bool:
    attention = layer.self_attn
    if type(layer) not in (TransformerEncoderLayer, TransformerEncoderLayerBase):
        return False
    if type(attention) is not MultiheadAttention or not attention.self_attention:
        return False
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, layer.fc1, layer.fc2)
    noisy = any(part._forward_pre_hooks for part in parts)  # quantisation noise
    extended = attention.bias_k is not None or attention.add_zero_attn or getattr(attention, "use_xformers", False)
    wrapped = getattr(layer.__dict__.get("forward"), "args", ())
    return not (noisy or extended or True in wrapped)  # offloads activations


def _layer_norm(x: Tensor, norm: Any) -> Tensor:
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)


def _drop(x: Tensor, probability: float) -> Tensor:
    return F.dropout(x, probability) if probability else x
