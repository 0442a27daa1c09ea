"""Everything that depends on which fairseq, torch or apex is installed.

Two distributions of fairseq are supported: ``ve-fairseq`` 0.12.3 (Python 3.11 and later) and the official ``fairseq``
0.12.2 (before 3.11).  Both are imported as ``fairseq``.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType, TracebackType
from typing import Any, NoReturn, TypeVar

from ..errors import ClozeError, Exit, SetupError

T = TypeVar("T")

MINIMUM_TORCH = (2, 1)

INSTALL_FAIRSEQ = (
    "pip install ve-fairseq==0.12.3"
    if sys.version_info >= (3, 11)
    else "pip install 'pip<24.1' && pip install fairseq==0.12.2"
)


def require_fairseq() -> None:
    """Import fairseq, or say in one line what to install.

    Raises:
        SetupError: fairseq or torch is missing, they do not fit, or another project's ``apex`` is in the way
    """
    try:
        import torch
    except ImportError as error:
        raise SetupError(f"torch cannot be imported ({error}): pip install 'torch>=2.1'") from error
    if _version(torch.__version__) < MINIMUM_TORCH:
        raise SetupError(f"torch {torch.__version__} is too old, 2.1 or newer is needed: pip install 'torch>=2.1'")
    refuse_wrong_apex()
    if importlib.util.find_spec("fairseq") is None:
        raise SetupError(f"fairseq is not installed: {INSTALL_FAIRSEQ}")
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        importlib.import_module("fairseq")
    except Exception as error:  # whatever a package raises that does not fit its surroundings
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        python = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(
            f"the installed fairseq does not work with Python {python} and torch {torch.__version__} ({reason}): "
            f"pip uninstall -y fairseq ve-fairseq; {INSTALL_FAIRSEQ}"
        ) from error
    finally:  # one of its models turns on the debug output of every library
        root.setLevel(level)
        root.handlers[:] = handlers


def refuse_wrong_apex() -> None:
    """Refuse the ``apex`` of PyPI, a web toolkit that has nothing to do with NVIDIA's.

    Raises:
        SetupError: the installed ``apex`` is not NVIDIA's
    """
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if spec and not any(Path(folder, "optimizers").is_dir() for folder in folders):
        raise SetupError(
            "the installed 'apex' is not NVIDIA's but another project of that name from PyPI: pip uninstall -y apex "
            "(NVIDIA's is optional: https://github.com/NVIDIA/apex)"
        )


def _version(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


# -- changes to fairseq itself ---------------------------------------------------------------------------------------


def drop_dead_parameters(model: Any) -> None:
    """Take the second copies out of a model of fairseq 0.12.2, which never trains them but stores and saves them.

    They feed a fast path for inference that rounds otherwise than training does; without them it is off.
    """
    from torch import nn

    from ..weights.reading import DEAD_PARAMETERS

    for layer in model.encoder.sentence_encoder.layers:
        if "in_proj_weight" in layer._parameters:
            for name in DEAD_PARAMETERS:
                delattr(layer, name)
            layer.can_use_fastpath = False
            layer._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, layer)


def copy_checkpoints_atomically() -> None:
    """Make fairseq copy ``checkpoint_best.pt`` and ``checkpoint_last.pt`` under a temporary name first.

    fairseq writes the first file of a save by rename, but its copies in place: a run that is killed meanwhile leaves
    half a ``checkpoint_last.pt`` and cannot resume, and a watcher can read half a file.
    """
    from fairseq.file_io import PathManager

    if getattr(PathManager.copy, "atomic", False):
        return
    plain_copy = PathManager.copy

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if "://" in src_path or "://" in dst_path or (os.path.exists(dst_path) and not overwrite):
            return plain_copy(src_path, dst_path, overwrite)
        temporary = f"{dst_path}.tmp"
        shutil.copyfile(src_path, temporary)
        os.replace(temporary, dst_path)
        return True

    copy.atomic = True  # type: ignore[attr-defined]
    PathManager.copy = staticmethod(copy)


def exchange_by_torch() -> None:
    """Let torch.distributed send objects from worker to worker.

    fairseq sends a loaded checkpoint through ``torch.load``, which from torch 2.6 on refuses its own configuration:
    every training on several GPUs that starts from a checkpoint would stop there.  Its way of gathering, with which
    ``fairseq-validate`` adds up, wants CUDA and takes 16 kB.
    """
    import torch.distributed
    from fairseq.distributed import utils

    def broadcast(obj: Any, src_rank: int, group: Any, dist_device: Any) -> Any:
        box = [obj]
        torch.distributed.broadcast_object_list(box, src=src_rank, group=group, device=dist_device)
        return box[0]

    def all_gather(data: Any, group: Any = None, max_size: int = 0) -> list[Any]:
        return gather(data)

    utils._broadcast_object_slow = broadcast
    utils.all_gather_list = all_gather


def train_as_launched() -> None:
    """Let fairseq's commands do as ``torchrun`` and ``srun`` say: which of how many processes this one is.

    ve-fairseq looks at ``torchrun``'s variables only where it sees several GPUs: on CPUs, and where each process is
    given one GPU, it starts as many complete trainings.  On CPUs the backends become those that work there.
    """
    import torch
    from fairseq.distributed import utils
    from omegaconf import open_dict

    if getattr(utils.call_main, "as_launched", False):
        return
    plain_call = utils.call_main

    def call_main(cfg: Any, main: Callable[..., Any], **kwargs: Any) -> Any:
        options = cfg.distributed_training
        taken = options.distributed_init_method is not None or cfg.common.tpu or options.pipeline_model_parallel
        if not taken and options.distributed_port <= 0:  # with a port, fairseq does as SLURM says, in its own way
            from ..ranking.sharing import find_place

            place = find_place()
            if place is not None:
                if place.number > 0:  # fairseq-validate resets the level to INFO, in every worker
                    os.environ.setdefault("LOGLEVEL", "WARNING")
                gpus = 0 if cfg.common.cpu else torch.cuda.device_count()
                with open_dict(cfg):
                    options.distributed_init_method = place.init_method
                    options.distributed_world_size, options.distributed_rank = place.size, place.number
                    options.device_id = place.local_number % gpus if gpus else place.local_number
                    options.distributed_no_spawn = True
                    if not gpus:
                        options.distributed_backend = "gloo"
                        if options.ddp_backend in ("c10d", "pytorch_ddp"):
                            options.ddp_backend = "legacy_ddp"
        return plain_call(cfg, main, **kwargs)

    call_main.as_launched = True  # type: ignore[attr-defined]
    utils.call_main = call_main


def load_ensembles() -> None:
    """Let ``fairseq-validate --path a.pt:b.pt`` average the probabilities of several checkpoints.

    fairseq's other commands split such a path at the colons; its validation does not, and takes one model.
    """
    from fairseq import checkpoint_utils

    plain_load = checkpoint_utils.load_model_ensemble_and_task
    if getattr(plain_load, "splits", False):
        return

    def load(filenames: list[str], *args: Any, **kwargs: Any) -> Any:
        from ..files import split_paths
        from ..model.scores import Average

        paths = [path for name in filenames for path in split_paths(name)]
        models, cfg, task = plain_load(paths, *args, **kwargs)
        return ([Average(models)] if len(paths) > len(filenames) else models), cfg, task

    load.splits = True  # type: ignore[attr-defined]
    checkpoint_utils.load_model_ensemble_and_task = load


def print_errors_plainly() -> None:
    """Print a :class:`ClozeError` that ends the process as its text alone, as our own command line does.

    ``FAIRSEQ_CLOZE_TRACEBACK=1`` brings the traceback back.  Where a worker that torch has spawned ended with
    :func:`end_run` or :func:`end_worker`, its parent ends with the same exit status, without a word of its own.
    """
    previous: Callable[..., Any] = sys.excepthook
    if getattr(previous, "plain_cloze_errors", False):
        return
    own_codes = (Exit.AT_CHANCE, Exit.OUT_OF_MEMORY, Exit.REQUEUE)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code = error.exit_code if isinstance(error, ClozeError) else 1
        if kind.__name__ == "ProcessExitedException" and getattr(error, "exit_code", 1) in own_codes:
            code = getattr(error, "exit_code", 1)
        elif isinstance(error, ClozeError) and not os.environ.get("FAIRSEQ_CLOZE_TRACEBACK"):
            sys.stdout.flush()
            print(f"Error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)
        if code != 1:  # Python's own after a hook
            raise SystemExit(code)

    hook.plain_cloze_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def end_run(status: int, text: str) -> NoReturn:
    """End this process, one of those that train together, with an exit status and a last word.

    All of them have to call it.  Any other exception than ``SystemExit`` would become status 1 and a traceback where
    hydra or torch's spawn runs the training.

    Raises:
        SystemExit: always
    """
    if rank() == 0:
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    gather(None)  # torch kills spawned workers when the first one ends: not before the text was printed
    if is_distributed():
        import torch.distributed

        torch.distributed.destroy_process_group()  # gloo's threads abort a process that ends without, now and then
    raise SystemExit(status)


def end_worker(status: int, text: str) -> NoReturn:
    """End this process at once, without the others: of workers that torch has spawned, it ends the rest.

    Raises:
        SystemExit: always
    """
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(status)


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    import torch.distributed

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    import torch.distributed

    return torch.distributed.get_rank() if is_distributed() else 0


def gather(value: T) -> list[T]:
    """The *value* of every process that trains, by rank, given to all of them."""
    import torch.distributed

    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def refuse_independent_processes() -> None:
    """Refuse to train as one of several processes that do not know of each other.

    fairseq-hydra-train imports this plugin after it has looked for other processes, where :func:`train_as_launched`
    comes too late; N complete trainings would overwrite each other's checkpoints.

    Raises:
        SetupError: a launcher says there are several processes, torch.distributed says there is one
    """
    from ..ranking.sharing import find_place

    place = None if is_distributed() else find_place()
    if place is not None:
        raise SetupError(
            f"{place.size} processes were started ({place.launcher}), but fairseq runs each alone, all writing the "
            "same checkpoints; instead of fairseq-hydra-train, start python -m fairseq_cloze.plugin.hydra_train (see "
            "docs/training.md, Several processes)"
        )


def autocast_dtype(device: str) -> Any:
    """The type that autocast computes in on a kind of device, ``None`` where it is off."""
    import torch

    try:
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    except (AttributeError, TypeError):  # torch before 2.4
        if device == "cpu":
            return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
