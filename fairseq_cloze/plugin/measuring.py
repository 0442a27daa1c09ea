"""Measuring: the process in which ``fit-batch`` runs training steps and measures their memory.

Requests are JSON lines on standard input, answers JSON lines on standard output.  On CUDA one process measures all
sizes; on a CPU each size has a fork of its own, as a process does not give all its memory back.
"""

import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from ..errors import ClozeError
from ..model.memory import OPTIMIZER_ADVICE, attempt, free_memory, is_out_of_memory
from .dataset import ClozeDataset

Answer = dict[str, Any]

#: Bytes of a process on a CPU that threads and the C library set aside and do not use, of small trainings, and more.
_SET_ASIDE = 1 << 27


class CudaMemory:
    """Memory of a GPU, in bytes of tensors; all that is free, or *limit*."""

    def __init__(self, limit: int | None) -> None:
        torch.empty(1, device="cuda")  # makes the context, which is not ours to fill
        self._free, total = torch.cuda.mem_get_info()
        self.limit = self._free + torch.cuda.memory_reserved()
        if limit is not None and limit < self.limit:
            self.limit = limit
            torch.cuda.set_per_process_memory_fraction(limit / total)
        self.device = torch.cuda.get_device_name()

    def reset(self) -> None:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes that tensors took since the last reset."""
        return int(torch.cuda.max_memory_allocated())

    def reserved(self) -> int:
        """Most bytes that torch took from the device since the last reset, which is more than tensors need."""
        return int(torch.cuda.max_memory_reserved())

    def outside(self) -> int:
        """Bytes that kernels and libraries took outside of torch since the context was made."""
        now = torch.cuda.memory_reserved() + torch.cuda.mem_get_info()[0]
        return max(int(self._free - now), 0)


class CpuMemory:
    """Memory of this process, in bytes that are resident; all that can be had, or *limit*."""

    device = "cpu"

    def __init__(self, limit: int | None) -> None:
        resident = _status("VmRSS")
        self.headroom = _available() if limit is None else min(_available(), max(limit - resident, 0))
        self.limit = resident + self.headroom

    def enforce(self) -> None:
        """From now on memory runs out in this process, instead of the system killing another."""
        # Of all limits the one that comes closest to what is used: it does not count code.
        allowed = _status("VmData") + self.headroom + _SET_ASIDE
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def reset(self) -> None:
        """Forget the peak."""
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Most bytes since the last reset."""
        return _status("VmHWM")

    reserved = peak

    def outside(self) -> int:
        """None: all counts."""
        return 0


def _status(name: str, file: str = "/proc/self/status") -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ClozeError(f"{file}: expected {name}, found none; memory of a CPU is measured on Linux only")


def _available() -> int:
    """Bytes that this process can still have: of the machine, its control group, and ``ulimit``."""
    found = [_status("MemAvailable", "/proc/meminfo")]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (limit, used))
            found.append(most - now)
        except (OSError, ValueError):  # there is no such group, or it has no limit
            continue
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(soft - _status(used))
    return max(min(found), 0)


def parse(args: Sequence[str], folder: str) -> Any:
    """fairseq's configuration of a training on one device that writes nothing but into *folder*."""
    parsed = options.parse_args_and_arch(options.get_training_parser(), input_args=list(args))
    parsed.save_dir, parsed.distributed_world_size, parsed.distributed_init_method = folder, 1, None
    parsed.tensorboard_logdir = parsed.log_file = parsed.wandb_project = None
    parsed.lr = [1e-9]  # the weights are random, and steps of the default rate would end in numbers that are none
    cfg = convert_namespace_to_omegaconf(parsed)
    utils.import_user_module(cfg.common)
    add_defaults(cfg)
    return cfg


