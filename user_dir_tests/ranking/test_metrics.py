from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cloze.ranking.metrics import (
    COUNTS,
    MICRO,
    best_candidates,
    count_metrics,
    metrics_of,
    probabilities,
    reciprocal_ranks_and_hits,
)

INF = float("inf")


def sample(gold: list[int], multi: list[bool], chance: list[float]) -> dict[str, Any]:
    return {
        "gold": torch.tensor(gold),
        "multi_token": torch.tensor(multi),
        "chance": torch.tensor(chance, dtype=torch.float64),
    }


def test_the_first_of_equals_wins() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0], [-INF, -5.0, -INF, -5.0]])
    assert best_candidates(scores).tolist() == [1, 0, 1]


def test_reciprocal_ranks() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 4 + [[1.0, 1.0, 1.0, -INF]] * 2)
    reciprocal, hit = reciprocal_ranks_and_hits(scores, torch.tensor([0, 1, 2, 3, 1, -1]))
    assert reciprocal.tolist() == [MICRO, MICRO // 2, 333_333, MICRO // 4, MICRO // 2, 0]
    assert hit.tolist() == [True, False, False, False, False, False]


def test_scores_that_are_no_numbers_never_hit() -> None:
    nan = float("nan")
    reciprocal, hit = reciprocal_ranks_and_hits(
        torch.tensor([[nan, nan, nan, nan], [nan, 1.0, 0.0, 0.0], [-INF] * 4]), torch.tensor([0, 0, 0])
    )
    assert hit.tolist() == [False, False, False]
    assert reciprocal.tolist() == [MICRO // 4] * 3


rows = st.lists(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=2, max_size=6), min_size=1, max_size=8)


@settings(max_examples=500, deadline=None)
@given(rows, st.data())
def test_against_sorting(rows: list[list[float]], data: st.DataObject) -> None:
    """Ranks, hits and predictions as a stable sort gives them."""
    width = max(map(len, rows))
    scores = torch.tensor([row + [-INF] * (width - len(row)) for row in rows])
    gold = [data.draw(st.integers(-1, len(row) - 1)) for row in rows]
    reciprocal, hit = reciprocal_ranks_and_hits(scores, torch.tensor(gold))
    for index, (row, answer) in enumerate(zip(rows, gold)):
        order = sorted(range(len(row)), key=lambda candidate: -row[candidate])
        assert best_candidates(scores)[index] == order[0]
        if answer >= 0:
            rank = order.index(answer) + 1
            assert reciprocal[index] == round(MICRO / rank)
            assert hit[index] == (rank == 1) == (order[0] == answer)
        else:
            assert (reciprocal[index], hit[index]) == (0, False)


def test_counts_and_metrics() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 1.0, -INF, -INF], [0.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    counts = count_metrics(scores, sample([0, 0, 2, -1], [False, False, True, True], [0.25, 0.5, 0.25, 0.25]))
    assert counts == {
        "n_blanks": 3,
        "n_unlabelled": 1,
        "n_correct": 2,
        "n_one_token": 2,
        "n_one_token_correct": 1,
        "n_multi_token": 1,
        "n_multi_token_correct": 1,
        "reciprocal_rank": 2_500_000,
        "chance": 1_000_000,
    }
    assert list(counts) == list(COUNTS) and all(type(value) is int for value in counts.values())
    metrics = metrics_of(counts)
    assert metrics == {
        "accuracy": pytest.approx(200 / 3),
        "chance": pytest.approx(100 / 3),
        "mrr": pytest.approx(2.5 / 3),
        "accuracy_one_token": 50.0,
        "accuracy_multi_token": 100.0,
    }


def test_no_blank_no_number() -> None:
    assert all(math.isnan(value) for value in metrics_of({name: 0 for name in COUNTS}).values())


def test_probabilities_sum_to_one_and_equals_share() -> None:
    scores = torch.tensor([[1.0, 2.0, -INF, 0.0], [1.0, 1.0, -INF, -INF]])
    first = torch.tensor([[0, 1, 1, 3], [0, 1, 0, 0]])
    exists = torch.tensor([[True] * 4, [True, True, False, False]])
    found = probabilities(scores, first, exists)
    e = math.e
    total = e + e**2 + 1
    assert found[0].tolist() == pytest.approx([e / total, e**2 / total / 2, e**2 / total / 2, 1 / total])
    assert found[1].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert found.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
