"""Views: how encoded passages become model inputs.

A view numbers its *items*, the units that batches are made of, and knows what each costs.  In ``joint`` an item is a
window of a passage, one row of input with every blank a ``<mask>``.  In ``full`` and ``neighbors`` an item is one
blank, one row per distinct candidate, with that candidate filled in.

Shapes in this module: ``rows`` inputs of ``length`` tokens; ``blanks`` of the batch; ``candidates`` of the blank that
has most; ``pieces`` tokens of the candidate that has most.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch

from .errors import ClozeError, DataBinError
from .passages import UNLABELLED
from .settings import OTHER_BLANKS, VIEWS
from .store import Store
from .vocabulary import BOS, EOS, PAD, Vocabulary
from .windows import cut_windows, window_around

Item = Dict[str, Any]
Sample = Dict[str, Any]


def make_view(view: str, store: Store, vocabulary: Vocabulary, max_positions: int, other_blanks: str) -> View:
    """Build the view of that name.

    Args:
        view: one of :data:`fairseq_cloze.settings.VIEWS`
        store: the split
        vocabulary: what it was encoded with
        max_positions: most tokens of a row, ``<s>`` and ``</s>`` included
        other_blanks: one of :data:`fairseq_cloze.settings.OTHER_BLANKS`, for ``full``
    """
    if view == "joint":
        return JointView(store, vocabulary, max_positions)
    if view == "full":
        return FullView(store, vocabulary, max_positions, other_blanks)
    if view == "neighbors":
        return NeighborsView(store, vocabulary, max_positions)
    raise ClozeError(f"view: expected one of {', '.join(VIEWS)}, found '{view}'")


class View:
    """Items of one split and their cost.

    Attributes:
        row_length: tokens of the item's longest row, ``int64 (items,)``
        rows: input rows of the item, ``int64 (items,)``
    """

    row_length: np.ndarray
    rows: np.ndarray

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int) -> None:
        self.store = store
        self.vocabulary = vocabulary
        self.limit = max_positions - 2

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cost(self) -> np.ndarray:
        """Tokens each item costs in a batch of its own, rows times longest row, ``int64 (items,)``."""
        return self.row_length * self.rows

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        raise NotImplementedError

    def item(self, index: int) -> Item:
        """Tokens of one item."""
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch: the model's input, and what :meth:`_blank_fields` adds for the loss."""
        raise NotImplementedError

    def _blank_fields(self, blanks: np.ndarray) -> Sample:
        """What loss and metrics need of each blank.

        Returns:
            - blanks: number of the blank in the split, ``int64 (blanks,)``
            - gold: index of the right candidate (the first of equal ones), -1 where unlabelled, ``int64 (blanks,)``
            - exists: the blank has that many candidates, ``bool (blanks, candidates)``
            - distinct: candidates that exist and repeat no earlier one, ``bool (blanks, candidates)``
            - first: index of the first candidate of the same text, ``int64 (blanks, candidates)``
            - relevance: graded relevance, of equal candidates the highest, 0 where not distinct,
              ``float64 (blanks, candidates)``
            - chance: probability that a random candidate is right, ``float64 (blanks,)``
            - multi_token: some candidate has more than one token, ``bool (blanks,)``
        """
        columns = self.store.columns
        start = np.asarray(self.store.candidate_end[blanks])
        count = np.asarray(self.store.candidate_end[blanks + 1]) - start
        order = np.arange(count.max(initial=1))
        exists = order < count[:, None]
        index = np.where(exists, start[:, None] + order, start[:, None])
        first = np.where(exists, columns["candidate_first"][index], 0).astype(np.int64)
        distinct = exists & (first == order)
        gold = np.asarray(columns["gold"][blanks], dtype=np.int64)
        labelled = gold != UNLABELLED
        gold = np.where(labelled, first[np.arange(len(blanks)), gold], UNLABELLED)
        right = (exists & (first == gold[:, None])).sum(axis=1)
        lengths = np.diff(self.store.candidate_token_end[np.stack([index, index + 1])], axis=0)[0]
        relevance = np.full(exists.shape, -np.inf)
        np.maximum.at(relevance, (np.arange(len(blanks))[:, None], first), columns["candidate_rank"][index])
        return {
            "blanks": torch.from_numpy(blanks),
            "gold": torch.from_numpy(gold),
            "exists": torch.from_numpy(exists),
            "distinct": torch.from_numpy(distinct),
            "first": torch.from_numpy(first),
            "relevance": torch.from_numpy(np.where(distinct, relevance, 0.0)),
            "chance": torch.from_numpy(right / count),
            "multi_token": torch.from_numpy((exists & (lengths > 1)).any(axis=1)),
        }

    def _sample(self, items: Sequence[Item], blanks: np.ndarray, rows: List[np.ndarray]) -> Sample:
        tokens = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
        for row, values in zip(tokens, rows):
            row[: len(values)] = values
        return {
            "id": torch.tensor([item["index"] for item in items]),
            "nsentences": len(items),
            "ntokens": sum(map(len, rows)),
            "net_input": {"src_tokens": torch.from_numpy(tokens)},
            **self._blank_fields(blanks),
        }


