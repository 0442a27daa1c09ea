"""Lines of ``metrics.jsonl`` and ``validation.jsonl``, and what is made of them: curves, tables, what is known."""

from __future__ import annotations

import math

from fairseq_cloze.runs.curves import history_of
from fairseq_cloze.runs.events import parse_event
from fairseq_cloze.runs.lines import make_line, parse_line
from fairseq_cloze.watch.records import best_of, fell_to_chance, has_stalled, known_files, misfit, scores_of, table

SCORE = {
    "checkpoint": "checkpoint_1_10.pt", "aliases": ["checkpoint_last.pt"], "content": "c0ffee", "split": "valid",
    "data_bin": "/bin", "data": "d1", "epoch": 1, "updates": 10, "accuracy": 31.25, "accuracy_one_token": 30.0,
    "accuracy_multi_token": None, "mrr": 0.5, "chance": 25.0, "n_blanks": 100, "seconds": 1.5, "best": True,
    "file": {"inode": 1, "size": 2, "mtime_ns": 3},
}  # fmt: skip


def seeds() -> list[bytes]:
    """A score, one given up, and events, some with a checksum."""
    events = [
        {"type": "started", "time": "2026-11-24T03:12:00+00:00", "update": 0, "epoch": 1, "settings": {"task": {}}},
        {"type": "update", "update": 20, "epoch": 1, "loss": 1.25, "accuracy": 37.5, "lr": 1e-05},
        {"type": "validation", "update": 20, "epoch": 1, "subset": "valid", "accuracy": 40.0, "chance": 25.0},
        {"type": "chance", "update": 20, "text": "at chance", "causes": [{"kind": "x", "text": "y"}], "proved": []},
    ]
    given_up = {"checkpoint": "caf\udce9.pt", "error": "cut", "split": "valid", "data": "d1", "content": None}
    lines = [make_line(record) for record in (SCORE, given_up, *events)]
    return [b"\n".join(lines), *(parsed.rpartition(b',"crc32"')[0] + b"}" for parsed in lines)]


def attack(data: bytes) -> None:
    """Lines that are accepted can be used, and are written as they were read."""
    records, events = [], []
    for line in data.split(b"\n"):
        try:
            record = parse_line(line)
        except ValueError:
            continue
        assert parse_line(make_line(record)) == record
        if not misfit(record):
            records.append(record)
        if (event := parse_event(line)) is not None:
            events.append(event)
    scores = scores_of(records, "valid", "d1")
    best_of(scores), has_stalled(scores), fell_to_chance(scores), known_files(records, "valid", "d1")
    table(records).encode()
    points = history_of(events).points
    assert all(math.isfinite(value) for point in points for value in point.values.values())
