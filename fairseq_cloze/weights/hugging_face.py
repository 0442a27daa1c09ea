"""Hugging Face: pretrained weights from there, checkpoints to there.

On the way to fairseq the one token-type row, which it lacks, is added to the positions, and the embedding rows are
sorted into its order: the four special symbols, the BPE tokens, ``<mask>``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.vocabulary import MASK_SYMBOL, PAD, SPECIAL_SYMBOLS, Vocabulary
from ..errors import CheckpointError, first_line
from ..files import PathLike, replacing, write_text
from ..model.architecture import Architecture
from ..model.names import ENCODER, LM_HEAD, RANKING_HEAD
from .carried import MODEL_FILE, pretrained_state, save_state
from .checkpoint import Checkpoint
from .reading import load_checkpoint

HUB_CONFIG = "config.json"

#: Files of a hub model that are read.
HUB_FILES = [HUB_CONFIG, "model.safetensors", "pytorch_model.bin", "vocab.json", "merges.txt", "tokenizer.json"]

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
TOKENS, POSITIONS, TOKEN_TYPES = (
    f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
DECODER = "lm_head.decoder.weight"


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
    folder = _find_folder(str(source))
    config = _read_config(folder)
    weights = _read_weights(folder)
    vocabulary, order = _read_tokenizer(folder, gpt2_bpe, weights[TOKENS].size(0))
    decoder = weights.get(DECODER)
    try:
        shape = {ours: config[theirs] for theirs, ours in _SHAPE.items()}
    except KeyError as error:
        raise CheckpointError(f"{folder}: {error} is missing from config.json; copy or download it again") from error
    architecture = Architecture(
        **shape,
        max_positions=weights[POSITIONS].size(0) - 2,
        layer_norm_eps=config.get("layer_norm_eps", Architecture.layer_norm_eps),
        untie_weights_roberta=decoder is not None and not torch.equal(decoder, weights[TOKENS]),
    )
    dropouts = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
    options = {ours: config.get(theirs, 0.1) for ours, theirs in dropouts.items()}
    converted = _to_fairseq(weights, architecture, order, folder)
    return Checkpoint(pretrained_state(converted, architecture, vocabulary, options), folder, str(source))


def import_hf(source: PathLike, out: PathLike, gpt2_bpe: PathLike | None = None) -> Path:
    """Convert a Hugging Face RoBERTa into a folder that fairseq and this project start from.

    Args:
        source, gpt2_bpe: see :func:`read_hf`
        out: folder to write ``model.pt``, whose path is returned, and the vocabulary into

    Raises:
        CheckpointError: see :func:`read_hf`
        ClozeError: *out* cannot be written
    """
    checkpoint, path = read_hf(source, gpt2_bpe), Path(out) / MODEL_FILE
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
    from safetensors.torch import save_file

    out = Path(out)
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
    with replacing(out / "model.safetensors") as temporary:
        save_file({key: value.contiguous().clone() for key, value in converted.items()}, temporary, {"format": "pt"})
    write_text(out / "config.json", json.dumps(_hf_config(architecture, len(vocabulary), name), indent=1) + "\n")
    write_text(out / "vocab.json", json.dumps(vocabulary.token_rows(), ensure_ascii=False))
    merges = "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in vocabulary.merges)])
    write_text(out / "merges.txt", merges)
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": architecture.max_positions}
    write_text(out / "tokenizer_config.json", json.dumps(tokenizer, indent=1) + "\n")
    return name


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


def _read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a RoBERTa that fairseq can be given."""
    try:
        config: dict[str, Any] = json.loads((folder / HUB_CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        problem = f"expected a Hugging Face model, config.json cannot be read ({error})"
        raise CheckpointError(f"{folder}: {problem}") from error
    if config.get("model_type") != "roberta":
        raise CheckpointError(
            f"{folder}: expected model_type roberta (roberta-base, roberta-large, distilroberta-base and the like), "
            f"found {config.get('model_type')}; only byte-level-BPE RoBERTa can be imported"
        )
    # Positions are counted from the row behind the padding's.
    expected = {"hidden_act": "gelu", "pad_token_id": PAD, "position_embedding_type": "absolute"}
    for field, value in expected.items():
        if config.get(field, value) != value:
            raise CheckpointError(f"{folder}: expected {field} {value}, as RoBERTa has, found {config[field]}")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of encoder and LM head under Hugging Face's names, in float32."""
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        try:
            raw = load_file(folder / "model.safetensors")
        except Exception as error:  # safetensors' own kind, or an OSError
            raise CheckpointError(
                f"{folder / 'model.safetensors'}: cannot be read ({error}); copy or download the file again"
            ) from error
    elif (folder / "pytorch_model.bin").is_file():
        raw = load_checkpoint(folder / "pytorch_model.bin")
    else:
        raise CheckpointError(f"{folder}: expected model.safetensors or pytorch_model.bin, found neither")
    weights = {}
    for name, value in raw.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.")):  # saved without the head's class around it
            name = f"roberta.{name}"
        weights[name] = value.float()
    encoder = ((name, "RoBERTa encoder") for name in (TOKENS, POSITIONS, TOKEN_TYPES))
    for name, what in (*encoder, ("lm_head.dense.weight", "LM head")):
        if name not in weights:
            raise CheckpointError(
                f"{folder}: expected the weights of RobertaForMaskedLM, found no {what} ({name}); "
                "take the masked-LM release of the model"
            )
    types = weights[TOKEN_TYPES].size(0)
    if types != 1:
        raise CheckpointError(f"{folder}: expected one token type, as RoBERTa has, found {types}")
    return weights


def _read_tokenizer(folder: Path, gpt2_bpe: PathLike | None, rows: int) -> tuple[Vocabulary, list[int] | None]:
    """The vocabulary, and for each of its rows the row of the source (``None``: the same)."""
    if gpt2_bpe is not None:
        vocabulary = Vocabulary.load(gpt2_bpe)
        own = [name for name in ("vocab.json", "tokenizer.json") if (folder / name).is_file()]
        if own:
            raise CheckpointError(
                f"{folder}: has tokenizer files of its own ({', '.join(own)}), which belong to the weights; "
                "leave --gpt2-bpe out"
            )
        if len(vocabulary) != rows:
            raise CheckpointError(
                f"{gpt2_bpe}: expected a dictionary of {rows:,} rows, as the embedding of {folder} has, "
                f"found {len(vocabulary):,}; give the files that belong to the model"
            )
        return vocabulary, None
    numbers, merges = _read_tokenizer_files(folder)
    symbols = (*SPECIAL_SYMBOLS, MASK_SYMBOL)
    missing = [symbol for symbol in symbols if symbol not in numbers]
    if missing:
        problem = f"expected the token {missing[0]} in the tokenizer, found none; it is not RoBERTa's"
        raise CheckpointError(f"{folder}: {problem}")
    last = max(numbers.values())
    if last >= rows:
        problem = f"expected {rows:,} tokens at most, as the embedding has rows, found number {last:,}"
        raise CheckpointError(f"{folder}: {problem}")
    *special, mask = (numbers[symbol] for symbol in symbols)
    token_at = {number: token for token, number in numbers.items()}
    others = [row for row in range(rows) if row not in {*special, mask}]
    tokens = [token_at.get(row, f"madeupword{row:04d}") for row in others]
    return Vocabulary.build(tokens, merges, str(folder)), [*special, *others, mask]


def _read_tokenizer_files(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer: dict[str, Any] = {}
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        if tokenizer.get("normalizer"):
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: expected no normalizer, as RoBERTa has none, "
                f"found {tokenizer['normalizer'].get('type')}; such a model cannot be imported"
            )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        numbers = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    elif tokenizer:
        model = tokenizer["model"]
        if model.get("type", "BPE") != "BPE" or "ByteLevel" not in json.dumps(tokenizer.get("pre_tokenizer")):
            raise CheckpointError(f"{folder}: expected a byte-level BPE in tokenizer.json, found {model.get('type')}")
        numbers = {**model["vocab"], **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
        merges = model["merges"]
    else:
        suffixes = {".json", ".txt", ".model", ".codes"}
        found = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in suffixes))
        raise CheckpointError(
            f"{folder}: expected the files of a byte-level BPE (vocab.json and merges.txt, or tokenizer.json), "
            f"found {found}; pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
        )
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return numbers, [(left, right) for left, right in pairs]


def _to_fairseq(
    weights: dict[str, Tensor], architecture: Architecture, order: list[int] | None, folder: Path
) -> dict[str, Tensor]:
    """Weights under fairseq's names; *order* says for each row of its dictionary the row of the embedding."""

    def rows(value: Tensor) -> Tensor:
        return value if order is None else value[order]

    embedding = rows(weights[TOKENS])
    bias = weights.get("lm_head.bias", weights.get("lm_head.decoder.bias"))
    if bias is None:
        raise CheckpointError(f"{folder}: expected lm_head.bias, found none; the LM head is incomplete")
    out = {
        f"{ENCODER}version": torch.tensor([3.0]),
        f"{ENCODER}embed_tokens.weight": embedding,
        f"{ENCODER}embed_positions.weight": weights[POSITIONS] + weights[TOKEN_TYPES],
        f"{LM_HEAD}weight": rows(weights[DECODER]) if architecture.untie_weights_roberta else embedding,
        f"{LM_HEAD}bias": rows(bias),
    }
    try:
        for theirs, ours in _names(architecture.encoder_layers, _LM_HEAD_NAMES).items():
            out[ours] = weights[theirs]
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: the weights are incomplete, {error} is missing; copy or download them again"
        ) from error
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
    out["lm_head.bias"] = weights[f"{LM_HEAD}bias"]
    if architecture.untie_weights_roberta:
        out[DECODER] = weights[f"{LM_HEAD}weight"]
        out["lm_head.decoder.bias"] = weights[f"{LM_HEAD}bias"]
    return out
