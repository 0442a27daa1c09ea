"""Saving: checkpoints that this project writes itself, without a training."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.encoding import DEFAULT_ENCODING
from ..data.vocabulary import Vocabulary
from ..files import PathLike, cannot_write, replacing
from ..model.architecture import Architecture
from ..views.settings import Settings
from .carried import carried_state
from .reading import State

#: Name of the weights in a folder of pretrained weights, as fairseq's releases have it.
MODEL_FILE = "model.pt"

#: Of a checkpoint that no optimiser belongs to.
FRESH = {
    "last_optimizer_state": None,
    "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
}


def pretrained_state(
    weights: Mapping[str, Tensor], architecture: Architecture, vocabulary: Vocabulary, options: Mapping[str, Any] = {}
) -> State:
    """A checkpoint as fairseq's own RoBERTa releases are: options in a namespace, masked LM as task and criterion.

    Weights and *options*, those of the model beside its shape, have fairseq's names; the vocabulary is carried along.
    """
    args = Namespace(
        arch="roberta_large" if architecture.encoder_layers == 24 else "roberta_base",
        task="masked_lm",
        criterion="masked_lm",
        data="",
        tokens_per_sample=architecture.max_positions,
        sample_break_mode="complete",
        encoder_learned_pos=True,
        encoder_normalize_before=False,
        **{"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "pooler_dropout": 0.0, **options},
        **vars(architecture),
    )
    classes = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam"}
    return {
        "args": args,
        "model": dict(weights),
        "optimizer_history": [{**classes, "lr_scheduler_state": {}, "num_updates": 0}],
        **FRESH,
        "task_state": carried_state(vocabulary, DEFAULT_ENCODING, Settings()),
    }


def save_state(state: State, path: PathLike) -> None:
    """Write a checkpoint, whole or not at all; ``ClozeError`` where it cannot be written."""
    try:
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise cannot_write(Path(path), str(error).strip().splitlines()[0]) from error
