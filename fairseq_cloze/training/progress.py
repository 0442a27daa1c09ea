"""Progress: what people see of a training while fairseq's own log goes to a file.

On a terminal that is one line, drawn again.  Elsewhere it is a line for every validation, and one a minute.  Warnings
and errors of the log are shown as they come.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..errors import ClozeError, Exit, printable
from ..files import cannot_write
from ..runlog.command import duration
from ..runlog.fairseq_log import level_of
from ..runlog.terminal import without_controls
from ..runs.curves import History, history_of
from ..runs.events import EVENTS_FILE, EventFollower, LineFollower, read_events
from ..watch.records import RECORDS, read_validation

LOG = "train.log"  #: what fairseq and a watch print, beside the save-dir
EVERY = 60.0  #: seconds between two lines where there is no terminal
LAST_LINES = 20  #: of the log, that are shown where a training failed and has said nothing

_SPEND, _SPEND_AT_END = 0.5, 10.0  # seconds for a look
_SILENT = ("INFO", "DEBUG")
_SUBSET = "valid"


def _to_stderr(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)  # above a bar, if there is one
    sys.stderr.flush()


def _is_terminal() -> bool:
    """Whether a line can be drawn again on standard error; a terminal that does not know its size shows no bar."""
    try:
        return sys.stderr.isatty() and all(os.get_terminal_size(sys.stderr.fileno()))
    except (OSError, ValueError):  # it is no file at all
        return False


class Progress:
    """Follows a training into a save-dir, of so many updates, by its events and its log.

    Args:
        save_dir: its folder; the log lies beside it
        updates: how many it is to have
        tell: takes a line for people

    Raises:
        ClozeError: the log cannot be written
    """

    def __init__(self, save_dir: Path, updates: int, tell: Callable[[str], None] = _to_stderr) -> None:
        self.log = save_dir.parent / LOG
        self._save_dir, self._updates, self._tell = save_dir, updates, tell
        try:
            self.log_fd = os.open(self.log, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(self.log, error.strerror or str(error)) from error
        self._start = os.fstat(self.log_fd).st_size
        self._lines = LineFollower(self.log_fd, self._start)
        self._events = EventFollower(save_dir / EVENTS_FILE)  # before the training starts: what is there is older
        self._history = History()
        with suppress(ClozeError):
            self._history = history_of(read_events(save_dir / EVENTS_FILE, lambda line: None))
        self._scores: list[float] = []  # of a watch, in order
        self._scores_size = -1
        self._begun: tuple[float, int] | None = None  # when the training began, at which update
        self._last = 0.0, 0  # the same of the last update that it told of
        self._shows = False  # whether the last line of the log that says its level is for people
        self._shown = 0  # lines of the log
        self._told = 0, 0, -EVERY  # validations and updates in the last line of progress, and when that was
        self._bar: Any = None

    def __enter__(self) -> Self:
        from tqdm import tqdm

        form = "{percentage:3.0f}%|{bar}| {desc}"
        quiet = not _is_terminal()
        self._bar = tqdm(total=self._updates, desc="starting", disable=quiet, dynamic_ncols=True, bar_format=form)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._events.close()
        os.close(self.log_fd)

    def look(self, seconds: float = _SPEND) -> None:
        """Show what is new."""
        with suppress(OSError):  # what cannot be read does not get in the way of the training
            for line in self._lines.read(seconds):
                self._show(line)
            for event in self._events.read(seconds):
                self._history.add(event)
                if event["type"] in ("started", "resumed") and isinstance(event.get("update"), int):
                    self._begun = self._last = time.monotonic(), event["update"]
            self._read_scores()
        if self._begun is not None and self._done() > self._last[1]:
            self._last = time.monotonic(), self._done()
        self._draw()

    def end(self, status: int) -> None:
        """The training has ended: show what is left, and what a failure may come from."""
        self.look(_SPEND_AT_END)
        if self._bar.disable and self._begun is not None and self._told[1] < self._done():
            self._tell(self.text())
        if status not in (0, Exit.REQUEUE):
            for line in [] if self._shown else self._last_lines():
                self._tell(line)
            self._tell(f"fairseq-train has ended with status {status}; its log is {self.log}")

    def text(self) -> str:
        """How far it is."""
        done, history = self._done(), self._history
        parts = [f"update {done:,} of {self._updates:,}"]
        if (left := self._seconds_left()) is not None:
            parts.append(f"{duration(left)} left")
        points = history.updates or history.epochs
        if points and "loss" in points[-1].values:
            parts.append(f"loss {points[-1].values['loss']:.3f}")
        if accuracies := self._accuracies():
            last, best = accuracies[-1], max(accuracies)
            parts.append(f"{_SUBSET} {last:.2f}% ({'best' if last == best else f'best {best:.2f}%'})")
        return ", ".join(parts)

    def _done(self) -> int:
        history = self._history
        lists = (history.updates, history.epochs, *history.validations.values())
        return max([self._last[1], *(points[-1].update for points in lists if points)])

    def _seconds_left(self) -> float | None:
        """At the pace since it began; ``None`` where that is not known, and at the end."""
        (begin, first), (at, last) = self._begun or (0.0, 0), self._last
        if last <= first or at <= begin or last >= self._updates:
            return None
        pace = (at - begin) / (last - first)
        return max(0.0, pace * (self._updates - last) - (time.monotonic() - at))

    def _accuracies(self) -> list[float]:
        points = self._history.validations.get(_SUBSET, [])
        return self._scores or [point.values["accuracy"] for point in points if "accuracy" in point.values]

    def _read_scores(self) -> None:
        path = self._save_dir / RECORDS
        size = path.stat().st_size if path.exists() else -1
        if size != self._scores_size:
            self._scores_size = size
            with suppress(ClozeError):
                records = read_validation(path, lambda line: None)
                found = [record.get("accuracy") for record in records if record.get("split") == _SUBSET]
                self._scores = [accuracy for accuracy in found if accuracy is not None]

    def _draw(self) -> None:
        if self._begun is None:
            return
        if not self._bar.disable:
            self._bar.n = min(self._done(), self._updates)
            if (text := self.text()) != self._bar.desc:
                self._bar.set_description_str(text)  # which draws it
            return
        validations, now = len(self._history.validations.get(_SUBSET, [])), time.monotonic()
        due = self._done() > self._told[1] and now - self._told[2] >= EVERY
        if due or validations > self._told[0]:
            self._told = validations, self._done(), now
            self._tell(self.text())

    def _show(self, line: bytes) -> None:
        """Show a line of the log that is for people: a warning, an error, and what says nothing of its level.

        What begins with white space or a bracket belongs to the line before, as parts of a traceback do.
        """
        text = _plain(line)
        level = level_of(text)
        if level is not None:
            self._shows = level not in _SILENT
        elif text and not text[0].isspace() and text[0] not in ")]}":
            self._shows = True
        if self._shows and text:
            self._shown += 1
            self._tell(text)

    def _last_lines(self) -> list[str]:
        size = os.fstat(self.log_fd).st_size
        begin = max(self._start, size - (1 << 16))
        lines = os.pread(self.log_fd, size - begin, begin).split(b"\n")
        return [text for line in lines if (text := _plain(line))][-LAST_LINES:]


def _plain(line: bytes) -> str:
    """A line as a terminal takes it, without what was drawn over."""
    text = without_controls(line).decode("utf-8", "replace").rstrip("\r\n \t")
    return printable(text.rsplit("\r", 1)[-1].expandtabs())
