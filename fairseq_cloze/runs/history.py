"""History: what the log of a training says, in figures.

fairseq writes a line per ``--log-interval`` updates, per epoch and per validation, in one of three formats
(``--log-format json``, ``simple`` and, on a terminal, ``tqdm``), and with hydra another prefix stands before each.  All
are read, line by line, so that a log can be followed while it grows.  Whatever else stands there is passed over.
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike

#: Tags of training lines; every other tag is the name of a validation subset.
TRAIN_TAGS = ("train_inner", "train")

# "2026-11-24 03:12:00 | INFO | train_inner | TEXT" and, of hydra, "[2026-11-24 03:12:00,123][train_inner][INFO] - TEXT"
_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]+ \| (?P<name>[^|]+) \| (?P<text>.*)"
    r"|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\]\[(?P<name2>[^\]]+)\]\[[A-Z]+\] - (?P<text2>.*)"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SIMPLE = re.compile(r"epoch (?P<epoch>\d+)(?P<rest> \| .*|:\s+(?P<done>\d+) / (?P<size>\d+) .*)")
_SUBSET = re.compile(r" \| valid on '([^']*)' subset")
_HEADER = re.compile(r"# ([a-z][a-z ]{1,30}): (.*)")
_CHANCE = re.compile(r"updates \d+ to \d+ are at chance: ")
_LONGEST = 1 << 20  # characters of a line that is worth reading


@dataclass(frozen=True)
class Point:
    """The figures of one line.

    Attributes:
        tag: ``train_inner``, ``train``, or the name of a validation subset
        update: number of updates done
        epoch: epochs done, a fraction within an epoch
        values: figures by fairseq's names without the subset's prefix; accuracies in percent, NaN left out
    """

    tag: str
    update: int
    epoch: float
    values: dict[str, float]


@dataclass(frozen=True)
class ChanceLine:
    """The chance watch spoke."""

    text: str


@dataclass
class History:
    """What was read of one log.

    Attributes:
        points: all figures, in the order of the log
        config: fairseq's configuration as it was printed, by group and name; empty where it was not
        header: what ``fairseq-cloze run`` wrote above and below the output, by name
        chance: texts of the chance watch, with their causes
        ended: fairseq said that training was done
    """

    points: list[Point] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    chance: list[str] = field(default_factory=list)
    ended: bool = False

    def subsets(self) -> list[str]:
        """Validation subsets, in order of appearance."""
        return [tag for tag in dict.fromkeys(point.tag for point in self.points) if tag not in TRAIN_TAGS]

    def of(self, tag: str) -> list[Point]:
        """Points of a tag by update; of several for one update, as a resumed run has them, the last."""
        latest = {point.update: point for point in self.points if point.tag == tag}
        return [latest[update] for update in sorted(latest)]

    def best(self, subset: str | None = None, metric: str = "accuracy") -> Point | None:
        """The validation with the highest value, the earliest of equals; of the first subset where none is named."""
        subsets = self.subsets()
        name = subset if subset is not None else subsets[0] if subsets else ""
        found = [point for point in self.of(name) if metric in point.values]
        return max(found, key=lambda point: point.values[metric], default=None)

    def setting(self, group: str, name: str) -> Any:
        """A value of the configuration; ``None`` where it is not known."""
        part = self.config.get(group)
        return part.get(name) if isinstance(part, dict) else None


class LogReader:
    """Reads a log line by line.

    Attributes:
        history: what was read so far
    """

    def __init__(self) -> None:
        self.history = History()
        self._chance_goes_on = False

    def feed(self, line: str) -> Point | ChanceLine | None:
        """Read one line; what it says, if that is a figure or a word of the chance watch."""
        line = line.rstrip("\r\n")
        if "\r" in line or "\x1b" in line:  # a progress bar stood there before
            line = _ESCAPES.sub("", line.rsplit("\r", 1)[-1])
        going_on, self._chance_goes_on = self._chance_goes_on, False
        if len(line) > _LONGEST:
            return None
        if line.startswith("# "):
            header = _HEADER.fullmatch(line)
            if header:
                self.history.header[header[1]] = header[2]
            return None
        match = _LINE.match(line) if line[:1] in "[0123456789" and line else None
        if match is None:
            if going_on and line.startswith("  "):
                self.history.chance[-1] += "\n" + line
                self._chance_goes_on = True
            return None
        name, text = (match["name"] or match["name2"]).strip(), match["text"] or match["text2"] or ""
        if name.startswith("fairseq"):
            return self._message(name, text)
        point = _read_json(name, text) if text.startswith("{") else _read_simple(name, text)
        if point is not None:
            self.history.points.append(point)
        return point

    def _message(self, name: str, text: str) -> ChanceLine | None:
        history = self.history
        if name.endswith(".train"):
            if text.startswith("{") and not history.config:
                history.config = _read_config(text)
            history.ended = history.ended or text.startswith("done training in ")
        if _CHANCE.match(text):
            history.chance.append(text)
            self._chance_goes_on = True
            return ChanceLine(text)
        return None


def read_history(*paths: PathLike) -> History:
    """Read a log, or as one those of a training that was interrupted and resumed.

    Raises:
        ClozeError: one cannot be read
    """
    reader = LogReader()
    for path in map(Path, paths):
        try:
            with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    reader.feed(line)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ClozeError(f"{path}: expected a log, cannot be read ({reason}); check the path") from error
    return reader.history


# -- lines -----------------------------------------------------------------------------------------------------------


def _read_json(tag: str, text: str) -> Point | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    prefix = f"{tag}_"
    figures = {key[len(prefix) :] if key.startswith(prefix) else key: value for key, value in values.items()}
    epoch = figures.pop("epoch", None)
    return _point(tag, epoch if tag != "train_inner" else figures.get("update", epoch), list(figures.items()))


def _read_simple(tag: str, text: str) -> Point | None:
    match = _SIMPLE.match(text)
    if match is None:
        return None
    epoch = float(match["epoch"])
    if match["done"]:
        epoch += int(match["done"]) / max(int(match["size"]), 1) - 1
        pairs = [pair.split("=", 1) for pair in match["rest"].split(" / ", 1)[1].split(" ", 1)[1].split(", ")]
    else:
        pairs = [pair.rsplit(" ", 1) for pair in _SUBSET.sub("", match["rest"]).strip(" |").split(" | ")]
    return _point(tag, epoch, [(pair[0], pair[1]) for pair in pairs if len(pair) == 2])


def _point(tag: str, epoch: Any, pairs: list[tuple[str, Any]]) -> Point | None:
    values = {name: number for name, number in ((name, _number(value)) for name, value in pairs) if number is not None}
    update = values.pop("num_updates", None)
    at = _number(epoch)
    if update is None or "loss" not in values:
        return None
    values.pop("update", None)
    return Point(tag, int(update), 0.0 if at is None else at, values)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# -- the configuration -----------------------------------------------------------------------------------------------


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
