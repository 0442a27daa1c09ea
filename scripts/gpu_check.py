"""What ``scripts/gpu_check.sh`` runs: the real commands on the example passages, and what they say of themselves.

What matters most comes first.  Each part is a process with a time limit of its own, so none can hang or leave memory
behind; one that no longer fits into the time is left out, and named.  Each figure is written when it is found, so
whatever ends this early, what was found is there; the same command goes on with the parts that were not done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu_report import GOALS, Report
from gpu_runs import PLUGIN, ROOT, Failed, Timer, end_group, free_port, log_rows, run_python, shape_options, summarise

PASSAGES = ROOT / "user_dir_tests" / "support" / "passages"  # a fixed half of the examples

#: Updates of the run that is checked, before and after it is resumed; enough to learn the passages by heart.
UPDATES = 60
#: Updates of each precision, and of a run without memory.
FEW_UPDATES = 12
#: Memory of the GPU, in GiB, that a run gets which is to run out of it.
LITTLE_MEMORY = 6

NO_GPU = 3


class Check:
    """What the parts need of a run of all checks.

    Args:
        device: ``cuda`` or ``cpu``; half precision is trained on ``cuda`` only
        work: folder to work in
        report: what gets the figures
        part: whose they are
    """

    def __init__(self, device: str, work: Path, report: Report, part: str = "") -> None:
        self.device, self.work, self.report, self.part = device, work, report, part
        self.cuda = device == "cuda"

    def figure(self, name: str, value: Any) -> None:
        """Tell a figure."""
        self.report.add(self.part, figure=name, value=value)

    def expect(self, what: str, holds: bool) -> None:
        """Tell whether something is as it should be."""
        self.report.add(self.part, check=what, holds=bool(holds))

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
        if memory is not None and self.cuda:
            share = f"{memory * 2**30} / torch.cuda.get_device_properties(0).total_memory"
            code = f"import torch; torch.cuda.set_per_process_memory_fraction({share}); {code}"
        return run_python(self.work / f"{name}.log", "-c", code, *options)

    def train(self, name: str, *options: Any, updates: int, data: str = "bin", memory: float | None = None) -> str:
        """A training of some updates from random weights; its log has a line per update."""
        given = (*options, *(() if "--optimizer" in options else ("--optimizer", "fused_adamw")))
        given = (*given, *(() if "--max-tokens" in options else ("--max-tokens", 8192)))
        given = (*given, *(() if "--log-interval" in options else ("--log-interval", 1)))
        return self.run(
            *(name, "train", self.work / data, *PLUGIN, "--criterion", "cloze_ranking"),
            *("--max-update", updates, "--no-epoch-checkpoints", "--disable-validation", "--num-workers", 0),
            *("--log-format", "json", "--save-dir", self.work / f"save-{name}", "--chance-patience", 0),
            *("--clip-norm", 1.0, *given, *([] if self.cuda else ["--cpu"])),
            memory=memory,
        )

    # -- the checks ----------------------------------------------------------------------------------------------

    def data(self) -> None:
        """The examples as one passage, whose windows fill 512 positions; and what this runs on."""
        for name, value in environment().items():
            self.figure(f"environment / {name}", value)
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

    def short_data(self) -> None:
        """Vocabulary and data-bin of short passages."""
        bpe, split_names = self.work / "bpe", ("train", "valid", "test")
        self.run("learn-bpe", "fairseq-cloze", "learn-bpe", PASSAGES / "train", "--size", 4000, "--out", bpe)
        splits = [part for split in split_names for part in (f"--{split}", PASSAGES / split)]
        options = ("--pretrained", bpe, "--out", self.work / "bin", "--workers", 1)
        self.run("prepare", "fairseq-cloze", "prepare", *splits, *options)

    def suite(self) -> None:
        """Those tests of the suite that know a GPU."""
        files = ("model/test_attention.py", "plugin/test_optimizer.py", "plugin/test_sums.py")
        options = ("-p", "no:cacheprovider", "-q", "-k", "cuda" if self.cuda else "norms_of_shards")
        try:
            text = run_python(
                self.work / "suite.log", "-m", "pytest", *options, *(ROOT / "user_dir_tests" / file for file in files)
            )
        except Failed as error:
            self.expect("the suite's tests on a GPU pass", False)
            print(error)
        else:
            self.figure("suite", text.strip().splitlines()[-1])
            self.expect("the suite's tests on a GPU pass", True)

    def one_worker(self) -> None:
        """``fairseq-train`` with NCCL, in a group of one process: it begins, exchanges objects, and trains the same."""
        group = ("--distributed-world-size", 1, "--distributed-rank", 0, "--distributed-no-spawn", "--device-id", 0)
        group += ("--distributed-init-method", f"tcp://127.0.0.1:{free_port()}")
        group += ("--distributed-backend", "nccl" if self.cuda else "gloo", "--ddp-backend", "legacy_ddp")
        options = (*shape_options("tiny"), "--lr", 1e-4, "--dropout", 0, "--attention-dropout", 0, "--no-save")
        alone = log_rows(self.train("alone", *options, updates=4, data="long"), "train_inner")
        grouped = log_rows(self.train("grouped", *options, *group, updates=4, data="long"), "train_inner")
        self.expect(
            "a group of one process trains as one alone", [r["loss"] for r in alone] == [r["loss"] for r in grouped]
        )

    def learn(self) -> None:
        """Steps, loss scale, then the same command again with more steps; validation; the CPU's answers."""
        schedule = ("--lr", 1e-3, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 6)
        schedule += ("--total-num-update", 2 * UPDATES, "--dropout", 0, "--attention-dropout", 0)
        schedule += ("--fp16",) if self.cuda else ()
        options = (*shape_options("tiny"), *schedule, "--save-dir", self.work / "save")
        first = self.train("train", *options, updates=UPDATES)
        second = self.train("resume", *options, updates=2 * UPDATES)
        rows, more = log_rows(first, "train_inner"), log_rows(second, "train_inner")
        runs = {"first run": summarise(first), "resumed run": summarise(second)}
        self.figure("learning", runs)
        self.expect("every loss is a number", all(row["loss"] == row["loss"] for row in rows + more))
        self.expect("the loss falls", more[-1]["loss"] < 0.5 * rows[0]["loss"])
        self.expect("the second run resumes", "resuming from" in second and "weights are those of" in second)
        self.expect("it goes on at the next update", more[0]["num_updates"] == rows[-1]["num_updates"] + 1)
        if self.cuda:
            self.expect("the loss scale stays above 0.01", runs["first run"]["loss_scale"]["min"] > 0.01)
        self._validate()
        self._compare()

    def precisions(self) -> None:
        """The same updates in every type; the first loss and the last one are those of float32."""
        every: dict[str, Sequence[str]] = {"fp32": (), "bf16": ("--autocast",)}
        if self.cuda:
            every["fp16"] = ("--fp16",)
            every["fp16, memory-efficient"] = ("--memory-efficient-fp16", "--optimizer", "adam")
            every["fp16, amp"] = ("--amp",)
        found: dict[str, Any] = {}
        for name, precision in every.items():
            options = (*shape_options("base" if self.cuda else "tiny"), "--lr", 1e-4, "--dropout", 0)
            options = (*options, "--attention-dropout", 0, "--no-save", *precision)
            text = self.train(f"precision-{name.replace(', ', '-')}", *options, updates=FEW_UPDATES)
            found[name] = summarise(text)
            self.figure(f"precision / {name}", found[name])
            for which, most in (("first_loss", 0.01), ("last_loss", 0.05)):
                off = abs(found[name][which] - found["fp32"][which])
                if name != "fp32":
                    self.expect(f"{name}: the {which.replace('_', ' ')} is that of fp32 within {most}", off <= most)

    def out_of_memory(self) -> None:
        """With too little memory, the updates are the same, and how often it ran out is counted."""
        options = (*shape_options("base" if self.cuda else "tiny"), "--lr", 1e-4, "--dropout", 0, "--no-save")
        options = (*options, "--attention-dropout", 0, *(("--fp16",) if self.cuda else ()))
        options = (*options, "--max-tokens", 32768 if self.cuda else 1024)
        plain = self.train("much-memory", *options, updates=6, data="long")
        limited = self.train("little-memory", *options, updates=6, data="long", memory=LITTLE_MEMORY)
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
        self.figure("out of memory", figures)
        went_on = len(rows) == len(expected) == 6
        self.expect("memory ran out, and training went on", went_on and (count > 0 or not self.cuda))
        self.expect("out of memory: no blank was skipped", blanks[0] == blanks[1])
        self.expect("out of memory: the losses are those with enough of it within 0.02", off <= 0.02)

    def _validate(self) -> None:
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
        self.figure("validation", found)
        self.expect("validation scores every blank once", all(row["n_blanks"] == 405 for row in found.values()))
        full, half = found["validate"], found["validate-fp16"]
        self.expect("fairseq-validate --fp16 has the same accuracy", abs(full["accuracy"] - half["accuracy"]) <= 0.1)
        self.expect("fairseq-validate --fp16 has the same loss", abs(full["loss"] - half["loss"]) <= 0.01)

    def _compare(self) -> None:
        """The same checkpoint on this device and on the CPU, in single and in half precision, on every blank.

        Accuracy is compared on passages learned by heart; the others, where one blank is half a point, by
        probabilities.
        """
        from fairseq_cloze.data.databin import DataBin
        from fairseq_cloze.ranking.metrics import metrics_of
        from fairseq_cloze.ranking.ranker import load
        from fairseq_cloze.ranking.scores import Outcome

        data = DataBin(self.work / "bin")
        expected: Any = {}
        exact = 0.0
        for device, fp16 in (("cpu", False), (self.device, False), (self.device, True)):
            ranker = load(self.work / "save" / "checkpoint_last.pt", device=device, fp16=fp16)
            name = f"{device}{'-fp16' if fp16 else ''}"
            stores = {split: data.open(split) for split in data.splits}
            scores = {split: ranker.score(store) for split, store in stores.items()}
            answers = {split: Outcome(scores[split], store) for split, store in stores.items()}
            expected = expected or answers
            accuracy = metrics_of(answers["train"].counts)["accuracy"]
            exact = exact or accuracy
            off = max(abs(answers[split].probabilities - expected[split].probabilities).max() for split in answers)
            figures = {
                "accuracy": accuracy,
                "n_blanks": sum(each.counts["n_blanks"] for each in answers.values()),
                "largest difference of a probability": float(off),
                "tokens_per_second": sum(s.tokens for s in scores.values()) / sum(s.seconds for s in scores.values()),
            }
            self.figure(f"evaluation / {name}", figures)
            self.expect(f"accuracy on {name} is the CPU's within 0.1 points", abs(accuracy - exact) <= 0.1)
            self.expect(f"probabilities on {name} are the CPU's", off <= (0.05 if fp16 else 0.001))


