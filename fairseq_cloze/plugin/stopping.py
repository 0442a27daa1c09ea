"""Requeue: a training that is told to stop saves and says with its exit status that it wants to go on.

Batch systems warn a job before they end it: SLURM by the signal of ``--signal``, most others by TERM.  On USR1 or TERM
the training finishes its update, writes ``checkpoint_last.pt`` and exits with ``Exit.REQUEUE``; the same command goes
on from there.  A validation is broken off.  Workers agree on the update through the sums they exchange in each, so
it is enough that one of them was told.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from functools import wraps
from pathlib import Path
from typing import Any

from ..errors import Exit
from ..runs.names import LAST_CHECKPOINT
from . import compat

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

#: Name of the sum in the logging outputs that workers exchange.
TOLD = "told_to_stop"

_told = False


class Stop(Exception):
    """Breaks off a validation."""


def listen() -> None:
    """From now on take note of the signals instead of dying from them."""
    if threading.current_thread() is threading.main_thread():  # Python has no signals elsewhere
        for number in SIGNALS:
            signal.signal(number, _note)


def _note(number: int, frame: Any) -> None:
    # Processes that load data inherit this, too: they must live on until the training has saved.
    global _told
    _told = True


def told() -> bool:
    """Whether this process was told to stop."""
    return _told


def agreed(logging_outputs: list[dict[str, Any]]) -> bool:
    """Whether a worker was told to stop; the answer is the same in all of them."""
    return any(log.get(TOLD, 0) > 0 for log in logging_outputs)


def save_when_told() -> None:
    """Let fairseq's training save and end, after the update in which the task's ``stopping`` became true.

    A training that is started again after its end ends again, without the one update more that fairseq would do.
    """
    from fairseq.distributed import utils

    if not hasattr(utils.call_main, "__wrapped__"):
        utils.call_main = _passing_on(utils.call_main)
    for name in ("fairseq_cli.train", "__main__"):
        module: Any = sys.modules.get(name)
        if hasattr(module, "validate_and_save") and not hasattr(module.validate_and_save, "__wrapped__"):
            module.validate_and_save = _saving(module.validate_and_save)
            module.train = _unless_done(module.train)


def _is_done(cfg: Any, trainer: Any) -> bool:
    return bool(trainer.get_num_updates() >= (cfg.optimization.max_update or float("inf")))


def _unless_done(plain: Any) -> Any:
    @wraps(plain)
    def train(cfg: Any, trainer: Any, *args: Any) -> Any:
        if not _is_done(cfg, trainer):
            return plain(cfg, trainer, *args)
        logger.info(
            "nothing left to do: %d of %d updates are done", trainer.get_num_updates(), cfg.optimization.max_update
        )
        return [None], True

    return train


def _saving(plain: Any) -> Any:
    @wraps(plain)
    def validate_and_save(cfg: Any, trainer: Any, task: Any, epoch_itr: Any, *args: Any) -> Any:
        if _is_done(cfg, trainer) or not getattr(task, "stopping", False):
            try:
                return plain(cfg, trainer, task, epoch_itr, *args)
            except Stop:
                pass
        _save_and_exit(cfg.checkpoint, trainer, task, epoch_itr)

    return validate_and_save


def _save_and_exit(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> None:
    from fairseq import checkpoint_utils

    checkpoint_utils.save_checkpoint(cfg, trainer, epoch_itr, None)
    after = f"after update {trainer.get_num_updates():,}, as it was told to"
    if cfg.no_save or cfg.no_last_checkpoints:
        text = f"Stopped {after}. Nothing was saved: --no-save or --no-last-checkpoints forbids it"
    else:
        last = Path(cfg.save_dir, LAST_CHECKPOINT)
        text = f"Stopped {after}. {last} is saved: start the same command again to go on (exit status {Exit.REQUEUE})"
    task.requeued()
    compat.end_run(Exit.REQUEUE, text)


def _passing_on(plain: Any) -> Any:
    """A process that only waits for the workers it has spawned passes the signals on to them."""

    def pass_on(number: int, frame: Any) -> None:
        workers = multiprocessing.active_children()
        if not workers:  # nothing has begun
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for worker in workers:
            if worker.pid is not None:
                os.kill(worker.pid, number)

    @wraps(plain)
    def call_main(cfg: Any, main: Any, **kwargs: Any) -> Any:
        if hasattr(sys.modules.get(main.__module__), "validate_and_save"):  # a training
            for number in SIGNALS:
                signal.signal(number, pass_on)
        return plain(cfg, main, **kwargs)

    return call_main
