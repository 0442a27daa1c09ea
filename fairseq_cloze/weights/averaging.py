"""Average: one checkpoint from the mean of several, as fairseq's ``scripts/average_checkpoints.py`` makes it.

Sums are taken in float32, integers are divided with the remainder dropped.  Two things differ from fairseq's script: a
weight keeps its type, and checkpoints that do not belong together are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import PathLike, cannot_write, check_writable, replacing
from .checkpoint import State, digest, load_state, read_architecture, read_task_state, read_vocabulary, roberta_weights


def average(checkpoints: Sequence[PathLike], out: PathLike) -> Path:
    """Write the mean of several checkpoints of one run, or of runs from the same weights.

    Configuration and vocabulary are those of the last one.  Optimiser, epoch and best score are left out, as they are
    not those of the mean.  Memory holds the sum and one checkpoint.

    Args:
        checkpoints: at least two, of fairseq
        out: file to write, whole or not at all

    Returns:
        path of the file

    Raises:
        CheckpointError: one cannot be read, or they do not belong together; says what differs
        ClozeError: *out* cannot be written
    """
    paths, target = [Path(path) for path in checkpoints], Path(out)
    if len(paths) < 2:
        raise CheckpointError(f"expected at least two checkpoints to average, found {len(paths)}; name each file")
    check_writable(target)
    if target.exists() and any(path.exists() and path.samefile(target) for path in paths):
        raise CheckpointError(f"{target}: would replace a checkpoint that it is made from; choose another file")
    expected: dict[str, Any] = {}
    seen: dict[str, Path] = {}
    total: dict[str, Tensor] = {}
    state: State = {}
    for path in paths:
        state = load_state(path)
        weights = roberta_weights(state, path)
        found = _describe(state, weights, path)
        expected = expected or found
        _check_same(expected, found, paths[0], path)
        other = seen.setdefault(digest(weights, ""), path)
        if other is not path:
            raise CheckpointError(
                f"{path}: holds the same weights as {other} and would count twice; name one of them "
                "(checkpoint_best.pt and checkpoint_last.pt are copies of others)"
            )
        _add(total, weights)
        last = weights
    state["model"] = _mean(total, last, len(paths))
    state["last_optimizer_state"] = None
    state["extra_state"] = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None}
    _save(state, target)
    return target


def _add(total: dict[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        wide = value.to(_wide(value.dtype))
        if name in total:
            total[name] += wide
        else:
            total[name] = wide.clone()  # the file's own memory is read-only


def _wide(dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        return torch.int64
    return torch.float64 if dtype == torch.float64 else torch.float32


def _mean(total: dict[str, Tensor], last: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Divide the sums; weights that are one in *last*, such as embedding and projection, are one again."""
    mean: dict[str, Tensor] = {}
    owners: dict[int, str] = {}
    for name, value in total.items():
        rounding = None if value.is_floating_point() else "floor"
        mean[name] = torch.div(value, number, rounding_mode=rounding).to(last[name].dtype)
        owner = owners.setdefault(last[name].data_ptr(), name)
        if torch.equal(mean[owner], mean[name]):
            mean[name] = mean[owner]
    return mean


def _describe(state: State, weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """What must be the same in all checkpoints, by name."""
    vocabulary = read_vocabulary(state, path)
    carried = read_task_state(state)
    return {
        **asdict(read_architecture(state, path)),
        "dictionary": vocabulary and vocabulary.dictionary_digest[:12],
        "BPE": vocabulary and vocabulary.bpe_digest[:12],
        **{name: value for name, value in carried.items() if name not in ("version", "vocabulary", "encoding")},
        **carried.get("encoding", {}),
        **{f"weight {name}": f"{tuple(value.shape)} {value.dtype}" for name, value in weights.items()},
    }


def _check_same(expected: Mapping[str, Any], found: Mapping[str, Any], first: Path, path: Path) -> None:
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: does not belong to {first}: expected {name} {_show(expected.get(name))}, found "
                f"{_show(found.get(name))}; average checkpoints of one run"
            )


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


def _save(state: State, path: Path) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise cannot_write(path, str(error).strip().splitlines()[0]) from error
