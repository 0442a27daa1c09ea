"""The proof of an import fails where the import computes otherwise."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.hub_files import read_config, read_weights
from fairseq_cloze.weights.hub_proof import prove_import
from fairseq_cloze.weights.hub_tokenizer import read_tokenizer
from fairseq_cloze.weights.hugging_face import import_hf, read_hf

from ..support.models import save_tiny_hf


@pytest.fixture
def proved(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a proof."""
    save_tiny_hf(tmp_path)
    config = read_config(tmp_path)
    weights, _ = read_weights(tmp_path, config)
    _, order, _ = read_tokenizer(tmp_path, None, 266)
    return dict(folder=tmp_path, checkpoint=read_hf(tmp_path), weights=weights, config=config, order=order)


def test_what_is_the_same(proved: dict[str, Any]) -> None:
    line = prove_import(**proved)
    assert re.fullmatch(
        r"\d\d\d token ids as in its tokenizer, logits as in transformers [\d.]+ \(largest difference \de[+-]\d\d\)",
        line,
    )


@pytest.mark.parametrize("part", ["encoder.sentence_encoder.embed_positions.weight", "encoder.lm_head.bias"])
def test_other_logits(proved: dict[str, Any], part: str) -> None:
    checkpoint: Checkpoint = proved["checkpoint"]
    checkpoint.weights[part] = checkpoint.weights[part] + torch.randn(checkpoint.weights[part].shape)
    with pytest.raises(CheckpointError, match=": the import would compute otherwise than transformers "):
        prove_import(**proved)


def test_other_tokens(proved: dict[str, Any]) -> None:
    order = proved["order"]
    order[20], order[21] = order[21], order[20]
    with pytest.raises(CheckpointError, match=": the import would encode text otherwise than its tokenizer: token 14 "):
        prove_import(**proved)


def test_without_transformers_and_tokenizer(proved: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else plain(name))
    for name in ("tokenizer.json", "vocab.json"):
        (proved["folder"] / name).unlink()
    assert prove_import(**proved) == (
        "no tokenizer files to compare token ids with; logits were not compared, as transformers is not installed"
    )


def test_nothing_is_written_where_the_proof_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_hf(tmp_path / "hf")
    monkeypatch.setattr("fairseq_cloze.weights.hub_proof.TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="would compute otherwise"):
        import_hf(tmp_path / "hf", tmp_path / "out", announce=print)
    assert not (tmp_path / "out").exists()


def test_code_of_the_folder_does_not_run(proved: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask, and somebody may say yes."""
    folder, asked = proved["folder"], []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    (folder / "strange.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Strange: pass\n")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    own = {"auto_map": {"AutoTokenizer": ["strange.Strange", None]}, "tokenizer_class": "Strange"}
    path.write_text(json.dumps({**config, **own}))
    assert re.match(r"\d\d\d token ids as in its tokenizer, logits as in transformers ", prove_import(**proved))
    assert not asked and not (folder / "ran").exists()
