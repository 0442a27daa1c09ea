"""Logs of fairseq: the figures of trainings that wrote no events, from what they printed.

``--log-format json``, ``simple`` and, on a terminal, ``tqdm`` are read, with hydra's prefix or without; whatever else
stands there is passed over.
"""

import ast
import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike
from ..runs.curves import History, Point, add_point

# "2026-11-24 03:12:00 | INFO | train_inner | TEXT" and, of hydra, "[2026-11-24 03:12:00,123][train_inner][INFO] - TEXT"
_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ \| (?P<name>[^|]+) \| (?P<text>.*)"
    r"|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\]\[(?P<name2>[^\]]+)\]\[[A-Z]+\] - (?P<text2>.*)"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SIMPLE = re.compile(r"epoch (?P<epoch>\d+)(?P<rest> \| .*|:\s+(?P<done>\d+) / (?P<size>\d+) .*)")
_SUBSET = re.compile(r" \| valid on '([^']*)' subset")
_FOLDER = "# folder: "  # in the head of a log of 'fairseq-cloze run'
_LONGEST = 1 << 20  # characters of a line that is worth reading


def read_log(*paths: PathLike) -> History:
    """Read a log, or as one those of a training that was interrupted and resumed.

    Raises:
        ClozeError: one cannot be read
    """
    history = History()
    for path in map(Path, paths):
        try:
            with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                read_lines(lines, history)
        except OSError as error:
            raise ClozeError(
                f"{path}: expected a log, cannot be read ({error.strerror or error}); check the path"
            ) from error
    return history


def read_lines(lines: Iterable[str], history: History) -> None:
    """Add to a history what lines of a log say."""
    for line in lines:
        line = line.rstrip("\r\n")
        if len(line) > _LONGEST:
            continue
        if "\r" in line or "\x1b" in line:  # a progress bar stood there before
            line = _ESCAPES.sub("", line.rsplit("\r", 1)[-1])
        if line.startswith(_FOLDER):
            history.folder = line.removeprefix(_FOLDER)
        match = _LINE.match(line) if line[:1] in "[0123456789" and line else None
        if match is None:
            continue
        name, text = (match["name"] or match["name2"]).strip(), match["text"] or match["text2"] or ""
        if name.startswith("fairseq"):
            if name.endswith(".train") and text.startswith("{") and not history.settings:
                history.settings = _read_config(text)
            continue
        point = _read_json(name, text) if text.startswith("{") else _read_simple(text)
        if point is not None:
            training = {"train_inner": history.updates, "train": history.epochs}
            add_point(training[name] if name in training else history.validations.setdefault(name, []), point)


def _read_json(tag: str, text: str) -> Point | None:
    try:
        figures = {key.removeprefix(f"{tag}_"): value for key, value in json.loads(text).items()}
    except ValueError:
        return None
    epoch = figures.pop("epoch", None)
    return _point(epoch if tag != "train_inner" else figures.get("update", epoch), figures)


def _read_simple(text: str) -> Point | None:
    match = _SIMPLE.match(text)
    if match is None:
        return None
    epoch = float(match["epoch"])
    if match["done"]:
        epoch += int(match["done"]) / max(int(match["size"]), 1) - 1
        pairs = [pair.split("=", 1) for pair in match["rest"].split(" / ", 1)[1].split(" ", 1)[1].split(", ")]
    else:
        pairs = [pair.rsplit(" ", 1) for pair in _SUBSET.sub("", match["rest"]).strip(" |").split(" | ")]
    return _point(epoch, dict(pair for pair in pairs if len(pair) == 2))


def _point(epoch: Any, figures: dict[str, Any]) -> Point | None:
    values = {name: number for name, value in figures.items() if (number := _number(value)) is not None}
    update = values.pop("num_updates", None)
    if update is None or "loss" not in values:
        return None
    values.pop("update", None)
    return Point(int(update), _number(epoch) or 0.0, values)


def _number(value: Any) -> float | None:
    with suppress(TypeError, ValueError):
        return number if math.isfinite(number := float(value)) else None
    return None


def _read_config(text: str) -> dict[str, Any]:
    """fairseq prints its configuration as Python would, and a model's options as ``Namespace(...)`` at times."""
    try:
        config = _plain(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
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
