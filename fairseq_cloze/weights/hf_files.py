"""Files of Hugging Face: the folder of a RoBERTa, read and checked.

Raises everywhere:
    CheckpointError: not a byte-level-BPE RoBERTa with an LM head; says what it is
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.vocabulary import MASK_SYMBOL, PAD, SPECIAL_SYMBOLS, Vocabulary
from ..errors import CheckpointError
from ..files import PathLike
from .hf_names import POSITIONS, TOKEN_TYPES, TOKENS
from .reading import load_checkpoint

HUB_CONFIG = "config.json"

#: Files of a hub model that are read.
HUB_FILES = [HUB_CONFIG, "model.safetensors", "pytorch_model.bin", "vocab.json", "merges.txt", "tokenizer.json"]


def find_folder(source: str) -> Path:
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
            f"({str(error).strip().splitlines()[0]}); check the name and the network"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a RoBERTa that fairseq can be given."""
    try:
        config: dict[str, Any] = json.loads((folder / HUB_CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder}: expected a Hugging Face model, config.json cannot be read ({error})"
        ) from error
    kind = config.get("model_type")
    if kind != "roberta":
        raise CheckpointError(
            f"{folder}: expected model_type roberta (roberta-base, roberta-large, distilroberta-base and the like), "
            f"found {kind}; only byte-level-BPE RoBERTa can be imported"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{folder}: expected hidden_act gelu, as RoBERTa has, found {config['hidden_act']}")
    if config.get("pad_token_id", PAD) != PAD:  # positions are counted from the row behind it
        raise CheckpointError(f"{folder}: expected pad_token_id {PAD}, as RoBERTa has, found {config['pad_token_id']}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(f"{folder}: position_embedding_type {config['position_embedding_type']} is not supported")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
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
    if weights[TOKEN_TYPES].size(0) != 1:
        raise CheckpointError(
            f"{folder}: expected one token type, as RoBERTa has, found {weights[TOKEN_TYPES].size(0)}"
        )
    return weights


def read_tokenizer(folder: Path, gpt2_bpe: PathLike | None, rows: int) -> tuple[Vocabulary, list[int] | None]:
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
    token_at = {number: token for token, number in numbers.items()}
    tokens = [token_at.get(row, f"madeupword{row:04d}") for row in range(max(rows, *token_at) if token_at else rows)]
    for symbol in (*SPECIAL_SYMBOLS, MASK_SYMBOL):
        if symbol not in numbers:
            raise CheckpointError(
                f"{folder}: expected the token {symbol} in the tokenizer, found none; it is not RoBERTa's"
            )
    if max(numbers.values()) >= rows:
        raise CheckpointError(
            f"{folder}: expected {rows:,} tokens at most, as the embedding has rows, "
            f"found number {max(numbers.values()):,}"
        )
    special = [numbers[symbol] for symbol in SPECIAL_SYMBOLS]
    mask = numbers[MASK_SYMBOL]
    others = [row for row in range(rows) if row not in {*special, mask}]
    vocabulary = Vocabulary.build([tokens[row] for row in others], merges, str(folder))
    return vocabulary, [*special, *others, mask]


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
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        return numbers, [(left, right) for left, right in pairs]
    if tokenizer:
        model = tokenizer["model"]
        steps = json.dumps(tokenizer.get("pre_tokenizer"))
        if model.get("type", "BPE") != "BPE" or "ByteLevel" not in steps:
            raise CheckpointError(f"{folder}: expected a byte-level BPE in tokenizer.json, found {model.get('type')}")
        numbers = {**model["vocab"], **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return numbers, [(left, right) for left, right in pairs]
    found = sorted(path.name for path in folder.iterdir() if path.suffix in {".json", ".txt", ".model", ".codes"})
    raise CheckpointError(
        f"{folder}: expected the files of a byte-level BPE (vocab.json and merges.txt, or tokenizer.json), "
        f"found {', '.join(found)}; pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
    )
