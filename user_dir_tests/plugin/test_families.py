"""``--arch cloze_lm``: every family as fairseq builds, trains, saves and scores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hugging_face import export_hf, import_hf

from ..support.commands import PASSAGES, run, train, validate
from ..support.families import save
from ..support.models import build

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


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way(family: str, imported: dict[str, Path], tmp_path: Path) -> None:
    """Prepared, trained, validated by fairseq, resumed, evaluated, averaged, answered, exported, loaded."""
    import transformers

    source, save_dir, data = imported[family], tmp_path / "save", tmp_path / "bin"
    prepare({split: [PASSAGES / split] for split in ("train", "valid")}, source.parent, data, workers=1)
    options = ["--arch", "cloze_lm", "--finetune-from-model", source, "--batch-size", 4, "--lr", "1e-4"]
    ran = train(data, save_dir, *options, "--max-update", 10, "--save-interval-updates", 5)
    assert f"weights are those of {source} (encoder " in ran.text
    train(data, save_dir, *options, "--max-update", 20, "--save-interval-updates", 5)
    last = save_dir / "checkpoint_last.pt"
    checkpoint = Checkpoint.read(last)
    assert checkpoint.progress.updates == 20
    assert checkpoint.architecture == Checkpoint.read(source).architecture
    [row] = validate(data, last, "--batch-size", 8).metrics("valid")
    evaluated = run("fairseq-cloze", "evaluate", last, data, "--split", "valid")
    assert f"{100 * row['accuracy']:.1f}" in evaluated.text or row["n_blanks"] > 0
    run("fairseq-cloze", "predict", last, PASSAGES / "test", "--out", tmp_path / "answers.json")
    both = (save_dir / "checkpoint_1_5.pt", last)
    run("fairseq-cloze", "average", *both, "--out", tmp_path / "mean.pt")
    assert Checkpoint.read(tmp_path / "mean.pt").architecture == checkpoint.architecture
    name = export_hf(checkpoint, tmp_path / "back")
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    own = MaskedLM.from_weights(checkpoint.architecture, checkpoint.weights)
    tokens = torch.tensor([[0, 9, 10, 11, 599, 12, 2], [0, 13, 14, 2, 1, 1, 1]])
    present = tokens.ne(1)
    with torch.inference_mode():
        expected: Any = theirs(tokens, attention_mask=present.long()).logits[present]
        assert (own(tokens)[0][present] - expected).abs().max() < 1e-4
