"""Hugging Face: pretrained weights from there, checkpoints to there.

On the way to fairseq the one token-type row, which it lacks, is added to the positions, and the embedding rows are
sorted into its order: the four special symbols, the BPE tokens, ``<mask>``.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, ClozeError, first_line
from ..files import PathLike, alone_in, cannot_write, replacing, write_text
from ..model.architecture import Architecture
from ..model.names import ENCODER, LM_HEAD, RANKING_HEAD
from ..model.roberta import shapes
from ..version import __version__
from .carried import MODEL_FILE, pretrained_state, save_state
from .checkpoint import Checkpoint
from .hub_files import (
    BIAS,
    CONFIG,
    DECODER,
    DECODER_BIAS,
    PICKLED,
    POSITIONS,
    SAFETENSORS,
    TOKEN_TYPES,
    TOKENS,
    read_config,
    read_json,
    read_weights,
)
from .hub_proof import prove_import
from .hub_tokenizer import read_tokenizer
from .hub_tokenizer_files import ADDED, MERGES, TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_FILES, VOCAB

#: Files of a hub model that are read.
HUB_FILES = [
    *(CONFIG, SAFETENSORS, "model-*.safetensors", PICKLED, "pytorch_model-*.bin", "*.index.json"),
    *TOKENIZER_FILES,
]

#: What transformers would read of a tokenizer beside what an export writes.
_TOKENIZER_FILES = (TOKENIZER, ADDED, "special_tokens_map.json")

#: Who has written a ``config.json``.
_MADE_BY = "made_by"

#: Fields of ``config.json`` → of :class:`Architecture`.
_SHAPE = {
    "hidden_size": "encoder_embed_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_embed_dim",
}

#: Hugging Face's name → fairseq's; ``{}`` is the number of a layer.
_LAYER_NAMES = {
    "roberta.encoder.layer.{}.attention.self.query": f"{ENCODER}layers.{{}}.self_attn.q_proj",
    "roberta.encoder.layer.{}.attention.self.key": f"{ENCODER}layers.{{}}.self_attn.k_proj",
    "roberta.encoder.layer.{}.attention.self.value": f"{ENCODER}layers.{{}}.self_attn.v_proj",
    "roberta.encoder.layer.{}.attention.output.dense": f"{ENCODER}layers.{{}}.self_attn.out_proj",
    "roberta.encoder.layer.{}.attention.output.LayerNorm": f"{ENCODER}layers.{{}}.self_attn_layer_norm",
    "roberta.encoder.layer.{}.intermediate.dense": f"{ENCODER}layers.{{}}.fc1",
    "roberta.encoder.layer.{}.output.dense": f"{ENCODER}layers.{{}}.fc2",
    "roberta.encoder.layer.{}.output.LayerNorm": f"{ENCODER}layers.{{}}.final_layer_norm",
}
_EMBEDDING_NAMES = {"roberta.embeddings.LayerNorm": f"{ENCODER}layernorm_embedding"}
_LM_HEAD_NAMES = {f"lm_head.{part}": f"{LM_HEAD}{part}" for part in ("dense", "layer_norm")}
_RANKING_HEAD_NAMES = {"roberta.pooler.dense": f"{RANKING_HEAD}dense", "classifier": f"{RANKING_HEAD}out_proj"}


class _Source(NamedTuple):
    """A model of Hugging Face as it was read, and the checkpoint that was made of it."""

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    order: list[int] | None  #: for each row of the checkpoint's dictionary, that of the model
    checkpoint: Checkpoint


def read_hf(source: PathLike, gpt2_bpe: PathLike | None = None) -> Checkpoint:
    """Read a RoBERTa of Hugging Face as a checkpoint of fairseq, in memory.

    Args:
        source: a local folder, or the name of a model on the hub where ``huggingface_hub`` is installed
        gpt2_bpe: folder with fairseq's three vocabulary files, for sources without tokenizer files

    Returns:
        with weights in float32, called *source* in messages

    Raises:
        CheckpointError: not a byte-level-BPE RoBERTa with an LM head; says what it is
    """
    return _read(source, gpt2_bpe).checkpoint


def _read(source: PathLike, gpt2_bpe: PathLike | None) -> _Source:
    folder = _find_folder(str(source))
    config = read_config(folder)
    weights, notes = read_weights(folder, config)
    vocabulary, order, more = read_tokenizer(folder, gpt2_bpe, len(weights[TOKENS]))
    architecture = Architecture(
        **{ours: config[theirs] for theirs, ours in _SHAPE.items()},
        max_positions=len(weights[POSITIONS]) - 2,
        layer_norm_eps=config["layer_norm_eps"],
        untie_weights_roberta=DECODER in weights,
    )
    options = {"dropout": config["hidden_dropout_prob"], "attention_dropout": config["attention_probs_dropout_prob"]}
    converted = _to_fairseq(weights, architecture, order, folder)
    checkpoint = Checkpoint(pretrained_state(converted, architecture, vocabulary, options), folder, str(source))
    checkpoint.require_sound()
    checkpoint.notes += [f"{source}: {note}" for note in (*notes, *more)]
    return _Source(folder, config, weights, order, checkpoint)


def import_hf(
    source: PathLike,
    out: PathLike,
    gpt2_bpe: PathLike | None = None,
    announce: Callable[[str], Any] | None = None,
) -> Path:
    """Convert a Hugging Face RoBERTa into a folder that fairseq and this project start from.

    Args:
        source, gpt2_bpe: see :func:`read_hf`
        out: folder to write ``model.pt``, whose path is returned, and the vocabulary into
        announce: called with notes, and with a line of proof, see
            :func:`fairseq_cloze.weights.hub_proof.prove_import`; nothing is proved without

    Raises:
        CheckpointError: see :func:`read_hf`, or it would compute otherwise
        ClozeError: *out* cannot be written
    """
    found = _read(source, gpt2_bpe)
    checkpoint, path = found.checkpoint, Path(out) / MODEL_FILE
    if announce:
        for note in checkpoint.notes:
            announce(note)
        announce(f"{source}: {prove_import(found.folder, checkpoint, found.weights, found.config, found.order)}")
    with alone_in(out):
        checkpoint.require_vocabulary().save(Path(out))
        save_state(checkpoint.state, path)
    return path


def export_hf(checkpoint: Checkpoint, out: PathLike) -> str:
    """Write a fairseq checkpoint as a Hugging Face folder with tokenizer.

    Returns:
        name of the class that loads it: ``RobertaForMultipleChoice`` where there is a ranking head, else
        ``RobertaForMaskedLM``

    Raises:
        CheckpointError: not a RoBERTa checkpoint, or its vocabulary is not to be found
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    out = Path(out)
    checkpoint.require_sound()
    vocabulary = checkpoint.require_vocabulary()
    architecture = checkpoint.architecture
    ranking = checkpoint.has_ranking_head
    fixed = (("activation_fn", "LM head", "gelu"), ("pooler_activation_fn", "ranking head", "tanh"))
    for option, head, always in fixed[: 1 + ranking]:
        found = getattr(architecture, option)
        if found != always:
            raise CheckpointError(
                f"{checkpoint.name}: {option} {found} cannot be exported, the {head} of Hugging Face's RoBERTa is "
                f"always {always}"
            )
    name = "RobertaForMultipleChoice" if ranking else "RobertaForMaskedLM"
    converted = _to_hugging_face(checkpoint.weights, architecture, ranking)
    merges = "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in vocabulary.merges)])
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": architecture.max_positions}
    with alone_in(out), replacing(out / SAFETENSORS) as temporary:  # which takes long, and gets its name last
        stale = _stale_files(out)
        try:
            save_file(
                {key: value.contiguous().clone() for key, value in converted.items()}, temporary, {"format": "pt"}
            )
        except SafetensorError as error:  # a disk that is full is no OSError there
            raise cannot_write(out / SAFETENSORS, first_line(error)) from error
        write_text(out / CONFIG, json.dumps(_hf_config(architecture, len(vocabulary), name), indent=1) + "\n")
        for path in stale:
            path.unlink()
        write_text(out / VOCAB, json.dumps(vocabulary.token_rows(), ensure_ascii=False))
        write_text(out / MERGES, merges)
        write_text(out / TOKENIZER_CONFIG, json.dumps(tokenizer, indent=1) + "\n")
    return name


