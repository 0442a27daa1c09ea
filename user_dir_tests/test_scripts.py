"""The scripts people and CI run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from .conftest import BIN, ROOT, run


def test_gpu_check_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = run("bash", ROOT / "scripts" / "gpu_check.sh", code=3, env={"VENV": str(BIN.parent)})
    assert ran.text == (
        "no CUDA GPU at hand: nothing was checked (--device cpu --measure tiny runs the same steps on the CPU)\n"
    )


def test_gpu_check_on_the_cpu(tmp_path: Path) -> None:
    """Everything the script does on a GPU, it does on a CPU, but for training in half precision."""
    out = tmp_path / "result.json"
    options = ("--device", "cpu", "--measure", "tiny", "--json", out)
    ran = run("bash", ROOT / "scripts" / "gpu_check.sh", *options, env={"VENV": str(BIN.parent)})
    result = json.loads(out.read_text())
    assert all(result["checks"].values()) and len(result["checks"]) == 11
    assert result["training"]["first run"]["updates"] == result["training"]["resumed run"]["updates"] == 60
    assert result["validation"]["validate-fp16"]["n_blanks"] == 405
    assert result["evaluation"]["cpu"]["n_blanks"] == result["evaluation"]["cpu-fp16"]["n_blanks"] == 605
    assert 0 < result["evaluation"]["cpu-fp16"]["largest difference of a probability"] < 0.05
    assert result["evaluation"]["cpu"]["accuracy"] > 95
    assert result["speed"]["tiny"]["tokens_per_second"] > 0
    assert ran.text.splitlines()[-1] == f"0 checks failed; wrote {out}"


def test_quickstart_in_a_copy(tmp_path: Path) -> None:
    """The whole script, from a copy of the repository, with an environment that is already set up.

    What an earlier run left, complete or not, goes.
    """
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "work", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "bin").symlink_to(BIN)
    checksum = run("cksum", cwd=copy, stdin=open(copy / "pyproject.toml")).text.strip()
    (venv / "installed").write_text(f"fairseq {checksum}\n")
    left = copy / "work" / "quickstart" / "checkpoints" / "checkpoint_last.pt"
    left.parent.mkdir(parents=True)
    left.write_text("half a checkpoint")
    (copy / "work" / "quickstart" / "data-bin").mkdir()
    ran = run("bash", "scripts/quickstart.sh", cwd=copy, env={"VENV": str(venv), "QUICKSTART_UPDATES": "20"})
    lines = ran.text.splitlines()
    start = lines.index("== result") + 1
    assert [line.split()[:2] for line in lines[start : start + 4]] == [
        ["split", "blanks"],
        ["train", "405"],
        ["valid", "102"],
        ["test", "98"],
    ]
    assert any(line.startswith("update 20, epoch ") for line in lines)
    assert any(line.startswith("loss ") and "| n_blanks 102 |" in line for line in lines)
    answers = json.loads((copy / "work" / "quickstart" / "answers.json").read_text())
    assert sum(map(len, answers.values())) == 98
