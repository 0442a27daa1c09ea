"""Measure data preparation: seconds and memory for growing numbers of passages, and how soon training starts on them.

    python scripts/bench_data.py --passages 1000,10000,100000,1000000 --work FOLDER [--json OUT]

Passages are made of sentences of the examples in random order, each with its blank.  Needs ``psutil``, of the ``test``
extra.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "passages"
PRETRAINED = ROOT / "examples" / "pretrained" / "mini"
MB = 1e6


# -- passages --------------------------------------------------------------------------------------------------------


def sentence_pool() -> list[tuple[str, list[str]]]:
    """Sentences of the example passages with one blank each, and four options for it, as they stand in JSON."""
    generator = random.Random(0)
    sentences: list[str] = []
    for file in sorted(EXAMPLES.rglob("*.json")):
        article = json.loads(file.read_text(encoding="utf-8"))["article"]
        sentences += [each for each in re.split(r"(?<=[.!?])\s+", article.replace("_", "so")) if each.count(" ") > 4]
    words = [word for sentence in sentences for word in re.findall(r"(?<= )[a-z]+(?= )", sentence)]
    pool = []
    for sentence in sentences:
        places = [match.span() for match in re.finditer(r"(?<= )[a-z]+(?= )", sentence)]
        if places:
            start, end = generator.choice(places)
            options = [sentence[start:end], *generator.sample(words, 3)]
            pool.append((json.dumps(f"{sentence[:start]}_{sentence[end:]}")[1:-1], json.dumps(options)))
    return pool


def make_passages(count: int, folder: Path, files: int = 8) -> list[Path]:
    """Write *count* labelled passages of 6 to 28 sentences, the same ones for the same *count*, as JSONL.

    Returns:
        the files; those of an earlier call are used again
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"passages-{number}.jsonl" for number in range(files)]
    if all(path.exists() for path in paths):
        return paths
    pool, generator = sentence_pool(), random.Random(count)
    for number, path in enumerate(paths):
        with open(path.with_suffix(".tmp"), "w", encoding="utf-8") as file:
            for passage in range(number * count // files, (number + 1) * count // files):
                chosen = generator.choices(pool, k=generator.randint(6, 28))
                article = " ".join(text for text, _ in chosen)
                options = ", ".join(each for _, each in chosen)
                answers = ", ".join(["0"] * len(chosen))
                file.write(
                    f'{{"id": "made/{passage}", "article": "{article} It was number {passage}.", '
                    f'"options": [{options}], "answers": [{answers}]}}\n'
                )
        path.with_suffix(".tmp").rename(path)
    return paths


# -- measuring -------------------------------------------------------------------------------------------------------


def watch_memory(command: Sequence[Any], interval: float = 0.1) -> tuple[float, float, str]:
    """Run a command to its end.

    Returns:
        seconds, most bytes of all its processes together (PSS: shared pages count once), its output
    """
    start = time.perf_counter()
    process = psutil.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    peak = 0
    while process.poll() is None:
        total = 0
        for each in [process, *_children(process)]:
            try:
                total += each.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(interval)
    text = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {text}")
    return time.perf_counter() - start, float(peak), text


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def in_fresh_process(function: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """What a function returns in a new interpreter."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure_prepare(
    files: Sequence[Path], out: Path, pretrained: Path = PRETRAINED, workers: int | None = None
) -> dict[str, float]:
    """Seconds and peak memory of ``fairseq-cloze prepare``."""
    shutil.rmtree(out, ignore_errors=True)
    command: list[Any] = [
        Path(sys.executable).with_name("fairseq-cloze"),
        "prepare",
        "--pretrained",
        pretrained,
        "--out",
        out,
    ]
    command += [part for file in files for part in ("--train", file)]
    command += ["--workers", workers] if workers else []
    seconds, peak, _ = watch_memory(command)
    split = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["splits"]["train"]
    size = sum(file.stat().st_size for file in out.rglob("*.bin"))
    return {
        **{key: split[key] for key in ("passages", "blanks", "tokens")},
        "prepare_seconds": seconds,
        "prepare_peak_mb": peak / MB,
        "store_mb": size / MB,
    }


def open_store(data_bin: Path) -> dict[str, float]:
    """Seconds and memory added by opening a data-bin's training split and reading one passage from its middle."""
    from fairseq_cloze.data.databin import DataBin

    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    data = DataBin(data_bin)
    vocabulary = time.perf_counter()
    store = data.open("train")
    opened = time.perf_counter()
    store[len(store) // 2].tokens.sum()
    return {
        "vocabulary_seconds": vocabulary - start,
        "open_seconds": opened - vocabulary,
        "open_mb": (process.memory_info().rss - before) / MB,
    }


def start_epoch(data_bin: Path, view: str = "joint", max_tokens: int = 4096) -> dict[str, float]:
    """Seconds from the data-bin to the first batch of training, as fairseq-train asks for it, and peak memory."""
    import numpy as np

    import fairseq_cloze

    fairseq_cloze.register()
    from argparse import Namespace

    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.tasks import setup_task

    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    args = Namespace(
        task="cloze_ranking", data=str(data_bin), view=view, criterion="cloze_ranking", arch="cloze_roberta"
    )
    task = setup_task(convert_namespace_to_omegaconf(args).task)
    task.load_dataset("train")
    dataset = task.dataset("train")
    loaded = time.perf_counter()
    epoch = task.get_batch_iterator(dataset, max_tokens=max_tokens, seed=1, epoch=1)
    batches = epoch.next_epoch_itr(shuffle=True)
    next(iter(batches))
    first = time.perf_counter()
    after = process.memory_info().rss
    lengths, rows = dataset.view.row_length, dataset.view.rows
    real = computed = 0
    for batch in epoch.frozen_batches:
        real += int((lengths[batch] * rows[batch]).sum())
        computed += int(lengths[batch].max() * rows[batch].sum())
    return {
        "load_seconds": loaded - start,
        "first_batch_seconds": first - loaded,
        "start_seconds": first - start,
        "start_mb": (after - before) / MB,
        "start_peak_rss_mb": peak_rss(),
        "batches": len(epoch.frozen_batches),
        "items_per_batch": float(np.mean([len(batch) for batch in epoch.frozen_batches])),
        "padding_percent": 100.0 * (computed - real) / computed,
    }


def peak_rss() -> float:
    """Most memory this process had, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def measure(count: int, work: Path, pretrained: Path = PRETRAINED, workers: int | None = None) -> dict[str, float]:
    """All figures for one number of passages."""
    from fairseq_cloze.data.checking import SETTLED

    files = make_passages(count, work / f"passages-{count}")
    out = work / f"bin-{count}"
    prepared = measure_prepare(files, out, pretrained, workers)
    time.sleep(SETTLED / 1e9 + 1)  # until then, a data-bin that was found sound is not remembered
    return {
        "input_mb": sum(file.stat().st_size for file in files) / MB,
        **prepared,
        **{f"first_{name}": value for name, value in in_fresh_process(open_store, out).items()},
        **in_fresh_process(open_store, out),
        **in_fresh_process(start_epoch, out),
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", default="1000,10000,100000,1000000", help="how many, with commas between them")
    parser.add_argument("--work", type=Path, required=True, help="folder for passages and data-bins")
    parser.add_argument("--pretrained", type=Path, default=PRETRAINED, help="folder with the vocabulary")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    columns = ("prepare_seconds", "prepare_peak_mb", "store_mb", "first_open_seconds", "open_seconds", "open_mb")
    columns += ("start_seconds", "start_mb", "start_peak_rss_mb", "padding_percent")
    print(f"{'passages':>10}" + "".join(f"{name:>19}" for name in columns))
    for count in map(int, options.passages.split(",")):
        result = measure(count, options.work, options.pretrained, options.workers)
        results.append(result)
        print(f"{result['passages']:10,}" + "".join(f"{result[name]:19,.3f}" for name in columns), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
