"""Building: what fairseq may build from a checkpoint, checked before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .upgrading import State

OUR_ARCHITECTURES = "cloze_roberta"
OUR_TASK = "cloze_ranking"

#: What fairseq may build when it loads a checkpoint.  Others of its models, tasks and criteria run text of the file.
BUILT = {
    "architecture": ("roberta", "roberta_base", "roberta_large", "xlm"),  # and what begins with OUR_ARCHITECTURES
    "task": (OUR_TASK, "masked_lm", "multilingual_masked_lm", "sentence_prediction", "sentence_ranking"),
    "criterion": ("cloze_ranking", "masked_lm", "sentence_prediction", "sentence_ranking", "cross_entropy"),
}

#: Options of a model that fairseq would run as code, or that hold such options.
_RUN = ("encoder", "decoder", *(f"{part}xformers_att_config" for part in ("", "encoder_", "decoder_")))


def check_built(state: State, path: Path, overrides: Mapping[str, Any]) -> None:
    """Make sure, before fairseq builds anything from a checkpoint, that no text in it would be run as code.

    Args:
        state: content of the checkpoint
        path: the checkpoint
        overrides: options of the command line, which fairseq puts in the place of the checkpoint's

    Raises:
        CheckpointError: it names an architecture, a task or a criterion that is not one of :data:`BUILT`
    """
    args = state.get("args")
    if args is not None:
        model: Any = args
        names = {kind: [overrides.get(kind) or _option(args, kind)] for kind in ("task", "criterion")}
    else:
        cfg = state.get("cfg") or {}
        model = _option(cfg, "model")
        names = {kind: _names(_option(cfg, kind), kind) for kind in ("task", "criterion")}
    check_model_built(model, path)
    _check_names("task", names["task"], path)
    if names["task"] != [OUR_TASK]:  # which scores with a criterion of its own
        _check_names("criterion", names["criterion"], path)


def check_model_built(model: Any, path: Path | None) -> None:
    """As :func:`check_built`, of a configuration of a model alone."""
    _check_names("architecture", _names(model, "arch"), path)
    for name in _RUN:
        if _option(model, name) is not None:
            raise CheckpointError(
                f"{path or 'the checkpoint'}: its option {name} is not read, as fairseq would run it as code; take a "
                "checkpoint without it"
            )


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _names(config: Any, key: str) -> list[Any]:
    """What a configuration is of; fairseq looks here at the one, there at the other first."""
    return [name for name in (_option(config, "_name"), _option(config, key)) if name is not None] or [None]


def _check_names(kind: str, names: Sequence[Any], path: Path | None) -> None:
    known = BUILT[kind]
    for name in names:
        if name not in known and not (kind == "architecture" and str(name).startswith(OUR_ARCHITECTURES)):
            ours = f"{OUR_ARCHITECTURES}*, " if kind == "architecture" else ""
            raise CheckpointError(
                f"{path or 'the checkpoint'}: expected the {kind} {ours}{', '.join(known)}, found {name}; others are "
                "not built from a file, as fairseq may run text of it as code"
            )
