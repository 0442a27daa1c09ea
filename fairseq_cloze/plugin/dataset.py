"""Dataset: items of a view in batches that fairseq can ask for."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset

from ..passages.passage import UNLABELLED
from ..ranking.metrics import known_counts
from ..views.batches import cut_batches, longest_first, shuffled
from ..views.view import Item, Sample, View


class ClozeDataset(FairseqDataset):
    """Batches of a view's items, which carry the *name* of the split; training data are shuffled from a *seed*."""

    def __init__(self, view: View, shuffle: bool, seed: int = 1, name: str = "") -> None:
        super().__init__()
        self.view, self.shuffle, self.seed, self.name = view, shuffle, seed, name
        self.epoch = 1
        #: what sets the limit of its batches
        self.max_tokens_option = "--max-tokens"

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Item:
        """An item; ``-1 - n`` is item ``n`` as a filler."""
        if index < 0:
            return {**self.view.item(-1 - int(index)), "filler": True}
        return self.view.item(int(index))

    def collater(self, samples: Sequence[Item]) -> Sample:
        """Make a batch, see :mod:`fairseq_cloze.views.view`; empty for no items, as fairseq pads its shards.

        What the criterion wants to know is found here, so that nobody has to ask a device for it: ``items``, their
        numbers; ``labelled``, the blanks of the batch that have an answer, ``int64 (labelled,)``; and ``known``, sums
        over them that no score changes.
        """
        if not len(samples):
            return {}
        sample = {**self.view.collate(samples), "split": self.name}
        if "filler" in samples[0]:
            sample.update(gold=torch.full_like(sample["gold"], UNLABELLED), nsentences=0, ntokens=0)
        labelled = (sample["gold"] >= 0).nonzero()[:, 0]
        log_candidates = sample["distinct"].sum(dim=1).clamp(min=1).log()[labelled].sum()
        sample.update(
            items=[item["index"] for item in samples],
            labelled=labelled,
            known={
                "log_candidates": float(log_candidates),
                "ntokens": sample["ntokens"],
                "nsentences": sample["nsentences"],
                "sample_size": len(labelled),
                "computed_tokens": sample["net_input"]["src_tokens"].numel(),
                **known_counts(sample),
            },
        )
        return sample

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the items are: the passages, and how the view looks at them."""
        view = self.view
        found = hashlib.sha256(f"{type(view).__name__} {view.limit} {len(view)} {view.store.digest}".encode())
        for values in (view.row_length, view.rows):
            found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each item's longest row."""
        return self.view.row_length

    def size(self, index: int) -> int:
        """Tokens of the item's longest row."""
        return int(self.view.row_length[index])

    def num_tokens(self, index: Any) -> Any:
        """Tokens the item costs in a batch of its own."""
        return self.view.cost[index]

    num_tokens_vec = num_tokens  # of many items

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Training batches change with the epoch, which also makes a resumed run see what it would have seen."""
        return not self.shuffle

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order :meth:`ordered_indices` gives."""
        self.epoch = epoch

    def ordered_indices(self, seed: int | None = None) -> np.ndarray:
        """Items by length, ``int64 (items,)``; in training shuffled, from another *seed* where one is given."""
        seed = self.seed if seed is None else seed
        return shuffled(self.view, seed, self.epoch) if self.shuffle else longest_first(self.view)

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """As :func:`fairseq_cloze.views.batches.cut_batches`; any multiple is ignored, as no item is dropped."""
        return cut_batches(self.view, indices, max_tokens, max_sentences, self.max_tokens_option)
