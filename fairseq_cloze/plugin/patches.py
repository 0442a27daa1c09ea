"""Patches: all that this package changes in fairseq at run time.

Each patch names the functions of fairseq it stands in for, by the SHA-256 of the source it was written for; a test
compares them with the fairseq that is installed.  ``docs/decisions.md`` has a table.
"""

import inspect
import itertools
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed

from ..errors import CheckpointError, ClozeError, first_line
from ..files import replacing
from ..runs.names import LAST_CHECKPOINT
from ..weights.checkpoint import Checkpoint
from . import distributed, stopping

logger = logging.getLogger(__name__)

Function = Callable[..., Any]


class Patch(NamedTuple):
    """A change to fairseq, made once however often it is installed.

    ``replaced`` has the dotted name of each function of fairseq that it stands in for, and the SHA-256 of its source,
    without indentation, blank lines and spaces at the ends of lines.
    """

    install: Callable[[], None]
    replaced: Mapping[str, str]


PATCHES: list[Patch] = []


def install_all() -> None:
    """Change what is to be changed in what fairseq has loaded by now."""
    for patch in PATCHES:
        patch.install()


def _patch(*replaced: tuple[str, str]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(install: Callable[[], None]) -> Callable[[], None]:
        PATCHES.append(Patch(install, dict(replaced)))
        return install

    return add


_MARK = "_patched_by_fairseq_cloze"


def _replace(place: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put what *make* makes of a function in its place, unless that was done already, by any copy of this package."""
    plain = getattr(place, name)
    if hasattr(plain, _MARK):
        return
    function = wraps(plain)(make(plain))
    setattr(function, _MARK, True)
    setattr(place, name, staticmethod(function) if isinstance(place, type) else function)


@_patch(
    ("fairseq.file_io.PathManager.copy", "b2a9696384ae72d80d8705d81de5a7c9325cda01931c45fc38738ab7f0fe08f1"),
    (
        "fairseq.checkpoint_utils.torch_persistent_save",
        "a257ae8ee1c78765da36c6a2d190bfbf09fea2c99c53d7f624e04a37d1f5013b",
    ),
)
def save_checkpoints_whole() -> None:
    """Save ``checkpoint*.pt`` and their copies whole or not at all, and end with a line where that fails.

    fairseq copies in place: a run that is killed meanwhile leaves half a file, and a watcher can read half a file.
    Where a disk is full, it tries to save once more behind what it has written.
    """
    from fairseq import checkpoint_utils
    from fairseq.file_io import PathManager

    def make_copy(plain: Function) -> Function:
        def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
            if "://" in src_path or "://" in dst_path or (os.path.exists(dst_path) and not overwrite):
                return plain(src_path, dst_path, overwrite)
            with _told_if_unsaved(dst_path), replacing(dst_path) as temporary:
                shutil.copyfile(src_path, temporary)
            return True

        return copy

    def make_save(plain: Function) -> Function:
        def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
            if async_write or "://" in filename:
                return plain(obj, filename, async_write)
            with _told_if_unsaved(filename):
                for pause in (2.5, 2.5, None):  # room can come back, as fairseq has it
                    try:
                        with replacing(filename) as temporary, open(temporary, "wb") as file:
                            return torch.save(obj, file)
                    except (OSError, RuntimeError, ClozeError):
                        if pause is None:
                            raise
                        time.sleep(pause)

        return torch_persistent_save

    _replace(PathManager, "copy", make_copy)
    _replace(checkpoint_utils, "torch_persistent_save", make_save)


@contextmanager
def _told_if_unsaved(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ClozeError) as error:  # torch raises RuntimeError where it cannot write
        last = Path(path).parent / LAST_CHECKPOINT
        stays = f"{last} stays as it was" if last.exists() else "nothing was saved before"
        cause = error.__cause__ or error.__context__ or error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise ClozeError(
            f"{path}: cannot be saved ({reason}); {stays}. Make room, then start the same command again to go on there"
        ) from error


@_patch(
    (
        "fairseq.checkpoint_utils.load_model_ensemble_and_task",
        "35053fe527644d3a229581561a236717c33e78408d5d6f76ca0ae61fcef8bf35",
    )
)
def check_before_building() -> None:
    """Look at what a checkpoint says is to be built before fairseq builds it, see :mod:`fairseq_cloze.plugin.built`.

    What fairseq cannot load all the same is said in one line.
    """
    from fairseq import checkpoint_utils

    from .built import check_checkpoint, check_file

    def make(plain: Function) -> Function:
        def load(*args: Any, **kwargs: Any) -> Any:
            call = inspect.signature(plain).bind(*args, **kwargs)
            call.apply_defaults()
            paths, overrides, _, _, suffix, shards, state = call.arguments.values()
            try:
                if state is not None:
                    check_checkpoint(Checkpoint(state, paths[0]), overrides or {})
                else:
                    for path, shard in itertools.product(paths, range(shards)):
                        check_file(path, overrides or {}, suffix, shard, shards)
                return plain(*args, **kwargs)
            except (ClozeError, MemoryError):
                raise
            except Exception as error:  # whatever a checkpoint that lies brings about
                reason = f"{type(error).__name__}: {first_line(error)[:200]}"
                raise CheckpointError(
                    f"{', '.join(paths)}: fairseq cannot load it ({reason}); check it with 'fairseq-cloze doctor'"
                ) from error

        return load

    _replace(checkpoint_utils, "load_model_ensemble_and_task", make)


@_patch(
    (
        "fairseq.distributed.utils._broadcast_object_slow",
        "d76415381eb2472ce60035c4667d90e7ba86235e924e50a25c17cf5c58b7783b",
    ),
    ("fairseq.distributed.utils.all_gather_list", "723d0690c4d741692b36bea6084e00ad86e252f203cf03187e43d09b25404e1e"),
)
def exchange_by_torch() -> None:
    """Let torch.distributed send objects from worker to worker.

    fairseq sends a loaded checkpoint through ``torch.load``, which from torch 2.6 on refuses its own configuration.
    Its way of gathering, with which ``fairseq-validate`` adds up, wants CUDA and takes 16 kB.
    """
    from fairseq.distributed import utils

    def make_broadcast(plain: Function) -> Function:
        def broadcast(obj: Any, src_rank: int, group: Any, dist_device: Any) -> Any:
            box = [obj]
            torch.distributed.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
            return box[0]

        return broadcast

    def make_gather(plain: Function) -> Function:
        def all_gather(data: Any, group: Any = None, max_size: int = 0) -> list[Any]:
            return distributed.gather(data)

        return all_gather

    _replace(utils, "_broadcast_object_slow", make_broadcast)
    _replace(utils, "all_gather_list", make_gather)


@_patch(("fairseq.distributed.utils.call_main", "0a9dd5c754d11bdb73fa5993721f7c98f36962f0708ffca4cefe73e8c4f6a04f"))
def start_as_launched() -> None:
    """Do as ``torchrun`` and ``srun`` say, and pass signals on to the workers that this process spawns.

    On CPUs, and where each process is given one GPU, fairseq starts as many complete trainings.  A process that only
    waits for its workers would die of a request to stop before they have saved.
    """
    from fairseq.distributed import utils

    def make(plain: Function) -> Function:
        def call_main(cfg: Any, main: Function, **kwargs: Any) -> Any:
            if hasattr(sys.modules.get(main.__module__), "validate_and_save"):  # a training
                stopping.pass_on()
            distributed.follow_launcher(cfg)
            return plain(cfg, main, **kwargs)

        return call_main

    _replace(utils, "call_main", make)


@_patch(
    (
        "fairseq_cli.train.convert_namespace_to_omegaconf",
        "81208d0ecaa5cc2607e25e1554663c56e38ba8e259d1378ad01e8262dfcf2bc0",
    ),
    ("fairseq_cli.train.add_defaults", "224ef7946c6c7615a908fce5809377e578566f8ee1d0e7995b6c115602f47906"),
)
def look_at_options() -> None:
    """Refuse options that contradict each other before anything begins, see :mod:`fairseq_cloze.plugin.options`.

    The first function makes the configuration of what the command line says, in ``fairseq-validate`` as well.  The
    second one is what a training calls after it has imported ``--user-dir``, in ``fairseq-hydra-train`` as well.
    """

    from . import options

    def make_convert(training: bool) -> Callable[[Function], Function]:
        return lambda plain: lambda args: options.configure(plain, args, training)

    def make_add(plain: Function) -> Function:
        def add_defaults(cfg: Any) -> None:
            plain(cfg)
            options.prepare(cfg)

        return add_defaults

    for name in ("fairseq_cli.train", "fairseq_cli.validate", "__main__"):
        module: Any = sys.modules.get(name)
        trains = hasattr(module, "validate_and_save")
        if hasattr(module, "convert_namespace_to_omegaconf"):
            _replace(module, "convert_namespace_to_omegaconf", make_convert(trains))
        if trains:
            _replace(module, "add_defaults", make_add)


@_patch(
    ("fairseq.checkpoint_utils.load_checkpoint", "fa5f56e0443af37c02eaa695dcba02e5a4d4fd1bd3ec496dc135e4023c23c483")
)
def go_on_as_it_was() -> None:
    """Let a run go on as it was when it saved, see :mod:`fairseq_cloze.plugin.resuming`; other tasks as before."""
    from fairseq import checkpoint_utils

    def make(plain: Function) -> Function:
        def load_checkpoint(cfg: Any, trainer: Any, **arguments: Any) -> Any:
            if not hasattr(trainer.task, "memory"):
                return plain(cfg, trainer, **arguments)
            from .resuming import load

            return load(plain, cfg, trainer, **arguments)

        return load_checkpoint

    _replace(checkpoint_utils, "load_checkpoint", make)


@_patch(
    ("fairseq_cli.train.validate_and_save", "bbd3b0968103730ddf34034806626e0321efa619d6d7d74992db7296e04e66c0"),
    ("fairseq_cli.train.train", "9dd23b583fbcffe478e9148fabee64d072a92e4eb0de602a1ed3b6990e1cce86"),
)
def save_when_told() -> None:
    """Save and end after the update in which the task's ``stopping`` became true; tell the task's events.

    fairseq has no hook there.  A training that is started again after its end ends again, without the one update more
    that fairseq would do.
    """

    def make_validate(plain: Function) -> Function:
        def validate_and_save(
            cfg: Any, trainer: Any, task: Any, epoch_itr: Any, valid_subsets: Any, end_of_epoch: bool
        ) -> Any:
            if stopping.is_done(cfg, trainer) or not getattr(task, "stopping", False):
                try:
                    losses, should_stop = plain(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
                    if (end_of_epoch or should_stop) and hasattr(task, "events"):
                        task.events.end_epoch()
                    return losses, should_stop
                except stopping.Stop:
                    pass
                except ClozeError as error:
                    if hasattr(task, "events"):
                        task.events.tell("stopped", status=error.exit_code, text=str(error))
                    raise
            stopping.save_and_end(cfg.checkpoint, trainer, task, epoch_itr)

        return validate_and_save

    def make_train(plain: Function) -> Function:
        def train(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
            events = getattr(task, "events", None)  # another task has none
            if events is not None:
                events.begin(cfg, trainer.get_num_updates(), epoch_itr.next_epoch_idx)
            if getattr(task, "done", ""):
                return [None], True
            losses, should_stop = plain(cfg, trainer, task, epoch_itr)
            last_epoch = cfg.optimization.max_epoch or math.inf
            if events is not None and (should_stop or epoch_itr.next_epoch_idx > last_epoch):
                events.tell("finished")
            elif events is not None:
                _tell_when_rate_ends_it(cfg, trainer, events)
            return losses, should_stop

        return train

    for name in ("fairseq_cli.train", "__main__"):
        module: Any = sys.modules.get(name)
        if hasattr(module, "validate_and_save"):
            _replace(module, "validate_and_save", make_validate)
            _replace(module, "train", make_train)


def _tell_when_rate_ends_it(cfg: Any, trainer: Any, events: Any) -> None:
    """``--stop-min-lr`` ends a training between two epochs, after the learning rate was stepped once."""

    def lr_step(*args: Any, **kwargs: Any) -> Any:
        del trainer.lr_step
        rate = trainer.lr_step(*args, **kwargs)
        if rate <= cfg.optimization.stop_min_lr:
            events.tell("finished")
        return rate

    trainer.lr_step = lr_step
