"""Measure what a token costs before the first forward, in passages from one token to as many as are given.

    python scripts/bench_lengths.py [--tokens 1,2,4,...,8192] [--json OUT]

Passages are words of the examples in random order, a blank for every twenty, encoded for ``mini`` and cut into windows
of 512.  Times are of one process, the best of three.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import fairseq_cloze
from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.views.joint import JointView

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TOKENS = 40_000  # of all passages of a length, about
FEWEST, MOST = 4, 4000  # passages of a length
APART = 20  # words from one blank to the next
OPTIONS = ["until", "only", "never", "because"]
POSITIONS, BATCH = 512, 8


def make_passages(tokens: int, words: list[str]) -> list[Passage]:
    """Passages of about so many tokens each."""
    generator = random.Random(tokens)
    passages = []
    for number in range(min(max(TOKENS // tokens, FEWEST), MOST)):
        text = ["_" if place % APART == 0 else generator.choice(words) for place in range(tokens)]
        blanks = text.count("_")
        fields = {"article": " ".join(text), "options": [OPTIONS] * blanks, "answers": ["A"] * blanks}
        passages.append(Passage.from_json(fields, "made", str(number)))
    return passages


def measure(passages: list[Passage], vocabulary: Vocabulary) -> dict[str, float]:
    """Microseconds a token for encoding, for cutting windows, and for making batches of them."""
    best = {"encoding": float("inf"), "windows": float("inf"), "batches": float("inf")}
    for _ in range(3):
        times = [time.perf_counter()]
        columns = encode_passages(passages, vocabulary)
        times.append(time.perf_counter())
        store = Store.from_columns([columns], len(vocabulary))
        view = JointView(store, vocabulary, POSITIONS)
        times.append(time.perf_counter())
        for start in range(0, len(view), BATCH):
            view.collate([view.item(index) for index in range(start, min(start + BATCH, len(view)))])
        times.append(time.perf_counter())
        tokens = int(store.token_offsets[-1])
        for name, begin, end in zip(best, times, times[1:]):
            best[name] = min(best[name], 1e6 * (end - begin) / tokens)
    return {"passages": len(store), "tokens": tokens / len(store), "rows": len(view) / len(store), **best}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lengths = ",".join(str(1 << power) for power in range(14))
    parser.add_argument("--tokens", default=lengths, help="of a passage, about, with commas between them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    [member] = fairseq_cloze.load(str(EXAMPLES / "pretrained" / "mini"), device="cpu").members
    texts = [json.loads(file.read_text())["article"] for file in sorted((EXAMPLES / "passages").rglob("*.json"))]
    words = [word for text in texts for word in text.split() if word.isalpha()]
    results = []
    print(f"{'tokens':>8}{'passages':>10}{'rows':>7}   microseconds a token: encoding, windows, batches")
    for tokens in map(int, options.tokens.split(",")):
        found = measure(make_passages(tokens, words), member.vocabulary)
        results.append(found)
        times = "".join(f"{found[name]:10.3f}" for name in ("encoding", "windows", "batches"))
        print(f"{found['tokens']:8,.0f}{found['passages']:10,}{found['rows']:7.2f}{times}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
