"""Inside an epoch a run goes on with the same batches, or with others; each item is trained on once all the same."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pytest

from fairseq_cloze import register

from ..support.costs import Costs

register()

from fairseq.data.iterators import GroupedIterator  # noqa: E402

from fairseq_cloze.plugin.dataset import ClozeDataset  # noqa: E402
from fairseq_cloze.plugin.epochs import Cut, EpochBatches, read_cuts  # noqa: E402

ONE = Cut(None, 3, update_freq=1, processes=1, seed=1, batch_seed=1, grouped=False, even=False)


class Numbered(Costs):
    """Items that are their number."""

    def item(self, index: int) -> dict[str, Any]:
        return {"index": index}


class Batches(ClozeDataset):
    """Batches that are the numbers of their items, and how many were made."""

    made = 0

    def collater(self, samples: Any) -> dict[str, Any]:
        self.made += 1
        filler = {"nsentences": 0} if samples and "filler" in samples[0] else {}
        return {"items": [item["index"] for item in samples], **filler} if samples else {}


def epoch_of(cut: Cut, items: int = 40, epoch: int = 1, digest: str = "these") -> list[EpochBatches]:
    """The iterators of all processes."""
    view = Numbered([5 + number % 7 for number in range(items)], [1] * items)
    dataset = Batches(view, shuffle=True, seed=cut.seed)
    vars(dataset)["digest"] = digest
    return [EpochBatches(dataset, cut, process, speak=process == 0, epoch=epoch) for process in range(cut.processes)]


def updates(epoch: list[EpochBatches], count: int | None = None) -> list[list[int]]:
    """Items that so many updates train on, of all processes together; fillers left out."""
    seen: list[list[int]] = []
    for batches in epoch:
        batches.dataset.set_epoch(batches.epoch)
        grouped = GroupedIterator(batches.next_epoch_itr(), batches._cut.update_freq)
        number = 0
        while grouped.has_next() and (count is None or number < count):
            update = next(grouped)
            found = [item for batch in update if batch and "nsentences" not in batch for item in batch["items"]]
            if number == len(seen):
                seen.append([])
            seen[number] += found
            number += 1
    return seen


def goes_on(cut: Cut, state: dict[str, Any], **options: Any) -> list[EpochBatches]:
    epoch = epoch_of(cut, epoch=state["epoch"], **options)
    for batches in epoch:
        batches.load_state_dict(state)
    return epoch


def test_with_the_same_batches_it_is_as_if_it_had_never_stopped(caplog: pytest.LogCaptureFixture) -> None:
    whole = updates(epoch_of(ONE))
    first = epoch_of(ONE)
    assert updates(first, 5) == whole[:5]
    state = first[0].state_dict()
    assert (state["epoch"], state["iterations_in_epoch"]) == (1, 5)
    second = goes_on(ONE, state)
    assert updates(second, 4) == whole[5:9]
    assert updates(goes_on(ONE, second[0].state_dict())) == whole[9:]
    assert not caplog.records


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"batch_size": 7}, "--batch-size 3 then, 7 now"),
        ({"batch_size": None, "max_tokens": 11}, "--max-tokens None then, 11 now; --batch-size 3 then, None now"),
        ({"batch_size": 1000}, "--batch-size 3 then, 1000 now"),
        ({"processes": 3}, "processes 1 then, 3 now"),
        ({"update_freq": 4, "even": True}, "--update-freq 1 then, 4 now"),
        ({"processes": 2, "update_freq": 3, "even": True}, "--update-freq 1 then, 3 now; processes 1 then, 2 now"),
        ({"seed": 9, "batch_seed": 9}, "--seed 1 then, 9 now"),
        (
            {"processes": 3, "grouped": True, "even": True},
            "processes 1 then, 3 now; --grouped-shuffling False then, True now",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_with_other_batches_what_is_left_is_trained_on_once(
    changed: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = epoch_of(ONE)
    done = updates(first, 5)
    cut = Cut(**{**vars(ONE), **changed})
    second = goes_on(cut, first[0].state_dict())
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line == (
        f"epoch 1 goes on in other batches ({told}), with those 25 of its 40 inputs that are left: none twice, none "
        "lost"
    )
    rest = updates(second, 2)
    at_two = second[0].state_dict()
    rest += updates(goes_on(cut, at_two)) if second[0]._cur_epoch_itr.has_next() else []
    assert sorted(item for update in done + rest for item in update) == list(range(40))
    assert updates(goes_on(cut, first[0].state_dict())) == rest  # killed in between, it is the same


def test_changed_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """Any way through an epoch, with a change at each stop, or none, meets each item once."""
    for seed in range(40):
        random = np.random.default_rng(seed)
        seen: list[int] = []
        state: dict[str, Any] | None = None
        while True:
            frequency = int(random.integers(1, 4))
            if state is None or random.random() < 0.7:
                cut = Cut(
                    *(None, int(random.integers(1, 6)), frequency, int(random.integers(1, 4))),
                    *(int(random.integers(3)), 1, False, frequency > 1),
                )
            epoch = epoch_of(cut) if state is None else goes_on(cut, state)
            seen += [item for update in updates(epoch, int(random.integers(1, 4))) for item in update]
            state = epoch[0].state_dict()
            assert all(batches.state_dict() == state for batches in epoch)
            if state["epoch"] == 2:
                break
        assert sorted(seen) == list(range(40)), seed


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda state: state.update(digest="others"), "its passages are others, or are looked at in another way"),
        (lambda state: state.pop("digest"), "the checkpoint does not say what its batches were"),
        (lambda state: state.pop("cuts"), "the checkpoint does not say what its batches were"),
    ],
)
def test_an_epoch_of_other_items_is_begun_anew(spoil: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    first = epoch_of(ONE, epoch=3)
    updates(first, 5)
    state = first[0].state_dict()
    spoil(state)
    assert updates(goes_on(ONE, state)) == updates(epoch_of(ONE, epoch=3))
    assert [record.message for record in caplog.records] == [f"epoch 3 is begun anew: {why}"]


@pytest.mark.parametrize(
    "spoil",
    [{"processes": 1 << 20}, {"processes": 0}, {"batch_size": 0}, {"seed": -1}, {"even": 1}, {"batches": 4}, {"x": 1}],
)
def test_cuts_that_cannot_be_are_none(spoil: dict[str, Any]) -> None:
    first = epoch_of(ONE)
    updates(first, 5)
    state = first[0].state_dict()
    assert read_cuts(state) == [(ONE, 5)]
    state["cuts"][0].update(spoil)
    assert read_cuts(state) == []


def test_after_the_end_of_an_epoch_the_next_one_begins(caplog: pytest.LogCaptureFixture) -> None:
    first = epoch_of(ONE)
    updates(first)
    cut = Cut(**{**vars(ONE), "batch_size": 7})
    assert updates(goes_on(cut, first[0].state_dict())) == updates(epoch_of(cut, epoch=2))
    assert not caplog.records


def test_batches_are_made_ahead_and_pinned() -> None:
    """While a step is computed, in a thread even without processes that load data: no device waits for a batch."""
    [plain] = epoch_of(ONE)
    dataset: Any = plain.dataset
    epoch = EpochBatches(dataset, ONE, 0, epoch=1, num_workers=0, buffer_size=3, reuse_dataloader=True)
    batches = epoch.next_epoch_itr()
    next(batches)
    end = time.monotonic() + 20
    while dataset.made < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert 4 <= dataset.made <= 6
    assert epoch.dataloader.pin_memory
