"""Small random models of each family, made by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fairseq_cloze.weights.families import FAMILIES

from .tokenizers import save_tokenizer

#: No dropout, by any of the names that it has.
_OFF = dict.fromkeys(
    ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout")
    + ("mlp_dropout", "classifier_dropout_prob", "summary_last_dropout", "seq_classif_dropout"),
    0.0,
)


def make(family: str, rows: int, kind: str = "ForMaskedLM", **options: Any) -> Any:
    """A model of three layers, 48 wide, for texts of 126 tokens; in all of it the weights matter."""
    import transformers

    model_class = getattr(transformers, f"{FAMILIES[family].classes}{kind}")
    shape: dict[str, Any] = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
    if family == "distilbert":
        shape = dict(dim=48, n_layers=3, n_heads=4, hidden_dim=64)
    if family in ("albert", "electra"):
        shape["embedding_size"] = 16
    if family == "modernbert":
        shape |= dict(local_attention=8, global_attn_every_n_layers=2, cls_token_id=0, sep_token_id=2)
    behind_padding = FAMILIES[family].behind_padding
    shape["max_position_embeddings"] = 126 + 2 * behind_padding
    if behind_padding:
        shape["type_vocab_size"] = 1
    special = dict(vocab_size=rows, bos_token_id=0, pad_token_id=1, eos_token_id=2)
    torch.manual_seed(7)
    model = model_class(model_class.config_class(**{**shape, **special, **_OFF, **options}))
    with torch.no_grad():
        for parameter in model.parameters():  # biases, norms and the token types, too
            parameter += 0.15 * torch.randn_like(parameter)
    return model


def save(folder: Path, family: str, vocabulary: Any, kind: str = "ForMaskedLM", **options: Any) -> Any:
    """:func:`make`, written with the files of its tokenizer; the model."""
    model = make(family, len(vocabulary), kind, **options)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.token_rows()), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return model


def save_with_its_own(folder: Path, family: str, **options: Any) -> tuple[Any, Any]:
    """:func:`make`, written with a tokenizer of the family's own kind, whose numbers the rows have; both."""
    tokenizer = save_tokenizer("bert-cased" if family == "bert" else family, folder)
    roles = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos", "cls", "sep")}
    named = {name: number for name, number in roles.items() if number is not None}
    rows = max(tokenizer.get_vocab().values()) + 4  # some of which have no token
    model = make(family, rows, **{**named, **options}).eval()
    model.save_pretrained(folder)
    return model, tokenizer
