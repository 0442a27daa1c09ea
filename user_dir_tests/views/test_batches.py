from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.views.batches import BUCKET_WIDTH, cut_batches, fillers, longest_first, shuffled
from fairseq_cloze.views.making import make_view
from fairseq_cloze.views.settings import Settings
from fairseq_cloze.views.view import View

from ..support.commands import PASSAGES
from ..support.costs import Costs

items = st.lists(st.tuples(st.integers(3, 60), st.integers(1, 5)), min_size=1, max_size=60)


def costs_of(entries: list[tuple[int, int]]) -> Costs:
    return Costs([length for length, _ in entries], [rows for _, rows in entries])


@settings(max_examples=500, deadline=None)
@given(items, st.integers(300, 900) | st.none(), st.integers(1, 9) | st.none(), st.booleans())
def test_batches_hold_every_item_once_within_the_limits(
    entries: Any, max_tokens: int | None, max_items: int | None, shuffle: bool
) -> None:
    view = costs_of(entries)
    batches = cut_batches(view, shuffled(view, 1, 1) if shuffle else longest_first(view), max_tokens, max_items)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(entries)))
    for batch in batches:
        assert len(batch) > 0
        assert max_tokens is None or view.row_length[batch].max() * view.rows[batch].sum() <= max_tokens
        assert max_items is None or len(batch) <= max_items


@settings(max_examples=500, deadline=None)
@given(items, st.integers(300, 900) | st.none(), st.integers(1, 9) | st.none(), st.integers(1, 7), st.randoms())
def test_batches_are_those_of_the_simple_loop(
    entries: Any, max_tokens: int | None, max_items: int | None, block: int, random: Any
) -> None:
    order = list(range(len(entries)))
    random.shuffle(order)
    expected: list[list[int]] = [[]]
    for index in order:
        batch = [*expected[-1], index]
        cost = max(entries[each][0] for each in batch) * sum(entries[each][1] for each in batch)
        if (max_tokens is not None and cost > max_tokens) or (max_items is not None and len(batch) > max_items):
            expected.append([index])
        else:
            expected[-1] = batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq_cloze.views.batches._BLOCK", block)
        batches = cut_batches(costs_of(entries), np.array(order), max_tokens, max_items)
    assert [batch.tolist() for batch in batches] == expected


def test_cost_counts_padding_and_every_candidate() -> None:
    view = Costs([10, 9, 4], [4, 4, 1])
    found = [
        [batch.tolist() for batch in cut_batches(view, longest_first(view), tokens)] for tokens in (79, 80, 89, 90)
    ]
    assert found == [[[0], [1, 2]], [[0, 1], [2]], [[0, 1], [2]], [[0, 1, 2]]]


def test_longest_first_and_equal_ones_as_they_come() -> None:
    assert longest_first(Costs([5, 9, 9, 7], [1, 1, 1, 1])).tolist() == [1, 2, 3, 0]


def test_the_order_of_a_training_is_the_same_in_every_version() -> None:
    view = Costs([30, 8, 30, 200, 8, 200, 30, 60, 30, 30], [1] * 10)
    assert [shuffled(view, 1, epoch).tolist() for epoch in (1, 2, 3)] == [
        [4, 1, 2, 6, 0, 9, 8, 7, 3, 5],
        [1, 4, 8, 6, 0, 9, 2, 7, 5, 3],
        [4, 1, 2, 0, 8, 9, 6, 7, 3, 5],
    ]


def test_shuffling_stays_in_buckets_and_changes_with_epoch_and_seed() -> None:
    lengths = list(np.random.default_rng(0).integers(10, 300, 500))
    view = Costs(lengths, [1] * 500)
    orders = [shuffled(view, seed, epoch) for seed, epoch in ((3, 1), (3, 2), (3, 1), (4, 1))]
    for order in orders:
        ordered = view.row_length[order]
        assert (ordered[1:] > ordered[:-1] * (1 - BUCKET_WIDTH)).all()  # never back further than a bucket
        assert (np.diff(ordered) < 0).any()
        assert sorted(order.tolist()) == list(range(500))
    first, second, again, seeded = (order.tolist() for order in orders)
    assert first == again
    assert first != second and first != seeded


@pytest.mark.parametrize(("mean", "spread"), [(30, 10), (120, 10), (330, 100)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_padding_is_at_most_three_percent(mean: int, spread: int, shuffle: bool) -> None:
    """Of rows as `neighbors`, windows and whole passages have them, with 4,096 and 8,192 tokens."""
    lengths = np.random.default_rng(0).normal(mean, spread, 50_000).astype(int).clip(5, 510)
    view = Costs(lengths.tolist(), [1] * 50_000)
    for max_tokens in (4096, 8192):
        batches = cut_batches(view, shuffled(view, 1, 1) if shuffle else longest_first(view), max_tokens)
        computed = sum(len(batch) * lengths[batch].max() for batch in batches)
        assert computed - lengths.sum() <= 0.03 * computed


@pytest.fixture(scope="module")
def full(vocabulary: Any) -> View:
    store = Store.from_columns(
        [encode_passages(list(read_passages([PASSAGES / "train"])), vocabulary)], len(vocabulary)
    )
    return make_view(Settings("full", "mean", "remove", 0.0), store, vocabulary, 126)


def test_an_item_beyond_max_tokens_is_an_error(full: View) -> None:
    worst = int((full.row_length * full.rows).argmax())
    with pytest.raises(ClozeError) as error:
        cut_batches(full, longest_first(full), 500)
    assert str(error.value) == (
        f"--max-tokens 500 is too small: passage '{full.store.id(full.passage_of(worst))}' costs 4 x 126 = 504 tokens; "
        "pass --max-tokens 504 or more, or --batch-size instead"
    )
    assert cut_batches(full, longest_first(full), 504)


def test_nothing_gives_nothing() -> None:
    view = Costs([], [])
    assert cut_batches(view, longest_first(view), 100, 4) == cut_batches(view, longest_first(view)) == []
    assert fillers(view, 0) == []


def test_fillers_are_the_cheapest_item() -> None:
    assert [batch.tolist() for batch in fillers(Costs([10, 4, 5], [2, 3, 2]), 2)] == [[-3], [-3]]
