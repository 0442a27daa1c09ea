"""Source: the checkpoint that a training starts from, by fairseq's own rules, and the proof that it was loaded."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..runs.names import LAST_CHECKPOINT
from ..views.settings import CARRIED
from ..weights.checkpoint import Checkpoint, digests
from .distributed import gather, rank
from .model import fill_config
from .names import MODEL_NAME

logger = logging.getLogger(__name__)

_TOLD_APART = ("data", "finetune_from_model", *CARRIED)


def find_source(cfg: Any) -> Checkpoint | None:
    """The checkpoint that fairseq is going to load by the options of the task; ``None`` for random weights.

    Raises:
        CheckpointError: it is missing or cannot be read, or none was given and ``--from-scratch`` neither
    """
    given = cfg.finetune_from_model or cfg.continue_once or cfg.restore_file != LAST_CHECKPOINT
    if cfg.from_scratch and given:
        raise CheckpointError("--from-scratch starts from random weights; leave it out, or the checkpoint")
    last = Path(cfg.save_dir, LAST_CHECKPOINT)
    if cfg.restore_file != LAST_CHECKPOINT:
        return _read(Path(cfg.restore_file), "--restore-file")
    if last.exists():
        return _resumed(last, cfg)
    for option in ("continue_once", "finetune_from_model"):
        if getattr(cfg, option):
            return _read(Path(getattr(cfg, option)), f"--{option.replace('_', '-')}")
    if cfg.from_scratch:
        logger.warning("training starts from random weights, as --from-scratch asks for")
        return None
    raise CheckpointError(
        "no pretrained weights: pass --finetune-from-model MODEL.PT (made by 'fairseq-cloze import-hf', or RoBERTa "
        "of fairseq), or --from-scratch to start from random weights on purpose"
    )


def _read(path: Path, option: str) -> Checkpoint:
    if not path.is_file():
        raise CheckpointError(
            f"{option} {path}: no such checkpoint; training would start from random weights, check the path"
        )
    checkpoint = Checkpoint.read(path)
    checkpoint.require_sound()
    return checkpoint


def _resumed(path: Path, cfg: Any) -> Checkpoint:
    """fairseq resumes whatever lies in ``--save-dir``; say so where that was another run."""
    logger.info("resuming from %s", path)
    last = Checkpoint.read(path)
    last.require_sound()
    earlier, now = last.task_options, {key: value_of(getattr(cfg, key)) for key in _TOLD_APART}
    changed = [f"{key} {earlier[key]} then, {now[key]} now" for key in now if earlier.get(key, now[key]) != now[key]]
    if changed:
        logger.warning(
            "%s is of another run (%s) and is resumed all the same; give each run its own --save-dir",
            *(last.name, "; ".join(changed)),
        )
    return last


def fit_model(source: Checkpoint, cfg: Any) -> None:
    """Give a model the shape of its checkpoint where its options *cfg* leave it open; else name the differences."""
    architecture = source.architecture
    if getattr(cfg, "_name", None) == MODEL_NAME:
        fill_config(cfg, vars(architecture))
    elif isinstance(cfg, Namespace):
        cfg.layer_norm_eps = architecture.layer_norm_eps
    differences = architecture.differences(cfg)
    if differences:
        raise CheckpointError(
            f"{source.name} does not fit the model: {'; '.join(differences)}; "
            f"pass --arch {MODEL_NAME}, which takes its shape from the checkpoint"
        )


def prove_everywhere(source: Checkpoint, model: nn.Module) -> str:
    """Make sure that the model of every worker holds the weights of a checkpoint; says what was proved.

    Raises:
        CheckpointError: one does not; names encoder or LM head.  Every worker stops with the same text.
    """
    # The first worker compares with the file; all others must hold what it holds.
    weights = model.state_dict()  # which sharded models gather, all workers together
    own = digests(weights)
    line, problem = "", ""
    if rank() == 0:
        try:
            line = source.prove_load(weights, own)
        except CheckpointError as error:
            problem = str(error)
    workers = gather((line, problem, own))
    line, problem, wanted = workers[0]
    for number, (_, _, found) in enumerate(workers):
        for part in wanted:
            if not problem and found[part] != wanted[part]:
                problem = (
                    f"the {part} of worker {number} is not that of worker 0: expected digest {wanted[part][:12]}, "
                    f"found {found[part][:12]}; check that all workers read the same checkpoint"
                )
    if problem:
        raise CheckpointError(problem)
    return line


def value_of(choice: Any) -> Any:
    """Text of a ``ChoiceEnum`` option, which fairseq gives as text or as an enum; other values as they are."""
    return getattr(choice, "value", choice)
