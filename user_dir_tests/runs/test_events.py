from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.events import EventFollower, new_event, parse_event, read_events
from fairseq_cloze.runs.lines import LineWriter

ENDLESS = 60.0


def test_events_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with LineWriter(path) as writer:
        writer.write(new_event("update", loss=math.nan))
        writer.write(new_event("finished", update=7))
    first, second = read_events(path)
    assert first == {"type": "update", "time": first["time"], "loss": None}
    assert second == {"type": "finished", "time": second["time"], "update": 7}
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)


def test_damaged_lines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"type":"a"}\n[1]\n\n{"type":1}\n{"type":"upda')
    with LineWriter(path) as writer:
        writer.write({"type": "b"})
    told: list[str] = []
    assert [event["type"] for event in read_events(path, told.append)] == ["a", "b"]
    assert [line.split(": ", 1)[0] for line in told] == [f"{path}, line {number}" for number in (2, 4, 5)]
    with pytest.warns(UserWarning, match="line 4: cannot be used .expected 'type', a string."):
        read_events(path)
    assert parse_event(b"[" * 100_000) is None


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []
    with pytest.raises(ClozeError, match=r"cannot be read \(is a folder, no file\); check the file"):
        read_events(tmp_path)


def test_a_pipe_is_not_followed(tmp_path: Path) -> None:
    """That would take away what is in it."""
    os.mkfifo(tmp_path / "pipe")
    with LineWriter(tmp_path / "pipe") as writer:
        writer.write({"type": "update"})
        follower = EventFollower(tmp_path / "pipe")
        assert follower.read(0.1) == []
        follower.close()


def test_following_a_file_that_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = EventFollower(path)
    assert follower.read(ENDLESS) == []
    path.write_text('{"type":"a"}\n{"type":')
    assert follower.read(ENDLESS) == [{"type": "a"}]
    with path.open("a") as file:
        file.write('"b"}\nnonsense\n{"type":"c"}\n')
    assert follower.read(ENDLESS) == [{"type": "b"}, {"type": "c"}]
    assert follower.read(ENDLESS) == []
    follower.close()


def test_what_was_there_before_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"type":"a"}\n')
    follower = EventFollower(path)
    LineWriter(path).write({"type": "b"})
    assert [event["type"] for event in follower.read(ENDLESS)] == ["b"]


def test_a_flood_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = EventFollower(path)
    line = json.dumps({"type": "update", "text": "x" * 980}) + "\n"
    path.write_text(line * 20_000 + '{"type":"last"}\n' + "y" * 2_000_000 + '\n{"type":"behind"}\n')
    found = follower.read(ENDLESS)
    assert [event["type"] for event in found[-2:]] == ["last", "behind"]
    assert 5_000 < len(found) < 9_000


def test_it_needs_neither_torch_nor_fairseq() -> None:
    code = "import sys, fairseq_cloze.runs.events, fairseq_cloze.runs.curves; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert not {"torch", "fairseq", "numpy", "matplotlib"} & set(loaded)
