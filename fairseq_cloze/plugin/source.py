"""Source: the checkpoint that a training starts from, by fairseq's own rules, and the proof that it was loaded."""

import logging
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..files import PathLike
from ..runs.names import LAST_CHECKPOINT
from ..weights.checkpoint import Checkpoint, digests
from .distributed import gather, rank
from .model import fill_config
from .names import ANY_ARCHITECTURE, OPEN_ARCHITECTURES

logger = logging.getLogger(__name__)

LOWER_RATE = "Take a lower --lr, or --warmup-updates and --clip-norm 1.0"


def start_option(cfg: Any) -> str | None:
    """The option that names the checkpoint fairseq is going to load; ``last`` for that of the save-dir, or none."""
    if cfg.restore_file != LAST_CHECKPOINT:
        return "restore_file"
    if Path(cfg.save_dir, LAST_CHECKPOINT).exists():
        return "last"
    return next((option for option in ("continue_once", "finetune_from_model") if getattr(cfg, option)), None)


def find_source(cfg: Any) -> Checkpoint | None:
    """The checkpoint that fairseq is going to load by the options of the task; ``None`` for random weights.

    Raises:
        CheckpointError: it is missing, cannot be read or used, or none was given and ``--from-scratch`` neither
    """
    given = cfg.finetune_from_model or cfg.continue_once or cfg.restore_file != LAST_CHECKPOINT
    if cfg.from_scratch and given:
        raise CheckpointError("--from-scratch starts from random weights; leave it out, or the checkpoint")
    option = start_option(cfg)
    if option == "restore_file" and cfg.finetune_from_model:
        raise CheckpointError("--restore-file and --finetune-from-model both name a checkpoint; leave one of them out")
    if option == "last":
        return _resumed(Path(cfg.save_dir, LAST_CHECKPOINT))
    if option is not None:
        path = Path(getattr(cfg, option))
        if not path.is_file():
            raise CheckpointError(
                f"--{option.replace('_', '-')} {path}: no such checkpoint; training would start from random weights, "
                "check the path"
            )
        return _read(path)
    if cfg.from_scratch:
        logger.warning("training starts from random weights, as --from-scratch asks for")
        return None
    raise CheckpointError(
        "no pretrained weights: pass --finetune-from-model MODEL.PT (made by 'fairseq-cloze import-hf', or a RoBERTa "
        "of fairseq), or --from-scratch to start from random weights on purpose"
    )


def _read(path: Path) -> Checkpoint:
    """A checkpoint that can be trained: it fits its model, and its weights are numbers to compute with."""
    checkpoint = Checkpoint.read(path)
    checkpoint.require_sound()
    return checkpoint


def _resumed(path: Path) -> Checkpoint:
    """The checkpoint that is resumed; where it is damaged, say which other one is whole."""
    logger.info("resuming from %s", path)
    try:
        return _read(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {what_is_sound(path.parent)}") from error


def what_is_sound(save_dir: PathLike) -> str:
    """Which checkpoint of a save-dir a training can go on from, in words for the end of a message."""
    last, others = Path(save_dir, LAST_CHECKPOINT), []
    for path in Path(save_dir).glob("checkpoint*.pt"):
        with suppress(CheckpointError):
            others.append((_read(path).progress.updates or 0, path == last, path))
    if not others:
        return f"No checkpoint in {save_dir} is sound" + (f": remove {last} to begin anew" if last.exists() else "")
    updates, is_last, newest = max(others)
    how = "the same command goes on there" if is_last else f"'cp {newest} {last}' goes back to it"
    return f"{newest} is sound, of update {updates:,}: {how}"


def fit_model(source: Checkpoint, cfg: Any) -> None:
    """Give a model the shape of its checkpoint where its options *cfg* leave it open; else name the differences."""
    architecture = source.architecture
    if getattr(cfg, "_name", None) in OPEN_ARCHITECTURES:
        fill_config(cfg, vars(architecture))
        if cfg._name == ANY_ARCHITECTURE:
            fill_config(cfg, source.dropouts)
    elif isinstance(cfg, Namespace):
        cfg.layer_norm_eps = architecture.layer_norm_eps
    differences = architecture.differences(cfg)
    if differences:
        raise CheckpointError(
            f"{source.name} does not fit the model: {'; '.join(differences)}; "
            f"pass --arch {ANY_ARCHITECTURE}, which takes its shape from the checkpoint"
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
