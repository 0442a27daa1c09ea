"""Self-attention over rows of different lengths that lie one after the other, without padding between them."""

import importlib
import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rows(NamedTuple):
    """Where rows lie in a tensor of tokens."""

    lengths: list[int]  #: tokens of each row
    ends: Tensor  #: running totals of the lengths, starting with 0, ``int32 (rows + 1,)``, on the tokens' device
    longest: int


def rows_of(present: Tensor) -> Rows:
    """Rows of an input, *present* where it is not padding, ``bool (rows, length)``; on CUDA this waits, once."""
    ends = F.pad(present.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32)
    totals = ends.tolist()
    lengths = [after - before for before, after in zip(totals, totals[1:])]
    return Rows(lengths, ends, max(lengths, default=0))


def attend(qkv: Tensor, rows: Rows, dropout: float = 0.0, reach: int | None = None) -> Tensor:
    """Scaled dot-product attention of each row to itself.

    On CUDA, ``torch.nn.attention.varlen`` takes all rows at once where it can: half precision, no dropout, and a device
    that has FlashAttention.  A CPU takes them in turns, as two products and a softmax, which is faster there than
    torch's kernel (``docs/decisions.md``).  Everything else pads them.

    Args:
        qkv: query, key and value, ``(tokens, 3, heads, head width)``; the result is ``(tokens, heads, head width)``
        rows: where the rows lie
        dropout: probability of dropping an attention weight
        reach: how many tokens to each side a token looks at; ``None``: at all of its row
    """
    if qkv.device.type == "cpu":
        return torch.cat([_attend_row(row, dropout, reach) for row in torch.split(qkv, rows.lengths)])
    kernel = _varlen_attention(reach is not None) if not dropout and _has_flash(qkv) else None
    if kernel is None:
        return attend_padded(qkv, rows, dropout, reach)
    window = {} if reach is None else {"window_size": (reach, reach)}
    return kernel(*qkv.unbind(dim=1), rows.ends, rows.ends, rows.longest, rows.longest, **window)


#: Tokens of a block of local attention, unless the reach is longer: smaller products are slow.
_BLOCK = 64


def _attend_row(row: Tensor, dropout: float, reach: int | None) -> Tensor:
    query, key, value = row.permute(1, 2, 0, 3)  # (3, heads, length, head width)
    query = query * query.size(-1) ** -0.5
    if reach is None or len(row) <= reach + 1:
        return _weigh(query, key, value, dropout).transpose(0, 1)
    # A block of queries looks at its own block of keys and at one on each side, so memory grows with the length alone.
    block = max(reach, _BLOCK)
    queries, keys, values = (part.split(block, dim=1) for part in (query, key, value))
    places = torch.arange(3 * block)
    far = (places - places[block : 2 * block, None]).abs() > reach
    out = []
    for number, part in enumerate(queries):
        near = slice(max(number - 1, 0), number + 2)
        seen = torch.cat(keys[near], dim=1)
        start = 0 if number else block
        hidden = far[: part.size(1), start : start + seen.size(1)]
        out.append(_weigh(part, seen, torch.cat(values[near], dim=1), dropout, hidden))
    return torch.cat(out, dim=1).transpose(0, 1)


def _weigh(query: Tensor, key: Tensor, value: Tensor, dropout: float, hidden: Tensor | None = None) -> Tensor:
    """Values by softmax of products, ``(heads, length, head width)``; *hidden* says which keys a query does not see."""
    products = query @ key.transpose(-1, -2)
    if hidden is not None:
        products = products.masked_fill(hidden, float("-inf"))
    return F.dropout(products.softmax(dim=-1), dropout) @ value


@cache
def _varlen_attention(local: bool = False) -> Any:
    """torch's attention for packed rows, *local* if asked for; ``None`` in torch that is older."""
    try:
        kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return kernel if not local or "window_size" in inspect.signature(kernel).parameters else None


def _has_flash(qkv: Tensor) -> bool:
    half = qkv.dtype in (torch.float16, torch.bfloat16)
    width = qkv.size(-1) <= 256 and qkv.size(-1) % 8 == 0
    return half and width and qkv.is_cuda and torch.cuda.get_device_capability(qkv.device)[0] >= 8


def attend_padded(qkv: Tensor, rows: Rows, dropout: float = 0.0, reach: int | None = None) -> Tensor:
    """:func:`attend` by torch's kernel for padded rows, on any device.

    torch's memory-efficient kernel has a form for packed rows too, but drops the same weights in every row then.
    """
    lengths = rows.ends.diff()
    number, place = (torch.arange(count, device=qkv.device) for count in (len(lengths), rows.longest))
    present = place < lengths[:, None]
    shift = (number * rows.longest - rows.ends[:-1]).repeat_interleave(lengths, output_size=len(qkv))
    index = torch.arange(len(qkv), device=qkv.device) + shift  # where each token is, without waiting for the device
    padded = qkv.new_zeros(present.numel(), *qkv.shape[1:]).index_copy(0, index, qkv)
    query, key, value = padded.view(*present.shape, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    seen = present[:, None, None]
    if reach is not None:
        near = (place - place[:, None]).abs() <= reach
        seen = seen & (near | ~present[:, None, :, None])  # padding looks at something, or its gradients are NaN
    out = F.scaled_dot_product_attention(query, key, value, seen, dropout)
    return out.transpose(1, 2).flatten(0, 1)[index]
