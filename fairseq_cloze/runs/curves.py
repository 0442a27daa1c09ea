"""Curves: the figures of a training over its updates, made from its events."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .events import TrainingEvent

MOST_UPDATES = 1 << 53  #: no run has as many, and every reader of JSON can tell smaller numbers apart
_LARGEST = 1e100  # of a figure; sums of larger ones need not be finite


@dataclass(frozen=True)
class Point:
    """Figures at one moment."""

    update: int  #: number of updates done
    epoch: float  #: its number, counted from 1; a fraction within it where a log of fairseq says so
    values: dict[str, float]  #: by fairseq's names; accuracies in percent, what is no number left out


@dataclass(frozen=True)
class ChanceNotice:
    """What the chance watch said: a sentence, likely causes with the best evidence first, and what is proved."""

    update: int
    text: str
    causes: list[str]
    proved: list[str]


@dataclass
class History:
    """What a training told of itself.  Points of a list have rising updates."""

    updates: list[Point] = field(default_factory=list)  #: since the point before, one every ``--log-interval`` updates
    epochs: list[Point] = field(default_factory=list)  #: of the epoch so far, at its end
    validations: dict[str, list[Point]] = field(default_factory=dict)  #: by subset, in order of appearance
    chance: list[ChanceNotice] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  #: fairseq's configuration by group and name, where known
    folder: str = ""  #: where the training was started, where known

    @property
    def points(self) -> list[Point]:
        """All of them."""
        return [*self.updates, *self.epochs, *(point for points in self.validations.values() for point in points)]

    def curve(self, metric: str, subset: str | None = None) -> list[tuple[int, float]]:
        """Updates and values of a metric, in a validation subset or else in training, there by epoch if need be."""
        for points in (self.updates, self.epochs) if subset is None else (self.validations.get(subset, []),):
            found = [(point.update, point.values[metric]) for point in points if metric in point.values]
            if found:
                return found
        return []

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """Those of training and of each validation subset, as far as there are any."""
        found = {"training": self.curve(metric), **{name: self.curve(metric, name) for name in self.validations}}
        return {name: curve for name, curve in found.items() if curve}

    def best(self, subset: str) -> Point | None:
        """The validation with the highest accuracy, the earliest of equals."""
        found = [point for point in self.validations.get(subset, []) if "accuracy" in point.values]
        return max(found, key=lambda point: point.values["accuracy"], default=None)

    def setting(self, group: str, name: str) -> Any:
        """A value of the configuration; ``None`` where it is not known."""
        part = self.settings.get(group)
        return part.get(name) if isinstance(part, dict) else None

    def add(self, event: TrainingEvent) -> None:
        """Take in an event; kinds and fields that are not known are passed over."""
        update = event.get("update")
        if not isinstance(update, int) or not 0 <= update < MOST_UPDATES:
            return
        match event["type"]:
            case "started" | "resumed":
                self._go_back(update)
                settings, folder = event.get("settings"), event.get("folder")
                self.settings = settings if isinstance(settings, dict) else {}
                self.folder = folder if isinstance(folder, str) else ""
            case "update":
                add_point(self.updates, _point(update, event))
            case "epoch":
                add_point(self.epochs, _point(update, event))
            case "validation" if isinstance(event.get("subset"), str):
                add_point(self.validations.setdefault(event["subset"], []), _point(update, event))
            case "chance":
                texts = _texts(event.get("causes")), _texts(event.get("proved"))
                self.chance.append(ChanceNotice(update, str(event.get("text", "")), *texts))

    def _go_back(self, update: int) -> None:
        """The training goes on behind an update; what it had done beyond that does not count."""
        for points in (self.updates, self.epochs, *self.validations.values()):
            _cut(points, update)
        self.validations = {subset: points for subset, points in self.validations.items() if points}
        self.chance = [notice for notice in self.chance if notice.update <= update]


def history_of(events: Iterable[TrainingEvent]) -> History:
    """What events say together."""
    history = History()
    for event in events:
        history.add(event)
    return history


def add_point(points: list[Point], point: Point) -> None:
    """Add a point; those from its update on are of a training that was resumed before them."""
    _cut(points, point.update - 1)
    points.append(point)


def _cut(points: list[Point], update: int) -> None:
    while points and points[-1].update > update:
        points.pop()


def _point(update: int, event: TrainingEvent) -> Point:
    # Names are shared: a training of days has many points.
    found = {sys.intern(name): number for name, value in event.items() if (number := finite(value)) is not None}
    epoch = found.pop("epoch", 0.0)
    found.pop("update", None)
    return Point(update, epoch, found)


def finite(value: Any) -> float | None:
    """A value of a file from anywhere as a finite number, where it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -_LARGEST <= value <= _LARGEST else None


def _texts(entries: Any) -> list[str]:
    found = entries if isinstance(entries, list) else []
    return [str(entry.get("text", "") if isinstance(entry, dict) else entry) for entry in found]
