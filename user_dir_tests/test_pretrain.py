"""``examples/pretrain``: from prose to weights, and the weights that lie in ``examples/pretrained/mini``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.weights.checkpoint import Checkpoint

from .support.commands import PASSAGES, ROOT, run, train
from .support.warm import TORCH

PRETRAIN = ROOT / "examples" / "pretrain"
MINI = ROOT / "examples" / "pretrained" / "mini"
PROSE = ROOT / "examples" / "prose" / "stories.txt"

SMALL = {"ROWS": "500", "LAYERS": "0 1", "DIM": "24", "HEADS": "2", "LENGTH": "64", "BATCH": "8", "WARMUP": "2"}


@pytest.mark.slow
def test_from_prose_to_weights_and_on_after_an_end(tmp_path: Path) -> None:
    command = ("bash", PRETRAIN / "pretrain.sh", PROSE, tmp_path / "out")
    first = run(*command, env={**SMALL, "UPDATES": "6"})
    assert re.search(r"[\d,]+ tokens to train on, [1-9][\d,]* to validate, 500 rows", first.text)
    weights = tmp_path / "out" / "weights"
    checkpoint = Checkpoint.read(weights / "model.pt")
    assert checkpoint.architecture == Architecture(2, 24, 96, 2, 64)
    assert {value.dtype for value in checkpoint.weights.values() if value.dim()} == {torch.float16}
    vocabulary = checkpoint.vocabulary
    assert vocabulary is not None and vocabulary.tokenizer_digest == Vocabulary.load(weights).tokenizer_digest

    again = run(*command, env={**SMALL, "UPDATES": "9"})
    assert "binarize" not in again.text and "num_updates 9" in again.text
    assert "Loaded checkpoint" in again.text and "num_updates 6" not in again.text


@pytest.mark.slow  # another minute for the same lines
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    environment = {**SMALL, "UPDATES": "4", "PROCESSES": "2"}
    ran = run("bash", PRETRAIN / "pretrain.sh", PROSE, tmp_path / "out", env=environment)
    assert "bsz=8" in ran.text or "bsz 8" in ran.text
    assert (tmp_path / "out" / "weights" / "model.pt").is_file()


@pytest.mark.slow
def test_a_small_model_starts_from_a_larger_one(tmp_path: Path, pretrained: Path) -> None:
    """At full width and depth it computes nearly what the larger one does; a narrow one has the shape asked for."""
    sys.path.insert(0, str(PRETRAIN))
    try:
        import shrink
    finally:
        sys.path.remove(str(PRETRAIN))
    checkpoint = Checkpoint.read(pretrained / "model.pt")
    shape = checkpoint.architecture
    weights = {name: value.float() for name, value in checkpoint.weights.items()}
    torch.manual_seed(1)
    tokens = shrink.sample(Vocabulary.load(pretrained), PROSE, 40, 100)
    theirs = shrink.run(weights, shape, tokens, [0, 1])[-1] @ weights["encoder.lm_head.weight"].T
    full = shrink.shrink(weights, shape, tokens, [0, 1], 48, 96, 4)
    full["encoder.lm_head.weight"] = full["encoder.sentence_encoder.embed_tokens.weight"]
    same = Architecture(2, 48, 96, 4, shape.max_positions)
    ours = shrink.run(full, same, tokens, [0, 1])[-1] @ full["encoder.lm_head.weight"].T
    correlation = torch.corrcoef(torch.stack([theirs.flatten(), ours.flatten()]))[0, 1]
    assert correlation > 0.9

    rows = 500
    from_scratch = Vocabulary.learn(PROSE.read_text(encoding="utf-8").splitlines(), rows)
    (tmp_path / "data").mkdir()
    from_scratch.save(tmp_path / "data")
    out = tmp_path / "start" / "model.pt"
    command = (sys.executable, PRETRAIN / "shrink.py", pretrained / "model.pt", PROSE, tmp_path / "data")
    options = ("--out", out, "--layers", 1, "--dim", 24, "--ffn", 40, "--heads", 2, "--length", 90, "--samples", 20)
    run(*command, *options, warm=TORCH)
    small = Checkpoint.read(out)
    assert small.architecture == Architecture(1, 24, 40, 2, 90)
    assert small.weights["encoder.sentence_encoder.embed_tokens.weight"].shape == (rows, 24)
    wrong = run(*command, *options[:4], code=2, warm=TORCH)
    assert "are 12 wide: --dim has to be 12 times --heads" in wrong.text


def test_mini_knows_english(tmp_path: Path) -> None:
    """Zero-shot on the example passages, all of which are younger than the model; chance is 25%."""
    prepare({"train": [ROOT / "examples" / "passages" / "test"]}, MINI, tmp_path / "bin", workers=1)
    result = evaluate(MINI / "model.pt", tmp_path / "bin", "train")
    assert result.n_blanks == 1031
    assert result.accuracy > 38
    assert sum(path.stat().st_size for path in MINI.iterdir()) <= 20e6
    weights = Checkpoint.read(MINI / "model.pt").weights
    assert weights["encoder.sentence_encoder.embed_tokens.weight"].dtype == torch.float16


@pytest.mark.slow  # the quickstart does it, too
def test_mini_fine_tunes_from_float16(tmp_path: Path) -> None:
    """The proof of load holds, and the weights are trained in float32."""
    prepare({"train": [PASSAGES / "valid"]}, MINI, tmp_path / "bin", workers=1)
    options = ("--arch", "cloze_roberta", "--finetune-from-model", MINI / "model.pt", "--batch-size", 8)
    ran = train(tmp_path / "bin", tmp_path / "out", *options, "--max-update", 1, "--disable-validation")
    assert f"weights are those of {MINI / 'model.pt'}" in ran.text
    saved = Checkpoint.read(tmp_path / "out" / "checkpoint_last.pt").state["model"]
    assert saved["encoder.sentence_encoder.embed_tokens.weight"].dtype == torch.float32
