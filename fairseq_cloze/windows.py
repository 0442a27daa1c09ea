"""Windows: pieces of passages that are longer than the model's positions.

Windows overlap and are cut between sentences where there is a sentence break in reach.  Nothing is truncated: every
token lies in some window, and every blank is scored in exactly one, the one that gives it the most context on its
poorer side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple, Union

import numpy as np

Offsets = Union[Sequence[int], np.ndarray]


@dataclass(frozen=True)
class Window:
    """A piece of a passage.

    Attributes:
        start, end: tokens ``[start, end)`` of the passage
        first_blank, last_blank: blanks ``[first_blank, last_blank)`` of the passage are scored here
    """

    start: int
    end: int
    first_blank: int
    last_blank: int


def cut_windows(length: int, sentence_starts: Offsets, blank_positions: Offsets, limit: int) -> List[Window]:
    """Cut a passage into windows of at most *limit* tokens.

    Args:
        length: tokens of the passage
        sentence_starts: offsets at which sentences start, ascending
        blank_positions: offsets of the blanks, ascending
        limit: most tokens in a window, at least 2

    Returns:
        windows in order; those in which no blank is scored are left out
    """
    spans = _spans(length, np.asarray(sentence_starts, dtype=np.int64), limit)
    positions = np.asarray(blank_positions, dtype=np.int64)
    starts = np.array([start for start, _ in spans])[:, None]
    ends = np.array([end for _, end in spans])[:, None]
    poorer_side = np.minimum(positions - starts, ends - 1 - positions)
    best = poorer_side.argmax(axis=0)  # the first of equals
    bounds = np.searchsorted(best, np.arange(len(spans) + 1))  # best rises with the position
    windows = [Window(start, end, int(a), int(b)) for (start, end), a, b in zip(spans, bounds[:-1], bounds[1:])]
    return [window for window in windows if window.last_blank > window.first_blank]


def window_around(length: int, sentence_starts: Offsets, left: int, right: int, limit: int) -> Tuple[int, int]:
    """The window of at most *limit* tokens that gives ``[left, right)`` the most context on its poorer side.

    It starts and ends between sentences where a sentence break lies in reach and leaves half of that side or more.

    Args:
        length: tokens of the text
        sentence_starts: offsets at which sentences start, ascending
        left, right: what has to be inside; no longer than *limit*
        limit: most tokens in the window

    Returns:
        start and end
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


def _spans(length: int, sentence_starts: np.ndarray, limit: int) -> List[Tuple[int, int]]:
    spans: List[Tuple[int, int]] = []
    start = 0
    while True:
        end = start + limit
        if end >= length:
            # The last window reaches back as far as it can.
            earlier = sentence_starts[(sentence_starts >= length - limit) & (sentence_starts <= start)]
            spans.append((int(earlier[0]) if len(earlier) else max(0, min(start, length - limit)), length))
            return spans
        breaks = sentence_starts[(sentence_starts > start + limit // 2) & (sentence_starts <= end)]
        if len(breaks):
            end = int(breaks[-1])
        spans.append((start, end))
        # The next one overlaps by half a window: from the nearest sentence start before, or soon after, its middle.
        middle = end - limit // 2
        breaks = sentence_starts[(sentence_starts > start + limit // 8) & (sentence_starts <= end - limit // 4)]
        before = breaks[breaks <= middle]
        start = int(before[-1]) if len(before) else int(breaks[0]) if len(breaks) else middle
