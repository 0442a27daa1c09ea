"""Logs of fairseq: the figures of trainings that wrote no events, from what they printed.

``--log-format json``, ``simple`` and ``tqdm`` are read: with hydra's prefix or without, in the file of ``--log-file``,
which has none, with a label that a launcher put before each line, packed or not.  Whatever else stands there is passed
over.
"""

import ast
import bz2
import gzip
import json
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ClozeError
from ..files import PathLike
from ..runs.curves import MOST_UPDATES, History, Point, add_point, finite
from .terminal import without_controls

# "2026-11-24 03:12:00 | INFO | train_inner | TEXT" and, of hydra, "[2026-11-24 03:12:00,123][train_inner][INFO] - TEXT"
_PREFIX = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| (?P<level>[A-Z]+) \| (?P<name>[^|]+) \| "
    r"|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\]\[(?P<name2>[^\]]+)\]\[(?P<level2>[A-Z]+)\] - "
)
_LONGEST_LABEL = 200  # characters before the prefix: "[default0]:", "0: ", a time, a host, a process
_NO_LABEL = re.compile(r"['\"{}]")  # a line that quotes such a line
_NUMBER = r"(\d{1,9})"
_SIMPLE = re.compile(rf"epoch {_NUMBER}:\s+{_NUMBER} / {_NUMBER} (.*)")
_BAR = re.compile(rf"epoch {_NUMBER}:\s+\d+%\|[^|]*\| *{_NUMBER}/{_NUMBER} \[[^,]*,[^,]*, (.*)\]")
_END = re.compile(rf"epoch {_NUMBER} \| (?:valid on '(?P<subset>[^']*)' subset \| )?(?P<pairs>.*)")
_FIGURES, _SETTINGS = b"num_updates", b"'task': "  # what every line has that is of interest
_FOLDER = "# folder: "  # in the head of a log of 'fairseq-cloze run'
_LONGEST = 1 << 20  # bytes of a line that is worth reading
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_log(*paths: PathLike) -> History:
    """Read a log, or as one those of a training that was interrupted and resumed.

    Raises:
        ClozeError: one cannot be read
    """
    history = History()
    for path in map(Path, paths):
        try:
            if path.exists() and not path.is_file():
                raise OSError("it is no file")
            with _OPENERS.get(path.suffix, open)(path, "rb") as file:
                read_lines(_lines(file), history)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ClozeError(f"{path}: expected a log, cannot be read ({reason}); check the path") from error
    return history


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file but those that are too long to be of interest."""
    whole = True
    while piece := file.readline(_LONGEST):
        ended = piece.endswith(b"\n")
        if whole and (ended or len(piece) < _LONGEST):
            yield piece
        whole = ended


def read_lines(lines: Iterable[bytes], history: History) -> None:
    """Add to a history what lines of a log say."""
    for line in lines:
        read_line(line, history)


def read_line(line: bytes, history: History) -> str | None:
    """Add to a history what a line of a log says; returns the subset where that is a validation."""
    if _FIGURES in line:
        *states, text = without_controls(line).decode("utf-8", "replace").strip("\r\n").split("\r")
        for state in (*states, text):
            if bar := _BAR.search(state):
                _add(history, "train_inner", _read_simple(*bar.groups()))
        return _read_figures(text, history)
    if _SETTINGS in line and not history.settings:
        name, text = _split(line.decode("utf-8", "replace").strip("\r\n"))
        if name is None or name.startswith("fairseq") and name.endswith(".train"):
            history.settings = _read_config(text)
    elif line.startswith(_FOLDER.encode()):
        history.folder = line.decode("utf-8", "surrogateescape").removeprefix(_FOLDER).rstrip("\r\n")
    return None


def level_of(line: str) -> str | None:
    """How a line was logged, such as ``INFO``; ``None`` where it does not say so."""
    match = _prefix(line)
    return None if match is None else match["level"] or match["level2"]


def _prefix(line: str) -> re.Match[str] | None:
    match = _PREFIX.search(line)
    if match is None or match.start() > _LONGEST_LABEL or _NO_LABEL.search(line, 0, match.start()):
        return None
    return match


def _split(line: str) -> tuple[str | None, str]:
    """Who logged a line, as far as it says so, and what."""
    match = _prefix(line)
    return (None, line) if match is None else ((match["name"] or match["name2"]).strip(), line[match.end() :])


def _read_figures(line: str, history: History) -> str | None:
    name, text = _split(line)
    if text.startswith("{"):
        figures = _read_json(text)
        name = name or _name_of(figures)
        return _add(history, name, _json_point(name, figures))
    if simple := _SIMPLE.match(text):
        return _add(history, name or "train_inner", _read_simple(*simple.groups()))
    if end := _END.match(text):
        pairs = [pair.rsplit(" ", 1) for pair in end["pairs"].split(" | ")]
        name = name or end["subset"] or "train"
        return _add(history, name, _point(float(end[1]), dict(pair for pair in pairs if len(pair) == 2)))
    return None


def _add(history: History, name: str, point: Point | None) -> str | None:
    if point is None:
        return None
    training = {"train_inner": history.updates, "train": history.epochs}
    add_point(training[name] if name in training else history.validations.setdefault(name, []), point)
    return None if name in training else name


def _read_json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name_of(figures: dict[str, Any]) -> str:
    """Whose figures these are, of which the names begin with it: the file of ``--log-file`` says no more."""
    named = [key.removesuffix("_num_updates") for key in figures if key.endswith("_num_updates")]
    return named[0] if named else "train_inner"


def _json_point(tag: str, figures: dict[str, Any]) -> Point | None:
    figures = {key.removeprefix(f"{tag}_"): value for key, value in figures.items()}
    epoch = figures.pop("epoch", None)
    return _point(epoch if tag != "train_inner" else figures.get("update", epoch), figures)


def _read_simple(epoch: str, done: str, size: str, pairs: str) -> Point | None:
    split = [pair.split("=", 1) for pair in pairs.split(", ")]
    place = float(epoch) + int(done) / max(int(size), 1) - 1
    return _point(place, dict(pair for pair in split if len(pair) == 2))


def _point(epoch: Any, figures: dict[str, Any]) -> Point | None:
    values = {name: number for name, value in figures.items() if (number := _number(value)) is not None}
    update = values.pop("num_updates", None)
    if update is None or not 0 <= update < MOST_UPDATES or "loss" not in values:
        return None
    values.pop("update", None)
    return Point(int(update), _number(epoch) or 0.0, values)


def _number(value: Any) -> float | None:
    with suppress(TypeError, ValueError, OverflowError):
        return finite(float(value))
    return None


def _read_config(text: str) -> dict[str, Any]:
    """fairseq prints its configuration as Python would, and a model's options as ``Namespace(...)`` at times."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is hardly Python
            config = _plain(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}
    return config if isinstance(config, dict) else {}


def _plain(node: ast.AST) -> Any:
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(entry) for entry in node.elts]
    if isinstance(node, ast.Call):
        return {keyword.arg: _plain(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Name) and node.id not in ("inf", "nan"):  # an option that is a choice
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError:  # a number that Python cannot write
        return None
