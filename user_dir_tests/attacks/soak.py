"""A long training, the watch beside it, and both under ``run`` with mail: ``python -m user_dir_tests.attacks.soak``.

Memory, file descriptors and threads of every process have to stay flat, every checkpoint has to be scored once, and
every mail has to arrive once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..support.commands import FINETUNE, PASSAGES, TRAIN_OPTIONS, run
from ..support.mail_server import Server
from .faults import MINI
from .kill import Place

#: Looks count once so many checkpoints are scored: things are imported and buffers are filled before.
BEGINNING = 2
#: How many times as much, and how much more, the last tenth may have than the first.  matplotlib opens its two fonts in
#: each thread that draws, and the thread that mails, which draws, begins with the first mail.
LIMITS = {"megabytes": (1.1, 20), "descriptors": (1.0, 2), "threads": (1.0, 1)}


@dataclass(frozen=True)
class Sample:
    """One look at a process."""

    megabytes: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Raises OSError where there is none."""
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        if "VmRSS" not in status:
            raise ProcessLookupError
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(int(status["VmRSS"].split()[0]) / 1024, descriptors, int(status["Threads"]))


def family(pid: int) -> dict[int, str]:
    """A process and what it started, with names."""
    found = {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= family(int(child))
    return found


def verdict(name: str, samples: list[Sample]) -> tuple[str, bool]:
    """A line on a process, and whether it stayed flat."""
    tenth = max(1, len(samples) // 10)
    first, last = samples[:tenth], samples[-tenth:]
    figures, flat = [], True
    for field, (times, more) in LIMITS.items():
        before = statistics.median(getattr(sample, field) for sample in first)
        after = statistics.median(getattr(sample, field) for sample in last)
        flat = flat and after <= before * times + more
        figures.append(f"{field} {before:.0f} -> {after:.0f}")
    return f"{name}: {', '.join(figures)}; {len(samples)} looks", flat


def soak(folder: Path, updates: int, every: int, source: Path, server: Server) -> list[str]:
    """Train, watch, mail; what was wrong."""
    data = folder / "bin"
    passages = ("--train", PASSAGES / "train", "--valid", PASSAGES / "valid")
    run("fairseq-cloze", "prepare", *passages, "--pretrained", source, "--out", data, "--workers", 1)
    place = Place(folder / "place", folder, server)
    saved = place.folder / "out"
    train = (
        *("fairseq-train", data, *TRAIN_OPTIONS, *FINETUNE[:2], "--save-dir", saved, "--disable-validation"),
        *("--finetune-from-model", source / "model.pt", "--batch-size", 2, "--max-update", updates, "--lr", "1e-6"),
        *(
            "--save-interval-updates",
            every,
            "--keep-interval-updates",
            2,
            "--no-epoch-checkpoints",
        ),
    )
    watch = ("fairseq-cloze", "watch", saved, data, "--all", "--email", "watch@example.org")
    log = (
        "fairseq-cloze",
        "run",
        "--log-dir",
        place.folder / "logs",
        "--email",
        "run@example.org",
        "--mail-start",
        "--",
    )
    watching = place.start(watch)
    training = place.start((*log, *train))
    looks: dict[int, tuple[str, list[Sample]]] = {}
    ends = {}
    records = saved / "validation.jsonl"
    while len(ends) < 2:
        for process in (training, watching):
            if process.poll() is not None:
                ends[process.pid] = process.returncode
                continue
            if not records.exists() or records.read_bytes().count(b"\n") < BEGINNING:
                continue
            try:
                members = family(process.pid)
                if process is training and sum("fairseq-train" in name for name in members.values()) < 2:
                    continue  # it has ended, and its wrapper draws the last mail
                for pid, name in members.items():
                    looks.setdefault(pid, (name, []))[1].append(Sample.of(pid))
            except (OSError, ValueError):
                pass  # one has just ended
        time.sleep(0.5)
    wrong = [f"status {status}" for status in ends.values() if status]
    for name, samples in looks.values():
        if len(samples) >= 20:
            line, flat = verdict(" ".join(Path(word).name for word in name.split()[:3]), samples)
            print(line, flush=True)
            if not flat:
                wrong.append(f"not flat: {line}")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    scored = Counter(int(line["updates"]) for line in lines)
    twice, never = (
        [number for number, count in scored.items() if count > 1],
        {*range(every, updates + 1, every)} - {*scored},
    )
    if twice or never:  # beside those of intervals there is checkpoint_last.pt of each epoch
        wrong.append(f"scored twice {twice}, and not {sorted(never)}")
    ids = Counter(str(received.message["Message-ID"]) for received in server.received)
    subjects = [received.subject for received in server.received]
    if set(ids.values()) != {1} or len(set(subjects)) != len(subjects):
        wrong.append(f"mails {subjects}")
    print(f"{len(scored)} checkpoints scored, {len(subjects)} mails: {'; '.join(subjects)}")
    return wrong


def main() -> int:
    """Status 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m user_dir_tests.attacks.soak", description=__doc__)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=100, help="updates between checkpoints (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        wrong = soak(Path(folder), args.updates, args.every, MINI, server)
        if wrong:
            said = (Path(folder) / "place" / "said").read_text(errors="replace")
            print(*wrong, said[-2000:], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
