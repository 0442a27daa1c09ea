"""What is made belongs to the content of its inputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.encoding import EncodingOptions
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.training.inputs import Inputs, claim, read_inputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "w", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.json").write_text(name)
    return tmp_path


def claimed(train: str = "a", valid: str = "b", weights: str = "w", out: str = "out") -> str:
    """What a call says that fails."""
    try:
        claim(Path(out), read_inputs(train, weights, [valid]))
    except ClozeError as error:
        return str(error)
    return ""


def refused(*names: str) -> str:
    return f"out: was made from other inputs ({', '.join(names)}); choose another --out, or remove that folder first"


def test_how_passages_are_prepared(folder: Path) -> None:
    """What changes the data-bin belongs to the folder; what does not, and what was usual before, may change."""

    def claimed(**preparing: Any) -> str:
        try:
            claim(Path("out"), read_inputs("a", "w", preparing=preparing))
        except ClozeError as error:
            return str(error)
        return ""

    french = EncodingOptions("none", True, "fr")
    assert claimed(options=EncodingOptions(), blank=None, on_error="stop", workers=None) == claimed() == ""
    (folder / "out" / "data-bin").mkdir()
    assert claimed(options=EncodingOptions(), blank=None, on_error="skip", workers=3) == claimed() == ""
    assert claimed(options=french) == refused("--text-norm", "--sentence-case", "--language")
    assert claimed(blank="#") == refused("--blank")
    (folder / "out" / "data-bin").rmdir()
    assert claimed(options=french, blank="#") == ""
    (folder / "out" / "data-bin").mkdir()
    assert claimed(options=french, blank="#") == ""
    assert claimed(options=french, blank="##") == refused("--blank")
    assert claimed(options=french) == refused("--blank")


def test_nothing_made_yet(folder: Path) -> None:
    """Who has mistyped a name tries again."""
    assert claimed(weights="mistyped") == claimed() == ""
    (folder / "out" / "seed1").mkdir()
    assert claimed() == "" and claimed(weights="mistyped") == refused("--pretrained")


def test_prepared_data_belongs_to_its_inputs(folder: Path) -> None:
    """By content, not by name or time: the same elsewhere goes on, anything else is refused in one line."""
    assert claimed() == ""
    (folder / "out" / "data-bin").mkdir()
    assert claimed() == ""
    shutil.copytree(folder / "a", folder / "copy")
    (folder / "copy" / ".hidden").touch()
    assert claimed("copy") == ""
    assert claimed("other") == refused("passages")
    assert claimed("a", "a", "roberta-base") == refused("--valid", "--pretrained")
    (folder / "copy" / "deep" / "x.json").rename(folder / "copy" / "deep" / "y.json")
    assert claimed("copy") == refused("passages")
    assert claimed("none") == "none: no such file or folder; expected a data-bin, or passages to train on"
    assert claimed("a", "none", out="new") == "--valid: none: no such file or folder; check the path"
    assert not (folder / "new").exists()
    (folder / "out" / "inputs.txt").unlink()  # nobody knows of what
    assert claimed() == refused("passages", "--valid", "--pretrained")


def test_another_split_is_another_input(folder: Path) -> None:
    claim(Path("out"), read_inputs("a", "w", ["b"]))
    (folder / "out" / "weights").mkdir()
    with pytest.raises(ClozeError) as error:
        claim(Path("out"), read_inputs("a", "w", ["b"], ["other"]))
    assert str(error.value) == refused("--test")


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "a" / "gone.json").symlink_to("nowhere")
    with pytest.raises(ClozeError) as error:
        claim(Path("out"), read_inputs("a", "w"))
    assert str(error.value) == "a/gone.json: cannot be read (No such file or directory); check the file"


@pytest.mark.timeout(30)
def test_what_would_be_waited_for_or_walked_for_ever(folder: Path) -> None:
    assert claimed() == ""
    (folder / "out" / "weights").mkdir()
    for name in ("here", "again"):
        (folder / "a" / name).symlink_to(".")  # each folder is looked at once
    assert claimed() == ""
    os.mkfifo(folder / "b" / "x.json")
    assert claimed() == "b/x.json: cannot be read (is a pipe, no file); check the file"


def test_splits_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("dev.jsonl", "test.json", "other.jsonl"):
        (tmp_path / name).touch()
    train, dev, test, other = (tmp_path / name for name in ("train", "dev.jsonl", "test.json", "other.jsonl"))
    assert read_inputs(tmp_path, "w") == Inputs("w", passages={"train": [train], "valid": [dev], "test": [test]})
    given = read_inputs(tmp_path, "w", [str(other), str(dev)])
    assert given.passages == {"train": [train], "valid": [other, dev], "test": [test]}
    assert read_inputs(train, "w").passages == {"train": [train]}


def test_what_a_folder_holds_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with pytest.raises(ClozeError) as error:
        read_inputs(tmp_path, "w")
    assert str(error.value) == f"{tmp_path}: expected passages to train on, as 'train', beside test; found none"
    for name in ("train.jsonl", "valid.jsonl", "dev.json"):
        (tmp_path / name).touch()
    with pytest.raises(ClozeError) as error:
        read_inputs(tmp_path, "w")
    assert str(error.value) == (
        f"{tmp_path}: expected one 'valid', found valid.jsonl and dev.json; name the one that is meant with --valid"
    )
    assert read_inputs(tmp_path, "w", [str(tmp_path / "dev.json")]).passages == {
        "train": [tmp_path / "train.jsonl"],
        "valid": [tmp_path / "dev.json"],
        "test": [tmp_path / "test"],
    }
    (tmp_path / "train").mkdir()
    with pytest.raises(ClozeError, match=r"expected one 'train', found train and train.jsonl; leave one of them there"):
        read_inputs(tmp_path, "w", [str(tmp_path / "dev.json")])


def test_a_data_bin_has_its_splits(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert read_inputs(tmp_path, "w") == Inputs("w", data_bin=tmp_path)
    with pytest.raises(ClozeError) as error:
        read_inputs(tmp_path, "w", ["x"])
    assert str(error.value) == (
        f"{tmp_path}: a data-bin has its own splits; leave out --valid and --test, or give passages"
    )
    preparing = {"options": EncodingOptions(language="fr"), "blank": None, "on_error": "skip", "workers": None}
    with pytest.raises(ClozeError) as error:
        read_inputs(tmp_path, "w", preparing=preparing)
    assert str(error.value) == (
        f"{tmp_path}: a data-bin is prepared already; leave out --on-error, --language, or give passages"
    )
    claim(tmp_path / "out", read_inputs(tmp_path, "w"))
    (tmp_path / "out" / "checkpoints").mkdir()
    (tmp_path / "manifest.json").write_text("{} ")
    with pytest.raises(ClozeError, match=r"was made from other inputs \(data-bin\)"):
        claim(tmp_path / "out", read_inputs(tmp_path, "w"))
