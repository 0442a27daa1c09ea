"""What comes along to try, from a clone and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fairseq_cloze import ClozeError, SetupError
from fairseq_cloze.cli import examples

from ..support.commands import ROOT


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Name → size and mode; what Python leaves beside modules is not counted."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mode) for path in found}


def test_a_whole_copy_and_nothing_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "copy"
    examples.copy_examples(out)
    assert files(out) == files(ROOT / "examples")
    with pytest.raises(ClozeError) as error:
        examples.copy_examples(out)
    assert str(error.value) == f"{out}: is there already; choose another --out, or remove it first"
    assert [path.name for path in out.parent.iterdir()] == ["copy"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, target: Path, **_: object) -> None:
        target.mkdir()
        (target / "half").touch()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("shutil.copytree", broken)
    with pytest.raises(ClozeError, match=f"^{tmp_path}/copy: cannot be written .No space left on device."):
        examples.copy_examples(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a copied --user-dir is; a folder of another project that is called examples is none of ours."""
    (tmp_path / "examples").mkdir()
    monkeypatch.setattr(examples, "_PLACES", (tmp_path / "none", tmp_path / "examples"))
    with pytest.raises(SetupError, match="^.*/fairseq_cloze: examples are in the wheel and in the repository, not"):
        examples.copy_examples(tmp_path / "copy")


@pytest.mark.slow
def test_a_wheel_has_them(tmp_path: Path) -> None:
    """A wheel that is made of the source distribution, as ``python -m build`` does."""
    make = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    copy = tmp_path / "copy"
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]
    for name in names:
        if not name.startswith((".", "user_dir_tests/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
            (copy / name).chmod((ROOT / name).stat().st_mode)
    subprocess.check_output([sys.executable, "-c", make, "build_sdist", str(tmp_path)], cwd=copy)
    [packed] = tmp_path.glob("*.tar.gz")
    subprocess.check_call(["tar", "xzf", str(packed), "-C", str(tmp_path)])
    [source] = tmp_path.glob("fairseq_cloze-*/")
    subprocess.check_output([sys.executable, "-c", make, "build_wheel", str(tmp_path)], cwd=source)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    expected = {name: (ROOT / name).stat().st_size for name in names if name.startswith("examples/")}
    prefix = "fairseq_cloze/examples/"
    assert {name: size for name, size in sizes.items() if name.startswith(prefix)} == {
        f"fairseq_cloze/{name}": size for name, size in expected.items()
    }
    package = {name for name in names if name.startswith("fairseq_cloze/")}
    assert {name for name in sizes if not name.startswith((prefix, "fairseq_cloze-"))} == package
