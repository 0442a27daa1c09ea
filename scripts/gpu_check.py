"""What ``scripts/gpu_check.sh`` runs: the real commands on the example passages, and what they say of themselves.

Checks run beside each other where nothing is timed; speed and memory (``gpu_measure.py``) are measured after them,
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu_measure import Measures
from gpu_runs import PLUGIN, ROOT, SHAPES, log_rows, summarise

PASSAGES = ROOT / "user_dir_tests" / "support" / "passages"  # a fixed half of the examples

#: Options by type to compute in; half precision is trained on CUDA only.
PRECISIONS: dict[str, Sequence[str]] = {
    "fp32": (),
    "bf16": ("--autocast",),
    "fp16": ("--fp16",),
    "fp16, memory-efficient": ("--memory-efficient-fp16", "--optimizer", "adam"),
    "fp16, amp": ("--amp",),
}

#: Updates of the run that is checked, before and after it is resumed; enough to learn the passages by heart.
UPDATES = 60

#: Updates of each precision, and of a run without memory.
FEW_UPDATES = 12

#: Memory of the GPU, in GiB, that a run gets which is to run out of it.
LITTLE_MEMORY = 6

NO_GPU = 3


class Failed(Exception):
    """A command ended as it should not."""


class Check:
    """A run of all checks on one device.

    Args:
        device: ``cuda`` or ``cpu``; half precision is trained on ``cuda`` only
        work: folder to work in
        out: file that holds the results so far after every part
    """

    def __init__(self, device: str, work: Path, out: Path) -> None:
        self.device, self.work, self.out = device, work, out
        self.cuda = device == "cuda"
        self.results: dict[str, Any] = {"checks": {}}
        self.failures: list[str] = []
        self._writing = threading.Lock()

    def run(self, name: str, module: str, *options: Any, memory: float | None = None) -> str:
        """Run a command of fairseq or of this project; its output.

        Args:
            name: of its log
            module: ``train``, ``validate``, ... of fairseq, or ``fairseq-cloze``
            options: of the command
            memory: GiB of the GPU that it gets

        Raises:
            Failed: it ended with another exit status than 0
        """
        entry = {"fairseq-cloze": "fairseq_cloze.cli"}.get(module, f"fairseq_cli.{module}")
        function = "main" if module == "fairseq-cloze" else "cli_main"
        code = f"import sys; from {entry} import {function}; sys.argv[0] = {module!r}; sys.exit({function}())"
        if memory is not None:
            share = memory * 2**30 / torch.cuda.get_device_properties(0).total_memory
            code = f"import torch; torch.cuda.set_per_process_memory_fraction({share}); {code}"
        ran = self.python(name, "-c", code, *options)
        if ran.returncode:
            raise Failed(f"{name} ended with exit status {ran.returncode}:\n{ran.stdout[-3000:]}")
        return ran.stdout

    def python(self, name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """Run Python in the repository, and keep what it prints."""
        start = time.time()
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        (self.work / f"{name}.log").write_text(ran.stdout)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
        return ran

    def expect(self, what: str, holds: bool) -> None:
        """Record a check, and say it."""
        with self._writing:
            self.results["checks"][what] = bool(holds)
        print(f"{'ok' if holds else 'FAILED':8}{what}", flush=True)
        if not holds:
            self.failures.append(what)

    def record(self, name: str, value: Any) -> None:
        """Keep what was found; other parts write at the same time."""
        with self._writing:
            self.results[name] = value

    def part(self, function: Callable[[], None]) -> None:
        """Run some checks; what they raise is a failure, and the others go on."""
        try:
            function()
        except Exception as error:  # whatever it is, it belongs into the report
            print(f"{function.__name__}: {type(error).__name__}: {error}", flush=True)
            self.expect(f"{function.__name__} runs to its end", False)
        with self._writing:
            self.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def train(
        self, name: str, shape: str, updates: int, *options: Any, data: str = "bin", memory: float | None = None
    ) -> str:
        """A training of some updates from random weights; its log has a line per update."""
        layers, width, inner, heads = SHAPES[shape]
        given = (*options, *(() if "--optimizer" in options else ("--optimizer", "fused_adamw")))
        given = (*given, *(() if "--max-tokens" in options else ("--max-tokens", 8192)))
        given = (*given, *(() if "--log-interval" in options else ("--log-interval", 1)))
        return self.run(
            *(name, "train", self.work / data, *PLUGIN, "--criterion", "cloze_ranking", "--arch", "cloze_roberta"),
            *("--from-scratch", "--encoder-layers", layers, "--encoder-embed-dim", width),
            *("--encoder-ffn-embed-dim", inner, "--encoder-attention-heads", heads, "--max-update", updates),
            *("--no-epoch-checkpoints", "--disable-validation", "--num-workers", 0, "--log-format", "json"),
            *("--save-dir", self.work / f"save-{name}", "--chance-patience", 0, "--clip-norm", 1.0),
            *(*given, *([] if self.cuda else ["--cpu"])),
            memory=memory,
        )

    # -- the checks ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Vocabulary and data-bins: of the passages, and of all of them as one, whose windows fill 512 positions."""
        bpe, split_names = self.work / "bpe", ("train", "valid", "test")
        self.run("learn-bpe", "fairseq-cloze", "learn-bpe", PASSAGES / "train", "--size", 4000, "--out", bpe)
        splits = [part for split in split_names for part in (f"--{split}", PASSAGES / split)]
        options = ("--pretrained", bpe, "--out", self.work / "bin", "--workers", 1)
        self.run("prepare", "fairseq-cloze", "prepare", *splits, *options)
        passages = [
            json.loads(file.read_text()) for file in sorted((ROOT / "examples" / "passages" / "train").glob("*.json"))
        ]
        long = {
            "article": " ".join(passage["article"] for passage in passages),
            **{key: sum((passage[key] for passage in passages), []) for key in ("options", "answers")},
        }
        (self.work / "long.json").write_text(json.dumps(long))
        options = ("--pretrained", ROOT / "examples" / "pretrained" / "mini", "--out", self.work / "long")
        self.run("prepare-long", "fairseq-cloze", "prepare", "--train", self.work / "long.json", *options)

    def learn(self) -> None:
        """Steps, loss scale, then the same command again with more steps; validation; the CPU's answers."""
        schedule = ("--lr", 1e-3, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 6)
        schedule += ("--total-num-update", 2 * UPDATES, "--dropout", 0, "--attention-dropout", 0)
        schedule += ("--fp16",) if self.cuda else ()
        save = ("--save-dir", self.work / "save")
        first = self.train("train", "tiny", UPDATES, *schedule, *save)
        second = self.train("resume", "tiny", 2 * UPDATES, *schedule, *save)
        rows, more = log_rows(first, "train_inner"), log_rows(second, "train_inner")
        runs = {"first run": summarise(first), "resumed run": summarise(second)}
        self.record("training", runs)
        self.expect("every loss is a number", all(row["loss"] == row["loss"] for row in rows + more))
        self.expect("the loss falls", more[-1]["loss"] < 0.5 * rows[0]["loss"])
        self.expect("the second run resumes", "resuming from" in second and "weights are those of" in second)
        self.expect("it goes on at the next update", more[0]["num_updates"] == rows[-1]["num_updates"] + 1)
        if self.cuda:
            scale = runs["first run"]["loss_scale"]
            self.expect("the loss scale stays above 0.01", scale["min"] > 0.01)
        self.validate()
        self.compare()

    def precisions(self) -> None:
        """The same updates in every type; the first loss and the last one are those of float32."""
        shape, names = ("base", list(PRECISIONS)) if self.cuda else ("tiny", ["fp32", "bf16"])
        found: dict[str, Any] = {}
        for name in names:
            options = ("--lr", 1e-4, "--dropout", 0, "--attention-dropout", 0, "--no-save", *PRECISIONS[name])
            text = self.train(f"precision-{name.replace(', ', '-')}", shape, FEW_UPDATES, *options)
            found[name] = summarise(text)
        self.record("precisions", found)
        for name in names[1:]:
            for which, most in (("first_loss", 0.01), ("last_loss", 0.05)):
                off = abs(found[name][which] - found["fp32"][which])
                self.expect(f"{name}: the {which.replace('_', ' ')} is that of fp32 within {most}", off <= most)

    def out_of_memory(self) -> None:
        """With too little memory, the updates are the same, and how often it ran out is counted."""
        options = ("--lr", 1e-4, "--dropout", 0, "--attention-dropout", 0, "--no-save", "--fp16", "--max-tokens", 32768)
        plain = self.train("much-memory", "base", 6, *options, data="long")
        limited = self.train("little-memory", "base", 6, *options, data="long", memory=LITTLE_MEMORY)
        rows, expected = log_rows(limited, "train_inner"), log_rows(plain, "train_inner")
        count = int(sum(row.get("oom", 0) for row in rows))
        off = max(abs(a["loss"] - b["loss"]) for a, b in zip(rows, expected))
        blanks = [sum(row["n_blanks"] for row in each) for each in (rows, expected)]
        figures = {
            "limit_gib": LITTLE_MEMORY,
            "times": count,
            "split ahead": int(sum(row.get("split_ahead", 0) for row in rows)),
            "blanks": int(blanks[0]),
            "largest difference of a loss": off,
        }
        self.record("out of memory", figures)
        self.expect("memory ran out, and training went on", count > 0 and len(rows) == len(expected) == 6)
        self.expect("out of memory: no blank was skipped", blanks[0] == blanks[1])
        self.expect("out of memory: the losses are those with enough of it within 0.02", off <= 0.02)

    def suite(self) -> None:
        """Those tests of the suite that know a GPU."""
        files = ("model/test_attention.py", "plugin/test_optimizer.py")
        options = ("-p", "no:cacheprovider", "-q", "-k", "cuda")
        ran = self.python("suite", "-m", "pytest", *options, *(ROOT / "user_dir_tests" / file for file in files))
        if ran.returncode:
            print(ran.stdout[-3000:])
        self.record("suite", ran.stdout.strip().splitlines()[-1])
        self.expect("the suite's tests on a GPU pass", ran.returncode == 0)

    def validate(self) -> None:
        """fairseq-validate, in half precision too; every blank once."""
        found = {}
        for name, options in (("validate", []), ("validate-fp16", ["--fp16"])):
            path = self.work / "save" / "checkpoint_last.pt"
            ran = self.run(
                *(name, "validate", self.work / "bin", *PLUGIN, "--path", path, "--max-tokens", 8192),
                *("--valid-subset", "train", "--log-format", "json", "--num-workers", 0, *options),
                *([] if self.cuda else ["--cpu"]),
            )
            [row] = log_rows(ran, "train")
            found[name] = {key: row[f"train_{key}"] for key in ("accuracy", "loss", "n_blanks")}
        self.record("validation", found)
        self.expect("validation scores every blank once", all(row["n_blanks"] == 405 for row in found.values()))
        full, half = found["validate"], found["validate-fp16"]
        self.expect("fairseq-validate --fp16 has the same accuracy", abs(full["accuracy"] - half["accuracy"]) <= 0.1)
        self.expect("fairseq-validate --fp16 has the same loss", abs(full["loss"] - half["loss"]) <= 0.01)

    def compare(self) -> None:
        """The same checkpoint on this device and on the CPU, in single and in half precision, on every blank.

        Accuracy is compared on passages learned by heart; the others, where one blank is half a point, by
        probabilities.
        """
        from fairseq_cloze.data.databin import DataBin
        from fairseq_cloze.ranking.metrics import metrics_of
        from fairseq_cloze.ranking.ranker import load
        from fairseq_cloze.ranking.scores import Outcome

        data = DataBin(self.work / "bin")
        found, expected = {}, {}
        for device, fp16 in (("cpu", False), (self.device, False), (self.device, True)):
            ranker = load(self.work / "save" / "checkpoint_last.pt", device=device, fp16=fp16)
            name = f"{device}{'-fp16' if fp16 else ''}"
            stores = {split: data.open(split) for split in data.splits}
            scores = {split: ranker.score(store) for split, store in stores.items()}
            answers = {split: Outcome(scores[split], store) for split, store in stores.items()}
            expected = expected or answers
            accuracy = metrics_of(answers["train"].counts)["accuracy"]
            off = max(abs(answers[split].probabilities - expected[split].probabilities).max() for split in answers)
            found[name] = {
                "accuracy": accuracy,
                "n_blanks": sum(each.counts["n_blanks"] for each in answers.values()),
                "largest difference of a probability": float(off),
                "tokens_per_second": sum(s.tokens for s in scores.values()) / sum(s.seconds for s in scores.values()),
            }
            exact = found["cpu"]["accuracy"]
            self.expect(f"accuracy on {name} is the CPU's within 0.1 points", abs(accuracy - exact) <= 0.1)
            self.expect(f"probabilities on {name} are the CPU's", off <= (0.05 if fp16 else 0.001))
        self.record("evaluation", found)


