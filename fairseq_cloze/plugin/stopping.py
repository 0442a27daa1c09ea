"""Requeue: a training that is told to stop saves and says with its exit status that it wants to go on.

On USR1 or TERM it finishes its update, or breaks off its validation, writes ``checkpoint_last.pt`` and exits with
``Exit.REQUEUE``.  Workers agree on the update through the sums they exchange in each, so one that was told is enough.
"""

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

from ..errors import Exit
from ..runs.names import LAST_CHECKPOINT
from .ending import end_run

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

#: Options of what is not to be taken over from a checkpoint.
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")

TOLD = "told_to_stop"  #: the sum in the logging outputs that workers exchange

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


def save_and_end(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> NoReturn:
    """Save ``checkpoint_last.pt`` and end, to be started again; the validation that is due is made then."""
    from fairseq import checkpoint_utils

    if epoch_itr.end_of_epoch():
        task.events.end_epoch()
    task.memory.owes = (epoch_itr.epoch, epoch_itr.end_of_epoch())
    checkpoint_utils.save_checkpoint(cfg, trainer, epoch_itr, None)
    after = f"after update {trainer.get_num_updates():,}, as it was told to"
    if cfg.no_save or cfg.no_last_checkpoints:
        text = f"Stopped {after}. Nothing was saved: --no-save or --no-last-checkpoints forbids it"
    else:
        last = Path(cfg.save_dir, LAST_CHECKPOINT)
        once = [f"--{name.replace('_', '-')}" for name in RESETS if getattr(cfg, name)]
        once += ["--restore-file"] if cfg.restore_file != LAST_CHECKPOINT else []
        but = f", but without {' and '.join(once)}," if once else ""
        text = (
            f"Stopped {after}. {last} is saved: start the same command again{but} to go on (exit status {Exit.REQUEUE})"
        )
    task.requeued()
    task.events.tell("stopped", status=int(Exit.REQUEUE), text=text)
    end_run(Exit.REQUEUE, text)
