"""Recovery: training and validation go on where a batch does not fit into memory.

fairseq skips such a batch.  Here it is computed in halves, and in halves of these, with the gradients of the whole:
the loss is a sum over blanks.  A backward pass that broke off has added to the gradients already; they are cleared
then, and what the update had computed so far is computed again.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from ..errors import ClozeError, Exit, first_line
from ..model.memory import ADVICE, OOM, OPTIMIZER_ADVICE, SPLIT, Limit, attempt, cannot_split, in_parts, smaller_batches
from ..runs.names import LAST_CHECKPOINT
from ..views.view import to_device
from ..weights.checkpoint import unusable
from .distributed import gather, is_distributed
from .ending import end_run, end_worker
from .events import TrainingEvents
from .names import option
from .source import LOWER_RATE, what_is_sound

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
#: Loss, sample size and logging output.
Output = tuple[Tensor, int, dict[str, Any]]


@dataclass
class RecoveryConfig(FairseqDataclass):
    """Options of the recovery, and what its advice needs to know of the other groups."""

    max_oom: int = option(
        10,
        "stop, with advice and exit status 5, when memory ran out more often, per worker on average; until then such "
        "batches are computed in parts",
    )
    max_tokens: Optional[int] = II("dataset.max_tokens")
    batch_size: Optional[int] = II("dataset.batch_size")
    update_freq: Any = II("optimization.update_freq")
    save_dir: str = II("checkpoint.save_dir")


class _Item(NamedTuple):
    """An item of a batch of the update at hand."""

    number: int
    sample: Sample
    ignore_grad: bool


class RecoveringTask(FairseqTask):
    """A task whose batches are computed in parts where they do not fit.

    Its data sets have a ``name``, which their samples carry as ``split``, beside the numbers of their ``items``.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        #: whether to recover at all; else errors pass
        self.recovers = True
        self._training, self._validating = Limit(), Limit()
        # What fairseq was told of the counts of training; what it forgets, after an overflow in fp16, is told again.
        self._told = self._confirmed = (0, 0)
        self._ooms = 0  # of all workers
        self._done: list[tuple[Sequence[_Item], Output]] = []  # of the update at hand
        #: what is told of the training
        self.events = TrainingEvents()

    def train_step(
        self,
        sample: Sample,
        model: nn.Module,
        criterion: nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **kwargs: Any,
    ) -> Output:
        """As fairseq's, in parts where memory runs out.

        Ends the worker with ``Exit.OUT_OF_MEMORY`` where one item does not fit alone, or gradients of some workers may
        have been summed already.
        """
        problem = sys.exc_info()[1]
        if isinstance(problem, FloatingPointError):  # fairseq wants to look where, with hooks that our models refuse
            self._refuse_gradients(problem, model, update_num)
        step = super().train_step
        if not self.recovers:
            return step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
        if all(parameter.grad is None for parameter in model.parameters()):  # a new update
            self._done, self._told = [], self._confirmed
        sample = dict(sample)  # fairseq may pass the same dummy batch twice in an update
        items = [_Item(number, sample, ignore_grad) for number in sample["items"]]
        no_sync: Any = getattr(model, "no_sync", nullcontext)
        limit, where = self._training, f"update {update_num + 1}"
        sums = passed = False  # whether workers sum gradients in this backward pass, and it may have begun

        def forward_is_done(*_: Any) -> None:
            nonlocal passed
            passed = True

        def cost(part: Sequence[_Item]) -> int:
            return self._tokens_of(sample, [item.number for item in part])

        def work(part: Sequence[_Item]) -> None:
            nonlocal sums, passed
            # They do in the last one of an update, if that is how this model does it.
            sums = bool(getattr(model, "require_backward_grad_sync", False)) and part[-1] is items[-1]
            passed = False
            batch = self._collate(part[0].sample, [item.number for item in part])
            with nullcontext() if sums else no_sync():
                out = step(batch, model, criterion, optimizer, update_num, part[0].ignore_grad, **kwargs)
            self._done.append((part, (out[0].detach(), out[1], out[2])))

        def refuse_what_is_sent() -> None:
            if (passed and sums) or not _is_simple(model):
                self._stop(
                    f"out of memory in {where}, while the workers sum their gradients; take --ddp-backend legacy_ddp, "
                    f"with which the batch can be computed again, or smaller batches: {self._smaller(limit)}"
                )

        def too_large(item: _Item) -> NoReturn:
            refuse_what_is_sent()
            self._too_large(item.sample, item.number)

        def failed(part: Sequence[_Item]) -> list[Sequence[_Item]]:
            refuse_what_is_sent()
            self._warn(limit, where, cost(part))
            if not passed:
                return []
            optimizer.zero_grad()  # the gradients may hold some of this part's
            again, self._done = [each for each, _ in self._done], []
            return again

        with model.register_forward_hook(forward_is_done):
            in_parts(items, work, cost, limit, too_large, failed)
        output = _summed([out for part, out in self._done if part[0].sample is sample])
        told = self._told
        if not ignore_grad:
            self._told = limit.counts
        _count(output, told, self._told)
        return output

    def optimizer_step(self, optimizer: Any, model: nn.Module, update_num: int) -> None:
        """As fairseq's; ends the worker where the state of the optimizer does not fit."""
        step = super().optimizer_step
        if not self.recovers:
            step(optimizer, model, update_num)
        elif attempt(lambda: step(optimizer, model, update_num)) is None:
            self._stop(
                f"out of memory in the optimizer's step of update {update_num + 1}: its state does not fit beside the "
                f"weights; {OPTIMIZER_ADVICE}"
            )

    def valid_step(self, sample: Sample, model: nn.Module, criterion: nn.Module, **kwargs: Any) -> Output:
        """As fairseq's, in parts where memory runs out; ends the worker where one item does not fit alone."""
        step = super().valid_step
        if not self.recovers:
            return step(sample, model, criterion, **kwargs)
        limit, items = self._validating, sample["items"]
        before = limit.counts

        def work(part: Sequence[int]) -> Output:
            return step(self._collate(sample, part), model, criterion, **kwargs)

        cost, too_large = partial(self._tokens_of, sample), partial(self._too_large, sample)
        output = _summed(in_parts(items, work, cost, limit, too_large))
        _count(output, before, limit.counts)
        if output[2][OOM]:
            self._warn(limit, "validation", cost(items))
        return output

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """As fairseq's; counts how often memory ran out in all workers.

        Raises:
            SystemExit: with ``Exit.OUT_OF_MEMORY``, in all workers, after more than ``--max-oom``
        """
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            self._confirmed = self._told
        found = int(sum(log.get(OOM, 0) for log in logging_outputs))
        self._ooms += found
        if found:
            where, limit = ("training", self._training) if criterion.training else ("validation", self._validating)
            self.events.tell("out_of_memory", where=where, times=found, so_far=self._ooms, split_from=limit.tokens)
        if found and self._ooms > self.cfg.max_oom * len(gather(None)):
            limit.tokens = min((tokens for tokens in gather(limit.tokens) if tokens is not None), default=None)
            text = (
                f"out of memory {self._ooms} times, more than --max-oom {self.cfg.max_oom} allows; "
                f"{self._smaller(limit)}. 'fairseq-cloze fit-batch' finds the largest --max-tokens that fits. "
                f"{self._what_stays()}"
            )
            self.events.tell("stopped", status=int(Exit.OUT_OF_MEMORY), text=text)
            end_run(Exit.OUT_OF_MEMORY, f"Error: {text}")

    def _warn(self, limit: Limit, where: str, tokens: int) -> None:
        logger.warning(
            "out of memory in %s, with a batch of %s tokens: it is computed in parts, nothing is skipped, and batches "
            "of %s tokens or more are split from now on. %s",
            *(where, f"{tokens:,}", f"{limit.tokens:,}", self._smaller(limit)),
        )

    def _smaller(self, limit: Limit) -> str:
        """Which batches would fit."""
        cfg = self.cfg
        fits = max((limit.tokens or 2) - 1, 1)
        worst = max((int(each.view.cost.max(initial=0)) for each in self.datasets.values()), default=0)
        if limit is self._validating:
            return f"--max-tokens-valid {max(fits, worst)} has smaller batches there"
        return smaller_batches(fits, worst, cfg.max_tokens, cfg.batch_size, max(cfg.update_freq))

    def _too_large(self, sample: Sample, item: int) -> NoReturn:
        view = self.datasets[sample["split"]].view
        passage = f"passage '{view.store.id(view.passage_of(item))}' of split '{sample['split']}'"
        advice = f"{ADVICE}; or take the passage out, or a smaller model"
        self._stop(str(cannot_split(passage, view.tokens_of([item]), advice)))

    def _refuse_gradients(self, problem: FloatingPointError, model: nn.Module, update_num: int) -> NoReturn:
        """End a training whose gradients are no numbers: ``ClozeError``, in every worker."""
        count, found = unusable(dict(model.named_parameters()))
        found = found if count else "the weights before it are numbers"
        advice = f"{LOWER_RATE}. {what_is_sound(self.cfg.save_dir)}"
        text = f"update {update_num + 1}: {first_line(problem)}; {found}. {advice}"
        self.events.tell("stopped", status=int(Exit.FAILED), text=text)
        raise ClozeError(text) from problem

    def _what_stays(self) -> str:
        last = Path(self.cfg.save_dir, LAST_CHECKPOINT)
        return f"{last} stays, the same command goes on there" if last.exists() else "Nothing was saved"

    def _stop(self, text: str) -> NoReturn:
        """End this worker, at once; torch or the batch system end the others.

        Other exceptions than ``SystemExit`` would make fairseq save a ``crash.pt``.
        """
        text = f"{text}. {self._what_stays()}"
        self.events.tell("stopped", status=int(Exit.OUT_OF_MEMORY), text=text)
        end_worker(Exit.OUT_OF_MEMORY, f"Error: {text}")

    def _tokens_of(self, sample: Sample, items: Sequence[int]) -> int:
        tokens: int = self.datasets[sample["split"]].view.tokens_of(items)
        return tokens

    def _collate(self, sample: Sample, items: Sequence[int]) -> Sample:
        """Some items of a batch, on its device; what is drawn for them is drawn by epoch and number, hence the same."""
        if len(items) == len(sample["items"]):
            return sample
        dataset = self.datasets[sample["split"]]
        device = sample["net_input"]["src_tokens"].device
        return to_device(dataset.collater([dataset[item] for item in items]), device)


def _summed(outputs: Sequence[Output]) -> Output:
    """The results of parts as one."""
    first, *others = outputs
    loss, size, log = first[0], first[1], dict(first[2])
    for other in others:
        loss, size = loss + other[0], size + other[1]
        log = {key: value + other[2][key] for key, value in log.items()}
    return loss, size, log


def _count(output: Output, before: tuple[int, int], now: tuple[int, int]) -> None:
    """Write into an output how often memory ran out, and batches were split ahead, since *before*."""
    output[2][OOM], output[2][SPLIT] = now[0] - before[0], now[1] - before[1]


def _is_simple(model: Any) -> bool:
    """Whether each worker has its own gradients until the end of its backward pass; not so in sharded training."""
    if not is_distributed():
        return True
    kinds = (LegacyDistributedDataParallel, nn.parallel.DistributedDataParallel)
    while model is not None and not isinstance(model, kinds):
        model = getattr(model, "_modules", {}).get("module")
    return model is not None
