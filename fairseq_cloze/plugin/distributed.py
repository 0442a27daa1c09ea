"""Distributed: the processes that train together, and the launchers that start them."""

import os
from typing import Any, TypeVar

import torch
import torch.distributed

from ..errors import SetupError
from ..ranking.sharing import find_place

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return torch.distributed.get_rank() if is_distributed() else 0


def gather(value: T) -> list[T]:
    """The *value* of every process that trains, by rank, given to all of them."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def follow_launcher(cfg: Any) -> None:
    """Put into fairseq's configuration what ``torchrun`` or ``srun`` say: which of how many processes this one is.

    On CPUs the backends become those that work there.  With options of its own for that, fairseq does as they say.
    """
    from omegaconf import open_dict

    options = cfg.distributed_training
    taken = options.distributed_init_method is not None or cfg.common.tpu or options.pipeline_model_parallel
    if taken or options.distributed_port > 0:  # with a port, fairseq does as SLURM says, in its own way
        return
    place = find_place()
    if place is None:
        return
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


def refuse_independent_processes() -> None:
    """Refuse to train as one of several processes that do not know of each other, as under fairseq-hydra-train."""
    place = None if is_distributed() else find_place()
    if place is not None:
        raise SetupError(
            f"{place.size} processes were started ({place.launcher}), but fairseq runs each alone, all writing the "
            "same checkpoints; instead of fairseq-hydra-train, start python -m fairseq_cloze.plugin.hydra_train (see "
            "docs/training.md, Several processes)"
        )
