from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.views.windows import cut_passages, window_around


class Window(NamedTuple):
    start: int
    end: int
    first_blank: int
    last_blank: int


def cut_windows(length: int, starts: Sequence[int], blanks: Sequence[int], limit: int) -> list[Window]:
    """The windows of one passage."""
    return [windows for _, windows in cut_many([(length, starts, blanks, limit)])][0]


def cut_many(cases: Sequence[tuple[int, Sequence[int], Sequence[int], int]]) -> list[tuple[int, list[Window]]]:
    """The windows of passages cut together, blanks numbered in each."""
    lengths, starts, blanks, limits = zip(*cases)
    ends = [np.append(0, np.cumsum([len(each) for each in column])) for column in (starts, blanks)]
    flat = [np.array([offset for each in column for offset in each], dtype=np.int32) for column in (starts, blanks)]
    rows = cut_passages(np.array(lengths), np.array(limits), flat[0], ends[0], flat[1], ends[1])
    assert rows[:, 0].tolist() == sorted(rows[:, 0])
    return [
        (p, [Window(a, b, c - ends[1][p], d - ends[1][p]) for q, a, b, c, d in rows.tolist() if q == p])
        for p in range(len(cases))
    ]


def one_by_one(length: int, starts: Sequence[int], blanks: Sequence[int], limit: int) -> list[Window]:
    """The same, window by window in one passage."""
    spans = []
    start = 0
    while start + limit < length:
        end = max([s for s in starts if start + limit // 2 < s <= start + limit], default=start + limit)
        spans.append((start, end))
        after = [s for s in starts if start + limit // 8 < s <= end - limit // 4]
        middle = end - limit // 2
        start = max([s for s in after if s <= middle], default=min(after, default=middle))
    back = length - limit
    spans.append((min([s for s in starts if back <= s <= start], default=max(0, min(start, back))), length))
    best = [max(range(len(spans)), key=lambda k: (min(b - spans[k][0], spans[k][1] - 1 - b), -k)) for b in blanks]
    windows = [
        Window(a, b, best.index(k), best.index(k) + best.count(k)) for k, (a, b) in enumerate(spans) if k in best
    ]
    return windows


@st.composite
def long_passages(draw: st.DrawFn) -> tuple[int, list[int], list[int], int]:
    """Length, sentence starts, blank positions, limit."""
    limit = draw(st.integers(2, 60))
    length = draw(st.integers(limit, 400))
    starts = draw(st.sets(st.integers(1, length - 1), max_size=40)) if length > 1 else set()
    blanks = draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=40))
    return length, sorted({0, *starts}), sorted(blanks), limit


@settings(max_examples=300, deadline=None)
@given(long_passages())
def test_every_blank_once_where_its_poorer_side_is_richest(case: tuple[int, list[int], list[int], int]) -> None:
    length, starts, blanks, limit = case
    windows = cut_windows(length, starts, blanks, limit)
    assert [number for window in windows for number in range(window.first_blank, window.last_blank)] == list(
        range(len(blanks))
    )
    for window in windows:
        assert 0 <= window.start < window.end <= length and window.end - window.start <= limit
        for number in range(window.first_blank, window.last_blank):
            position = blanks[number]
            assert window.start <= position < window.end
            own = min(position - window.start, window.end - 1 - position)
            for other in windows:
                assert own >= min(position - other.start, other.end - 1 - position)


@settings(max_examples=200, deadline=None)
@given(st.lists(long_passages(), min_size=1, max_size=5))
def test_passages_cut_together_are_cut_as_one_by_one(cases: list[tuple[int, list[int], list[int], int]]) -> None:
    assert cut_many(cases) == [(number, one_by_one(*case)) for number, case in enumerate(cases)]


@settings(max_examples=200, deadline=None)
@given(long_passages())
def test_windows_cover_the_passage(case: tuple[int, list[int], list[int], int]) -> None:
    length, starts, _, limit = case
    windows = cut_windows(length, starts, range(length), limit)  # a blank everywhere: no window is left out
    covered = np.zeros(length, dtype=int)
    for window in windows:
        covered[window.start : window.end] += 1
    assert covered.min() >= 1
    assert len(windows) <= 2 + 8 * length // limit


@settings(max_examples=200, deadline=None)
@given(st.integers(60, 400), st.integers(3, 9), st.integers(40, 60))
def test_cuts_stand_between_short_sentences(length: int, sentence: int, limit: int) -> None:
    """With a sentence break in every reach, every cut is one, and every window overlaps the next by a quarter."""
    starts = list(range(0, length, sentence))
    windows = cut_windows(length, starts, range(length), limit)
    for window in windows:
        assert window.start in starts
        assert window.end in (*starts, length)
    for left, right in zip(windows[:-1], windows[1:]):
        assert left.end - right.start >= limit // 4


def test_a_passage_by_hand() -> None:
    # 60 tokens, sentences of 10, windows of 32 at most: [0, 30), [10, 40), [20, 50), [30, 60)
    blanks = [1, 19, 20, 29, 30, 39, 40, 59]
    assert cut_windows(60, range(0, 60, 10), blanks, 32) == [
        Window(0, 30, 0, 2),
        Window(10, 40, 2, 4),
        Window(20, 50, 4, 6),
        Window(30, 60, 6, 8),
    ]


@settings(max_examples=300, deadline=None)
@given(long_passages(), st.data())
def test_window_around(case: tuple[int, list[int], list[int], int], data: st.DataObject) -> None:
    length, starts, _, limit = case
    left = data.draw(st.integers(0, length))
    right = data.draw(st.integers(left, min(length, left + limit)))
    start, end = window_around(length, starts, left, right, limit)
    assert 0 <= start <= left <= right <= end <= length
    assert end - start <= limit
    if length <= limit:
        assert (start, end) == (0, length)
        return
    # Each side keeps half of the raw window's share or more; the raw window spreads what is left over evenly.
    spare = limit - (right - left)
    before = min(left, max(spare // 2, spare - (length - right)))
    after = min(length - right, spare - before)
    assert before // 2 <= left - start <= before and after // 2 <= end - right <= after
    # Cut at the first or last sentence break within that, or raw where there is none.
    near = [at for at in starts if left - before <= at <= left - (before + 1) // 2]
    assert start == (near[0] if near and left > before else left - before)
    near = [at for at in starts if right + (after + 1) // 2 <= at <= right + after]
    assert end == (near[-1] if near and right + after < length else right + after)


def test_window_around_is_balanced() -> None:
    assert window_around(100, [0], 50, 50, 20) == (40, 60)
    assert window_around(100, [0], 3, 3, 20) == (0, 20)
    assert window_around(100, [0], 98, 98, 20) == (80, 100)
    assert window_around(100, [0, 44, 47, 56, 58], 50, 50, 20) == (44, 58)


def test_a_sentence_break_at_the_blank_takes_no_context() -> None:
    assert window_around(1200, [0, 600], 600, 600, 500) == (350, 850)
    assert window_around(1200, [0, 590], 600, 600, 500) == (350, 850)
    assert window_around(1200, [0, 400, 600, 800], 600, 600, 500) == (400, 800)


def test_half_of_an_odd_side_is_the_larger_half() -> None:
    assert window_around(100, [0], 50, 51, 23) == (39, 62)
    assert window_around(100, [0, 44, 57], 50, 51, 23) == (44, 57)
    assert window_around(100, [0, 45, 56], 50, 51, 23) == (39, 62)
