from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.plugin.dataset import ClozeDataset
from fairseq_cloze.plugin.epochs import Cut
from fairseq_cloze.ranking.metrics import SCORED, count_metrics

from ..support.commands import PASSAGES
from ..support.costs import Costs
from ..support.stores import make_view


@pytest.fixture(scope="module")
def store(vocabulary: Any) -> Store:
    return Store.from_columns([encode_passages(list(read_passages([PASSAGES / "train"])), vocabulary)], len(vocabulary))


def test_cost_counts_padding_and_every_candidate() -> None:
    dataset = ClozeDataset(Costs([10, 9, 4], [4, 4, 1]), shuffle=False)
    assert [dataset.num_tokens(index) for index in range(3)] == [40, 36, 4]
    assert dataset.num_tokens_vec(np.array([2, 0])).tolist() == [4, 40]
    assert [dataset.size(index) for index in range(3)] == dataset.sizes.tolist() == [10, 9, 4]
    batches = dataset.batch_by_size(dataset.ordered_indices(), 80, required_batch_size_multiple=8)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2]]


def test_longest_first_without_shuffling() -> None:
    dataset = ClozeDataset(Costs([5, 9, 9, 7], [1, 1, 1, 1]), shuffle=False)
    assert dataset.ordered_indices().tolist() == [1, 2, 3, 0]
    assert dataset.can_reuse_epoch_itr_across_epochs


def test_training_is_shuffled_anew_in_every_epoch() -> None:
    dataset = ClozeDataset(Costs([10] * 500, [1] * 500), shuffle=True, seed=3)
    orders = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        orders.append(dataset.ordered_indices().tolist())
    assert orders[0] == orders[2] != orders[1]
    assert ClozeDataset(dataset.view, shuffle=True, seed=4).ordered_indices().tolist() != orders[0]
    assert not dataset.can_reuse_epoch_itr_across_epochs


def test_nothing_gives_nothing() -> None:
    dataset = ClozeDataset(Costs([], []), shuffle=False)
    assert dataset.batch_by_size(dataset.ordered_indices(), None, 4) == []
    assert dataset.collater([]) == {}


def test_a_filler_is_the_cheapest_item_and_counts_for_nothing(store: Store, vocabulary: Any) -> None:
    dataset = ClozeDataset(make_view("joint", store, vocabulary, 126, "remove"), shuffle=True)
    cut = Cut(None, 4, update_freq=2, processes=7, seed=1, batch_seed=1, grouped=False, even=True)
    batches = cut.batches(dataset, None)
    real_batches = -(-len(dataset) // 4)
    cheapest = int(dataset.sizes.argmin())
    assert len(batches) == -(-real_batches // 7) * 7 > real_batches
    assert [batch.tolist() for batch in batches[real_batches:]] == [[-1 - cheapest]] * (-real_batches % 7)
    sample = dataset.collater([dataset[index] for index in [-1 - cheapest]])
    real = dataset.collater([dataset[cheapest]])
    assert sample["net_input"]["src_tokens"].tolist() == real["net_input"]["src_tokens"].tolist()
    assert (sample["gold"] == -1).all() and (real["gold"] >= 0).all()
    assert (sample["nsentences"], sample["ntokens"]) == (0, 0)
    blanks, computed = len(sample["blanks"]), sample["net_input"]["src_tokens"].numel()
    nothing = dict.fromkeys(sample["known"], 0)
    assert sample["known"] == {**nothing, "n_unlabelled": blanks, "computed_tokens": computed}
    assert (sample["items"], sample["labelled"].tolist()) == ([cheapest], [])


@pytest.mark.parametrize("view", ["joint", "full", "neighbors"])
def test_collated_batches_are_the_views(store: Store, vocabulary: Any, view: str) -> None:
    dataset = ClozeDataset(make_view(view, store, vocabulary, 126, "remove"), shuffle=False)
    blanks: list[int] = []
    for batch in dataset.batch_by_size(dataset.ordered_indices(), 1024):
        sample = dataset.collater([dataset[index] for index in batch])
        assert sample["net_input"]["src_tokens"].numel() <= 1024
        assert sample["id"].tolist() == sample["items"] == batch.tolist()
        known, counts = sample["known"], count_metrics(torch.zeros(sample["distinct"].shape), sample)
        assert {name: known[name] for name in known.keys() & counts} == {
            name: count for name, count in counts.items() if name not in SCORED
        }
        assert sample["labelled"].tolist() == [row for row, gold in enumerate(sample["gold"].tolist()) if gold >= 0]
        assert known["log_candidates"] == pytest.approx(float(sample["distinct"].sum(dim=1).log().sum()))
        blanks += sample["blanks"].tolist()
    assert sorted(blanks) == list(range(405))
