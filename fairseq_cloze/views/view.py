"""View: the base of all views, which number the items that batches are made of and know what each costs.

Shapes: ``rows`` inputs of ``length`` tokens; ``blanks`` of the batch; ``candidates`` of the blank that has most;
``pieces`` tokens of the candidate that has most.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import PAD, Vocabulary
from ..errors import DataBinError
from ..passages.passage import UNLABELLED

Item = dict[str, Any]
Sample = dict[str, Any]


class TooLongError(DataBinError):
    """A *passage*, *number* of its store, with a candidate that does not fit into the model beside any text."""

    def __init__(self, passage: str, number: int, tokens: int, positions: int) -> None:
        self.passage = passage
        self.number = number
        self.problem = f"a candidate of {tokens:,} tokens does not fit into {positions} positions"
        super().__init__(f"passage '{passage}': {self.problem}; take the passage out, or a model with more positions")


class View:
    """Items of one split and their cost."""

    row_length: np.ndarray  #: tokens of the item's longest row, ``int64 (items,)``
    rows: np.ndarray  #: input rows of the item, ``int64 (items,)``

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

    def tokens_of(self, items: Sequence[int]) -> int:
        """Tokens that some items cost in one batch: their rows times the longest."""
        return int(self.row_length[items].max() * self.rows[items].sum())

    def passage_of(self, item: int) -> int:
        """Number of the passage an item comes from."""
        raise NotImplementedError

    def item(self, index: int) -> Item:
        """Tokens of one item."""
        raise NotImplementedError

    def collate(self, items: Sequence[Item]) -> Sample:
        """Make a batch: the model's input, and what :func:`blank_fields` adds for the loss."""
        raise NotImplementedError

    def _too_long(self, passage: int, tokens: int) -> DataBinError:
        """The error of a candidate that leaves no room for text."""
        return TooLongError(self.store.id(passage), int(passage), tokens, self.limit + 2)

    def _sample(
        self, items: Sequence[Item], blanks: np.ndarray, rows: list[np.ndarray], reads: Sequence[Sequence[int]]
    ) -> Sample:
        """A batch of *rows*, each read at the places that *reads* has for it, ascending.

        Its ``net_input`` has

        - src_tokens: ``int64 (rows, length)``
        - row_lengths: tokens of each row, a list
        - masked_tokens: positions that are read, ``bool (rows, length)``
        - reads: the same as ascending offsets into the flattened input, ``int64 (reads,)``
        - read_counts: how many of them each row has, a list
        """
        source = pad_rows(rows)
        offsets = torch.tensor([row * source.size(1) + place for row, places in enumerate(reads) for place in places])
        masked = torch.zeros(source.shape, dtype=torch.bool)
        masked.view(-1)[offsets] = True
        lengths, counts = list(map(len, rows)), list(map(len, reads))
        net_input = {"src_tokens": source, "row_lengths": lengths, "masked_tokens": masked}
        return {
            "id": torch.tensor([item["index"] for item in items]),
            "nsentences": len(items),
            "ntokens": sum(lengths),
            "net_input": {**net_input, "reads": offsets, "read_counts": counts},
            **blank_fields(self.store, blanks),
        }


def pad_rows(rows: Sequence[np.ndarray]) -> torch.Tensor:
    """Rows of tokens as one tensor, ``int64 (rows, length)``."""
    tokens = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for row, values in zip(tokens, rows):
        row[: len(values)] = values
    return torch.from_numpy(tokens)


def to_device(value: Any, device: str | torch.device) -> Any:
    """A batch on a device: tensors in dictionaries; everything else stays."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(entry, device) for key, entry in value.items()}
    return value


def candidates_of(store: Store, blanks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each candidate of some blanks, and which exist; ``int64`` and ``bool (blanks, candidates)``."""
    start = np.asarray(store.candidate_offsets[blanks])
    count = np.asarray(store.candidate_offsets[blanks + 1]) - start
    order = np.arange(count.max(initial=1))
    exists = order < count[:, None]
    return np.where(exists, start[:, None] + order, start[:, None]), exists


def blank_fields(store: Store, blanks: np.ndarray) -> Sample:
    """What loss and metrics need of each blank, given their numbers in the split, ``int64 (blanks,)``.

    Returns:
        - blanks: the same
        - gold: index of the right candidate (the first of equal ones), -1 where unlabelled, ``int64 (blanks,)``
        - exists: the blank has that many candidates, ``bool (blanks, candidates)``
        - distinct: candidates that exist and repeat no earlier one, ``bool (blanks, candidates)``
        - first: index of the first candidate of the same text, ``int64 (blanks, candidates)``
        - relevance: graded relevance, of equal candidates the highest, 0 where not distinct,
          ``float64 (blanks, candidates)``
        - chance: probability that a random candidate is right, ``float64 (blanks,)``
        - multi_token: some candidate has more than one token, ``bool (blanks,)``
    """
    columns = store.columns
    index, exists = candidates_of(store, blanks)
    order, count = np.arange(exists.shape[1]), exists.sum(axis=1)
    first = np.where(exists, columns["candidate_first"][index], 0).astype(np.int64)
    distinct = exists & (first == order)
    gold = np.asarray(columns["gold"][blanks], dtype=np.int64)
    labelled = gold != UNLABELLED
    gold = np.where(labelled, first[np.arange(len(blanks)), gold], UNLABELLED)
    right = (exists & (first == gold[:, None])).sum(axis=1)
    lengths = np.diff(store.candidate_token_offsets[np.stack([index, index + 1])], axis=0)[0]
    relevance = np.full(exists.shape, -np.inf)
    np.maximum.at(relevance, (np.arange(len(blanks))[:, None], first), columns["candidate_rank"][index])
    fields = {"blanks": blanks, "gold": gold, "exists": exists, "distinct": distinct, "first": first}
    fields["relevance"] = np.where(distinct, relevance, 0.0)
    fields["chance"] = right / count
    fields["multi_token"] = (exists & (lengths > 1)).any(axis=1)
    return {name: torch.from_numpy(values) for name, values in fields.items()}
