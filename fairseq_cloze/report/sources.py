"""Runs of a report: which files a RUN on the command line stands for, read and checked.

A RUN is a save-dir, a log, events (``metrics.jsonl``), a ``validation.jsonl`` or a prediction file.  Where a training
wrote events, its log is not read.  Whatever a run lacks is said in a sentence of its notes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.databin import MANIFEST
from ..errors import ClozeError
from ..files import PathLike, open_regular
from ..ranking.answers import Predictions, is_answer_line, read_predictions
from ..ranking.origin import Origin
from ..runlog.fairseq_log import read_log
from ..runs.curves import History, history_of
from ..runs.events import EVENTS_FILE, EVENTS_SUFFIX, read_events
from ..runs.lines import LONGEST
from ..runs.lock import run_record
from ..watch.records import RECORDS, Record, read_validation

_PREDICTIONS = "predictions_"
_LOGS = ("*.log", "log.txt")


@dataclass
class PredictionFile:
    """A prediction file."""

    path: Path
    split: str | None  #: that its name gives in a save-dir (``predictions_SPLIT.json``), or else its origin
    predictions: Predictions
    run: int = 0  #: number of its run
    label: str = ""  #: its name in the report
    breakdown: dict[str, Any] = field(default_factory=dict)  #: accuracy by groups of blanks, where texts are known


@dataclass
class Run:
    """What was found of one RUN."""

    path: Path  #: as it was given
    label: str = ""  #: its name in the report, unlike every other one
    files: list[Path] = field(default_factory=list)  #: what was read
    trained: bool = False  #: whether there were events or a log
    history: History = field(default_factory=History)
    scores: list[Record] = field(default_factory=list)  #: lines of its ``validation.jsonl``
    prediction_files: list[PredictionFile] = field(default_factory=list)
    data_bins: list[Path] = field(default_factory=list)  #: in which its passages may be, the likeliest first
    notes: list[str] = field(default_factory=list)  #: what is missing, in sentences

    @property
    def origin(self) -> Origin | None:
        """Where its answers come from, if they are all that it has."""
        lone = not self.trained and not self.scores and len(self.prediction_files) == 1
        return self.prediction_files[0].predictions.origin if lone else None

    @property
    def places(self) -> list[Path]:
        """Those of the data-bins that are there."""
        return [path for path in self.data_bins if os.path.isfile(path / MANIFEST)]

    def note(self, text: str) -> None:
        """Take a sentence, without its full stop."""
        self.notes.append(f"{text}.")

    def take(self, history: History, *files: Path) -> None:
        """Take in what a training told of itself."""
        self.history, self.trained = history, True
        self.files += files


def read_runs(paths: Sequence[PathLike]) -> list[Run]:
    """Read every RUN, in the order given.

    Raises:
        ClozeError: one does not exist, holds nothing to report, or is damaged
    """
    runs = [_read_run(Path(path)) for path in paths]
    for run, label in zip(runs, _labels([run.path for run in runs])):
        run.label = label
    return runs


def _holds_answers(path: Path) -> bool:
    """Whether a file of lines begins with a passage's answers."""
    try:
        with open_regular(path) as file:
            return is_answer_line(file.readline(LONGEST))
    except OSError:  # which whoever reads it names
        return False


def _read_run(path: Path) -> Run:
    run = Run(path)
    if path.is_dir():
        _read_save_dir(run)
    elif not path.exists():
        raise ClozeError(
            f"{path}: no such file or folder; give a save-dir, a log, a {RECORDS} or a prediction file as RUN"
        )
    elif path.suffix == ".jsonl":
        if _holds_answers(path):
            _read_answers(run, path)
        elif not _read_events(run, path):
            run.notes.clear()  # of lines that are no events, but a watch's
            _read_scores(run, path)
    elif path.suffix == ".json":
        _read_answers(run, path)
    else:
        _read_log(run, path)
    _find_data(run)
    return run


def _read_save_dir(run: Run) -> None:
    folder = run.path
    if not _noting(_read_events, run, folder / EVENTS_FILE):
        _read_logs(run)
    if (folder / RECORDS).exists():
        _noting(_read_scores, run, folder / RECORDS)
    for path in sorted(folder.glob(f"{_PREDICTIONS}*.json")):
        _noting(_read_answers, run, path)
    if not run.files:
        raise ClozeError(
            f"{folder}: expected a save-dir with {EVENTS_FILE} or a log, with {RECORDS} or with "
            f"{_PREDICTIONS}SPLIT.json, found none of them; give the log file or a prediction file itself as RUN"
        )
    if not run.trained:
        run.notes.append(
            f"Neither {EVENTS_FILE} nor a log was found, so there are no training curves. "
            "If the log is elsewhere, give it as another RUN."
        )


