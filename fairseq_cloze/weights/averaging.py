"""Average: one checkpoint from the mean of several, as fairseq's ``scripts/average_checkpoints.py`` makes it.

But a weight keeps its type, and checkpoints that do not belong together are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import PathLike, check_writable
from ..runs.names import BEST_CHECKPOINT, LAST_CHECKPOINT
from .carried import FRESH, save_state
from .checkpoint import Checkpoint, digest


def average_checkpoints(checkpoints: Sequence[PathLike], out: PathLike) -> Path:
    """Write the mean of several checkpoints of one run, or of runs from the same weights.

    Configuration and vocabulary are those of the last one, without optimiser, epoch and best score.  Memory holds the
    sum, in float32, and one checkpoint.

    Args:
        checkpoints: at least two, of fairseq
        out: file to write, whole or not at all; it is returned

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
    for path in paths:
        checkpoint = Checkpoint.read(path)
        checkpoint.require_usable()
        found = _describe(checkpoint)
        expected = expected or found
        for name in [*expected, *found]:
            wanted, other = ("none" if values.get(name) is None else values[name] for values in (expected, found))
            if wanted != other:
                raise CheckpointError(
                    f"{path}: does not belong to {paths[0]}: expected {name} {wanted}, found {other}; average "
                    "checkpoints of one run"
                )
        twin = seen.setdefault(digest(checkpoint.weights, ""), path)
        if twin is not path:
            raise CheckpointError(
                f"{path}: holds the same weights as {twin} and would count twice; name one of them "
                f"({BEST_CHECKPOINT} and {LAST_CHECKPOINT} are copies of others)"
            )
        for name, value in checkpoint.weights.items():
            if name in total:
                total[name] += value
            else:
                wide = torch.promote_types(value.dtype, torch.float32 if value.is_floating_point() else torch.int64)
                total[name] = value.to(wide, copy=True)  # the file's own memory is read-only
    mean = _mean(total, checkpoint.weights, len(paths))
    save_state({**checkpoint.state, "model": mean, **FRESH}, target)
    return target


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


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What must be the same in all checkpoints, by name."""
    vocabulary, encoding = checkpoint.vocabulary, checkpoint.encoding
    return {
        **asdict(checkpoint.architecture),
        "dictionary": vocabulary and vocabulary.dictionary_digest[:12],
        "tokenizer": vocabulary and vocabulary.tokenizer_digest[:12],
        **asdict(checkpoint.carried),
        **(encoding.to_dict() if encoding else {}),
        **{f"weight {name}": f"{tuple(value.shape)} {value.dtype}" for name, value in checkpoint.weights.items()},
    }
