"""Origin: which checkpoints gave answers, how they scored, and on what; prediction files and results say it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import PathLike
from ..runs.curves import MOST_UPDATES, finite
from ..runs.events import EVENTS_FILE
from ..runs.lock import run_record
from ..secrecy import hide_secrets
from ..version import __version__
from ..views.settings import CARRIED

if TYPE_CHECKING:  # who reads files needs no torch
    from ..weights.checkpoint import Checkpoint
    from .member import Member
    from .resources import Resources

#: Settings of a training that are recorded: fairseq's, by group and name.
_SETTINGS: Mapping[str, Sequence[str]] = {
    "common": ("seed",),
    "task": (*CARRIED, "from_scratch"),
    "model": ("_name", "encoder_layers", "encoder_embed_dim"),
    "criterion": ("_name", "ranking_loss"),
    "optimization": ("lr", "update_freq"),
    "lr_scheduler": ("_name", "warmup_updates"),
    "dataset": ("batch_size", "max_tokens"),
    "distributed_training": ("distributed_world_size",),
    "checkpoint": ("finetune_from_model",),
}
_MOST_INPUTS = 10
_LONGEST = 4096  # text or list of a setting


@dataclass(frozen=True)
class Source:
    """A checkpoint that answers come from."""

    name: str  #: of its file, or of the model on Hugging Face's hub
    path: str  #: its file or folder, from the root on
    digest: str  #: :attr:`fairseq_cloze.weights.checkpoint.Checkpoint.identity`
    epoch: int | None  #: how far its training had come
    updates: int | None
    weight: float  #: its share of the average
    view: str  #: how it scored
    scorer: str
    other_blanks: str
    contrast: float
    training: dict[str, Any] = field(default_factory=dict)  #: settings of its training, by group and name
    logs: list[str] = field(default_factory=list)  #: what its training wrote: ``metrics.jsonl`` and logs


@dataclass(frozen=True)
class Origin:
    """Where answers come from."""

    version: str  #: of this project
    checkpoints: list[Source]
    encoding: dict[str, Any]  #: how the text was encoded
    device: str
    fp16: bool
    bf16: bool
    int8: bool = False  #: files of before do not say it
    data_bin: str | None = None  #: that was scored, from the root on
    split: str | None = None
    inputs: list[str] = field(default_factory=list)  #: or raw passages, the first :data:`_MOST_INPUTS` of them

    def to_dict(self) -> dict[str, Any]:
        """As a file holds it: what there is none of is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != []}


def origin_of(
    checkpoints: Sequence[Checkpoint],
    members: Sequence[Member],
    weights: Sequence[float],
    resources: Resources,
    encoding: Mapping[str, Any],
    data_bin: PathLike | None = None,
    split: str | None = None,
    inputs: Sequence[PathLike] = (),
) -> Origin:
    """The origin of what a ranker of these checkpoints answers; all weights are gone through for their digests.

    Raises:
        CheckpointError: a checkpoint tells of a training that cannot be
    """
    return Origin(
        version=__version__,
        checkpoints=[
            _source(each, weight, {name: getattr(member.settings, name) for name in CARRIED})
            for each, member, weight in zip(checkpoints, members, weights, strict=True)
        ],
        encoding=dict(encoding),
        device=str(members[0].device),
        fp16=resources.fp16,
        bf16=resources.bf16,
        int8=members[0].int8,
        data_bin=None if data_bin is None else os.path.abspath(data_bin),
        split=split,
        inputs=[str(path) if str(path) == "-" else os.path.abspath(path) for path in inputs[:_MOST_INPUTS]],
    )


def _source(checkpoint: Checkpoint, weight: float, scored: dict[str, Any]) -> Source:
    path = Path(os.path.abspath(checkpoint.path))
    progress = checkpoint.progress
    trained = bool(progress.updates)
    return Source(
        name=path.name if Path(checkpoint.name).name == path.name else checkpoint.name,
        path=str(path),
        digest=checkpoint.identity,
        epoch=progress.epoch if trained else None,
        updates=progress.updates,
        weight=weight,
        **scored,
        training=_training(checkpoint, trained),
        logs=_logs(path.parent) if trained else [],
    )


