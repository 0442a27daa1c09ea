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
from fairseq_cloze.plugin.dataset import BUCKET_WIDTH, ClozeDataset
from fairseq_cloze.views.view import View

from ..support.commands import PASSAGES
from ..support.stores import make_view


class Costs(View):
    """Items of given costs, without content."""

    def __init__(self, row_length: list[int], rows: list[int]) -> None:
        self.row_length = np.array(row_length, dtype=np.int64)
        self.rows = np.array(rows, dtype=np.int64)


@pytest.fixture(scope="module")
def store(vocabulary: Any) -> Store:
    return Store.from_columns([encode_passages(list(read_passages([PASSAGES / "train"])), vocabulary)], len(vocabulary))


items = st.lists(st.tuples(st.integers(3, 60), st.integers(1, 5)), min_size=1, max_size=60)


@settings(max_examples=500, deadline=None)
@given(items, st.integers(300, 900) | st.none(), st.integers(1, 9) | st.none(), st.booleans(), st.integers(1, 4))
def test_batches_hold_every_item_once_within_the_limits(
    costs: Any, max_tokens: Any, max_items: Any, shuffle: bool, multiple: int
) -> None:
    dataset = ClozeDataset(Costs(*map(list, zip(*costs))), shuffle)
    dataset.batches_multiple = multiple
    order = dataset.ordered_indices()
    batches = dataset.batch_by_size(order, max_tokens, max_items, required_batch_size_multiple=8)
    assert len(batches) % multiple == 0
    fillers = [batch for batch in batches if (batch < 0).any()]
    assert len(fillers) < multiple and all(len(batch) == 1 for batch in fillers)
    batches = [batch for batch in batches if (batch >= 0).all()]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(costs)))
    for batch in batches:
        length, rows = dataset.view.row_length[batch], dataset.view.rows[batch]
        assert len(batch) > 0
        assert max_tokens is None or length.max() * rows.sum() <= max_tokens
        assert max_items is None or len(batch) <= max_items


@settings(max_examples=200, deadline=None)
@given(items, st.integers(300, 900))
def test_batches_are_full(costs: Any, max_tokens: int) -> None:
    """The first item of a batch would not have fitted into the batch before."""
    dataset = ClozeDataset(Costs(*map(list, zip(*costs))), shuffle=False)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens)
    for batch, following in zip(batches[:-1], batches[1:]):
        joined = [*batch, following[0]]
        assert dataset.view.row_length[joined].max() * dataset.view.rows[joined].sum() > max_tokens


@settings(max_examples=500, deadline=None)
@given(items, st.integers(300, 900) | st.none(), st.integers(1, 9) | st.none(), st.integers(1, 7), st.randoms())
def test_batches_are_those_of_the_simple_loop(
    costs: Any, max_tokens: Any, max_items: Any, block: int, random: Any
) -> None:
    dataset = ClozeDataset(Costs(*map(list, zip(*costs))), shuffle=False)
    order = list(range(len(costs)))
    random.shuffle(order)
    expected: list[list[int]] = [[]]
    for index in order:
        batch = [*expected[-1], index]
        cost = max(costs[each][0] for each in batch) * sum(costs[each][1] for each in batch)
        if (max_tokens is not None and cost > max_tokens) or (max_items is not None and len(batch) > max_items):
            expected.append([index])
        else:
            expected[-1] = batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq_cloze.plugin.dataset._BLOCK", block)
        batches = dataset.batch_by_size(np.array(order), max_tokens, max_items)
    assert [batch.tolist() for batch in batches] == expected


def test_cost_counts_padding_and_every_candidate() -> None:
    dataset = ClozeDataset(Costs([10, 9, 4], [4, 4, 1]), shuffle=False)
    assert [dataset.num_tokens(index) for index in range(3)] == [40, 36, 4]
    assert dataset.num_tokens_vec(np.array([2, 0])).tolist() == [4, 40]
    assert [dataset.size(index) for index in range(3)] == dataset.sizes.tolist() == [10, 9, 4]
    as_lists = [
        [batch.tolist() for batch in dataset.batch_by_size(dataset.ordered_indices(), tokens)]
        for tokens in (79, 80, 90)
    ]
    assert as_lists == [[[0], [1, 2]], [[0, 1], [2]], [[0, 1, 2]]]


def test_longest_first_without_shuffling() -> None:
    dataset = ClozeDataset(Costs([5, 9, 9, 7], [1, 1, 1, 1]), shuffle=False)
    assert dataset.ordered_indices().tolist() == [1, 2, 3, 0]
    assert dataset.can_reuse_epoch_itr_across_epochs