class Part(NamedTuple):
    """Some checks, as a process.

    Attributes:
        name: of it
        needs: seconds that must be left for it to be begun
        limit: seconds after which it is ended
        work: what it does
    """

    name: str
    needs: float
    limit: float
    work: Callable[[Check], None]


def parts_on(device: str) -> list[Part]:
    """All parts, the most important first; on a CPU with small shapes, and without those of half precision."""
    cuda = device == "cuda"
    large, modern = ("large", "modern") if cuda else ("tiny", "tiny modern")
    parts = [
        Part("data", 0, 90, Check.data),
        Part("rate", 15, 60, _measure("rate", large)),
        Part("suite", 40, 120, Check.suite),
        Part("training large bf16", 60, 150, _measure("training", large, "bf16")),
        Part("scoring large bf16", 20, 60, _measure("scoring", large, "bf16")),
        Part("training large fp16", 50, 150, _measure("training", large, "fp16")),
        Part("scoring large fp16", 20, 60, _measure("scoring", large, "fp16")),
        Part("fit-batch", 30, 90, _measure("memory", large)),
        Part("stable fp16", 45, 120, _measure("stable", large)),
        Part("scoring modern bf16", 20, 60, _measure("scoring", modern, "bf16")),
        Part("training modern bf16", 60, 150, _measure("training", modern, "bf16")),
        Part("waits", 25, 60, _measure("waits", large)),
        Part("one worker", 30, 80, Check.one_worker),
        Part("scoring modern fp16", 20, 60, _measure("scoring", modern, "fp16")),
        Part("training modern fp16", 50, 150, _measure("training", modern, "fp16")),
        Part("short data", 15, 60, Check.short_data),
        Part("learning", 45, 150, Check.learn),
        Part("out of memory", 30, 90, Check.out_of_memory),
        Part("precisions", 60, 150, Check.precisions),
        Part("peer", 20, 80, _measure("peer", large)),
        Part("whole step", 40, 120, _measure("whole_step", large)),
    ]
    if cuda:
        return parts
    unhurried = [part._replace(limit=10 * part.limit) for part in parts]  # a CPU may be slow, and busy
    return [part for part in unhurried if not part.name.endswith("fp16") or part.name == "stable fp16"]