def _noting(read: Callable[[Run, Path], Any], run: Run, path: Path) -> Any:
    """Read a file of a save-dir; of one that is damaged the run has a note, as the rest is worth a report."""
    try:
        if path.exists() and not path.is_file():
            raise ClozeError(f"{path}: expected a file, found something else; move it away")
        return read(run, path)
    except ClozeError as error:
        run.note(str(error))


def _read_events(run: Run, path: Path) -> bool:
    """Take a training's own events, if there are any."""
    events = read_events(path, run.note)
    if events:
        run.take(history_of(events), path)
        if not run.history.points:
            run.notes.append("Its training has told no figures yet.")
    return bool(events)


def _read_logs(run: Run) -> None:
    """The logs that a training has recorded, or else the newest with figures that lies in the save-dir."""
    named = run_record(run.path).get("logs")
    logs = [Path(log) for log in named if isinstance(log, str)] if isinstance(named, list) else []
    there = [log for log in logs if os.path.isfile(log)]
    if len(there) < len(logs):
        gone = ", ".join(str(log) for log in logs if log not in there)
        run.notes.append(f"Of its logs, {gone} {'is' if len(logs) - len(there) == 1 else 'are'} gone.")
    if there:
        return _read_log(run, *there)
    found = {path for pattern in _LOGS for path in run.path.glob(pattern) if path.is_file()}
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        history = read_log(path)
        if history.points:
            run.take(history, path)
            if len(found) > 1:
                run.notes.append(f"Of {len(found)} logs in the folder this is the newest with figures: {path.name}.")
            return


def _read_log(run: Run, *paths: Path) -> None:
    if len(paths) == 1 and _read_events(run, paths[0].with_suffix(EVENTS_SUFFIX)):
        return
    history = read_log(*paths)
    if not (history.points or history.settings or history.folder):
        raise ClozeError(
            f"{paths[-1]}: expected the log of a training, found no line of fairseq-train in it; write one with "
            "'fairseq-cloze run', or with --log-format json or simple"
        )
    if not history.points:
        run.notes.append("Its log has no figures yet.")
    run.take(history, *paths)


def _read_scores(run: Run, path: Path) -> None:
    records = read_validation(path, run.note)
    run.scores += [record for record in records if "accuracy" in record]
    if not records:
        raise ClozeError(
            f"{path}: expected lines of 'fairseq-cloze watch', found none that can be read; "
            "remove the file and let the watch write it again"
        )
    given_up = [record for record in records if "error" in record]
    if not run.scores:
        run.notes.append(f"No checkpoint has been scored in {path.name} yet.")
    if given_up:
        names = ", ".join(str(record.get("checkpoint")) for record in given_up[:3])
        more = f" and {len(given_up) - 3} others" if len(given_up) > 3 else ""
        run.notes.append(f"The watch gave up on {names}{more}: {given_up[0]['error']}")
    run.files.append(path)


def _read_answers(run: Run, path: Path) -> None:
    predictions = read_predictions(path)
    if not predictions:
        raise ClozeError(
            f"{path}: expected predictions, found no passage; write them with 'fairseq-cloze evaluate --predictions'"
        )
    split = predictions.origin.split if predictions.origin else None
    if run.path.is_dir():
        split = path.stem[len(_PREDICTIONS) :]
    run.prediction_files.append(PredictionFile(path, split, predictions))
    run.files.append(path)


def _find_data(run: Run) -> None:
    """Where a run's passages may be: what the run recorded itself, or the save-dir that its file lies in."""
    folder = run.path if run.path.is_dir() else run.path.parent
    found: list[Any] = [] if run.trained and folder != run.path else [run_record(folder).get("data")]
    beside = run.prediction_files and (folder / RECORDS).is_file()
    scores = run.scores or (read_validation(folder / RECORDS, lambda line: None) if beside else [])
    found += [record.get("data_bin") for record in reversed(scores)]
    found += [file.predictions.origin.data_bin for file in run.prediction_files if file.predictions.origin]
    named = run.history.setting("task", "data")
    if isinstance(named, str):
        first = named.split(":")[0]
        found += [Path(run.history.folder or ".", first), first]
    run.data_bins = [Path(place) for place in dict.fromkeys(str(place) for place in found if place)]


def _labels(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its own, with as many folders before it as tell it from the others."""
    parts = [_name_parts(path) for path in paths]
    labels = []
    for number, own in enumerate(parts):
        others = parts[:number] + parts[number + 1 :]
        depth = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        again = f" ({parts[: number + 1].count(own)})" if own in others else ""
        labels.append("/".join(own[-depth:]) + again)
    return labels


def _name_parts(path: Path) -> list[str]:
    path = path.resolve()
    if not path.is_dir() and path.name not in (RECORDS, EVENTS_FILE):
        return [*path.parts[1:-1], path.stem]
    return list((path if path.is_dir() else path.parent).parts[1:]) or ["/"]
