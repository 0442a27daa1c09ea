"""Sharded: ``--ddp-backend fully_sharded`` by torch's own ``fully_shard``.

fairseq's is fairscale's, which is no longer maintained.  Here every layer of the encoder is sharded on its own, and
what is left as a whole: of parameters, gradients and optimiser state each of N processes keeps 1/N, and a layer is put
together only while it computes.  To fairseq's optimisers the shards are plain parameters.

Checkpoints are whole, and the same as those of any other backend: the model's ``state_dict`` gathers, for which all
processes have to call it, and a checkpoint is cut up when it is loaded.  So a run can go on with another number of
processes, or without sharding.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SetupError

logger = logging.getLogger(__name__)

BACKEND = "fully_sharded"


# -- the model -------------------------------------------------------------------------------------------------------


class _Shards:
    """What this process keeps of a model's parameters, as plain parameters over the same memory."""

    def __init__(self, model: nn.Module) -> None:
        self.whole: list[Any] = list(nn.Module.parameters(model))
        self.own = [nn.Parameter(value.to_local().detach(), requires_grad=value.requires_grad) for value in self.whole]
        self.trained = [value for value in self.whole if value.requires_grad]

    def take_gradients(self) -> None:
        """Move the gradients to where the optimiser looks for them."""
        for value, own in zip(self.whole, self.own):
            if value.grad is not None:
                own.grad = value.grad.to_local()
                value.grad = None


def shard(model: nn.Module, options: Any) -> nn.Module:
    """Shard a RoBERTa over all processes and give it what fairseq's trainer asks of such a model.

    Args:
        model: not yet sharded
        options: fairseq's options of distributed training

    Raises:
        SetupError: torch is too old, or an option asks for what only fairscale can
    """
    _require(options)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = torch.device("cuda", torch.cuda.current_device()) if _on_gpu(options) else torch.device("cpu")
    model.to(device)
    precision = MixedPrecisionPolicy()
    if options.fp16:
        precision = MixedPrecisionPolicy(torch.float16, torch.float32 if options.fp32_reduce_scatter else None)
    kwargs: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (options.distributed_world_size,)),
        "mp_policy": precision,
        "reshard_after_forward": not options.no_reshard_after_forward,
    }
    encoder: Any = model.encoder
    for layer in encoder.sentence_encoder.layers:
        fully_shard(layer, **kwargs)
    fully_shard(model, **kwargs)
    # Nothing is done in place to the scores that a model returns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    shards = _adapt(model)
    kept, whole = (sum(value.numel() for value in values) for values in (shards.own, shards.whole))
    logger.info("sharded: this process keeps %s of %s parameters", f"{kept:,}", f"{whole:,}")
    return model


def _on_gpu(options: Any) -> bool:
    return torch.cuda.is_available() and options.distributed_backend != "gloo"


