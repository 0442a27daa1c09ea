"""Validation: what a watch found out about the checkpoints of a save-dir, as lines, a table and a picture.

``validation.jsonl`` is the memory of a watch: a line for every scored checkpoint and for every one that was given up,
only ever appended to.  Everything else is made from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..data.encoding import COLUMNS
from ..data.store import OFFSETS
from ..errors import ClozeError
from ..files import PathLike, cannot_write, write_text
from ..runs.events import is_torn
from ..statistics import chance_interval
from .capture import Key

RECORDS = "validation.jsonl"
TABLE = "validation.txt"
PICTURE = "validation.png"

#: A run stalls when so many checkpoints in a row bring no new best ...
STALL = 10

#: ... and is at chance when so many in a row are not above the range of guessing.
AT_CHANCE = 3

Record = dict[str, Any]


def read_validation(path: PathLike) -> list[Record]:
    """Lines of a ``validation.jsonl``; those that are torn are passed over, a missing file has none.

    Raises:
        ClozeError: it cannot be read
    """
    records = []
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def append_record(path: Path, record: Record) -> None:
    """Add a line at once; a torn line before it, of a crash, stays alone.

    Raises:
        ClozeError: it cannot be written
    """
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    try:
        with open(path, "ab+", buffering=0) as file:
            file.write(b"\n" * is_torn(file.fileno()) + line)
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def scores_of(records: Iterable[Record], split: str, data: str | None = None) -> list[Record]:
    """Lines with an accuracy on a split, in the order they were scored.

    Args:
        records: what :func:`read_validation` returned
        split: name of the split
        data: digest of its passages, see :func:`data_digest`; any where it is not given
    """
    return [
        record
        for record in records
        if record.get("accuracy") is not None and record.get("split") == split and data in (None, record.get("data"))
    ]


def best_of(scores: Sequence[Record]) -> Record | None:
    """The line with the highest accuracy, the earliest of equals."""
    return max(scores, key=lambda record: float(record["accuracy"]), default=None)


def known_files(records: Iterable[Record], split: str, data: str) -> dict[Key, str | None]:
    """Contents of files that were scored, ``None`` for those that could not be read, by what tells files apart."""
    known: dict[Key, str | None] = {}
    for record in records:
        file = record.get("file")
        if file and record.get("split") == split and record.get("data") == data:
            key = (file["inode"], file["size"], file["mtime_ns"])
            if record.get("accuracy") is not None:
                known[key] = record["content"]
            elif record.get("content") is None:
                known[key] = None
    return known


# -- judgements ------------------------------------------------------------------------------------------------------


def has_stalled(scores: Sequence[Record]) -> bool:
    """Whether the last line is the one that makes a stall: :data:`STALL` without a new best, once per stall."""
    best = best_of(scores)
    return best is not None and len(scores) - 1 - next(n for n, s in enumerate(scores) if s is best) == STALL


def fell_to_chance(scores: Sequence[Record]) -> bool:
    """Whether the last line makes it :data:`AT_CHANCE` in a row at chance, once per row."""
    row = 0
    for score in reversed(scores):
        if not is_at_chance(score):
            break
        row += 1
    return row == AT_CHANCE


def is_at_chance(score: Record) -> bool:
    """Whether guessing may be as good."""
    return bool(score["accuracy"] <= chance_interval(score["chance"], score["n_blanks"])[1])


# -- table and picture -----------------------------------------------------------------------------------------------


def table(records: Sequence[Record]) -> str:
    """Everything scored, by split and by the number of updates, and what was given up."""
    parts = []
    for split, data in _groups(records):
        scores = scores_of(records, split, data)
        best = best_of(scores)
        name = max([len("checkpoint"), *(len(score["checkpoint"]) for score in scores)])
        last = scores[-1]
        lines = [
            f"{split} of {last['data_bin']}: {last['n_blanks']:,} blanks, chance {last['chance']:.2f}%",
            f"{'checkpoint':{name}}" + "".join(f"{title:>{width}}" for title, _, width, _ in _COLUMNS),
        ]
        for score in sorted(scores, key=_by_updates):
            cells = [f"{score['checkpoint']:{name}}"]
            cells += [_cell(score.get(key), width, digits) for _, key, width, digits in _COLUMNS]
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


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width},.{digits}f}"


def _groups(records: Sequence[Record]) -> list[tuple[str, str | None]]:
    return list(dict.fromkeys((r["split"], r.get("data")) for r in records if r.get("accuracy") is not None))


def _by_updates(score: Record) -> int:
    return -1 if score.get("updates") is None else int(score["updates"])


def draw(records: Sequence[Record], title: str) -> bytes | None:
    """Accuracy over updates as a PNG; ``None`` where no score has a number of updates."""
    from ..runs.drawing import curves_png

    curves = {}
    chance = None
    for split, data in _groups(records):  # a later data-bin's curve replaces an earlier one's
        scores = [score for score in scores_of(records, split, data) if score.get("updates") is not None]
        if scores:
            curves[split] = [(float(s["updates"]), float(s["accuracy"])) for s in sorted(scores, key=_by_updates)]
            chance = scores[-1]["chance"]
    return curves_png(curves, chance, None, title) if curves else None


def write_table(folder: Path) -> list[Record]:
    """Write the table beside its lines, and return these.

    Raises:
        ClozeError: it cannot be written
    """
    records = read_validation(folder / RECORDS)
    write_text(folder / TABLE, table(records))
    return records


# -- what lines are about ---------------------------------------------------------------------------------------------


def data_digest(data: Any, split: str) -> str:
    """SHA-256 of a split's passages and the vocabulary they are encoded with, hexadecimal.

    Args:
        data: a :class:`fairseq_cloze.data.databin.DataBin`
        split: name of a split

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
        found.update(column)
    return found.hexdigest()


def file_of(key: tuple[int, int, int]) -> dict[str, int]:
    """What tells files apart without reading them, for a line."""
    return dict(zip(("inode", "size", "mtime_ns"), key))
