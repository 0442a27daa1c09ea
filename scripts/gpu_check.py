"""What ``scripts/gpu_check.sh`` runs: the real commands on the example passages, and what they say of themselves."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch

ROOT = Path(__file__).resolve().parent.parent
PASSAGES = ROOT / "user_dir_tests" / "passages"  # a fixed half of the examples

#: Shapes to train, by name: layers, width, feed-forward width, attention heads.
SHAPES = {"tiny": (2, 64, 256, 4), "base": (12, 768, 3072, 12), "large": (24, 1024, 4096, 16)}

#: Updates of the run that is checked, before and after it is resumed; enough to learn the passages by heart.
UPDATES = 60

#: Updates that only measure.
MEASURED_UPDATES = 30

NO_GPU = 3


class Check:
    """A run of all checks on one device.

    Args:
        device: ``cuda`` or ``cpu``; half precision is trained on ``cuda`` only
        work: folder to work in
    """

    def __init__(self, device: str, work: Path) -> None:
        self.device, self.work = device, work
        self.on_device = ["--fp16"] if device == "cuda" else ["--cpu"]
        self.results: Dict[str, Any] = {}
        self.failures: List[str] = []

    def run(self, name: str, module: str, *options: Any) -> str:
        """Run a command of fairseq or of this project; its output."""
        entry = {"fairseq-cloze": "fairseq_cloze.cli"}.get(module, f"fairseq_cli.{module}")
        function = "main" if module == "fairseq-cloze" else "cli_main"
        code = f"import sys; from {entry} import {function}; sys.argv[0] = {module!r}; sys.exit({function}())"
        start = time.time()
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        (self.work / f"{name}.log").write_text(ran.stdout)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
        if ran.returncode:
            print(ran.stdout[-3000:])
            raise SystemExit(f"{name} ended with exit status {ran.returncode}")
        return ran.stdout

    def expect(self, what: str, holds: bool) -> None:
        """Record a check."""
        self.results.setdefault("checks", {})[what] = bool(holds)
        if not holds:
            self.failures.append(what)

    # -- the checks ----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Vocabulary and data-bin."""
        self.run(
            "learn-bpe", "fairseq-cloze", "learn-bpe", PASSAGES / "train", "--size", 4000, "--out", self.work / "bpe"
        )
        splits = [part for split in ("train", "valid", "test") for part in (f"--{split}", PASSAGES / split)]
        options = ("--pretrained", self.work / "bpe", "--out", self.work / "bin", "--workers", 1)
        self.run("prepare", "fairseq-cloze", "prepare", *splits, *options)

    def train(self, name: str, shape: str, save_dir: Path, updates: int, *options: Any) -> str:
        """A training of some updates, every one of them logged."""
        layers, width, inner, heads = SHAPES[shape]
        return self.run(
            *(name, "train", self.work / "bin", *PLUGIN, "--criterion", "cloze_ranking", "--arch", "cloze_roberta"),
            *("--from-scratch", "--encoder-layers", layers, "--encoder-embed-dim", width),
            *("--encoder-ffn-embed-dim", inner, "--encoder-attention-heads", heads, "--dropout", 0),
            *("--attention-dropout", 0, "--optimizer", "adam", "--max-tokens", 8192, "--max-update", updates),
            *("--save-dir", save_dir, "--no-epoch-checkpoints", "--disable-validation", "--num-workers", 0),
            *("--log-format", "json", "--log-interval", 1, *self.on_device, *options),
        )

    def summarise(self, text: str) -> Dict[str, Any]:
        """Loss, speed, loss scale and memory of a training."""
        rows = log_rows(text, "train_inner")
        speeds = sorted(row["wps"] for row in rows[len(rows) // 3 :] if row["wps"])
        out = {
            "updates": len(rows),
            "first_loss": rows[0]["loss"],
            "last_loss": rows[-1]["loss"],
            "tokens_per_second": speeds[len(speeds) // 2] if speeds else None,
        }
        if self.device == "cuda":
            scales = [row["loss_scale"] for row in rows]
            total = torch.cuda.get_device_properties(0).total_memory / 2**30
            out["overflows"] = text.count("gradient overflow detected")
            out["loss_scale"] = {"min": min(scales), "max": max(scales), "last": scales[-1]}
            out["peak_memory_gib"] = round(total - min(row["gb_free"] for row in rows), 2)
        return out

    def learn(self) -> None:
        """Steps, loss scale, then the same command again with more steps."""
        schedule = ("--lr", 1e-3, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 6)
        schedule += ("--total-num-update", 2 * UPDATES)
        first = self.train("train", "tiny", self.work / "save", UPDATES, *schedule)
        second = self.train("resume", "tiny", self.work / "save", 2 * UPDATES, *schedule)
        rows, more = log_rows(first, "train_inner"), log_rows(second, "train_inner")
        self.results["training"] = {"first run": self.summarise(first), "resumed run": self.summarise(second)}
        self.expect("every loss is a number", all(row["loss"] == row["loss"] for row in rows + more))
        self.expect("the loss falls", more[-1]["loss"] < 0.5 * rows[0]["loss"])
        self.expect("the second run resumes", "resuming from" in second and "weights are those of" in second)
        self.expect("it goes on at the next update", more[0]["num_updates"] == rows[-1]["num_updates"] + 1)
        if self.device == "cuda":
            scale = self.results["training"]["first run"]["loss_scale"]
            self.expect("the loss scale stays above 0.01", scale["min"] > 0.01)

    def measure(self, shapes: Sequence[str]) -> None:
        """Speed and memory of some shapes."""
        for shape in shapes:
            save_dir = self.work / f"save-{shape}"
            speed = self.results.setdefault("speed", {})
            try:
                text = self.train(f"measure-{shape}", shape, save_dir, MEASURED_UPDATES, "--lr", 1e-5, "--no-save")
                speed[shape] = self.summarise(text)
            except SystemExit as error:  # most likely out of memory, which is no fault of what is checked
                speed[shape] = str(error)

    def validate(self) -> None:
        """fairseq-validate, in half precision too; every blank once."""
        found = {}
        for name, options in (("validate", []), ("validate-fp16", ["--fp16"])):
            path = self.work / "save" / "checkpoint_last.pt"
            ran = self.run(
                *(name, "validate", self.work / "bin", *PLUGIN, "--path", path, "--max-tokens", 8192),
                *("--valid-subset", "train", "--log-format", "json", "--num-workers", 0, *options),
                *(["--cpu"] if self.device == "cpu" else []),
            )
            [row] = log_rows(ran, "train")
            found[name] = {key: row[f"train_{key}"] for key in ("accuracy", "loss", "n_blanks")}
        self.results["validation"] = found
        self.expect("validation scores every blank once", all(row["n_blanks"] == 405 for row in found.values()))
        full, half = found["validate"], found["validate-fp16"]
        self.expect("fairseq-validate --fp16 has the same accuracy", abs(full["accuracy"] - half["accuracy"]) <= 0.1)
        self.expect("fairseq-validate --fp16 has the same loss", abs(full["loss"] - half["loss"]) <= 0.01)

    def compare(self) -> None:
        """The same checkpoint on this device and on the CPU, in single and in half precision, on every blank.

        Accuracy is compared on passages learned by heart; the others, where one blank is half a point, by
        probabilities.
        """
        import fairseq_cloze

        fairseq_cloze.register()
        from fairseq_cloze.databin import DataBin
        from fairseq_cloze.ranking import metrics_of
        from fairseq_cloze.scorer import Answers, Scorer

        data = DataBin(self.work / "bin")
        found, expected = {}, {}
        for device, fp16 in (("cpu", False), (self.device, False), (self.device, True)):
            scorer = Scorer(self.work / "save" / "checkpoint_last.pt", data.vocabulary, device=device, fp16=fp16)
            name = f"{device}{'-fp16' if fp16 else ''}"
            stores = {split: data.open(split) for split in data.splits}
            scores = {split: scorer.score(store) for split, store in stores.items()}
            answers = {split: Answers(scores[split].log_probabilities, store) for split, store in stores.items()}
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
        self.results["evaluation"] = found


PLUGIN = ("--user-dir", ROOT / "fairseq_cloze", "--task", "cloze_ranking")


def log_rows(text: str, tag: str) -> List[Dict[str, Any]]:
    """JSON log lines of a tag."""
    rows = []
    for line in text.splitlines():
        match = re.search(rf"\| {tag} \| (\{{.*\}})$", line)
        if match:
            rows.append({key: number(value) for key, value in json.loads(match.group(1)).items()})
    return rows


def number(value: Any) -> Any:
    """A number where the text is one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def environment() -> Dict[str, Any]:
    """What this ran on."""
    import fairseq

    out: Dict[str, Any] = {
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


def table(results: Dict[str, Any], prefix: str = "") -> List[str]:
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
        check = Check(options.device, Path(folder))
        check.results["environment"] = environment()
        check.prepare()
        check.learn()
        check.validate()
        check.compare()
        check.measure(options.measure.split(","))
    check.results["seconds"] = round(time.time() - start, 1)
    print("\n".join(["", *table(check.results)]))
    options.json.write_text(json.dumps(check.results, indent=1) + "\n")
    print(f"\n{len(check.failures)} checks failed; wrote {options.json}")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