def _require(options: Any) -> None:
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"--ddp-backend {BACKEND} needs torch 2.6 or newer, found {torch.__version__}; take legacy_ddp"
        ) from error
    for name in ("cpu_offload", "use_sharded_state", "memory_efficient_fp16"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise SetupError(f"--ddp-backend {BACKEND} does not go together with --{flag}; leave it out")
    if not torch.distributed.is_initialized():
        raise SetupError(f"--ddp-backend {BACKEND} needs several processes; start them with torchrun")


def _adapt(model: Any) -> _Shards:
    """Give a sharded model what fairseq's trainer knows from fairscale."""
    shards = _Shards(model)

    def parameters(self: Any, recurse: bool = True) -> Iterator[nn.Parameter]:
        return iter(shards.own)

    def all_reduce_grads(self: Any) -> None:  # they are reduced in the backward pass
        shards.take_gradients()

    def gather_full_optim_state_dict(self: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any] | None:
        whole = _map_state(optimizer.state_dict(), shards.trained, _gather)
        return whole if torch.distributed.get_rank() == 0 else None

    def get_shard_from_optim_state_dict(self: Any, state: dict[str, Any]) -> dict[str, Any]:
        return _map_state(state, shards.trained, _cut)

    for function in (parameters, all_reduce_grads, gather_full_optim_state_dict, get_shard_from_optim_state_dict):
        setattr(model, function.__name__, MethodType(function, model))
    model.use_sharded_state = False
    model.local_metadata_dict = dict
    model.register_state_dict_post_hook(_gather_weights)
    model.register_load_state_dict_pre_hook(_cut_weights)
    return shards


def _gather_weights(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Make the values of a state dict whole."""
    whole: dict[int, Tensor] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        if id(value) not in whole:  # shared parameters stay shared in the file
            whole[id(value)] = _whole(value)
        state[prefix + name] = whole[id(value)]


def _cut_weights(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Cut the values of a state dict to the shards of this process."""
    for name, value in module.named_parameters(remove_duplicate=False):
        found = state.get(prefix + name)
        if isinstance(found, Tensor) and not hasattr(found, "to_local") and found.shape == value.shape:
            state[prefix + name] = _of_shards(_own_part(found, value), value)


def _map_state(state: dict[str, Any], whole: list[Any], change: Callable[[Tensor, Any], Tensor]) -> dict[str, Any]:
    """An optimiser's state with its tensors changed, each by the parameter it belongs to."""
    entries = {
        number: {
            name: change(value, whole[number]) if isinstance(value, Tensor) and value.dim() else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _gather(value: Tensor, like: Any) -> Tensor:
    return _whole(_of_shards(value, like)) if value.shape == like.to_local().shape else value


def _cut(value: Tensor, like: Any) -> Tensor:
    return _own_part(value, like) if value.shape == like.shape else value


def _whole(value: Any) -> Tensor:
    gathered: Tensor = value.full_tensor().detach().cpu()
    return gathered


def _own_part(value: Tensor, like: Any) -> Tensor:
    """This process's rows of a whole tensor, sharded as *like* is."""
    parts = value.chunk(like.device_mesh.size())
    number = like.device_mesh.get_local_rank()
    return parts[number].clone() if number < len(parts) else value[:0].clone()


def _of_shards(own: Tensor, like: Any) -> Any:
    """A sharded tensor of this process's part, of the shape of *like*."""
    from torch.distributed.tensor import DTensor

    own = own.to(like.to_local().device)
    return DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


# -- fairseq ---------------------------------------------------------------------------------------------------------


def shard_by_torch() -> None:
    """Let ``fairseq-train --ddp-backend fully_sharded`` take :func:`shard` instead of fairscale."""
    from fairseq import models
    from fairseq.trainer import Trainer

    options: list[Any] = []

    @contextmanager
    def enable_wrap(distributed_training: Any) -> Iterator[None]:
        options[:] = [distributed_training]
        yield

    for name in ("fairseq_cli.train", "__main__"):
        module: Any = sys.modules.get(name)
        if hasattr(module, "fsdp_enable_wrap"):
            module.fsdp_enable_wrap = enable_wrap
            module.fsdp_wrap = lambda model: shard(model, options[0])
    if getattr(Trainer, "shards_by_torch", False):
        return
    plain_wrapper, plain_init, plain_clip = models.DistributedFairseqModel, Trainer.__init__, Trainer.clip_grad_norm

    @wraps(plain_wrapper)
    def wrapper(args: Any, model: nn.Module, *rest: Any, **kwargs: Any) -> Any:
        return model if args.ddp_backend == BACKEND else plain_wrapper(args, model, *rest, **kwargs)

    @wraps(plain_init)
    def init(self: Any, cfg: Any, *rest: Any, **kwargs: Any) -> None:
        with _fairscale_of_that_name():
            plain_init(self, cfg, *rest, **kwargs)

    @wraps(plain_clip)
    def clip_grad_norm(self: Any, clip_norm: float) -> Any:
        def over_all(norm: Tensor) -> Tensor:  # fairseq's needs CUDA
            total = norm.float().to(self.device) ** 2
            torch.distributed.all_reduce(total, group=self.data_parallel_process_group)
            return total**0.5

        if not self.is_fsdp:
            return plain_clip(self, clip_norm)
        return self.optimizer.clip_grad_norm(clip_norm, aggregate_norm_fn=over_all)

    models.DistributedFairseqModel = wrapper
    Trainer.__init__, Trainer.clip_grad_norm, Trainer.shards_by_torch = init, clip_grad_norm, True


@contextmanager
def _fairscale_of_that_name() -> Iterator[None]:
    """While fairseq's trainer asks for fairscale's version, and for nothing else, there is one."""
    missing = "fairscale" not in sys.modules
    if missing:
        sys.modules["fairscale"] = ModuleType("fairscale")
        sys.modules["fairscale"].__version__ = "0.4.13"  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            del sys.modules["fairscale"]
