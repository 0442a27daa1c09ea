"""Batching: passages that many ask for at the same time are scored together, by one thread."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from ..passages.passage import Passage
from ..ranking.answers import PassagePrediction, predictions_in_order
from ..ranking.ranker import Ranker
from ..ranking.scores import Outcome

_TOGETHER = 64  # passages that are scored at a time
_CHARACTERS = 1 << 18  # of these passages, where they are more than one

_Waiting = tuple[Passage, Future[PassagePrediction]]


class BusyError(Exception):
    """More passages wait than may; later there may be room."""


class Batcher:
    """Answers passages as they are asked for; whatever waits when the last ones are done is scored together.

    Args:
        ranker: what scores; nobody else may use it meanwhile
        most_waiting: passages that may wait
    """

    def __init__(self, ranker: Ranker, most_waiting: int = 1024) -> None:
        self.answered = 0  #: passages so far
        self._ranker = ranker
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many passages wait."""
        return len(self._waiting)

    def submit(self, passages: Sequence[Passage]) -> list[Future[PassagePrediction]]:
        """Ask for the answers of some passages; a future that is cancelled is not computed.

        Raises:
            BusyError: too many wait; none of these is taken
        """
        with self._changed:
            if self._closing or len(self._waiting) + len(passages) > self._most_waiting:
                raise BusyError
            asked: list[_Waiting] = [(passage, Future()) for passage in passages]
            self._waiting.extend(asked)
            self._changed.notify()
        return [future for _, future in asked]

    def close(self) -> None:
        """Take no more passages, answer what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Waiting]:
        """What is to be scored together; nothing where no more will come."""
        batch: list[_Waiting] = []
        characters = 0
        with self._changed:
            while not batch:
                while not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                while self._waiting and len(batch) < _TOGETHER:
                    passage, future = self._waiting[0]
                    characters += len(passage.article)
                    if batch and characters > _CHARACTERS:
                        break
                    self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((passage, future))
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            store = self._ranker.encode([passage for passage, _ in batch])
            outcome = Outcome(self._ranker.score(store), store)
            found = [entry for _, entry in predictions_in_order(store, outcome.best, outcome.probabilities)]
        except BaseException as error:  # whatever it is, who waits has to know
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for each in batch:  # one of them is at fault, and the others are not
                self._answer([each])
            return
        self.answered += len(batch)
        for (_, future), entry in zip(batch, found):
            future.set_result(entry)
