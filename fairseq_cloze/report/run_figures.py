"""Figures of a report: each run's facts, curves and verdict, ready for JSON."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from ..data.databin import DataBin
from ..runs.curves import MOST_UPDATES, History, finite
from ..secrecy import hide_secrets
from ..statistics import chance_interval, wilson_interval
from ..views.settings import CARRIED
from .answer_figures import JsonObject, count_right, rounded
from .sources import Run

#: A point of a curve: updates done, value.
Curve = list[tuple[int, float]]

_MOST_POINTS = 800  # of a curve, more than a screen has
_SMOOTHED = 40  # points of training from which on their running mean is shown


def run_figures(run: Run, runs: Sequence[Run] = ()) -> JsonObject:
    """Everything about a run, one of *runs*, but its answers; values that are not known are ``None``.

    ``none`` names those that do not exist: weights that were not trained further have no learning rate.
    """
    bests = _best_by_split(run)
    best = next((best for best in bests if best["split"] == "valid"), bests[0] if bests else None)
    found: JsonObject = {
        "label": run.label,
        "files": [str(path) for path in run.files],
        "known": run.trained or bool(run.scores) or run.origin is not None,
        "none": _none(run),
        "sources": _sources(run, runs),
        "format": _data_format(run),
        "model": _model(run),
        "updates": _updates(run),
        "lr": _learning_rate(run),
        "batch": _batch(run),
        "train": _best_train(run),
        "valid": best,
        "others": [other for other in bests if other is not best],
        "curves": _curves(run),
        "notices": _notices(run, best),
        "notes": [*run.notes, *_missing(run)],
    }
    return {name: _without_secrets(value) for name, value in found.items()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _without_secrets(entry) for name, entry in value.items()}
    return hide_secrets(value) if isinstance(value, str) else value


def _none(run: Run) -> list[str]:
    """Figures that there cannot be: answers have no best training, and not all weights were trained further."""
    if run.trained or run.origin is None:
        return []
    trained = any(source.updates for source in run.origin.checkpoints)
    return ["train"] if trained else ["train", "updates", "lr", "batch"]


def _sources(run: Run, runs: Sequence[Run]) -> list[JsonObject]:
    """The checkpoints that a run's figures come from: ``run`` is the number of the RUN that trained it, if any did."""
    folders = {os.path.abspath(other.path): number for number, other in enumerate(runs) if other.trained}
    found = []
    for file in run.prediction_files:
        origin = file.predictions.origin
        if origin is None:
            continue
        for source in origin.checkpoints:
            trained = folders.get(os.path.dirname(source.path)) if source.updates else None
            found.append(
                {
                    "split": file.split,
                    "name": source.name,
                    "path": source.path,
                    "digest": source.digest,
                    "updates": source.updates,
                    "weight": rounded(source.weight),
                    "logs": source.logs,
                    "data": origin.data_bin or ", ".join(origin.inputs),
                    "run": trained if trained is None or runs[trained] is not run else None,
                }
            )
    best = max(run.scores, key=lambda score: score["accuracy"], default=None)
    if best is not None and not found:
        found.append(
            {
                "split": best["split"],
                "name": best["checkpoint"],
                "path": best["checkpoint"],
                "digest": best.get("content") or "",
                "updates": best.get("updates"),
                "weight": 1.0,
                "logs": [],
                "data": best["data_bin"],
                "run": None,
            }
        )
    return found


def _missing(run: Run) -> list[str]:
    """What is not known of a training."""
    if not run.history.points:
        return []
    notes = []
    if not run.history.settings:
        notes.append("Its log has no configuration, which would name data format, model, LR and batch.")
    first = min(point.update for point in run.history.points)
    if first > (finite(run.history.setting("common", "log_interval")) or 100):
        notes.append(
            f"Its figures begin at update {first:,}; what was before stands in an earlier log, which can be given as "
            "another RUN."
        )
    if not run.history.validations and not run.scores:
        notes.append("There was no validation.")
    return notes


def _settings(run: Run) -> History:
    """What configures a run: its training's, or else that of the checkpoint that its answers come from."""
    if run.origin is None:
        return run.history
    return History(settings=run.origin.checkpoints[0].training)


