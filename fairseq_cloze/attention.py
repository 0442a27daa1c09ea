"""Self-attention of fairseq's encoder layers, faster: one product for query, key and value, and no attention weights.

The parameters keep fairseq's names, so checkpoints go both ways.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn


class SelfAttention(MultiheadAttention):
    """fairseq's ``MultiheadAttention`` where query, key and value are the same and nobody asks for the weights.

    What it is not made for (attention to something else, incremental states, masks of attention, quantisation noise)
    goes to fairseq's own.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """As :meth:`fairseq.modules.MultiheadAttention.forward`.

        Args:
            query: ``(length, rows, width)``
            key: the same
            value: the same
            key_padding_mask: true at padding, ``bool (rows, length)``

        Returns:
            ``(length, rows, width)``, and the weights where they are asked for
        """
        special = incremental_state is not None or attn_mask is not None or static_kv or before_softmax
        if special or need_weights or need_head_weights or key is not query or value is not query:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                incremental_state,
                need_weights,
                static_kv,
                attn_mask,
                before_softmax,
                need_head_weights,
            )
        length, rows, width = query.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        bias = torch.cat([projection.bias for projection in projections])
        # (3, rows, heads, length, head width)
        q, k, v = (
            F.linear(query, weight, bias).view(length, rows, 3, self.num_heads, self.head_dim).permute(2, 1, 3, 0, 4)
        )
        keep = None if key_padding_mask is None else ~key_padding_mask[:, None, None]
        attended = attend(q, k, v, keep, self.dropout_module.p if self.training else 0.0)
        return self.out_proj(attended.permute(2, 0, 1, 3).reshape(length, rows, width)), None


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Optional[Tensor], dropout: float) -> Tensor:
    """Scaled dot-product attention.

    In training on a CPU it is two products and a softmax, as the backward pass of torch's kernel is slow there
    (``docs/decisions.md``).

    Args:
        q: ``(rows, heads, length, head width)``
        k: the same
        v: the same
        keep: false at padding, ``bool (rows, 1, 1, length)``
        dropout: probability

    Returns:
        ``(rows, heads, length, head width)``
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, keep, dropout)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    return F.dropout(scores.softmax(dim=-1), dropout) @ v


def speed_up(model: nn.Module) -> None:
    """Let the encoder layers of a fairseq model compute faster what they computed before.

    Args:
        model: any; attention of subclasses and with quantisation noise stays as it is
    """
    for module in model.modules():
        if type(module) is MultiheadAttention and _is_plain(module):
            module.__class__ = SelfAttention
        activation = getattr(module, "activation_fn", None)
        if getattr(activation, "__name__", "") == "gelu" and activation is not F.gelu:
            setattr(module, "activation_fn", F.gelu)  # noqa: B010  (fairseq's goes through float32 and back)


def _is_plain(attention: MultiheadAttention) -> bool:
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    noisy = any(projection._forward_pre_hooks for projection in projections)  # quantisation noise
    extended = attention.bias_k is not None or attention.add_zero_attn or getattr(attention, "use_xformers", False)
    return bool(attention.self_attention and not noisy and not extended)
