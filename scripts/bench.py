"""Measure the core against peers: same weights, same passages, same process, in turns; medians and their spread.

    python scripts/bench.py --weights WEIGHTS --hf HF-FOLDER --passages FOLDER [--limit 60]

WEIGHTS is what ``fairseq-cloze import-hf HF-FOLDER`` wrote.  Needs the packages of the ``test`` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the peer has one thread, too

import torch

import fairseq_cloze
from fairseq_cloze.encoding import encode_passages
from fairseq_cloze.passages import Passage, read_passages
from fairseq_cloze.store import Store
from fairseq_cloze.text import BLANK, NOTHING, normalise

fairseq_cloze.register()

from fairseq_cloze.scorer import Scorer  # noqa: E402


def in_turns(rounds: int, **contestants: Callable[[], Any]) -> Dict[str, Dict[str, float]]:
    """Median, fastest and slowest seconds of each, after one round that does not count."""
    seconds: Dict[str, List[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in seconds.items()
    }


def encode_as_fairseq(weights: Path, passages: Sequence[Passage]) -> Callable[[], None]:
    """The same texts through fairseq's GPT-2 BPE and dictionary, as multiprocessing_bpe_encoder and preprocess do."""
    from fairseq.data import Dictionary
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    config = GPT2BPEConfig(gpt2_encoder_json=str(weights / "encoder.json"), gpt2_vocab_bpe=str(weights / "vocab.bpe"))
    dictionary = Dictionary.load(str(weights / "dict.txt"))

    def run() -> None:
        bpe = GPT2BPE(config)
        for passage in passages:
            texts = BLANK.split(normalise(passage.article))
            texts += [f" {choice}" for row in passage.candidates for choice in row if choice not in NOTHING]
            for text in texts:
                dictionary.encode_line(bpe.encode(text), append_eos=False, add_if_not_exist=False)

    return run


def score_as_transformers(folder: Path, store: Store, batch_size: int) -> Callable[[], None]:
    """transformers with SDPA: one row per passage, length-sorted batches, logits of the whole vocabulary."""
    from transformers import RobertaForMaskedLM

    model = RobertaForMaskedLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="sdpa").eval()
    passages = sorted((store[number] for number in range(len(store))), key=lambda item: -len(item.tokens))

    def run() -> None:
        for start in range(0, len(passages), batch_size):
            batch = passages[start : start + batch_size]
            tokens = torch.full((len(batch), len(batch[0].tokens) + 2), 1)
            for row, passage in zip(tokens, batch):
                row[: len(passage.tokens) + 2] = torch.tensor([0, *passage.tokens.tolist(), 2])
            with torch.inference_mode():
                logits = model(tokens, attention_mask=tokens.ne(1).long()).logits
            for row, passage in zip(logits, batch):
                for position, candidates in zip(passage.blank_positions.tolist(), passage.candidates):
                    scores = [row[position + 1][torch.tensor(c.astype("int64"))].mean() for c in candidates if len(c)]
                    int(torch.stack(scores).argmax())

    return run


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--hf", type=Path, required=True)
    parser.add_argument("--passages", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=60, help="passages to score; ten times as many are encoded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    scorer = Scorer(options.weights / "model.pt", device="cpu")
    positions = scorer.architecture.max_positions
    passages = list(read_passages([options.passages]))[: 10 * options.limit]
    columns = encode_passages(passages, scorer.vocabulary)
    tokens = len(columns["tokens"]) + len(columns["candidate_tokens"])
    fitting = [p for p, n in zip(passages, columns["token_count"]) if n + 2 <= positions][: options.limit]
    store = Store.from_columns([encode_passages(fitting, scorer.vocabulary)], len(scorer.vocabulary))

    encoding = in_turns(
        options.rounds,
        ours=lambda: encode_passages(passages, scorer.vocabulary),
        fairseq=encode_as_fairseq(options.weights, passages),
    )
    scoring = in_turns(
        options.rounds,
        ours=lambda: scorer.score(store, batch_size=8),
        transformers=score_as_transformers(options.hf, store, 8),
    )
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "encoding": {"tokens": tokens, **encoding},
        "scoring": {"passages": len(store), "blanks": store.blanks, **scoring},
    }
    for name, unit, amount, peer in (
        ("encoding", "tokens/s", tokens, "fairseq"),
        ("scoring", "blanks/s", store.blanks, "transformers"),
    ):
        for who in ("ours", peer):
            values = result[name][who]  # type: ignore[index]
            speeds = [amount / values[key] for key in ("median", "max", "min")]
            print(f"{name:10}{who:14}{speeds[0]:12,.1f} {unit} ({speeds[1]:,.1f} to {speeds[2]:,.1f})")
        ratio = result[name][peer]["median"] / result[name]["ours"]["median"]  # type: ignore[index]
        print(f"{name:10}{'ratio':14}{ratio:12.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
