"""Sums of logging outputs, and that a training step waits for none of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import register

from ..support.models import FailingOptimizer, build
from ..support.waiting import Waits

register()

from fairseq_cloze.model.attention import attend_padded  # noqa: E402
from fairseq_cloze.model.losses import LOSSES  # noqa: E402
from fairseq_cloze.plugin.criterion import ClozeRankingCriterion  # noqa: E402
from fairseq_cloze.plugin.optimizer import FusedAdamW  # noqa: E402
from fairseq_cloze.plugin.sums import SCORED, Sums, plain  # noqa: E402
from fairseq_cloze.views.view import to_device  # noqa: E402


@pytest.mark.parametrize(
    ("view", "scorer", "loss"),
    [
        *(("joint", "mean", loss) for loss in LOSSES),
        ("joint", "kmask", "softmax"),
        *(("neighbors", "mean", "softmax"), ("neighbors", "head", "softmax")),
    ],
)
def test_a_step_waits_for_nothing(
    tmp_path: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch, view: str, scorer: str, loss: str
) -> None:
    """Forward, loss, metrics, backward, and what the optimizer does but for the norm that fairseq looks at."""
    monkeypatch.setattr("fairseq_cloze.model.encoder.attend", attend_padded)  # as on a GPU
    shape = {"encoder_layers": 2, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
    task, model = build(data_bin, tmp_path, from_scratch=True, view=view, scorer=scorer, **shape)
    task.load_dataset("train")
    dataset, criterion = task.dataset("train"), ClozeRankingCriterion(task, loss, 1.0)
    optimizer: Any = FusedAdamW(_Config(), [each for each in model.parameters() if each.requires_grad])
    cheapest = dataset.view.cost.argsort(kind="stable")[:3]
    sample = dataset.collater([dataset[item] for item in cheapest])
    with Waits() as waits:
        _, size, log = task.train_step(sample, model, criterion, optimizer, 0)
    assert waits.found == set()
    assert type(size) is int and size == int((sample["gold"] >= 0).sum()) > 0
    assert log[SCORED].shape == (5,) and log[SCORED].dtype == torch.float64
    assert all(type(value) in (int, float) for key, value in log.items() if key != SCORED)
    with Waits() as waits:
        optimizer.multiply_grads(1 / size)
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
    assert waits.found == {"plugin/optimizer.clip_grad_norm: cpu"}


MODERN = {
    **{"norm_first": True, "gated": True, "without_biases": True, "rotary_base": 1e4, "local_rotary_base": 1e3},
    **{"local_attention": 8, "global_every": 3},
}


@pytest.mark.parametrize(
    ("view", "scorer", "options"),
    [("joint", "mean", {}), ("joint", "mean", MODERN), ("joint", "l2r", {}), ("full", "mean", {})],
)
def test_a_step_on_a_device_without_values(
    tmp_path: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch, view: str, scorer: str, options: dict[str, Any]
) -> None:
    """Whatever asks such a device for a value, or brings it together with a CPU, is an error; ways are a GPU's."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **more: nullcontext())  # which it has not
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    shape = {"encoder_layers": 3, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
    task, model = build(data_bin, tmp_path, from_scratch=True, view=view, scorer=scorer, **shape, **options)
    task.load_dataset("train")
    dataset, criterion = task.dataset("train"), ClozeRankingCriterion(task, "softmax", 1.0)
    model.to("meta")
    sample = to_device(dataset.collater([dataset[item] for item in (0, 3, 5)]), "meta")
    _, _, log = task.train_step(sample, model, criterion, FailingOptimizer(model, []), 0)
    assert log[SCORED].shape == (5,) and log[SCORED].is_meta
    assert all(each.grad is not None and each.grad.is_meta for each in model.parameters() if each.requires_grad)


def test_a_step_that_waits_is_found() -> None:
    values = torch.tensor([3, 0, 5])
    with Waits() as waits:
        values.tolist(), int(values[0]), bool(values.any()), values.nonzero(), values[values > 0], values.bincount()
        values.repeat_interleave(values), values.repeat_interleave(values, output_size=8), values[values.clamp(max=2)]
    expected = ("tolist", "__int__", "__bool__", "_local_scalar_dense", "nonzero", "index", "bincount")
    assert waits.found == {f": {name}" for name in (*expected, "repeat_interleave")}


LOGS: list[dict[str, Any]] = [
    {"ntokens": 7, "n_blanks": 3, SCORED: torch.tensor([1.25, 2, 1, 1, 2_500_000], dtype=torch.float64)},
    {"ntokens": 9, "n_blanks": 2, SCORED: torch.tensor([0.1, 0, 0, 0, 999_999], dtype=torch.float64), "oom": 1},
]
SUMMED = {
    **{"loss": 1.35, "n_correct": 2, "n_one_token_correct": 1, "n_multi_token_correct": 1},
    **{"reciprocal_rank": 3_499_999, "ntokens": 16, "n_blanks": 5, "oom": 1},
}


def test_sums_are_exact_numbers() -> None:
    """Of batches, of what fairseq adds up for workers, and of sums themselves."""
    assert plain(LOGS) == SUMMED and plain([]) == {}
    assert plain([plain(LOGS)]) == plain([plain(LOGS[:1]), plain(LOGS[1:])]) == SUMMED
    workers = {key: sum(log[key] for log in LOGS if key in log) for key in ("ntokens", "n_blanks", "oom", SCORED)}
    tensors = {key: value if key == SCORED else torch.tensor(float(value)) for key, value in workers.items()}
    assert plain([tensors]) == SUMMED
    most = 2**53 - 1
    assert plain([{SCORED: torch.tensor([0.0, 0, 0, 0, most], dtype=torch.float64)}])["reciprocal_rank"] == most


def test_without_a_gpu_sums_are_read_at_once() -> None:
    sums = Sums()
    sums.mark()
    assert sums.of(LOGS) == sums.of(LOGS) == SUMMED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_sums_do_not_wait_for_the_step() -> None:
    sums, logs = Sums(), [{**log, SCORED: log[SCORED].cuda()} for log in LOGS]
    assert sums.of(logs) == SUMMED  # without a mark
    busy = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    sums.mark()
    for _ in range(30):  # a long step
        busy = busy @ busy * 1e-4
    done = torch.cuda.current_stream().record_event()
    assert sums.of(logs) == SUMMED
    assert not done.query()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("view", "scorer"), [("joint", "mean"), ("joint", "kmask"), ("neighbors", "mean")])
def test_on_cuda_a_step_waits_for_nothing(tmp_path: Path, data_bin: Path, view: str, scorer: str) -> None:
    """torch itself says where it waits."""
    shape = {"encoder_layers": 2, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
    task, model = build(data_bin, tmp_path, from_scratch=True, view=view, scorer=scorer, **shape)
    task.load_dataset("train")
    dataset, criterion = task.dataset("train"), ClozeRankingCriterion(task, "softmax", 1.0)
    model.cuda()
    optimizer: Any = FusedAdamW(_Config(), list(model.parameters()))
    cheapest = dataset.view.cost.argsort(kind="stable")[:3]
    sample = to_device(dataset.collater([dataset[item] for item in cheapest]), "cuda")
    task.train_step(sample, model, criterion, optimizer, 0)  # what happens only once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.train_step(sample, model, criterion, optimizer, 0)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Config:
    """Options of the optimizer."""

    lr = [0.01]
    adam_betas, adam_eps, weight_decay = (0.9, 0.98), 1e-8, 0.1
