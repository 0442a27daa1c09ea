"""Watch: score the checkpoints of a training as they come, beside it and without its help.

Each content is scored once, across restarts too: ``validation.jsonl`` remembers.
"""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ClozeError, printable
from ..files import PathLike
from ..ranking.resources import Resources
from ..runs.lock import RUN_FILE, RunState, hold, open_lock_file, run_record, run_state, write_record
from . import records
from .announcing import Announcer, Report, Silence
from .arrivals import Arrival, Arrivals, is_own_fault
from .blanks import Blanks
from .capture import give_name
from .records import RECORDS, Record, append_record, best_of, file_of
from .resources import prepare_torch

#: Folder in the save-dir for what a watch keeps for itself, a folder per split.
PRIVATE = ".watch"

#: When nothing else is left to do, what has failed for so many seconds is left to the next watch.
LET_GO = 120.0

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
        save_dir: folder of the checkpoints; made where it is missing, and waited for where it is removed meanwhile
        data_bin: what ``fairseq-cloze prepare`` wrote; its split is read once
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

    def say(line: str) -> None:
        try:
            report(printable(line))
        except BrokenPipeError:
            raise
        except OSError:
            pass  # the disk with the log is full

    blanks = Blanks(data_bin, split)
    folder = Path(save_dir)
    if not folder.exists():
        say(f"{folder}: no such folder yet; making it and waiting for a training to write there")
    with _signals_raise() as stopped:
        while True:
            with _place(folder, split, say) as (lock, queue):
                arrivals = Arrivals(folder, queue, {}, say)
                try:
                    watcher = _Watcher(folder, blanks, split, arrivals, resources or Resources(), emails, say)
                    if watcher.run(latest, until_idle, stopped, lock):
                        return best_of(watcher.scores)
                except SystemExit:
                    waiting = len(arrivals.queued)
                    arrivals.close()
                    kept = arrivals.leave()
                    stay = f", {len(kept)} that are pruned stay in {queue} for the next watch" if kept else ""
                    say(f"stopped; {waiting - len(kept)} waiting checkpoints are let go{stay}")
                    raise
                finally:
                    arrivals.close()
                    arrivals.leave()