def environment() -> dict[str, Any]:
    """What this ran on."""
    import fairseq

    out: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fairseq": fairseq.__version__,
    }
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.get_device_name(0)
        out["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    try:
        import apex

        out["apex"] = getattr(apex, "__version__", "installed")
    except ImportError:
        out["apex"] = None
    return out


def table(results: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested results as aligned lines."""
    lines = []
    for key, value in results.items():
        if isinstance(value, dict):
            lines += table(value, f"{prefix}{key} / ")
        else:
            shown = f"{value:,.4g}" if isinstance(value, float) else {True: "ok", False: "FAILED"}.get(value, value)
            lines.append(
                f"{prefix + key:72}{shown if not isinstance(value, int) or isinstance(value, bool) else value}"
            )
    return lines


def main() -> int:
    """Run everything; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--measure", default="base,large", help="shapes whose speed and memory are measured")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU at hand: nothing was checked (--device cpu --measure tiny runs the same steps on the CPU)")
        return NO_GPU
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(options.device, Path(folder), options.json)
        check.results["environment"] = environment()
        check.prepare()
        parts = [check.learn, check.precisions]
        if check.cuda:  # on a CPU the suite has its own ways
            parts += [check.out_of_memory, check.suite]
        with ThreadPoolExecutor(4 if check.cuda else 1) as pool:
            for part in parts:
                pool.submit(check.part, part)
        measures = Measures(check)
        for shape in options.measure.split(","):
            for part in measures.parts(shape):
                check.part(part)
    check.results["seconds"] = round(time.time() - start, 1)
    print("\n".join(["", *table(check.results)]))
    options.json.write_text(json.dumps(check.results, indent=1) + "\n")
    print(f"\n{len(check.failures)} checks failed; wrote {options.json}")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