class Steps:
    """Training steps of fairseq's own trainer, so that every option that changes memory counts."""

    def __init__(self, cfg: Any, memory: Any) -> None:
        self.memory = memory
        metrics.reset()
        utils.set_torch_seed(cfg.common.seed)
        task: Any = tasks.setup_task(cfg.task)
        task.recovers = False
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        task.load_dataset(cfg.dataset.train_subset)
        self.dataset: ClozeDataset = task.dataset(cfg.dataset.train_subset)
        self.trainer = Trainer(cfg, task, model, criterion)
        self.trainer.cuda_env = None  # else it resets the peak
        self.trainer.lr_step_begin_epoch(1)
        self._backward_peak = 0
        optimizer = self.trainer.optimizer
        reduce = optimizer.all_reduce_grads

        def backward_is_done(module: Any) -> None:
            self._backward_peak = max(self._backward_peak, memory.peak())
            memory.reset()
            reduce(module)

        optimizer.all_reduce_grads = backward_is_done
        self._small = self.dataset.collater([self.dataset[int(self.dataset.view.cost.argmin())]])
        for _ in range(10):  # an overflow in fp16 leaves no state of the optimizer behind
            if self.trainer.get_num_updates() == 0:
                self.trainer.train_step([self._small], raise_oom=True)

    def sizes(self) -> Answer:
        """Numbers of parameters and of bytes that stay from update to update, and tokens of the data.

        Weights, gradients, and what the optimizer keeps; with Adam 16 bytes per parameter in float32, 20 with
        fairseq's ``--fp16`` (weights and gradients in both precisions), cf. Rajbhandari et al., "ZeRO: Memory
        Optimizations Toward Training Trillion Parameter Models" (SC 2020), section 3.1.
        """
        own = {id(each): each for each in self.trainer.model.parameters()}
        optimizer = self.trainer.optimizer.optimizer
        kept = {id(each): each for each in _tensors(dict(optimizer.state))}
        for each in (each for group in optimizer.param_groups for each in group["params"] if id(each) not in own):
            kept[id(each)] = each  # a copy in float32, and its gradients
            kept[-id(each)] = each.grad if each.grad is not None else each[:0]
        cost = self.dataset.view.cost
        return {
            "parameters": sum(each.numel() for each in own.values()),
            "weights": sum(each.nbytes for each in own.values()),
            "gradients": sum(each.nbytes for each in own.values() if each.requires_grad),
            "optimizer": sum(each.nbytes for each in kept.values()),
            "least": int(cost.max()),
            "total": int(cost.sum()),
        }

    def batches(self, tokens: int) -> list[list[int]]:
        """Items of the most expensive batches of that many tokens: the longest rows, the most rows, the most blanks."""
        view = self.dataset.view
        longest = int(view.row_length.argmax())
        worst = [[longest] * max(int(tokens // view.cost[longest]), 1)]
        order = np.repeat(self.dataset.ordered_indices(), max(-(-2 * tokens // int(view.cost.sum())), 1))
        batches = self.dataset.batch_by_size(order, tokens)
        totals = [np.array([size[batch].sum() for batch in batches]) for size in (view.rows, view.cost)]
        worst += [batches[int(total.argmax())].tolist() for total in totals]
        return [batch for number, batch in enumerate(worst) if batch not in worst[:number]]

    def measure(self, tokens: int) -> Answer:
        """Run the most expensive batches of that many tokens.

        Returns:
            ``fits``; where it does, in bytes, ``backward`` and ``update``, the peaks until the gradients were there and
            after that, ``reserved``, what torch had taken for it, and ``outside``, what others had
        """
        self._backward_peak = update = reserved = 0
        free_memory()  # of other sizes
        for batch in self.batches(tokens):
            items = [self.dataset[item] for item in batch]

            def step(items: Sequence[Any] = items) -> None:
                # The gradients of an earlier batch are there, as with --update-freq.
                self.trainer.train_step([self._small, self.dataset.collater(items)], raise_oom=True)

            self.memory.reset()
            done = attempt(step)
            self.trainer.zero_grad()
            update, reserved = max(update, self.memory.peak()), max(reserved, self.memory.reserved())
            if done is None or max(update, self._backward_peak) > self.memory.limit:
                return {"fits": False}
        peaks = {"backward": self._backward_peak, "update": update, "reserved": reserved}
        return {"fits": True, **peaks, "outside": self.memory.outside()}


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for entry in value.values() for each in _tensors(entry)] if isinstance(value, dict) else []


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what fairseq prints is no answer
    request = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        try:
            for answer in _answers(parse(request["args"], folder), request["limit"]):
                print(json.dumps(answer), file=answers, flush=True)
        except ClozeError as error:
            print(json.dumps({"error": str(error)}), file=answers, flush=True)


def _answers(cfg: Any, limit: int | None) -> Iterator[Answer]:
    """What there is to know of device and training, then how each size fits."""
    memory: Any
    sizes: Answer | None = None
    if torch.cuda.is_available() and not cfg.common.cpu:
        torch.cuda.set_device(cfg.distributed_training.device_id)
        memory = CudaMemory(limit)
        made = attempt(lambda: Steps(cfg, memory))
        if made:
            sizes, measure = made[0].sizes(), made[0].measure
    else:
        memory = CpuMemory(limit)
        sizes = _in_a_fork(memory, lambda: Steps(cfg, memory).sizes())

        def measure(tokens: int) -> Answer:
            return _in_a_fork(memory, lambda: Steps(cfg, memory).measure(tokens)) or {"fits": False}

    if sizes is None:
        raise ClozeError(
            f"{memory.limit / 2**30:.2f} GiB on {memory.device} do not hold weights, gradients and the optimizer's "
            f"state; {OPTIMIZER_ADVICE}"
        )
    asked = {"max_tokens": cfg.dataset.max_tokens, "update_freq": max(cfg.optimization.update_freq)}
    yield {"device": memory.device, "limit": memory.limit, **asked, **sizes}
    yield from (measure(int(line)) for line in sys.stdin)


_work: Callable[[], Answer] = dict  # what the next fork is to do, inherited, as no configuration of fairseq is pickled


def _do_the_work() -> Answer:
    return _work()


def _in_a_fork(memory: CpuMemory, work: Callable[[], Answer]) -> Answer | None:
    """What *work* returns in a process of its own; ``None`` where it had no memory, even to say so."""
    global _work
    _work = work
    with ProcessPoolExecutor(1, get_context("fork"), memory.enforce) as pool:
        try:
            return pool.submit(_do_the_work).result()
        except BrokenProcessPool:
            return None
        except Exception as error:
            if is_out_of_memory(error):
                return None
            raise
