"""Watch: score the checkpoints of a training as they come, beside it and without its help.

Each content is scored once, across restarts too: ``validation.jsonl`` remembers.  A checkpoint that waits is held by a
private link, so that the training may prune it; see :mod:`fairseq_cloze.watch.capture`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike
from ..ranking.resources import Resources
from ..runs.lock import RunState, run_state
from .announcing import Announcer, Report, Silence
from .arrivals import Arrival, Arrivals, Trial, try_again
from .capture import give_name
from .guard import WatchLock, signals_raise
from .records import (
    RECORDS,
    Record,
    append_record,
    best_of,
    data_digest,
    file_of,
    known_files,
    read_validation,
    scores_of,
)
from .resources import prepare_torch

#: Folder in the save-dir for what a watch keeps for itself, a folder per split.
PRIVATE = ".watch"

#: Seconds between two looks at whether the run has ended, and at files that are not whole.
_POLL, _POLL_UNSETTLED = 2.0, 0.25


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
        self._announcer = Announcer(folder, emails, report)
        self._silence = Silence(arrivals.last)
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
                self._announcer.publish()
                if any(self.arrivals.queue.iterdir()):
                    self.arrivals.wait(_POLL_UNSETTLED)
                    continue
                if state is RunState.ENDED:
                    return self._end("the run has ended")
                idle = time.monotonic() - max(self.arrivals.last, self._busy)
                if until_idle is not None and idle >= until_idle:
                    return self._end(f"nothing new for {idle:.0f} s")
                if self._silence.begins(self.arrivals.last, state is RunState.RUNNING):
                    self._announcer.tell(
                        "stalled", f"no new checkpoint for {idle / 60:.0f} minutes, though the run goes on"
                    )
                self.arrivals.wait(_POLL if until_idle is None else min(_POLL, max(0.05, until_idle - idle)))
            raise SystemExit(128 + stopped[0])  # whoever was interrupted swallowed it
        except SystemExit:
            self._announcer.stop()
            raise
        except BaseException as error:
            self._announcer.fail(error)
            raise

    def _inspect(self) -> None:
        """Sort out what is not to be scored: contents scored before, second copies, files that cannot be read."""
        for name, trial in self.arrivals.inspect():
            self._give_up(name, trial.problem, trial.attempts, trial.key, None, {})
        first: dict[str, Arrival] = {}
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

    def _next(self, latest: bool) -> Arrival | None:
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

    def _score(self, checkpoint: Arrival) -> None:
        from ..ranking.evaluate import evaluate
        from ..weights.checkpoint import Checkpoint

        start = time.perf_counter()
        predictions = self.private / "predictions.json"
        try:
            weights = Checkpoint.read(checkpoint.private, checkpoint.name)
            evaluation = evaluate(
                weights, self.data_bin, self.split, resources=self.resources, predictions_path=predictions
            )
            del weights
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
        waiting = len(self.arrivals.waiting)
        self._announcer.tell_score(
            self.scores, previous, f"{waiting} wait, {self._held():,.0f} MB of them pruned" if waiting else ""
        )

    def _fail(self, checkpoint: Arrival, error: Exception) -> None:
        problem = str(error) if isinstance(error, ClozeError) else f"{type(error).__name__}: {error}"
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
        self._announcer.note_change()

    def _held(self) -> float:
        """Megabytes of checkpoints that only wait under their private link."""
        found = [path.stat() for path in self.arrivals.waiting]
        return sum(one.st_size for one in found if one.st_nlink == 1) / 1e6

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
        self._announcer.end(f"{why}: {', '.join(counts)}; {found}")


_LEFT_OUT = ("checkpoint", "data_bin", "split", "weights", "encoding", "seconds", "notes", "breakdown")
