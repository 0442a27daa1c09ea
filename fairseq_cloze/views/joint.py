"""View ``joint``: a window of the passage with every blank a ``<mask>``; one forward scores all its blanks.

Scorers ``kmask`` and ``l2r`` add *copies* of the row in which a blank holds as many masks as a candidate has tokens:
one per blank and number of masks, and for ``l2r`` one per further token, with the tokens before it filled in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import BOS, EOS, PAD, Vocabulary
from .view import Item, Sample, View, candidates_of
from .windows import cut_passages

_BLOCK = 1 << 14  # passages that are cut at a time


class Copy(NamedTuple):
    """What stands in for a blank."""

    blank: int  #: its number in the window
    tokens: np.ndarray  #: ``int64 (tokens,)``
    reads: list[tuple[int, int, int]]  #: offset in *tokens*, candidate, and the token of it that is scored there

    @property
    def offsets(self) -> list[int]:
        """Offsets that are read, ascending."""
        return sorted({offset for offset, _, _ in self.reads})


class JointView(View):
    """A window of the passage, every blank a ``<mask>``, for the scorer ``mean``, ``kmask`` or ``l2r``."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int, scorer: str = "mean") -> None:
        super().__init__(store, vocabulary, max_positions)
        self.scorer = scorer
        self._copies_rows = scorer in ("kmask", "l2r")
        self._limits = np.full(len(store), self.limit)
        if self._copies_rows:
            longest = np.maximum.reduceat(self._candidate_lengths(), store.candidate_offsets[:-1])
            self._limits += 1 - np.maximum.reduceat(longest, store.blank_offsets[:-1])
            for short in np.flatnonzero(self._limits < 2)[:1].tolist():  # no room for text beside a candidate
                raise self._too_long(short, self.limit + 1 - int(self._limits[short]))
        self._windows = self._cut()
        self.row_length = self._windows[:, 2] - self._windows[:, 1] + 2
        self.rows = np.ones(len(self._windows), dtype=np.int64)
        if self._copies_rows:
            self.row_length += np.maximum.reduceat(longest, self._windows[:, 3]) - 1
            self.rows += np.add.reduceat(self._count_copies(), self._windows[:, 3])

    def _candidate_lengths(self) -> np.ndarray:
        """Tokens of each candidate, ``int64 (candidates,)``."""
        lengths = np.diff(self.store.candidate_token_offsets)
        return np.where(lengths == 0, len(self.vocabulary.nothing), lengths)

    def _count_copies(self) -> np.ndarray:
        """Number of copies for each blank, ``int64 (blanks,)``."""
        owner, distinct = self.store.distinct_candidates()
        lengths = self._candidate_lengths()
        several = np.flatnonzero(distinct & (lengths > 1))
        number = np.zeros(self.store.blanks, dtype=np.int64)
        np.add.at(number, np.unique(np.stack([owner[several], lengths[several]]), axis=1)[0], 1)
        if self.scorer == "l2r":
            np.add.at(number, owner[several], lengths[several] - 1)
        return number

    def _cut(self) -> np.ndarray:
        """Passage, start, end, first blank, last blank of each window, ``int64 (windows, 5)``."""
        store, numbers = self.store, np.arange(len(self.store))
        lengths = np.diff(store.token_offsets)
        fits = lengths <= self._limits
        columns = [numbers, np.zeros_like(numbers), lengths, store.blank_offsets[:-1], store.blank_offsets[1:]]
        whole = np.stack(columns, axis=1)[fits]
        parts = []
        for start in range(0, len(store), _BLOCK):
            long = start + np.flatnonzero(~fits[start : start + _BLOCK])
            if len(long):
                parts.append(self._cut_long(long, lengths[long]))
        if parts:
            whole = np.concatenate([whole, *parts])
            whole = whole[np.argsort(whole[:, 0], kind="stable")]
        return whole

    def _cut_long(self, passages: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The windows of some passages, in order, ``int64 (windows, 5)``."""
        store = self.store
        sentences, sentence_ends = _gather(store.columns["sentence_start"], store.sentence_offsets, passages)
        blanks, blank_ends = _gather(store.columns["blank_position"], store.blank_offsets, passages)
        windows = cut_passages(lengths, self._limits[passages], sentences, sentence_ends, blanks, blank_ends)
        windows[:, 3:] += (store.blank_offsets[passages] - blank_ends[:-1])[windows[:, :1]]
        windows[:, 0] = passages[windows[:, 0]]
        return windows

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        return int(self._windows[item, 0])

    def item(self, index: int) -> Item:
        """Tokens of one window, positions of its blanks, and the copies."""
        passage, start, end, first_blank, last_blank = self._windows[index].tolist()
        store = self.store
        offset = int(store.token_offsets[passage])
        tokens = np.empty(end - start + 2, dtype=np.int64)
        tokens[0], tokens[-1] = BOS, EOS
        tokens[1:-1] = store.columns["tokens"][offset + start : offset + end]
        blanks = np.arange(first_blank, last_blank)
        positions = np.asarray(store.columns["blank_position"][first_blank:last_blank], dtype=np.int64) - start + 1
        copies = self._copies(blanks) if self._copies_rows else []
        return {"index": index, "tokens": tokens, "positions": positions, "blanks": blanks, "copies": copies}

    def _copies(self, blanks: np.ndarray) -> list[Copy]:
        """What stands in for the blanks that have candidates of several tokens."""
        copies: list[Copy] = []
        for number, blank in enumerate(blanks.tolist()):
            chosen = [(order, tokens) for order, tokens in self._distinct_tokens(blank) if len(tokens) > 1]
            for masks in sorted({len(tokens) for _, tokens in chosen}):
                places = range(masks) if self.scorer == "kmask" else range(1)
                reads = [(place, order, place) for order, t in chosen if len(t) == masks for place in places]
                copies.append(Copy(number, np.full(masks, self.vocabulary.mask), reads))
            if self.scorer == "l2r":
                for order, tokens in chosen:
                    for place in range(1, len(tokens)):
                        masked = np.where(np.arange(len(tokens)) < place, tokens, self.vocabulary.mask)
                        copies.append(Copy(number, masked, [(place, order, place)]))
        return copies

    def _distinct_tokens(self, blank: int) -> list[tuple[int, np.ndarray]]:
        """Order and tokens of the candidates of a blank that repeat no earlier one."""
        store, nothing = self.store, np.asarray(self.vocabulary.nothing, dtype=np.int64)
        start, end = store.candidate_offsets[blank : blank + 2].tolist()
        first = store.columns["candidate_first"][start:end].tolist()
        tokens = (store.candidate_tokens(candidate).astype(np.int64) for candidate in range(start, end))
        return [(n, t if len(t) else nothing) for n, (t, repeats) in enumerate(zip(tokens, first)) if repeats == n]

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch: one row per window, then the copies.

        Returns:
            ``net_input`` as in :class:`fairseq_cloze.views.view.View`, which reads the blanks' own masks first; with

            - candidate_tokens: ``int64 (blanks, candidates, tokens)``, padded with ``<pad>``
            - token_reads: index into *reads* at which each token is scored, ``int64 (blanks, candidates, tokens)``
            - windows: window of each blank, numbered within the batch, ``int64 (blanks,)``

            and the fields of :func:`fairseq_cloze.views.view.blank_fields`
        """
        blanks = np.concatenate([item["blanks"] for item in items])
        windows = np.repeat(np.arange(len(items)), [len(item["blanks"]) for item in items])
        reads = [item["positions"].tolist() for item in items]
        rows = [item["tokens"] for item in items]
        copies = []  # and the number of the blank in the batch
        for item, start in zip(items, np.searchsorted(windows, np.arange(len(items))).tolist()):
            for copy in item["copies"]:
                tokens, position = item["tokens"], item["positions"][copy.blank]
                rows.append(np.concatenate([tokens[:position], copy.tokens, tokens[position + 1 :]]))
                reads.append([int(position) + offset for offset in copy.offsets])
                copies.append((start + copy.blank, copy))
        candidate_tokens = self._candidate_tokens(blanks)
        token_reads = np.broadcast_to(np.arange(len(blanks))[:, None, None], candidate_tokens.shape).copy()
        before = len(blanks)
        for blank, copy in copies:
            offsets = copy.offsets
            for offset, candidate, place in copy.reads:
                token_reads[blank, candidate, place] = before + offsets.index(offset)
            before += len(offsets)
        sample = self._sample(items, blanks, rows, reads)
        sample["net_input"].update(
            candidate_tokens=torch.from_numpy(candidate_tokens),
            token_reads=torch.from_numpy(token_reads),
            windows=torch.from_numpy(windows),
        )
        return sample

    def _candidate_tokens(self, blanks: np.ndarray) -> np.ndarray:
        store, nothing = self.store, self.vocabulary.nothing
        index, exists = candidates_of(store, blanks)
        begin = np.asarray(store.candidate_token_offsets[index])
        length = np.where(exists, np.asarray(store.candidate_token_offsets[index + 1]) - begin, 0)
        empty = exists & (length == 0)
        places = np.arange(max(length.max(initial=1), len(nothing) if empty.any() else 1))
        filled = places < length[..., None]
        tokens = np.full(filled.shape, PAD, dtype=np.int64)
        tokens[filled] = store.columns["candidate_tokens"][(begin[..., None] + places)[filled]]
        if empty.any():
            tokens[empty, : len(nothing)] = nothing
        return tokens


def _gather(values: np.ndarray, ends: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lists of some passages, and their running totals."""
    counts = ends[chosen + 1] - ends[chosen]
    totals = np.append(0, np.cumsum(counts))
    return values[np.arange(totals[-1]) + np.repeat(ends[chosen] - totals[:-1], counts)], totals
