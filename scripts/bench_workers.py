#!/usr/bin/env python3
"""What a second process brings where each has one core: evaluation and training, one process and two in turns.

    python scripts/bench_workers.py --json workers.json

Both do the same work: evaluation the same batches, training the same updates, as the one process accumulates two
batches (``--update-freq 2``) where two have one each.  Start-up does not count.  Without options, the example passages
and the model in examples/pretrained/mini.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "examples" / "pretrained" / "mini"
PASSAGES = ROOT / "examples" / "passages" / "train"
TRAINING = (
    *("--user-dir", str(ROOT / "fairseq_cloze"), "--task", "cloze_ranking", "--criterion", "cloze_ranking"),
    *("--arch", "cloze_roberta", "--optimizer", "fused_adamw", "--lr", "1e-5", "--num-workers", "0", "--no-save"),
    *("--disable-validation", "--log-format", "none"),
)


def launch(processes: int, script: Sequence[Any]) -> str:
    """Run a Python script or module, one thread per process, in one process or in several under torchrun."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    ran = subprocess.run([*launcher, *map(str, script)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = ran.stdout.decode(errors="replace")
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, script))}: exit status {ran.returncode}\n{text}")
    return text


def prepare(passages: Path, weights: Path, most: int, folder: Path) -> Path:
    """A data-bin of the first *most* passage files."""
    chosen = folder / "passages"
    chosen.mkdir()
    for number, path in enumerate(sorted(passages.rglob("*.json"))[:most]):
        (chosen / f"{number}.json").symlink_to(path.resolve())
    options = ("--train", chosen, "--pretrained", weights, "--out", folder / "bin")
    launch(1, ("-m", "fairseq_cloze", "prepare", *options))
    return folder / "bin"


def evaluation(processes: int, model: Path, data_bin: Path, folder: Path) -> dict[str, float]:
    """Evaluate once; blanks per second while scoring, and the accuracy, which must not depend on the processes."""
    out = folder / "evaluation.json"
    launch(processes, ("-m", "fairseq_cloze", "evaluate", model, data_bin, "--split", "train", "--json", out))
    result = json.loads(out.read_text())
    return {"blanks_per_second": result["blanks_per_second"], "accuracy": result["accuracy"]}


def training(processes: int, model: Path, data_bin: Path, folder: Path, updates: int, max_tokens: int) -> float:
    """Train for some updates; updates per second, the first one not counted."""
    save_dir = folder / "save"
    shutil.rmtree(save_dir, ignore_errors=True)
    options = ("--finetune-from-model", model, "--save-dir", save_dir, "--max-tokens", max_tokens)
    options += ("--max-update", updates, "--update-freq", 2 // processes)
    text = launch(processes, (__file__, "--child", data_bin, *TRAINING, *options))
    return float(json.loads(text.splitlines()[-1])["updates_per_second"])


def _train(arguments: list[str]) -> None:
    """fairseq-train with a clock."""
    from fairseq_cloze import register
    from fairseq_cloze.plugin import distributed

    register()
    import importlib

    from fairseq.trainer import Trainer

    train = importlib.import_module("fairseq_cli.train")
    register()
    times: list[float] = []
    plain = Trainer.train_step

    def step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        out = plain(self, samples, raise_oom)
        times.append(time.perf_counter())
        return out

    Trainer.train_step = step
    sys.argv[1:] = arguments
    train.cli_main()
    if distributed.rank() == 0:
        speed = (len(times) - 1) / (times[-1] - times[0])
        print("\n" + json.dumps({"updates_per_second": speed}), flush=True)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both, *rounds* times in turns; medians and their ratios."""
    data_bin = prepare(arguments.passages, arguments.weights, arguments.most, folder)
    model = arguments.weights / "model.pt"
    scored: dict[int, list[float]] = {1: [], 2: []}
    trained: dict[int, list[float]] = {1: [], 2: []}
    accuracies = set()
    for _ in range(arguments.rounds):
        for processes in (1, 2):
            found = evaluation(processes, model, data_bin, folder)
            scored[processes].append(found["blanks_per_second"])
            accuracies.add(found["accuracy"])
        for processes in (1, 2):
            speed = training(processes, model, data_bin, folder, arguments.updates, arguments.max_tokens)
            trained[processes].append(speed)
    if len(accuracies) != 1:
        raise SystemExit(f"accuracy depends on the number of processes: {sorted(accuracies)}")
    out: dict[str, Any] = {"weights": str(arguments.weights), "rounds": arguments.rounds}
    for name, unit, found_by in (("evaluation", "blanks/s", scored), ("training", "updates/s", trained)):
        one, two = (statistics.median(found_by[processes]) for processes in (1, 2))
        out[name] = {"unit": unit, "one": found_by[1], "two": found_by[2], "ratio": two / one}
    return out


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        _train(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=MINI, help="folder of import-hf")
    parser.add_argument("--passages", type=Path, default=PASSAGES, help="folder of passages")
    parser.add_argument("--most", type=int, default=200, help="passage files to take")
    parser.add_argument("--updates", type=int, default=8, help="updates of each training")
    parser.add_argument("--max-tokens", type=int, default=6144, help="tokens of a batch in training")
    parser.add_argument("--rounds", type=int, default=3, help="how often one process and two take turns")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    for name in ("evaluation", "training"):
        found = figures[name]
        one, two = (" ".join(f"{speed:.2f}" for speed in found[key]) for key in ("one", "two"))
        print(f"{name}: one process {one}, two {two} {found['unit']}; {found['ratio']:.2f} times")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
