"""Events of a training: the first worker writes what fairseq logs, exactly, and what is worth a notice.

The figures are read from fairseq's own meters, which it saves in checkpoints, so a run that was resumed tells the same
as one that was not.  Not being able to write stops no training.
"""

import json
import logging
import os
from argparse import Namespace
from enum import Enum
from typing import Any

from ..files import PathLike
from ..runs.events import EVENTS_FILE, EVENTS_VARIABLE, new_event
from ..runs.lines import LineWriter
from ..version import __version__
from .distributed import rank

logger = logging.getLogger(__name__)

#: Counts that fairseq's log leaves out, by the name of their meter.
_COUNTS = {"_n_correct": "n_correct"}


class TrainingEvents:
    """Tells what happens in a training; silent until it begins, and in every worker but the first."""

    def __init__(self) -> None:
        self.update = self.epoch = 0  # updates done; number of the epoch, counted from 1
        self._every = 0  # updates between two that are told
        self._writers: list[LineWriter] = []
        self._begun = False
        self._failed: set[PathLike] = set()

    def begin(self, cfg: Any, update: int, epoch: int) -> None:
        """An epoch begins; before the first one, open the files and tell what begins or goes on."""
        self.update, self.epoch = update, epoch
        if self._begun or rank() != 0:
            return
        self._begun = True
        self._every = int(cfg.common.log_interval)
        paths = [os.path.join(cfg.checkpoint.save_dir, EVENTS_FILE), os.environ.get(EVENTS_VARIABLE, "")]
        for path in {os.path.realpath(path): path for path in reversed(paths) if path}.values():  # each file once
            try:
                self._writers.append(LineWriter(path))
            except OSError as error:
                self._complain(path, error)
        about = {"folder": os.getcwd(), "pid": os.getpid(), "version": __version__, "settings": plain(cfg)}
        self.tell("resumed" if update else "started", **about)

    def tell(self, kind: str, **fields: Any) -> None:
        """Write an event with the update and the epoch it stands at."""
        event = new_event(kind, update=self.update, epoch=self.epoch, **fields)
        for writer in self._writers:
            try:
                writer.write(event)
            except OSError as error:
                self._complain(writer.path, error)

    def end_update(self, rate: float, scale: float | None) -> None:
        """After an update that fairseq logs, tell the figures since the one it logged before; *scale* is of fp16."""
        if self._writers and self.update % self._every == 0:
            scales = {} if scale is None else {"loss_scale": scale}
            self.tell("update", **_meters("train_inner"), lr=rate, **scales)

    def end_epoch(self) -> None:
        """Tell the figures of an epoch, before fairseq forgets them."""
        figures_of_epoch = _meters("train") if self._writers else {}
        if figures_of_epoch:  # none after a validation that was made belatedly
            self.tell("epoch", **figures_of_epoch)

    def _complain(self, path: PathLike, error: OSError) -> None:
        if path not in self._failed:
            self._failed.add(path)
            logger.warning("%s: events cannot be written (%s); the training goes on", path, error.strerror or error)


def _meters(name: str) -> dict[str, float | int]:
    from fairseq.logging import metrics

    return figures(metrics.get_meters(name) or {})


def figures(meters: Any) -> dict[str, float | int]:
    """What fairseq would log of a ``MetersDict``, without its rounding, and the counts; what is empty is left out."""
    from fairseq.logging.meters import AverageMeter, MetersDict

    found = {}
    for name, meter in meters.items():
        if name in ("num_updates", "lr", "loss_scale") or (name.startswith("_") and name not in _COUNTS):
            continue
        if isinstance(meter, MetersDict._DerivedMeter):
            value = meter.fn(meters)
        else:
            value = meter.avg if isinstance(meter, AverageMeter) else meter.smoothed_value
        if value is not None:
            value = value.item() if hasattr(value, "item") else value
            found[_COUNTS.get(name, name)] = value
    return found


def plain(value: Any) -> Any:
    """A configuration of fairseq as JSON can hold it."""
    from omegaconf import OmegaConf

    def of(part: Any) -> Any:
        if OmegaConf.is_config(part):
            return OmegaConf.to_container(part, resolve=True)
        return vars(part) if isinstance(part, Namespace) else part.value if isinstance(part, Enum) else str(part)

    return json.loads(json.dumps(value, default=of))
