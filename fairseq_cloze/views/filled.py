"""Views that fill candidates in: ``full`` and ``neighbors``.

An item is one blank, with one row of input per distinct candidate.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import BOS, EOS, Vocabulary
from ..errors import DataBinError
from ..passages.passage import UNLABELLED
from .view import Item, Sample, View
from .windows import window_around


class FilledView(View):
    """One blank, one row per distinct candidate with that candidate filled in."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int) -> None:
        super().__init__(store, vocabulary, max_positions)
        self._passage = np.repeat(np.arange(len(store)), np.diff(store.blank_offsets))
        owner, distinct = store.distinct_candidates()
        self.rows = np.bincount(owner[distinct], minlength=store.blanks)
        longest = np.maximum.reduceat(np.diff(store.candidate_token_offsets), store.candidate_offsets[:-1])
        self.row_length = self._context_length() + longest + 2
        for number in np.flatnonzero(self.row_length > max_positions).tolist():
            self.row_length[number] = max(map(len, self.item(number)["rows"]))

    def _context_length(self) -> np.ndarray:
        """Tokens of the uncut context of each blank, ``int64 (blanks,)``."""
        raise NotImplementedError

    def _context(self, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens before the blank, tokens after it, and the sentence starts in both together."""
        raise NotImplementedError

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        return int(self._passage[item])

    def item(self, index: int) -> Item:
        """Rows of one blank, and where in each its candidate stands."""
        store = self.store
        left, right, sentence_starts = self._context(index)
        first, last = store.candidate_offsets[index : index + 2]
        candidates = [
            store.candidate_tokens(candidate)
            for candidate in range(first, last)
            if store.columns["candidate_first"][candidate] == candidate - first
        ]
        room = self.limit - max(map(len, candidates))
        if room < 0:
            raise self._too_long(self.passage_of(index), self.limit - room)
        start, end = window_around(len(left) + len(right), sentence_starts, len(left), len(left), room)
        left, right = left[start:], right[: end - len(left)]
        rows = [np.concatenate([[BOS], left, candidate, right, [EOS]]) for candidate in candidates]
        spans = [(len(left) + 1, len(left) + 1 + len(candidate)) for candidate in candidates]
        return {"index": index, "rows": rows, "spans": spans, "blanks": np.array([index])}

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch.

        Returns:
            ``net_input`` as in :class:`fairseq_cloze.views.view.View`, which reads each candidate and its neighbour on
            each side, ``<s>`` and ``</s>`` where the text ends; ``row``, the input row of each candidate, -1 where it
            has none, ``int64 (blanks, candidates)``; ``spans``, start and end of the candidate in its row, ``int64
            (rows, 2)``; and the fields of :func:`fairseq_cloze.views.view.blank_fields`
        """
        blanks = np.concatenate([item["blanks"] for item in items])
        spans = [span for item in items for span in item["spans"]]
        reads = [range(start - 1, end + 1) for start, end in spans]
        sample = self._sample(items, blanks, [row for item in items for row in item["rows"]], reads)
        distinct = sample["distinct"]
        sample["row"] = torch.full(distinct.shape, -1)
        sample["row"][distinct] = torch.arange(int(distinct.sum()))
        sample["spans"] = torch.tensor(spans)
        return sample


class FullView(FilledView):
    """The whole passage; the other blanks are removed, masked, or filled with gold."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int, other_blanks: str) -> None:
        gold = store.columns["gold"]
        if other_blanks == "gold" and (gold == UNLABELLED).any():
            raise DataBinError(
                f"other_blanks 'gold' needs every blank labelled, found {int((gold == UNLABELLED).sum()):,} without an "
                "answer; use 'remove' or 'mask'"
            )
        self._other = other_blanks
        super().__init__(store, vocabulary, max_positions)

    def _context_length(self) -> np.ndarray:
        store, passage = self.store, self._passage
        if self._other == "mask":
            return np.diff(store.token_offsets)[passage] - 1
        length = np.diff(store.token_offsets)[passage] - np.diff(store.blank_offsets)[passage]
        if self._other == "gold":
            candidate = store.candidate_offsets[:-1] + store.columns["gold"]
            gold = np.diff(store.candidate_token_offsets)[candidate]
            length = length + np.add.reduceat(gold, store.blank_offsets[:-1])[passage] - gold
        return length

    def _context(self, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        passage = self.store[self.passage_of(blank)]
        first = int(self.store.blank_offsets[self.passage_of(blank)])
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        shift = np.zeros(len(passage.tokens) + 1, dtype=np.int64)  # how far a token moves
        start = 0
        for number, position in enumerate(passage.blank_positions, first):
            side = sides[number > blank]
            side.append(passage.tokens[start:position])
            if number == blank or self._other == "remove":
                fill = passage.tokens[:0]
            elif self._other == "mask":
                fill = passage.tokens[position : position + 1]
            else:
                fill = self.store.filling(number, int(self.store.columns["gold"][number]))
            sides[number >= blank].append(fill)
            shift[position + 1 :] += len(fill) - 1
            start = position + 1
        sides[1].append(passage.tokens[start:])
        starts = passage.sentence_starts + shift[passage.sentence_starts]
        return np.concatenate([*sides[0], passage.tokens[:0]]), np.concatenate(sides[1]), starts


class NeighborsView(FilledView):
    """From the previous blank of the passage to the next one."""

    def _context_length(self) -> np.ndarray:
        store, passage = self.store, self._passage
        position = np.asarray(store.columns["blank_position"], dtype=np.int64)
        same = passage[1:] == passage[:-1]
        self._start, self._end = np.zeros(len(position), dtype=np.int64), np.diff(store.token_offsets)[passage]
        self._start[1:][same] = position[:-1][same] + 1
        self._end[:-1][same] = position[1:][same]
        return self._end - self._start - 1

    def _context(self, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        passage = self.store[self.passage_of(blank)]
        start, end = int(self._start[blank]), int(self._end[blank])
        position = int(self.store.columns["blank_position"][blank])
        starts = passage.sentence_starts
        starts = starts[(starts >= start) & (starts < end)] - start
        starts = np.where(starts > position - start, starts - 1, starts)
        return passage.tokens[start:position], passage.tokens[position + 1 : end], starts
