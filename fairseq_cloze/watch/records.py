"""Validation: what a watch found out about the checkpoints of a save-dir, as lines, a table and a picture.

``validation.jsonl`` is only ever appended to, a line for every checkpoint scored or given up; all else is made from it.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import printable
from ..files import PathLike, cannot_write, write_text
from ..runs.drawing import curves_png
from ..runs.lines import LineWriter, read_lines
from ..statistics import chance_interval
from .capture import Key

RECORDS = "validation.jsonl"
TABLE = "validation.txt"
PICTURE = "validation.png"

#: A run stalls when so many checkpoints in a row bring no new best, and is at chance when so many are not above it.
STALL, AT_CHANCE = 10, 3

Record = dict[str, Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53  # which a page's script can hold, too


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is int for name in _FILE)


_FILE = ("inode", "size", "mtime_ns")
_PERCENT = "a number from 0 to 100", lambda value: _is_number(value) and 0 <= value <= 100
#: What the fields of a line hold, in words and as a test.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("checkpoint", "split", "data", "data_bin", "content", "error"), ("a text", _is_text)),
    **dict.fromkeys(("accuracy", "chance", "accuracy_one_token", "accuracy_multi_token"), _PERCENT),
    **dict.fromkeys(("epoch", "updates"), ("a whole number", _is_count)),
    "n_blanks": ("a whole number above 0", lambda value: _is_count(value) and value > 0),
    "mrr": ("a number", _is_number),
    "aliases": ("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value))),
    "file": (", ".join(_FILE), _is_file),
}
#: Fields that a score has at least.
_SCORE = ("checkpoint", "split", "data_bin", "accuracy", "chance", "n_blanks")


def misfit(record: Record) -> str:
    """What is wrong with a line, in words; empty where nothing is."""
    needed = ("checkpoint", "error") if record.get("accuracy") is None and "error" in record else _SCORE
    for name, (expected, fits) in _FIELDS.items():
        value = record.get(name)
        if name in needed if value is None else not fits(value):
            return f"expected '{name}', {expected}, found {'none' if value is None else repr(value)[:40]}"
    return ""


def read_validation(path: PathLike, say: Callable[[str], Any] = warnings.warn) -> list[Record]:
    """Lines of a ``validation.jsonl``; *say* takes a sentence for each that is damaged.

    Raises:
        ClozeError: it cannot be read
    """
    return read_lines(path, say, misfit)


def append_record(path: Path, record: Record) -> None:
    """Add a line at once, which is then on the disk.

    Raises:
        ClozeError: it cannot be written
    """
    try:
        with LineWriter(path, sync=True) as writer:
            writer.write(record)
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
        name = max([len("checkpoint"), *(len(printable(score["checkpoint"])) for score in scores)])
        lines = [
            f"{printable(last['split'])} of {printable(last['data_bin'])}: {last['n_blanks']:,} blanks, "
            f"chance {last['chance']:.2f}%",
            f"{'checkpoint':{name}}" + "".join(f"{title:>{width}}" for title, _, width, _ in _COLUMNS),
        ]
        for score in sorted(scores, key=_by_updates):
            cells = [f"{printable(score['checkpoint']):{name}}"]
            for _, key, width, digits in _COLUMNS:
                value = score.get(key)
                cells.append(f"{'-':>{width}}" if value is None else f"{value:{width},.{digits}f}")
            lines.append("".join(cells) + ("  best" if score is best else ""))
        parts.append("\n".join(lines) + "\n")
    errors = [record for record in records if record.get("error")]
    if errors:
        lines = [f"{printable(record['checkpoint'])}: {printable(record['error'])}\n" for record in errors]
        parts.append(f"given up:\n{''.join(lines)}")
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
            curves[printable(scores[0]["split"])] = points
    return curves_png(curves, chance, printable(title)) if curves else None


def write_table(folder: Path, records: Sequence[Record]) -> None:
    """Write the table beside its lines."""
    write_text(folder / TABLE, table(records))


def file_of(key: Key | None) -> dict[str, int]:
    """What tells files apart without reading them, for a line."""
    return dict(zip(_FILE, key or ()))
