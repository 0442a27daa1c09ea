"""Member: one checkpoint of a ranker, its model on a device, and how it scores."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError, ClozeError
from ..model import int8
from ..model.masked_lm import MaskedLM
from ..model.memory import Limit, cannot_split, in_parts, keep_freed_memory
from ..model.names import HEAD_NAME, HEADS
from ..model.scores import candidate_scores
from ..views.batches import cut_batches, longest_first
from ..views.making import make_view
from ..views.settings import PartialSettings
from ..views.view import Item, View, to_device
from ..weights.checkpoint import Checkpoint
from . import sharing
from .resources import Resources, cannot_use
from .scores import Scores

#: Most tokens of a batch where neither limit is given, unless one item alone costs more.
DEFAULT_MAX_TOKENS = 4096


T = TypeVar("T")


class Member:
    """A checkpoint, its model on a device, ready to score encoded passages; arguments are those of :class:`Ranker`.

    Raises:
        CheckpointError: it does not belong to the vocabulary, or has no ranking head to score with
        ClozeError: the settings do not go together, or the device cannot be used
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        where: str,
        settings: PartialSettings,
        resources: Resources,
    ) -> None:
        self.name = checkpoint.name
        self.settings = settings.completed(checkpoint.carried)
        self.encoding = checkpoint.encoding
        self.architecture = checkpoint.architecture
        self.vocabulary = vocabulary
        self.memory = Limit()
        line, proved = checkpoint.check_vocabulary(vocabulary, where)
        self._notes = [*checkpoint.notes, *([] if proved else [line])]
        self._fp16 = resources.fp16
        self.device = _open_device(resources.device)
        self.int8 = resources.int8 and self._can_compute_int8(resources)  #: does it compute so?
        head = self.settings.scorer == "head"
        if head:
            checkpoint.require_ranking_head()
        unused = sorted(checkpoint.heads - {HEAD_NAME if head else ""})
        if unused:
            self._notes.append(f"heads of the checkpoint that are not used: {', '.join(unused)}")
        checkpoint.require_sound()
        prefixes = tuple(f"{HEADS}{name}." for name in unused)
        weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(prefixes)}
        model = MaskedLM.from_weights(self.architecture, weights, ranking_head=head, autocast=resources.bf16)
        self.model = (model.half() if resources.fp16 else model.float()).to(self.device).eval()
        if self.int8:
            self.model.to_int8()

    def _can_compute_int8(self, resources: Resources) -> bool:
        """Whether int8 is of use here, noted where it is not; ``ClozeError`` where it does not go with the rest."""
        for other in ("fp16", "bf16"):
            if getattr(resources, other):
                raise ClozeError(f"--int8 and --{other}: expected one of them, as each says what computes")
        if self.device.type != "cpu":
            raise ClozeError(f"--int8 is for CPUs, and the device is {self.device}; take --device cpu")
        missing = int8.missing()
        if missing:
            self._notes.append(f"--int8: {missing}, so it was computed in float32")
        return missing is None

    @property
    def notes(self) -> list[str]:
        """What the user should know of the checkpoint, and of the memory so far."""
        return [*self._notes, *self.memory.notes()]

    def score_share(self, store: Store, resources: Resources, progress: Any | None = None) -> Scores:
        """Score the batches of a store that this worker is dealt, in halves where memory runs out.

        Arguments and errors are those of :meth:`Ranker.score`.
        """
        self.model.pack()  # until the first scoring it can be examined, or changed
        if self.device.type == "cpu":
            keep_freed_memory()
        view = make_view(self.settings, store, self.vocabulary, self.architecture.max_positions)
        out = Scores.empty(store)
        start, shown = time.perf_counter(), 0
        batches = batches_of(view, longest_first(view), resources)
        for number in sharing.deal(len(batches)):
            blanks = self._score_batch(view, [view.item(int(index)) for index in batches[number]], out)
            out.scored.append(blanks)
            if progress is not None:  # others do as much meanwhile
                step = min(sharing.size() * len(blanks), store.blanks - shown)
                shown += step
                progress.update(step)
        out.seconds = time.perf_counter() - start
        if progress is not None:
            progress.update(store.blanks - shown)
        return out

    def in_parts(self, view: View, items: list[Item], compute: Callable[[Sequence[Item]], T]) -> list[T]:
        """Compute something of a batch, in halves where memory runs out.

        Raises:
            ClozeError: memory is too small for one item alone
        """

        def cost(part: Sequence[Item]) -> int:
            return view.tokens_of([item["index"] for item in part])

        def too_large(item: Item) -> NoReturn:
            passage = view.store.id(view.passage_of(item["index"]))
            advice = "--device cpu has more memory, --fp16 or --bf16 need less"
            raise cannot_split(f"passage '{passage}'", cost([item]), advice)

        return in_parts(items, compute, cost, self.memory, too_large)

    def _score_batch(self, view: View, items: list[Item], out: Scores) -> np.ndarray:
        """Score the blanks of a batch into *out* and return their numbers."""

        return np.concatenate(self.in_parts(view, items, lambda part: self._score_items(view, part, out)))

    def _score_items(self, view: View, items: Sequence[Item], out: Scores) -> np.ndarray:
        sample = view.collate(items)
        with torch.inference_mode():
            scores = candidate_scores(self.model, to_device(sample, self.device), self.settings).cpu()
        blanks: np.ndarray = sample["blanks"].numpy()
        wrong = scores.isnan().any(dim=1) | (~scores.isfinite() & sample["distinct"]).any(dim=1)
        if wrong.any():
            store, blank = view.store, int(blanks[wrong.numpy()][0])
            passage = int(np.searchsorted(store.blank_offsets, blank, side="right")) - 1
            number = blank - int(store.blank_offsets[passage]) + 1
            advice = "score without --fp16" if self._fp16 else "the weights are damaged, take another checkpoint"
            raise CheckpointError(
                f"{self.name}: expected numbers as scores, found NaN or infinity for {int(wrong.sum())} blanks, "
                f"first in passage '{store.id(passage)}', blank {number}; {advice}"
            )
        out.add(sample)
        out.raw[blanks, : scores.size(1)] = scores.numpy()
        return blanks


def batches_of(view: View, order: np.ndarray, resources: Resources) -> list[np.ndarray]:
    """Items in an order, ``int64 (items,)``, as batches within what scoring may use."""
    max_tokens = resources.max_tokens
    if resources.batch_size is None and max_tokens is None:
        max_tokens = max(DEFAULT_MAX_TOKENS, int(view.cost[order].max(initial=0)))
    return cut_batches(view, order, max_tokens, resources.batch_size)


def _open_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise cannot_use(name, error) from error
    return device
