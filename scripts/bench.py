"""What ``scripts/bench`` runs: measure against peers and against the machine, print, and write the page.

The same weights, the same passages and the same machine for all, in turns.  Without options: the model and the passages
of ``examples/``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the peer has one thread, too

import torch

import fairseq_cloze

fairseq_cloze.register()

from bench_flops import forward_flops, training_flops  # noqa: E402
from bench_measure import Contestant, Rates, gemm_rate, gemm_shapes, machine  # noqa: E402
from bench_page import render, summary, write_block  # noqa: E402
from bench_preparation import measure_preparation, write_passages  # noqa: E402
from bench_scoring import ScoringBench, evenly  # noqa: E402
from bench_training import measure_training  # noqa: E402

from fairseq_cloze.data.prepare import prepare  # noqa: E402
from fairseq_cloze.passages.reading import read_passages  # noqa: E402
from fairseq_cloze.weights.checkpoint import Checkpoint  # noqa: E402
from fairseq_cloze.weights.hugging_face import export_hf  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("scoring", "training", "prepare")
POOL = 4  # passages to train on, for each one to score
PREPARED = 300  # passages to prepare at most, as fairseq needs half a minute for 100
FILLED = 32  # blanks at most for peers that fill in every candidate, as they score one or two in a second


def main() -> int:
    """Measure, print, write."""
    options = _options()
    logging.disable(logging.INFO)  # fairseq's
    torch.set_num_threads(options.threads)
    start = time.time()
    passages = sorted(read_passages([options.passages]), key=lambda passage: len(passage.article))
    pool, chosen = evenly(passages, POOL * options.limit), evenly(passages, options.limit)
    result: dict[str, Any] = {
        "command": options.command,
        "date": datetime.date.today().isoformat(),
        "machine": machine(options.device),
        "weights": options.weights.name,
        "passages": len(passages),
        "rounds": options.rounds,
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        architecture = Checkpoint.read(options.weights / "model.pt").architecture
        result["architecture"] = vars(architecture)
        shapes = gemm_shapes(architecture, device=options.device)
        gemm = {
            name: Contestant(partial(gemm_rate, dtype, options.device, shapes))
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        }
        export_hf(Checkpoint.read(options.weights / "model.pt"), work / "hf")
        if "scoring" in options.only:
            _say("scoring")
            bench = ScoringBench(options.weights, work / "hf", chosen, work, options.device)
            bench.add_ours()
            bench.add_transformers()
            bench.add_filled(min(max(8, options.limit // 2), FILLED))
            result["scoring"] = bench.measure(gemm, options.rounds)
            del bench
            _use(result["scoring"], forward_flops, architecture, "blanks")
        if "training" in options.only:
            _say("training")
            write_passages(pool, work / "pool")
            prepare({"train": [work / "pool"]}, options.weights, work / "bin", workers=1)
            result["training"] = measure_training(
                options.weights, work / "hf", work / "bin", work, gemm, options.rounds, options.device
            )
            _use(result["training"], training_flops, architecture, "tokens")
        if "prepare" in options.only:
            _say("prepare")
            some = evenly(pool, PREPARED)
            result["prepare"] = measure_preparation(options.weights, some, work, options.rounds)
    result["seconds"] = round(time.time() - start, 1)
    print(f"\n{render(result)}\n\n{summary(result)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=Rates.to_dict) + "\n")
    if options.write:
        write_block(options.write, render(result))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    examples = ROOT / "examples"
    parser.add_argument("--weights", type=Path, default=examples / "pretrained" / "mini", help="as import-hf writes it")
    parser.add_argument("--passages", type=Path, default=examples / "passages", help="file or folder, with answers")
    parser.add_argument(
        "--limit", type=int, default=100, help=f"passages to score; {POOL} times as many are trained on"
    )
    parser.add_argument("--rounds", type=int, default=3, help="that count, after one that does not")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, with commas between them")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page whose measured part to replace")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if not set(options.only) <= set(PARTS):
        parser.error(f"--only: expected some of {', '.join(PARTS)}, found {','.join(options.only)}")
    options.command = " ".join(["scripts/bench", *sys.argv[1:]])
    return options


def _use(part: dict[str, Any], flops: Any, architecture: Any, unit: str) -> None:
    """Add the model's operations per second and its share of what the machine can do.

    Args:
        part: result to add to
        flops: a function of :mod:`bench_flops`
        architecture: of the model
        unit: what the rates count
    """
    total = flops(architecture, part.pop("lengths"), part.pop("reads"), part["pieces"])
    part["flops_per_token"] = total / part["tokens"]
    rates: dict[str, Rates] = part["rates"]
    part["flops"], part["utilisation"] = {}, {}
    for dtype in ("float32", "bfloat16"):
        part["flops"][dtype] = rates[f"ours {dtype}"].times(total / part[unit])
        part["utilisation"][dtype] = part["flops"][dtype].over(rates[f"gemm {dtype}"])


def _say(part: str) -> None:
    print(f"measuring: {part}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