def _data_format(run: Run) -> str | None:
    record: Mapping[str, Any] = run.scores[-1] if run.scores else {}
    if run.origin is not None:
        record = asdict(run.origin.checkpoints[0])
    chosen = {name: run.history.setting("task", name) for name in CARRIED}
    view, scorer, other_blanks, contrast = (
        record.get(name) if value is None else value for name, value in chosen.items()
    )
    encodings = [DataBin(place).encoding.to_dict() for place in run.places[:1]]
    encodings += [run.origin.encoding] if run.origin is not None and not encodings else []
    return _joined(
        view and f"view {view}",
        view == "joint" and scorer and f"scorer {scorer}",
        view == "full" and other_blanks and f"other blanks {other_blanks}",
        view == "joint" and finite(contrast) is not None and f"contrast {contrast:g}",
        *(f"text norm {encoding.get('text_norm')}" for encoding in encodings),
        *(f"language {encoding.get('language')}" for encoding in encodings if encoding.get("language") != "en"),
        *("sentence case" for encoding in encodings if encoding.get("sentence_case")),
    )


def _joined(*parts: Any) -> str | None:
    """What is known of the parts, in a line."""
    return ", ".join(str(part) for part in parts if part) or None


def _model(run: Run) -> str | None:
    setting = _settings(run).setting
    layers, width = setting("model", "encoder_layers"), setting("model", "encoder_embed_dim")
    source = setting("checkpoint", "finetune_from_model")
    start = "random weights at the start" if setting("task", "from_scratch") else source and f"from {source}"
    several = len(run.origin.checkpoints) if run.origin is not None else 1
    average = f"average of {several} checkpoints" if several > 1 else None
    return _joined(average, setting("model", "_name"), layers and width and f"{layers} layers of {width}", start)


def _updates(run: Run) -> int | None:
    updates = [point.update for point in run.history.points]
    updates += [record["updates"] for record in run.scores if isinstance(record.get("updates"), int)]
    if run.origin is not None:
        updates += [source.updates for source in run.origin.checkpoints if source.updates is not None]
    return max(updates, default=None)


def _learning_rate(run: Run) -> str | None:
    setting = _settings(run).setting
    named = setting("optimization", "lr")
    rates = [rate for one in named if (rate := finite(one)) is not None] if isinstance(named, list) else []
    if rates:
        scheduler = str(setting("lr_scheduler", "_name") or "").replace("_", " ")
        warmup = setting("lr_scheduler", "warmup_updates")
        return _joined(" ".join(f"{rate:g}" for rate in rates), scheduler, warmup and f"warm-up {warmup}")
    seen = [point.values["lr"] for point in run.history.points if "lr" in point.values]
    return f"up to {max(seen):g}" if seen else None


def _batch(run: Run) -> str | None:
    setting = _settings(run).setting
    passages, tokens = setting("dataset", "batch_size"), setting("dataset", "max_tokens")
    several, workers = setting("optimization", "update_freq"), setting("distributed_training", "distributed_world_size")
    return _joined(
        passages and f"{passages} passages",
        tokens and (f"{tokens:,} tokens" if isinstance(tokens, int) else f"{tokens} tokens"),
        isinstance(several, list) and several not in ([], [1]) and f"{' '.join(map(str, several))} batches per update",
        isinstance(workers, int) and workers > 1 and f"{workers} workers",
    )


def _best_train(run: Run) -> JsonObject | None:
    points, of = [(p.update, p.values["accuracy"]) for p in run.history.epochs if "accuracy" in p.values], "epoch mean"
    if not points:
        points, of = smoothed(run.history.curve("accuracy")), "running mean"
    update, value = max(points, key=lambda pair: pair[1], default=(0, 0.0))
    return {"accuracy": rounded(value), "update": update, "of": of} if points else None


def _best_by_split(run: Run) -> list[JsonObject]:
    """The best validation of each split: of the log, of the watch, or else what the predictions have right."""
    found: dict[str, JsonObject] = {}

    def take(split: str, accuracy: float, update: int | None, blanks: Any, chance: float | None, of: str) -> None:
        blanks = int(blanks) if blanks is not None and 0 <= blanks < MOST_UPDATES else None
        chance = chance if chance is not None and 0 <= chance <= 100 else None
        low, high = (None, None) if chance is None or not blanks else chance_interval(chance, blanks)
        possible = blanks and 0 <= accuracy <= 100
        interval = wilson_interval(round(accuracy * blanks / 100), blanks) if possible and blanks else None
        found[split] = {"split": split, "accuracy": accuracy, "update": update, "blanks": blanks, "chance": chance,
                        "of": of, "low": low, "high": high,
                        "interval": interval and [rounded(100 * bound) for bound in interval]}  # fmt: skip

    for split in run.history.validations:
        best = run.history.best(split)
        if best is not None:
            values = best.values
            take(split, values["accuracy"], best.update, values.get("n_blanks"), values.get("chance"), "log")
    for score in run.scores:
        split, accuracy = score["split"], score["accuracy"]
        if split not in found or accuracy > found[split]["accuracy"]:
            take(split, accuracy, score.get("updates"), score["n_blanks"], score["chance"], "watch")
    for file in run.prediction_files:
        right, blanks, chance = count_right(file.predictions)
        if (file.split or "predictions") not in found and blanks:
            origin = file.predictions.origin
            updates = origin.checkpoints[0].updates if origin and len(origin.checkpoints) == 1 else None
            take(file.split or "predictions", 100.0 * right / blanks, updates or None, blanks, chance, "predictions")
    return list(found.values())


