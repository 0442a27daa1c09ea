"""Dataset: items of a view in batches that fairseq can ask for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from fairseq.data import FairseqDataset

from ..errors import ClozeError
from ..passages.passage import UNLABELLED
from ..views.joint import JointView
from ..views.view import Item, Sample, View

#: Rows whose lengths differ by less than this share count as equally long when training data are shuffled.
BUCKET_WIDTH = 1 / 40

_BLOCK = 1 << 16  # items looked at at a time


class ClozeDataset(FairseqDataset):
    """Batches of a view's items, by true cost.

    A batch costs its rows times its longest row: every candidate that is filled in counts, and so does padding.
    Training data are shuffled inside length buckets, anew in every epoch; other data run longest first, so that the
    batch that needs most memory comes at once.

    Args:
        view: the items
        shuffle: whether these are training data
        seed: start of the shuffling
        teacher_blanks: share of the blanks that stand filled with gold, drawn anew in every epoch, and are not scored;
            for view ``joint``
        name: the split, which batches carry as ``split``
    """

    def __init__(self, view: View, shuffle: bool, seed: int = 1, teacher_blanks: float = 0.0, name: str = "") -> None:
        super().__init__()
        self.view = view
        self.shuffle = shuffle
        self.seed = seed
        self.teacher_blanks = teacher_blanks
        self.name = name
        self.epoch = 1
        #: the number of batches is made a multiple of this, by fillers that count for nothing
        self.batches_multiple = 1

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Item:
        """An item; ``-1 - n`` is item ``n`` as a filler."""
        if index < 0:
            return {**self.view.item(-1 - int(index)), "filler": True}
        if self.teacher_blanks and isinstance(self.view, JointView):
            generator = np.random.default_rng([self.seed, self.epoch, int(index)])
            return self.view.item(int(index), self.view.draw_gold(int(index), self.teacher_blanks, generator))
        return self.view.item(int(index))

    def collater(self, samples: Sequence[Item]) -> Sample:
        """Make a batch, see :mod:`fairseq_cloze.views.view`; empty for no items, as fairseq pads its shards."""
        if not len(samples):
            return {}
        sample = {**self.view.collate(samples), "split": self.name}
        if "filler" in samples[0]:
            sample.update(gold=torch.full_like(sample["gold"], UNLABELLED), nsentences=0, ntokens=0)
        return sample

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each item's longest row."""
        return self.view.row_length

    def size(self, index: int) -> int:
        """Tokens of the item's longest row."""
        return int(self.view.row_length[index])

    def num_tokens(self, index: int) -> int:
        """Tokens the item costs in a batch of its own."""
        return int(self.view.cost[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """:meth:`num_tokens` of many items."""
        return self.view.cost[indices]

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Training batches change with the epoch, which also makes a resumed run see what it would have seen."""
        return not self.shuffle

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order :meth:`ordered_indices` gives."""
        self.epoch = epoch

    def ordered_indices(self) -> np.ndarray:
        """Items by length, ``int64 (items,)``."""
        if not self.shuffle:
            return np.argsort(-self.view.row_length, kind="stable")
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self))
        buckets = (np.log(self.view.row_length) / BUCKET_WIDTH).astype(np.int64)
        return order[np.argsort(buckets[order], kind="stable")]

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Cut an order of items into batches.

        Args:
            indices: the order
            max_tokens: most tokens a batch may cost
            max_sentences: most items in a batch
            required_batch_size_multiple: ignored; batches are as full as the two limits allow and none is dropped

        Raises:
            ClozeError: an item costs more than *max_tokens* on its own
        """
        if max_tokens is not None:
            self._check_cost(max_tokens)
        starts = self._starts(indices, max_tokens, max_sentences)
        batches = [indices[start:end] for start, end in zip(starts, [*starts[1:], len(indices)])]
        return batches + self._fillers(-len(batches) % self.batches_multiple)

    def _starts(self, indices: np.ndarray, max_tokens: int | None, max_items: int | None) -> list[int]:
        """Where batches start in an order of items; each takes as many as the limits allow."""
        most = sys.maxsize if max_tokens is None else max_tokens
        most_items = sys.maxsize if max_items is None else max_items
        starts: list[int] = []
        longest, height, items = 0, 0, most_items  # the first item opens a batch
        for block in range(0, len(indices), _BLOCK):  # as Python's own integers, which are quicker and larger
            part = indices[block : block + _BLOCK]
            lengths, rows = self.view.row_length[part].tolist(), self.view.rows[part].tolist()
            for number, (length, count) in enumerate(zip(lengths, rows), block):
                if length > longest:
                    longest = length
                height += count
                items += 1
                if items > most_items or longest * height > most:
                    starts.append(number)
                    longest, height, items = length, count, 1
        return starts

    def _check_cost(self, max_tokens: int) -> None:
        cost = self.view.cost
        worst = int(cost.argmax())
        if cost[worst] > max_tokens:
            rows, length = int(self.view.rows[worst]), int(self.view.row_length[worst])
            passage = self.view.store.id(self.view.passage_of(worst))
            raise ClozeError(
                f"--max-tokens {max_tokens:,} is too small: passage '{passage}' costs {rows} x {length} = "
                f"{cost[worst]:,} tokens; pass --max-tokens {cost[worst]} or more, or --batch-size instead"
            )

    def _fillers(self, count: int) -> list[np.ndarray]:
        """Batches of the cheapest item, unlabelled."""
        cheapest = int(self.view.cost.argmin()) if count else 0
        return [np.array([-1 - cheapest])] * count
