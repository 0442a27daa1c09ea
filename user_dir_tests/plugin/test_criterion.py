from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from fairseq_cloze import register
from fairseq_cloze.ranking.metrics import MICRO
from fairseq_cloze.views.settings import Settings

register()

from fairseq_cloze.model.losses import LOSSES, ranking_losses  # noqa: E402
from fairseq_cloze.plugin.criterion import ClozeRankingCriterion  # noqa: E402
from fairseq_cloze.plugin.sums import SCORED  # noqa: E402

INF = float("inf")
SCORES = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.0, 1.0, -INF, -INF], [3.0, 1.0, -INF, 2.0]])


def batch() -> dict[str, Any]:
    distinct = torch.tensor([[True] * 4, [True, True, False, False], [True, True, False, True]])
    return {
        "gold": torch.tensor([0, 0, 3]),
        "distinct": distinct,
        "relevance": torch.tensor([[3.0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 2]], dtype=torch.float64),
    }


def test_softmax_loss_by_hand() -> None:
    losses = ranking_losses(SCORES, batch())
    expected = [
        -math.log(math.exp(2) / (math.exp(2) + math.exp(0.5) + math.exp(-1) + 1)),
        -math.log(1 / (1 + math.e)),
        -math.log(math.exp(2) / (math.exp(3) + math.e + math.exp(2))),
    ]
    assert losses.tolist() == pytest.approx(expected)


def test_equal_scores_give_log_c() -> None:
    scores = torch.zeros(3, 4).masked_fill(~batch()["distinct"], -INF)
    assert ranking_losses(scores, batch()).tolist() == pytest.approx([math.log(4), math.log(2), math.log(3)])


def test_margin_loss_by_hand() -> None:
    losses = ranking_losses(SCORES, batch(), "margin", margin=1.0)
    # row 1: gold 2.0 leads by 1.5, 3, 2: no loss; row 2: gold 0 behind 1: 2; row 3: gold 2 against 3 and 1: 2 and 0
    assert losses.tolist() == [0.0, 2.0, 1.0]
    assert ranking_losses(SCORES, batch(), "margin", margin=2.0).tolist() == pytest.approx([0.5 / 3, 3.0, 2.0])


def test_listnet_loss_by_hand() -> None:
    losses = ranking_losses(SCORES, batch(), "listnet")
    target = [math.exp(value) for value in (0, 1, 2)]
    target = [value / sum(target) for value in target]
    log_p = torch.tensor([3.0, 1.0, 2.0]).log_softmax(0).tolist()
    assert losses[2].item() == pytest.approx(-sum(t * p for t, p in zip(target, log_p)))


def test_binary_loss_by_hand() -> None:
    """The mean over a blank's distinct candidates, gold the only right one, as torch has it for each alone."""
    losses = ranking_losses(SCORES, batch(), "binary")
    gold = {0: 2.0, 1: 0.0, 2: 2.0}
    others = {0: [0.5, -1.0, 0.0], 1: [1.0], 2: [3.0, 1.0]}
    expected = [
        (math.log1p(math.exp(-gold[row])) + sum(math.log1p(math.exp(s)) for s in others[row])) / (1 + len(others[row]))
        for row in range(3)
    ]
    assert losses.tolist() == pytest.approx(expected)
    for row, loss in enumerate(losses):
        own = torch.tensor([gold[row], *others[row]])
        right = torch.tensor([1.0, *[0.0] * len(others[row])])
        assert loss.item() == pytest.approx(torch.nn.functional.binary_cross_entropy_with_logits(own, right).item())


def test_binary_gradient() -> None:
    """The derivative by a score is its sigmoid, less 1 for gold, over the number of candidates; and by differences."""
    scores = SCORES.double().requires_grad_()
    ranking_losses(scores, batch(), "binary").sum().backward()
    right = torch.zeros(3, 4).scatter(1, batch()["gold"][:, None], 1.0)
    expected = (SCORES.sigmoid() - right) / torch.tensor([[4.0], [2.0], [3.0]])
    assert scores.grad is not None
    assert torch.allclose(scores.grad.float(), expected.masked_fill(~batch()["distinct"], 0.0))
    whole = SCORES.double().masked_fill(~batch()["distinct"], 0.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: ranking_losses(values, batch(), "binary"), [whole])


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_float32_finite_and_reach_every_candidate(loss: str) -> None:
    scores = SCORES.clone().requires_grad_()
    losses = ranking_losses(scores, batch(), loss, margin=5.0)
    assert losses.dtype == torch.float32 and losses.isfinite().all()
    losses.sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    assert (scores.grad != 0).equal(batch()["distinct"])


