"""Epochs: a run goes on inside one, with the same batches or with others, and each passage is trained on once.

fairseq counts the batches that were trained on, and skips as many when a run goes on; of other batches, these are other
passages.  Here a checkpoint says how the batches were cut, so which items are left is known, and these are cut anew.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from fairseq.data.iterators import EpochBatchIterator

from ..views.batches import fillers
from .dataset import ClozeDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """All that decides which items are trained on in which update of an epoch."""

    max_tokens: int | None
    batch_size: int | None
    update_freq: int  #: batches of a process in one update
    processes: int
    seed: int  #: of the order of items
    batch_seed: int  #: of the order of batches
    grouped: bool  #: ``--grouped-shuffling``
    even: bool  #: whether there are as many batches for each process, by fillers

    def batches(self, dataset: ClozeDataset, done: np.ndarray | None) -> list[np.ndarray]:
        """Batches of the epoch that *dataset* is in, without the items that are *done*, ``bool (items,)``."""
        order = dataset.ordered_indices(self.seed)
        if done is not None:
            order = order[~done[order]]
        batches = dataset.batch_by_size(order, self.max_tokens, self.batch_size)
        if not batches and len(dataset):  # all are done, but the epoch was not at its end
            batches = fillers(dataset.view, 1)
        return batches + (fillers(dataset.view, -len(batches) % self.processes) if self.even else [])

    def iterator(self, dataset: ClozeDataset, batches: Sequence[np.ndarray], process: int = 0) -> EpochBatchIterator:
        """fairseq's iterator over *batches*, for one process."""
        return EpochBatchIterator(dataset, dataset.collater, batches, **self.order(process), epoch=dataset.epoch)

    def order(self, process: int) -> dict[str, Any]:
        """What fairseq has to know to put batches into an order."""
        return {
            **{"seed": self.batch_seed, "num_shards": self.processes, "shard_id": process},
            "grouped_shuffling": self.grouped,
        }


#: What a user calls the parts of a cut; the others follow from these.
_OPTIONS = {
    **{"max_tokens": "--max-tokens", "batch_size": "--batch-size", "update_freq": "--update-freq"},
    **{"processes": "processes", "seed": "--seed", "grouped": "--grouped-shuffling"},
}


