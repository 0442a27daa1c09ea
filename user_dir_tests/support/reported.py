"""What a report is made of: logs of trainings, predictions by dice, passages full of markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.ranking.answers import PassagePrediction, make_predictions, write_predictions

STAMP = "2026-11-24 03:17:26 | INFO | "
CONFIG = {
    "common": {"log_interval": 2},
    "task": {"view": "joint", "scorer": "mean", "other_blanks": "remove", "contrast": 0.7, "from_scratch": False},
    "model": {"_name": "cloze_roberta", "encoder_layers": 6, "encoder_embed_dim": 768},
    "optimization": {"lr": [1e-05], "update_freq": [4]},
    "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 10},
    "dataset": {"batch_size": 8, "max_tokens": 4096},
    "distributed_training": {"distributed_world_size": 2},
    "checkpoint": {"finetune_from_model": "weights/model.pt"},
    "criterion": {"ranking_loss": "softmax"},
}
#: What a prediction file says of its checkpoint, and of itself.
SOURCE: dict[str, Any] = {
    **{"name": "checkpoint_best.pt", "path": "/runs/a/checkpoint_best.pt", "digest": "0" * 64, "epoch": 1},
    **{"updates": 3, "weight": 1.0, "view": "full", "scorer": "mean", "other_blanks": "mask", "contrast": 0.0},
    "training": CONFIG,
    "logs": ["/runs/a/metrics.jsonl"],
}
ORIGIN: dict[str, Any] = {
    "version": "0.1.0",
    "checkpoints": [SOURCE],
    **{"encoding": {"text_norm": "none", "sentence_case": True, "language": "fr"}, "device": "cuda:0"},
    **{"fp16": True, "bf16": False, "int8": False, "data_bin": "/data/bin", "split": "test"},
}
CHANCE = {
    **{"type": "chance", "update": 4, "epoch": 1, "text": "updates 1 to 4 are at chance: accuracy is 25.0%"},
    "causes": [{"kind": "high_rate", "text": "the learning rate is too high <b>"}, {"kind": "x", "text": "no English"}],
    "proved": ["weights are those of model.pt", "dictionary is the same"],
}


def figures(tag: str, update: int, json_format: bool = True, **values: float) -> str:
    """A line of fairseq's log."""
    values = {**values, "num_updates": update}
    if json_format:
        prefix = "" if tag == "train_inner" else f"{tag}_"
        rest = {f"{prefix}{name}": f"{value:g}" for name, value in values.items()}
        return f"{STAMP}{tag} | {json.dumps({'epoch': 1, 'update': 0.5, **rest})}\n"
    if tag == "train_inner":
        pairs = ", ".join(f"{name}={value:g}" for name, value in values.items())
        return f"{STAMP}{tag} | epoch 001:      {update} / 12 {pairs}\n"
    pairs = " | ".join(f"{name} {value:g}" for name, value in values.items())
    subset = f" | valid on '{tag}' subset" if tag != "train" else ""
    return f"{STAMP}{tag} | epoch 001{subset} | {pairs}\n"


def log_text(json_format: bool = True, best: float = 50.0, config: dict[str, Any] | None = None) -> str:
    text = f"{STAMP}fairseq_cli.train | {config or CONFIG}\n"
    for update in (2, 4):
        text += figures("train_inner", update, json_format, loss=1.5 - update / 10, accuracy=20.0 + update, chance=25)
        text += figures("valid", update, json_format, loss=1.4, accuracy=best - (update == 4), chance=25, n_blanks=400)
    return text + figures("train", 4, json_format, loss=1.25, accuracy=31.5)


def training_events(best: float = 50.0) -> list[dict[str, Any]]:
    """The same training as events."""
    told: list[dict[str, Any]] = [{"type": "started", "update": 0, "epoch": 1, "settings": CONFIG, "folder": "/home"}]
    for update in (2, 4):
        at = {"update": update, "epoch": 1}
        told.append({"type": "update", **at, "loss": 1.5 - update / 10, "accuracy": 20.0 + update, "chance": 25.0})
        values = {"loss": 1.4, "accuracy": best - (update == 4), "chance": 25.0, "n_blanks": 400}
        told.append({"type": "validation", "subset": "valid", **at, **values})
    return [*told, {"type": "epoch", "update": 4, "epoch": 1, "loss": 1.25, "accuracy": 31.5}]


def write_events(path: Path, events: list[dict[str, Any]]) -> None:
    """As a training writes them, with a line that a crash has torn."""
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"type": "upd\n' + "".join(json.dumps(event) + "\n" for event in events))


def answer(data: DataBin, split: str = "valid", seed: int = 1) -> dict[str, PassagePrediction]:
    """Predictions by dice, half of them right."""
    store, rng = data.open(split), np.random.default_rng(seed)
    count = np.diff(store.candidate_offsets)
    p = rng.random((store.blanks, int(count.max()))) * (np.arange(count.max()) < count[:, None])
    gold = np.asarray(store.columns["gold"], dtype=np.int64)
    help_it = rng.random(store.blanks) < 0.5
    p[help_it, gold[help_it]] += 1
    p /= p.sum(axis=1, keepdims=True)
    return make_predictions(store, p.argmax(axis=1), p.astype(np.float32))


def hostile(folder: Path) -> Path:
    """Passages and predictions full of markup."""
    folder.mkdir(parents=True, exist_ok=True)
    article = (
        "A <mask> and _ </script><script>window.hacked=1</script> <img src=x onerror='window.hacked=2'> & _ \u2028."
    )
    options = [["<b>bold</b>", "</script>", "<!--", "plain"], ["&amp;", "]]>", "<script>", "\u2029x"]]
    passage = {"article": article, "options": options, "answers": ["A", "C"], "id": "<i>id</i>"}
    (folder / "passages.jsonl").write_text(json.dumps(passage) + "\n")
    made = {"<i>id</i>": PassagePrediction(["B", "C"], ["A", "C"], [[0.1, 0.7, 0.1, 0.1], [0.2, 0.2, 0.4, 0.2]])}
    write_predictions(folder / "<b>x<b>.json", made)
    return folder
