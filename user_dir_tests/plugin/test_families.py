"""``--arch cloze_lm``: every family as fairseq builds, trains, saves and scores it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq_cloze
from fairseq_cloze import register
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.weights.carried import save_state
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hugging_face import import_hf

from ..support.commands import PASSAGES, run, train, validate
from ..support.families import save, save_with_its_own
from ..support.models import build
from ..support.tokenizers import SCRIPTS

register()

from fairseq_cloze.plugin.built import check_checkpoint  # noqa: E402
from fairseq_cloze.plugin.model import architecture_of  # noqa: E402
from fairseq_cloze.plugin.source import prove_everywhere  # noqa: E402


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> dict[str, Path]:
    """A small model of each family, all with the vocabulary of the data-bin."""
    out = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        save(folder / "hf", family, vocabulary)
        out[family] = import_hf(folder / "hf", folder / "out")
    return out


@pytest.mark.parametrize("arch", ["cloze_lm", "cloze_roberta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_what_the_checkpoint_is(
    family: str, arch: str, imported: dict[str, Path], data_bin: Path, tmp_path: Path
) -> None:
    path = imported[family]
    task, model = build(data_bin, tmp_path, arch=arch, finetune_from_model=path, dropout=0.0)
    checkpoint = Checkpoint.read(path)
    assert architecture_of(model.args) == checkpoint.architecture
    check_checkpoint(checkpoint, {})
    with pytest.raises(CheckpointError, match="^the encoder is not that of "):
        prove_everywhere(task.source, model)
    model.load_state_dict(dict(checkpoint.state["model"]), strict=True, model_cfg=model.args)
    prove_everywhere(task.source, model)
    core = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    tokens = torch.tensor([[0, 9, 10, 11, 599, 12, 2], [0, 13, 14, 2, 1, 1, 1]])
    with torch.inference_mode():
        assert torch.equal(model.eval()(tokens)[0], core(tokens)[0])


def test_an_architecture_of_roberta_alone(imported: dict[str, Path], data_bin: Path, tmp_path: Path) -> None:
    path = imported["albert"]
    with pytest.raises(CheckpointError) as error:
        build(data_bin, tmp_path, arch="cloze_roberta_base", finetune_from_model=path)
    text = str(error.value)
    assert text.startswith(f"{path} does not fit the model: encoder_layers 3 in the checkpoint, 12 in the model; ")
    assert "; shared_layers True in the checkpoint, False in the model" in text
    assert text.endswith("; pass --arch cloze_lm, which takes its shape from the checkpoint")


@pytest.mark.parametrize("arch", ["cloze_lm", "cloze_roberta"])
def test_dropout_is_the_checkpoints(arch: str, imported: dict[str, Path], data_bin: Path, tmp_path: Path) -> None:
    """With ``--arch cloze_lm``, where no option says otherwise."""
    state = Checkpoint.read(imported["albert"]).state
    state["args"].dropout, state["args"].attention_dropout = 0.0, 0.25
    path = tmp_path / "model.pt"
    save_state(state, path)
    asked: list[dict[str, float]] = [{}, {"dropout": 0.5}]
    found = []
    for options in asked:
        _, model = build(data_bin, tmp_path, arch=arch, finetune_from_model=path, **options)
        training = model.encoder.sentence_encoder.in_training
        assert (model.args.dropout, model.args.attention_dropout) == (training.dropout, training.attention_dropout)
        found.append((training.dropout, training.attention_dropout))
    assert found == ([(0.0, 0.25), (0.5, 0.25)] if arch == "cloze_lm" else [(0.1, 0.1), (0.5, 0.1)])


@pytest.mark.parametrize("value", [-0.1, 1.5, "a half"])
def test_a_dropout_that_is_none(value: Any, imported: dict[str, Path], data_bin: Path, tmp_path: Path) -> None:
    state = Checkpoint.read(imported["bert"]).state
    state["args"].attention_dropout = value
    save_state(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as error:
        build(data_bin, tmp_path, arch="cloze_lm", finetune_from_model=tmp_path / "model.pt")
    assert str(error.value) == (
        f"{tmp_path / 'model.pt'}: option attention_dropout: expected a number from 0 to 1, found {value}; take the "
        "original file"
    )


TEXT = "The old ferry left at 7.30 a.m., didn't it?"
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}  # as these models have it
BLANK, OPTIONS = "The old ferry ____ at seven.", [["left", "leaves", "has gone", "is"]]


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family == "bert" else pytest.mark.slow) for family in FAMILIES]
)
def test_the_whole_way(family: str, tmp_path: Path) -> None:
    """A model with its own kind of tokenizer: imported, prepared, trained, resumed, validated by fairseq, evaluated,
    answering, averaged, exported, and loaded by transformers."""
    import transformers

    hub, data, save_dir = tmp_path / "hf", tmp_path / "bin", tmp_path / "save"
    save_with_its_own(hub, family)
    source = import_hf(hub, tmp_path / "out")
    prepare({split: [PASSAGES / split] for split in ("train", "valid")}, source.parent, data, workers=1)
    options = ["--arch", "cloze_lm", "--finetune-from-model", source, "--batch-size", 4, "--lr", "1e-4"]
    options += ["--save-interval-updates", 10]
    ran = train(data, save_dir, *options, "--max-update", 10)
    assert f"weights are those of {source} (encoder " in ran.text
    ran = train(data, save_dir, *options, "--max-update", 20)
    last = save_dir / "checkpoint_last.pt"
    assert f"resuming from {last}" in ran.text and "goes on with other options" not in ran.text
    updates = [row["num_updates"] for row in ran.metrics("train_inner")]
    assert updates == list(range(11, 21))
    checkpoint, begun = Checkpoint.read(last), Checkpoint.read(source)
    assert checkpoint.progress.updates == 20
    assert checkpoint.architecture == begun.architecture and checkpoint.dropouts == NO_DROPOUT
    assert checkpoint.require_vocabulary().digests == begun.require_vocabulary().digests

    # The same figures from fairseq and from here
    [row] = validate(data, last, "--batch-size", 8).metrics("valid")
    run("fairseq-cloze", "evaluate", last, data, "--split", "valid", "--json", tmp_path / "valid.json")
    evaluation = json.loads((tmp_path / "valid.json").read_text())
    assert row["n_blanks"] == evaluation["n_blanks"] == 102
    for name in ("accuracy", "mrr"):
        assert row[name] == pytest.approx(evaluation[name], abs=0.006)  # rounded there

    # Averaged
    earlier = next(save_dir.glob("checkpoint_*_10.pt"))
    run("fairseq-cloze", "average", earlier, last, "--out", tmp_path / "mean.pt")
    mean, first = Checkpoint.read(tmp_path / "mean.pt"), Checkpoint.read(earlier)
    assert mean.architecture == checkpoint.architecture
    for key, value in mean.weights.items():
        torch.testing.assert_close(value, (first.weights[key] + checkpoint.weights[key]) / 2, atol=1e-7, rtol=1e-6)

    # Exported: the same tokens and logits in transformers, in its numbers
    run("fairseq-cloze", "export-hf", last, "--out", tmp_path / "back")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "back").eval()
    assert type(theirs).__name__ == FAMILIES[family].masked_lm
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    original = transformers.AutoTokenizer.from_pretrained(hub)
    for name in ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token", "bos_token", "eos_token"):
        assert getattr(tokenizer, name) == getattr(original, name)
        if family != "roberta":  # which is exported in the order of fairseq's rows
            assert getattr(tokenizer, f"{name}_id") == getattr(original, f"{name}_id")
    vocabulary = checkpoint.require_vocabulary()
    order = torch.tensor(vocabulary.order)
    assert vocabulary.is_fairseqs == order.equal(torch.arange(len(order))) == (family == "roberta")
    for text in (TEXT, *SCRIPTS):
        assert tokenizer.tokenize(text) == original.tokenize(text)
        assert tokenizer(text).input_ids == order[[0, *vocabulary.encode([text])[0].tolist(), 2]].tolist()
        if family != "roberta":
            assert tokenizer(text, text) == original(text, text)
    texts = [TEXT, f"The {tokenizer.mask_token} ferry"]
    asked = tokenizer(texts, return_tensors="pt", padding=True)
    row_of = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)))
    own = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    present = asked["attention_mask"].bool()
    tokens = row_of[asked["input_ids"]]
    assert tokens.eq(vocabulary.mask).sum() == 1 and tokens.ne(1).equal(present)
    with torch.inference_mode():
        logits = theirs(**asked).logits
        found = own(tokens)[0]
    torch.testing.assert_close(found[present], logits[present][:, order], atol=1e-4, rtol=0)

    # And the same answers of the exported model
    assert fairseq_cloze.load(tmp_path / "back").members[0].architecture == checkpoint.architecture
    for name, model in (("own", last), ("theirs", tmp_path / "back")):
        out = ("--out", tmp_path / f"{name}.json", "--scores", "--view", "joint", "--scorer", "mean")
        run("fairseq-cloze", "predict", model, PASSAGES / "test", *out)
    ours, others = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "theirs"))
    for answers in (ours, others):
        del answers["fairseq_cloze"]
    assert ours.keys() == others.keys() and len(ours) == 8
    for passage, answered in ours.items():
        assert answered["answers"] == others[passage]["answers"]
        for one, other in zip(answered["probabilities"], others[passage]["probabilities"], strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    [one], [other] = (fairseq_cloze.load(path).rank(BLANK, OPTIONS) for path in (last, tmp_path / "back"))
    assert one.scores == pytest.approx(other.scores, abs=1e-4)
