"""What ``scripts/bench`` runs: measure against peers and against the machine, print, and write the page.

The same weights, the same passages and the same machine for all, in turns, each in a process of its own.  Without
options: the model and the passages of ``examples/``.  Every figure is in the file of ``--json`` and on the page of
``--write`` as soon as it is known.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_flops import forward_flops, training_flops
from bench_measure import BUSY, Others, Rates, evenly, load
from bench_page import render, summary, write_block
from bench_peers import DEFAULT, PEERS, ROOT, interpreter, split
from bench_transformers import load_rows
from bench_worker import Worker, WorkerError

from fairseq_cloze.files import replacing

#: Parts, and how the time is divided among them.
PARTS = {"scoring": 0.56, "training": 0.30, "prepare": 0.14}
FUNCTIONS = {"scoring": "bench_ours:scoring", "training": "bench_ours:training", "prepare": "bench_ours:preparation"}
UNITS = {"scoring": "blanks/s", "training": "tokens/s", "prepare": "a second"}
FLOPS = {"scoring": (forward_flops, "blanks"), "training": (training_flops, "tokens")}
POOL = 4  # passages to train on, for each one to score
PREPARED = 100  # passages to prepare at most, as fairseq needs half a minute for them
FILLED = 32  # blanks at most for peers that fill in every candidate, as they score one or two in a second
#: Share of a round of scoring for peers that fill in every candidate, and for those that are slower still.
SHARES = {"blanks": 0.35, "few": 0.10}
FEWEST = 4  # passages, where time is short

#: Share of the answers that must be ours and the peer's alike, in float32; where two scores nearly tie they may differ.
AGREEMENT = 0.995


@dataclass
class Entrant:
    """A contestant in some worker.

    Attributes:
        worker: where it is
        of: what its size counts
        seconds: for one of them
        size: to work on
    """

    worker: Worker
    of: str
    seconds: float
    size: int = 1


class Bench:
    """One run: its workers, its clock and its result.

    Args:
        options: of the command line
        work: folder to work in
    """

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.workers: dict[str, Worker] = {}
        self.result: dict[str, Any] = {"command": options.command, "date": datetime.date.today().isoformat()}
        self.result |= {"complete": False, "minutes": options.minutes, "rounds": options.rounds, "skipped": {}}
        self.pythons: dict[str, Path] = {}
        for name in options.peers:
            try:
                self.pythons[name] = interpreter(name)
            except OSError as error:
                self.skip(name, str(error))
        self.quiet = load()
        self.start = time.monotonic()
        total, end = sum(PARTS[part] for part in options.only), 0.0
        self.ends = {}
        for part in options.only:
            end += PARTS[part] / total * options.minutes * 60
            self.ends[part] = end

    # -- what happens to all ----------------------------------------------------------------------------------------

    def spent(self) -> float:
        """Seconds since the clock was started, which is when all environments were there."""
        return time.monotonic() - self.start

    def say(self, text: str, left: float | None = None) -> None:
        """A line of progress."""
        rest = "" if left is None else f", about {_clock(left)} left"
        print(f"{_clock(self.spent())}{rest} | {text}", file=sys.stderr, flush=True)

    def skip(self, name: str, reason: str) -> None:
        """Go on without a peer."""
        self.result["skipped"][name] = reason
        print(f"without {name}: {reason}", file=sys.stderr, flush=True)

    def write(self) -> None:
        """What is known so far."""
        self.result["seconds"] = round(self.spent(), 1)
        found = derived(self.result)
        with replacing(self.options.json) as new:
            new.write_text(json.dumps(found, indent=1, default=Rates.to_dict) + "\n")
        if self.options.write:
            write_block(self.options.write, render(found))

    def worker(self, name: str, python: Path, package: Path | None) -> Worker:
        """A process for an environment or a commit, started where it is not there."""
        if name not in self.workers:
            log = self.work / f"{len(self.workers)}.log"
            self.workers[name] = Worker(python, package, self.options.threads, log)
        return self.workers[name]

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.stop()

    # -- parts ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Measure all parts.

        Raises:
            SystemExit: our own part failed, or answers differ
        """
        options = self.options
        if self.quiet["others"] > BUSY:
            print(
                f"this machine is busy: others take {100 * self.quiet['others']:.0f}% of its CPUs, load "
                f"{self.quiet['load']}; figures that they disturb are marked",
                file=sys.stderr,
            )
        self.say("starting")
        here = self.worker("ours", Path(sys.executable), ROOT)
        self.job: dict[str, Any] = {
            **{"weights": str(options.weights.absolute()), "passages": str(options.passages.absolute())},
            **{"work": str(self.work), "device": options.device, "limit": options.limit, "filled": FILLED},
            **{"pool": POOL * options.limit if options.only != ["scoring"] else 0, "prepared": PREPARED},
        }
        try:
            inputs = here.ask("call", function="bench_ours:write_inputs", job=self.job)
            machine = here.ask("call", function="bench_ours:runs_on", job=self.job)
        except WorkerError as error:
            raise SystemExit(f"ours: {error}") from None
        self.result["machine"] = {**machine, **self.quiet}
        self.result |= {"weights": options.weights.name, "passages": inputs["passages"]}
        self.result["architecture"] = self.job["architecture"] = inputs["architecture"]
        self.job["choices"] = inputs["choices"]
        self.ours = {"ours": here}
        if options.against:
            commit = checkout(options.against, self.work / "against")
            self.result["against"] = commit
            self.ours[f"ours at {commit}"] = self.worker(
                f"ours at {commit}", Path(sys.executable), self.work / "against"
            )
        for part in options.only:
            self.say(f"{part}: making ready", self.later(part) + self.ends[part] - self.spent())
            getattr(self, part)(inputs)
            for worker in self.workers.values():
                if worker.process.poll() is None:
                    worker.ask("forget")

    def later(self, part: str) -> float:
        """Seconds for the parts after one."""
        return max(self.ends.values()) - self.ends[part]

    def build(self, part: str, **more: Any) -> dict[str, Entrant]:
        """All that take part; those that cannot are left out with their reasons."""
        entrants: dict[str, Entrant] = {}
        peers = self.result[part].setdefault("peers", {})

        def add(who: str, function: str, worker: Worker, **extra: Any) -> None:
            own = self.work / who.replace(" ", "-") / part
            own.mkdir(parents=True)
            self.say(f"{part}: {who} warms up")
            job = {**self.job, **more, **extra, "own": str(own)}
            built = worker.ask("build", function=function, who=who, job=job)
            peers[who] = built["facts"]
            entrants.update({name: Entrant(worker, **about) for name, about in built["contestants"].items()})

        for who, worker in self.ours.items():
            try:
                add(who, FUNCTIONS[part], worker, here=who == "ours")
            except WorkerError as error:
                raise SystemExit(f"{who}: {error}") from None
        if part != "prepare":
            add("gemm", "bench_measure:measure_limit", self.ours["ours"])
        ways: dict[str, Any] = {}
        for name, python in self.pythons.items():
            peer, _ = split(name)
            function = PEERS[peer].parts.get(part)
            if not function or name in self.result["skipped"] or (part == "training" and peer in map(_peer, peers)):
                continue
            installed = python == Path(sys.executable)
            worker = self.worker("peers" if installed else name, python, ROOT if installed else None)
            try:
                add(name, function, worker, **ways)
            except WorkerError as error:
                self.skip(name, str(error))
                continue
            if "ways" in peers[name]:
                ways = {"ways": peers[name]["ways"]}
        return entrants

    def measure(self, part: str, entrants: Mapping[str, Entrant], after_first: Any = None) -> None:
        """All in turns, as many rounds as there is time for, one at least."""
        rates: dict[str, Rates] = self.result[part].setdefault("rates", {})
        entrants = {name: each for name, each in entrants.items() if each.of != "check"}
        planned = sum(each.seconds * each.size for each in entrants.values())
        rounds = self.options.rounds
        for number in range(1, rounds + 1):
            if number > 1 and self.spent() + planned > self.ends[part]:
                self.say(f"{part}: no time for another round than {number - 1}")
                break
            begun, done = self.spent(), 0.0
            for name, each in list(entrants.items()):
                who = name.rsplit(" ", 1)[0]
                if who in self.result["skipped"]:
                    continue
                pids = [os.getpid(), *(worker.process.pid for worker in self.workers.values())]
                try:
                    with Others(pids) as others:
                        found = each.worker.ask("run", contestant=name, size=each.size)
                except WorkerError as error:
                    if who in self.ours or who == "gemm":
                        raise SystemExit(f"{who}: {error}") from None
                    self.skip(who, str(error))
                    continue
                rate = rates.setdefault(name, Rates())
                rate.rounds.append(found["rate"])
                rate.busy.append(others.share)
                done += each.seconds * each.size
                left = max(0.0, min(planned * (rounds - number + 1) - done, self.ends[part] - self.spent()))
                value = (
                    f"{found['rate'] / 1e9:,.0f} GFLOP/s" if who == "gemm" else f"{found['rate']:,.2f} {UNITS[part]}"
                )
                mark = f"; others took {100 * others.share:.0f}% of the machine" if others.share > BUSY else ""
                self.say(f"{part}, round {number} of {rounds} | {name}: {value}{mark}", left + self.later(part))
                self.write()
            planned = self.spent() - begun
            if number == 1 and after_first is not None:
                after_first()
            self.result[part]["rounds"] = number
            self.write()

    def scoring(self, inputs: dict[str, Any]) -> None:
        """Blanks per second of all."""
        part = self.result["scoring"] = {}
        entrants = self.build("scoring")
        round_seconds = max(0.0, 0.95 * (self.ends["scoring"] - self.spent()) / self.options.rounds)

        def seconds(of: str) -> float:
            return sum(each.seconds for each in entrants.values() if each.of == of)

        sizes = {}
        for of, share in SHARES.items():
            most = int(share * round_seconds / seconds(of)) if seconds(of) else 0
            sizes[of] = min(max(most, 2), inputs["questions"])
        part["filled"] = {"of": inputs["blanks"], "choices": inputs["choices"]}
        spent = sum(number * seconds(of) for of, number in sizes.items())
        of_passage = seconds("passages") + seconds("check") / self.options.rounds
        passages = int((round_seconds - spent - seconds("")) / of_passage)
        passages = min(max(passages, FEWEST), inputs["chosen"])
        sizes |= {"passages": passages, "check": passages}
        for name, each in entrants.items():
            each.size = sizes.get(each.of, 1)
            if each.of in SHARES:
                part["peers"][name.rsplit(" ", 1)[0]]["blanks"] = each.size
        rows = [row for rows in evenly(self.read("rows.json"), passages) for row in rows]
        part |= {"passages": passages, **_facts(rows)}
        self.measure("scoring", entrants, lambda: self.check(entrants))

    def check(self, entrants: Mapping[str, Entrant]) -> None:
        """Whether peers answer as we do.

        Raises:
            SystemExit: float32 answers of transformers are not ours without contrast, or those of the two that fill in
                every candidate differ
        """
        part = self.result["scoring"]

        def answers(name: str) -> list[int]:
            found: list[int] = entrants[name].worker.ask("found", contestant=name)
            return found

        def alike(ours: str, theirs: str) -> float:
            pairs = list(zip(answers(ours), answers(theirs), strict=True))
            return sum(a == b for a, b in pairs) / len(pairs)

        real, computed = answers("ours float32")
        part["padding"] = 100 * (1 - real / computed)
        part["agreement"] = {}
        self.say("scoring: comparing answers")
        for name, each in entrants.items():
            if each.of == "check":
                each.worker.ask("run", contestant=name, size=each.size)
        for name in [name for name in part["rates"] if _peer(name) == "transformers"]:
            who, dtype = name.rsplit(" ", 1)
            share = part["agreement"][name] = alike(f"ours {dtype} without contrast", name)
            if dtype == "float32" and share < AGREEMENT:
                raise SystemExit(f"{100 * share:.2f}% of the answers of {who} are ours, expected nearly all")
        pair = ("sentence_ranking float32", "multiple-choice float32")
        if set(pair) <= set(part["rates"]):
            share = part["filled"]["agreement"] = alike(*pair)
            if share < 0.9 and entrants[pair[0]].size >= 8:  # few, and a new head tells them apart by little
                raise SystemExit(f"the same weights and texts: {100 * share:.1f}% of the peers' answers are the same")

    def training(self, inputs: dict[str, Any]) -> None:
        """Tokens per second of updates."""
        part = self.result["training"] = {}
        entrants = self.build("training")
        batches = self.read("batches.json")
        one = sum(each.seconds for each in entrants.values())
        most = int(0.95 * (self.ends["training"] - self.spent()) / self.options.rounds / one)
        number = min(max(most, 1), len(batches))
        for each in entrants.values():
            each.size = number if each.of else 1
        rows = [row for batch in evenly(batches, number) for row in batch]
        paddings = evenly(part["peers"]["ours"]["padding"], number)
        part |= {"updates": number, "padding": sum(paddings) / number, "passages": len(rows), **_facts(rows)}
        self.measure("training", entrants)

    def prepare(self, inputs: dict[str, Any]) -> None:
        """Passages per second on one core."""
        part = self.result["prepare"] = {**inputs["prepared"]}
        self.measure("prepare", self.build("prepare", tokens=part["tokens"]))

    def read(self, name: str) -> list[list[Any]]:
        """Rows that the worker wrote."""
        return [load_rows(rows) for rows in json.loads((self.work / name).read_text())]


