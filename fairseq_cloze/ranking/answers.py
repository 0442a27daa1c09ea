"""Predictions: what a model answered, with what is right beside it, and the file they rest in, see docs/formats.md.

Of options with equal text the first stands for all, among answers and gold alike: an answer is right if it is gold.
Behind the passages a file has its origin, under a name that a passage may take from it.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.store import Store
from ..errors import ClozeError, printable
from ..files import PathLike, cannot_write, is_stream, read_whole, replacing, streaming
from ..jsontext import NotJson, parse_json
from ..passages.passage import LETTERS, UNLABELLED, letters_of
from .origin import Origin, read_origin

ORIGIN_FIELD = "fairseq_cloze"  #: among the passages of a prediction file
_MEND = "write it with 'fairseq-cloze predict --scores' or 'fairseq-cloze evaluate --predictions'"


@dataclass(frozen=True)
class PassagePrediction:
    """Predictions for the blanks of one passage."""

    answers: list[str]  #: letters of the predicted candidates
    gold: list[str | None]  #: letters of the right ones, ``None`` where they are not known
    probabilities: list[list[float]] | None = None  #: of every candidate

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it."""
        entry: dict[str, Any] = {"answers": self.answers}
        if any(self.gold):
            entry["gold"] = self.gold
        if self.probabilities is not None:
            entry["probabilities"] = self.probabilities
        return entry


class Predictions(dict[str, PassagePrediction]):
    """Predictions by passage id, and where they come from, as far as a file says it."""

    origin: Origin | None = None


def gold_of(store: Store) -> np.ndarray:
    """Index of the right candidate, the first of equal ones, -1 where unlabelled; ``int64 (blanks,)``."""
    gold = np.asarray(store.columns["gold"], dtype=np.int64)
    labelled = gold != UNLABELLED
    first = store.columns["candidate_first"][np.asarray(store.candidate_offsets[:-1]) + np.where(labelled, gold, 0)]
    return np.where(labelled, first, UNLABELLED).astype(np.int64)


def make_predictions(store: Store, answers: np.ndarray, probabilities: np.ndarray) -> Predictions:
    """Predictions by passage id; arguments are those of :func:`predictions_in_order`."""
    return Predictions(predictions_in_order(store, answers, probabilities))


def predictions_in_order(
    store: Store, answers: np.ndarray, probabilities: np.ndarray
) -> Iterator[tuple[str, PassagePrediction]]:
    """The id and the predictions of each passage, in order.

    Args:
        store: the passages
        answers: index of the predicted candidate, the first of equal ones, ``int64 (blanks,)``
        probabilities: of each candidate, ``float32 (blanks, candidates)``; kept to six digits
    """
    gold, ends = gold_of(store).tolist(), store.blank_offsets.tolist()
    count = np.diff(store.candidate_offsets).tolist()
    for passage in range(len(store)):
        blanks = range(ends[passage], ends[passage + 1])
        yield (
            store.id(passage),
            PassagePrediction(
                [LETTERS[answers[blank]] for blank in blanks],
                [None if gold[blank] == UNLABELLED else LETTERS[gold[blank]] for blank in blanks],
                [[round(value, 6) for value in probabilities[blank, : count[blank]].tolist()] for blank in blanks],
            ),
        )


@contextmanager
def writing(path: PathLike) -> Iterator[Callable[[str, Any], None]]:
    """A function that writes what stands under a passage id, a line each; the file appears whole, or ``ClozeError``.

    A stream gets each line at once.  It holds JSONL, and so does a file whose name says so.
    """
    if is_stream(path):
        with streaming(path) as write_now:
            yield lambda key, entry: write_now(_line(key, entry).encode())
        return
    lines, opened = os.fspath(path).lower().endswith(".jsonl"), False

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(path, error.strerror or str(error)) from error

    def write(key: str, entry: Any) -> None:
        nonlocal opened
        with explained():
            if lines:
                file.write(_line(key, entry))
            else:
                file.write(f"{',' if opened else ''}\n {json.dumps(key, ensure_ascii=False)}: {json.dumps(entry)}")
        opened = True

    with replacing(path) as temporary:
        with explained():
            file = temporary.open("w", encoding="utf-8")
        try:
            file.write("" if lines else "{")
            yield write
        except BaseException:
            file.close()
            raise
        with explained(), file:
            file.write("" if lines else "\n}\n")


def _line(key: str, entry: Any) -> str:
    """A line of JSONL: the id, and the fields of an entry or answers alone."""
    fields = entry if isinstance(entry, dict) else {"answers": entry}
    return json.dumps({"id": key, **fields}, ensure_ascii=False) + "\n"


