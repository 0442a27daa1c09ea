"""Passages of a report: texts and candidates for what prediction files answer.

Texts come from a data-bin, decoded, or from raw passages.  Prediction files for the same passages form a set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.databin import MANIFEST, DataBin
from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError
from ..passages.passage import LETTERS, UNLABELLED, Passage
from ..passages.reading import read_passages
from ..passages.text import BLANK, NOTHING, normalise
from ..ranking.answers import PassagePrediction, Predictions, gold_of
from ..ranking.breakdown import break_down
from .sources import Answered, Run


@dataclass(frozen=True)
class Text:
    """A passage as people read it.

    Attributes:
        segments: the text before each blank and after the last one, ``blanks + 1``
        candidates: per blank; empty where nothing goes there
        gold: per blank the index of the right candidate, the first of equal ones, :data:`UNLABELLED` where unknown
    """

    segments: list[str]
    candidates: list[list[str]]
    gold: list[int]


class Passages:
    """Texts by passage id; made when they are asked for.

    Args:
        name: what they are, for people
        numbers: number of each passage by its id
        text: text of a passage by its number
        encoded: the same passages as tokens, where there are any
    """

    def __init__(
        self,
        name: str,
        numbers: dict[str, int],
        text: Callable[[int], Text],
        encoded: tuple[Store, Vocabulary] | None = None,
    ) -> None:
        self.name = name
        self.numbers = numbers
        self.encoded = encoded
        self._text = text
        self._known: dict[str, Text] = {}

    def __getitem__(self, passage_id: str) -> Text:
        if passage_id not in self._known:
            self._known[passage_id] = self._text(self.numbers[passage_id])
        return self._known[passage_id]

    def misfit(self, predictions: Predictions) -> tuple[int, str] | None:
        """How many predicted passages fit before the first one that does not, and what is wrong with that one."""
        for number, (passage_id, prediction) in enumerate(predictions.items()):
            if passage_id not in self.numbers:
                return number, f"passage '{passage_id}' is not there"
            problem = _misfit(self[passage_id], prediction)
            if problem:
                return number, f"passage '{passage_id}'{problem}"
        return None

    def with_gold(self, predictions: Predictions) -> Predictions:
        """Predictions with the right answers filled in where the passages know them and the file does not."""
        return {
            passage_id: replace(
                one,
                gold=[
                    letter or (None if gold == UNLABELLED else LETTERS[gold])
                    for letter, gold in zip(one.gold, self[passage_id].gold)
                ],
            )
            for passage_id, one in predictions.items()
        }

    def break_down(self, predictions: Predictions) -> dict[str, Any]:
        """Accuracy by groups of blanks, see :mod:`fairseq_cloze.ranking.breakdown`; empty without tokens."""
        if self.encoded is None:
            return {}
        store, vocabulary = self.encoded
        answers = np.zeros(store.blanks, dtype=np.int64)
        gold = np.full(store.blanks, UNLABELLED, dtype=np.int8)
        for passage_id, prediction in predictions.items():
            start, end = store.blank_offsets[self.numbers[passage_id] :][:2]
            answers[start:end] = [LETTERS.index(letter) for letter in prediction.answers]
            gold[start:end] = store.columns["gold"][start:end]
        return break_down(Store({**store.columns, "gold": gold}), vocabulary, answers)


def _misfit(text: Text, prediction: PassagePrediction) -> str:
    if len(text.candidates) != len(prediction.answers):
        return f" has {len(text.candidates)} blanks there and {len(prediction.answers)} in the predictions"
    for number, (candidates, gold) in enumerate(zip(text.candidates, text.gold)):
        where = f", blank {number + 1},"
        if prediction.probabilities is not None and len(prediction.probabilities[number]) != len(candidates):
            predicted = len(prediction.probabilities[number])
            return f"{where} has {len(candidates)} options there and {predicted} in the predictions"
        if prediction.answers[number] not in LETTERS[: len(candidates)]:
            return f"{where} has {len(candidates)} options there and the answer {prediction.answers[number]}"
        letter = prediction.gold[number]
        if gold != UNLABELLED and letter is not None and letter != LETTERS[gold]:
            return f"{where} has the right answer {LETTERS[gold]} there and {letter} in the predictions"
    return ""


# -- where texts come from -------------------------------------------------------------------------------------------


def open_passages(path: Path, first: str | None = None) -> list[Passages]:
    """What a data-bin holds, a split each, or all raw passages of a file or folder.

    Args:
        path: a data-bin, or raw passages
        first: name of the split that shall come first

    Raises:
        ClozeError: it cannot be read
    """
    if not (path / MANIFEST).is_file():
        return [_raw_passages(path)]
    data = DataBin(path)
    return [_split(data, name) for name in sorted(data.splits, key=lambda name: (name != first, name != "valid", name))]


def _split(data: DataBin, name: str) -> Passages:
    store, vocabulary = data.open(name), data.vocabulary
    gold = gold_of(store)

    def text(number: int) -> Text:
        passage = store[number]
        ends = [*passage.blank_positions.tolist(), len(passage.tokens)]
        starts = [0, *(position + 1 for position in ends[:-1])]
        return Text(
            [vocabulary.decode(passage.tokens[start:end].tolist()) for start, end in zip(starts, ends)],
            [[vocabulary.decode(tokens.tolist()).strip() for tokens in choices] for choices in passage.candidates],
            gold[store.blank_offsets[number] : store.blank_offsets[number + 1]].tolist(),
        )

    numbers = {store.id(number): number for number in range(len(store))}
    return Passages(f"split '{name}' of {data.folder}", numbers, text, (store, vocabulary))


def _raw_passages(path: Path) -> Passages:
    passages = list(read_passages([path]))
    return Passages(
        str(path), {passage.id: number for number, passage in enumerate(passages)}, lambda n: _raw_text(passages[n])
    )


def _raw_text(passage: Passage) -> Text:
    candidates = [[_shown(choice) for choice in choices] for choices in passage.candidates]
    gold = [
        UNLABELLED if index == UNLABELLED else choices.index(choices[index])
        for choices, index in zip(candidates, passage.gold)
    ]
    return Text(BLANK.split(passage.article), candidates, gold)


def _shown(choice: str) -> str:
    choice = normalise(choice).strip()
    return "" if choice in NOTHING else choice


# -- sets of passages ------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """One prediction file within a set, under its run's label."""

    run: int
    label: str
    answered: Answered
    breakdown: dict[str, Any]


