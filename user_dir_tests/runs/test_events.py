from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.events import EventFollower, EventWriter, new_event, parse_event, read_events

ENDLESS = 60.0


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_an_event_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = EventWriter(path)
    writer.write(new_event("update", loss=math.nan, list=(1, math.inf, {"x": -math.inf}), text="\u4f60\nhi"))
    writer.write(new_event("finished", update=7))
    first, second = (json.loads(line) for line in lines(path))
    assert first == {
        "type": "update",
        "time": first["time"],
        "loss": None,
        "list": [1, None, {"x": None}],
        "text": "\u4f60\nhi",
    }
    assert second == {"type": "finished", "time": second["time"], "update": 7}
    assert list(first)[:2] == ["type", "time"]
    assert datetime.fromisoformat(first["time"]).utcoffset() == timedelta(0)
    assert read_events(path) == [first, second]


def test_lines_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def write(name: str) -> None:
        writer = EventWriter(path)
        for number in range(300):
            writer.write({"type": "update", "writer": name, "update": number, "text": name * 3000})

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = read_events(path)
    # Who looks while the other writes may take its line for a torn one, and begins with a new line: empty, no harm.
    assert len([line for line in lines(path) if line]) == len(events) == 600
    for name in "ab":
        assert [event["update"] for event in events if event["writer"] == name] == list(range(300))


def test_torn_and_other_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"type":"a"}\n[1]\n\n{"type":1}\n{"no":"type"}\n\xff\n' + b'{"type":"upda')
    EventWriter(path).write({"type": "b"})
    assert [event["type"] for event in read_events(path)] == ["a", "b"]
    assert lines_of(path)[-2:] == [b'{"type":"upda', lines_of(path)[-1]]
    assert parse_event(b"[" * 100_000) is None


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []
    with pytest.raises(ClozeError, match=r"cannot be read \(Is a directory\); check the file"):
        read_events(tmp_path)
    with pytest.raises(FileNotFoundError):
        EventWriter(tmp_path / "none" / "metrics.jsonl")
    with pytest.raises(OSError):
        EventWriter("/dev/full").write({"type": "update"})


def test_a_pipe_that_nobody_reads_does_not_hold_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = EventWriter(tmp_path / "pipe")
    with pytest.raises(OSError):
        for _ in range(100):
            writer.write({"type": "update", "text": "x" * 4000})
    EventFollower(tmp_path / "pipe").close()  # nor does following one take away what is in it
    writer.close()


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
    EventWriter(path).write({"type": "b"})
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
