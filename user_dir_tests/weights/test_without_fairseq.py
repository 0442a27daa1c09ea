"""Commands that work with files of weights need no fairseq, and do not load it where it is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import run

SCRIPT = """
import json, sys
from fairseq_cloze.cli import main

for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        print(words[0], "exit", end.code)
    print("loaded", sorted({"fairseq", "sklearn", "transformers"} & {name.split(".")[0] for name in sys.modules}))
"""


def test_average_doctor_import_and_export(tmp_path: Path, pretrained: Path, hf_folder: Path) -> None:
    first, second = pretrained / "model.pt", tmp_path / "second.pt"
    state = Checkpoint.read(first).state
    state["model"] = {name: value + 0.5 for name, value in state["model"].items()}
    torch.save(state, second)
    source = tmp_path / "hf"
    shutil.copytree(hf_folder, source)
    commands = [
        ["export-hf", first, "--out", tmp_path / "exported"],
        ["average", first, second, "--out", tmp_path / "mean.pt"],
        ["doctor", first],
        ["import-hf", source, "--out", tmp_path / "imported"],  # which is proved by transformers
    ]
    done = run("python", "-c", SCRIPT, json.dumps([[str(word) for word in words] for words in commands]))
    lines = done.text.splitlines()
    assert [line for line in lines if line.startswith(("loaded", "wrote")) or " exit " in line] == [
        f"wrote {tmp_path / 'exported'}, load it with transformers.RobertaForMaskedLM.from_pretrained",
        "export-hf exit 0",
        "loaded []",
        f"wrote {tmp_path / 'mean.pt'}, the mean of 2 checkpoints",
        "average exit 0",
        "loaded []",
        "doctor exit 3",
        "loaded []",
        f"wrote {tmp_path / 'imported' / 'model.pt'}",
        "import-hf exit 0",
        "loaded ['sklearn', 'transformers']",
    ]
