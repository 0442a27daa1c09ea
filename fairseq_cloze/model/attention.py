"""Self-attention over rows of different lengths that lie one after the other, without padding between them."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .dropout import dropout
from .memory import make_sure_of_room


class Rows(NamedTuple):
    """Where rows lie in a tensor of tokens."""

    lengths: list[int]  #: tokens of each row
    ends: Tensor  #: running totals of the lengths, starting with 0, ``int32 (rows + 1,)``, on the tokens' device
    longest: int

    @classmethod
    def of_lengths(cls, lengths: list[int], device: torch.device) -> Rows:
        """Rows of known lengths, without waiting for the device."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(lengths, ends.to(device, non_blocking=True), max(lengths, default=0))

    @classmethod
    def of_ends(cls, ends: Tensor) -> Rows:
        """Rows that end there, ``int32 (rows + 1,)``; on CUDA this waits, once."""
        totals = ends.tolist()
        lengths = [after - before for before, after in pairwise(totals)]
        return cls(lengths, ends, max(lengths, default=0))

    def padded_places(self, width: int) -> Tensor:
        """Where each token stands in the rows padded to *width* and flattened, ``int64 (tokens,)``, without waiting."""
        shift = torch.arange(len(self.lengths), device=self.ends.device) * width - self.ends[:-1]
        index = torch.arange(sum(self.lengths), device=self.ends.device)
        return index + shift.repeat_interleave(self.ends.diff(), output_size=len(index))


class Reads(NamedTuple):
    """Tokens whose output is read; the others are looked at only."""

    tokens: Tensor  #: which of all tokens they are, ascending, ``int64 (reads,)``
    rows: Rows  #: how many of them each row has


