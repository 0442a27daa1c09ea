"""``from_pretrained`` as fairseq has it: something that ranks."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq_cloze
from fairseq_cloze import CheckpointError, register

register()

from fairseq_cloze.plugin.model import ClozeRobertaModel  # noqa: E402

TEXT = "The dog _ in the garden and then it _ home."
OPTIONS = [["slept", "sleeping", "sleep"], ["went", "green"]]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("something wants the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_a_folder_and_a_file_rank_as_load_does(pretrained: Path, finetuned: Path) -> None:
    for folder, name in ((pretrained, "model.pt"), (finetuned, "checkpoint_best.pt")):
        hub = ClozeRobertaModel.from_pretrained(str(folder), name)
        hub.eval()
        expected = fairseq_cloze.load(folder / name).rank(TEXT, OPTIONS)
        assert hub.rank(TEXT, OPTIONS) == expected and len(expected) == 2
        for many in hub.rank_many([(TEXT, OPTIONS)] * 2):  # in one batch
            assert [each.options for each in many] == [each.options for each in expected]
            assert many[0].scores == pytest.approx(expected[0].scores, abs=1e-5)


def test_several_are_averaged(pretrained: Path, tmp_path: Path) -> None:
    for path in pretrained.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(tmp_path / "model.pt", tmp_path / "other.pt")
    hub = ClozeRobertaModel.from_pretrained(str(tmp_path), "model.pt:other.pt", contrast=0.0)
    assert [member.settings.contrast for member in hub.ranker.members] == [0.0, 0.0]
    [first, _] = hub.rank(TEXT, OPTIONS)
    assert sum(first.probabilities) == pytest.approx(1.0, abs=1e-6)


def test_it_moves_as_any_module(pretrained: Path) -> None:
    hub = ClozeRobertaModel.from_pretrained(str(pretrained), device="cpu")
    half = hub.half()
    assert half is hub and {value.dtype for value in hub.parameters()} == {torch.float16}
    assert len(hub.rank(TEXT, OPTIONS)) == 2
    hub.to("meta")
    assert hub.device.type == "meta"


def test_fairseqs_own_interface_fills_masks(finetuned: Path, pretrained: Path, data_bin: Path) -> None:
    from fairseq.models.roberta import RobertaModel

    names = {"gpt2_encoder_json": str(pretrained / "encoder.json"), "gpt2_vocab_bpe": str(pretrained / "vocab.bpe")}
    hub = RobertaModel.from_pretrained(
        str(finetuned), "checkpoint_best.pt", data_name_or_path=str(data_bin), bpe="gpt2", **names
    )
    [(filled, probability, word)] = hub.fill_mask("She went to the <mask> to buy bread.", topk=1)
    assert filled == f"She went to the{word} to buy bread." and 0 < probability < 1
    assert hub.task.mask_idx == hub.task.source_dictionary.index("<mask>") != hub.task.source_dictionary.unk()


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere.pt"):
        ClozeRobertaModel.from_pretrained(str(tmp_path), "nowhere.pt")
