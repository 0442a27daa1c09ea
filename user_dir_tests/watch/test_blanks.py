from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.errors import ClozeError, DataBinError
from fairseq_cloze.watch.blanks import Blanks


def test_the_digest_is_of_passages_and_vocabulary(data_bin: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(data_bin, copy)
    digest = Blanks(data_bin, "valid").digest
    assert Blanks(copy, "valid").digest == digest
    assert Blanks(data_bin, "test").digest != digest
    with pytest.raises(ClozeError, match="no split 'dev', found"):
        Blanks(copy, "dev")


def test_what_was_read_stays(data_bin: Path, tmp_path: Path) -> None:
    """Away, cut short under its reader, prepared anew."""
    copy = tmp_path / "bin"
    shutil.copytree(data_bin, copy)
    blanks, columns = Blanks(copy, "valid"), DataBin(data_bin).open("valid").columns
    digest = blanks.digest
    assert blanks.change() == ""
    (tmp_path / "bin").rename(tmp_path / "away")
    assert blanks.change() == "is away"
    shutil.copytree(data_bin, copy)
    assert blanks.change() == ""
    for path in (copy / "valid").iterdir():
        path.write_bytes(b"")
    for path in (tmp_path / "away" / "valid").iterdir():
        path.write_bytes(b"")
    assert {name: column.tolist() for name, column in blanks.open("valid").columns.items()} == {
        name: column.tolist() for name, column in columns.items()
    }
    assert blanks.digest == digest
    with open(copy / "manifest.json", "a") as file:
        file.write("\n")
    assert blanks.change() == "was prepared anew"
    with pytest.raises(DataBinError):
        Blanks(copy, "valid")
