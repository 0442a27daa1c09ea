"""What people see of a training while its log goes to a file."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.events import EVENTS_FILE, new_event
from fairseq_cloze.runs.lines import LineWriter
from fairseq_cloze.training import progress as progress_module
from fairseq_cloze.training.progress import LAST_LINES, LOG, Progress
from fairseq_cloze.watch.records import RECORDS, append_record

STAMP = "2026-11-24 03:17:26 | "


class Training:
    """What a training leaves in its folders, at seconds by a clock that a test sets."""

    def __init__(self, folder: Path, updates: int = 40, tell: Callable[[str], None] | None = None) -> None:
        self.save_dir, self.seconds, self.said = folder / "checkpoints", 1000.0, list[str]()
        self.save_dir.mkdir(parents=True, exist_ok=True)
        self.progress = Progress(self.save_dir, updates, tell or self.said.append)

    def tell(self, kind: str, **fields: Any) -> None:
        with LineWriter(self.save_dir / EVENTS_FILE) as writer:
            writer.write(new_event(kind, epoch=1, **fields))

    def log(self, *lines: str) -> None:
        os.write(self.progress.log_fd, "".join(f"{line}\n" for line in lines).encode())

    def look(self, seconds: float = 0.0) -> list[str]:
        """What is said when so many seconds have gone."""
        self.seconds += seconds
        self.said.clear()
        self.progress.look()
        return list(self.said)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    it = Training(tmp_path)
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: it.seconds))
    with it.progress:
        yield it


def test_a_line_a_minute_and_for_every_validation(training: Training) -> None:
    assert training.look() == []
    training.tell("started", update=0)
    assert training.look(5) == []
    training.tell("update", update=2, loss=1.38)
    assert training.look(20) == ["update 2 of 40, 0:06:20 left, loss 1.380"]
    assert training.look(10) == []
    training.tell("update", update=4, loss=1.2)
    assert training.look(10) == []
    assert training.look(40) == ["update 4 of 40, 0:05:20 left, loss 1.200"]
    training.tell("validation", update=4, subset="valid", loss=1.2, accuracy=51.25)
    training.tell("validation", update=4, subset="valid1", loss=1.2, accuracy=99.0)
    assert training.look(1) == ["update 4 of 40, 0:05:19 left, loss 1.200, valid 51.25% (best)"]
    training.tell("validation", update=8, subset="valid", loss=1.2, accuracy=50.5)
    assert training.look(79) == ["update 8 of 40, 0:10:40 left, loss 1.200, valid 50.50% (best 51.25%)"]
    assert training.look(600) == []
    training.tell("update", update=40, loss=0.5)
    training.look(0)
    training.said.clear()
    training.progress.end(0)
    assert training.said == []
    assert training.progress.text() == "update 40 of 40, loss 0.500, valid 50.50% (best 51.25%)"


def test_the_last_figures_are_said_at_the_end(training: Training) -> None:
    training.tell("started", update=0)
    training.tell("update", update=20, loss=1.0)
    assert training.look() == ["update 20 of 40, loss 1.000"]
    training.tell("update", update=40, loss=0.5)
    training.said.clear()
    training.progress.end(0)
    assert training.said == ["update 40 of 40, loss 0.500"]


def test_a_training_that_goes_on(training: Training, tmp_path: Path) -> None:
    """Its pace is that of now; what it had done behind its checkpoint does not count, its best does."""
    training.tell("started", update=0)
    for update, accuracy in ((10, 60.0), (20, 50.0), (30, 70.0)):
        training.tell("update", update=update, loss=1.0)
        training.tell("validation", update=update, subset="valid", loss=1.2, accuracy=accuracy)
    again = Training(tmp_path)
    again.seconds = training.seconds
    training.look()
    with again.progress:
        again.tell("resumed", update=22)
        assert again.look() == ["update 22 of 40, loss 1.000, valid 50.00% (best 60.00%)"]
        training.seconds += 60
        again.tell("update", update=28, loss=0.9)
        assert again.look() == ["update 28 of 40, 0:02:00 left, loss 0.900, valid 50.00% (best 60.00%)"]


def test_scores_of_a_watch(training: Training) -> None:
    """They make no lines: the watch says them itself."""
    training.tell("started", update=0)
    training.tell("update", update=2, loss=1.38)
    training.look()
    for accuracy in (61.0, 62.5, None, 60.0):
        score = {"split": "valid", "data_bin": "d", "accuracy": accuracy, "chance": 25.0, "n_blanks": 9}
        append_record(training.save_dir / RECORDS, {"checkpoint": "c", **(score if accuracy else {"error": "e"})})
    append_record(training.save_dir / RECORDS, {"checkpoint": "c", **score, "split": "test", "accuracy": 90.0})
    assert training.look() == []
    assert training.progress.text() == "update 2 of 40, loss 1.380, valid 60.00% (best 62.50%)"


def test_what_is_shown_of_the_log(training: Training) -> None:
    chance = [f"{STAMP}WARNING | fairseq_cloze.plugin.task | updates are at chance. Likely causes:", "  1. rate", ""]
    trace = ["Traceback (most recent call last):", '  File "x.py", line 1', "    x()", "ValueError: x"]
    training.log(
        f"{STAMP}INFO | fairseq_cli.train | ClozeRobertaModel(",
        "  (encoder): Encoder(",
        ")",
        "",
        f'{STAMP}INFO | train_inner | {{"loss": "1.2", "num_updates": "2"}}',
        *chance,
        f"{STAMP}INFO | fairseq.trainer | begin training epoch 1",
        f"{STAMP}ERROR | fairseq | \033[31mred\033[0m\ttab\033]0;title\a",
        f"{STAMP}INFO | fairseq.trainer | x",
        "checkpoint_1_4.pt: 4 updates, accuracy 50%",
        f"{STAMP}DEBUG | fairseq.trainer | x",
        *trace,
        " 10%|# | 1/9\r 20%|## | 2/9",
    )
    assert training.look() == [
        *chance[:2],
        f"{STAMP}ERROR | fairseq | red     tab",
        "checkpoint_1_4.pt: 4 updates, accuracy 50%",
        *trace,
        " 20%|## | 2/9",
    ]


def test_what_a_failure_says(training: Training, tmp_path: Path) -> None:
    """Its own words where there are any, else the end of the log: of this training, not of one before."""
    last = f"fairseq-train has ended with status 1; its log is {tmp_path / LOG}"
    lines = [f"{STAMP}INFO | fairseq | line {number}" for number in range(LAST_LINES + 1)]
    training.log(*lines)
    training.progress.end(1)
    assert training.said == [*lines[1:], last]
    again = Training(tmp_path)
    with again.progress:
        again.log(lines[0], "Error: no such file")
        again.progress.end(1)
        assert again.said == ["Error: no such file", last]
    again.tell("started", update=0)
    again.tell("update", update=9, loss=1.0)
    third = Training(tmp_path)
    with third.progress:  # which never began: figures of before are none of it
        third.log(lines[0])
        third.progress.end(1)
        assert third.said == [lines[0], last]
        third.progress.end(75)
        assert third.said == [lines[0], last]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(ClozeError) as error:
        Training(tmp_path)
    assert str(error.value) == f"{tmp_path}/{LOG}: cannot be written (Is a directory); choose another file"


def test_a_terminal_without_a_size_gets_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of ``script`` and of containers; tqdm would show nothing there."""
    outer, inner = pty.openpty()
    with os.fdopen(inner, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        it = Training(tmp_path)
        with it.progress:
            it.tell("started", update=0)
            it.tell("validation", update=0, subset="valid", loss=1.2, accuracy=51.25)
            assert it.look() == ["update 0 of 40, valid 51.25% (best)"]
    os.close(outer)


def test_on_a_terminal_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is drawn again; warnings stand above it."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    with os.fdopen(inner, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        clock = [0.0]
        patch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
        it = Training(tmp_path, tell=progress_module._to_stderr)
        with it.progress:
            it.tell("started", update=0)
            it.look()
            clock[0] += 5
            it.tell("update", update=10, loss=1.25)
            it.look()
            clock[0] += 5
            it.log("Warning: hot")
            it.tell("validation", update=20, subset="valid", loss=1.2, accuracy=51.25)
            it.look()
            it.progress.end(0)
        screen.flush()
        os.set_blocking(outer, False)
        shown = b""
        while select.select([outer], [], [], 0)[0]:
            shown += os.read(outer, 1 << 16)
    os.close(outer)
    begun, again, first, cleared, *rest = shown.decode().split("\r")[1:]
    assert (begun[:8], begun[-10:]) == ("  0%|   ", "| starting")
    assert (again[:8], again[-16:]) == ("  0%|   ", "| update 0 of 40")
    assert first.startswith(" 25%|█") and first.endswith("| update 10 of 40, 0:00:15 left, loss 1.250")
    assert (cleared.strip(), rest[0], rest[-1]) == ("", "Warning: hot", "\n")
    assert rest[-2].endswith("| update 20 of 40, 0:00:10 left, loss 1.250, valid 51.25% (best)")
    assert {len(each) for each in (begun, again, first, rest[-2])} == {89}
