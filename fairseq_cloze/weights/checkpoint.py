"""Checkpoints: what is in them, and the proof that it was loaded.

A checkpoint is fairseq's: the weights under ``model``, the configuration under ``args`` (older) or ``cfg`` (newer).
Those this project writes carry their vocabulary and the way their passages were encoded under ``task_state``, so that
they can be used, and checked, without the folder they were trained in.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.encoding import EncodingOptions
from ..data.vocabulary import DICTIONARY_FILE, ENCODER_FILE, FILES, GPT2_BPE_URL, MERGES_FILE, Vocabulary
from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.names import ENCODER, HEAD_NAME, HEADS, LM_HEAD
from ..plugin.compat import is_dead_parameter, load_checkpoint
from ..views.settings import CARRIED, Settings

#: What a run must have loaded: names for people, prefixes of the weights.
PARTS = {"encoder": ENCODER, "LM head": LM_HEAD}

#: Key of our part of ``task_state``.
STATE_KEY = "fairseq_cloze"
STATE_VERSION = 1

State = dict[str, Any]


# -- architecture ----------------------------------------------------------------------------------------------------


def read_architecture(state: State, path: Path) -> Architecture:
    """Derive the architecture from the weights, and from the configuration what weights do not show.

    Raises:
        CheckpointError: not a RoBERTa checkpoint of fairseq
    """
    weights = roberta_weights(state, path)
    layers = {
        int(match.group(1))
        for match in (re.match(rf"{re.escape(ENCODER)}layers\.(\d+)\.", name) for name in weights)
        if match
    }
    try:
        embed_dim = weights[f"{ENCODER}embed_tokens.weight"].size(1)
        ffn_dim = weights[f"{ENCODER}layers.0.fc1.weight"].size(0)
        positions = weights[f"{ENCODER}embed_positions.weight"].size(0) - 2  # two rows stand before the first position
        heads = int(model_option(state, "encoder_attention_heads"))
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected a RoBERTa checkpoint of fairseq, {error} is missing from it"
        ) from error
    if bool(model_option(state, "encoder_normalize_before")):
        raise CheckpointError(f"{path}: RoBERTa with layer norm before the blocks (roberta_prenorm) is not supported")
    eps = model_option(state, "layer_norm_eps")
    return Architecture(
        encoder_layers=len(layers),
        encoder_embed_dim=embed_dim,
        encoder_ffn_embed_dim=ffn_dim,
        encoder_attention_heads=heads,
        max_positions=positions,
        activation_fn=str(model_option(state, "activation_fn") or "gelu"),
        layer_norm_eps=1e-5 if eps is None else float(eps),
        untie_weights_roberta=bool(model_option(state, "untie_weights_roberta")),
        pooler_activation_fn=str(model_option(state, "pooler_activation_fn") or "tanh"),
    )


def model_option(state: State, name: str) -> Any:
    """An option of the model that a checkpoint was saved with; ``None`` where its configuration has none."""
    if state.get("args") is not None:
        return getattr(state["args"], name, None)
    model = (state.get("cfg") or {}).get("model")
    return model.get(name) if isinstance(model, Mapping) else getattr(model, name, None)


# -- weights ---------------------------------------------------------------------------------------------------------


def load_state(path: Path) -> State:
    """Read a checkpoint and make sure that it is one of fairseq's.

    Raises:
        CheckpointError: missing, truncated, or something else
    """
    state = load_checkpoint(Path(path))
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        hint = "expected a checkpoint of fairseq"
        if isinstance(state, dict) and any(name.startswith(("roberta.", "lm_head.")) for name in state):
            hint += ", found Hugging Face weights; convert them with 'fairseq-cloze import-hf'"
        raise CheckpointError(f"{path}: {hint}")
    return state


def roberta_weights(state: State, path: Path) -> dict[str, Tensor]:
    """Weights under today's names.

    Releases of 2019 call the encoder ``decoder`` and its norm otherwise, and keep the projections of queries, keys and
    values in one tensor.

    Raises:
        CheckpointError: no RoBERTa encoder or no LM head
    """
    weights = todays_names(state["model"])
    for part, what in ((f"{ENCODER}embed_tokens.weight", "RoBERTa encoder"), (f"{LM_HEAD}dense.weight", "LM head")):
        if part not in weights:
            raise CheckpointError(f"{path}: expected a RoBERTa checkpoint of fairseq, found no {what} ({part})")
    return weights


def todays_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """*weights* under the names they have in fairseq today, see :func:`roberta_weights`."""
    renamed = {}
    for name, value in weights.items():
        if is_dead_parameter(name):
            continue
        name = re.sub(r"^decoder\.", "encoder.", name).replace(".emb_layer_norm.", ".layernorm_embedding.")
        joined = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", name)
        if joined:
            for projection, part in zip("qkv", value.chunk(3)):
                renamed[f"{joined[1]}{projection}_proj.{joined[2]}"] = part
        else:
            renamed[name] = value
    return renamed


def require_ranking_head(state: State, path: Path) -> None:
    """Make sure that a checkpoint has the ranking head that is to score with.

    Raises:
        CheckpointError: it has none
    """
    if f"{HEADS}{HEAD_NAME}.dense.weight" not in state["model"]:
        raise CheckpointError(
            f"{path}: has no ranking head, its scores would be random; pass --scorer mean, or train one first"
        )


def digest(weights: Mapping[str, Tensor], prefix: str) -> str:
    """SHA-256 over names, shapes, types and values of the weights whose names start with *prefix*."""
    total = hashlib.sha256()
    for name in sorted(weights):
        if not name.startswith(prefix) or name.endswith(".version"):  # a marker of fairseq's, no weight
            continue
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """:func:`digest` of each of :data:`PARTS`."""
    return {part: digest(weights, prefix) for part, prefix in PARTS.items()}


def expected_weights(state: State, path: Path, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's weights as fairseq should have loaded them: under today's names, cast to the *current* types."""
    return {
        name: value.to(current[name].dtype) if name in current else value
        for name, value in roberta_weights(state, path).items()
    }