def _peer(name: str) -> str:
    return name.split(" ")[0].split("==")[0]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


def _facts(rows: list[Any]) -> dict[str, Any]:
    lengths = [len(row.tokens) for row in rows]
    return {
        "rows": len(rows),
        "blanks": sum(len(row.positions) for row in rows),
        "tokens": sum(lengths),
        "pieces": sum(int((row.candidates != 1).sum()) for row in rows),
        "lengths": lengths,
        "reads": [len(row.positions) for row in rows],
    }


def checkout(revision: str, folder: Path) -> str:
    """Write the files of a commit into a folder; nothing of the repository changes.

    Returns:
        its short name

    Raises:
        SystemExit: there is no such commit
    """
    name = subprocess.run(
        ["git", "rev-parse", "--short", f"{revision}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if name.returncode:
        raise SystemExit(f"--against: expected a commit of {ROOT}, found {revision}")
    folder.mkdir()
    packed = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    return name.stdout.strip()


def derived(result: dict[str, Any]) -> dict[str, Any]:
    """The result with the model's operations per second and its share of what the machine can do."""
    out = dict(result)
    for name, (flops, unit) in FLOPS.items():
        if "lengths" not in out.get(name, {}):
            continue
        part = out[name] = dict(out[name])
        total = flops(_Shape(out["architecture"]), part.pop("lengths"), part.pop("reads"), part["pieces"])
        part["flops_per_token"] = total / part["tokens"]
        rates: dict[str, Rates] = part.get("rates", {})
        part["flops"], part["utilisation"] = {}, {}
        for dtype in ("float32", "bfloat16"):
            if f"ours {dtype}" in rates:
                part["flops"][dtype] = rates[f"ours {dtype}"].times(total / part[unit])
            if f"gemm {dtype}" in rates:
                part["utilisation"][dtype] = part["flops"][dtype].over(rates[f"gemm {dtype}"])
    return out


class _Shape(argparse.Namespace):
    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__(**architecture)


def main() -> int:
    """Measure, print, write."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        bench = Bench(options, Path(temporary))
        try:
            bench.run()
        except KeyboardInterrupt:
            kept = "nothing was measured"
            if "seconds" in bench.result:
                bench.write()  # what was interrupted may have been the writing
                kept = f"the figures so far are in {options.json}"
            print(f"stopped after {_clock(bench.spent())}: {kept}", file=sys.stderr)
            return 130
        finally:
            bench.stop()
    bench.result["complete"] = True
    bench.write()
    found = derived(bench.result)
    print(f"\n{render(found)}\n\n{summary(found)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    examples = ROOT / "examples"
    parser.add_argument("--weights", type=Path, default=examples / "pretrained" / "mini", help="as import-hf writes it")
    parser.add_argument("--passages", type=Path, default=examples / "passages", help="file or folder, with answers")
    parser.add_argument("--minutes", type=float, default=12, help="that it may take; sizes and rounds are chosen so")
    parser.add_argument(
        "--limit", type=int, default=120, help=f"passages to score at most; {POOL} times as many are trained on"
    )
    parser.add_argument("--rounds", type=int, default=3, help="that count, at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, with commas between them")
    parser.add_argument(
        "--peers",
        default=",".join(DEFAULT),
        help=f"some of {', '.join(PEERS)}, with commas between them; NAME==VERSION has an environment of its own in "
        "work/bench, made by pip",
    )
    parser.add_argument("--against", metavar="REV", help="commit to measure beside what is here, in turns")
    parser.add_argument("--json", type=Path, default=ROOT / "work" / "bench.json", help="file for all figures")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page whose measured part to replace")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if not set(chosen) <= set(PARTS):
        parser.error(f"--only: expected some of {', '.join(PARTS)}, found {options.only}")
    options.only = [part for part in PARTS if part in chosen]
    options.peers = list(filter(None, options.peers.split(",")))
    try:
        for peer in options.peers:
            split(peer)
    except ValueError as error:
        parser.error(f"--peers: {error}")
    options.command = " ".join(["scripts/bench", *sys.argv[1:]])
    return options


if __name__ == "__main__":
    sys.exit(main())
