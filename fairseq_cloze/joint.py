"""View ``joint``: a window of the passage with every blank a ``<mask>``; one forward scores all its blanks.

Scorers ``kmask`` and ``l2r`` add *copies* of the row in which a blank holds as many masks as a candidate has tokens:
one per blank and number of masks, and for ``l2r`` one per further token, with the tokens before it filled in.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from .errors import DataBinError
from .passages import UNLABELLED
from .store import Store
from .view import Item, Sample, View
from .vocabulary import BOS, EOS, PAD, Vocabulary
from .windows import cut_windows


class Copy(NamedTuple):
    """What stands in for a blank.

    Attributes:
        blank: number of the blank in its window
        tokens: ``int64 (tokens,)``
        reads: offset in *tokens*, candidate, and the piece of it that is scored there
    """

    blank: int
    tokens: np.ndarray
    reads: List[Tuple[int, int, int]]


class JointView(View):
    """A window of the passage, every blank a ``<mask>``; all candidates of all its blanks from one forward.

    Args:
        store: the split
        vocabulary: what it was encoded with
        max_positions: most tokens of a row, ``<s>`` and ``</s>`` included
        scorer: ``mean``, ``sum``, ``kmask`` or ``l2r``
        room: leave room for the longest candidate of the passage, so that :meth:`row_around` can be filled
    """

    def __init__(
        self, store: Store, vocabulary: Vocabulary, max_positions: int, scorer: str = "mean", room: bool = False
    ) -> None:
        super().__init__(store, vocabulary, max_positions)
        self.scorer = scorer
        self._pieces, self._owner, self._distinct = self._candidates()
        longest = np.maximum.reduceat(self._pieces, store.candidate_end[:-1])  # of each blank
        grows = scorer in ("kmask", "l2r")
        self._limits = np.full(len(store), self.limit)
        if grows or room:
            self._limits += 1 - np.maximum.reduceat(longest, store.blank_end[:-1])
            self._check_limits(longest)
        self._windows = self._cut()
        length = self._windows[:, 2] - self._windows[:, 1] + 2
        longest = np.maximum.reduceat(longest, self._windows[:, 3])
        self.row_length, self.rows = self._measure(length, longest if grows else np.ones_like(longest))

    def _check_limits(self, longest: np.ndarray) -> None:
        """Make sure that beside the longest candidate of each passage there is room for text."""
        short = np.flatnonzero(self._limits < 2)
        if len(short):
            first = int(short[0])
            pieces = int(longest[self.store.blank_end[first] : self.store.blank_end[first + 1]].max())
            raise DataBinError(
                f"passage '{self.store.id(first)}': a candidate of {pieces:,} tokens does not fit into "
                f"{self.limit + 2} positions; take the passage out, or a model with more positions"
            )

    def _candidates(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of each candidate, the blank it belongs to, and whether it repeats no earlier one."""
        store = self.store
        pieces = np.diff(store.candidate_token_end)
        pieces = np.where(pieces == 0, len(self.vocabulary.nothing), pieces)
        owner = np.repeat(np.arange(store.blanks), np.diff(store.candidate_end))
        order = np.arange(len(owner)) - store.candidate_end[owner]
        return pieces, owner, store.columns["candidate_first"] == order

    def _cut(self) -> np.ndarray:
        """Cut passages that are longer than their limit.

        Returns:
            passage, start, end, first blank, last blank of each window, ``int64 (windows, 5)``
        """
        store = self.store
        lengths = np.diff(store.token_end)
        fits = lengths <= self._limits
        whole = np.stack(
            [np.arange(len(store)), np.zeros(len(store), np.int64), lengths, store.blank_end[:-1], store.blank_end[1:]],
            axis=1,
        )[fits]
        pieces = []
        for number in np.flatnonzero(~fits).tolist():
            passage = store[number]
            base = int(store.blank_end[number])
            for window in cut_windows(
                lengths[number], passage.sentence_starts, passage.blank_positions, int(self._limits[number])
            ):
                pieces.append((number, window.start, window.end, base + window.first_blank, base + window.last_blank))
        if pieces:
            whole = np.concatenate([whole, np.array(pieces, dtype=np.int64)])
            whole = whole[np.lexsort((whole[:, 1], whole[:, 0]))]
        return whole

    def _measure(self, length: np.ndarray, longest: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Tokens of the longest row of each window, and its rows.

        Args:
            length: tokens of the window's own row, ``int64 (windows,)``
            longest: tokens of the longest candidate in it, ``int64 (windows,)``
        """
        return length + longest - 1, 1 + self._copies_of_windows()[0]

    def _copies_of_windows(self) -> Tuple[np.ndarray, np.ndarray]:
        """Number of copies in each window, and of the tokens that stand in for blanks in them."""
        pieces, blanks = self._pieces, self.store.blanks
        several = np.flatnonzero(self._distinct & (pieces > 1))
        number = np.zeros(blanks, dtype=np.int64)
        tokens = np.zeros(blanks, dtype=np.int64)
        if self.scorer in ("kmask", "l2r") and len(several):
            pairs = np.unique(np.stack([self._owner[several], pieces[several]]), axis=1)
            np.add.at(number, pairs[0], 1)
            np.add.at(tokens, pairs[0], pairs[1])
            if self.scorer == "l2r":
                np.add.at(number, self._owner[several], pieces[several] - 1)
                np.add.at(tokens, self._owner[several], pieces[several] * (pieces[several] - 1))
        return self._per_window(number), self._per_window(tokens)

    def _per_window(self, per_blank: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0], np.cumsum(per_blank)])
        return total[self._windows[:, 4]] - total[self._windows[:, 3]]

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        return int(self._windows[item, 0])

    def item(self, index: int, filled: Optional[Mapping[int, int]] = None) -> Item:
        """Tokens of one window, positions of its blanks, and the copies.

        Args:
            index: number of the window
            filled: blanks that are not scored, as they hold a candidate: blank → candidate; one that would make the
                row too long stays a mask and is scored
        """
        passage, start, end, first_blank, last_blank = self._windows[index].tolist()
        store = self.store
        offset = int(store.token_end[passage])
        text = store.columns["tokens"][offset + start : offset + end]
        blanks = np.arange(first_blank, last_blank)
        positions = np.asarray(store.columns["blank_position"][first_blank:last_blank], dtype=np.int64) - start
        if filled:
            text, positions, blanks = self._fill(text, positions, blanks, filled, int(self._limits[passage]))
        tokens = np.empty(len(text) + 2, dtype=np.int64)
        tokens[0], tokens[-1] = BOS, EOS
        tokens[1:-1] = text
        item: Item = {"index": index, "tokens": tokens, "positions": positions + 1, "blanks": blanks}
        item["copies"] = self._copies(blanks) if self.scorer in ("kmask", "l2r") else []
        return item

    def blanks_of(self, index: int) -> np.ndarray:
        """Numbers of the blanks of a window, ``int64 (blanks,)``."""
        return np.arange(self._windows[index, 3], self._windows[index, 4])

    def row_around(self, index: int, blank: int, filled: Mapping[int, int]) -> Tuple[np.ndarray, int]:
        """A window with candidates filled in around one blank, and the position of that blank's mask.

        Args:
            index: number of the window
            blank: number of the blank
            filled: other blanks and their candidates, see :meth:`item`
        """
        item = self.item(index, filled)
        return item["tokens"], int(item["positions"][item["blanks"].tolist().index(blank)])

    def _fill(
        self, text: np.ndarray, positions: np.ndarray, blanks: np.ndarray, filled: Mapping[int, int], limit: int
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        store = self.store
        parts: List[np.ndarray] = []
        kept: List[int] = []
        where: List[int] = []
        done = grown = 0
        for blank, position in zip(blanks.tolist(), positions.tolist()):
            fill = None
            if blank in filled:
                fill = store.candidate_tokens(int(store.candidate_end[blank]) + filled[blank])
                if len(text) + grown + len(fill) - 1 > limit:
                    fill = None
            if fill is None:
                kept.append(blank)
                where.append(position + grown)
                continue
            parts += [text[done:position], fill]
            done = position + 1
            grown += len(fill) - 1
        parts.append(text[done:])
        return np.concatenate(parts), np.array(where, dtype=np.int64), np.array(kept, dtype=np.int64)

    def draw_gold(self, index: int, share: float, generator: np.random.Generator) -> Dict[int, int]:
        """Draw blanks of a window that stand filled with gold, at least one of those left is scored.

        Args:
            index: number of the window
            share: probability that a labelled blank is filled

        Returns:
            blank → gold
        """
        first, last = self._windows[index, 3:].tolist()
        gold = np.asarray(self.store.columns["gold"][first:last])
        drawn = (generator.random(last - first) < share) & (gold != UNLABELLED)
        spared = int(generator.integers(last - first))
        if drawn.all():
            drawn[spared] = False
        return {first + int(blank): int(gold[blank]) for blank in np.flatnonzero(drawn)}

    def _copies(self, blanks: np.ndarray) -> List[Copy]:
        """What stands in for the blanks that have candidates of several tokens."""
        store = self.store
        copies: List[Copy] = []
        for number, blank in enumerate(blanks.tolist()):
            first, last = store.candidate_end[blank : blank + 2].tolist()
            if self._pieces[first:last].max() == 1:
                continue
            chosen = [
                (candidate - first, self._tokens_of(candidate))
                for candidate in range(first, last)
                if self._distinct[candidate] and self._pieces[candidate] > 1
            ]
            for masks in sorted({len(tokens) for _, tokens in chosen}):
                pieces = range(masks) if self.scorer == "kmask" else range(1)
                reads = [(piece, order, piece) for order, t in chosen if len(t) == masks for piece in pieces]
                copies.append(Copy(number, np.full(masks, self.vocabulary.mask), reads))
            if self.scorer == "l2r":
                for order, tokens in chosen:
                    for piece in range(1, len(tokens)):
                        masked = np.where(np.arange(len(tokens)) < piece, tokens, self.vocabulary.mask)
                        copies.append(Copy(number, masked, [(piece, order, piece)]))
        return copies

    def _tokens_of(self, candidate: int) -> np.ndarray:
        tokens = self.store.candidate_tokens(candidate).astype(np.int64)
        return tokens if len(tokens) else np.asarray(self.vocabulary.nothing, dtype=np.int64)

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch: one row per window, then the copies.

        Returns:
            ``net_input`` with

            - src_tokens: ``int64 (rows, length)``
            - masked_tokens: positions that are read, ``bool (rows, length)``
            - reads: the same as ascending offsets into the flattened input, those of the blanks' own masks first,
              ``int64 (reads,)``
            - candidate_tokens: ``int64 (blanks, candidates, pieces)``, padded with ``<pad>``
            - piece_reads: index into *reads* at which each piece is scored, ``int64 (blanks, candidates, pieces)``
            - windows: window of each blank, numbered within the batch, ``int64 (blanks,)``

            and the fields of :func:`fairseq_cloze.view.blank_fields`
        """
        rows = [item["tokens"] for item in items]
        copies: List[Tuple[int, Copy]] = []
        for item in items:
            for copy in item["copies"]:
                position = int(item["positions"][copy.blank])
                rows.append(np.concatenate([item["tokens"][:position], copy.tokens, item["tokens"][position + 1 :]]))
                copies.append((position, copy))
        sample = self._sample(items, np.concatenate([item["blanks"] for item in items]), rows)
        length = sample["net_input"]["src_tokens"].size(1)
        starts = [(len(items) + row) * length + position for row, (position, _) in enumerate(copies)]
        self._add_reads(sample, items, starts)
        masked = torch.zeros(len(rows) * length, dtype=torch.bool)
        masked[sample["net_input"]["reads"]] = True
        sample["net_input"]["masked_tokens"] = masked.view(len(rows), length)
        return sample

    def _add_reads(self, sample: Sample, items: Sequence[Item], starts: Sequence[int]) -> None:
        """Add what says where each piece is scored.

        Args:
            sample: the batch so far
            items: what it was made of
            starts: offset of each copy in the flattened input
        """
        length = sample["net_input"]["src_tokens"].size(1)
        windows = np.repeat(np.arange(len(items)), [len(item["blanks"]) for item in items])
        reads = [np.concatenate([item["positions"] for item in items]) + windows * length]
        tokens = self._candidate_tokens(sample["blanks"].numpy())
        piece_reads = np.broadcast_to(np.arange(len(windows))[:, None, None], tokens.shape).copy()
        count, copy_number, base = len(windows), 0, 0
        for item in items:
            for copy in item["copies"]:
                offsets = sorted({offset for offset, _, _ in copy.reads})
                index = {offset: count + number for number, offset in enumerate(offsets)}
                for offset, candidate, piece in copy.reads:
                    piece_reads[base + copy.blank, candidate, piece] = index[offset]
                reads.append(np.array(offsets) + starts[copy_number])
                count, copy_number = count + len(offsets), copy_number + 1
            base += len(item["blanks"])
        sample["net_input"].update(
            reads=torch.from_numpy(np.concatenate(reads)),
            candidate_tokens=torch.from_numpy(tokens),
            piece_reads=torch.from_numpy(piece_reads),
            windows=torch.from_numpy(windows),
        )

    def _candidate_tokens(self, blanks: np.ndarray) -> np.ndarray:
        store, nothing = self.store, self.vocabulary.nothing
        start = np.asarray(store.candidate_end[blanks])
        count = np.asarray(store.candidate_end[blanks + 1]) - start
        order = np.arange(count.max(initial=1))
        exists = order < count[:, None]
        index = np.where(exists, start[:, None] + order, 0)
        begin = np.asarray(store.candidate_token_end[index])
        length = np.where(exists, np.asarray(store.candidate_token_end[index + 1]) - begin, 0)
        empty = exists & (length == 0)
        pieces = np.arange(max(length.max(initial=1), len(nothing) if empty.any() else 1))
        filled = pieces < length[..., None]
        tokens = np.full(filled.shape, PAD, dtype=np.int64)
        tokens[filled] = store.columns["candidate_tokens"][(begin[..., None] + pieces)[filled]]
        if empty.any():
            tokens[empty, : len(nothing)] = nothing
        return tokens
