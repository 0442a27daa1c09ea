"""Processes that torchrun, and a stand-in for srun, start together: real ones, that share work, fail and are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.errors import SetupError
from fairseq_cloze.ranking.sharing import Place, find_place
from fairseq_cloze.runs.lock import RunState, run_state

from ..support.commands import (
    FINETUNE,
    PASSAGES,
    ROOT,
    TRAIN_OPTIONS,
    Ran,
    free_port,
    read_until,
    run,
    start,
    torchrun,
    train,
)
from ..support.warm import TORCH

SLURM = ROOT / "user_dir_tests" / "support" / "slurm"  # stand-ins for srun and scontrol


def slurm_environment(path: str = os.environ["PATH"]) -> dict[str, str]:
    """What SLURM tells a batch script of two tasks."""
    return {
        "PATH": f"{SLURM}:{Path(sys.executable).parent}:{path}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(free_port()),
    }


# -- what launchers say ----------------------------------------------------------------------------------------------

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SRUN = {
    **{"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"},
    **{"SLURM_JOB_ID": "1000", "SLURM_STEP_ID": "2", "MASTER_ADDR": "node7"},
}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, None),
        (TORCHRUN, Place(3, 4, 1, "env://", "torchrun")),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        (SRUN, Place(3, 4, 1, "tcp://node7:22002", "srun")),
        ({**SRUN, "MASTER_PORT": "3333"}, Place(3, 4, 1, "tcp://node7:3333", "srun")),
        ({**SRUN, **TORCHRUN}, Place(3, 4, 1, "env://", "torchrun")),  # torchrun in a task of srun
        ({name: value for name, value in SRUN.items() if "STEP" not in name}, None),  # the batch script itself
    ],
)
def test_places(environ: dict[str, str], place: Place | None) -> None:
    assert find_place(environ) == place


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "4"}, "RANK: expected a number below WORLD_SIZE, which is 4, found 4"),
        ({"RANK": ""}, "RANK: expected a number, found None; the launcher sets it"),
        (
            {"MASTER_PORT": ""},
            "WORLD_SIZE is 4, but MASTER_PORT is not set; start all processes with torchrun, or unset WORLD_SIZE to "
            "run this one alone",
        ),
    ],
)
def test_places_that_cannot_be(change: dict[str, str], words: str) -> None:
    with pytest.raises(SetupError) as caught:
        find_place({**TORCHRUN, **change})
    assert str(caught.value) == words


# -- scoring ---------------------------------------------------------------------------------------------------------

#: Everything that scores, in one process after the other, or in two that share it.
SCORE = """
import sys
from pathlib import Path
from fairseq_cloze import cli
from fairseq_cloze.ranking import predict
from fairseq_cloze.ranking import sharing as workers

out, model, other, data, passages = sys.argv[1:]
if workers.find_place():
    out += " two"
Path(out).mkdir(exist_ok=True)
predict._CHUNK = 7

def scored(self, *args):
    sys.stdout.write(f"worker {workers.number()} of {workers.size()} scored a batch" + chr(10))
    sys.stdout.flush()
    return plain(self, *args)

from fairseq_cloze.ranking.member import Member
plain, Member._score_batch = Member._score_batch, scored
small = ["--batch-size", "3"]
for command in (
    ["evaluate", model, data, "--json", f"{out}/joint.json", "--predictions", f"{out}/joint", "--breakdown", *small],
    ["evaluate", f"{model}:{other}", data, "--fit-weights", "test", "--json", f"{out}/fitted.json", *small],
    ["evaluate", model, data, "--view", "full", "--split", "test", "--predictions", f"{out}/full"],
    ["predict", f"{model}:{other}", passages, "--scores", "--out", f"{out}/scores", *small],
    ["predict", model, str(min(Path(passages).iterdir())), "--out", f"{out}/one", *small],
):
    cli.main(command, standalone_mode=False)
