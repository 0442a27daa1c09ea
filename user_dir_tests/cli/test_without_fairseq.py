"""Every command but train and fit-batch where there is no fairseq, and what each of them loads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES, ROOT, run

#: A ``sitecustomize`` in whose processes these packages are not installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name.split(".")[0] in ("fairseq", "hydra", "omegaconf", "sklearn", "torchaudio")
        return None if gone else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""

#: Commands in one process; prints a line of JSON for each: its name, and which of some modules have been loaded so far.
COMMANDS = """
import json, sys
from fairseq_cloze import cli

NAMED = {named}

if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        try:
            cli.main(command, standalone_mode=False)
        except SystemExit as ended:
            assert not ended.code, command
        loaded = [name for name in NAMED if name in sys.modules]
        print("loaded", json.dumps([command[0], loaded]), flush=True)
"""

#: What takes long to load, or is not everybody's.
HEAVY = (
    *("torch", "torch._dynamo", "torch._inductor", "fairseq", "sklearn", "hydra", "matplotlib", "transformers"),
    *("huggingface_hub", "safetensors", "watchdog", "yagmail", "lemminflect", "textblob", "playwright"),
    *("apprise", "docx", "pandas", "pyarrow", "scipy", "sympy", "tensorboardX", "uvicorn"),
)


def loaded(folder: Path, *commands: list[Any]) -> dict[str, list[str]]:
    """Run commands in one process without fairseq; which modules of :data:`HEAVY` were there after each."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(WITHOUT)
    (folder / "commands.py").write_text(COMMANDS.format(named=HEAVY))
    texts = json.dumps([[str(word) for word in command] for command in commands])
    ran = run(
        sys.executable, folder / "commands.py", texts, cwd=folder, env={"PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    )
    lines = [line.removeprefix("loaded ") for line in ran.text.splitlines() if line.startswith("loaded ")]
    found = [json.loads(line) for line in lines]
    assert [name for name, _ in found] == [command[0] for command in commands], ran.text
    return {name: modules for name, modules in reversed(found)}  # of a command that ran twice, the first time


def test_commands_that_score(tmp_path: Path, pretrained: Path, data_bin: Path, hf_folder: Path) -> None:
    weights = pretrained / "model.pt"
    (tmp_path / "save").mkdir()
    shutil.copy(weights, tmp_path / "save" / "checkpoint_last.pt")
    found = loaded(
        tmp_path,
        ["predict", weights, PASSAGES / "test", "--out", "answers.json", "--scores"],
        ["evaluate", f"{weights}:{weights}", data_bin, "--split", "test", "--predictions", "predictions.json"],
        ["average", weights, _other(weights, tmp_path / "other.pt"), "--out", "mean.pt"],
        ["export-hf", weights, "--out", "hf"],
        ["evaluate", "hf", data_bin],
        ["watch", "save", data_bin, "--until-idle", "1s"],
        ["report", "save", "predictions.json", "--passages", data_bin, "--out", "report.html"],
        ["import-hf", hf_folder, "--out", "again"],
    )
    assert found["predict"] == found["evaluate"] == found["average"] == ["torch"]
    assert found["export-hf"] == ["torch", "safetensors"]
    assert "transformers" in found["import-hf"]  # which proves the import
    drawing_and_listening = {"matplotlib", "watchdog"}  # of the watch
    assert {*found["report"]} - drawing_and_listening == {"torch", "safetensors"}
    scored = json.loads((tmp_path / "save" / "validation.jsonl").read_text().splitlines()[-1])
    assert (scored["checkpoint"], scored["n_blanks"]) == ("checkpoint_last.pt", 102)


def _other(weights: Path, path: Path) -> Path:
    """A checkpoint of the same run whose weights are a little different."""
    state = Checkpoint.read(weights).state
    torch.save({**state, "model": {name: value * 1.001 for name, value in state["model"].items()}}, path)
    return path


def test_commands_without_torch(tmp_path: Path, pretrained: Path) -> None:
    answers = {"a2-a-card": {"answers": ["A", "B"], "gold": ["A", "A"]}}
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps(answers))
    found = loaded(
        tmp_path,
        ["mail", "flush"],
        ["train", "--help"],
        ["compare", "one.json", "two.json"],
        ["learn-bpe", PASSAGES / "valid", "--size", "400", "--out", "bpe"],
        ["prepare", "--valid", PASSAGES / "valid", "--pretrained", pretrained, "--out", "bin", "--workers", "1"],
        ["report", "one.json", "--out", "report.html"],
        ["run", "--", "true"],
    )
    assert found == {name: [] for name in ("mail", "train", "compare", "learn-bpe", "prepare", "report", "run")}


@pytest.mark.slow
def test_generate_and_the_doctor(tmp_path: Path) -> None:
    prose, weights = (ROOT / "examples" / name for name in ("prose", "pretrained/mini/model.pt"))
    options = ("--limit", "2", "--workers", "1")
    found = loaded(
        tmp_path,
        ["generate", prose, "--out", "out.jsonl", *options],
        ["generate", prose, "--out", "judged.jsonl", *options, "--lm", weights],
        ["doctor", weights],
    )
    theirs = "scipy"  # textblob's, where it is installed
    assert [name for name in found["generate"] if name != theirs] == ["lemminflect", "textblob"]
    assert [name for name in found["doctor"] if name != theirs] == ["torch", "lemminflect", "textblob"]
    assert len((tmp_path / "judged.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "fairseq_cloze", "fit-batch", "bin"),
        ("-m", "fairseq_cloze", "train", "bin", "--pretrained", "weights", "--out", "out"),
        ("-c", "import fairseq_cloze; fairseq_cloze.register()"),
    ],
)
def test_training_says_what_to_install(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    done = run(sys.executable, *command, code=1, cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.text == "Error: fairseq is not installed: pip install ve-fairseq==0.12.3\n"
