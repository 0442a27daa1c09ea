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
import threading
from pathlib import Path
from typing import Any, NoReturn

from ..errors import Exit
from ..runs.names import LAST_CHECKPOINT
from .ending import end_run

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


def pass_on() -> None:
    """From now on pass the signals on to the workers that this process spawns and waits for."""

    def to_workers(number: int, frame: Any) -> None:
        workers = multiprocessing.active_children()
        if not workers:  # nothing has begun
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for worker in workers:
            if worker.pid is not None:
                os.kill(worker.pid, number)

    for number in SIGNALS:
        signal.signal(number, to_workers)


def is_done(cfg: Any, trainer: Any) -> bool:
    """Whether a training has made all updates that ``--max-update`` asks for."""
    return bool(trainer.get_num_updates() >= (cfg.optimization.max_update or float("inf")))


def say_done(cfg: Any, trainer: Any) -> None:
    """Say that there is nothing to train."""
    updates = trainer.get_num_updates()
    logger.info("nothing left to do: %d of %d updates are done", updates, cfg.optimization.max_update)


def save_and_end(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> NoReturn:
    """Save ``checkpoint_last.pt`` and end, to be started again."""
    from fairseq import checkpoint_utils

    checkpoint_utils.save_checkpoint(cfg, trainer, epoch_itr, None)
    after = f"after update {trainer.get_num_updates():,}, as it was told to"
    if cfg.no_save or cfg.no_last_checkpoints:
        text = f"Stopped {after}. Nothing was saved: --no-save or --no-last-checkpoints forbids it"
    else:
        last = Path(cfg.save_dir, LAST_CHECKPOINT)
        text = f"Stopped {after}. {last} is saved: start the same command again to go on (exit status {Exit.REQUEUE})"
    task.requeued()
    task.events.tell("stopped", status=int(Exit.REQUEUE), text=text)
    end_run(Exit.REQUEUE, text)
