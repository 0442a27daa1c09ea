"""Recovery: training and validation go on where a batch does not fit into memory.

fairseq skips such a batch.  Here it is computed in halves, and in halves of these, with the gradients of the whole:
the loss is a sum over blanks.  A backward pass that broke off has added to the gradients already; they are cleared
then, and what the update had computed so far is computed again.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from ..errors import Exit, OutOfMemory
from ..model.memory import ADVICE, OOM, SPLIT, Limit, attempt, cannot_split, halves, in_pieces, smaller_batches
from ..runs.names import LAST_CHECKPOINT
from ..views.view import to_device
from .distributed import gather, is_distributed
from .ending import end_run, end_worker
from .events import TrainingEvents

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
#: Loss, sample size and logging output.
Output = tuple[Tensor, int, dict[str, Any]]


@dataclass
class RecoveryConfig(FairseqDataclass):
    """Options of the recovery, and what its advice needs to know of the other groups."""

    max_oom: int = field(
        default=10,
        metadata={
            "help": "stop, with advice and exit status 5, when memory ran out more often, per worker on average; "
            "until then such batches are computed in pieces"
        },
    )
    max_tokens: Optional[int] = II("dataset.max_tokens")
    batch_size: Optional[int] = II("dataset.batch_size")
    update_freq: Any = II("optimization.update_freq")
    save_dir: str = II("checkpoint.save_dir")


class _Piece:
    """Some items of a batch.

    Attributes:
        sample: the batch, where it is whole
        own: it is of the batch at hand, not of one before it in the same update
        output: its result
    """

    def __init__(self, sample: Sample, ignore_grad: bool) -> None:
        self.sample = sample
        self.ignore_grad = ignore_grad
        self.own = True
        self.output: Output | None = None

    @property
    def tokens(self) -> int:
        """What it costs."""
        return tokens_of(self.sample)

    def part(self, sample: Sample) -> "_Piece":
        """A piece of it."""
        part = _Piece(sample, self.ignore_grad)
        part.own = self.own
        return part


class _Counter:
    """How much of a count was told to fairseq; what it forgets, after an overflow in fp16, is told again."""

    def __init__(self) -> None:
        self.value = self.sent = self.confirmed = 0

    def send(self) -> int:
        """What is new."""
        new, self.sent = self.value - self.sent, self.value
        return new


class RecoveringTask(FairseqTask):
    """A task whose batches are computed in pieces where they do not fit.

    Its data sets have a ``name``, which their samples carry as ``split``.
    """

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        #: whether to recover at all; else errors pass
        self.recovers = True
        self._training, self._validating = Limit(), Limit()
        self._counters = {OOM: _Counter(), SPLIT: _Counter()}
        self._ooms = 0  # of all workers
        self._done: list[_Piece] = []  # of the update at hand
        #: what is told of the training
        self.events = TrainingEvents()

    # -- training ----------------------------------------------------------------------------------------------------

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
        """As fairseq's, in pieces where memory runs out.

        Raises:
            SystemExit: with ``Exit.OUT_OF_MEMORY``, where one item does not fit alone, or gradients of
                some workers may have been summed already
        """
        step = super().train_step
        if not self.recovers:
            return step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
        if all(parameter.grad is None for parameter in model.parameters()):  # a new update
            self._done = []
            for counter in self._counters.values():
                counter.sent = counter.confirmed
        for piece in self._done:
            piece.own = False
        limit, split = self._training, False
        left = [_Piece(sample, ignore_grad)]
        while left:
            piece = left.pop(0)
            items = piece.sample["id"].tolist()
            if len(items) > 1 and not limit.fits(piece.tokens):
                split = split or piece.sample is sample
                left[:0] = self._halve(piece, items)
                continue
            # Workers sum gradients in the last backward pass of an update, if that is how this model does it.
            sums = bool(getattr(model, "require_backward_grad_sync", False)) and not left
            passed: list[bool] = []  # whether the forward pass was left behind
            hook = model.register_forward_hook(lambda *_, passed=passed: passed.append(True))

            def work(piece: _Piece = piece, sums: bool = sums) -> Output:
                no_sync: Any = getattr(model, "no_sync", nullcontext)
                with nullcontext() if sums else no_sync():
                    out = step(piece.sample, model, criterion, optimizer, update_num, piece.ignore_grad, **kwargs)
                return out[0].detach(), out[1], out[2]

            done = attempt(work)
            hook.remove()
            if done is not None:
                [piece.output] = done
                self._done.append(piece)
                continue
            limit.exceeded(piece.tokens)
            self._counters[OOM].value += 1
            if (passed and sums) or not _is_simple(model):
                self._stop(
                    f"out of memory in update {update_num + 1}, while the workers sum their gradients; take "
                    "--ddp-backend legacy_ddp, with which the batch can be computed again, or smaller batches: "
                    f"{self._smaller(limit)}"
                )
            if len(items) == 1:
                self._stop(str(self._too_large(piece.sample, items[0])))
            self._warn(limit, f"update {update_num + 1}", piece.tokens)
            left[:0] = self._halve(piece, items)
            if passed:  # the gradients may hold part of this piece
                optimizer.zero_grad()
                left[:0] = self._done
                self._done = []
        if split:
            self._counters[SPLIT].value += 1
        output = _summed([piece.output for piece in self._done if piece.own and piece.output is not None])
        for name, counter in self._counters.items():
            output[2][name] = 0 if ignore_grad else counter.send()
        return output

    def _halve(self, piece: _Piece, items: Sequence[int]) -> list[_Piece]:
        return [piece.part(self._collate(piece.sample, half)) for half in halves(items)]

    def optimizer_step(self, optimizer: Any, model: nn.Module, update_num: int) -> None:
        """As fairseq's.

        Raises:
            SystemExit: with ``Exit.OUT_OF_MEMORY``, where the state of the optimizer does not fit
        """
        step = super().optimizer_step
        if not self.recovers:
            step(optimizer, model, update_num)
        elif attempt(lambda: step(optimizer, model, update_num)) is None:
            self._stop(
                f"out of memory in the optimizer's step of update {update_num + 1}: its state does not fit beside the "
                "weights; --memory-efficient-fp16 has no second copy of weights and gradients, --optimizer adafactor "
                "less state than adam"
            )

    # -- validation --------------------------------------------------------------------------------------------------

    def valid_step(self, sample: Sample, model: nn.Module, criterion: nn.Module, **kwargs: Any) -> Output:
        """As fairseq's, in pieces where memory runs out.

        Raises:
            SystemExit: with ``Exit.OUT_OF_MEMORY``, where one item does not fit alone
        """
        step = super().valid_step
        if not self.recovers:
            return step(sample, model, criterion, **kwargs)
        limit, everything = self._validating, sample["id"].tolist()
        before = (limit.count, limit.splits)

        def collate(items: Sequence[int]) -> Sample:
            return sample if len(items) == len(everything) else self._collate(sample, items)

        def work(items: Sequence[int]) -> Output:
            return step(collate(items), model, criterion, **kwargs)

        def too_large(item: int) -> NoReturn:
            self._stop(str(self._too_large(self._collate(sample, [item]), item)))

        def cost(items: Sequence[int]) -> int:
            return tokens_of(collate(items))

        output = _summed(in_pieces(everything, work, cost, limit, too_large))
        output[2][OOM], output[2][SPLIT] = limit.count - before[0], limit.splits - before[1]
        if output[2][OOM]:
            self._warn(limit, "validation", tokens_of(sample))
        return output

    # -- what is said of it ------------------------------------------------------------------------------------------

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """As fairseq's; counts how often memory ran out in all workers.

        Raises:
            SystemExit: with ``Exit.OUT_OF_MEMORY``, in all workers, after more than ``--max-oom``
        """
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            for counter in self._counters.values():
                counter.confirmed = counter.sent
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
            "out of memory in %s, with a batch of %s tokens: it is computed in pieces, nothing is skipped, and batches "
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

    def _too_large(self, sample: Sample, item: int) -> OutOfMemory:
        view = self.datasets[sample["split"]].view
        passage = view.store.id(view.passage_of(item))
        return cannot_split(
            f"passage '{passage}' of split '{sample['split']}'",
            tokens_of(sample),
            f"{ADVICE}; or take the passage out, or a smaller model",
        )

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

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _collate(self, sample: Sample, items: Sequence[int]) -> Sample:
        """Some items of a batch, on its device; what is drawn for them is drawn by epoch and number, hence the same."""
        dataset = self.datasets[sample["split"]]
        device = sample["net_input"]["src_tokens"].device
        return to_device(dataset.collater([dataset[item] for item in items]), device)


def tokens_of(sample: Sample) -> int:
    """What a batch costs: computed tokens, rows times the longest."""
    return int(sample["net_input"]["src_tokens"].numel())


def _summed(outputs: Sequence[Output]) -> Output:
    """The results of pieces as one."""
    first, *others = outputs
    loss, size, log = first[0], first[1], dict(first[2])
    for other in others:
        loss, size = loss + other[0], size + other[1]
        log = {key: value + other[2][key] for key, value in log.items()}
    return loss, size, log


def _is_simple(model: Any) -> bool:
    """Whether each worker has its own gradients until the end of its backward pass; not so in sharded training."""
    if not is_distributed():
        return True
    kinds = (LegacyDistributedDataParallel, nn.parallel.DistributedDataParallel)
    while model is not None and not isinstance(model, kinds):
        model = getattr(model, "_modules", {}).get("module")
    return model is not None
