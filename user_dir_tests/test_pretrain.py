"""``examples/pretrain``: from prose to weights, and the weights that lie in ``examples/pretrained/mini``."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import EOS, PAD, Vocabulary
from fairseq_cloze.model.architecture import Architecture
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.weights.checkpoint import Checkpoint

from .support.commands import PASSAGES, ROOT, run, train
from .support.warm import TORCH

PRETRAIN = ROOT / "examples" / "pretrain"
MINI = ROOT / "examples" / "pretrained" / "mini"
PROSE = ROOT / "examples" / "prose" / "stories.txt"

SMALL = {"ROWS": "500", "LAYERS": "0 1", "DIM": "24", "HEADS": "2", "LENGTH": "64", "BATCH": "8", "WARMUP": "2"}


@contextmanager
def examples_on_path() -> Iterator[None]:
    sys.path.insert(0, str(PRETRAIN))
    try:
        yield
    finally:
        sys.path.remove(str(PRETRAIN))


@cache
def mini_vocabulary() -> Vocabulary:
    return Vocabulary.load(MINI)


@cache
def words_of(text: str) -> Any:
    with examples_on_path():
        from masked_words.words import Words

    vocabulary = mini_vocabulary()
    return Words(np.concatenate([*vocabulary.encode([text]), [EOS]]), vocabulary)


@cache
def stories() -> Any:
    return words_of(PROSE.read_text(encoding="utf-8"))


def test_words_are_whole() -> None:
    """A word of several tokens is one; punctuation is none."""
    words = words_of("The zebrafish saw a zebrafish, and the zebrafish's tail.")
    vocabulary = mini_vocabulary()
    firsts = np.flatnonzero(words.starts)
    found = [vocabulary.decode(part.tolist()) for part in np.split(words.tokens, firsts[1:])]
    assert found == [
        "The", " zebrafish", " saw", " a", " zebrafish", ",", " and", " the", " zebrafish", "'s", " tail", ".", "</s>",
    ]  # fmt: skip
    assert not words.starts.all()


def test_common_words_are_masked_less_often() -> None:
    """By how often they stand in the text; no end of a paragraph ever, other things hardly ever."""
    with examples_on_path():
        from masked_words.words import Words

    vocabulary = mini_vocabulary()
    text = " the" * 70_000 + " of" * 17_000 + " old" * 2_000 + " river" * 20 + " zebrafish" * 2_000 + "," * 100
    known = Words(np.concatenate([*vocabulary.encode([text]), [EOS]]), vocabulary)
    [row] = vocabulary.encode([" the of old river grob zebrafish,"])
    tokens = np.tile(np.concatenate([row, [EOS]]), 60_000)
    words = Words(tokens, vocabulary, known)
    masked = words.masked(0, len(tokens), 0.5, np.random.default_rng(1))
    ends = {vocabulary.decode([token]): int((masked.hidden == token).sum()) / 60_000 for token in {*row.tolist(), EOS}}
    expected = {" the": 0.097, " of": 0.196, " old": 0.5, " river": 0.404, ",": 0.04, "</s>": 0.0}
    assert {name: ends[name] for name in expected} == pytest.approx(expected, abs=0.01)
    assert ends[" gro"] == ends["b"] == pytest.approx(0.15, abs=0.01)  # not in the text that is known
    [zebrafish] = vocabulary.encode([" zebrafish"])
    assert len(zebrafish) > 1  # counted as a whole
    assert [ends[vocabulary.decode([token])] for token in zebrafish] == pytest.approx([0.5] * len(zebrafish), abs=0.01)


@given(start=st.integers(0, 4000), length=st.integers(1, 300), share=st.floats(0.0, 1.0), seed=st.integers(0, 2**31))
def test_each_mask_stands_for_a_whole_word(start: int, length: int, share: float, seed: int) -> None:
    """Whoever puts the hidden tokens back has the text again; a word weighs as much as any other."""
    words, mask = stories(), mini_vocabulary().mask
    masked = words.masked(start, start + length, share, np.random.default_rng(seed))
    back, n_masks = [], 0
    for place, token in enumerate(masked.tokens.tolist()):
        hidden = masked.hidden[masked.places == place].tolist()
        assert bool(hidden) == (token == mask)
        n_masks += bool(hidden)
        assert masked.weights[masked.places == place].sum() == pytest.approx(int(bool(hidden)))
        back += hidden or [token]
    assert back == words.tokens[start : start + length].tolist()
    assert len(masked.hidden) == len(masked.places) == len(masked.weights)
    assert masked.weights.sum() == pytest.approx(n_masks)


def test_samples_of_an_epoch() -> None:
    """They lie one behind the other, begin elsewhere in the next epoch, and are masked anew."""
    with examples_on_path():
        from masked_words.task import MaskedWords

    words = stories()
    data = MaskedWords(words, 64, 0.3, seed=1)
    assert len(data) == (len(words.tokens) - 63) // 63 and set(data.sizes) == {64}
    assert sorted(data.ordered_indices()) == list(range(len(data)))
    assert [*map(np.ndarray.tolist, data[3])] == [*map(np.ndarray.tolist, data[3])]
    first = data[3], data.offset
    data.set_epoch(2)
    assert data.offset != first[1] and data[3].tokens.tolist() != first[0].tokens.tolist()
    data.set_epoch(1)
    assert data[3].tokens.tolist() == first[0].tokens.tolist()

    order = data.ordered_indices()
    batches = data.batch_by_size(order, max_sentences=8, required_batch_size_multiple=8)
    assert np.concatenate(batches).tolist() == order.tolist() and {len(batch) for batch in batches[:-1]} == {8}
    assert [len(batch) for batch in data.batch_by_size(order[:7], 300, 8)] == [4, 3]
    [batch] = data.batch_by_size(order[:7], max_sentences=128, required_batch_size_multiple=8)
    assert batch.tolist() == order[:7].tolist()

    samples = [data[index] for index in range(5)]
    batch = data.collater(samples)
    inputs = batch["net_input"]
    tokens, lengths = inputs["src_tokens"], inputs["row_lengths"]
    assert sorted(lengths, reverse=True) == lengths == tokens.ne(PAD).sum(dim=1).tolist()
    assert (batch["ntokens"], batch["nsentences"]) == (sum(lengths), 5)
    masks = (tokens.flatten() == mini_vocabulary().mask).nonzero()[:, 0]
    assert inputs["reads"].tolist() == masks.tolist() and batch["n_masks"] == len(masks) == sum(inputs["read_counts"])
    assert set(batch["masks"].tolist()) == set(range(len(masks)))
    hidden = sorted(token for sample in samples for token in sample.hidden.tolist())
    assert sorted(batch["target"].tolist()) == hidden
    assert float(batch["weights"].sum()) == pytest.approx(len(masks))
    with pytest.raises(ValueError, match="a text of 20000 tokens at least, found 5"):
        MaskedWords(words_of("Too short."), 10_001, 0.3, seed=1)


def test_a_text_too_short_to_validate_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with examples_on_path():
        import binarize

    text = tmp_path / "short.txt"
    text.write_text("\n\n".join(PROSE.read_text(encoding="utf-8").split("\n\n")[:6]), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["binarize.py", str(text), "--out", str(tmp_path / "out"), "--size", "400"])
    with pytest.raises(SystemExit) as ended:
        binarize.main()
    assert ended.value.code == 2
    found = len([line for line in text.read_text(encoding="utf-8").splitlines() if line])
    assert f"{text}: expected more than 20 paragraphs, one per line, found {found}\n" in capsys.readouterr().err


def test_the_loss_is_the_mean_over_the_tokens_of_a_word() -> None:
    """Nats per mask, by hand; in bits in the log."""
    with examples_on_path():
        from masked_words.criterion import MaskedWordsCriterion

    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    sample = {
        "net_input": {},
        "masks": torch.tensor([0, 1, 1]),
        "target": torch.tensor([2, 0, 1]),
        "weights": torch.tensor([1.0, 0.5, 0.5]),
        "n_masks": 2,
        "ntokens": 9,
        "nsentences": 1,
    }
    criterion = MaskedWordsCriterion.__new__(MaskedWordsCriterion)
    torch.nn.Module.__init__(criterion)
    loss, masks, logged = criterion(lambda: (logits,), sample)
    by_hand = -torch.log_softmax(logits, dim=1)
    assert float(loss) == pytest.approx(float(by_hand[0, 2] + (by_hand[1, 0] + by_hand[1, 1]) / 2))
    assert masks == 2 and {**logged, "loss": 0} == {"loss": 0, "sample_size": 2, "ntokens": 9, "nsentences": 1}
    with metrics.aggregate() as logs:
        MaskedWordsCriterion.reduce_metrics([logged, {"loss": 4 * math.log(2), "sample_size": 3}])
    expected = (float(loss) / math.log(2) + 4) / 5
    assert logs.get_smoothed_values()["loss"] == pytest.approx(expected, abs=0.001)


def test_muon_for_matrices_inside_layers() -> None:
    """The same updates as torch's two optimizers, also on from a saved state."""
    with examples_on_path():
        from masked_words.optimizer import INNER, Muon, MuonConfig

    def parameters() -> list[torch.nn.Parameter]:
        torch.manual_seed(1)
        made = [torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (5, 4), (4,))]
        setattr(made[0], INNER, True)
        return made

    config = MuonConfig(lr=[0.02])
    ours, theirs = parameters(), parameters()
    optimizer = Muon(config, ours)
    muon = torch.optim.Muon(theirs[:1], lr=0.01, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(theirs[1:], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    for step in range(4):
        if step == 2:
            saved = optimizer.state_dict()
            optimizer = Muon(config, ours)
            optimizer.load_state_dict(saved, optimizer.optimizer_config)
            assert optimizer.get_lr() == 0.02
        optimizer.set_lr(0.01 / (step + 1))
        for part in (muon, adam):
            part.param_groups[0]["lr"] = 0.01 / (step + 1)
        for each in (ours, theirs):
            torch.manual_seed(step)
            for parameter in each:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        muon.step()
        adam.step()
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="expected matrices inside layers"):
        Muon(config, parameters()[1:])


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

    assert checkpoint.carried.contrast == 0

    before = Checkpoint.read(weights / "model.pt").weights
    environment = {**SMALL, "UPDATES": "2", "START": str(weights / "model.pt")}
    run("bash", PRETRAIN / "pretrain.sh", PROSE, tmp_path / "on", env=environment)
    after = Checkpoint.read(tmp_path / "on" / "weights" / "model.pt").weights
    moved = [float((after[name].float() - value.float()).abs().max()) for name, value in before.items()]
    assert 0 < max(moved) < 0.01  # two updates with a learning rate of 0.001 at most

    start = MINI / "model.pt"
    refused = run("bash", PRETRAIN / "pretrain.sh", PROSE, tmp_path / "on", env={**SMALL, "START": str(start)}, code=1)
    assert f"the dictionary of {tmp_path}/on/data does not belong to {start}: expected 16,000 embedding" in refused.text


@pytest.mark.slow  # another minute for the same lines
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    environment = {**SMALL, "UPDATES": "4", "PROCESSES": "2"}
    ran = run("bash", PRETRAIN / "pretrain.sh", PROSE, tmp_path / "out", env=environment)
    assert "bsz=8" in ran.text or "bsz 8" in ran.text
    assert (tmp_path / "out" / "weights" / "model.pt").is_file()


@pytest.mark.slow
def test_a_small_model_starts_from_a_larger_one(tmp_path: Path, pretrained: Path) -> None:
    """At full width and depth it computes nearly what the larger one does; a narrow one has the shape asked for."""
    with examples_on_path():
        import shrink
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
