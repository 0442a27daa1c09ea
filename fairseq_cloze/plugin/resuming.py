"""Resuming: what a run remembers beyond fairseq's state; it stands in its checkpoints and is of this run alone.

fairseq keeps the best score and the count of validations without a better one in the process, and takes both over from
whatever checkpoint it loads.
"""

import importlib
import importlib.util
import logging
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any

import numpy as np

from ..data.store import Store
from ..errors import CheckpointError, ClozeError
from ..files import stamp
from ..runs.names import LAST_CHECKPOINT
from ..views.settings import CARRIED
from ..views.view import blank_fields
from ..weights.checkpoint import Checkpoint, digests, unusable
from .distributed import rank
from .events import plain
from .handover import check_optimizer, take_optimizer, without_optimizer
from .source import LOWER_RATE, start_option, value_of, what_is_sound
from .stopping import RESETS

logger = logging.getLogger(__name__)

MEMORY = "cloze_run"  #: where it stands in the ``extra_state`` of a checkpoint

_FILE = "file"  # beside the parts of the weights in ``start``

_FIELDS: dict[str, Any] = {
    **{"start": (dict, NoneType), "data": list, "measure": (list, NoneType), "best": (float, int, NoneType)},
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
        _say(f"{name}: what its run remembers cannot be read, or an earlier version wrote it; its patience begins anew")
        return {}
    return found


class Memory:
    """What one run knows of itself.

    Args:
        trainer: fairseq's, with configuration and task
        start: what is known of the weights that the run began with, see :func:`_start`; ``None`` if nothing is

    Raises:
        ClozeError: see :func:`require_counted`
    """

    def __init__(self, trainer: Any, start: Mapping[str, str] | None) -> None:
        cfg, task = trainer.cfg, trainer.task
        self._trainer, self._start = trainer, start
        subset, checkpoint = cfg.dataset.valid_subset.split(",")[0], cfg.checkpoint
        #: digests of the passages that are trained on
        self.data = [shard.open(cfg.dataset.train_subset).digest for shard in task.shards]
        #: what scores have to agree in to be compared; ``None`` without validation
        self.measure: list[Any] | None = None
        #: epoch whose validation was broken off, and whether it was at its end; ``None`` mostly
        self.owes: tuple[int, bool] | None = None
        if not cfg.dataset.disable_validation and subset in task.datasets:
            metric, options = checkpoint.best_checkpoint_metric, cfg.criterion
            store = task.datasets[subset].view.store
            require_counted(metric, subset, store)
            loss = [value_of(options.ranking_loss), options.ranking_margin] if metric == "loss" else []
            order = "highest" if checkpoint.maximize_best_checkpoint_metric else "lowest"
            self.measure = [metric, order, subset, store.digest, *loss]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint.

        Raises:
            CheckpointError: its weights are such that nothing could go on from it
        """
        count, found = unusable(dict(self._trainer.get_model().named_parameters()))
        if count:
            save_dir = self._trainer.cfg.checkpoint.save_dir
            raise CheckpointError(
                f"after update {self._trainer.get_num_updates()} {found}; this is not saved. {LOWER_RATE}. "
                f"{what_is_sound(save_dir)}"
            )
        counted = next(_patience(), {})
        plateau = getattr(self._trainer.lr_scheduler, "lr_scheduler", None)  # of reduce_lr_on_plateau
        return {
            "start": self._start,
            "data": self.data,
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


#: Figures that count some blanks only: whether those are the blanks with an option of several tokens.
_SOME = {"accuracy_one_token": False, "accuracy_multi_token": True}


def require_counted(figure: str, subset: str, store: Store) -> None:
    """Make sure that a split has blanks that the figure counts by which checkpoints are chosen.

    Raises:
        ClozeError: it has none, so the figure would be no number
    """
    if figure in _SOME:
        fields = blank_fields(store, np.arange(store.blanks))
        if not ((fields["gold"] >= 0) & (fields["multi_token"] == _SOME[figure])).any():
            kind = "with an option of several tokens" if _SOME[figure] else "whose options all have one token"
            raise ClozeError(
                f"--best-checkpoint-metric {figure}: expected blanks {kind} in split '{subset}', found none; pass "
                "--best-checkpoint-metric accuracy, or another --valid-subset"
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
        task.memory = Memory(trainer, _start(source) if source else None)
        return extra, epochs
    state = source.state.get("extra_state") or {}
    then = remembered(state, source.name)
    own = option == "last" or source.path.parent.resolve() == Path(cfg.save_dir).resolve()
    anew = None if cfg.reset_optimizer else check_optimizer(source, trainer.cfg)
    with without_optimizer(cfg) if anew else nullcontext():
        extra, epochs = plain(cfg, trainer, **arguments)
    if anew:
        take_optimizer(source, trainer, then, anew, epochs.epoch)
    memory = task.memory = Memory(trainer, then.get("start"))
    position = state.get("train_iterator") or {}
    at_start = not position.get("iterations_in_epoch")
    if resets:
        _say(f"{', '.join(resets)}: this is done at each start; leave it out when this run is to go on")
    if own:
        tell_changes(source, trainer.cfg, memory.data, then)
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


def tell_changes(source: Checkpoint, now: Any, data: Sequence[str], then: Mapping[str, Any]) -> None:
    """Say where a run goes on as another one: other *data*, by digest, weights or view; or with other options."""
    if rank() != 0:
        return
    others = [] if then.get("data") in (None, data) else ["other training passages then"]
    given = now.checkpoint.finetune_from_model
    if then.get("start") and given and Path(given).is_file() and not _is_start(Path(given), then["start"]):
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


def _start(source: Checkpoint) -> dict[str, Any]:
    """What tells the weights that a run begins with apart from others: digests by part, and what their file is."""
    return {**digests(source.weights), _FILE: list(stamp(os.stat(source.path)))}


def _is_start(path: Path, start: Mapping[str, Any]) -> bool:
    """Whether a run began with the weights of a file; it is read only if it is not the file of then."""
    known = dict(start)
    return known.pop(_FILE, None) == list(stamp(os.stat(path))) or digests(Checkpoint.read(path).weights) == known


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
