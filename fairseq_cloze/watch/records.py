"""Validation: what a watch found out about the checkpoints of a save-dir, as lines, a table and a picture.

``validation.jsonl`` is only ever appended to, a line for every checkpoint scored or given up; all else is made from it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..data.databin import DataBin
from ..data.encoding import COLUMNS
from ..data.store import OFFSETS
from ..errors import ClozeError
from ..files import cannot_write, write_text
from ..runs.drawing import curves_png
from ..runs.events import append_line, read_objects
from ..statistics import chance_interval
from .capture import Key

RECORDS = "validation.jsonl"
TABLE = "validation.txt"
PICTURE = "validation.png"

#: A run stalls when so many checkpoints in a row bring no new best, and is at chance when so many are not above it.
STALL, AT_CHANCE = 10, 3

Record = dict[str, Any]

#: Lines of a ``validation.jsonl``; see :func:`fairseq_cloze.runs.events.read_objects`.
read_validation = read_objects


def append_record(path: Path, record: Record) -> None:
    """Add a line at once; a torn line before it, of a crash, stays alone.

    Raises:
        ClozeError: it cannot be written
    """
    try:
        with open(path, "ab+", buffering=0) as file:
            append_line(file.fileno(), json.dumps(record, ensure_ascii=False).encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def scores_of(records: Iterable[Record], split: str, data: str) -> list[Record]:
    """Lines with an accuracy on a split, whose passages have a digest, in the order they were scored."""
    of_split = [record for record in records if record.get("split") == split and record.get("data") == data]
    return [record for record in of_split if record.get("accuracy") is not None]


def best_of(scores: Sequence[Record]) -> Record | None:
    """The line with the highest accuracy, the earliest of equals."""
    return max(scores, key=lambda record: float(record["accuracy"]), default=None)


def known_files(records: Iterable[Record], split: str, data: str) -> dict[Key, str | None]:
    """Contents of files that were scored, ``None`` for those that could not be read, by what tells files apart."""
    known: dict[Key, str | None] = {}
    for record in records:
        file, content = record.get("file"), record.get("content")
        if file and record.get("split") == split and record.get("data") == data:
            if content is None or record.get("accuracy") is not None:
                known[file["inode"], file["size"], file["mtime_ns"]] = content
    return known


def has_stalled(scores: Sequence[Record]) -> bool:
    """Whether the last line is the one that makes a stall: :data:`STALL` without a new best, once per stall."""
    best = best_of(scores)
    return best is not None and len(scores) - 1 - next(n for n, s in enumerate(scores) if s is best) == STALL


def fell_to_chance(scores: Sequence[Record]) -> bool:
    """Whether the last line makes it :data:`AT_CHANCE` in a row at chance, once per row."""
    at_chance = [s["accuracy"] <= chance_interval(s["chance"], s["n_blanks"])[1] for s in scores[-AT_CHANCE - 1 :]]
    row = [True] * AT_CHANCE
    return at_chance in (row, [False, *row])


def table(records: Sequence[Record]) -> str:
    """Everything scored, by split and by the number of updates, and what was given up."""
    parts = []
    for scores in _groups(records):
        best, last = best_of(scores), scores[-1]
        name = max([len("checkpoint"), *(len(score["checkpoint"]) for score in scores)])
        lines = [
            f"{last['split']} of {last['data_bin']}: {last['n_blanks']:,} blanks, chance {last['chance']:.2f}%",
            f"{'checkpoint':{name}}" + "".join(f"{title:>{width}}" for title, _, width, _ in _COLUMNS),
        ]
        for score in sorted(scores, key=_by_updates):
            cells = [f"{score['checkpoint']:{name}}"]
            for _, key, width, digits in _COLUMNS:
                value = score.get(key)
                cells.append(f"{'-':>{width}}" if value is None else f"{value:{width},.{digits}f}")
            lines.append("".join(cells) + ("  best" if score is best else ""))
        parts.append("\n".join(lines) + "\n")
    errors = [record for record in records if record.get("error")]
    if errors:
        parts.append("given up:\n" + "".join(f"{record['checkpoint']}: {record['error']}\n" for record in errors))
    return "\n".join(parts)


_COLUMNS = (
    ("epoch", "epoch", 7, 0),
    ("updates", "updates", 10, 0),
    ("accuracy %", "accuracy", 12, 2),
    ("one token", "accuracy_one_token", 11, 2),
    ("several", "accuracy_multi_token", 9, 2),
    ("MRR", "mrr", 8, 4),
)


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Scores by split and passages."""
    groups: dict[tuple[str, str | None], list[Record]] = {}
    for record in records:
        if record.get("accuracy") is not None:
            groups.setdefault((record["split"], record.get("data")), []).append(record)
    return list(groups.values())


def _by_updates(score: Record) -> int:
    return -1 if score.get("updates") is None else int(score["updates"])


def draw(records: Sequence[Record], title: str) -> bytes | None:
    """Accuracy over updates as a PNG; ``None`` where no score has a number of updates."""
    curves, chance = {}, None
    for group in _groups(records):  # a later data-bin's curve replaces an earlier one's
        scores = [score for score in group if score.get("updates") is not None]
        if scores:
            chance = scores[-1]["chance"]
            points = [(float(score["updates"]), float(score["accuracy"])) for score in sorted(scores, key=_by_updates)]
            curves[scores[0]["split"]] = points
    return curves_png(curves, chance, title) if curves else None


def write_table(folder: Path) -> list[Record]:
    """Write the table beside its lines, and return these."""
    records = read_validation(folder / RECORDS)
    write_text(folder / TABLE, table(records))
    return records


def data_digest(data: DataBin, split: str) -> str:
    """SHA-256 of a split's passages and the vocabulary they are encoded with, hexadecimal.

    Raises:
        ClozeError: no such split, or no labelled blank in it
    """
    store = data.open(split)
    if not (store.columns["gold"] >= 0).any():
        raise ClozeError(f"split '{split}' of {data.folder}: expected labelled blanks, found none; name another split")
    found = hashlib.sha256(json.dumps(data.manifest["vocabulary"], sort_keys=True).encode())
    for name in sorted(COLUMNS):  # as files are called, so that digests of earlier versions hold
        column = store.columns[OFFSETS.get(name, name)]
        found.update(f"\n{name} {column.dtype.name} {len(column)}\n".encode())
        found.update(column.data)
    return found.hexdigest()


def file_of(key: Key) -> dict[str, int]:
    """What tells files apart without reading them, for a line."""
    return dict(zip(("inode", "size", "mtime_ns"), key))