class EpochBatches(EpochBatchIterator):
    """fairseq's iterator over the batches of an epoch, which goes on after others than its own.

    Args:
        dataset: items, in the epoch that is begun
        cut: how they are cut into batches
        process: number of this process
        speak: whether this process is the one that says what happens
        **options: of fairseq's iterator
    """

    def __init__(self, dataset: ClozeDataset, cut: Cut, process: int, speak: bool = True, **options: Any) -> None:
        self._cut, self._speak = cut, speak
        self._earlier: list[tuple[Cut, int]] = []  # cuts of this epoch so far, and batches of a process from each
        self._begin = 0  # number of the first batch of the present cut
        dataset.epoch = options["epoch"]
        batches = cut.batches(dataset, None)
        super().__init__(dataset, dataset.collater, batches, **cut.order(process), **options)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> Sequence[Any]:
        """Batches of this process; before those of the present cut stand as many empty ones as there were others."""
        return [[]] * self._begin + list(super().ordered_batches(epoch, fix_batches_to_gpus, shuffle))

    def state_dict(self) -> dict[str, Any]:
        """As fairseq's, with the cuts of the epoch, each with the number of batches a process has had of it."""
        state = super().state_dict()
        cuts = [*self._earlier, (self._cut, state["iterations_in_epoch"] - self._begin)]
        return {
            **state,
            "digest": self.dataset.digest,
            "cuts": [{**asdict(cut), "batches": count} for cut, count in cuts],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was; begin its epoch anew, and say why, where its items are not known here."""
        state = dict(state_dict)
        if not state["iterations_in_epoch"]:
            return super().load_state_dict(state)
        cuts = read_cuts(state) if "digest" in state else []  # an earlier version did not write it
        problem = self._resume(state, cuts) if cuts else "the checkpoint does not say what its batches were"
        if problem:
            self._say(f"epoch {state['epoch']} is begun anew: {problem}")
            state["iterations_in_epoch"] = 0
        super().load_state_dict(state)

    def _resume(self, state: dict[str, Any], cuts: list[tuple[Cut, int]]) -> str:
        """Take over the cuts of a state inside an epoch; what is in the way, if they tell nothing of these items."""
        if state["digest"] != self.dataset.digest:
            return "its passages are others, or are looked at in another way"
        last, _ = cuts[-1]
        same = last == self._cut
        self._earlier = cuts[:-1] if same else cuts
        self.dataset.set_epoch(state["epoch"])
        done = np.zeros(len(self.dataset), dtype=bool)
        ahead: np.ndarray | None = None
        self._begin = 0
        for number, (cut, count) in enumerate(self._earlier):
            for items in cut_items(self.dataset, cut, count, ahead, state["epoch"], state["shuffle"]):
                done[items[items >= 0]] = True
            ahead = done
            following = cuts[number + 1][0] if number + 1 < len(cuts) else self._cut
            self._begin = _rounded(self._begin + count, following.update_freq)
        self._frozen_batches = tuple(self._cut.batches(self.dataset, ahead))
        if not same:
            state["iterations_in_epoch"] = self._begin
            pairs = ((text, getattr(last, name), getattr(self._cut, name)) for name, text in _OPTIONS.items())
            changed = [f"{text} {then} then, {now} now" for text, then, now in pairs if then != now]
            self._say(
                f"epoch {state['epoch']} goes on in other batches ({'; '.join(changed)}), with those "
                f"{len(done) - int(done.sum()):,} of its {len(done):,} inputs that are left: none twice, none lost"
            )
        return ""

    def _say(self, text: str) -> None:
        if self._speak:
            logger.warning("%s", text)


def is_position(state: Any) -> bool:
    """Whether this is where in an epoch a training was, as fairseq says it."""
    numbers = [state.get(name) for name in ("epoch", "iterations_in_epoch")] if isinstance(state, dict) else [None]
    return all(type(number) is int and number >= 0 for number in numbers)


def read_cuts(state: Mapping[str, Any]) -> list[tuple[Cut, int]]:
    """Cuts of a state, each with the batches a process has had of it; none where they do not add up to its position."""
    found: list[tuple[Cut, int]] = []
    begin = 0
    entries = state.get("cuts")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or {*entry} != {*_LEAST} or not all(_is_sane(*pair) for pair in entry.items()):
            return []
        cut = Cut(**{name: value for name, value in entry.items() if name != "batches"})
        begin = _rounded(begin, cut.update_freq) + entry["batches"]
        found.append((cut, entry["batches"]))
    return found if begin == state["iterations_in_epoch"] else []


#: Lowest values of what a state says of a cut.
_LEAST = {
    **dict.fromkeys(("max_tokens", "batch_size", "update_freq", "processes"), 1),
    **dict.fromkeys(("seed", "batch_seed", "batches", "grouped", "even"), 0),
}


def _is_sane(name: str, value: Any) -> bool:
    if value is None:
        return name in ("max_tokens", "batch_size")
    kind = bool if name in ("grouped", "even") else int
    return type(value) is kind and _LEAST[name] <= value < 1 << (16 if name == "processes" else 32)


def cut_items(
    dataset: ClozeDataset, cut: Cut, count: int, done: np.ndarray | None, epoch: int, shuffle: bool
) -> list[np.ndarray]:
    """Items of the first *count* batches that each process has of a cut, without those that were *done* before it."""
    batches = cut.batches(dataset, done)
    shares = (
        cut.iterator(dataset, batches, process).ordered_batches(epoch, False, shuffle)
        for process in range(cut.processes)
    )
    return [np.asarray(batch, dtype=np.int64) for share in shares for batch in share[:count]]


def _rounded(count: int, update_freq: int) -> int:
    """The next number of batches at which an update can begin."""
    return -(-count // update_freq) * update_freq
