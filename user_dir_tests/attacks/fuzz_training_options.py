"""Options of a training, as JSON from ``group.name`` to a value: each is refused by its name, or can go on."""

import json
from types import SimpleNamespace
from typing import Any

from fairseq_cloze import register
from fairseq_cloze.errors import ClozeError

register()

from fairseq.dataclass.configs import (  # noqa: E402
    CheckpointConfig,
    CommonConfig,
    DatasetConfig,
    DistributedTrainingConfig,
    EMAConfig,
    OptimizationConfig,
)

from fairseq_cloze.plugin.options import RANGES, refuse_contradictions, without_effect  # noqa: E402

GROUPS = {
    "common": CommonConfig,
    "dataset": DatasetConfig,
    "distributed_training": DistributedTrainingConfig,
    "optimization": OptimizationConfig,
    "checkpoint": CheckpointConfig,
    "ema": EMAConfig,
}


def _configuration() -> Any:
    parts = {name: SimpleNamespace(**vars(kind())) for name, kind in GROUPS.items()}
    names = {"optimizer": "adam", "lr_scheduler": "fixed", "criterion": "cloze_ranking", "model": "cloze_roberta"}
    parts.update({part: SimpleNamespace(_name=name) for part, name in {**names, "task": "cloze_ranking"}.items()})
    parts["optimizer"].adam_betas = "(0.9, 0.98)"
    parts["optimization"].lr = [1e-5]
    parts["dataset"].max_tokens, parts["dataset"].batch_size = 1024, None
    return SimpleNamespace(**parts, bpe=None, tokenizer=None, scoring=SimpleNamespace(_name="bleu"))


def seeds() -> list[bytes]:
    chosen = {"checkpoint.best_checkpoint_metric": "mrr", "checkpoint.maximize_best_checkpoint_metric": True}
    others = {"optimizer.adam_betas": "(0.5, 0.9)", "checkpoint.optimizer_overrides": "{}", "optimizer._name": "sgd"}
    return [json.dumps(part).encode() for part in (chosen, others, dict.fromkeys(RANGES, 1))]


def attack(data: bytes) -> None:
    try:
        changed = json.loads(data)
    except (ValueError, RecursionError):
        return
    cfg = _configuration()
    for option, value in changed.items() if isinstance(changed, dict) else ():
        group, _, name = option.partition(".")
        part = getattr(cfg, group, None) if group.isidentifier() else None
        # fairseq's own parser holds types: numbers stay numbers, and text stays text
        if hasattr(part, name) and isinstance(value, type(getattr(part, name))):
            setattr(part, name, value)
    try:
        refuse_contradictions(cfg)
    except ClozeError as error:
        assert str(error).startswith("--")
        return
    assert all(option and why for option, why in without_effect(cfg))