class JointView(View):
    """A window of the passage, every blank a ``<mask>``; all candidates of all its blanks from one forward."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int) -> None:
        super().__init__(store, vocabulary, max_positions)
        lengths = np.diff(store.token_end)
        fits = lengths <= self.limit
        # passage, start, end, first blank, last blank
        whole = np.stack(
            [np.arange(len(store)), np.zeros(len(store), np.int64), lengths, store.blank_end[:-1], store.blank_end[1:]],
            axis=1,
        )[fits]
        pieces = []
        for number in np.flatnonzero(~fits).tolist():
            passage = store[number]
            base = int(store.blank_end[number])
            for window in cut_windows(lengths[number], passage.sentence_starts, passage.blank_positions, self.limit):
                pieces.append((number, window.start, window.end, base + window.first_blank, base + window.last_blank))
        if pieces:
            whole = np.concatenate([whole, np.array(pieces, dtype=np.int64)])
            whole = whole[np.lexsort((whole[:, 1], whole[:, 0]))]
        self._windows = whole
        self.row_length = whole[:, 2] - whole[:, 1] + 2
        self.rows = np.ones(len(whole), dtype=np.int64)

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        return int(self._windows[item, 0])

    def item(self, index: int) -> Item:
        """Tokens of one window, positions of its blanks."""
        passage, start, end, first_blank, last_blank = self._windows[index]
        offset = self.store.token_end[passage]
        tokens = np.empty(end - start + 2, dtype=np.int64)
        tokens[0], tokens[-1] = BOS, EOS
        tokens[1:-1] = self.store.columns["tokens"][offset + start : offset + end]
        positions = self.store.columns["blank_position"][first_blank:last_blank] - start + 1
        return {"index": index, "tokens": tokens, "positions": positions, "blanks": np.arange(first_blank, last_blank)}

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch.

        Returns:
            ``net_input`` with

            - src_tokens: ``int64 (rows, length)``
            - masked_tokens: positions of the scored blanks, ``bool (rows, length)``
            - blank_positions: the same as offsets into the flattened input, ``int64 (blanks,)``
            - candidate_tokens: ``int64 (blanks, candidates, pieces)``, padded with ``<pad>``

            and the fields of :meth:`_blank_fields`
        """
        blanks = np.concatenate([item["blanks"] for item in items])
        sample = self._sample(items, blanks, [item["tokens"] for item in items])
        source = sample["net_input"]["src_tokens"]
        flat = np.concatenate([item["positions"] + row * source.size(1) for row, item in enumerate(items)])
        masked = torch.zeros(source.numel(), dtype=torch.bool)
        positions = torch.from_numpy(flat.astype(np.int64))
        masked[positions] = True
        sample["net_input"].update(
            masked_tokens=masked.view_as(source),
            blank_positions=positions,
            candidate_tokens=torch.from_numpy(self._candidate_tokens(blanks)),
        )
        return sample

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


