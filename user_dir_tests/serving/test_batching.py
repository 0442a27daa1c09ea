"""Passages that wait together are scored together, each for whoever asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.serving import batching
from fairseq_cloze.serving.batching import Batcher, BusyError
from fairseq_cloze.views.view import TooLongError

FOUR = ["calm", "cold", "old", "odd"]


def passage(options: list[str], article: str = "It was _ .") -> Passage:
    return Passage.from_json({"article": article, "options": [options]}, "one", "one")


class Held:
    """A ranker that waits at its first batch until it is let go, and notes how many passages each has."""

    def __init__(self, ranker: Ranker) -> None:
        self.sizes: list[int] = []
        self.began, self.go = threading.Event(), threading.Event()
        self._ranker = ranker

    def encode(self, passages: Any) -> Any:
        self.sizes.append(len(passages))
        self.began.set()
        assert self.go.wait(60)
        return self._ranker.encode(passages)

    def score(self, store: Any) -> Any:
        return self._ranker.score(store)


@pytest.fixture
def held(ranker: Ranker) -> Held:
    return Held(ranker)


def test_what_waits_is_scored_together(held: Held, ranker: Ranker) -> None:
    batcher = Batcher(held)  # type: ignore[arg-type]
    futures = batcher.submit([passage(FOUR)])
    assert held.began.wait(60)
    futures += batcher.submit([passage(FOUR[: 2 + number % 3]) for number in range(70)])
    assert (batcher.waiting, batcher.answered) == (70, 0)
    held.go.set()
    found = [future.result(60) for future in futures]
    batcher.close()
    assert held.sizes == [1, 64, 6] and (batcher.waiting, batcher.answered) == (0, 71)
    for number, entry in enumerate(found):
        [alone] = ranker.rank("It was _ .", [FOUR if number == 0 else FOUR[: 2 + (number - 1) % 3]])
        assert entry.probabilities == [pytest.approx(alone.probabilities, abs=2e-6)]


def test_long_passages_are_fewer_at_a_time(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_CHARACTERS", 25)  # 10 characters each
    batcher = Batcher(held)  # type: ignore[arg-type]
    futures = batcher.submit([passage(FOUR)])
    assert held.began.wait(60)
    futures += batcher.submit([passage(FOUR)] * 3 + [passage(FOUR, "It was _ " + "." * 100)] * 2)
    held.go.set()
    batcher.close()
    assert held.sizes == [1, 2, 1, 1, 1] and all(future.done() for future in futures)


def test_no_more_may_wait(held: Held) -> None:
    """All of a request or none; there is room again when some are done; after the end there is none."""
    batcher = Batcher(held, most_waiting=3)  # type: ignore[arg-type]
    first = batcher.submit([passage(FOUR)])
    assert held.began.wait(60)
    waiting = batcher.submit([passage(FOUR)] * 2)
    with pytest.raises(BusyError):
        batcher.submit([passage(FOUR)] * 2)
    assert batcher.waiting == 2
    held.go.set()
    for future in first + waiting:
        future.result(60)
    [later] = batcher.submit([passage(FOUR)])
    batcher.close()
    assert later.done() and batcher.answered == 4
    with pytest.raises(BusyError):
        batcher.submit([passage(FOUR)])


def test_what_is_cancelled_is_not_scored(held: Held) -> None:
    batcher = Batcher(held)  # type: ignore[arg-type]
    batcher.submit([passage(FOUR)])
    assert held.began.wait(60)
    given_up, kept = batcher.submit([passage(FOUR)] * 2)
    assert given_up.cancel()
    held.go.set()
    batcher.close()
    assert held.sizes == [1, 1] and kept.done() and batcher.answered == 2


def test_a_passage_at_fault_costs_nobody_elses_answer(held: Held, pretrained: Any) -> None:
    from fairseq_cloze import load

    held._ranker = load(pretrained / "model.pt", scorer="kmask")
    batcher = Batcher(held)  # type: ignore[arg-type]
    first = batcher.submit([passage(FOUR)])
    assert held.began.wait(60)
    one, odd, other = batcher.submit([passage(FOUR), passage(["a " * 130, "odd"]), passage(FOUR)])
    held.go.set()
    batcher.close()
    assert held.sizes == [1, 3, 1, 1, 1]
    assert one.result() == other.result() == first[0].result()
    assert isinstance(odd.exception(), TooLongError) and batcher.answered == 3
