"""Watch: score the checkpoints of a training as they come, beside it and without its help.

Each content is scored once, across restarts too: ``validation.jsonl`` remembers.  A checkpoint that waits is held by a
private link, so that the training may prune it; see :mod:`fairseq_cloze.watch.capture`.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike
from ..ranking.resources import Resources
from ..runs.lock import RunState, run_state
from .arrivals import Arrivals, Checkpoint, Trial, try_again
from .capture import give_name
from .guard import WatchLock, signals_raise
from .records import (
    AT_CHANCE,
    PICTURE,
    RECORDS,
    STALL,
    Record,
    append_record,
    best_of,
    data_digest,
    draw,
    fell_to_chance,
    file_of,
    has_stalled,
    known_files,
    read_validation,
    scores_of,
    table,
    write_table,
)
from .resources import prepare_torch

#: Folder in the save-dir for what a watch keeps for itself, a folder per split.
PRIVATE = ".watch"

#: Seconds between two looks at whether the run has ended, and at files that are not whole.
_POLL, _POLL_UNSETTLED = 2.0, 0.25

#: Seconds between two pictures while checkpoints wait.
_PICTURE_EVERY = 30.0

#: A running training is silent when nothing came for so many seconds and for so many times the longest pause.
_SILENT, _SILENT_TIMES = 1800.0, 5.0

Report = Callable[[str], None]


def watch(
    save_dir: PathLike,
    data_bin: PathLike,
    split: str = "valid",
    latest: bool = False,
    until_idle: float | None = None,
    resources: Resources | None = None,
    emails: Sequence[str] = (),
    report: Report = print,
) -> Record | None:
    """Score checkpoints until the run that writes them has ended.

    Args:
        save_dir: folder of the checkpoints; made where it is missing
        data_bin: what ``fairseq-cloze prepare`` wrote
        split: name of a split with labelled blanks
        latest: of several that wait score the newest only
        until_idle: end when nothing new came for so many seconds, whatever the run does
        resources: what scoring may use; see :func:`fairseq_cloze.watch.resources.choose_device` for the default device
        emails: addresses to tell of a new best, a stall, chance level and the end
        report: takes a line for people

    Returns:
        the line of ``validation.jsonl`` about the best checkpoint

    Raises:
        ClozeError: the data-bin or the folder cannot be used, or another watch is at work there
        SystemExit: a signal came; status 128 and its number
    """
    from ..data.databin import DataBin

    data = DataBin(data_bin)
    digest = data_digest(data, split)
    folder = Path(save_dir)
    private = folder / PRIVATE / split
    try:
        if not folder.exists():
            report(f"{folder}: no such folder yet; making it and waiting for a training to write there")
        (private / "queue").mkdir(parents=True, exist_ok=True)
        lock = WatchLock(private / "lock", f"split '{split}' of {folder}", report)
    except OSError as error:
        raise ClozeError(f"{folder}: cannot be written ({error.strerror or error}); check the folder") from error
    with lock, signals_raise() as stopped:
        arrivals = Arrivals(folder, private / "queue", {}, report)
        try:
            watcher = Watcher(folder, data.folder, split, digest, arrivals, resources or Resources(), emails, report)
            watcher.run(latest, until_idle, stopped)
        except SystemExit:
            report(f"stopped; {len(list(arrivals.queue.iterdir()))} waiting checkpoints are let go")
            raise
        finally:
            arrivals.close()
            shutil.rmtree(arrivals.queue, ignore_errors=True)
    return best_of(watcher.scores)


class Watcher:
    """The watch of one split; see :func:`watch`."""

    def __init__(
        self,
        folder: Path,
        data_bin: Path,
        split: str,
        data: str,
        arrivals: Arrivals,
        resources: Resources,
        emails: Sequence[str],
        report: Report,
    ) -> None:
        self.folder, self.data_bin, self.split, self.data = folder, data_bin, split, data
        self.private = folder / PRIVATE / split
        self.best_link = folder / f"checkpoint_best_accuracy{'' if split == 'valid' else f'_{split}'}.pt"
        self.arrivals, self.report = arrivals, report
        records = read_validation(folder / RECORDS)
        self.scores = scores_of(records, split, data)
        self.skipped = self.given_up = 0
        self._before = len(self.scores)
        self._by_content = {score["content"]: score for score in self.scores}
        arrivals.known.update(known_files(records, split, data))
        self._failures: dict[str, Trial] = {}  # by content
        self._pictured = -math.inf
        self._dirty = False
        self._silence = _Silence(arrivals.last)
        self._notifier: Any = None
        if emails:
            from ..mail.notify import Notifier

            self._notifier = Notifier(f"watch {folder.resolve().name}", emails, report=report)
        self.resources, where = prepare_torch(resources, folder)
        self._busy = time.monotonic()  # for the last time
        report(f"scoring '{split}' of {data_bin} on {where}; {len(self.scores)} scored before")

    # -- the loop

    def run(self, latest: bool, until_idle: float | None, stopped: list[int]) -> None:
        """Score until the run has ended or nothing came for *until_idle* seconds."""
        try:
            while not stopped:
                # In this order: what was written before the run ended is found by a look after that.
                state = run_state(self.folder)
                self.arrivals.look()
                self._inspect()
                checkpoint = self._next(latest)
                if checkpoint is not None:
                    self._score(checkpoint)
                    self._busy = time.monotonic()
                    continue
                self._publish()
                if any(self.arrivals.queue.iterdir()):
                    self.arrivals.wait(_POLL_UNSETTLED)
                    continue
                if state is RunState.ENDED:
                    return self._end("the run has ended")
                idle = time.monotonic() - max(self.arrivals.last, self._busy)
                if until_idle is not None and idle >= until_idle:
                    return self._end(f"nothing new for {idle:.0f} s")
                if self._silence.begins(self.arrivals.last, state is RunState.RUNNING):
                    self._tell("stalled", f"no new checkpoint for {idle / 60:.0f} minutes, though the run goes on")
                self.arrivals.wait(_POLL if until_idle is None else min(_POLL, max(0.05, until_idle - idle)))
            raise SystemExit(128 + stopped[0])  # whoever was interrupted swallowed it
        except SystemExit:
            if self._notifier is not None:
                self._notifier.close(None, 10.0)
            raise
        except BaseException as error:
            if self._notifier is not None:
                self._notifier.close(self._event("failure", f"the watch itself failed ({error})"))
            raise

    def _inspect(self) -> None:
        """Sort out what is not to be scored: contents scored before, second copies, files that cannot be read."""
        for name, trial in self.arrivals.inspect():
            self._give_up(name, trial.problem, trial.attempts, trial.key, None, {})
        first: dict[str, Checkpoint] = {}
        for checkpoint in sorted(self.arrivals.waiting.values(), key=lambda one: (one.is_copy, one.private.name)):
            score = self._by_content.get(checkpoint.content)
            if score is not None:
                names = (score["checkpoint"], *score["aliases"])
                if checkpoint.name not in names:
                    self.report(f"{checkpoint.name}: the same as {names[0]}, which is scored")
                    score["aliases"].append(checkpoint.name)
                if score is best_of(self.scores) and not self.best_link.exists():
                    give_name(checkpoint.private, self.best_link)
                self.arrivals.drop(checkpoint.private)
            elif first.setdefault(checkpoint.content, checkpoint) is not checkpoint:
                names = (first[checkpoint.content].name, *first[checkpoint.content].aliases)
                if checkpoint.name not in names:
                    first[checkpoint.content].aliases.append(checkpoint.name)
                self.arrivals.drop(checkpoint.private)

    def _next(self, latest: bool) -> Checkpoint | None:
        """The checkpoint to score now, if any."""
        waiting = sorted(self.arrivals.waiting.values(), key=lambda checkpoint: checkpoint.order)
        if latest:
            newest = max((score["updates"] or -1 for score in self.scores), default=-1)
            old = [one for one in waiting if one.updates is not None and one.updates < newest]
            for checkpoint in [one for one in waiting if one in old or one is not waiting[-1]]:
                self.skipped += 1
                self.report(f"{checkpoint.name}: skipped, there is a newer one ({self.skipped} skipped)")
                self.arrivals.drop(checkpoint.private)
                waiting.remove(checkpoint)
        for checkpoint in waiting:
            failure = self._failures.get(checkpoint.content)
            if failure is None or time.monotonic() >= failure.due:
                return checkpoint
        return None

    # -- one checkpoint

    def _score(self, checkpoint: Checkpoint) -> None:
        from ..ranking.evaluate import evaluate

        start = time.perf_counter()
        predictions = self.private / "predictions.json"
        try:
            evaluation = evaluate(
                checkpoint.private, self.data_bin, self.split, resources=self.resources, predictions_path=predictions
            )
        except Exception as error:  # whatever torch raises: out of memory, a device that went away
            self._fail(checkpoint, error)
            return
        self.arrivals.look()
        self._inspect()  # copies that came meanwhile are known by their other names
        if not checkpoint.is_unchanged():
            self.report(f"{checkpoint.name}: overwritten while it was scored; scoring what it has become")
            self.arrivals.reconsider(checkpoint.private)
            return
        figures = {key: value for key, value in asdict(evaluation).items() if key not in _LEFT_OUT}
        score: Record = {
            "checkpoint": checkpoint.name,
            "aliases": checkpoint.aliases,
            "content": checkpoint.content,
            "split": self.split,
            "data_bin": str(self.data_bin.resolve()),
            "data": self.data,
            "epoch": checkpoint.epoch,
            "updates": checkpoint.updates,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in figures.items()},
            "seconds": round(time.perf_counter() - start, 3),
            "waited": round(time.time() - checkpoint.arrived, 3),
            "file": file_of(checkpoint.key),
        }
        previous = best_of(self.scores)
        score["best"] = previous is None or score["accuracy"] > previous["accuracy"]
        if score["best"]:  # before the line: a watch that is killed here scores it again and ends up the same
            give_name(checkpoint.private, self.best_link)
            predictions.replace(self.folder / f"predictions_{self.split}.json")
        append_record(self.folder / RECORDS, score)
        self.scores.append(score)
        self._by_content[checkpoint.content] = score
        self._failures.pop(checkpoint.content, None)
        self.arrivals.drop(checkpoint.private)
        self._announce(score, previous)
        self._dirty = True
        if time.monotonic() - self._pictured > _PICTURE_EVERY:
            self._publish()

    def _announce(self, score: Record, previous: Record | None) -> None:
        words = [f"accuracy {score['accuracy']:.2f}%", f"chance {score['chance']:.2f}%", f"{score['seconds']:.1f} s"]
        if score["updates"] is not None:
            words.insert(0, f"{score['updates']:,} updates")
        if score["best"]:
            words.insert(2, "best so far")
        line = f"{score['checkpoint']}: {', '.join(words)}"
        if score["aliases"]:
            line += f"; also {', '.join(score['aliases'])}"
        waiting = len(self.arrivals.waiting)
        if waiting:
            line += f"; {waiting} wait, {self._held():,.0f} MB of them pruned"
        self.report(line)
        if score["best"] and previous is not None:
            gain = f"{score['accuracy']:.2f}% after {previous['accuracy']:.2f}%"
            self._tell("best", f"{score['checkpoint']} is the best so far, {gain}", say=False)
        if has_stalled(self.scores):
            best = best_of(self.scores)
            assert best is not None
            self._tell("stalled", f"no new best in {STALL} checkpoints; it is {best['checkpoint']}")
        if fell_to_chance(self.scores):
            self._tell("chance", f"{AT_CHANCE} checkpoints in a row are no better than guessing; see docs/chance.md")

    def _fail(self, checkpoint: Checkpoint, error: Exception) -> None:
        problem = str(error) if isinstance(error, ClozeError) else f"{type(error).__name__}: {error}"
        problem = problem.replace(str(checkpoint.private), checkpoint.name)
        trial = try_again(self._failures.get(checkpoint.content), checkpoint.key, problem)
        self._failures[checkpoint.content] = trial
        from ..model.memory import empty_cuda_cache

        empty_cuda_cache()
        if not trial.is_over and not isinstance(error, ClozeError):
            self.report(f"{checkpoint.name}: {problem}; trying again")
            return
        about = {"aliases": checkpoint.aliases, "epoch": checkpoint.epoch, "updates": checkpoint.updates}
        self._give_up(checkpoint.name, problem, trial.attempts, checkpoint.key, checkpoint.content, about)
        self.arrivals.drop(checkpoint.private)

    def _give_up(self, name: str, problem: str, attempts: int, key: Any, content: str | None, about: Record) -> None:
        self.given_up += 1
        self.report(f"{name}: given up after {attempts} attempts: {problem}")
        record = {"checkpoint": name, "error": problem, "attempts": attempts, "split": self.split, **about}
        record.update(content=content, data=self.data, data_bin=str(self.data_bin.resolve()), file=file_of(key))
        record["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        append_record(self.folder / RECORDS, record)
        self._dirty = True

    def _held(self) -> float:
        """Megabytes of checkpoints that only wait under their private link."""
        found = [path.stat() for path in self.arrivals.waiting]
        return sum(one.st_size for one in found if one.st_nlink == 1) / 1e6

    # -- for people

    def _publish(self) -> None:
        """Write table and picture; not being able to does not stop a watch."""
        if not self._dirty:
            return
        self._dirty, self._pictured = False, time.monotonic()
        try:
            records = write_table(self.folder)
            picture = draw(records, str(self.folder))
            if picture:
                path = self.folder / PICTURE
                temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                temporary.write_bytes(picture)
                temporary.replace(path)
        except Exception as error:  # matplotlib raises many kinds
            self.report(f"table and picture could not be written ({error})")

    def _tell(self, kind: str, text: str, say: bool = True) -> None:
        if say:
            self.report(text)
        if self._notifier is not None:
            self._notifier.tell(self._event(kind, text))

    def _event(self, kind: str, text: str) -> Any:
        from ..mail.notify import Event

        records = read_validation(self.folder / RECORDS)
        return Event(
            kind,
            text,
            f"{self.folder.resolve()}: {text}.\n\n{table(records)}",
            picture=lambda: draw(records, str(self.folder)),
        )

    def _end(self, why: str) -> None:
        best = best_of(self.scores)
        found = f"best {best['checkpoint']} with {best['accuracy']:.2f}%" if best else "no score"
        counts = [f"{len(self.scores) - self._before} scored"]
        counts += [f"{self._before} before"] if self._before else []
        for number, what in (
            (self.skipped, "skipped"),
            (self.given_up, "given up"),
            (self.arrivals.missed, "pruned too early"),
        ):
            counts += [f"{number} {what}"] if number else []
        text = f"{why}: {', '.join(counts)}; {found}"
        for line in table(read_validation(self.folder / RECORDS)).splitlines():
            self.report(line)
        self.report(text)
        if self._notifier is not None:
            self._notifier.close(self._event("ended", text))


_LEFT_OUT = ("checkpoint", "data_bin", "split", "weights", "encoding", "seconds", "notes", "breakdown")


class _Silence:
    """Says once when a running training has written nothing for longer than it ever did."""

    def __init__(self, start: float) -> None:
        self._last, self._longest, self._told = start, 0.0, False

    def begins(self, last: float, running: bool) -> bool:
        if last != self._last:
            self._longest, self._last, self._told = max(self._longest, last - self._last), last, False
        quiet = time.monotonic() - last > max(_SILENT, _SILENT_TIMES * self._longest)
        if self._told or not running or not quiet:
            return False
        self._told = True
        return True