@contextmanager
def _place(folder: Path, split: str, report: Report) -> Iterator[tuple[BinaryIO, Path]]:
    """The lock of the watch of a split, and a queue for its checkpoints."""
    private = folder / PRIVATE / split
    try:
        (private / "queue").mkdir(parents=True, exist_ok=True)
        lock = open_lock_file(private / "lock")
    except OSError as error:
        raise ClozeError(f"{folder}: cannot be written ({error.strerror or error}); check the folder") from error
    with lock:
        try:
            hold(
                lock, f"split '{split}' of {folder}: another watch is at work there", "; wait for it, or stop it first"
            )
        except OSError as error:
            report(f"{folder}: no locks on this file system ({error.strerror}); see to it that only one watch runs")
        try:
            write_record(lock, {"pid": os.getpid(), "host": socket.gethostname()})
        except OSError:
            pass  # it only says who holds the lock
        yield lock, private / "queue"


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
        self, folder: Path, blanks: Blanks, split: str, arrivals: Arrivals, resources: Resources, emails: Sequence[str],
        report: Report,
    ) -> None:  # fmt: skip
        self.folder, self.blanks, self.split, self.data = folder, blanks, split, blanks.digest
        self.private = folder / PRIVATE / split
        self.best_link = folder / f"checkpoint_best_accuracy{'' if split == 'valid' else f'_{split}'}.pt"
        self.arrivals, self.report = arrivals, report
        self._announcer = Announcer(folder, emails, report)
        lines = records.read_validation(folder / RECORDS, self._announcer.say_once)
        self.scores = records.scores_of(lines, split, self.data)
        self.skipped = self.given_up = 0
        self._before = len(self.scores)
        self._by_content = {score["content"]: score for score in self.scores if "content" in score}
        arrivals.known.update(records.known_files(lines, split, self.data))
        self._silence = Silence(arrivals.last)
        self.resources, where = prepare_torch(resources, folder)
        self._busy = time.monotonic()  # when something was scored or given up
        report(f"scoring '{split}' of {blanks.folder} on {where}; {len(self.scores)} scored before")
        if (folder / RUN_FILE).exists() and not run_record(folder):
            report(f"{folder / RUN_FILE}: cannot be read as what a run recorded; its end will not be seen")

    def run(self, latest: bool, until_idle: float | None, stopped: list[int], lock: BinaryIO) -> bool:
        """Score until the run has ended or nothing came for *until_idle* seconds.

        Returns:
            ``False`` where the save-dir is another one now, and is to be watched from its beginning
        """
        try:
            while not stopped:
                idle = time.monotonic() - max(self.arrivals.last, self._busy)
                try:
                    away = self._away(lock)
                    if away is None:
                        self._announcer.stop()
                        return False
                    if away:
                        self._announcer.say_once(f"{self.folder}: {away}; waiting for it to come back")
                        if until_idle is not None and idle >= until_idle:
                            return self._end(f"{away}, and nothing new for {idle:.0f} s")
                        time.sleep(_POLL_UNSETTLED)
                        continue
                    self._check_data()
                    # In this order: what was written before the run ended is found by a look after that.
                    state = run_state(self.folder)
                    self.arrivals.look()
                    self._inspect()
                    checkpoint = self._next(latest)
                    unsettled = self.arrivals.failing(LET_GO) is None
                    idle, ended = time.monotonic() - max(self.arrivals.last, self._busy), state is RunState.ENDED
                    if not unsettled and (ended or (until_idle is not None and idle >= until_idle)):
                        self._let_go()
                        return self._end("the run has ended" if ended else f"nothing new for {idle:.0f} s")
                    if checkpoint is not None:
                        self._score(checkpoint)
                        continue
                    self._announcer.publish()
                except (OSError, ClozeError) as error:  # a disk that is full or away
                    self._announcer.say_once(f"{error}; trying again")
                    time.sleep(_POLL_UNSETTLED)
                    continue
                if self._silence.begins(self.arrivals.last, state is RunState.RUNNING):
                    silent = f"no new checkpoint for {idle / 60:.0f} minutes, though the run goes on"
                    self._announcer.tell("stalled", silent)
                pause = _POLL if until_idle is None else min(_POLL, max(0.05, until_idle - idle))
                self.arrivals.wait(min(pause, _POLL_UNSETTLED) if unsettled else pause)
            raise SystemExit(128 + stopped[0])  # whoever was interrupted swallowed it
        except SystemExit:
            self._announcer.stop()
            raise
        except BaseException as error:
            self._announcer.fail(error)
            raise

    def _away(self, lock: BinaryIO) -> str | None:
        """Why the save-dir is out of reach; empty where it is not, ``None`` where it was made anew."""
        try:
            here = os.path.samestat(os.stat(self.private / "lock"), os.fstat(lock.fileno()))
            return "" if here and self.arrivals.queue.is_dir() else None
        except FileNotFoundError:
            return None if self.folder.is_dir() else "was removed"
        except OSError as error:
            return f"cannot be reached ({error.strerror})"

    def _check_data(self) -> None:
        """Say it where the data-bin has become another one: what is scored are the blanks that were read first."""
        if change := self.blanks.change():
            self._announcer.say_once(
                f"{self.blanks.folder}: {change}; the watch goes on with the blanks that it has read, start it again "
                "for others"
            )

    def _inspect(self) -> None:
        """Sort out what is not to be scored: contents scored before, second copies, files that cannot be read."""
        for one in self.arrivals.inspect():
            self._give_up(one)
        first: dict[str | None, Arrival] = {}
        for checkpoint in sorted(self.arrivals.waiting, key=lambda one: (one.is_copy, one.private.name)):
            score = self._by_content.get(checkpoint.content)
            other = first.setdefault(checkpoint.content, checkpoint)
            if score is None and other is checkpoint:
                continue
            name = score["checkpoint"] if score else other.name
            aliases: list[str] = score.setdefault("aliases", []) if score else other.aliases
            if checkpoint.name not in (name, *aliases):
                aliases.append(checkpoint.name)
                if score is not None:
                    self.report(f"{checkpoint.name}: the same as {name}, which is scored")
            if score is not None and score is best_of(self.scores) and not self.best_link.exists():
                give_name(checkpoint.private, self.best_link)
            self.arrivals.drop(checkpoint)

    def _next(self, latest: bool) -> Arrival | None:
        """The checkpoint to score now, if any; those that failed come last."""
        waiting = sorted(self.arrivals.waiting, key=lambda checkpoint: checkpoint.order)
        if latest:
            newest = max((score.get("updates") or -1 for score in self.scores), default=-1)
            for one in waiting[:-1] + [one for one in waiting[-1:] if one.updates is not None and one.updates < newest]:
                self.skipped += 1
                self.report(f"{one.name}: skipped, there is a newer one ({self.skipped} skipped)")
                self.arrivals.drop(one)
                waiting.remove(one)
        due = [one for one in waiting if one.due <= time.monotonic()]
        return min(due, key=lambda one: one.tries, default=None)

    def _score(self, checkpoint: Arrival) -> None:
        from ..model.memory import empty_cuda_cache
        from ..ranking.evaluate import evaluate
        from ..weights.checkpoint import Checkpoint
        from ..weights.reading import load_checkpoint

        start = time.perf_counter()
        predictions = self.private / "predictions.json"
        try:
            state = load_checkpoint(checkpoint.private, checkpoint.name)
            weights = Checkpoint(state, self.folder / checkpoint.name, checkpoint.name)
            evaluation = evaluate(
                weights, self.blanks, self.split, resources=self.resources, predictions_path=predictions
            )
            del state, weights
            self.arrivals.look()
            self._inspect()  # copies that came meanwhile are known by their other names
            if not self._is_same(checkpoint):
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
                "waited": max(0.0, round(time.time() - checkpoint.arrived, 3)),  # clocks are set back, too
                "file": file_of(checkpoint.key),
            }
            previous = best_of(self.scores)
            score["best"] = previous is None or score["accuracy"] > previous["accuracy"]
            if score["best"]:  # before the line: a watch that is killed here scores it again and ends up the same
                give_name(checkpoint.private, self.best_link)
                predictions.replace(self.folder / f"predictions_{self.split}.json")
            append_record(self.folder / RECORDS, score)
        except Exception as error:  # whatever torch raises: out of memory, a device that went away
            empty_cuda_cache()
            self._fail(checkpoint, error)
            return
        self._busy = time.monotonic()
        self.scores.append(score)
        self._by_content[checkpoint.content] = score
        self.arrivals.drop(checkpoint)
        others = self.arrivals.waiting
        words = f"{len(others)} wait, {self.arrivals.pruned_bytes() / 1e6:,.0f} MB of them pruned" if others else ""
        self._announcer.tell_score(self.scores, previous, words)

    def _is_same(self, checkpoint: Arrival) -> bool:
        same = checkpoint.is_unchanged()
        if not same:
            self.report(f"{checkpoint.name}: overwritten while it was scored; scoring what it has become")
            checkpoint.begin_anew()
        return same

    def _fail(self, checkpoint: Arrival, error: Exception) -> None:
        try:
            if not self._is_same(checkpoint):
                return
        except OSError:
            pass  # it is out of reach for a while
        is_news, is_final = checkpoint.fail(error), is_own_fault(error)
        if is_final:
            self._give_up(checkpoint)
        elif is_news:
            self.report(f"{checkpoint.problem}; trying again")

    def _let_go(self) -> None:
        """Leave what has failed, through no fault of its own, to the next watch."""
        for one in self.arrivals.failing(LET_GO) or ():
            try:
                self._tell_failure(one, "the next watch tries again")
            except ClozeError as error:
                self._announcer.say_once(str(error))

    def _give_up(self, one: Arrival) -> None:
        self._tell_failure(one, "given up", file=file_of(one.key))
        self._busy = time.monotonic()
        self.arrivals.drop(one)

    def _tell_failure(self, one: Arrival, fate: str, **about: Any) -> None:
        """Record and report what could not be scored."""
        record = {"checkpoint": one.name, "error": one.problem, "attempts": one.tries, "aliases": one.aliases}
        record.update(epoch=one.epoch, updates=one.updates, content=one.content, **about, **self._what())
        append_record(self.folder / RECORDS, record)
        self.given_up += 1
        tries = f"{one.tries} attempt{'s' * (one.tries != 1)}"
        self.report(f"{one.name}: {fate} after {tries}: {one.problem}")
        self._announcer.note_change()

    def _what(self) -> Record:
        """What every line says."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"split": self.split, "data_bin": str(self.blanks.folder.resolve()), "data": self.data, "time": now}

    def _end(self, why: str) -> bool:
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
        return True


_LEFT_OUT = "checkpoint checkpoints data_bin split weights encoding seconds notes breakdown".split()
