"""Passages for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_cloze.passages.passage import UNLABELLED, Passage


def write_passage(path: Path, article: str, options: Sequence[Any], answers: Any = None, **fields: Any) -> Path:
    """Write one passage file."""
    record = {"article": article, "options": list(options), **fields}
    if answers is not None:
        record["answers"] = answers
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    return path


def odd_passages() -> list[Passage]:
    """Differing numbers of options, 'nothing', repeated and multi-word options, blanks at both ends, unlabelled."""
    return [
        Passage(
            "odd",
            "odd",
            "_ he _ to _",
            (("Then", "Now"), ("went", "/", "went", "come back"), ("a", "b", "c")),
            (1, 2, 0),
        ),
        Passage("plain", "plain", "No _ here.", (("one", "thing", "man", "way", "use"),), (UNLABELLED,)),
    ]
