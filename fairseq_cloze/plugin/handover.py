"""Handover: the state of the optimizer and the schedule goes from a checkpoint to the trainer, as far as they fit."""

import ast
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..weights.checkpoint import Checkpoint
from ..weights.reading import load_checkpoint
from .distributed import rank
from .epochs import is_position

logger = logging.getLogger(__name__)

_ADAMS = {"adam", "fused_adamw"}  #: their states are the same
_PRECISION = ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16")


def check_optimizer(source: Checkpoint, now: Any) -> str | None:
    """Make sure that fairseq can take the optimizer's state over.

    Returns:
        ``None`` if it can; else what is to be taken over without it: ``state``, or ``schedule`` where there is no state

    Raises:
        CheckpointError: the state is of another optimizer or schedule, or there is none and nothing else
    """
    state = source.state
    if not is_position((state.get("extra_state") or {}).get("train_iterator")) or not state.get("optimizer_history"):
        raise CheckpointError(
            f"{source.name} holds weights, but no training that could go on; pass it as --finetune-from-model"
        )
    then = state.get("cfg") or {}
    options = {
        "--optimizer": (_name(then.get("optimizer")), _name(now.optimizer), "--reset-optimizer"),
        "--lr-scheduler": (_name(then.get("lr_scheduler")), _name(now.lr_scheduler), "--reset-lr-scheduler"),
        "precision": (_precision(then.get("common") or now.common), _precision(now.common), "--reset-optimizer"),
    }
    found = {what: entry for what, entry in options.items() if entry[0] not in (None, entry[1])}
    if now.checkpoint.reset_lr_scheduler:
        found.pop("--lr-scheduler", None)
    converts = "--optimizer" in found and {*found["--optimizer"][:2]} == _ADAMS and not _has_apex()
    if converts:
        del found["--optimizer"]
    if found:
        differences = "; ".join(f"{what} {earlier} then, {later} now" for what, (earlier, later, _) in found.items())
        resets = " ".join(dict.fromkeys(reset for *_, reset in found.values()))
        leave = "leave --finetune-from-model out and " if now.checkpoint.finetune_from_model else ""
        raise CheckpointError(
            f"{source.name} is of a run with other options ({differences}); take those of then; or {leave}pass "
            f"{resets}, once; or begin another run: --finetune-from-model {source.name} with another --save-dir"
        )
    if state.get("last_optimizer_state") is None:  # nor a schedule in weights that were imported or averaged
        return "schedule" if state["optimizer_history"][-1].get("lr_scheduler_state") else None
    return "state" if converts else None


def _precision(common: Any) -> str:
    return " ".join(f"--{name.replace('_', '-')}" for name in _PRECISION if common.get(name)) or "float32"


def _has_apex() -> bool:
    """Whether ``fused_adamw`` can be apex's, whose state is another."""
    return torch.cuda.is_available() and importlib.util.find_spec("apex") is not None


def _name(options: Any) -> str | None:
    name = options.get("_name") if isinstance(options, Mapping) else getattr(options, "_name", None)
    return None if name is None else str(name)


@contextmanager
def without_optimizer(cfg: Any) -> Iterator[None]:
    """fairseq leaves the optimizer alone, as it refuses states whose class has another name."""
    finetuned_from = cfg.finetune_from_model
    cfg.reset_optimizer, cfg.finetune_from_model = True, None  # which do not go together
    try:
        yield
    finally:
        cfg.reset_optimizer, cfg.finetune_from_model = False, finetuned_from


def take_optimizer(source: Checkpoint, trainer: Any, then: Mapping[str, Any], what: str, epoch: int) -> None:
    """Do what fairseq left out: number of updates, schedule, and the state of the optimizer if there is one."""
    cfg, history = trainer.cfg.checkpoint, source.state["optimizer_history"][-1]
    if not cfg.reset_lr_scheduler:
        trainer.lr_scheduler.load_state_dict(history["lr_scheduler_state"])
    if what == "state":
        state = load_checkpoint(Path(source.path), source.name, optimizer=True)["last_optimizer_state"]
        trainer.optimizer.load_state_dict(_as_state_of(trainer, state), ast.literal_eval(cfg.optimizer_overrides))
    elif "rate" in then:
        trainer.optimizer.set_lr(then["rate"])
    trainer.set_num_updates(history["num_updates"])
    trainer.lr_step(epoch)
    if rank() != 0:
        return
    if what == "schedule":
        logger.warning(
            "%s holds no state of the optimizer (--no-save-optimizer-state): the run goes on after update %s with an "
            "optimizer that begins anew, so its curve is not that of a run that was left alone",
            *(source.name, f"{trainer.get_num_updates():,}"),
        )
    else:
        logger.info("the state of the optimizer goes over to --optimizer %s", trainer.cfg.optimizer._name)


def _as_state_of(trainer: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of ``adam`` or ``fused_adamw`` as the optimizer of today has it."""
    moments = {
        number: {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}
        | {"step": int(values["step"])}
        for number, values in state["state"].items()
    }
    groups = [
        {**today, "lr": then["lr"], "params": then["params"]}
        for today, then in zip(trainer.optimizer.param_groups, state["param_groups"])
    ]
    return {**state, "state": moments, "param_groups": groups}
