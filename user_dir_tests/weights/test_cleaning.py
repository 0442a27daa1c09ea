"""Refused checkpoints become plain ones, without running code of theirs; what became of what is said."""

from __future__ import annotations

import fractions
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.cleaning import clean_checkpoint
from fairseq_cloze.weights.reading import load_checkpoint

from ..support.commands import FINETUNE, run, train, validate
from ..support.models import tiny_state


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def cleaned(tmp_path: Path, state: Any, **options: Any) -> tuple[Any, list[str]]:
    torch.save(state, tmp_path / "old.pt", **options)
    with pytest.raises(CheckpointError, match="fairseq-cloze clean .*/old.pt plain.pt$"):
        load_checkpoint(tmp_path / "old.pt")
    lines = clean_checkpoint(tmp_path / "old.pt", tmp_path / "new.pt")
    return load_checkpoint(tmp_path / "new.pt", optimizer=True), lines


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_arrays_and_text_of_numpy(tmp_path: Path, zipped: bool) -> None:
    arrays = [np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("<f4", ">i2", "u1", "c8", "?")]
    state = {
        "model": {"w": torch.ones(2)},
        "numbers": [np.float64(1.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("é x"), np.complex64(2j)],
        "arrays": [*arrays, arrays[0].T, np.array(7)],
        "texts": np.array(["a"]),
        "objects": np.array([None]),
    }
    found, lines = cleaned(tmp_path, state, _use_new_zipfile_serialization=zipped)
    assert found["numbers"] == [1.5, 0.5, -3, True, "é x", 2j]
    assert list(map(type, found["numbers"])) == [float, float, int, bool, str, complex]
    for before, after in zip(state["arrays"], found["arrays"], strict=True):
        assert (after.numpy() == before).all() and after.numpy().dtype == before.dtype.newbyteorder("=")
    assert found.keys() == {"model", "numbers", "arrays"}
    multiarray = np.float64(1).__reduce__()[0].__module__
    array = np.array(1).__reduce__()[0].__module__
    assert lines == [
        f"turned into a plain number: {multiarray}.scalar in numbers[0] and 4 more",
        f"turned into a plain text: {multiarray}.scalar in numbers[4]",
        f"turned into a tensor: {array}._reconstruct in arrays[0] and 6 more",
        f"dropped: {array}._reconstruct in texts and 1 more",
    ]


def test_configurations_of_omegaconf(tmp_path: Path) -> None:
    config = {"model": {"arch": "roberta", "n": 1, "none": None}, "list": [1, {"deep": "${model.n}"}], "open": "???"}
    found, lines = cleaned(tmp_path, {"model": {"w": torch.ones(2)}, "cfg": OmegaConf.create(config)})
    assert found["cfg"] == config
    assert type(found["cfg"]["model"]) is dict and type(found["cfg"]["list"]) is list
    assert [line.split(" in ")[0] for line in lines] == [
        "turned into a plain value: omegaconf.nodes.AnyNode",
        "turned into a plain dictionary: omegaconf.dictconfig.DictConfig",
        "turned into a plain list: omegaconf.listconfig.ListConfig",
    ]


def test_enums_of_fairseq(tmp_path: Path) -> None:
    from fairseq.dataclass.constants import StrEnum

    found, lines = cleaned(tmp_path, {"model": {}, "args": Namespace(ddp=Runs(StrEnum, ("no_c10d",)), a=1)})
    assert found["args"] == Namespace(ddp="no_c10d", a=1)
    assert lines == ["turned into its value: fairseq.dataclass.constants.StrEnum in args.ddp"]


def test_code_is_dropped_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    found, lines = cleaned(
        tmp_path,
        {
            "model": {"w": torch.ones(2)},
            "args": Namespace(lr=Runs(eval, (f"open({str(marker)!r}, 'w')",)), seed=1),
            "extra_state": {"x": Runs(os.system, (f"touch {marker}",)), "y": [fractions.Fraction(1, 2), 3]},
        },
    )
    assert not marker.exists()
    assert (found["args"], found["extra_state"]) == (Namespace(seed=1), {"y": [3]})
    assert lines == [
        "dropped: builtins.eval in args.lr",
        "dropped: posix.system in extra_state.x",
        "dropped: fractions.Fraction in extra_state.y[0]",
    ]


def test_an_object_among_the_weights(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2), "v": fractions.Fraction(1)}}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError) as error:
        clean_checkpoint(tmp_path / "old.pt", tmp_path / "new.pt")
    assert str(error.value) == (
        f"{tmp_path / 'old.pt'}: model.v is an object of fractions.Fraction, which cannot be turned into plain "
        "numbers; save the checkpoint again where it came from"
    )
    assert not (tmp_path / "new.pt").exists()


def test_nothing_to_do_and_nowhere_to_write(tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "old.pt")
    assert clean_checkpoint(tmp_path / "old.pt", tmp_path / "new.pt") == ["there was nothing to change"]
    old, new = (Checkpoint.read(tmp_path / name) for name in ("old.pt", "new.pt"))
    assert all(old.weights[name].equal(new.weights[name]) for name in old.weights) and old.options == new.options
    with pytest.raises(CheckpointError, match="old.pt: would replace what is read; choose another file$"):
        clean_checkpoint(tmp_path / "old.pt", tmp_path / "old.pt")


@pytest.mark.slow
def test_what_was_cleaned_trains_validates_and_is_scored(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """As fairseq of early 2021 saved it, with numpy's numbers; from our command line."""
    state = torch.load(finetuned / "checkpoint_last.pt", map_location="cpu", weights_only=True)
    state["cfg"] = OmegaConf.create(state["cfg"])
    state["extra_state"]["val_loss"] = np.float64(1.5)
    torch.save(state, tmp_path / "old.pt")
    done = run("fairseq-cloze", "clean", tmp_path / "old.pt", tmp_path / "new.pt")
    assert done.text.endswith(f"in extra_state.val_loss\nwrote {tmp_path / 'new.pt'}\n")
    results = []
    for path in (finetuned / "checkpoint_last.pt", tmp_path / "new.pt"):
        ran = run("fairseq-cloze", "evaluate", path, data_bin, "--device", "cpu")
        results.append([line for line in ran.text.splitlines() if "accuracy" in line][0].split(" in ")[0])
        [row] = validate(data_bin, path, "--batch-size", 8).metrics("valid")
        results.append(row["accuracy"])
    assert results[:2] == results[2:]
    options = (*FINETUNE, "--max-update", 1, "--finetune-from-model", tmp_path / "new.pt")
    assert "weights are those of" in train(data_bin, tmp_path / "save", *options).text