def _measure(method: str, *arguments: str) -> Callable[[Check], None]:
    def work(check: Check) -> None:
        from gpu_measure import Measures

        getattr(Measures(check), method)(*arguments)

    return work


def environment() -> dict[str, Any]:
    """What this ran on."""
    import fairseq
    import torch

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


def run_parts(parts: Sequence[Part], report: Report, seconds: float, command: Callable[[Part], list[str]]) -> None:
    """Run parts one after the other while the time lasts; those that were done before are not done again.

    Args:
        parts: the most important first
        report: what gets their outcomes
        seconds: for all of them
        command: how to start one
    """
    timer, done = Timer(), {name for name, outcome in report.outcomes.items() if outcome == "done"}
    for part in parts:
        left = seconds - timer.seconds
        if part.name in done:
            print(f"{part.name}: done before", flush=True)
            continue
        if left < part.needs:
            report.add(part.name, outcome=f"left out: it needs {part.needs:.0f} s, {left:.0f} are left", seconds=0.0)
            continue
        own, limit = Timer(), min(part.limit, max(left, 1.0))
        process = subprocess.Popen(command(part), start_new_session=True)
        try:
            status = process.wait(limit)
            outcome = "done" if status == 0 else f"FAILED: exit status {status}"
        except subprocess.TimeoutExpired:
            outcome = f"FAILED: ended after {limit:.0f} s"
        finally:
            end_group(process.pid)
            process.wait()
        report.add(part.name, outcome=outcome, seconds=own.seconds)
        report.write_page(GOALS)