def prove_load(path: Path, state: State, current: Mapping[str, Tensor], got: Mapping[str, str]) -> str:
    """Compare a model with the checkpoint it was loaded from.

    Args:
        path: the checkpoint
        state: its content
        current: the model's weights
        got: their :func:`digests`

    Returns:
        a line that says what was proved

    Raises:
        CheckpointError: encoder or LM head differ; names the part
    """
    expected = expected_weights(state, path, current)
    wanted = digests(expected)
    for part, prefix in PARTS.items():
        if wanted[part] != got[part]:
            raise CheckpointError(
                f"the {part} is not that of {path}: expected digest {wanted[part][:12]}, found {got[part][:12]}; "
                "training would start from other weights than those asked for"
                f"{_first_difference(expected, current, prefix)}"
            )
    return f"weights are those of {path} ({', '.join(f'{part} {value[:12]}' for part, value in got.items())})"


def _first_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str) -> str:
    for name in sorted({*expected, *found}):
        if name.startswith(prefix) and not name.endswith(".version"):
            if name not in found or name not in expected:
                return f" (first difference: {name} is only in the {'model' if name in found else 'checkpoint'})"
            if not torch.equal(expected[name].cpu(), found[name].cpu()):
                return f" (first difference: {name})"
    return ""


# -- what belongs to a checkpoint ------------------------------------------------------------------------------------


def task_state(vocabulary: Vocabulary, encoding: EncodingOptions, settings: Settings) -> State:
    """What a checkpoint carries so that it can be used alone: plain strings, numbers and bytes."""
    return {
        "version": STATE_VERSION,
        "vocabulary": {name: zlib.compress(content, 9) for name, content in vocabulary.files.items()},
        "encoding": encoding.to_dict(),
        **{name: getattr(settings, name) for name in CARRIED},
    }


