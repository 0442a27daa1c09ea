"""Files of weights: both formats, damaged ones, and objects that could run code."""

from __future__ import annotations

import fractions
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.reading import DEAD_PARAMETER, load_checkpoint

from ..support.commands import run


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_both_file_formats(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"args": Namespace(a=1), "model": {"w": torch.arange(3)}},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=zipped,
    )
    state = load_checkpoint(tmp_path / "m.pt")
    assert (state["args"].a, state["model"]["w"].tolist()) == (1, [0, 1, 2])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02."])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "m.pt")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'm.pt'}: cannot be read as a checkpoint, {len(content)} bytes (")
    assert text.endswith("); the file is truncated, damaged or no PyTorch file, copy it again")
    assert "\n" not in text


def test_a_checkpoint_with_other_objects(tmp_path: Path) -> None:
    """Not the file's fault, and the advice works."""
    path = tmp_path / "model.pt"
    weights = {"w": torch.ones(2)}
    torch.save({"model": weights, "args": None, "extra_state": {"meter": fractions.Fraction(1, 3)}}, path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(
        f"{path}: holds an object of fractions.Fraction, first in extra_state.meter, which is not read as it could run "
        "code; make a plain copy of it: fairseq-cloze clean "
    )
    done = run("bash", "-c", text[text.index("fairseq-cloze clean") :], cwd=tmp_path)
    assert done.text == "dropped: fractions.Fraction in extra_state.meter\nwrote plain.pt\n"
    state = load_checkpoint(tmp_path / "plain.pt")
    assert state["model"]["w"].equal(weights["w"])
    assert {**state, "model": 0} == {"model": 0, "args": None, "extra_state": {}}


def test_dead_parameters_by_name() -> None:
    prefix = "encoder.sentence_encoder.layers.11."
    assert DEAD_PARAMETER.fullmatch(prefix + "in_proj_weight")
    assert DEAD_PARAMETER.fullmatch(prefix + "fc2_bias")
    for name in ("fc2.bias", "self_attn.in_proj_weight", "self_attn.out_proj.weight"):
        assert not DEAD_PARAMETER.fullmatch(prefix + name)