def _notices(run: Run, best: JsonObject | None) -> list[JsonObject]:
    """What must not be overlooked: a run that does no better than guessing, with the causes that it named."""
    at_chance = best is not None and best["high"] is not None and best["accuracy"] <= best["high"]
    said = run.history.chance[-1] if run.history.chance else None
    text, causes = "", []
    if at_chance and best is not None:
        text = (
            f"No better than guessing: at best {best['accuracy']:.1f}% of {best['blanks']:,} blanks of "
            f"'{best['split']}', where guessing gives {best['low']:.1f} to {best['high']:.1f}% in 95 of 100 cases."
        )
    if said is not None:
        text = f"{text} The training said: {said.text}.".strip()
        causes = [f"{number}. {cause}" for number, cause in enumerate(said.causes, 1)]
        causes += [f"Proved: {'; '.join(said.proved)}"] if said.proved else []
    elif at_chance:
        text += " No causes were named; docs/chance.md has the usual ones."
    return [{"at_chance": at_chance, "text": text, "causes": causes}] if text else []


def _curves(run: Run) -> dict[str, list[JsonObject]]:
    """Curves by metric: ``kind`` is ``train``, ``valid`` (of the log) or ``watch`` (of the watch)."""
    curves: dict[str, list[JsonObject]] = {"loss": [], "accuracy": []}
    for metric, found in curves.items():
        train = run.history.curve(metric)
        found += _curve("train", "training" + ", running mean" * (len(train) > _SMOOTHED), smoothed(train))
        for split in run.history.validations:
            found += _curve("valid", split, run.history.curve(metric, split))
    latest: dict[str, dict[int, float]] = {}
    for score in run.scores:
        if isinstance(score.get("updates"), int):
            latest.setdefault(score["split"], {})[score["updates"]] = score["accuracy"]
    for split, by_update in latest.items():
        curves["accuracy"] += _curve("watch", f"{split}, by watch", sorted(by_update.items()))
    return curves


def smoothed(curve: Curve) -> Curve:
    """A running mean over a twenty-fifth of the points, where there are many of them."""
    if len(curve) <= _SMOOTHED:
        return list(curve)
    reach = len(curve) // 50
    total = [0.0, *accumulate(value for _, value in curve)]
    ends = [(max(n - reach, 0), min(n + reach + 1, len(curve))) for n in range(len(curve))]
    return [(update, (total[end] - total[start]) / (end - start)) for (update, _), (start, end) in zip(curve, ends)]


def _curve(kind: str, name: str, points: Curve) -> list[JsonObject]:
    """A curve in a list, which is empty where it has no points."""
    kept = [*points[:-1][:: math.ceil(len(points) / _MOST_POINTS) or 1], *points[-1:]]
    curve = {"kind": kind, "name": name, "points": [[update, rounded(value)] for update, value in kept]}
    return [curve] if kept else []


def levels(runs: Sequence[JsonObject], histories: Sequence[History]) -> JsonObject:
    """Chance in percent with its interval, and the loss of guessing where all runs have the same; else ``None``."""
    best = [run["valid"] for run in runs if run["valid"] and run["valid"]["chance"] is not None]
    chances = {round(one["chance"], 2) for one in best}
    if len(chances) != 1:
        return {"chance": None, "low": None, "high": None, "loss": None}
    chance = chances.pop()
    ranges = [(one["high"], one["low"]) for one in best if one["high"] is not None]
    high, low = max(ranges, default=(None, None))
    options = 100.0 / chance if chance > 0 else 0.0
    even = options >= 2 and abs(options - round(options)) < 0.02  # every blank has as many
    softmax = all(h.setting("criterion", "ranking_loss") in (None, "softmax") for h in histories)
    loss = rounded(math.log(options)) if softmax and even else None
    return {"chance": chance, "low": low, "high": high, "loss": loss}