def write_predictions(
    path: PathLike, predictions: Mapping[str, PassagePrediction], origin: Origin | None = None
) -> None:
    """Write a prediction file whole or not at all; ``ClozeError`` where it cannot be written."""
    with writing(path) as write:
        for key, prediction in predictions.items():
            write(key, prediction.to_dict())
        if origin is not None and ORIGIN_FIELD not in predictions:
            write(ORIGIN_FIELD, origin.to_dict())


def read_predictions(path: PathLike) -> Predictions:
    """Read and check a prediction file; gold and probabilities may be missing, as in files of other systems.

    Raises:
        ClozeError: it cannot be read or does not fit; names passage, blank and field
    """
    path = Path(path)
    try:
        return parse_predictions(read_whole(path), str(path))
    except FileNotFoundError as error:
        raise ClozeError(f"{path}: no such prediction file; check the path") from error
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def parse_predictions(content: bytes, name: str) -> Predictions:
    """As :func:`read_predictions`, of the content of a file that messages call *name*: one JSON object, or JSONL."""
    if is_answer_line(content.partition(b"\n")[0]):
        return _parse_lines(content, name)
    try:
        found = parse_json(content)
    except NotJson as error:
        raise ClozeError(f"{name}: {error}; {_MEND}") from error
    if not isinstance(found, dict):
        raise _misfit(name, "a JSON object of passages", found)
    predictions = Predictions()
    for key, entry in found.items():
        _take(predictions, key, entry, name)
    return predictions


def _take(predictions: Predictions, key: str, entry: Any, where: str) -> None:
    """Take in what stands under a name: a passage, or the origin."""
    if key != ORIGIN_FIELD or not isinstance(entry, dict) or "answers" in entry:
        predictions[key] = _check_passage(f"{where}: passage '{printable(key)}'", entry)
        return
    try:
        predictions.origin = read_origin(entry)
    except ValueError as error:
        raise ClozeError(f"{where}: '{ORIGIN_FIELD}': {error}; {_MEND}") from error


def is_answer_line(content: bytes) -> bool:
    """Whether the first line of a file is one of JSONL, rather than the beginning of an object, or all of it."""
    try:
        found = parse_json(content)
    except NotJson:
        return False
    return isinstance(found, dict) and isinstance(found.get("id"), str)


def _parse_lines(content: bytes, name: str) -> Predictions:
    out = Predictions()
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            fields = parse_json(line)
        except NotJson as error:
            raise ClozeError(f"{where}: {error}; {_MEND}") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
            raise _misfit(where, "an object with a string 'id'", fields)
        key = fields.pop("id")
        if key in out or (key == ORIGIN_FIELD and out.origin is not None):
            raise ClozeError(f"{where}: expected each passage once, found '{printable(key)}' twice; {_MEND}")
        _take(out, key, fields, where)
    return out


_FIELDS = ("answers", "gold", "probabilities")


def _check_passage(where: str, entry: Any) -> PassagePrediction:
    if isinstance(entry, list):
        raise ClozeError(f"{where}: expected an object with answers and gold, found answers alone; {_MEND}")
    if not isinstance(entry, dict) or not isinstance(entry.get("answers"), list):
        raise _misfit(where, "an object with a list 'answers'", entry)
    other = next((field for field in entry if field not in _FIELDS), None)
    if other is not None:  # a misspelt one would be missed silently
        raise _misfit(where, f"no other fields than {', '.join(_FIELDS)}", other)
    answers, gold, probabilities = entry["answers"], entry.get("gold"), entry.get("probabilities")
    for field, value in (("gold", gold), ("probabilities", probabilities)):
        if value is not None and (not isinstance(value, list) or len(value) != len(answers)):
            found = len(value) if isinstance(value, list) else value
            raise _misfit(f"{where}, field '{field}'", f"a list of {len(answers)}, one entry per answer", found)
    gold = [None] * len(answers) if gold is None else gold
    for number, answer in enumerate(answers):
        blank, letters = f"{where}, blank {number + 1}, field", LETTERS
        if probabilities is not None:
            row = probabilities[number]
            if not isinstance(row, list) or not 2 <= len(row) <= len(LETTERS) or not all(map(_is_probability, row)):
                raise _misfit(f"{blank} 'probabilities'", f"2 to {len(LETTERS)} numbers from 0 to 1", row)
            letters = letters[: len(row)]
        if answer not in letters:
            raise _misfit(f"{blank} 'answers'", f"a letter {letters_of(len(letters))}", answer)
        if gold[number] not in (None, *letters):
            raise _misfit(f"{blank} 'gold'", f"a letter {letters_of(len(letters))} or null", gold[number])
    if probabilities is not None:
        probabilities = [[float(value) for value in row] for row in probabilities]
    return PassagePrediction(answers, gold, probabilities)


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _misfit(where: str, expected: str, found: Any) -> ClozeError:
    text = json.dumps(found, ensure_ascii=False)
    text = text if len(text) <= 60 else text[:57] + "..."
    return ClozeError(f"{where}: expected {expected}, found {text}; {_MEND}")
