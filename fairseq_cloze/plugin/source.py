"""Source: the checkpoint that a training starts from, by fairseq's own rules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..views.settings import CARRIED
from ..weights.checkpoint import Architecture, State
from .model import MODEL_NAME

logger = logging.getLogger(__name__)

#: What fairseq resumes, if it lies in ``--save-dir``; also its default of ``--restore-file``.
LAST = "checkpoint_last.pt"


def find_source(cfg: Any) -> Path | None:
    """Which checkpoint fairseq is going to load; ``None`` for random weights.

    Args:
        cfg: options of the task

    Raises:
        CheckpointError: it is missing, or none was given and ``--from-scratch`` neither
    """
    given = cfg.finetune_from_model or cfg.continue_once or cfg.restore_file != LAST
    if cfg.from_scratch and given:
        raise CheckpointError("--from-scratch starts from random weights; leave it out, or the checkpoint")
    last = Path(cfg.save_dir, LAST)
    if cfg.restore_file != LAST:
        return _existing(Path(cfg.restore_file), "--restore-file")
    if last.exists():
        logger.info("resuming from %s", last)
        return last
    for option in ("continue_once", "finetune_from_model"):
        if getattr(cfg, option):
            return _existing(Path(getattr(cfg, option)), f"--{option.replace('_', '-')}")
    if cfg.from_scratch:
        logger.warning("training starts from random weights, as --from-scratch asks for")
        return None
    raise CheckpointError(
        "no pretrained weights: pass --finetune-from-model MODEL.PT (made by 'fairseq-cloze import-hf', or RoBERTa "
        "of fairseq), or --from-scratch to start from random weights on purpose"
    )


def _existing(path: Path, option: str) -> Path:
    if not path.is_file():
        raise CheckpointError(
            f"{option} {path}: no such checkpoint; training would start from random weights, check the path"
        )
    return path


def warn_of_another_run(state: State, last: Path, cfg: Any) -> None:
    """fairseq resumes whatever lies in ``--save-dir``; say so where that was another run.

    Args:
        state: the checkpoint *last*
        last: its path
        cfg: options of the task
    """
    earlier = (state.get("cfg") or {}).get("task") or {}
    changed = [
        f"{name} {earlier[name]} then, {value_of(getattr(cfg, name))} now"
        for name in ("data", "finetune_from_model", *CARRIED)
        if name in earlier and earlier[name] != value_of(getattr(cfg, name))
    ]
    if changed:
        logger.warning(
            "%s is of another run (%s) and is resumed all the same; give each run its own --save-dir",
            last,
            "; ".join(changed),
        )


def check_architecture(architecture: Architecture, cfg: Any, path: Path) -> None:
    """Make sure that a checkpoint fits the model that is going to be built.

    Args:
        architecture: the checkpoint's
        cfg: options of the model
        path: of the checkpoint

    Raises:
        CheckpointError: it does not; names the differences
    """
    differences: list[str] = architecture.differences(cfg)
    if differences:
        raise CheckpointError(
            f"{path} does not fit the model: {'; '.join(differences)}; "
            f"pass --arch {MODEL_NAME}, which takes its shape from the checkpoint"
        )


def value_of(choice: Any) -> Any:
    """Text of a ``ChoiceEnum`` option, which fairseq gives as text or as an enum; other values as they are."""
    return getattr(choice, "value", choice)
