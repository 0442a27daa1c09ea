"""Windows: pieces of passages that are longer than the model's positions.

Windows overlap and are cut between sentences where there is a sentence break in reach.  Nothing is truncated: every
token lies in some window, and every blank is scored in exactly one, the one that gives it the most context on its
poorer side.
"""

from collections.abc import Sequence

import numpy as np

Offsets = Sequence[int] | np.ndarray


def cut_passages(
    lengths: np.ndarray,
    limits: np.ndarray,
    sentence_starts: np.ndarray,
    sentence_ends: np.ndarray,
    blank_positions: np.ndarray,
    blank_ends: np.ndarray,
) -> np.ndarray:
    """Cut passages into windows; all passages get their first window at once, then those that go on their second.

    Args:
        lengths: tokens of each passage, ``int64 (passages,)``
        limits: most tokens in a window, at least 2, ``int64 (passages,)``
        sentence_starts: offsets at which sentences start, ascending in each passage
        sentence_ends: running totals of the sentences, ``int64 (passages + 1,)``
        blank_positions: offsets of the blanks, ascending in each passage
        blank_ends: running totals of the blanks, ``int64 (passages + 1,)``

    Returns:
        passage, start, end, first blank, last blank of each window in order, ``int64 (windows, 5)``; windows in which
        no blank is scored are left out
    """
    owner = np.repeat(np.arange(len(lengths)), np.diff(blank_ends))
    positions = blank_positions.astype(np.int64)
    sentences = _Sentences(sentence_starts.astype(np.int64), sentence_ends, int(lengths.max(initial=0)))
    richest = np.full(len(owner), -1)  # tokens on the poorer side of each blank, in its best window so far
    chosen = np.zeros((3, len(owner)), dtype=np.int64)  # number, start and end of that window
    passage, start = np.arange(len(lengths)), np.zeros(len(lengths), dtype=np.int64)
    blank = np.arange(len(owner))
    number = 0
    window = np.empty((2, len(lengths)), dtype=np.int64)
    while len(passage):
        length, limit = lengths[passage], limits[passage]
        end = start + limit
        last = end >= length
        # The last window reaches back as far as it can; the others end between sentences if they can.
        reach = np.maximum(length - limit, 0)
        back = sentences.first(passage, reach, start, np.minimum(start, reach))
        window[:, passage] = np.where(
            last, [back, length], [start, sentences.last(passage, start + limit // 2 + 1, end, end)]
        )
        first, end = window[:, owner[blank]]
        side = np.minimum(positions[blank] - first, end - 1 - positions[blank])
        better = side > richest[blank]  # the first of equals stays
        at = blank[better]
        richest[at] = side[better]
        chosen[:, at] = np.stack([np.full(len(at), number), first[better], end[better]])
        # The next one overlaps by half a window: from the nearest sentence start before, or soon after, its middle.
        goes_on = np.zeros(len(lengths), dtype=bool)
        goes_on[passage[~last]] = True
        passage, limit = passage[~last], limit[~last]
        start, end = window[:, passage]
        soonest, middle = start + limit // 8 + 1, end - limit // 2
        after = sentences.first(passage, soonest, end - limit // 4, middle)
        start = sentences.last(passage, soonest, middle, after)
        blank = blank[goes_on[owner[blank]]]
        number += 1
    opens = np.ones(len(owner), dtype=bool)
    opens[1:] = (owner[1:] != owner[:-1]) | (chosen[0, 1:] != chosen[0, :-1])
    first_blank = np.flatnonzero(opens)
    last_blank = np.append(first_blank, len(owner))[1:]
    return np.stack([owner[first_blank], *chosen[1:, first_blank], first_blank, last_blank], axis=1)


class _Sentences:
    """Sentence starts of passages, one look-up for many passages."""

    def __init__(self, starts: np.ndarray, ends: np.ndarray, longest: int) -> None:
        self._starts = np.append(starts, 0)
        self._ends = ends
        self._stride = longest + 1
        self._keys = np.repeat(np.arange(len(ends) - 1), np.diff(ends)) * self._stride + starts

    def first(self, passage: np.ndarray, low: np.ndarray, high: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """The first sentence start in ``[low, high]`` of each passage."""
        place = np.searchsorted(self._keys, passage * self._stride + low)
        found = (place < self._ends[passage + 1]) & (self._starts[place] <= high)
        return np.where(found, self._starts[place], otherwise)

    def last(self, passage: np.ndarray, low: np.ndarray, high: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """The last sentence start in ``[low, high]`` of each passage."""
        high = np.minimum(high, self._stride - 1)
        place = np.searchsorted(self._keys, passage * self._stride + high, side="right") - 1
        found = (place >= self._ends[passage]) & (self._starts[place] >= low)
        return np.where(found, self._starts[place], otherwise)


def window_around(length: int, sentence_starts: Offsets, left: int, right: int, limit: int) -> tuple[int, int]:
    """The window of at most *limit* tokens that gives ``[left, right)`` the most context on its poorer side.

    It starts and ends between sentences where a sentence break lies in reach and leaves half of that side or more.
    *sentence_starts* ascend; ``[left, right)`` is no longer than *limit*.
    """
    if length <= limit:
        return 0, length
    spare = limit - (right - left)
    before = min(left, max(spare // 2, spare - (length - right)))
    after = min(length - right, spare - before)
    starts = np.asarray(sentence_starts, dtype=np.int64)
    start, end = left - before, right + after
    inside = starts[(starts >= start) & (starts <= left - (before + 1) // 2)]
    if start > 0 and len(inside):
        start = int(inside[0])
    inside = starts[(starts >= right + (after + 1) // 2) & (starts <= end)]
    if end < length and len(inside):
        end = int(inside[-1])
    return start, end