def run_part(part: Part, check: Check) -> int:
    """In its process: do the work of a part; the exit status."""
    try:
        part.work(check)
    except Exception as error:  # whatever it is, it belongs into the report
        check.expect(f"{part.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False)
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu_check.jsonl"), help="file to write, or to go on with")
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all parts")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same steps on small shapes")
    parser.add_argument("--only", default="", help="names of the parts to run, with commas; data is always one")
    parser.add_argument("--work", type=Path, help="folder to work in, which stays")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    parts, report = parts_on(options.device), Report(options.json.absolute())
    if options.part:
        [part] = [each for each in parts if each.name == options.part]
        return run_part(part, Check(options.device, options.work, report, part.name))
    if options.device == "cuda" and not _has_gpu():
        print("no CUDA GPU at hand: nothing was checked (--device cpu runs the same steps on the CPU)")
        return NO_GPU
    if options.only:
        chosen = {"data", *options.only.split(",")}
        unknown = chosen - {part.name for part in parts}
        if unknown:
            parser.error(
                f"--only: there is no part {', '.join(sorted(unknown))}; parts are {', '.join(p.name for p in parts)}"
            )
        parts = [part for part in parts if part.name in chosen]
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "long").exists():  # a folder that is new needs its data again
            for name in ("data", "short data"):
                if report.outcomes.get(name) == "done":
                    report.add(name, outcome="to be made again", seconds=0.0)
        own = (sys.executable, str(Path(__file__).resolve()), "--device", options.device, "--work", str(work))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        run_parts(
            parts, report, 60 * options.minutes, lambda part: [*own, "--json", str(report.path), "--part", part.name]
        )
    goals = GOALS if options.device == "cuda" else []
    print(f"\n{report.write_page(goals)}")
    bad = [what for what, verdict in report.verdicts(goals) if verdict.startswith(("FAILED", "MISSED"))]
    print(f"{len(bad)} failed or missed; wrote {options.json} and {report.page_path.name}")
    return 1 if bad else 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
