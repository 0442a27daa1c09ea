"""``run.json``, which says who trains into a save-dir."""

from __future__ import annotations

import json

from fairseq_cloze.runs.lock import parse_record


def seeds() -> list[bytes]:
    """What a training writes."""
    record = {"pid": 7, "host": "node7", "started": "2026-11-24T03:12:00+00:00", "command": ["fairseq-train", "\udce9"],
              "logs": ["/logs/a.log"], "data": "/data/bin", "requeued": True}  # fmt: skip
    return [json.dumps(record, indent=1).encode() + b"\n", b"{}", b""]


def attack(data: bytes) -> None:
    """A record is what those who read it take it for."""
    record = parse_record(data)
    assert all(isinstance(record.get(name, ""), str) for name in ("host", "started", "data"))
    assert all(isinstance(entry, str) for name in ("command", "logs") for entry in record.get(name, []))
