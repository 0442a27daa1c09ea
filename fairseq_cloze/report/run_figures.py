"""Figures of a report: each run's facts, curves and verdict, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..data.databin import MANIFEST, DataBin
from ..runs.curves import History
from ..statistics import chance_interval
from .answer_figures import JsonObject, count_right, rounded
from .sources import Run

#: A point of a curve: updates done, value.
Curve = list[tuple[int, float]]

_MOST_POINTS = 800  # of a curve, more than a screen has
_SMOOTHED = 40  # points of training from which on their running mean is shown


# -- a run -----------------------------------------------------------------------------------------------------------


def run_figures(run: Run) -> JsonObject:
    """Everything about a run but its answers; values that are not known are ``None``."""
    best = _best_valid(run)
    return {
        "label": run.label,
        "files": [str(path) for path in run.files],
        "format": _data_format(run),
        "model": _model(run),
        "updates": _updates(run),
        "lr": _learning_rate(run),
        "batch": _batch(run),
        "train": _best_train(run),
        "valid": best,
        "others": [other for other in _best_by_split(run) if best and other["split"] != best["split"]],
        "curves": _curves(run),
        "notices": _notices(run, best),
        "notes": [*run.notes, *_missing(run)],
    }


def _missing(run: Run) -> list[str]:
    """What is not known of a training."""
    if run.history is None or not run.history.points:
        return []
    notes = []
    if not run.history.settings:
        notes.append("Its log has no configuration, which would name data format, model, LR and batch.")
    first = min(point.update for point in run.history.points)
    if first > (run.history.setting("common", "log_interval") or 100):
        notes.append(
            f"Its figures begin at update {first:,}; what was before stands in an earlier log, which can be given as "
            "another RUN."
        )
    if not run.history.validations and not run.scores:
        notes.append("There was no validation.")
    return notes


def _setting(run: Run, group: str, name: str) -> Any:
    return run.history.setting(group, name) if run.history is not None else None


def _data_format(run: Run) -> str | None:
    record = run.scores[-1] if run.scores else {}
    found = {
        name: _setting(run, "task", name) or record.get(name) for name in ("view", "scorer", "other_blanks", "contrast")
    }
    parts = [f"view {found['view']}"] if found["view"] else []
    if found["view"] == "joint" and found["scorer"]:
        parts.append(f"scorer {found['scorer']}")
    if found["view"] == "full" and found["other_blanks"]:
        parts.append(f"other blanks {found['other_blanks']}")
    if found["view"] == "joint" and isinstance(found["contrast"], (int, float)):
        parts.append(f"contrast {found['contrast']:g}")
    parts += _encoding(run)
    return ", ".join(parts) or None


def _encoding(run: Run) -> list[str]:
    place = next((path for path in run.data_bins if (path / MANIFEST).is_file()), None)
    if place is None:
        return []
    encoding = DataBin(place).encoding
    return [f"text norm {encoding.text_norm}"] + (["sentence case"] if encoding.sentence_case else [])


def _model(run: Run) -> str | None:
    parts = []
    arch = _setting(run, "model", "_name")
    if arch:
        parts.append(str(arch))
    layers, width = _setting(run, "model", "encoder_layers"), _setting(run, "model", "encoder_embed_dim")
    if layers and width:
        parts.append(f"{layers} layers of {width}")
    if _setting(run, "task", "from_scratch"):
        parts.append("random weights at the start")
    elif _setting(run, "checkpoint", "finetune_from_model"):
        parts.append(f"from {_setting(run, 'checkpoint', 'finetune_from_model')}")
    return ", ".join(parts) or None


def _updates(run: Run) -> int | None:
    updates = [point.update for point in run.history.points] if run.history else []
    updates += [record["updates"] for record in run.scores if isinstance(record.get("updates"), int)]
    return max(updates, default=None)


def _learning_rate(run: Run) -> str | None:
    rates = _setting(run, "optimization", "lr")
    if isinstance(rates, list) and rates:
        scheduler = str(_setting(run, "lr_scheduler", "_name") or "").replace("_", " ")
        warmup = _setting(run, "lr_scheduler", "warmup_updates")
        parts = [" ".join(f"{rate:g}" for rate in rates)] + ([scheduler] if scheduler else [])
        return ", ".join(parts + ([f"warm-up {warmup}"] if warmup else []))
    seen = [point.values["lr"] for point in run.history.points if "lr" in point.values] if run.history else []
    return f"up to {max(seen):g}" if seen else None


def _batch(run: Run) -> str | None:
    passages, tokens = _setting(run, "dataset", "batch_size"), _setting(run, "dataset", "max_tokens")
    parts = [f"{passages} passages"] if passages else []
    if tokens:
        parts.append(f"{tokens:,} tokens" if isinstance(tokens, int) else f"{tokens} tokens")
    several = _setting(run, "optimization", "update_freq")
    if isinstance(several, list) and several not in ([], [1]):
        parts.append(f"{' '.join(map(str, several))} batches per update")
    workers = _setting(run, "distributed_training", "distributed_world_size")
    if isinstance(workers, int) and workers > 1:
        parts.append(f"{workers} workers")
    return ", ".join(parts) or None


def _best_train(run: Run) -> JsonObject | None:
    if run.history is None:
        return None
    epochs = [(point.update, point.values["accuracy"]) for point in run.history.epochs if "accuracy" in point.values]
    if epochs:
        update, value = max(epochs, key=lambda pair: pair[1])
        return {"accuracy": rounded(value), "update": update, "of": "epoch mean"}
    smooth = smoothed(run.history.curve("accuracy"))
    if smooth:
        update, value = max(smooth, key=lambda pair: pair[1])
        return {"accuracy": rounded(value), "update": update, "of": "running mean"}
    return None


def _best_by_split(run: Run) -> list[JsonObject]:
    """The best validation of each split: of the log, of the watch, or else what the predictions have right."""
    found: dict[str, JsonObject] = {}
    for split in run.history.validations if run.history else ():
        best = run.history.best(split) if run.history else None
        if best is not None:
            found[split] = {
                "split": split,
                "accuracy": best.values["accuracy"],
                "update": best.update,
                "blanks": int(best.values["n_blanks"]) if "n_blanks" in best.values else None,
                "chance": best.values.get("chance"),
                "of": "log",
            }
    for score in run.scores:
        split = score["split"]
        if split not in found or score["accuracy"] > found[split]["accuracy"]:
            found[split] = {
                "split": split,
                "accuracy": score["accuracy"],
                "update": score.get("updates"),
                "blanks": int(score["n_blanks"]),
                "chance": score["chance"],
                "of": "watch",
            }
    for file in run.prediction_files:
        split = file.split or "predictions"
        right, blanks, chance = count_right(file.predictions)
        if split not in found and blanks:
            found[split] = {
                "split": split,
                "accuracy": 100.0 * right / blanks,
                "update": None,
                "blanks": blanks,
                "chance": chance,
                "of": "predictions",
            }
    return [{**best, **_guessing(best)} for best in found.values()]


def _guessing(best: JsonObject) -> JsonObject:
    if best["chance"] is None or not best["blanks"]:
        return {"low": None, "high": None}
    low, high = chance_interval(best["chance"], best["blanks"])
    return {"low": low, "high": high}


def _best_valid(run: Run) -> JsonObject | None:
    found = _best_by_split(run)
    return next((best for best in found if best["split"] == "valid"), found[0] if found else None)


def _notices(run: Run, best: JsonObject | None) -> list[JsonObject]:
    """What must not be overlooked: a run that does no better than guessing, with the causes that it named."""
    at_chance = best is not None and best["high"] is not None and best["accuracy"] <= best["high"]
    said = run.history.chance[-1] if run.history is not None and run.history.chance else None
    if not at_chance and said is None:
        return []
    causes = []
    text = ""
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
    return [{"at_chance": at_chance, "text": text, "causes": causes}]


# -- curves ----------------------------------------------------------------------------------------------------------


def _curves(run: Run) -> dict[str, list[JsonObject]]:
    """Curves by metric: ``kind`` is ``train``, ``valid`` (of the log) or ``watch`` (of the watch)."""
    curves: dict[str, list[JsonObject]] = {"loss": [], "accuracy": []}
    for metric, found in curves.items():
        if run.history is not None:
            train = run.history.curve(metric)
            if train:
                smooth = len(train) > _SMOOTHED
                found.append(_curve("train", "training, running mean" if smooth else "training", smoothed(train)))
            for split in run.history.validations:
                points = run.history.curve(metric, split)
                if points:
                    found.append(_curve("valid", split, points))
    for split in dict.fromkeys(score["split"] for score in run.scores):
        latest = {
            score["updates"]: score["accuracy"]
            for score in run.scores
            if score["split"] == split and isinstance(score.get("updates"), int)
        }
        if latest:
            curves["accuracy"].append(_curve("watch", f"{split}, by watch", sorted(latest.items())))
    return curves


def smoothed(curve: Curve) -> Curve:
    """A running mean over a twenty-fifth of the points, where there are many of them."""
    if len(curve) <= _SMOOTHED:
        return list(curve)
    reach = len(curve) // 50
    total = [0.0]
    for _, value in curve:
        total.append(total[-1] + value)
    out = []
    for number, (update, _) in enumerate(curve):
        start, end = max(number - reach, 0), min(number + reach + 1, len(curve))
        out.append((update, (total[end] - total[start]) / (end - start)))
    return out


def _curve(kind: str, name: str, points: Sequence[tuple[int, float]]) -> JsonObject:
    step = math.ceil(len(points) / _MOST_POINTS)
    kept = [*points[:-1][::step], points[-1]]
    return {"kind": kind, "name": name, "points": [[update, rounded(value)] for update, value in kept]}


def levels(runs: Sequence[JsonObject], histories: Sequence[History | None]) -> JsonObject:
    """Chance in percent with its interval, and the loss of guessing where all runs have the same; else ``None``."""
    best = [run["valid"] for run in runs if run["valid"] and run["valid"]["chance"] is not None]
    chances = {round(one["chance"], 2) for one in best}
    if len(chances) != 1:
        return {"chance": None, "low": None, "high": None, "loss": None}
    chance = chances.pop()
    widest = max((one for one in best if one["high"] is not None), key=lambda one: one["high"], default=None)
    options = 100.0 / chance if chance > 0 else 0.0
    even = options >= 2 and abs(options - round(options)) < 0.02  # every blank has as many
    softmax = all(h is None or h.setting("criterion", "ranking_loss") in (None, "softmax") for h in histories)
    return {
        "chance": chance,
        "low": widest["low"] if widest else None,
        "high": widest["high"] if widest else None,
        "loss": rounded(math.log(options)) if softmax and even else None,
    }
