"""Kill commands at random moments: ``python -m user_dir_tests.attacks.kill [NAME...] --times 200``.

After each kill the command is started again and has to end well: nothing lost, doubled or half-visible, and nothing is
left over, also not in TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..support.commands import FINETUNE, TRAIN_OPTIONS, environment
from ..support.mail_server import Server
from . import faults
from .faults import tree

SECONDS = 300.0
UPDATES = 6


@dataclass(frozen=True)
class Job:
    """A command that is killed, and what must be true once it ran again."""

    words: Callable[[Path], Sequence[object]]  #: from the folder of inputs to the command line
    check: Callable[[Place], object]  #: what of the result is compared with an undisturbed run's
    before: Callable[[Place], None] = lambda place: None  #: happens before the run that is killed


class Place:
    """A folder in which a job runs, with its own home, TMPDIR and mail server."""

    def __init__(self, folder: Path, inputs: Path, server: Server) -> None:
        self.folder, self.inputs, self.server = folder, inputs, server
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("out", "tmp", "home"):
            (folder / name).mkdir(parents=True)
        server.received.clear()

    def start(self, words: Sequence[object], **variables: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, with further variables; what it says goes to ``said``."""
        mail = {"HOST": "127.0.0.1", "PORT": str(self.server.port), "SECURITY": "plain", "FROM": "me@example.org"}
        home = self.folder / "home"
        env = environment(
            **{f"FAIRSEQ_CLOZE_MAIL_{key}": value for key, value in mail.items()},
            HOME=str(home),
            XDG_CONFIG_HOME=str(home / "config"),
            XDG_STATE_HOME=str(home / "state"),
            TMPDIR=str(self.folder / "tmp"),
            **variables,
        )
        with open(self.folder / "said", "ab") as said:
            line = [str(word) for word in words]
            return subprocess.Popen(
                line,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def run(self, words: Sequence[object], **variables: str) -> int:
        """Run a command to its end; its status."""
        return self.start(words, **variables).wait(SECONDS)

    @property
    def said(self) -> str:
        """What commands said here so far."""
        return (self.folder / "said").read_text(errors="replace")

    def left(self) -> list[str]:
        """What no command should leave here: unfinished files, and anything in TMPDIR but torch's own cache."""
        unfinished = [each for each in tree(self.folder / "out") if ".fairseq-cloze-" in each or ".partial" in each]
        return unfinished + [each for each in tree(self.folder / "tmp") if not each.startswith("torchinductor_")]


def _prose(at: Path) -> Sequence[object]:
    return ("fairseq-cloze", "generate", at / "prose.txt", "--out", "out/made.jsonl", "--workers", 2)


def _prepare(at: Path) -> Sequence[object]:
    passages = ("--valid", at / "passages", "--train", at / "passages", "--pretrained", at / "weights")
    return ("fairseq-cloze", "prepare", *passages, "--out", "out/bin", "--workers", 2, "--overwrite")


def _train(at: Path) -> Sequence[object]:
    once = ("--max-update", UPDATES, "--save-interval-updates", 2, "--disable-validation", "--max-tokens", 512)
    source = ("--finetune-from-model", at / "weights" / "model.pt", "--train-subset", "valid", "--save-dir", "out")
    return ("fairseq-train", at / "bin", *TRAIN_OPTIONS, *FINETUNE[:2], *once, *source)


def _losses(place: Place) -> object:
    """The losses of all updates, each once, whatever was killed between."""
    from fairseq_cloze.runs.curves import history_of
    from fairseq_cloze.runs.events import read_events

    curve = history_of(read_events(place.folder / "out" / "metrics.jsonl")).curve("loss")
    assert [update for update, _ in curve] == [*range(1, UPDATES + 1)], curve
    left = [name for name in tree(place.folder / "out") if not name.endswith((".pt", ".json", ".jsonl"))]
    return [round(loss, 5) for _, loss in curve], left


def _watched(place: Place) -> object:
    """Which checkpoints were scored, and how often; no link of a capture is left."""
    lines = (place.folder / "out" / "validation.jsonl").read_text().splitlines()
    scored = Counter(json.loads(line)["checkpoint"] for line in lines)
    return scored, sorted(name for name in tree(place.folder / "out") if not name.startswith("validation"))


def _save_dir(place: Place) -> None:
    for name in ("checkpoint_1_1.pt", "checkpoint_1_2.pt"):
        shutil.copyfile(place.inputs / "weights" / "model.pt", place.folder / "out" / name)


def _spooled(place: Place) -> None:
    for _ in range(3):
        faults.spool_a_mail(place.folder / "home")


def _arrived(place: Place) -> object:
    """Each message, at least once."""
    return _same_mails(place), sorted(tree(place.folder / "home" / "state" / "fairseq-cloze" / "mail"))


def _same_mails(place: Place) -> int:
    """How many messages came; one at most came again, of which the server had said nothing yet, and it is the same."""
    ids = Counter(str(received.message["Message-ID"]) for received in place.server.received)
    assert ids.total() <= len(ids) + 1, ids
    assert len({received.raw for received in place.server.received}) == len(ids)
    return len(ids)


def _logged(place: Place) -> object:
    """The log of the run that was not killed is whole; a mail whose end was killed may come again, as the same mail."""
    logs = sorted((place.folder / "out").glob("*.log"), key=lambda path: path.stat().st_mtime)
    assert "# status: 0" in logs[-1].read_text()
    _same_mails(place)
    return "done" in logs[-1].read_text()


JOBS: dict[str, Job] = {
    "prepare": Job(_prepare, lambda place: tree(place.folder / "out")),
    "generate": Job(_prose, lambda place: tree(place.folder / "out")),
    "train": Job(_train, _losses),
    "watch": Job(
        lambda at: ("fairseq-cloze", "watch", "out", at / "bin", "--until-idle", "1s", "--all"), _watched, _save_dir
    ),
    "run": Job(
        lambda at: (
            *("fairseq-cloze", "run", "--log-dir", "out", "--email", "a@example.org", "--mail-start", "--"),
            *(sys.executable, "-c", "import time; print('begun'); time.sleep(0.3); print('done')"),
        ),
        _logged,
    ),
    "mail": Job(lambda at: ("fairseq-cloze", "mail", "flush"), _arrived, _spooled),
}


def attack(name: str, folder: Path, inputs: Path, server: Server, draw: random.Random, times: int) -> list[str]:
    """Kill a job at *times* random moments; what was wrong afterwards."""
    job = JOBS[name]
    words = job.words(inputs)
    place = Place(folder, inputs, server)
    job.before(place)
    start = time.monotonic()
    assert place.run(words) == 0, place.said
    lasts, expected, wrong = time.monotonic() - start, job.check(place), []
    for number in range(times):
        place = Place(folder, inputs, server)
        job.before(place)
        process = place.start(words)
        after, alone = draw.uniform(0, 1.05 * lasts), draw.random() < 0.3
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if alone:  # what it started has to notice by itself
            _wait_for_group(process.pid)
        try:
            status = place.run(words)
            assert status == 0, f"status {status}: {place.said[-500:]}"
            found = job.check(place)
            assert found == expected, f"{found!r:.300} instead of {expected!r:.300}"
            assert not place.left(), f"left: {place.left()}"
        except (AssertionError, OSError, ValueError) as error:
            wrong.append(f"  kill {number + 1}, after {after:.2f} of {lasts:.2f} s{', alone' * alone}: {error!r:.900}")
    return wrong


def _wait_for_group(group: int, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)


def main() -> int:
    """Attack all jobs in turn; status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.kill", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--times", type=int, default=200, help="kills in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted({*args.names} - {*JOBS}):
        parser.error(f"no job {', '.join(unknown)}")
    names, found = args.names or [*JOBS], 0
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        inputs = Path(folder, "inputs")
        faults.inputs(inputs)
        for number, name in enumerate(names):
            times = args.times // len(names) + (number < args.times % len(names))
            wrong = attack(name, Path(folder, "place"), inputs, server, draw, times)
            print(f"{name}: {times} kills, {len(wrong)} findings", *wrong, sep="\n", flush=True)
            found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