def _stale_files(out: Path) -> list[Path]:
    """What transformers made of the tokenizer of an earlier export, and would read instead of the new one.

    Raises:
        ClozeError: there is a model that was not exported by this project
    """
    written = (CONFIG, SAFETENSORS, VOCAB, MERGES, TOKENIZER_CONFIG, *_TOKENIZER_FILES)
    there = [name for name in written if (out / name).exists()]
    config = read_json(out / CONFIG) if CONFIG in there else {}
    ours = str(config.get(_MADE_BY)).startswith("fairseq-cloze") and "transformers_version" not in config
    if there and not ours:
        raise ClozeError(
            f"{out}: holds {', '.join(there)}, which 'fairseq-cloze export-hf' did not write, and which would be lost; "
            "choose another folder"
        )
    return [out / name for name in _TOKENIZER_FILES if name in there]


def _hf_config(architecture: Architecture, rows: int, name: str) -> dict[str, Any]:
    return {
        "architectures": [name],
        "model_type": "roberta",
        "vocab_size": rows,
        **{theirs: getattr(architecture, ours) for theirs, ours in _SHAPE.items()},
        "hidden_act": "gelu",
        "max_position_embeddings": architecture.max_positions + 2,
        "type_vocab_size": 1,
        "layer_norm_eps": architecture.layer_norm_eps,
        "tie_word_embeddings": not architecture.untie_weights_roberta,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        _MADE_BY: f"fairseq-cloze {__version__}",
    }


