"""Built: what fairseq may build from a checkpoint's configuration, as it runs text of some configurations as code."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..views.settings import CARRIED, PartialSettings
from ..weights.checkpoint import Checkpoint
from ..weights.plain import show
from .names import ANY_ARCHITECTURE, CRITERION_NAME, MODEL_NAME, TASK_NAME

#: What fairseq may build when it loads a checkpoint.  Others of its parts run text of the file, or load what it names.
BUILT = {
    "architecture": (f"{MODEL_NAME}*", ANY_ARCHITECTURE, "roberta", "roberta_base", "roberta_large", "xlm"),
    "task": (TASK_NAME, "masked_lm", "multilingual_masked_lm", "sentence_prediction", "sentence_ranking"),
    "criterion": (CRITERION_NAME, "masked_lm", "sentence_prediction", "sentence_ranking", "cross_entropy"),
    "bpe": ("none", "gpt2"),
    "tokenizer": ("none",),
}

#: Options of a model that fairseq would run as code, or that hold such options.
_RUN = ("encoder", "decoder", *(f"{part}xformers_att_config" for part in ("", "encoder_", "decoder_")))

#: Options that say how large a model is, as its weights are.
_SIZES = (
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("max_positions", "embedding_dim", "local_attention", "global_every"),
)


def check_file(path: str, overrides: Mapping[str, Any], suffix: str = "", shard: int = 0, shards: int = 1) -> None:
    """Make sure, before fairseq builds anything from a checkpoint, that no text in it would be run as code.

    Whatever file fairseq takes for *path* is looked at, with the *overrides* of the command line.

    Raises:
        CheckpointError: see :func:`check_checkpoint`; or it is missing, or cannot be read
    """
    from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename

    file = get_maybe_sharded_checkpoint_filename(path, suffix, shard, shards)
    check_checkpoint(Checkpoint.read(Path(file), path if shards == 1 else None), overrides)


def check_checkpoint(checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> None:
    """As :func:`check_file`, of what was read.

    Raises:
        CheckpointError: it names an architecture, a task or another part that is not one of :data:`BUILT`, or sizes
            that its weights do not have
        ClozeError: it was trained with settings that are no more, and *overrides* has none
    """
    state, name = checkpoint.state, checkpoint.name
    model = task = args = state.get("args")
    parts = ("task", "criterion", "bpe", "tokenizer")
    if args is not None:
        _expect_kind(args, Namespace, name, "args")
        names = {part: [overrides.get(part) or _option(args, part)] for part in parts}
    else:
        cfg = state.get("cfg")
        _expect_kind(cfg, Mapping, name, "cfg")
        model, task = _option(cfg, "model"), _option(cfg, "task")
        names = {part: _names(_option(cfg, part), part) for part in parts}
    check_model(model, name)
    if names["task"] == [TASK_NAME]:
        del names["criterion"]  # the task scores with its own
    for part, found in names.items():
        _check_names(part, found, name)
    PartialSettings(**{key: overrides.get(key) for key in CARRIED}).completed(checkpoint.carried)
    _check_sizes(checkpoint, model, task)


def check_model(model: Any, name: str = "the checkpoint") -> None:
    """As :func:`check_file`, of a configuration of a model alone."""
    _check_names("architecture", _names(model, "arch"), name)
    for option in _RUN:
        if _option(model, option) is not None:
            raise CheckpointError(
                f"{name}: its option {option} is not read, as fairseq would run it as code; take a checkpoint "
                "without it"
            )


def _check_sizes(checkpoint: Checkpoint, *configs: Any) -> None:
    """fairseq makes a model as large as options say, and only then compares it with the weights."""
    shape = vars(checkpoint.architecture)
    most = {"tokens_per_sample": shape["max_positions"], "num_classes": checkpoint.rows}
    for config in configs:
        for option in (*_SIZES, *most):
            found = _option(config, option)
            right = isinstance(found, int) and (0 < found <= most[option] if option in most else found == shape[option])
            if found is not None and not right:
                expected = f"{option} {shape[option]}" if option in shape else f"{option} of at most {most[option]}"
                raise CheckpointError(
                    f"{checkpoint.name}: its options do not fit its weights: expected {expected}, found {found!r}; "
                    "take another checkpoint"
                )


def _expect_kind(config: Any, kind: type, name: str, key: str) -> None:
    if not isinstance(config, kind):
        raise CheckpointError(
            f"{name}: expected the options of a training under '{key}', found {type(config).__name__}; take another "
            "checkpoint"
        )


def _option(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _names(config: Any, key: str) -> list[Any]:
    """What a configuration is of; fairseq looks here at the one, there at the other first."""
    return [name for name in (_option(config, "_name"), _option(config, key)) if name is not None] or [None]


def _check_names(part: str, names: list[Any], checkpoint: str) -> None:
    known = BUILT[part]
    for name in names:
        ours = part == "architecture" and isinstance(name, str) and name.startswith(MODEL_NAME)
        text = "none" if name is None else name
        if text not in known and not ours:
            raise CheckpointError(
                f"{checkpoint}: expected the {part} {', '.join(known)}, found {show(name, 80)}; others are not built "
                "from a file, as fairseq may run text of it as code"
            )
