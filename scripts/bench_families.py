"""Measure every family of masked LMs against transformers: the same random weights, the same ragged batches, in turns.

    python scripts/bench_families.py [--only bert,modernbert] [--passages N] [--rounds N] [--threads N] [--small]
                                     [--device cuda] [--json FILE]

Scoring is one forward per passage, all candidates at their masks; a training step has loss, gradients, clipping and
AdamW.  ModernBERT is measured once more on passages of up to 2,048 tokens, each in one window; two make a batch then.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_measure import in_turns, machine
from bench_transformers import PAD, Row, score_with_transformers, train_step_with_transformers
from torch import Tensor

from fairseq_cloze.data.vocabulary import BOS, EOS
from fairseq_cloze.model.masked_lm import MaskedLM
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hugging_face import from_hub_names

BATCH = 8  # passages of up to 512 tokens
BLANKS, CANDIDATES = 20, 4
GOAL = 1.5

#: Fields of configurations that are not those of the base-sized model of the family, as transformers has it.
CONFIGS: dict[str, dict[str, Any]] = {
    "albert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "electra": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 768},
}
_SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_SMALL |= {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}


@dataclass
class Case:
    """What is measured: a family, and lengths of passages."""

    family: str
    longest: int = 512

    @property
    def batch(self) -> int:
        """Passages of a batch: as many tokens in each case."""
        return BATCH * 512 // self.longest

    @property
    def name(self) -> str:
        """For people."""
        return self.family if self.longest == 512 else f"{self.family}, {self.longest:,} tokens"


def main() -> int:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    cases = [Case(name) for name in FAMILIES] + [Case("modernbert", 2048)]
    chosen = [case for case in cases if not options.only or case.family in options.only]
    result: dict[str, Any] = {"machine": machine(options.device), "families": {}}
    print(f"{'family':24} {'parity':>8} {'scoring tok/s':>22} {'training tok/s':>22} {'peak MB':>15}")
    for case in chosen:
        found = measure(case, options)
        result["families"][case.name] = found
        scoring, training, peak = (found[part] for part in ("scoring", "training", "peak_mb"))
        columns = [f"{one['ours']:,.0f} ({one['ratio']:.2f}x)" for one in (scoring, training)]
        memory = f"{peak[0]:7,.0f}/{peak[1]:,.0f}"
        print(f"{case.name:24} {found['parity']:8.0e} {columns[0]:>22} {columns[1]:>22} {memory}", flush=True)
        if options.json:  # each as it is found
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Parity of logits, rates of both and their peak memory, for one case."""
    rows = random_rows(options.passages, case.longest, options.rows)
    tokens = sum(len(row.tokens) for row in rows)
    theirs, ours = models(case, options)
    parity = float((_logits_at_masks(ours, rows[:2]) - _logits_at_masks(theirs, rows[:2])).abs().max())
    out: dict[str, Any] = {"parity": parity, "tokens": tokens, "longest": max(len(row.tokens) for row in rows)}

    def score_ours() -> None:
        for batch in batches(rows, case.batch):
            with torch.inference_mode():
                candidate_scores(ours, batch)

    contestants: dict[str, Callable[[], Any]] = {
        "ours": score_ours,
        "transformers": lambda: score_with_transformers(theirs, rows, case.batch, options.device),
    }
    out["scoring"] = _rates(contestants, tokens, options)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in (ours, theirs)]
    batch = batches(rows, case.batch)[0]
    ours.train(), theirs.train()
    steps: dict[str, Callable[[], Any]] = {
        "ours": lambda: train_step(ours, optimizers[0], batch),
        "transformers": lambda: train_step_with_transformers(theirs, optimizers[1], batch, options.device),
    }
    out["training"] = _rates(steps, sum(len(row.tokens) for row in batch), options)
    out["peak_mb"] = [peak_mb(step, options.device) for step in steps.values()]
    return out


def _rates(work: dict[str, Callable[[], Any]], amount: int, options: argparse.Namespace) -> dict[str, float]:
    contestants = {name: (run, amount) for name, run in work.items()}
    rates = in_turns(contestants, options.rounds, options.device)
    return {
        **{name: rate.median for name, rate in rates.items()},
        "ratio": rates["ours"].over(rates["transformers"]).median,
    }


