"""Built: what fairseq may build from a checkpoint's configuration, as it runs text of some configurations as code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..weights.reading import load_checkpoint
from .names import CRITERION_NAME, MODEL_NAME, TASK_NAME

#: What fairseq may build when it loads a checkpoint.  Others of its models, tasks and criteria run text of the file.
BUILT = {
    "architecture": ("roberta", "roberta_base", "roberta_large", "xlm"),  # and what begins with MODEL_NAME
    "task": (TASK_NAME, "masked_lm", "multilingual_masked_lm", "sentence_prediction", "sentence_ranking"),
    "criterion": (CRITERION_NAME, "masked_lm", "sentence_prediction", "sentence_ranking", "cross_entropy"),
}

#: Options of a model that fairseq would run as code, or that hold such options.
_RUN = ("encoder", "decoder", *(f"{part}xformers_att_config" for part in ("", "encoder_", "decoder_")))


def check_file(path: str, overrides: Mapping[str, Any], suffix: str = "") -> None:
    """Make sure, before fairseq builds anything from a checkpoint, that no text in it would be run as code.

    Whatever file fairseq takes for *path* and *suffix* is looked at, with the *overrides* of the command line.

    Raises:
        CheckpointError: it names an architecture, a task or a criterion that is not one of :data:`BUILT`
    """
    from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename

    file = Path(get_maybe_sharded_checkpoint_filename(path, suffix, 0, 1))
    state = load_checkpoint(file) if file.is_file() else None  # fairseq says it if it is missing
    if not isinstance(state, dict):
        return
    model = args = state.get("args")
    if args is not None:
        names = {kind: [overrides.get(kind) or _option(args, kind)] for kind in ("task", "criterion")}
    else:
        cfg = state.get("cfg") or {}
        model = _option(cfg, "model")
        names = {kind: _names(_option(cfg, kind), kind) for kind in ("task", "criterion")}
    check_model(model, path)
    _check_names("task", names["task"], path)
    if names["task"] != [TASK_NAME]:  # which scores with a criterion of its own
        _check_names("criterion", names["criterion"], path)


def check_model(model: Any, name: str = "the checkpoint") -> None:
    """As :func:`check_file`, of a configuration of a model alone."""
    _check_names("architecture", _names(model, "arch"), name)
    for option in _RUN:
        if _option(model, option) is not None:
            raise CheckpointError(
                f"{name}: its option {option} is not read, as fairseq would run it as code; take a checkpoint "
                "without it"
            )


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _names(config: Any, key: str) -> list[Any]:
    """What a configuration is of; fairseq looks here at the one, there at the other first."""
    return [name for name in (_option(config, "_name"), _option(config, key)) if name is not None] or [None]


def _check_names(kind: str, names: Sequence[Any], checkpoint: str) -> None:
    known = BUILT[kind]
    for name in names:
        if name not in known and not (kind == "architecture" and str(name).startswith(MODEL_NAME)):
            ours = f"{MODEL_NAME}*, " if kind == "architecture" else ""
            raise CheckpointError(
                f"{checkpoint}: expected the {kind} {ours}{', '.join(known)}, found {name}; others are not built from "
                "a file, as fairseq may run text of it as code"
            )