def read_task_state(state: State) -> State:
    """Our part of a checkpoint's ``task_state``; empty for checkpoints of other origin."""
    return (state.get("task_state") or {}).get(STATE_KEY) or {}


def carried_vocabulary(carried: State, origin: str) -> Vocabulary:
    """The vocabulary in what :func:`read_task_state` returned."""
    return Vocabulary({name: zlib.decompress(content) for name, content in carried["vocabulary"].items()}, origin)


def read_vocabulary(state: State, path: Path) -> Vocabulary | None:
    """The vocabulary that belongs to a checkpoint: the one it carries, else the one that lies beside it."""
    carried = read_task_state(state)
    if carried:
        return carried_vocabulary(carried, str(path))
    folder = Path(path).parent
    if all((folder / name).is_file() for name in FILES):
        return Vocabulary.load(folder)
    return None


def require_vocabulary(state: State, path: Path) -> Vocabulary:
    """As :func:`read_vocabulary`, but there has to be one.

    Raises:
        CheckpointError: there is none
    """
    vocabulary = read_vocabulary(state, path)
    if vocabulary is None:
        raise CheckpointError(
            f"{path}: carries no vocabulary and none lies beside it; put {', '.join(FILES)} into {path.parent} "
            f"(for fairseq's own releases, {ENCODER_FILE} and {MERGES_FILE} are at {GPT2_BPE_URL})"
        )
    return vocabulary


def check_vocabulary(state: State, path: Path, vocabulary: Vocabulary, where: str) -> tuple[str, bool]:
    """Make sure that a dictionary and BPE are those the weights were trained with.

    Args:
        state: content of the checkpoint
        path: the checkpoint
        vocabulary: what the data were encoded with
        where: the data, for messages

    Returns:
        a line that says what was proved, and whether that is all there is to prove

    Raises:
        CheckpointError: they do not belong together; says which of embedding, dictionary and BPE
    """
    rows = roberta_weights(state, path)[f"{ENCODER}embed_tokens.weight"].size(0)
    if rows != len(vocabulary):
        raise CheckpointError(
            f"the dictionary of {where} does not belong to {path}: expected {rows:,} embedding rows, found "
            f"{len(vocabulary):,}; prepare the data with --pretrained and the folder of this checkpoint"
        )
    dictionary, bpe = vocabulary.dictionary_digest[:12], vocabulary.bpe_digest[:12]
    unknown = f"could not be compared, {path} came without"
    own = read_vocabulary(state, path)
    if own is not None:
        compare_vocabularies(own, vocabulary, str(path), where)
        return f"dictionary {dictionary} and BPE {bpe} are the checkpoint's", True
    beside = path.parent / DICTIONARY_FILE
    if beside.is_file():  # as in fairseq's tarballs
        own = Vocabulary({**vocabulary.files, DICTIONARY_FILE: beside.read_bytes()}, str(path.parent))
        compare_vocabularies(own, vocabulary, str(path), where)
        return f"dictionary {dictionary} is the checkpoint's; the BPE {unknown}", False
    return f"dictionary has the checkpoint's {rows:,} rows; it and the BPE {unknown}", False


def compare_vocabularies(own: Vocabulary, found: Vocabulary, checkpoint: str, where: str) -> None:
    """Make sure that two vocabularies are the same.

    Args:
        own: the checkpoint's
        found: what the data were encoded with
        checkpoint, where: their names, for messages

    Raises:
        CheckpointError: they differ; says whether in dictionary or BPE
    """
    for part, attribute in (("dictionary", "dictionary_digest"), ("BPE", "bpe_digest")):
        if getattr(own, attribute) != getattr(found, attribute):
            raise CheckpointError(
                f"the {part} of {where} does not belong to {checkpoint}: expected digest "
                f"{getattr(own, attribute)[:12]}, found {getattr(found, attribute)[:12]}; "
                "prepare the data with --pretrained and the folder of this checkpoint"
            )
