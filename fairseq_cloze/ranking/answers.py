"""Predictions: what a model answered, with what is right beside it, and the file they rest in.

The file is one JSON object, a passage per line::

    {"high/high1": {"answers": ["A", "C"], "gold": ["B", null], "probabilities": [[0.6, 0.4], [0.1, 0.2, 0.7]]}}

Gold is ``null`` where it is not known, and absent from passages without any.  Of options with equal text the first
stands for all, among answers and gold alike: an answer is right if it is the letter of gold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.store import Store
from ..errors import ClozeError
from ..files import PathLike, cannot_write, replacing
from ..passages.passage import LETTERS, UNLABELLED

_MEND = "write it with 'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"


@dataclass(frozen=True)
class PassagePrediction:
    """Predictions for the blanks of one passage.

    Attributes:
        answers: letter of the predicted candidate, per blank
        gold: letter of the right candidate, ``None`` where it is not known, per blank
        probabilities: of every candidate, per blank; ``None`` where the file has none
    """

    answers: list[str]
    gold: list[str | None]
    probabilities: list[list[float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it."""
        entry: dict[str, Any] = {"answers": self.answers}
        if any(letter is not None for letter in self.gold):
            entry["gold"] = self.gold
        if self.probabilities is not None:
            entry["probabilities"] = self.probabilities
        return entry


Predictions = dict[str, PassagePrediction]


def gold_of(store: Store) -> np.ndarray:
    """Index of the right candidate, the first of equal ones, -1 where unlabelled; ``int64 (blanks,)``."""
    gold = np.asarray(store.columns["gold"], dtype=np.int64)
    labelled = gold != UNLABELLED
    first = store.columns["candidate_first"][np.asarray(store.candidate_offsets[:-1]) + np.where(labelled, gold, 0)]
    return np.where(labelled, first, UNLABELLED).astype(np.int64)


def make_predictions(store: Store, answers: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Predictions by passage id.

    Args:
        store: the passages
        answers: index of the predicted candidate, the first of equal ones, ``int64 (blanks,)``
        probabilities: of each candidate, 0 where there is none, ``float32 (blanks, candidates)``; kept to six digits
    """
    gold, ends = gold_of(store).tolist(), store.blank_offsets.tolist()
    count = np.diff(store.candidate_offsets).tolist()
    out = {}
    for passage in range(len(store)):
        blanks = range(ends[passage], ends[passage + 1])
        out[store.id(passage)] = PassagePrediction(
            [LETTERS[answers[blank]] for blank in blanks],
            [None if gold[blank] == UNLABELLED else LETTERS[gold[blank]] for blank in blanks],
            [[round(value, 6) for value in probabilities[blank, : count[blank]].tolist()] for blank in blanks],
        )
    return out


@contextmanager
def writing(path: PathLike) -> Iterator[Callable[[str, Any], None]]:
    """Write what stands under each passage id as it comes, one passage per line; the file appears whole, at the end.

    Yields:
        a function that takes a passage id and its entry

    Raises:
        ClozeError: it cannot be written
    """
    path = Path(path)
    between = "{\n"

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(path, error.strerror or str(error)) from error

    def write(key: str, entry: Any) -> None:
        nonlocal between
        with explained():
            file.write(f"{between} {json.dumps(key, ensure_ascii=False)}: {json.dumps(entry)}")
        between = ",\n"

    with replacing(path) as temporary:
        with explained():
            file = temporary.open("w", encoding="utf-8")
        try:
            yield write
        except BaseException:
            file.close()
            raise
        with explained(), file:
            file.write(("{\n" if between == "{\n" else "") + "\n}\n")


def write_predictions(path: PathLike, predictions: Mapping[str, PassagePrediction]) -> None:
    """Write a prediction file whole or not at all.

    Raises:
        ClozeError: it cannot be written
    """
    with writing(path) as write:
        for key, prediction in predictions.items():
            write(key, prediction.to_dict())


# -- reading ---------------------------------------------------------------------------------------------------------


def read_predictions(path: PathLike) -> Predictions:
    """Read and check a prediction file.

    Gold and probabilities may be missing, so that files of other systems are easily made.

    Raises:
        ClozeError: it cannot be read or does not fit; names passage, blank and field
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ClozeError(f"{path}: no such prediction file; check the path") from error
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    except (ValueError, RecursionError) as error:
        raise ClozeError(f"{path}: expected JSON, cannot be read ({error}); {_MEND}") from error
    if not isinstance(content, dict):
        raise ClozeError(f"{path}: expected a JSON object of passages, found {_show(content)}; {_MEND}")
    return {key: _check_passage(f"{path}: passage '{key}'", entry) for key, entry in content.items()}


def _check_passage(where: str, entry: Any) -> PassagePrediction:
    if isinstance(entry, list):
        raise ClozeError(f"{where}: expected an object with answers and gold, found answers alone; {_MEND}")
    if not isinstance(entry, dict) or not isinstance(entry.get("answers"), list):
        raise ClozeError(f"{where}: expected an object with a list 'answers', found {_show(entry)}; {_MEND}")
    answers = entry["answers"]
    gold = _per_blank(where, "gold", entry.get("gold"), len(answers))
    probabilities = _per_blank(where, "probabilities", entry.get("probabilities"), len(answers))
    for number, answer in enumerate(answers, 1):
        candidates = len(LETTERS)
        if probabilities is not None:
            row = probabilities[number - 1]
            if not isinstance(row, list) or not 2 <= len(row) <= len(LETTERS) or not all(map(_is_number, row)):
                raise _misfit(where, number, "probabilities", f"2 to {len(LETTERS)} numbers from 0 to 1", row)
            candidates = len(row)
        letters = LETTERS[:candidates]
        if not _is_letter(answer, letters):
            raise _misfit(where, number, "answers", f"a letter A-{letters[-1]}", answer)
        if gold is not None and gold[number - 1] is not None and not _is_letter(gold[number - 1], letters):
            raise _misfit(where, number, "gold", f"a letter A-{letters[-1]} or null", gold[number - 1])
    return PassagePrediction(
        answers,
        [None] * len(answers) if gold is None else gold,
        None if probabilities is None else [[float(value) for value in row] for row in probabilities],
    )


def _per_blank(where: str, field: str, value: Any, blanks: int) -> list[Any] | None:
    if value is not None and (not isinstance(value, list) or len(value) != blanks):
        found = f"{len(value)}" if isinstance(value, list) else _show(value)
        raise ClozeError(
            f"{where}, field '{field}': expected a list of {blanks}, one entry per answer, found {found}; {_MEND}"
        )
    return value


def _misfit(where: str, blank: int, field: str, expected: str, found: Any) -> ClozeError:
    return ClozeError(f"{where}, blank {blank}, field '{field}': expected {expected}, found {_show(found)}; {_MEND}")


def _is_letter(value: Any, letters: str) -> bool:
    return isinstance(value, str) and len(value) == 1 and value in letters


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