class FilledView(View):
    """One blank, one row per distinct candidate with that candidate filled in."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int) -> None:
        super().__init__(store, vocabulary, max_positions)
        self._passage = np.repeat(np.arange(len(store)), np.diff(store.blank_end))
        index = np.arange(len(store.columns["candidate_first"]))
        owner = np.repeat(np.arange(store.blanks), np.diff(store.candidate_end))
        distinct = store.columns["candidate_first"] == index - store.candidate_end[owner]
        self.rows = np.bincount(owner[distinct], minlength=store.blanks)
        longest = np.maximum.reduceat(np.diff(store.candidate_token_end), store.candidate_end[:-1])
        self.row_length = self._context_length() + longest + 2
        for number in np.flatnonzero(self.row_length > max_positions).tolist():
            self.row_length[number] = max(map(len, self.item(number)["rows"]))

    def _context_length(self) -> np.ndarray:
        """Tokens of the uncut context of each blank, ``int64 (blanks,)``."""
        raise NotImplementedError

    def _context(self, blank: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens before the blank, tokens after it, and the sentence starts in both together."""
        raise NotImplementedError

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        return int(self._passage[item])

    def item(self, index: int) -> Item:
        """Rows of one blank, and where in each its candidate stands."""
        store = self.store
        left, right, sentence_starts = self._context(index)
        first, last = store.candidate_end[index : index + 2]
        candidates = [
            store.candidate_tokens(candidate)
            for candidate in range(first, last)
            if store.columns["candidate_first"][candidate] == candidate - first
        ]
        room = self.limit - max(map(len, candidates))
        if room < 0:
            raise DataBinError(
                f"passage '{store.id(self.passage_of(index))}': a candidate of {self.limit - room:,} tokens does not "
                f"fit into {self.limit + 2} positions; take the passage out, or a model with more positions"
            )
        start, end = window_around(len(left) + len(right), sentence_starts, len(left), len(left), room)
        left, right = left[start:], right[: end - len(left)]
        rows = [np.concatenate([[BOS], left, candidate, right, [EOS]]) for candidate in candidates]
        spans = [(len(left) + 1, len(left) + 1 + len(candidate)) for candidate in candidates]
        return {"index": index, "rows": rows, "spans": spans, "blanks": np.array([index])}

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch.

        Returns:
            ``net_input`` with ``src_tokens``, ``int64 (rows, length)``; ``row``, the input row of each candidate, -1
            where it has none, ``int64 (blanks, candidates)``; ``spans``, start and end of the candidate in its row,
            ``int64 (rows, 2)``; and the fields of :meth:`_blank_fields`
        """
        blanks = np.concatenate([item["blanks"] for item in items])
        sample = self._sample(items, blanks, [row for item in items for row in item["rows"]])
        distinct = sample["distinct"]
        row = torch.full(distinct.shape, -1, dtype=torch.int64)
        row[distinct] = torch.arange(int(distinct.sum()))
        sample["row"] = row
        sample["spans"] = torch.tensor([span for item in items for span in item["spans"]])
        return sample


class FullView(FilledView):
    """The whole passage; the other blanks are removed, masked, or filled with gold."""

    def __init__(self, store: Store, vocabulary: Vocabulary, max_positions: int, other_blanks: str) -> None:
        if other_blanks not in OTHER_BLANKS:
            raise ClozeError(f"other_blanks: expected one of {', '.join(OTHER_BLANKS)}, found '{other_blanks}'")
        gold = store.columns["gold"]
        if other_blanks == "gold" and (gold == UNLABELLED).any():
            raise DataBinError(
                f"other_blanks 'gold' needs every blank labelled, found {int((gold == UNLABELLED).sum()):,} without an "
                "answer; use 'remove' or 'mask'"
            )
        self._other = other_blanks
        super().__init__(store, vocabulary, max_positions)

    def _gold_tokens(self, blank: int) -> np.ndarray:
        return self.store.candidate_tokens(
            int(self.store.candidate_end[blank]) + int(self.store.columns["gold"][blank])
        )

    def _context_length(self) -> np.ndarray:
        store, passage = self.store, self._passage
        length = np.diff(store.token_end)[passage] - np.diff(store.blank_end)[passage]
        if self._other == "mask":
            length = np.diff(store.token_end)[passage] - 1
        elif self._other == "gold":
            candidate = store.candidate_end[:-1] + store.columns["gold"]
            gold = np.diff(store.candidate_token_end)[candidate]
            length = length + np.add.reduceat(gold, store.blank_end[:-1])[passage] - gold
        return length

    def _context(self, blank: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        passage = self.store[self.passage_of(blank)]
        first = int(self.store.blank_end[self.passage_of(blank)])
        sides: Tuple[List[np.ndarray], List[np.ndarray]] = ([], [])
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
                fill = self._gold_tokens(number)
            sides[number >= blank].append(fill)
            shift[position + 1 :] += len(fill) - 1
            start = position + 1
        sides[1].append(passage.tokens[start:])
        starts = passage.sentence_starts + shift[passage.sentence_starts]
        return np.concatenate([*sides[0], passage.tokens[:0]]), np.concatenate(sides[1]), starts


class NeighborsView(FilledView):
    """From the previous blank of the passage to the next one."""

    def _bounds(self) -> Tuple[np.ndarray, np.ndarray]:
        store, passage = self.store, self._passage
        position = np.asarray(store.columns["blank_position"], dtype=np.int64)
        start = np.zeros(len(position), dtype=np.int64)
        start[1:] = np.where(passage[1:] == passage[:-1], position[:-1] + 1, 0)
        end = np.diff(store.token_end)[passage]
        end[:-1] = np.where(passage[1:] == passage[:-1], position[1:], end[:-1])
        return start, end

    def _context_length(self) -> np.ndarray:
        self._start, self._end = self._bounds()
        return self._end - self._start - 1

    def _context(self, blank: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        passage = self.store[self.passage_of(blank)]
        start, end = int(self._start[blank]), int(self._end[blank])
        position = int(self.store.columns["blank_position"][blank])
        starts = passage.sentence_starts
        starts = starts[(starts >= start) & (starts < end)] - start
        return (
            passage.tokens[start:position],
            passage.tokens[position + 1 : end],
            np.where(starts > position - start, starts - 1, starts),
        )
