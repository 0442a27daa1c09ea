#!/usr/bin/env python3
"""What a passage costs before the first forward: bytes of the store, and time and memory to open it and cut batches.

    python scripts/slopes.py DATA-BIN --split train --passages 100000 1000000

The split is repeated in memory until it has so many passages.  docs/scaling.md multiplies the slopes.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_cloze import register

register()

from fairseq_cloze.data.databin import DataBin  # noqa: E402
from fairseq_cloze.data.store import OFFSETS, Store  # noqa: E402
from fairseq_cloze.plugin.dataset import ClozeDataset  # noqa: E402
from fairseq_cloze.views.joint import JointView  # noqa: E402


def repeat(store: Store, passages: int) -> Store:
    """A store in memory that holds the passages of *store* again and again."""
    times = -(-passages // len(store))
    columns: dict[str, np.ndarray] = {}
    for name, values in store.columns.items():
        if name in OFFSETS.values():
            lengths = np.tile(np.diff(values), times)
            columns[name] = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        else:
            columns[name] = np.tile(values, times)
    return Store(columns)


def memory(data: DataBin, store: Store, max_tokens: int) -> dict[str, float]:
    """Bytes that a process keeps per passage of the split, and has at most, the mapped files apart."""
    tracemalloc.start()
    dataset = ClozeDataset(JointView(store, data.vocabulary, 512), shuffle=True)
    kept, _ = tracemalloc.get_traced_memory()
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens)
    with_batches, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batches
    return {name: value / len(store) for name, value in (("open", kept), ("epoch", with_batches), ("peak", peak))}


def measure(data: DataBin, store: Store, passages: int, max_tokens: int) -> dict[str, Any]:
    """Seconds and bytes for a store of so many passages."""
    many = repeat(store, passages)
    start = time.perf_counter()
    dataset = ClozeDataset(JointView(many, data.vocabulary, 512), shuffle=True)
    opened = time.perf_counter()
    order = dataset.ordered_indices()
    batches = dataset.batch_by_size(order, max_tokens)
    ended = time.perf_counter()
    return {
        "passages": len(many),
        "blanks": many.blanks,
        "bytes_on_disk": int(sum(column.nbytes for column in many.columns.values())),
        "seconds_to_open": opened - start,
        "seconds_to_cut_batches": ended - opened,
        "batches": len(batches),
    }


def main() -> None:
    """Measure, print a line per size, and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin", metavar="DATA-BIN")
    parser.add_argument("--split", default="train")
    parser.add_argument("--passages", type=int, nargs="+", default=[100_000], help="sizes, ascending")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of a batch")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    data = DataBin(arguments.data_bin)
    start = time.perf_counter()
    store = data.open(arguments.split)
    mapped = time.perf_counter() - start
    rows: list[dict[str, Any]] = []
    for passages in arguments.passages:
        row = measure(data, store, passages, arguments.max_tokens)
        rows.append(row)
        print(
            f"{row['passages']:,} passages, {row['blanks']:,} blanks: "
            f"{row['bytes_on_disk'] / row['blanks']:.1f} bytes on disk per blank, mapped in {mapped * 1e3:.1f} ms; "
            f"opened in {row['seconds_to_open']:.2f} s, {row['batches']:,} batches cut in "
            f"{row['seconds_to_cut_batches']:.2f} s"
        )
    used = memory(data, store, arguments.max_tokens)
    print(
        f"memory per passage: {used['open']:.0f} bytes open, {used['epoch']:.0f} with batches, {used['peak']:.0f} peak"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"sizes": rows, "memory_per_passage": used}, indent=1) + "\n")


if __name__ == "__main__":
    main()