def _find_folder(source: str) -> Path:
    """A local folder, or that of a model from the hub, downloaded where it is not yet."""
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{source}: no such folder; to load it from the Hugging Face hub, pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(source, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's own kinds and those of the network below it
        raise CheckpointError(
            f"{source}: no such folder, and not to be had from the Hugging Face hub "
            f"({first_line(error)}); check the name and the network"
        ) from error


def _to_fairseq(
    weights: dict[str, Tensor], architecture: Architecture, order: list[int] | None, folder: Path
) -> dict[str, Tensor]:
    """Weights under fairseq's names; *order* says for each row of its dictionary the row of the embedding."""

    def rows(value: Tensor) -> Tensor:
        return value if order is None else value[order]

    expected = shapes(architecture, len(weights[TOKENS]), ranking_head=False)
    names = {
        **{TOKENS: f"{ENCODER}embed_tokens.weight", POSITIONS: f"{ENCODER}embed_positions.weight"},
        **{BIAS: f"{LM_HEAD}bias"},
        **({DECODER: f"{LM_HEAD}weight"} if architecture.untie_weights_roberta else {}),
        **_names(architecture.encoder_layers, _LM_HEAD_NAMES),
    }
    for theirs, ours in names.items():
        found = tuple(weights[theirs].shape) if theirs in weights else "none"
        if found != expected[ours]:
            raise CheckpointError(
                f"{folder}: {theirs}: expected {expected[ours]}, found {found}; the weights are incomplete, or of "
                f"another model than {CONFIG}: copy or download them again"
            )
    if weights[TOKEN_TYPES].shape != (1, architecture.encoder_embed_dim):
        raise CheckpointError(f"{folder}: {TOKEN_TYPES}: expected one row of the model's width")
    out = {f"{ENCODER}version": torch.tensor([3.0]), **{ours: weights[theirs] for theirs, ours in names.items()}}
    for theirs in {TOKENS, BIAS, DECODER} & names.keys():
        out[names[theirs]] = rows(weights[theirs])
    out[f"{ENCODER}embed_positions.weight"] = weights[POSITIONS] + weights[TOKEN_TYPES]
    out.setdefault(f"{LM_HEAD}weight", out[f"{ENCODER}embed_tokens.weight"])
    return out


def _names(layers: int, head: dict[str, str]) -> dict[str, str]:
    """Parameter names that need no arithmetic, Hugging Face's → fairseq's."""
    modules = {**_EMBEDDING_NAMES, **head}
    for layer in range(layers):
        modules.update({theirs.format(layer): ours.format(layer) for theirs, ours in _LAYER_NAMES.items()})
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}


def _to_hugging_face(weights: Mapping[str, Tensor], architecture: Architecture, ranking: bool) -> dict[str, Tensor]:
    """Weights of fairseq's names under Hugging Face's, with the *ranking* head or with the LM head."""
    positions = weights[f"{ENCODER}embed_positions.weight"]
    names = _names(architecture.encoder_layers, _RANKING_HEAD_NAMES if ranking else _LM_HEAD_NAMES)
    out = {
        TOKENS: weights[f"{ENCODER}embed_tokens.weight"],
        POSITIONS: positions,
        TOKEN_TYPES: torch.zeros(1, positions.size(1), dtype=positions.dtype),
        **{theirs: weights[ours] for theirs, ours in names.items()},
    }
    if ranking:
        return out
    out[BIAS] = weights[f"{LM_HEAD}bias"]
    if architecture.untie_weights_roberta:
        out[DECODER] = weights[f"{LM_HEAD}weight"]
        out[DECODER_BIAS] = weights[f"{LM_HEAD}bias"]
    return out
