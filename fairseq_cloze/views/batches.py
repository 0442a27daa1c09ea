"""Batches: items of a view in an order, cut by what they truly cost.

A batch costs its rows times its longest row: every candidate that is filled in counts, and so does padding.  Training
shuffles inside length buckets, anew in every epoch; everything else runs longest first, so that the batch that needs
most memory comes at once.
"""

import sys

import numpy as np

from ..errors import ClozeError
from .view import View

#: Rows whose lengths differ by less than this share count as equally long when they are shuffled.
BUCKET_WIDTH = 1 / 40

_BLOCK = 1 << 16  # items looked at at a time


def longest_first(view: View) -> np.ndarray:
    """Items by falling length, equal ones in their own order, ``int64 (items,)``."""
    return np.argsort(-view.row_length, kind="stable")


def shuffled(view: View, seed: int, epoch: int) -> np.ndarray:
    """Items by rising length bucket, shuffled inside each, another order in every epoch, ``int64 (items,)``."""
    order = np.random.default_rng([seed, epoch]).permutation(len(view))
    buckets = (np.log(view.row_length) / BUCKET_WIDTH).astype(np.int64)
    return order[np.argsort(buckets[order], kind="stable")]


def cut_batches(
    view: View,
    order: np.ndarray,
    max_tokens: int | None = None,
    max_items: int | None = None,
    option: str = "--max-tokens",
) -> list[np.ndarray]:
    """Cut an order of items, ``int64 (items,)``, into batches as full as the limits allow; none is left out.

    Raises:
        ClozeError: an item costs more than *max_tokens*, which *option* sets, on its own
    """
    if max_tokens is not None and len(view):
        _check_cost(view, max_tokens, option)
    most, most_items = (sys.maxsize if limit is None else limit for limit in (max_tokens, max_items))
    starts: list[int] = []
    longest, height, items = 0, 0, most_items  # the first item opens a batch
    for block in range(0, len(order), _BLOCK):  # as Python's own integers, which are quicker and larger
        part = order[block : block + _BLOCK]
        lengths, rows = view.row_length[part].tolist(), view.rows[part].tolist()
        for number, (length, count) in enumerate(zip(lengths, rows), block):
            if length > longest:
                longest = length
            height += count
            items += 1
            if items > most_items or longest * height > most:
                starts.append(number)
                longest, height, items = length, count, 1
    return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)])]


def fillers(view: View, count: int) -> list[np.ndarray]:
    """Batches that make a number even: ``-1 - n`` each, for the cheapest item *n*."""
    cheapest = int(view.cost.argmin()) if count else 0
    return [np.array([-1 - cheapest])] * count


def _check_cost(view: View, max_tokens: int, option: str) -> None:
    cost = view.cost
    worst = int(cost.argmax())
    if cost[worst] > max_tokens:
        rows, length = int(view.rows[worst]), int(view.row_length[worst])
        passage = view.store.id(view.passage_of(worst))
        other = option.replace("max-tokens", "batch-size")
        raise ClozeError(
            f"{option} {max_tokens:,} is too small: passage '{passage}' costs {rows} x {length} = "
            f"{cost[worst]:,} tokens; pass {option} {cost[worst]} or more, or {other} instead"
        )
