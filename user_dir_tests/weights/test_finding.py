"""Weights are found by path or name, and read where they lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.checkpoint import Checkpoint, digests
from fairseq_cloze.weights.finding import open_checkpoint
from fairseq_cloze.weights.hugging_face import import_hf, read_hf


def test_a_file(pretrained: Path) -> None:
    found = open_checkpoint(pretrained / "model.pt")
    assert (found.path, found.name) == (pretrained / "model.pt", str(pretrained / "model.pt"))
    assert digests(found.weights) == digests(Checkpoint.read(pretrained / "model.pt").weights)


def test_a_folder_gives_its_weights_then_its_best_then_its_last_checkpoint(tmp_path: Path, pretrained: Path) -> None:
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "model.pt"):
        os.link(pretrained / "model.pt", tmp_path / name)
        assert open_checkpoint(tmp_path).path == tmp_path / name


def test_hugging_face_in_place(tmp_path: Path, hf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read in place is what an import writes, and nothing is written."""
    folder = tmp_path / "hf"
    shutil.copytree(hf_folder, folder)
    before = sorted(path.name for path in folder.iterdir())
    found = open_checkpoint(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    imported = Checkpoint.read(import_hf(folder, tmp_path / "out"))
    assert digests(found.weights) == digests(imported.weights)
    assert found.architecture == imported.architecture
    assert found.name == str(folder)
    vocabulary = imported.require_vocabulary()
    assert found.check_vocabulary(vocabulary, "the data") == (
        f"dictionary {vocabulary.dictionary_digest[:12]} and tokenizer {vocabulary.tokenizer_digest[:12]} are the "
        "checkpoint's",
        True,
    )
    monkeypatch.chdir(tmp_path)
    assert digests(open_checkpoint("hf").weights) == digests(read_hf("hf").weights) == digests(imported.weights)


def test_a_name_on_the_hub(tmp_path: Path, hf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's own cache, so that no network is needed."""
    from huggingface_hub import constants

    snapshot = tmp_path / "hub" / "models--our--small" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(hf_folder, snapshot)
    (tmp_path / "hub" / "models--our--small" / "refs").mkdir()
    (tmp_path / "hub" / "models--our--small" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = open_checkpoint("our/small")
    assert found.name == "our/small"
    assert digests(found.weights) == digests(read_hf(hf_folder).weights)
    with pytest.raises(CheckpointError, match="^our/other: no such folder, and not to be had"):
        open_checkpoint("our/other")


@pytest.mark.parametrize("name", ["gone.pt", "./gone", "../gone", "/gone/weights", "a/b/c"])
def test_a_path_to_nowhere_is_no_name(name: str) -> None:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(name)
    assert str(error.value) == f"{Path(name)}: no such checkpoint; check the path"


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: expected model.pt, checkpoint_best.pt, checkpoint_last.pt or a Hugging Face model (config.json) "
        "in this folder, found none of them"
    )
