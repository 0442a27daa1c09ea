"""Resuming: what a run remembers beyond fairseq's state; it stands in its checkpoints and is of this run alone.

fairseq keeps the best score and the count of validations without a better one in the process, and takes both over from
whatever checkpoint it loads.
"""

import ast
import importlib
import importlib.util
import logging
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..runs.names import LAST_CHECKPOINT
from ..views.settings import CARRIED
from ..weights.checkpoint import Checkpoint, digests
from ..weights.reading import load_checkpoint
from .dataset import store_digest
from .distributed import rank
from .epochs import is_position
from .events import plain
from .source import LOWER_RATE, start_option, unusable, value_of, what_is_sound
from .stopping import RESETS

logger = logging.getLogger(__name__)

MEMORY = "cloze_run"  #: where it stands in the ``extra_state`` of a checkpoint

_ADAMS = {"adam", "fused_adamw"}  #: their states are the same
_PRECISION = ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16")


_FIELDS: dict[str, Any] = {
    **{"start": (dict, NoneType), "passages": list, "measure": (list, NoneType), "best": (float, int, NoneType)},
    **{"not_better": int, "rate": (float, int), "plateau": (int, NoneType), "owes": (list, tuple, NoneType)},
}


def remembered(extra: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the checkpoint *name* says of its run, by the names of :meth:`Memory.to_dict`; nothing where it is older."""
    found = extra.get(MEMORY)
    if found is None:
        return {}
    fits = isinstance(found, dict) and all(isinstance(found.get(key, ...), kind) for key, kind in _FIELDS.items())
    measure, owes = (found["measure"], found["owes"]) if fits else ([], None)
    if (measure is not None and len(measure) < 4) or (owes is not None and [*map(type, owes)] != [int, bool]):
        _say(f"{name}: what its run remembers cannot be read; best score and patience begin anew")
        return {}
    return found


class Memory:
    """What one run knows of itself.

    Args:
        trainer: fairseq's, with configuration and task
        start: digests of the weights that the run began with, by part; ``None`` if they are not known
    """

    def __init__(self, trainer: Any, start: Mapping[str, str] | None) -> None:
        cfg, task = trainer.cfg, trainer.task
        self._trainer, self._start = trainer, start
        subset, checkpoint = cfg.dataset.valid_subset.split(",")[0], cfg.checkpoint
        #: digests of the passages that are trained on
        self.passages = [store_digest(shard.open(cfg.dataset.train_subset)) for shard in task.shards]
        #: what scores have to agree in to be compared; ``None`` without validation
        self.measure: list[Any] | None = None
        #: epoch whose validation was broken off, and whether it was at its end; ``None`` mostly
        self.owes: tuple[int, bool] | None = None
        if not cfg.dataset.disable_validation and subset in task.datasets:
            metric, options = checkpoint.best_checkpoint_metric, cfg.criterion
            loss = [value_of(options.ranking_loss), options.ranking_margin] if metric == "loss" else []
            order = "highest" if checkpoint.maximize_best_checkpoint_metric else "lowest"
            self.measure = [metric, order, subset, store_digest(task.datasets[subset].view.store), *loss]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint.

        Raises:
            CheckpointError: its weights are such that nothing could go on from it
        """
        bad = unusable(dict(self._trainer.get_model().named_parameters()))
        if bad:
            save_dir = self._trainer.cfg.checkpoint.save_dir
            raise CheckpointError(
                f"after update {self._trainer.get_num_updates()} {bad}; this is not saved. {LOWER_RATE}. "
                f"{what_is_sound(save_dir)}"
            )
        counted = next(_patience(), {})
        plateau = getattr(self._trainer.lr_scheduler, "lr_scheduler", None)  # of reduce_lr_on_plateau
        return {
            "start": self._start,
            "passages": self.passages,
            "measure": self.measure,
            "best": counted.get("best"),
            "not_better": counted.get("num_runs", 0),
            "rate": float(self._trainer.get_lr()),
            "plateau": getattr(plateau, "num_bad_epochs", None),
            "owes": self.owes,
        }

    def take_scores(self, then: Mapping[str, Any], best: Any, name: str) -> None:
        """Go on with the best score and the patience of an earlier process of this run, where they can be compared."""
        if self.measure is None or then.get("measure") in (None, self.measure):
            self.measure = self.measure or then.get("measure")
            if best is not None:
                _best()["best"] = best
            for counted in _patience() if then.get("best") is not None else ():
                counted.update(best=then["best"], num_runs=then["not_better"])
        elif best is not None:
            _say(
                f"{name}: its best score so far is {_measured(then['measure'])}, now it is to be "
                f"{_measured(self.measure)}; it is forgotten, and the next validation is the best one"
            )


def load(plain: Callable[..., Any], cfg: Any, trainer: Any, **arguments: Any) -> Any:
    """fairseq's ``load_checkpoint``, after which the run is as it was when it saved; ends what is finished.

    Raises:
        CheckpointError: the checkpoint does not go with the options; says with which ones it does
    """
    for scores in (_best(), *_patience()):  # by another run in this process
        for key in ("best", "num_runs"):
            scores.pop(key, None)
    task, option = trainer.task, start_option(cfg)
    source: Checkpoint | None = task.source
    resets = [f"--{name.replace('_', '-')}" for name in RESETS if getattr(cfg, name)]
    if source is None or option == "finetune_from_model":
        extra, epochs = plain(cfg, trainer, **arguments)
        trainer._previous_training_time = 0  # is of another run
        task.memory = Memory(trainer, digests(source.weights) if source else None)
        return extra, epochs
    state = source.state.get("extra_state") or {}
    then = remembered(state, source.name)
    own = option == "last" or source.path.parent.resolve() == Path(cfg.save_dir).resolve()
    anew = None if cfg.reset_optimizer else _check(source, trainer.cfg)
    with _without_optimizer(cfg) if anew else nullcontext():
        extra, epochs = plain(cfg, trainer, **arguments)
    if anew:
        _take_optimizer(source, trainer, then, anew, epochs.epoch)
    memory = task.memory = Memory(trainer, then.get("start"))
    position = state.get("train_iterator") or {}
    at_start = not position.get("iterations_in_epoch")
    if resets:
        _say(f"{', '.join(resets)}: this is done at each start; leave it out when this run is to go on")
    if own:
        tell_changes(source, trainer.cfg, memory.passages, then)
        if not cfg.reset_meters and not cfg.reset_optimizer:
            memory.take_scores(then, state.get("best"), source.name)
    else:
        trainer._previous_training_time = 0
        _best().pop("best", None)
        _say(
            f"{source.name} is of another run: its best score, its patience and its time do not count in {cfg.save_dir}"
        )
        last = Path(cfg.save_dir, LAST_CHECKPOINT)
        if last.exists():
            _say(
                f"{last} is not resumed, as --restore-file names another checkpoint, at each start; --continue-once "
                f"{source.name} would do so once, and then go on"
            )
    if own and not resets:
        plateau = getattr(trainer.lr_scheduler, "lr_scheduler", None)
        if plateau is not None:
            plateau.num_bad_epochs = then.get("plateau") or 0
        if then.get("owes"):
            _validate_belatedly(trainer, position, *then["owes"])
        elif at_start and state.get("val_loss") is not None:  # as fairseq does after an epoch
            trainer.lr_step(position["epoch"] - 1, state["val_loss"])
        if not at_start:
            _finish_epoch(trainer)
        hours = state.get("previous_training_time", 0) / 3600
        task.done = _end(trainer, epochs.next_epoch_idx, at_start, hours)
        if task.done:
            logger.info("nothing left to do: %s", task.done)
            task.events.begin(trainer.cfg, trainer.get_num_updates(), epochs.next_epoch_idx)
            task.events.tell("finished")
    return extra, epochs


def _validate_belatedly(trainer: Any, position: Mapping[str, Any], epoch: int, at_end: bool) -> None:
    """Validate and save where a training that was told to stop had no time to, if that was due."""
    train = importlib.import_module("fairseq_cli.train")
    task, cfg = trainer.task, trainer.cfg
    task.events.begin(cfg, trainer.get_num_updates(), epoch)
    there = SimpleNamespace(epoch=epoch, end_of_epoch=lambda: at_end, state_dict=lambda: dict(position))
    losses, _ = train.validate_and_save(cfg, trainer, task, there, cfg.dataset.valid_subset.split(","), at_end)
    if at_end:
        trainer.lr_step(epoch, losses[0])


def _finish_epoch(trainer: Any) -> None:
    """fairseq looks at ``--stop-min-lr`` between two epochs, and once at the start, which may be inside one."""

    def get_lr() -> float:
        del trainer.get_lr
        return math.inf

    trainer.get_lr = get_lr


def _best() -> dict[str, Any]:
    """Where fairseq keeps the best score."""
    from fairseq import checkpoint_utils

    return vars(checkpoint_utils.save_checkpoint)


def _patience() -> Iterator[dict[str, Any]]:
    """Where fairseq's training keeps the count of validations without a better one."""
    for name in ("fairseq_cli.train", "__main__"):
        function = getattr(sys.modules.get(name), "should_stop_early", None)
        if function is not None:
            yield vars(function)


def _say(text: str) -> None:
    if rank() == 0:
        logger.warning("%s", text)


def _measured(measure: list[Any]) -> str:
    metric, order, subset, passages, *loss = measure
    return f"the {order} {metric} on {subset} ({', '.join([f'passages {passages[:12]}', *map(str, loss)])})"


def _end(trainer: Any, epoch: int, at_start: bool, hours: float) -> str:
    """What has ended the run that a checkpoint is of, by the limits of today; empty if it goes on."""
    limits, updates = trainer.cfg.optimization, trainer.get_num_updates()
    counted, patience = next(_patience(), {}).get("num_runs", 0), trainer.cfg.checkpoint.patience
    if updates >= (limits.max_update or math.inf):
        return f"{updates} of {limits.max_update} updates are done"
    if epoch > (limits.max_epoch or math.inf):
        return f"{epoch - 1} of {limits.max_epoch} epochs are done"
    if 0 < patience <= counted:
        return f"the last {counted} validations were no better (--patience {patience})"
    if 0 < limits.stop_time_hours < hours:
        return f"{hours:.2f} hours of training are over (--stop-time-hours {limits.stop_time_hours})"
    if at_start and trainer.get_lr() <= limits.stop_min_lr:
        return f"the learning rate is {trainer.get_lr()} (--stop-min-lr {limits.stop_min_lr})"
    return ""


def _check(source: Checkpoint, now: Any) -> str | None:
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
def _without_optimizer(cfg: Any) -> Iterator[None]:
    """fairseq leaves the optimizer alone, as it refuses states whose class has another name."""
    finetuned_from = cfg.finetune_from_model
    cfg.reset_optimizer, cfg.finetune_from_model = True, None  # which do not go together
    try:
        yield
    finally:
        cfg.reset_optimizer, cfg.finetune_from_model = False, finetuned_from


def _take_optimizer(source: Checkpoint, trainer: Any, then: Mapping[str, Any], what: str, epoch: int) -> None:
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
    updates = trainer.get_num_updates()
    if what == "schedule":
        _say(
            f"{source.name} holds no state of the optimizer (--no-save-optimizer-state): the run goes on after update "
            f"{updates:,} with an optimizer that begins anew, so its curve is not that of a run that was left alone"
        )
    elif rank() == 0:
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


def tell_changes(source: Checkpoint, now: Any, passages: Sequence[str], then: Mapping[str, Any]) -> None:
    """Say where a run goes on as another one: other *passages*, by digest, weights or view; or with other options."""
    if rank() != 0:
        return
    others = [] if then.get("passages") in (None, passages) else ["other training passages then"]
    given = now.checkpoint.finetune_from_model
    if then.get("start") and given and Path(given).is_file():
        if digests(Checkpoint.read(Path(given)).weights) != then["start"]:
            others.append(f"other weights than those of --finetune-from-model {given} then")
    others += _changes(source, now, "task", CARRIED)
    if others:
        logger.warning(
            "%s is of another run (%s) and is resumed all the same; give each run its own --save-dir",
            *(source.name, "; ".join(others)),
        )
    options = [
        *_changes(source, now, "criterion", ("ranking_loss", "ranking_margin")),
        *_changes(source, now, "optimization", ("lr", "clip_norm")),
        *_changes(source, now, "lr_scheduler"),
        *_changes(source, now, "model", ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")),
    ]
    if options:
        logger.warning("%s goes on with other options: %s", source.name, "; ".join(options))
    kept = _changes(source, now, "optimizer")
    if kept:
        logger.warning(
            "%s goes on with the optimizer's options of then (%s); --optimizer-overrides changes them",
            *(source.name, "; ".join(kept)),
        )


def _changes(source: Checkpoint, now: Any, group: str, names: Sequence[str] = ()) -> list[str]:
    """Options of a group, or those of them with *names*, that a checkpoint was saved with otherwise."""
    earlier = (source.state.get("cfg") or {}).get(group) or {}
    if isinstance(earlier, Namespace):  # an optimizer of old: all options of all groups
        names = ("momentum", "weight_decay")
    then, today = plain(earlier), plain(now[group])
    both = [name for name in names or sorted({*then} - {"_name", "lr"}) if name in then and name in today]
    return [
        f"--{name.replace('_', '-')} {then[name]} then, {today[name]} now" for name in both if then[name] != today[name]
    ]
