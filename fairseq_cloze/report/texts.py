"""Passages of a report: texts and candidates for what prediction files answer, from a data-bin or raw passages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.databin import MANIFEST, DataBin
from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError
from ..passages.markers import Marker
from ..passages.passage import LETTERS, UNLABELLED, Passage
from ..passages.reading import read_passages
from ..passages.text import BLANK, NOTHING, normalise, plain
from ..ranking.answers import PassagePrediction, Predictions, gold_of
from ..ranking.breakdown import break_down
from .sources import PredictionFile, Run


@dataclass(frozen=True)
class Text:
    """A passage as people read it."""

    segments: list[str]  #: the text before each blank and after the last one, ``blanks + 1``
    candidates: list[list[str]]  #: per blank; empty where nothing goes there
    gold: list[int]  #: index of the right candidate, the first of equal ones, :data:`UNLABELLED` where unknown


@dataclass
class Passages:
    """Texts by passage id; made when they are asked for."""

    name: str  #: what they are, for people
    numbers: dict[str, int]  #: of each passage by its id
    text: Callable[[int], Text]  #: of a passage by its number
    encoded: tuple[Store, Vocabulary] | None = None  #: the same passages as tokens, where there are any

    def __post_init__(self) -> None:
        self.text = cache(self.text)

    def __getitem__(self, passage_id: str) -> Text:
        return self.text(self.numbers[passage_id])

    def misfit(self, predictions: Predictions) -> tuple[int, str] | None:
        """How many predicted passages fit before the first one that does not, and what is wrong with that one."""
        for number, (passage_id, prediction) in enumerate(predictions.items()):
            found = passage_id in self.numbers
            problem = _misfit(self[passage_id], prediction) if found else " is not there"
            if problem:
                return number, f"passage '{passage_id}'{problem}"
        return None

    def with_gold(self, predictions: Predictions) -> Predictions:
        """Predictions with the right answers filled in where the passages know them and the file does not."""
        filled = Predictions()
        filled.origin = predictions.origin
        for passage_id, one in predictions.items():
            known = [None if gold == UNLABELLED else LETTERS[gold] for gold in self[passage_id].gold]
            filled[passage_id] = replace(one, gold=[letter or right for letter, right in zip(one.gold, known)])
        return filled

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


def open_passages(path: Path, first: str | None = None, marker: Marker | None = None) -> list[Passages]:
    """What a data-bin holds, a split each and *first* before the others, or all raw passages of a file or folder.

    Blanks of raw passages are what *marker* finds, or else runs of underscores.

    Raises:
        ClozeError: it cannot be read
    """
    if not (path / MANIFEST).is_file():
        passages = list(read_passages([path], marker=marker))
        numbers = {passage.id: number for number, passage in enumerate(passages)}
        return [Passages(str(path), numbers, lambda number: _raw_text(passages[number]))]
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


def _raw_text(passage: Passage) -> Text:
    candidates = [[normalise(choice).strip() for choice in choices] for choices in passage.candidates]
    candidates = [["" if choice in NOTHING else choice for choice in choices] for choices in candidates]
    gold = [g if g == UNLABELLED else choices.index(choices[g]) for choices, g in zip(candidates, passage.gold)]
    return Text([plain(part) for part in BLANK.split(passage.article)], candidates, gold)


Opener = Callable[[Path, str | None], list[Passages]]


@dataclass
class PassageSet:
    """Prediction files for the same blanks."""

    passages: Passages | None  #: their texts
    why_not: str  #: why there are none, and what to do, in sentences
    files: list[PredictionFile] = field(default_factory=list)

    @property
    def predictions(self) -> Predictions:
        """Those of the first file, which name passages and gold."""
        return self.files[0].predictions


def make_sets(runs: Sequence[Run], place: Path | None, marker: Marker | None = None) -> list[PassageSet]:
    """Group the prediction files of all runs by the blanks they answer, and fill in what their passages know.

    These are in *place*, a data-bin or raw passages with blanks that *marker* finds, or else where the runs say.

    Raises:
        ClozeError: predictions and passages do not belong together; passages cannot be read
    """
    opened = cache(partial(open_passages, marker=marker))
    sets: dict[str, PassageSet] = {}
    for number, run in enumerate(runs):
        for file in run.prediction_files:
            passages, why_not = _find(opened, runs, run, file, place)
            if passages is not None:
                file.predictions = passages.with_gold(file.predictions)
                file.breakdown = passages.break_down(file.predictions)
            key = str(sorted((name, one.gold) for name, one in file.predictions.items()))
            found = sets.setdefault(key, PassageSet(None, why_not))
            found.passages = found.passages or passages
            file.run, file.label = number, run.label
            if len(run.prediction_files) > 1:
                file.label += f": {file.split}"
            found.files.append(file)
    return list(sets.values())


def _find(
    opened: Opener, runs: Sequence[Run], run: Run, file: PredictionFile, place: Path | None
) -> tuple[Passages | None, str]:
    own = [place] if place is not None else run.places
    problems = []
    for path in dict.fromkeys(own or [path for other in runs for path in other.places]):
        passages, problem = _look_in(opened(path, file.split), path, file)
        if passages is not None:
            return passages, ""
        problems.append(problem)
    if place is not None:
        raise ClozeError(
            f"{file.path}: these are predictions for other passages than those of {problems[0]}; "
            "name theirs with --passages"
        )
    origin = file.predictions.origin
    if own:  # the data-bin of another run need not fit
        where = f"{file.path.name} has answers for other passages than those of {problems[0]}"
    elif run.data_bins:
        where = f"The passages of {file.path.name} are no longer in {run.data_bins[0]}"
    elif origin is not None and origin.inputs:
        where = f"The passages of {file.path.name} came from {' and '.join(origin.inputs)}"
    else:
        where = f"The prediction file {file.path.name} does not say where its passages are"
    return None, (
        f"{where}, so blanks are shown without their text. Make the report again with --passages and the data-bin or "
        "the passages themselves."
    )


def _look_in(there: list[Passages], path: Path, file: PredictionFile) -> tuple[Passages | None, str]:
    """The passages that a prediction file answers, or the first misfit of those that fit best."""
    misfits = []
    for passages in there:
        misfit = passages.misfit(file.predictions)
        if misfit is None:
            return passages, ""
        misfits.append((misfit[0], f"{passages.name}: {misfit[1]}"))
    return None, max(misfits, key=lambda pair: pair[0], default=(0, f"{path} holds no passages"))[1]
