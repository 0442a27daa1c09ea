"""Speed and memory on a device, for ``gpu_check.py``: ours, a peer, the limit, and a prediction.

The data are windows of 512 positions; a token is one that is not padding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bench_flops import forward_flops
from bench_measure import gemm_rate, gemm_shapes, synchronize
from bench_transformers import rows_of, score_with_transformers, train_step_with_transformers, transformers_model
from gpu_runs import PLUGIN, SHAPES, log_rows, summarise

POSITIONS = 512
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

#: Updates of a run that measures, and of the one that is to stay stable.
UPDATES, STABLE_UPDATES = 40, 500

#: What is trained of each shape: name → type, options, updates.
RUNS: dict[str, dict[str, Any]] = {
    "tiny": {"bf16": ("bf16", ("--autocast",), 12)},
    "base": {
        "bf16, compiled": ("bf16", ("--autocast", "--compile"), UPDATES),
        "fp32": ("fp32", (), UPDATES // 2),
    },
    "large": {
        "bf16": ("bf16", ("--autocast",), UPDATES),
        "bf16, compiled": ("bf16", ("--autocast", "--compile"), UPDATES),
        "fp16, compiled": ("fp16", ("--fp16", "--compile"), STABLE_UPDATES),
    },
}

#: Tokens of a batch, and GiB that ``fit-batch`` may fill.
MAX_TOKENS = {"tiny": 1024, "base": 32768, "large": 32768}
FIT_GIB = {"tiny": 1.0, "base": 20.0, "large": 30.0}


class Measures:
    """What is measured of one shape after the other.

    Args:
        check: the run of checks, with its data prepared
    """

    def __init__(self, check: Any) -> None:
        import fairseq_cloze

        fairseq_cloze.register()
        from fairseq_cloze.data.databin import DataBin
        from fairseq_cloze.plugin.dataset import ClozeDataset
        from fairseq_cloze.views.making import make_view

        self.check = check
        data = DataBin(check.work / "long")
        self.vocabulary = data.vocabulary
        self.view = make_view(_default_settings(), data.open("train"), data.vocabulary, POSITIONS)
        self.dataset = ClozeDataset(self.view, shuffle=True)
        self.results: dict[str, Any] = check.results.setdefault("measures", {})

    def parts(self, shape: str) -> list[Callable[[], None]]:
        """What to run for a shape, in order."""
        functions: list[Callable[[str], None]] = [self.limit, self.training, self.memory, self.peer, self.scoring]
        out = []
        for function in functions:
            part: Any = partial(function, shape)
            part.__name__ = f"{function.__name__} of {shape}"
            out.append(part)
        return out

    def limit(self, shape: str) -> None:
        """Rate of matrix products, FLOP/s by type."""
        rates = {
            name: gemm_rate(dtype, self.check.device, gemm_shapes(self._architecture(shape), device=self.check.device))
            for name, dtype in DTYPES.items()
            if self.check.cuda or name != "fp16"
        }
        self.results[shape] = {"tflops of matrix products": {name: rate / 1e12 for name, rate in rates.items()}}

    def training(self, shape: str) -> None:
        """``fairseq-train``: tokens per second, share of the limit, and of the largest run whether it is stable."""
        found = self.results[shape]["training"] = {}
        for name, (dtype, options, updates) in RUNS[shape].items():
            options = (*options, "--lr", 2e-5, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 20)
            options = (*options, "--total-num-update", 2 * updates, "--max-tokens", MAX_TOKENS[shape], "--no-save")
            options = (*options, "--max-positions", POSITIONS, "--log-interval", 4)
            text = self.check.train(f"{shape}-{name.replace(', ', '-')}", shape, updates, *options, data="long")
            rows = log_rows(text, "train_inner")
            speed = statistics.median(row["wps"] for row in rows[len(rows) // 3 :] if row["wps"])
            found[name] = {**summarise(text), "updates": updates, **self._speed(shape, dtype, speed, 3)}
            if updates == STABLE_UPDATES:
                run = found[name]
                stable = run["overflows"] <= 10 and run["loss_scale"]["min"] >= 1
                stable = stable and all(row["loss"] < rows[0]["loss"] + 0.3 for row in rows)  # NaN is not less
                self.check.expect(f"{shape}, {name}: stable for {updates} updates", stable)

    def memory(self, shape: str) -> None:
        """``fit-batch``: the peak that it predicts, and the one that it measures then."""
        from fairseq_cloze.plugin.fitting import fit_batch

        layers, width, inner, heads = SHAPES[shape]
        options = (self.check.work / "long", *PLUGIN, "--arch", "cloze_roberta", "--from-scratch", "--autocast")
        options += ("--encoder-layers", layers, "--encoder-embed-dim", width, "--encoder-ffn-embed-dim", inner)
        options += ("--encoder-attention-heads", heads, "--max-positions", POSITIONS, "--optimizer", "fused_adamw")
        options += ("--lr", 1e-5, *([] if self.check.cuda else ["--cpu"]))
        result = fit_batch(options, memory_limit=int(FIT_GIB[shape] * 2**30))
        self.results[shape]["memory"] = {
            "limit_gib": FIT_GIB[shape],
            "max_tokens": result.max_tokens,
            "predicted_gib": result.predicted / 2**30,
            "measured_gib": result.peak / 2**30,
            "mib_per_token": result.per_token / 2**20,
            "bytes_per_parameter": (result.weights + result.gradients + result.optimizer) / result.parameters,
            "seconds": result.seconds,
        }
        off = abs(result.predicted - result.peak) / result.peak
        self.check.expect(f"{shape}: the predicted peak is the measured one within 10%", off <= 0.1)

    def peer(self, shape: str) -> None:
        """transformers with SDPA on the same batches, in bfloat16."""
        device = self.check.device
        model = self._transformers(shape).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
        batches = self.dataset.batch_by_size(self.dataset.ordered_indices(), MAX_TOKENS[shape])[:3]
        samples = [rows_of(self.view, batch) for batch in batches]
        speeds = []
        for number in range(9):
            rows = samples[number % len(samples)]
            synchronize(device)
            start = time.perf_counter()
            train_step_with_transformers(model, optimizer, rows, device, bf16=True)
            synchronize(device)
            speeds.append(sum(len(row.tokens) for row in rows) / (time.perf_counter() - start))
        found = self.results[shape]["training"]
        found["transformers, bf16"] = self._speed(shape, "bf16", statistics.median(speeds[3:]), 3)
        best = max(run["tokens_per_second"] for name, run in found.items() if name.startswith("bf16"))
        found["bf16: times transformers"] = best / found["transformers, bf16"]["tokens_per_second"]

    def scoring(self, shape: str) -> None:
        """One forward of every window, ours and that of transformers, in bfloat16."""
        from fairseq_cloze.model.masked_lm import MaskedLM
        from fairseq_cloze.model.scores import candidate_scores
        from fairseq_cloze.views.view import to_device

        device = self.check.device
        ours = MaskedLM(self._architecture(shape), len(self.vocabulary), autocast=True).to(device).eval()
        peer = self._transformers(shape).to(device).eval()
        order = self.dataset.ordered_indices()[: 64 if self.check.cuda else 8]
        rows = rows_of(self.view, order)
        batches = self.dataset.batch_by_size(order, MAX_TOKENS[shape])

        def score() -> None:
            for batch in batches:
                sample = to_device(self.dataset.collater([self.dataset[int(index)] for index in batch]), device)
                with torch.inference_mode():
                    candidate_scores(ours, sample, _default_settings()).cpu()

        batch_size = max(len(batch) for batch in batches)
        contestants = {"bf16": score, "transformers, bf16": partial(score_with_transformers, peer, rows, batch_size)}
        contestants["transformers, bf16"] = partial(contestants["transformers, bf16"], device, True)
        tokens = sum(len(row.tokens) for row in rows)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(4):
            for name, function in contestants.items():
                start = time.perf_counter()
                function()
                synchronize(device)
                seconds[name].append(time.perf_counter() - start)
        found = self.results[shape]["scoring"] = {
            name: self._speed(shape, "bf16", tokens / statistics.median(values[1:]), 1)
            for name, values in seconds.items()
        }
        speeds = [run["tokens_per_second"] for run in found.values()]
        found["bf16: times transformers"] = speeds[0] / speeds[1]

    # -- shapes ------------------------------------------------------------------------------------------------------

    def _architecture(self, shape: str) -> Any:
        from fairseq_cloze.model.architecture import Architecture

        layers, width, inner, heads = SHAPES[shape]
        return Architecture(layers, width, inner, heads, POSITIONS)

    def _transformers(self, shape: str) -> Any:
        """A peer with random weights."""
        size = len(self.vocabulary)
        return transformers_model("RobertaForMaskedLM", shape=self._architecture(shape), vocabulary_size=size)

    def _speed(self, shape: str, dtype: str, tokens_per_second: float, times_forward: int) -> dict[str, float]:
        """Speed, and the share of the rate of matrix products that it makes."""
        store = self.view.store
        lengths = self.view.row_length
        pieces = int(store.candidate_token_offsets[-1])
        reads = [len(self.view.item(index)["blanks"]) for index in range(len(self.view))]
        each = forward_flops(self._architecture(shape), lengths.tolist(), reads, pieces) / int(lengths.sum())
        rate = times_forward * each * tokens_per_second
        limit = self.results[shape]["tflops of matrix products"][dtype]
        return {"tokens_per_second": tokens_per_second, "tflops": rate / 1e12, "mfu_percent": rate / limit / 1e10}


def _default_settings() -> Any:
    from fairseq_cloze.views.settings import Settings

    return Settings()
