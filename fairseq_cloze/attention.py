"""Self-attention over rows of different lengths that lie one after the other, without padding between them."""

from __future__ import annotations

from typing import List, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: What a kernel of :func:`attend` asks of the head width, in bytes.
_ALIGNMENT = 16


class Rows(NamedTuple):
    """Where rows lie in a tensor of tokens.

    Attributes:
        lengths: tokens of each row
        ends: running totals of the lengths, starting with 0, ``int32 (rows + 1,)``, on the tokens' device
        longest: the longest length
    """

    lengths: List[int]
    ends: Tensor
    longest: int


def rows_of(present: Tensor) -> Rows:
    """Rows of a padded input; on CUDA this waits for the device, once.

    Args:
        present: not padding, ``bool (rows, length)``
    """
    ends = F.pad(present.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32)
    totals = ends.tolist()
    lengths = [after - before for before, after in zip(totals, totals[1:])]
    return Rows(lengths, ends, max(lengths, default=0))


def attend(qkv: Tensor, rows: Rows, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of each row to itself.

    On CUDA one kernel takes all rows: FlashAttention 2 for half precision where the device has it, else the
    memory-efficient one, which torch calls for nested tensors as well.  Elsewhere rows come in turns, on a CPU as two
    products and a softmax, which is faster there than torch's kernel (``docs/decisions.md``).

    Args:
        qkv: query, key and value, ``(tokens, 3, heads, head width)``
        rows: where the rows lie
        dropout: probability of dropping an attention weight

    Returns:
        ``(tokens, heads, head width)``
    """
    if qkv.device.type == "cuda" and qkv.size(-1) * qkv.element_size() % _ALIGNMENT == 0:
        query, key, value = qkv.unbind(dim=1)
        span = (rows.ends, rows.ends, rows.longest, rows.longest, dropout)
        if _has_flash(qkv):
            return torch.ops.aten._flash_attention_forward(query, key, value, *span, False, False)[0]
        batch = (query[None], key[None], value[None], None)
        return torch.ops.aten._efficient_attention_forward(*batch, *span, 0, qkv.requires_grad)[0][0]
    out = []
    for row in torch.split(qkv, rows.lengths):
        query, key, value = row.permute(1, 2, 0, 3)[:, None]  # (3, 1, heads, length, head width)
        if qkv.device.type == "cpu":
            weights = ((query * query.size(-1) ** -0.5) @ key.transpose(-1, -2)).softmax(dim=-1)
            attended = F.dropout(weights, dropout) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        out.append(attended[0].transpose(0, 1))
    return torch.cat(out)


def _has_flash(qkv: Tensor) -> bool:
    half = qkv.dtype in (torch.float16, torch.bfloat16) and qkv.size(-1) <= 256
    return half and torch.cuda.get_device_capability(qkv.device)[0] >= 8