def logs(**counts: int) -> dict[str, Any]:
    names = ("n_blanks", "n_unlabelled", "n_correct", "n_one_token", "n_one_token_correct", "n_multi_token")
    names += ("n_multi_token_correct", "reciprocal_rank", "chance", "ntokens", "computed_tokens", "nsentences")
    return {"loss": 0.0, "sample_size": 0, **dict.fromkeys(names, 0), **counts}


def reduced(*outputs: dict[str, Any] | list[dict[str, Any]]) -> dict[str, Any]:
    with metrics.aggregate(new_root=True) as meters:
        for output in outputs:
            ClozeRankingCriterion.reduce_metrics([output] if isinstance(output, dict) else output)
        return dict(meters.get_smoothed_values())


def test_metrics_are_divided_once() -> None:
    """Batches of 1 and 999 blanks: the mean of the batches' accuracies would be 50.05%."""
    values = reduced(
        logs(loss=1.5, n_blanks=1, n_correct=1, n_one_token=1, n_one_token_correct=1, reciprocal_rank=MICRO,
             chance=MICRO // 4, ntokens=10, computed_tokens=10),
        logs(loss=1000.0, n_blanks=999, n_correct=1, n_one_token=900, n_multi_token=99, n_multi_token_correct=1,
             reciprocal_rank=MICRO, chance=999 * MICRO // 4, ntokens=70, computed_tokens=90),
    )  # fmt: skip
    assert values["accuracy"] == 100 * 2 / 1000
    assert values["loss"] == pytest.approx(1001.5 / 1000)
    assert values["accuracy_one_token"] == 100 * 1 / 901
    assert values["accuracy_multi_token"] == 100 * 1 / 99
    assert values["mrr"] == 2 / 1000
    assert values["chance"] == pytest.approx(25.0, abs=1e-4)
    assert (values["n_blanks"], values["padding"]) == (1000, 20.0)
    assert "bps" in values


def test_a_worker_without_a_batch_adds_nothing() -> None:
    counted = logs(loss=2.0, n_blanks=4, n_correct=3)
    assert reduced([{}, counted])["accuracy"] == reduced([counted])["accuracy"] == 75.0
    assert reduced([{}])["n_blanks"] == reduced([])["n_blanks"] == 0


def test_accuracy_is_exact_for_checkpoint_selection() -> None:
    """One blank in 11,067 makes a difference, which two digits would hide."""
    first = reduced(logs(n_blanks=11067, n_correct=5000))["accuracy"]
    second = reduced(logs(n_blanks=11067, n_correct=5001))["accuracy"]
    assert (first, second) == (100 * 5000 / 11067, 100 * 5001 / 11067)


def test_workers_and_batches_may_be_summed_in_any_way() -> None:
    parts = [logs(n_blanks=7 * k, n_correct=3 * k, loss=float(k), chance=k, reciprocal_rank=5 * k) for k in (1, 2, 3)]
    summed = {key: sum(part[key] for part in parts) for key in parts[0]}
    one, two = reduced(*parts), reduced(summed)
    for name in ("accuracy", "chance", "mrr", "n_blanks", "loss"):
        assert one[name] == pytest.approx(two[name])
    assert ClozeRankingCriterion.logging_outputs_can_be_summed()


def test_forward_counts_labelled_blanks_only() -> None:
    class Model(torch.nn.Module):
        def forward(self, **_: Any) -> Any:
            return SCORES.masked_fill(SCORES == -INF, 0.0)[:, :, None], {}

    sample = {
        **batch(),
        "gold": torch.tensor([0, -1, 3]),
        "labelled": torch.tensor([0, 2]),
        "multi_token": torch.tensor([False, True, True]),
        "known": {"ntokens": 5, "sample_size": 2, "n_blanks": 2},
        "net_input": {"candidate_tokens": torch.full((3, 4, 1), 9)},
    }
    task = SimpleNamespace(settings=Settings(), target_dictionary=None)
    criterion = ClozeRankingCriterion(task, "softmax", 1.0)
    loss, size, output = criterion(Model(), sample)
    losses = ranking_losses(SCORES, batch())
    assert loss.item() == pytest.approx(float(losses[0] + losses[2]))
    assert size == 2
    known = {"ntokens": 5, "sample_size": 2, "n_blanks": 2, "told_to_stop": 0}
    scored = output.pop(SCORED)
    assert output == known and scored.dtype == torch.float64
    assert scored.tolist() == [loss.item(), 1, 1, 0, 1_500_000]
    names = ("loss", "n_correct", "n_one_token_correct", "n_multi_token_correct", "reciprocal_rank")
    assert criterion.eval()(Model(), sample)[2] == {**dict(zip(names, scored.tolist())), **known}