def _training(checkpoint: Checkpoint, trained: bool) -> dict[str, Any]:
    """Settings of the training that saved a checkpoint, the shape of its model among them."""
    saved = checkpoint.configuration if trained else {}
    found: dict[str, dict[str, Any]] = {}
    for group, names in _SETTINGS.items():
        part = saved.get(group)
        chosen = {name: part[name] for name in names if part.get(name) is not None} if isinstance(part, dict) else {}
        if chosen:
            found[group] = _plain(chosen)
    shape = checkpoint.architecture
    model = {"encoder_layers": shape.encoder_layers, "encoder_embed_dim": shape.encoder_embed_dim}
    return {**found, "model": {"_name": shape.family, **found.get("model", {}), **model}}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a checkpoint that may be anybody's: texts, numbers, and lists of numbers."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, str):
            kept[name] = hide_secrets(value[:_LONGEST])
        elif isinstance(value, list) and len(value) < _LONGEST:
            kept[name] = [number for number in value if finite(number) is not None]
        elif isinstance(value, bool) or finite(value) is not None:
            kept[name] = value
    return kept


def _logs(folder: Path) -> list[str]:
    """What the training told of itself that saves into a folder."""
    named = [folder / EVENTS_FILE, *map(Path, run_record(folder).get("logs", []))]
    return [os.path.abspath(path) for path in named if os.path.isfile(path)]


def read_origin(found: Any) -> Origin:
    """The origin that a file holds, which may be anybody's.

    Raises:
        ValueError: a field is missing or of another type; names it
    """
    values = _checked(found, _ORIGIN_FIELDS, "")
    sources = [
        Source(**_checked(entry, _SOURCE_FIELDS, f"checkpoint {number}, "))
        for number, entry in enumerate(values.pop("checkpoints"), 1)
    ]
    return Origin(checkpoints=sources, **values)


def _checked(found: Any, expected: Mapping[str, tuple[str, Callable[[Any], bool]]], where: str) -> dict[str, Any]:
    """Those fields of an object that are known, if they are what they should be."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}expected an object")
    for name, (kind, fits) in expected.items():
        if not fits(found[name]) if name in found else name not in _OPTIONAL:
            raise ValueError(f"{where}field '{name}': expected {kind}")
    return {name: found[name] for name in expected if name in found}


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < MOST_UPDATES)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


_TEXT = ("a text", _is(str))
_COUNT = ("a whole number or null", _is_count)
_NUMBER = ("a number", lambda value: finite(value) is not None)
_YES_OR_NO = ("true or false", _is(bool))
_OBJECT = ("an object", _is(dict))
_TEXTS = ("a list of texts", _is_texts)
_SOURCE_FIELDS = {
    **dict.fromkeys(("name", "path", "digest"), _TEXT),
    **dict.fromkeys(("epoch", "updates"), _COUNT),
    "weight": _NUMBER,
    **dict.fromkeys(("view", "scorer", "other_blanks"), _TEXT),
    "contrast": _NUMBER,
    "training": _OBJECT,
    "logs": _TEXTS,
}
_ORIGIN_FIELDS = {
    "version": _TEXT,
    "checkpoints": ("a list with at least one checkpoint", lambda value: isinstance(value, list) and bool(value)),
    "encoding": _OBJECT,
    "device": _TEXT,
    **dict.fromkeys(("fp16", "bf16", "int8"), _YES_OR_NO),
    **dict.fromkeys(("data_bin", "split"), _TEXT),
    "inputs": _TEXTS,
}
_OPTIONAL = ("int8", "data_bin", "split", "inputs", "training", "logs")