def test_shuffling_stays_in_buckets_and_changes_with_the_epoch() -> None:
    lengths = list(np.random.default_rng(0).integers(10, 300, 500))
    dataset = ClozeDataset(Costs(lengths, [1] * 500), shuffle=True, seed=3)
    orders = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        order = dataset.ordered_indices()
        ordered = dataset.view.row_length[order]
        assert (ordered[1:] > ordered[:-1] * (1 - BUCKET_WIDTH)).all()  # never back further than a bucket
        assert (np.diff(ordered) < 0).any()
        orders.append(order.tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(500))
    other_seed = ClozeDataset(Costs(lengths, [1] * 500), shuffle=True, seed=4)
    assert other_seed.ordered_indices().tolist() != orders[0]
    assert not dataset.can_reuse_epoch_itr_across_epochs


@pytest.mark.parametrize(("mean", "spread"), [(30, 10), (120, 10), (330, 100)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_padding_is_at_most_three_percent(mean: int, spread: int, shuffle: bool) -> None:
    """Of rows as `neighbors`, windows and whole passages have them, with 4,096 and 8,192 tokens."""
    lengths = np.random.default_rng(0).normal(mean, spread, 50_000).astype(int).clip(5, 510)
    dataset = ClozeDataset(Costs(lengths.tolist(), [1] * 50_000), shuffle)
    for max_tokens in (4096, 8192):
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens)
        computed = sum(len(batch) * lengths[batch].max() for batch in batches)
        assert computed - lengths.sum() <= 0.03 * computed


def test_an_item_beyond_max_tokens_is_an_error(store: Store, vocabulary: Any) -> None:
    dataset = ClozeDataset(make_view("full", store, vocabulary, 126, "remove"), shuffle=True)
    worst = int((dataset.sizes * dataset.view.rows).argmax())
    passage = store.id(dataset.view.passage_of(worst))
    with pytest.raises(ClozeError) as error:
        dataset.batch_by_size(dataset.ordered_indices(), 500)
    assert str(error.value) == (
        f"--max-tokens 500 is too small: passage '{passage}' costs 4 x 126 = 504 tokens; "
        "pass --max-tokens 504 or more, or --batch-size instead"
    )
    assert dataset.batch_by_size(dataset.ordered_indices(), 504)


def test_nothing_gives_nothing() -> None:
    dataset = ClozeDataset(Costs([], []), shuffle=False)
    assert dataset.batch_by_size(dataset.ordered_indices(), None, 4) == []
    assert dataset.collater([]) == {}


def test_a_filler_is_the_cheapest_item_and_counts_for_nothing(store: Store, vocabulary: Any) -> None:
    dataset = ClozeDataset(make_view("joint", store, vocabulary, 126, "remove"), shuffle=True)
    dataset.batches_multiple = 7
    batches = dataset.batch_by_size(dataset.ordered_indices(), None, 4)
    real_batches = -(-len(dataset) // 4)
    cheapest = int(dataset.sizes.argmin())
    assert len(batches) == -(-real_batches // 7) * 7 > real_batches
    assert [batch.tolist() for batch in batches[real_batches:]] == [[-1 - cheapest]] * (-real_batches % 7)
    sample = dataset.collater([dataset[index] for index in [-1 - cheapest]])
    real = dataset.collater([dataset[cheapest]])
    assert sample["net_input"]["src_tokens"].tolist() == real["net_input"]["src_tokens"].tolist()
    assert (sample["gold"] == -1).all() and (real["gold"] >= 0).all()
    assert (sample["nsentences"], sample["ntokens"]) == (0, 0)


@pytest.mark.parametrize("view", ["joint", "full", "neighbors"])
def test_collated_batches_are_the_views(store: Store, vocabulary: Any, view: str) -> None:
    dataset = ClozeDataset(make_view(view, store, vocabulary, 126, "remove"), shuffle=False)
    blanks: list[int] = []
    for batch in dataset.batch_by_size(dataset.ordered_indices(), 1024):
        sample = dataset.collater([dataset[index] for index in batch])
        assert sample["net_input"]["src_tokens"].numel() <= 1024
        assert sample["id"].tolist() == batch.tolist()
        blanks += sample["blanks"].tolist()
    assert sorted(blanks) == list(range(405))


def test_teacher_blanks_are_drawn_anew_in_every_epoch(store: Store, vocabulary: Any) -> None:
    view = make_view("joint", store, vocabulary, 10_000)
    drawn = []
    for epoch in (1, 2, 1):
        dataset = ClozeDataset(view, shuffle=True, seed=3, teacher_blanks=0.5)
        dataset.set_epoch(epoch)
        drawn.append([dataset[index]["blanks"].tolist() for index in range(len(dataset))])
    assert drawn[0] == drawn[2] != drawn[1]
    scored = sum(map(len, drawn[0]))
    assert 0.4 * store.blanks < scored < 0.65 * store.blanks
    assert all(drawn[0])
