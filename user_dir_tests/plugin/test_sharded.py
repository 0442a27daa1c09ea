"""``--ddp-backend fully_sharded``, in two real processes on the CPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ..support.commands import ROOT, TRAIN_OPTIONS, Ran, run, torchrun

#: fairseq-train several times in one process; after each update, what memory the process keeps.
TRAIN = """
import gc, json, sys, torch
from fairseq_cloze import register
from fairseq_cloze.ranking import sharing as workers
register()
from fairseq.trainer import Trainer
from fairseq_cli import train
register()

plain, plain_types = Trainer.train_step, (torch.Tensor, torch.nn.Parameter)

def kept(tensors):
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())

def step(self, samples):
    out = plain(self, samples)
    parameters = list(self.model.parameters())
    state = [value for entry in self.optimizer.optimizer.state.values() for value in entry.values()]
    sizes = {
        "parameters": kept(parameters),
        "gradients": kept(p.grad for p in parameters if p.grad is not None),
        "optimizer": kept(value for value in state if torch.is_tensor(value)),
        "all": kept(t for t in gc.get_objects() if type(t) in plain_types and t.is_floating_point()),
    }
    print("kept " + json.dumps([workers.find_place().rank, sizes]) + "\\n", end="", flush=True)
    return out

Trainer.train_step = step
for options in json.loads(sys.argv[1]):
    if workers.find_place().rank == 0:
        print("run", flush=True)
    sys.argv[1:] = options
    train.cli_main()
    gc.collect()
"""


def trained(folder: Path, *runs: list[Any]) -> list[Ran]:
    """Train with each of some options, all in the same two processes; what each run printed."""
    (folder / "train.py").write_text(TRAIN)
    options = [[str(option) for option in run] for run in runs]
    ran = torchrun(folder / "train.py", json.dumps(options), env={"PYTHONPATH": str(ROOT)})
    return [Ran(0, text) for text in re.split(r"^run$", ran.text, flags=re.M)[1:]]


def kept(ran: Ran, rank: int) -> dict[str, int]:
    """Bytes that a process keeps after its last update."""
    sizes = [json.loads(line) for line in re.findall(r"^kept (.*)$", ran.text, re.M)]
    found: dict[str, int] = [size for number, size in sizes if number == rank][-1]
    return found


def curve(ran: Ran) -> list[Any]:
    return [(row["loss"], row["gnorm"], row["n_blanks"]) for row in ran.metrics("train_inner")]


def test_sharded_trains_as_unsharded(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """The same curve, gradient norms and checkpoints, with half the memory; and each goes on from the other's."""
    options = [data_bin, *TRAIN_OPTIONS, "--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt"]
    options += ["--dropout", "0", "--attention-dropout", "0", "--batch-size", "3", "--no-epoch-checkpoints"]
    options += ["--clip-norm", "0.5", "--disable-validation", "--update-freq", "2", "--ddp-backend"]
    sharded, plain = (
        [[*options, backend, "--save-dir", tmp_path / backend, "--max-update", updates] for updates in (3, 6)]
        for backend in ("fully_sharded", "legacy_ddp")
    )
    # Each begins, and goes on from what the other one has saved.
    for runs, other in ((sharded, "legacy_ddp"), (plain, "fully_sharded")):
        runs[1][runs[1].index("--save-dir") + 1] = tmp_path / other
    first, second, third, fourth = trained(tmp_path, sharded[0], plain[0], sharded[1], plain[1])
    assert len(curve(first)) == len(curve(second)) == len(curve(third)) == len(curve(fourth)) == 3
    for ours, theirs in ((first, second), (third, fourth)):
        assert [row[0] for row in curve(ours)] == pytest.approx([row[0] for row in curve(theirs)], abs=1e-5)
        assert [row[1] for row in curve(ours)] == pytest.approx([row[1] for row in curve(theirs)], rel=1e-3)
        assert [row[2] for row in curve(ours)] == [row[2] for row in curve(theirs)]
    for ran in (first, second, third, fourth):
        assert ran.text.count("weights are those of") == 1
    states = [
        torch.load(tmp_path / backend / "checkpoint_last.pt", weights_only=True)
        for backend in ("fully_sharded", "legacy_ddp")
    ]
    assert list(states[0]["model"]) == list(states[1]["model"])
    for name, value in states[0]["model"].items():
        assert torch.allclose(value, states[1]["model"][name], atol=1e-4), name
    sizes = [(tmp_path / name / "checkpoint_last.pt").stat().st_size for name in ("fully_sharded", "legacy_ddp")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    for rank in (0, 1):
        ours, theirs = kept(first, rank), kept(second, rank)
        for part in ("parameters", "gradients", "optimizer"):
            assert ours[part] == pytest.approx(theirs[part] / 2, rel=0.01), (rank, part)
        assert ours["all"] < 0.6 * theirs["all"]  # nothing whole is left anywhere


@pytest.mark.slow
def test_what_it_cannot(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    options = (*TRAIN_OPTIONS, "--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt")
    command = ("fairseq-train", data_bin, *options, "--save-dir", tmp_path, "--batch-size", "3")
    ran = run(*command, "--ddp-backend", "fully_sharded", code=1)
    assert ran.text.splitlines()[-1] == (
        "Error: --ddp-backend fully_sharded needs several processes; start them with torchrun"
    )
    ran = run(*command, "--ddp-backend", "fully_sharded", "--use-sharded-state", code=1)
    assert ran.text.splitlines()[-1] == (
        "Error: --ddp-backend fully_sharded does not go together with --use-sharded-state; leave it out"
    )