def models(case: Case, options: argparse.Namespace) -> tuple[Any, MaskedLM]:
    """transformers' model with random weights and ours with the same, without dropout."""
    import transformers

    family = FAMILIES[case.family]
    masked_lm = getattr(transformers, family.masked_lm)
    off = dict.fromkeys((*family.dropouts, "mlp_dropout", "classifier_dropout_prob"), 0.0)
    shape = {**CONFIGS.get(case.family, {}), **(_SMALL if options.small else {})}
    if family.positions:
        shape["max_position_embeddings"] = 512 + 2 * family.behind_padding
    special = {"vocab_size": options.rows, "bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
    special |= {"cls_token_id": BOS, "sep_token_id": EOS, "type_vocab_size": family.type_rows}
    torch.manual_seed(1)
    config = masked_lm.config_class(**{**shape, **special, **off, "reference_compile": False})
    theirs = masked_lm._from_config(config)  # with SDPA, where the class has it
    weights = {name: value.detach() for name, value in theirs.named_parameters()}
    fields = {**family.defaults, **config.to_dict()}
    positions = 512 if family.positions else 0
    architecture = family.architecture(fields, positions, untied=False)
    converted = from_hub_names(weights, family, architecture, None, Path(case.family))
    ours = MaskedLM.from_weights(architecture, converted)
    return theirs.to(options.device).eval(), ours.to(options.device)


def random_rows(count: int, longest: int, rows: int) -> list[Row]:
    """Passages from a third of the longest to all of it, with blanks of candidates of one token."""
    draw = np.random.default_rng(1)
    out: list[Row] = []
    for length in np.linspace(longest // 3, longest, count).astype(int):
        tokens = draw.integers(4, rows - 1, length)
        positions = np.sort(draw.choice(np.arange(1, length - 1), BLANKS, replace=False))
        tokens[0], tokens[-1], tokens[positions] = BOS, EOS, rows - 1
        candidates = draw.integers(4, rows - 1, (BLANKS, CANDIDATES, 1))
        numbers = np.arange(BLANKS) + BLANKS * len(out)
        distinct = np.ones((BLANKS, CANDIDATES), bool)
        out.append(Row(tokens, positions, candidates, distinct, draw.integers(0, CANDIDATES, BLANKS), numbers))
    return out


def batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """The longest first, as the peer has them."""
    order = sorted(rows, key=lambda row: -len(row.tokens))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _padded(rows: Sequence[Row], device: torch.device) -> Tensor:
    values = [torch.from_numpy(row.tokens) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=PAD).to(device)


def _reads(rows: Sequence[Row], width: int) -> Tensor:
    """Places of the masks in a padded batch."""
    return torch.cat([torch.from_numpy(row.positions) + number * width for number, row in enumerate(rows)])


def candidate_scores(model: MaskedLM, rows: Sequence[Row]) -> Tensor:
    """Scores of all candidates of a batch, ``(blanks, candidates)``, from their rows of the embedding alone."""
    device = model.encoder.lm_head.bias.device
    tokens = _padded(rows, device)
    reads = _reads(rows, tokens.size(1)).to(device)
    candidates = torch.cat([torch.from_numpy(row.candidates) for row in rows]).to(device)
    token_reads = torch.arange(len(reads), device=device)[:, None, None].expand_as(candidates)
    windows = torch.arange(len(rows), device=device).repeat_interleave(BLANKS)
    inputs = {"candidate_tokens": candidates, "reads": reads, "token_reads": token_reads, "windows": windows}
    return model(tokens, **inputs)[0].mean(dim=-1)


def train_step(model: MaskedLM, optimizer: torch.optim.Optimizer, rows: Sequence[Row]) -> float:
    """What :func:`bench_transformers.train_step_with_transformers` does, with our model."""
    scores = candidate_scores(model, rows)
    loss = F.cross_entropy(scores, torch.from_numpy(np.concatenate([row.gold for row in rows])).to(scores.device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _logits_at_masks(model: Any, rows: Sequence[Row]) -> Tensor:
    tokens = _padded(rows, next(model.parameters()).device)
    with torch.inference_mode():
        ours = isinstance(model, MaskedLM)
        logits = model(tokens)[0] if ours else model(tokens, attention_mask=tokens.ne(PAD).long()).logits
    return logits.flatten(0, 1)[_reads(rows, tokens.size(1)).to(logits.device)].cpu()


def peak_mb(work: Callable[[], Any], device: str) -> float:
    """Most memory that some work takes beside what is taken before it, in MB; on a CPU as Linux counts it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already is not taken again unseen
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1e3


def _status(name: str) -> int:
    """A line of ``/proc/self/status``, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="families, with commas")
    parser.add_argument("--passages", type=int, default=16, help="passages to score; a step takes the longest")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=8000, help="entries of the vocabulary")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that it works")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="file to write all figures into")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
