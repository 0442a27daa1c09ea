"""Measuring: the process in which ``fit-batch`` runs training steps and measures their memory.

It builds what ``fairseq-train`` builds from the same options, and runs fairseq's own trainer, so every option that
changes memory counts.  Requests are JSON lines on standard input, answers JSON lines on standard output.  On CUDA one
process measures all sizes; on a CPU each size has a fork of its own, as a process does not give all its memory back.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
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


# -- memory ----------------------------------------------------------------------------------------------------------


class CudaMemory:
    """Memory of a GPU, in bytes of tensors.

    Args:
        limit: most bytes to use; all that is free where it is not given
    """

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
    """Memory of this process, in bytes that are resident.

    Args:
        limit: most bytes to use; all that can be had where it is not given
    """

    device = "cpu"

    def __init__(self, limit: int | None) -> None:
        resident = _status("VmRSS")
        self.headroom = _available()
        if limit is not None:
            self.headroom = min(self.headroom, max(limit - resident, 0))
        self.limit = resident + self.headroom

    def enforce(self) -> None:
        """From now on memory runs out in this process, instead of the system killing another."""
        # Of all limits the one that counts what is used: not code, not address space that is only set aside.
        allowed = _status("VmData") + self.headroom
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


def _status(name: str) -> int:
    """A size in bytes from ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ClozeError(f"/proc/self/status: expected {name}, found none; memory of a CPU is measured on Linux only")


def _available() -> int:
    """Bytes that this process can still have: of the machine, its control group, and ``ulimit``."""
    found = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    ]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # there is no such group, or it has no limit
            continue
    for kind, used_now in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(soft - _status(used_now))
    return max(min(found), 0)


# -- steps -----------------------------------------------------------------------------------------------------------


def parse(args: Sequence[str], folder: str) -> Any:
    """fairseq's configuration of a training on one device that writes nothing but into *folder*."""
    parser = options.get_training_parser()
    parsed = options.parse_args_and_arch(parser, input_args=list(args))
    parsed.save_dir, parsed.distributed_world_size, parsed.distributed_init_method = folder, 1, None
    parsed.tensorboard_logdir = parsed.log_file = parsed.wandb_project = None
    parsed.lr = [1e-9]  # the weights are random, and steps of the default rate would end in numbers that are none
    cfg = convert_namespace_to_omegaconf(parsed)
    utils.import_user_module(cfg.common)
    add_defaults(cfg)
    return cfg