"""

MEASURED = ("seconds", "blanks_per_second", "tokens_per_second")


def test_two_workers_score_as_one(tmp_path: Path, finetuned: Path, pretrained: Path, data_bin: Path) -> None:
    """The same numbers to the last digit, in JSON, predictions and on the screen; and each has done its share."""
    (tmp_path / "score.py").write_text(SCORE)
    passages = PASSAGES / "valid"
    weights = (finetuned / "checkpoint_last.pt", pretrained / "model.pt")
    script = (tmp_path / "score.py", tmp_path / "out", *weights, data_bin, passages)
    alone = run(sys.executable, *script, warm=TORCH)
    two = torchrun(tmp_path / "bin", *script)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("fitted.json", "full", "joint", "joint.json", "one", "scores")
    ]
    for path in (tmp_path / "out").iterdir():
        found = (tmp_path / "out two" / path.name).read_text()
        if path.suffix == ".json":
            values, expected = json.loads(found), json.loads(path.read_text())
            for name in MEASURED:
                assert values.pop(name) > 0 and expected.pop(name) > 0
            assert values == expected
        else:
            assert found == path.read_text()
    shown = {name: _shown(ran) for name, ran in (("alone", alone), ("two", two))}
    assert shown["alone"] == shown["two"]
    batches = re.findall(r"^worker (\d) of 2 scored a batch$", two.text, re.M)
    assert len(batches) == alone.text.count("worker 0 of 1 scored a batch")
    assert min(batches.count("0"), batches.count("1")) > len(batches) / 10


def _shown(ran: Ran) -> list[str]:
    """What a command printed, without times; workers' lines may interleave."""
    lines = [re.sub(r"[\d.]+ s, [\d,.]+ blanks/s", "", line) for line in ran.text.splitlines()]
    skipped = ("worker ",)
    return [line.replace("out two", "out") for line in lines if line and not line.startswith(skipped)]


# -- what goes wrong -------------------------------------------------------------------------------------------------

#: ``evaluate`` whose worker 1 is killed at its second batch.
EVALUATE = """
import os, signal, sys
from fairseq_cloze import cli
from fairseq_cloze.ranking import sharing as workers
from fairseq_cloze.ranking.member import Member

plain, batches = Member._score_batch, []

def scored(self, *args):
    batches.append(1)
    if workers.number() == 1 and len(batches) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *args)

Member._score_batch = scored
cli.main()
"""

#: The least that shares work: worker 1 finds something wrong; or both do; or they are different commands.
FAIL = """
import sys, click
from fairseq_cloze.ranking import sharing as workers
from fairseq_cloze.errors import ClozeError, OutOfMemory
from fairseq_cloze.cli import _Group

@click.group(cls=_Group)
def main():
    pass

def work(what):
    with workers.joined():
        if what == "both":
            raise ClozeError("no such checkpoint")
        if workers.number() == 1:
            raise OutOfMemory("worker 1 found something; mend it")
        workers.everybodys(1)
        print("never comes here")

_Group.get_command = lambda self, context, name: click.Command(name, callback=lambda: work(name))
main()
"""


def by_hand(*commands: Sequence[Any]) -> list[subprocess.Popen[str]]:
    """Processes that nobody looks after, with the variables of torchrun."""
    common = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        start(*command, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, warm=TORCH)
        for rank, command in enumerate(commands)
    ]


def ended(processes: list[subprocess.Popen[str]], *codes: int) -> list[list[str]]:
    """Wait for processes and check how they ended; what errors each has said."""
    texts = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == list(codes), texts
    assert not any("Traceback" in text or "never comes here" in text for text in texts), texts
    return [[line for line in text.splitlines() if line.startswith("Error")] for text in texts]