def rows_of(present: Tensor) -> Rows:
    """Rows of an input, *present* where it is not padding, ``bool (rows, length)``; on CUDA this waits, once."""
    return Rows.of_ends(F.pad(present.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    probability: float = 0.0,
    reach: int | None = None,
    reads: Reads | None = None,
) -> Tensor:
    """Scaled dot-product attention of each row to itself, ``(queries, heads, head width)``.

    On CUDA, ``torch.nn.attention.varlen`` takes all rows at once where it can: half precision, no dropout, and a device
    that has FlashAttention.  A CPU takes them in turns, as two products and a softmax, which is faster there than
    torch's kernel (``docs/decisions.md``).  Everything else pads them.

    Args:
        query: of each token, or of each of *reads*, ``(queries, heads, head width)``
        key, value: of each token, ``(tokens, heads, head width)``
        rows: where the rows lie
        probability: of dropping an attention weight
        reach: how many tokens to each side a token looks at; ``None``: at all of its row
        reads: which tokens the queries are of; ``None``: of all
    """
    asking = rows if reads is None else reads.rows
    if query.device.type == "cpu":
        places = [None] * len(rows.lengths) if reads is None else torch.split(_places(reads, rows), asking.lengths)
        keys, values = (torch.split(part, rows.lengths) for part in (key, value))
        parts = zip(torch.split(query, asking.lengths), keys, values, places)
        return torch.cat([_attend_row(*part, probability, reach) for part in parts])
    # A kernel's window is counted from the ends of rows, so it has no place for a few queries.
    usable = not probability and _has_flash(query) and (reach is None or reads is None)
    kernel = _varlen_attention(reach is not None) if usable else None
    if kernel is None:
        return attend_padded(query, key, value, rows, probability, reach, reads)
    window = {} if reach is None else {"window_size": (reach, reach)}
    return kernel(query, key, value, asking.ends, rows.ends, asking.longest, rows.longest, **window)


def _places(reads: Reads, rows: Rows) -> Tensor:
    """Place of each read token in its row, ``int64 (reads,)``."""
    return reads.tokens - rows.ends[:-1].repeat_interleave(reads.rows.ends.diff(), output_size=len(reads.tokens))


#: Tokens of a block of local attention, unless the reach is longer: smaller products are slow.
_BLOCK = 64


def _attend_row(
    query: Tensor, key: Tensor, value: Tensor, places: Tensor | None, probability: float, reach: int | None
) -> Tensor:
    """:func:`attend` in one row, whose queries are of the tokens at *places*."""
    query = query.transpose(0, 1) * query.size(-1) ** -0.5
    key, value = key.transpose(0, 1), value.transpose(0, 1)  # (heads, length, head width)
    length = key.size(1)
    if reach is None or length <= reach + 1:
        return _weigh(query, key, value, probability).transpose(0, 1)
    if places is not None:
        far = (torch.arange(length) - places[:, None]).abs() > reach
        return _weigh(query, key, value, probability, far).transpose(0, 1)
    # A block of queries looks at its own block of keys and at one on each side, so memory grows with the length alone.
    block = max(reach, _BLOCK)
    queries, keys, values = (torch.split(part, block, dim=1) for part in (query, key, value))
    around = torch.arange(3 * block)
    far = (around - around[block : 2 * block, None]).abs() > reach
    out = []
    for number, part in enumerate(queries):
        near = slice(max(number - 1, 0), number + 2)
        seen = torch.cat(keys[near], dim=1)
        start = 0 if number else block
        hidden = far[: part.size(1), start : start + seen.size(1)]
        out.append(_weigh(part, seen, torch.cat(values[near], dim=1), probability, hidden))
    return torch.cat(out, dim=1).transpose(0, 1)


def _weigh(query: Tensor, key: Tensor, value: Tensor, probability: float, hidden: Tensor | None = None) -> Tensor:
    """Values by softmax of products, ``(heads, length, head width)``; *hidden* says which keys a query does not see."""
    make_sure_of_room(query)
    products = query @ key.transpose(-1, -2)
    if hidden is not None:
        products = products.masked_fill(hidden, float("-inf"))
    return dropout(products.softmax(dim=-1), probability) @ value


@cache
def _varlen_attention(local: bool = False) -> Any:
    """torch's attention for packed rows, *local* if asked for; ``None`` in torch that is older."""
    try:
        kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return kernel if not local or "window_size" in inspect.signature(kernel).parameters else None


def _has_flash(query: Tensor) -> bool:
    half = query.dtype in (torch.float16, torch.bfloat16)
    width = query.size(-1) <= 256 and query.size(-1) % 8 == 0
    return half and width and query.is_cuda and torch.cuda.get_device_capability(query.device)[0] >= 8


def attend_padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    probability: float = 0.0,
    reach: int | None = None,
    reads: Reads | None = None,
) -> Tensor:
    """:func:`attend` by torch's kernel for padded rows, on any device.

    torch's memory-efficient kernel has a form for packed rows too, but drops the same weights in every row then.
    """
    asking = rows if reads is None else reads.rows
    keys, values = (_pad(part, rows)[0] for part in (key, value))
    queries, index = _pad(query, asking)
    place = torch.arange(rows.longest, device=query.device)
    seen = (place < rows.ends.diff()[:, None])[:, None, None]
    if reach is not None:
        here = index % asking.longest if reads is None else _places(reads, rows)
        # Padding looks at something, or its gradients are NaN: it stands far before the row, and sees all of it.
        at = place.new_full((len(rows.lengths) * asking.longest,), -rows.longest).index_copy(0, index, here)
        at = at.view(len(rows.lengths), 1, -1, 1)
        seen = seen & ((place - at).abs().le(reach) | at.lt(0))
    out = F.scaled_dot_product_attention(queries, keys, values, seen, probability)
    return out.transpose(1, 2).flatten(0, 1)[index]


def _pad(packed: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """*packed*, ``(tokens, heads, width)``, as ``(rows, heads, longest, width)``; the tokens' places."""
    index = rows.padded_places(rows.longest)
    padded = packed.new_zeros(len(rows.lengths) * rows.longest, *packed.shape[1:]).index_copy(0, index, packed)
    return padded.view(len(rows.lengths), rows.longest, *packed.shape[1:]).transpose(1, 2), index
