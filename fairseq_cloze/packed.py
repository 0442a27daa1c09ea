"""View ``packed``: as ``joint``, with every candidate's own tokens behind the passage, at its blank's positions.

One forward sees all candidates of all blanks filled in: a candidate attends to itself and to the passage without its
own blank's mask, the passage never attends to candidates.  A head over the candidate's token states can be learned.
The copies of scorers ``kmask`` and ``l2r`` stand behind the passage in the same way.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np
import torch

from .joint import JointView
from .store import Store
from .view import Item, Sample
from .vocabulary import PAD, Vocabulary


class PackedView(JointView):
    """A window of the passage, every blank a ``<mask>``, and all candidates behind it, in one row.

    Its rows have more tokens than positions, of which *max_positions* is the limit.
    """

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int, scorer: str = "mean") -> None:
        super().__init__(store, vocabulary, max_positions, scorer, room=True)

    def _measure(self, length: np.ndarray, longest: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        own = np.zeros(self.store.blanks, dtype=np.int64)
        np.add.at(own, self._owner, np.where(self._distinct, self._pieces, 0))
        _, copies = self._copies_of_windows()
        return length + self._per_window(own) + copies, np.ones(len(length), dtype=np.int64)

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch, one row per window.

        Returns:
            as :meth:`JointView.collate`, but for *masked_tokens*, and in ``net_input`` besides

            - positions: position of each token, counted from 0, ``int64 (rows, length)``
            - segments: 0 for the passage, 1 and more for what stands behind it, -1 for padding,
              ``int64 (rows, length)``
            - hidden: position in the row of the mask that a token must not see, -1 for none, ``int64 (rows, length)``
            - own_reads: offset of each candidate's own tokens in the flattened input, -1 where there is none,
              ``int64 (blanks, candidates, pieces)``
        """
        packed = [self._pack(item) for item in items]
        blanks = np.concatenate([item["blanks"] for item in items])
        sample = self._sample(items, blanks, [tokens for tokens, _, _, _ in packed])
        shape = sample["net_input"]["src_tokens"].shape
        layout = np.full((3, *shape), -1, dtype=np.int64)
        layout[0] = 0
        starts: List[int] = []
        own_starts: List[int] = []
        for row, (_, plan, own, copies) in enumerate(packed):
            layout[:, row, : plan.shape[1]] = plan
            own_starts += [row * shape[1] + start for start in own]
            starts += [row * shape[1] + start for start in copies]
        self._add_reads(sample, items, starts)
        for name, values in zip(("positions", "segments", "hidden"), layout):
            sample["net_input"][name] = torch.from_numpy(values)
        tokens = sample["net_input"]["candidate_tokens"]
        own_reads = torch.full_like(tokens, -1)
        own_reads[sample["distinct"]] = torch.tensor(own_starts)[:, None] + torch.arange(tokens.size(2))
        sample["net_input"]["own_reads"] = own_reads.masked_fill(tokens.eq(PAD), -1)
        return sample

    def _pack(self, item: Item) -> Tuple[np.ndarray, np.ndarray, List[int], List[int]]:
        """Tokens of a row; their positions, segments and hidden masks; where candidates, and copies, start in it."""
        tokens = [item["tokens"]]
        length = len(item["tokens"])
        plan = [np.stack([np.arange(length), np.zeros(length, np.int64), np.full(length, -1)])]
        starts: Tuple[List[int], List[int]] = ([], [])
        candidates = [
            (number, self._tokens_of(candidate))
            for number, blank in enumerate(item["blanks"].tolist())
            for candidate in range(*self.store.candidate_end[blank : blank + 2].tolist())
            if self._distinct[candidate]
        ]
        behind = [(0, *entry) for entry in candidates] + [(1, copy.blank, copy.tokens) for copy in item["copies"]]
        for segment, (kind, number, segment_tokens) in enumerate(behind, 1):
            position = int(item["positions"][number])
            count = len(segment_tokens)
            starts[kind].append(length)
            tokens.append(segment_tokens)
            plan.append(np.stack([position + np.arange(count), np.full(count, segment), np.full(count, position)]))
            length += count
        return (np.concatenate(tokens), np.concatenate(plan, axis=1), *starts)
