"""Watch: score the checkpoints of a training as they come, beside it and without its help.

Each content is scored once, across restarts too: ``validation.jsonl`` remembers.
"""

import math
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data.databin import DataBin
from ..errors import ClozeError
from ..files import PathLike
from ..ranking.resources import Resources
from ..runs.lock import RunState, hold, open_lock_file, run_state, write_record
from . import records
from .announcing import Announcer, Report, Silence
from .arrivals import Arrival, Arrivals, Trial, try_again
from .capture import give_name
from .records import RECORDS, Record, append_record, best_of, data_digest, file_of
from .resources import prepare_torch

#: Folder in the save-dir for what a watch keeps for itself, a folder per split.
PRIVATE = ".watch"

# Seconds between two looks at whether the run has ended, and at files that are not whole.
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
    data = DataBin(data_bin)
    digest = data_digest(data, split)
    folder = Path(save_dir)
    private = folder / PRIVATE / split
    if not folder.exists():
        report(f"{folder}: no such folder yet; making it and waiting for a training to write there")
    try:
        (private / "queue").mkdir(parents=True, exist_ok=True)
        lock = open_lock_file(private / "lock")
    except OSError as error:
        raise ClozeError(f"{folder}: cannot be written ({error.strerror or error}); check the folder") from error
    with lock, _signals_raise() as stopped:
        taken = f"split '{split}' of {folder}: another watch is at work there"
        try:
            hold(lock, taken, "; wait for it, or stop it first")
        except OSError as error:
            report(f"{folder}: no locks on this file system ({error.strerror}); see to it that only one watch runs")
        write_record(lock, {"pid": os.getpid(), "host": socket.gethostname()})
        arrivals = Arrivals(folder, private / "queue", {}, report)
        try:
            watcher = _Watcher(folder, data.folder, split, digest, arrivals, resources or Resources(), emails, report)
            watcher.run(latest, until_idle, stopped)
        except SystemExit:
            report(f"stopped; {len(list(arrivals.queue.iterdir()))} waiting checkpoints are let go")
            raise
        finally:
            arrivals.close()
            shutil.rmtree(arrivals.queue, ignore_errors=True)
    return best_of(watcher.scores)


@contextmanager
def _signals_raise() -> Iterator[list[int]]:
    """Turn INT, TERM and HUP into :class:`SystemExit`; the list holds what came."""
    stopped: list[int] = []
    before: dict[int, Any] = {}

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watcher:
    """The watch of one split; see :func:`watch`."""

    def __init__(
        self, folder: Path, data_bin: Path, split: str, data: str, arrivals: Arrivals, resources: Resources,
        emails: Sequence[str], report: Report,
    ) -> None:  # fmt: skip
        self.folder, self.data_bin, self.split, self.data = folder, data_bin, split, data
        self.private = folder / PRIVATE / split
        self.best_link = folder / f"checkpoint_best_accuracy{'' if split == 'valid' else f'_{split}'}.pt"
        self.arrivals, self.report = arrivals, report
        lines = records.read_validation(folder / RECORDS)
        self.scores = records.scores_of(lines, split, data)
        self.skipped = self.given_up = 0
        self._before = len(self.scores)
        self._by_content = {score["content"]: score for score in self.scores}
        arrivals.known.update(records.known_files(lines, split, data))
        self._failures: dict[str, Trial] = {}  # by content
        self._announcer = Announcer(folder, emails, report)
        self._silence = Silence(arrivals.last)
        self.resources, where = prepare_torch(resources, folder)
        self._busy = time.monotonic()  # for the last time
        report(f"scoring '{split}' of {data_bin} on {where}; {len(self.scores)} scored before")

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
                    silent = f"no new checkpoint for {idle / 60:.0f} minutes, though the run goes on"
                    self._announcer.tell("stalled", silent)
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
            self._give_up(name, trial)
        first: dict[str, Arrival] = {}
        for checkpoint in sorted(self.arrivals.waiting.values(), key=lambda one: (one.is_copy, one.private.name)):
            score = self._by_content.get(checkpoint.content)
            other = first.setdefault(checkpoint.content, checkpoint)
            if score is None and other is checkpoint:
                continue
            name, aliases = (score["checkpoint"], score["aliases"]) if score else (other.name, other.aliases)
            if checkpoint.name not in (name, *aliases):
                aliases.append(checkpoint.name)
                if score is not None:
                    self.report(f"{checkpoint.name}: the same as {name}, which is scored")
            if score is not None and score is best_of(self.scores) and not self.best_link.exists():
                give_name(checkpoint.private, self.best_link)
            self.arrivals.drop(checkpoint.private)

    def _next(self, latest: bool) -> Arrival | None:
        """The checkpoint to score now, if any."""
        waiting = sorted(self.arrivals.waiting.values(), key=lambda checkpoint: checkpoint.order)
        if latest:
            newest = max((score["updates"] or -1 for score in self.scores), default=-1)
            for one in waiting[:-1] + [one for one in waiting[-1:] if one.updates is not None and one.updates < newest]:
                self.skipped += 1
                self.report(f"{one.name}: skipped, there is a newer one ({self.skipped} skipped)")
                self.arrivals.drop(one.private)
                waiting.remove(one)
        failed = {content for content, trial in self._failures.items() if time.monotonic() < trial.due}
        return next((checkpoint for checkpoint in waiting if checkpoint.content not in failed), None)

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
            self.arrivals.waiting.pop(checkpoint.private)
            return
        figures = {key: value for key, value in asdict(evaluation).items() if key not in _LEFT_OUT}
        score: Record = {
            "checkpoint": checkpoint.name,
            "aliases": checkpoint.aliases,
            "content": checkpoint.content,
            **self._what(),
            "epoch": checkpoint.epoch,
            "updates": checkpoint.updates,
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
        waiting = [path.stat() for path in self.arrivals.waiting]
        pruned = sum(one.st_size for one in waiting if one.st_nlink == 1) / 1e6
        words = f"{len(waiting)} wait, {pruned:,.0f} MB of them pruned" if waiting else ""
        self._announcer.tell_score(self.scores, previous, words)

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
        self._give_up(checkpoint.name, trial, checkpoint.content, **about)
        self.arrivals.drop(checkpoint.private)

    def _give_up(self, name: str, trial: Trial, content: str | None = None, **about: Any) -> None:
        self.given_up += 1
        self.report(f"{name}: given up after {trial.attempts} attempts: {trial.problem}")
        record = {"checkpoint": name, "error": trial.problem, "attempts": trial.attempts, **about}
        record.update(content=content, file=file_of(trial.key), **self._what())
        append_record(self.folder / RECORDS, record)
        self._announcer.note_change()

    def _what(self) -> Record:
        """What every line says."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"split": self.split, "data_bin": str(self.data_bin.resolve()), "data": self.data, "time": now}

    def _end(self, why: str) -> None:
        best = best_of(self.scores)
        found = f"best {best['checkpoint']} with {best['accuracy']:.2f}%" if best else "no score"
        further = {
            "before": self._before,
            "skipped": self.skipped,
            "given up": self.given_up,
            "pruned too early": self.arrivals.missed,
        }
        counts = [f"{len(self.scores) - self._before} scored", *(f"{n} {what}" for what, n in further.items() if n)]
        self._announcer.end(f"{why}: {', '.join(counts)}; {found}")


_LEFT_OUT = ("checkpoint", "data_bin", "split", "weights", "encoding", "seconds", "notes", "breakdown")