class Steps:
    """Training steps of one trainer.

    Args:
        cfg: fairseq's configuration
        memory: what is measured
    """

    def __init__(self, cfg: Any, memory: Any) -> None:
        self.memory = memory
        metrics.reset()
        utils.set_torch_seed(cfg.common.seed)
        self.task: Any = tasks.setup_task(cfg.task)
        self.task.recovers = False
        model = self.task.build_model(cfg.model)
        criterion = self.task.build_criterion(cfg.criterion)
        self.task.load_dataset(cfg.dataset.train_subset)
        self.dataset: ClozeDataset = self.task.dataset(cfg.dataset.train_subset)
        self.trainer = Trainer(cfg, self.task, model, criterion)
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
        cheapest = int(self.dataset.view.cost.argmin())
        self._small = self.dataset.collater([self.dataset[cheapest]])
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
        weights = sum(each.numel() * each.element_size() for each in own.values())
        gradients = sum(each.numel() * each.element_size() for each in own.values() if each.requires_grad)
        kept = {id(each): each for each in _tensors(dict(self.trainer.optimizer.optimizer.state))}
        for group in self.trainer.optimizer.optimizer.param_groups:
            for each in group["params"]:
                if id(each) not in own:  # a copy in float32, and its gradients
                    kept[id(each)] = each
                    kept[-id(each)] = each.grad if each.grad is not None else each[:0]
        state = sum(each.numel() * each.element_size() for each in kept.values())
        cost = self.dataset.view.cost
        return {
            "parameters": sum(each.numel() for each in own.values()),
            "weights": weights,
            "gradients": gradients,
            "optimizer": state,
            "least": int(cost.max()),
            "total": int(cost.sum()),
        }

    def batches(self, tokens: int) -> list[list[int]]:
        """Items of the most expensive batches of that many tokens: the longest rows, the most rows, the most blanks."""
        view = self.dataset.view
        longest = int(view.row_length.argmax())
        worst = [[longest] * max(int(tokens // view.cost[longest]), 1)]
        order = self.dataset.ordered_indices()
        order = np.repeat(order, max(-(-2 * tokens // int(view.cost.sum())), 1))
        batches = self.dataset.batch_by_size(order, tokens)
        worst.append(max(batches, key=lambda batch: int(view.rows[batch].sum())).tolist())
        worst.append(max(batches, key=lambda batch: int(view.cost[batch].sum())).tolist())
        return [batch for number, batch in enumerate(worst) if batch not in worst[:number]]

    def measure(self, tokens: int) -> Answer:
        """Run the most expensive batches of that many tokens.

        Returns:
            ``fits``; where it does, ``backward`` and ``update``, the peaks in bytes until the gradients were there and
            after that, and ``reserved``
        """
        self._backward_peak = update = reserved = 0
        free_memory()  # of other sizes
        for batch in self.batches(tokens):
            items = [self.dataset[item] for item in batch]

            def step(items: Sequence[Any] = items) -> None:
                # The gradients of an earlier batch are there, as with --update-freq.
                self.trainer.train_step([self._small, self.dataset.collater(items)], raise_oom=True)

            self.memory.reset()
            if attempt(step) is None:
                self.trainer.zero_grad()
                return {"fits": False}
            self.trainer.zero_grad()
            update, reserved = max(update, self.memory.peak()), max(reserved, self.memory.reserved())
        outside = self.memory.outside()
        return {
            "fits": True,
            "backward": self._backward_peak,
            "update": update,
            "reserved": reserved,
            "outside": outside,
        }


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for entry in value.values() for each in _tensors(entry)] if isinstance(value, dict) else []


# -- the process -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what fairseq prints is no answer
    request = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        try:
            _serve(request, folder, answers)
        except ClozeError as error:
            print(json.dumps({"error": str(error)}), file=answers, flush=True)


def _serve(request: Answer, folder: str, answers: Any) -> None:
    cfg = parse(request["args"], folder)
    limit = request["limit"]
    if torch.cuda.is_available() and not cfg.common.cpu:
        torch.cuda.set_device(cfg.distributed_training.device_id)
        memory: Any = CudaMemory(limit)
        steps = _first(cfg, memory)
        _say(answers, {**_facts(cfg, memory), **steps.sizes()})
        for line in sys.stdin:
            _say(answers, steps.measure(int(line)))
        return
    memory = CpuMemory(limit)
    facts = _in_a_fork(memory, lambda: {**_facts(cfg, memory), **_first(cfg, memory).sizes()})
    if facts is None:
        raise _nothing_fits(memory)
    _say(answers, facts)
    for line in sys.stdin:
        _say(answers, _in_a_fork(memory, lambda line=line: _first(cfg, memory).measure(int(line))) or {"fits": False})


def _say(answers: Any, answer: Answer) -> None:
    if "error" in answer:
        raise ClozeError(answer["error"])
    print(json.dumps(answer), file=answers, flush=True)


def _facts(cfg: Any, memory: Any) -> Answer:
    return {
        "device": memory.device,
        "limit": memory.limit,
        "max_tokens": cfg.dataset.max_tokens,
        "update_freq": max(cfg.optimization.update_freq),
    }


def _first(cfg: Any, memory: Any) -> Steps:
    steps = attempt(lambda: Steps(cfg, memory))
    if steps is None:
        raise _nothing_fits(memory)
    return steps[0]


def _nothing_fits(memory: Any) -> ClozeError:
    return ClozeError(
        f"{memory.limit / 2**30:.2f} GiB on {memory.device} do not hold weights, gradients and the optimizer's state; "
        f"{OPTIMIZER_ADVICE}"
    )


def _in_a_fork(memory: CpuMemory, work: Any) -> Answer | None:
    """The answer of *work* in a process of its own; ``None`` where it had no memory even to say so."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            memory.enforce()
            try:
                answer = work()
            except ClozeError as error:
                answer = {"error": str(error)}
            os.write(writer, json.dumps(answer).encode())
            status = 0
        except BaseException as error:
            status = 3 if is_out_of_memory(error) else 1
            if status == 1:
                sys.excepthook(type(error), error, error.__traceback__)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 1:
        raise SystemExit(1)  # it has said why
    return json.loads(text) if text else None


if __name__ == "__main__":
    serve()