def test_one_worker_is_killed(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """The other one does not wait for it in vain."""
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    options = ("--split", "train", "--batch-size", "1", "--json", tmp_path / "result.json")
    command = (sys.executable, tmp_path / "evaluate.py", "evaluate", pretrained / "model.pt", data_bin, *options)
    [[error], []] = ended(by_hand(command, command), 1, -signal.SIGKILL)
    assert error.startswith("Error: worker 0 of 2 lost another one, which has ended (killed, out of memory?): ")
    assert not (tmp_path / "result.json").exists()


def test_one_worker_fails(tmp_path: Path) -> None:
    """What was wrong is said once, and its exit status is that of both."""
    (tmp_path / "fail.py").write_text(FAIL)
    command = (sys.executable, tmp_path / "fail.py", "one")
    assert ended(by_hand(command, command), 1, 5) == [[], ["Error: worker 1 found something; mend it"]]


def test_what_fails_everywhere_is_said_once(tmp_path: Path) -> None:
    """Under SLURM, too."""
    (tmp_path / "fail.py").write_text(FAIL)
    env = {**slurm_environment(), "PYTHONPATH": str(ROOT)}
    [errors] = ended([start("srun", "--wait=60", sys.executable, tmp_path / "fail.py", "both", env=env)], 1)
    assert errors == ["Error: no such checkpoint"]


def test_different_commands_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text(FAIL)
    commands = [(sys.executable, tmp_path / "fail.py", name) for name in ("this", "that")]
    assert sorted(ended(by_hand(*commands), 1, 1)) == [
        [],
        [
            "Error: processes started together (torchrun) share one command, but process 1 of 2 runs 'that' and "
            "process 0 'this'; to run commands apart, start each with env -u WORLD_SIZE"
        ],
    ]


# -- training --------------------------------------------------------------------------------------------------------


def command_of(data_bin: Path, save_dir: Path, pretrained: Path, *options: Any) -> Sequence[Any]:
    own = (*TRAIN_OPTIONS, *FINETUNE, "--finetune-from-model", pretrained / "model.pt", "--save-dir", save_dir)
    return ("fairseq-train", data_bin, *own, *options)


@pytest.mark.slow
def test_slurm_requeues_a_training(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    """USR1 for the step: both tasks save and end, the job goes back into the queue; the same job goes on."""
    batch = ("bash", ROOT / "examples" / "slurm" / "workers.sbatch")
    command = (*batch, *command_of(data_bin, tmp_path, pretrained, "--max-epoch", "200"))
    env = slurm_environment()
    process = start(*command, env=env)
    text = read_until(process, '"num_updates": "5"')
    [srun] = re.findall(r"^srun (\d+) started \d+ \d+$", text, re.M)
    os.kill(int(srun), signal.SIGUSR1)
    text += process.communicate()[0]
    assert process.returncode == 75, text
    assert text.splitlines()[-1] == f"scontrol requeue {env['SLURM_JOB_ID']}"
    assert run_state(tmp_path) is RunState.REQUEUED
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["distributed_training"]["distributed_world_size"] == 2
    updates = state["optimizer_history"][-1]["num_updates"]
    assert f"Stopped after update {updates}, as it was told to." in text


@pytest.mark.slow
def test_torchrun_told_to_stop(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    """TERM is passed on to the workers, which save and exit with 75; torchrun itself exits with 1 then."""
    command = command_of(data_bin, tmp_path, pretrained, "--max-epoch", "200")
    env = {"PYTHONPATH": str(ROOT)}
    script = Path(sys.executable).parent / command[0]
    process = start("torchrun", "--nproc-per-node", "2", "--master-port", free_port(), script, *command[1:], env=env)
    text = read_until(process, '"num_updates": "5"')
    process.send_signal(signal.SIGTERM)
    text += process.communicate()[0]
    assert process.returncode == 1, text
    assert "as it was told to." in text
    assert run_state(tmp_path) is RunState.REQUEUED
    again = train(data_bin, tmp_path, *FINETUNE, "--max-update", "6")
    assert "resuming from" in again.text