@dataclass
class PassageSet:
    """Prediction files for the same blanks.

    Attributes:
        passages: their texts, or ``None``
        why_not: why there are no texts, and what to do, in sentences
        answers: the files
    """

    passages: Passages | None
    why_not: str
    answers: list[Answers] = field(default_factory=list)

    @property
    def predictions(self) -> Predictions:
        """Those of the first file, which name passages and gold."""
        return self.answers[0].answered.predictions


class Library:
    """Opens each place of passages once."""

    def __init__(self) -> None:
        self._open: dict[tuple[Path, str | None], list[Passages]] = {}

    def find(self, path: Path, answered: Answered) -> tuple[Passages | None, str]:
        """The passages that a prediction file answers, or the first misfit of those that fit best.

        Raises:
            ClozeError: *path* cannot be read
        """
        key = (path.resolve(), answered.split)
        if key not in self._open:
            self._open[key] = open_passages(path, answered.split)
        closest, problem = -1, f"{path} holds no passages"
        for passages in self._open[key]:
            misfit = passages.misfit(answered.predictions)
            if misfit is None:
                return passages, ""
            if misfit[0] > closest:
                closest, problem = misfit[0], f"{passages.name}: {misfit[1]}"
        return None, problem


def make_sets(runs: Sequence[Run], place: Path | None) -> list[PassageSet]:
    """Group the prediction files of all runs by the blanks they answer, and find the passages and their gold.

    Args:
        runs: what was read; gold is filled in where only the passages know it
        place: a data-bin or raw passages to take instead of what the runs name

    Raises:
        ClozeError: predictions and passages do not belong together; passages cannot be read
    """
    library = Library()
    sets: dict[Any, PassageSet] = {}
    for number, run in enumerate(runs):
        for index, answered in enumerate(run.answered):
            passages, why_not = _find(library, runs, run, answered, place)
            if passages is not None:
                answered = replace(answered, predictions=passages.with_gold(answered.predictions))
                run.answered[index] = answered
            key = tuple((name, tuple(one.gold)) for name, one in answered.predictions.items())
            key = tuple(sorted(key, key=lambda pair: pair[0]))
            found = sets.setdefault(key, PassageSet(None, why_not))
            found.passages = found.passages or passages
            label = run.label if len(run.answered) == 1 else f"{run.label}: {answered.split}"
            breakdown = passages.break_down(answered.predictions) if passages else {}
            found.answers.append(Answers(number, label, answered, breakdown))
    return list(sets.values())


def _find(
    library: Library, runs: Sequence[Run], run: Run, answered: Answered, place: Path | None
) -> tuple[Passages | None, str]:
    own = [place] if place is not None else [path for path in run.data_bins if (path / MANIFEST).is_file()]
    problems = []
    for path in own:
        passages, problem = library.find(path, answered)
        if passages is not None:
            return passages, ""
        problems.append(problem)
    if problems:
        raise ClozeError(
            f"{answered.path}: these are predictions for other passages than those of {problems[0]}; "
            "name theirs with --passages"
        )
    for path in dict.fromkeys(path for other in runs for path in other.data_bins if (path / MANIFEST).is_file()):
        passages, _ = library.find(path, answered)  # the data-bin of another run: no error if it does not fit
        if passages is not None:
            return passages, ""
    gone = f" ({run.data_bins[0]} is gone)" if run.data_bins else ""
    return None, (
        f"The prediction file {answered.path.name} does not say where its passages are{gone}, so blanks are shown "
        "without their text. Make the report again with --passages and the data-bin or the passages themselves."
    )
