"""Speed and memory on a device, for ``gpu_check.py``: ours, a peer, the limit, and a prediction.

The data are windows of 512 positions; a token is one that is not padding.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from bench_flops import forward_flops
from bench_measure import gemm_rate, gemm_shapes, seconds_of, synchronize
from gpu_runs import PLUGIN, POSITIONS, SHAPES, Timer, log_rows, shape_options, summarise

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

#: Options of ``fairseq-train`` by type to compute in; half precision is trained on CUDA only.
PRECISIONS = {"bf16": ("--autocast", "--compile"), "fp16": ("--fp16", "--compile"), "fp32": ()}

#: Updates of a run that measures, of the one that is to stay stable, and tokens of its batches.
UPDATES, STABLE_UPDATES, STABLE_TOKENS = 40, 500, 8192

#: Tokens of a batch, and GiB that ``fit-batch`` may fill.
MAX_TOKENS, FIT_GIB = 32768, 30.0

#: Where a step may wait: fairseq's trainer and optimizers, the norm, and sums, which do not wait for the step.
_LOOKING_AT_GRADIENTS = ("fairseq/", "optim/", "logging/", "amp/", "plugin/optimizer.py", "plugin/sums.py")


class Measures:
    """What is measured, one part after the other, each in a process of its own.

    Args:
        check: the run of checks, with its data prepared
    """

    def __init__(self, check: Any) -> None:
        self.check = check
        self.max_tokens = MAX_TOKENS if check.cuda else 1024
        self.fit_gib = FIT_GIB if check.cuda else 1.0

    @cached_property
    def dataset(self) -> Any:
        """The windows, ready to be cut into batches."""
        from fairseq_cloze.plugin.dataset import ClozeDataset

        return ClozeDataset(self.view, shuffle=True)

    @cached_property
    def view(self) -> Any:
        """The windows."""
        import fairseq_cloze
        from fairseq_cloze.data.databin import DataBin
        from fairseq_cloze.views.making import make_view

        fairseq_cloze.register()
        data = DataBin(self.check.work / "long")
        return make_view(_default_settings(), data.open("train"), data.vocabulary, POSITIONS)

    def rate(self, shape: str) -> None:
        """Rate of matrix products by type, TFLOP/s."""
        for name, dtype in DTYPES.items():
            if self.check.cuda or name != "fp16":
                shapes = gemm_shapes(self._architecture(shape), device=self.check.device)
                self.check.figure(f"rate / {name} / tflops", gemm_rate(dtype, self.check.device, shapes) / 1e12)

    def training(self, shape: str, dtype: str) -> None:
        """``fairseq-train``: tokens per second, and the share of the limit."""
        updates = UPDATES if self.check.cuda else 12
        text = self.check.train(
            f"training-{shape}-{dtype}",
            *(*shape_options(shape), *(PRECISIONS[dtype] if self.check.cuda else ("--autocast",))),
            *("--lr", 2e-5, "--max-tokens", self.max_tokens, "--no-save", "--log-interval", 4),
            updates=updates,
            data="long",
        )
        rows = log_rows(text, "train_inner")
        rows = rows[len(rows) // 3 :]
        speed = statistics.median(row["wps"] for row in rows if row["wps"])
        name = f"training / {shape}, {dtype}"
        self.check.figure(
            f"{name} / seconds of an update", statistics.median(1 / row["ups"] for row in rows if row["ups"])
        )
        self._speed(name, shape, dtype, speed, 3)

    def stable(self, shape: str) -> None:
        """``fairseq-train --fp16`` for many updates: no overflows, and a loss that does not rise."""
        updates = STABLE_UPDATES if self.check.cuda else 8
        text = self.check.train(
            f"stable-{shape}",
            *(*shape_options(shape), *(("--fp16",) if self.check.cuda else ())),
            *("--lr", 2e-5, "--lr-scheduler", "polynomial_decay", "--warmup-updates", max(updates // 20, 1)),
            *("--total-num-update", 2 * updates, "--no-save", "--log-interval", max(updates // 50, 1)),
            *("--max-tokens", STABLE_TOKENS if self.check.cuda else self.max_tokens),
            updates=updates,
            data="long",
        )
        rows, run = log_rows(text, "train_inner"), summarise(text)
        self.check.figure(f"stable / {shape}", run)
        scales = run.get("overflows", 0) <= 10 and run.get("loss_scale", {"min": 1})["min"] >= 1
        falls = all(row["loss"] < rows[0]["loss"] + 0.3 for row in rows)  # NaN is not less
        self.check.expect(f"{shape}, fp16: stable for {updates} updates", scales and falls)

    def memory(self, shape: str) -> None:
        """``fit-batch``: the peak that it predicts, and the one that it measures then."""
        self.view  # noqa: B018 - registers the plugin
        from fairseq_cloze.plugin.fitting import fit_batch

        options = (self.check.work / "long", *PLUGIN, *shape_options(shape), "--autocast", "--optimizer", "fused_adamw")
        options = (*options, "--lr", 1e-5, *([] if self.check.cuda else ["--cpu"]))
        result = fit_batch(options, memory_limit=int(self.fit_gib * 2**30))
        figures = {
            "limit_gib": self.fit_gib,
            "max_tokens": result.max_tokens,
            "predicted_gib": result.predicted / 2**30,
            "measured_gib": result.peak / 2**30,
            "mib_per_token": result.per_token / 2**20,
            "bytes_per_parameter": (result.weights + result.gradients + result.optimizer) / result.parameters,
            "seconds": result.seconds,
        }
        self.check.figure(f"memory / {shape}", figures)
        off, most = abs(result.predicted - result.peak) / result.peak, 0.03 if self.check.cuda else 0.1
        self.check.expect(
            f"{shape}: the peak that fit-batch predicts is the measured one within {most:.0%}", off <= most
        )

    def waits(self, shape: str) -> None:
        """Where a training step waits for the device, as torch says, and how long an update takes without a log."""
        from fairseq_cloze.plugin.measuring import CpuMemory, CudaMemory, Steps, parse

        self.view  # noqa: B018 - registers the plugin
        options = (self.check.work / "long", *PLUGIN, *shape_options(shape), "--autocast", "--optimizer", "fused_adamw")
        options = (*options, "--criterion", "cloze_ranking", "--lr", 1e-5, "--max-tokens", self.max_tokens)
        options = (*options, *([] if self.check.cuda else ["--cpu"]))
        memory: Any = (CudaMemory if self.check.cuda else CpuMemory)(None)
        steps = Steps(parse([str(option) for option in options], str(self.check.work)), memory)
        batch = steps.batches(self.max_tokens)[0]
        sample = steps.dataset.collater([steps.dataset[item] for item in batch])

        def update() -> None:
            steps.trainer.train_step([sample])

        seconds = [seconds_of(update, self.check.device) for _ in range(8)]
        self.check.figure(f"waits / {shape} / seconds of an update", statistics.median(seconds[2:]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self.check.cuda:
                torch.cuda.set_sync_debug_mode("warn")
            update()
            if self.check.cuda:
                torch.cuda.set_sync_debug_mode("default")
        found = [each for each in caught if "synchroniz" in str(each.message)]
        places = sorted({f"{'/'.join(Path(each.filename).parts[-2:])}:{each.lineno}" for each in found})
        self.check.figure(f"waits / {shape} / times in an update", len(found))
        self.check.figure(f"waits / {shape} / places", places)
        others = [place for place in places if not place.startswith(_LOOKING_AT_GRADIENTS)]
        self.check.expect("a training step waits for the device where fairseq looks at the gradients only", not others)

    def scoring(self, shape: str, dtype: str) -> None:
        """One forward of every window."""
        from fairseq_cloze.model.masked_lm import MaskedLM
        from fairseq_cloze.model.scores import candidate_scores
        from fairseq_cloze.views.view import to_device

        device, half = self.check.device, dtype == "fp16"
        model = MaskedLM(self._architecture(shape), len(self.view.vocabulary), autocast=not half).to(device).eval()
        model = model.half() if half else model
        order = self.dataset.ordered_indices()[: 192 if self.check.cuda else 4]
        batches = self.dataset.batch_by_size(order, self.max_tokens)
        samples = [self.dataset.collater([self.dataset[int(index)] for index in batch]) for batch in batches]

        def score() -> None:
            with torch.inference_mode():
                found = [candidate_scores(model, to_device(each, device), _default_settings()) for each in samples]
            assert all(scores.isfinite().any() for scores in [each.cpu() for each in found])

        seconds = [seconds_of(score, device) for _ in range(6 if self.check.cuda else 2)]
        tokens = int(self.view.row_length[order].sum())
        self._speed(f"scoring / {shape}, {dtype}", shape, dtype, tokens / statistics.median(seconds[1:]), 1)

    def peer(self, shape: str) -> None:
        """transformers with SDPA on the same batches, in bfloat16: training, then scoring."""
        from bench_transformers import (
            rows_of,
            score_with_transformers,
            train_step_with_transformers,
            transformers_model,
        )

        device, size = self.check.device, len(self.view.vocabulary)
        model = transformers_model("RobertaForMaskedLM", shape=self._architecture(shape), vocabulary_size=size)
        model = model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
        order = self.dataset.ordered_indices()[: 192 if self.check.cuda else 4]
        batches = self.dataset.batch_by_size(order, self.max_tokens)[:3]
        samples = [rows_of(self.view, batch) for batch in batches]
        speeds = []
        for number in range(9 if self.check.cuda else 4):
            rows = samples[number % len(samples)]
            step = partial(train_step_with_transformers, model, optimizer, rows, device, bf16=True)
            speeds.append(sum(len(row.tokens) for row in rows) / seconds_of(step, device))
        self._speed(f"training / {shape}, transformers bf16", shape, "bf16", statistics.median(speeds[3:]), 3)
        rows = [row for sample in samples for row in sample]
        score = partial(score_with_transformers, model.eval(), rows, max(map(len, batches)), device, True)
        seconds = [seconds_of(score, device) for _ in range(4 if self.check.cuda else 2)]
        tokens = sum(len(row.tokens) for row in rows)
        speed = tokens / statistics.median(seconds[1:])
        self._speed(f"scoring / {shape}, transformers bf16", shape, "bf16", speed, 1)
        figures = self.check.report.figures
        for kind in ("training", "scoring"):
            ours, theirs = (figures.get(f"{kind} / {shape}, {who} / tokens/s") for who in ("bf16", "transformers bf16"))
            if ours and theirs:
                self.check.figure(f"{kind} / {shape}, bf16 / times transformers", ours / theirs)

    def whole_step(self, shape: str) -> None:
        """A step alone, forward and backward in bfloat16: as it is, as one compiled function, as a CUDA graph.

        What cannot be done is a figure, and no failure: this asks whether it would pay.
        """
        from fairseq_cloze.model.losses import ranking_losses
        from fairseq_cloze.model.masked_lm import MaskedLM
        from fairseq_cloze.model.scores import candidate_scores
        from fairseq_cloze.views.view import to_device

        device = self.check.device
        model = MaskedLM(self._architecture(shape), len(self.view.vocabulary), autocast=True).to(device).train()
        batch = self.dataset.batch_by_size(self.dataset.ordered_indices(), self.max_tokens)[0]
        sample = to_device(self.dataset.collater([self.dataset[int(index)] for index in batch]), device)

        def loss_of(sample: Any) -> Any:
            return ranking_losses(candidate_scores(model, sample, _default_settings()), sample).sum()

        def eager() -> None:
            loss_of(sample).backward()

        backend = "inductor" if self.check.cuda else "eager"  # inductor takes minutes on a CPU
        compiled_loss: Any = torch.compile(loss_of, dynamic=False, backend=backend)

        def compiled() -> None:
            compiled_loss(sample).backward()

        def graph() -> Callable[[], None]:
            for parameter in model.parameters():
                parameter.grad = None
            side: Any = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(3):
                    eager()
            torch.cuda.current_stream().wait_stream(side)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                eager()
            return captured.replay

        ways: dict[str, Callable[[], Callable[[], None]]] = {"eager": lambda: eager, "compiled": lambda: compiled}
        if self.check.cuda:
            ways["CUDA graph"] = graph
        for name, make in ways.items():
            timer = Timer()
            try:
                step = make()
                seconds = [seconds_of(step, device) for _ in range(8 if self.check.cuda else 3)]
                value: Any = statistics.median(seconds[2:])
            except Exception as error:  # whatever torch cannot do
                value = f"not possible: {type(error).__name__}: {str(error).strip().splitlines()[0][:150]}"
                synchronize(device)
            self.check.figure(f"whole step / {shape}, {name} / seconds", value)
            print(f"{name}: {timer.seconds:.0f} s", file=sys.stderr)

    # -- shapes ------------------------------------------------------------------------------------------------------

    def _architecture(self, shape: str) -> Any:
        from fairseq_cloze.model.architecture import Architecture

        return Architecture(**SHAPES[shape], max_positions=POSITIONS)

    def _speed(self, name: str, shape: str, dtype: str, tokens_per_second: float, times_forward: int) -> None:
        """Tell a speed, and the share of the rate of matrix products that it makes."""
        lengths, pieces = self.view.row_length, int(self.view.store.candidate_token_offsets[-1])
        reads = [len(self.view.item(index)["blanks"]) for index in range(len(self.view))]
        flops = shape_flops(self._architecture(shape), lengths.tolist(), reads, pieces)
        rate = times_forward * flops / int(lengths.sum()) * tokens_per_second
        self.check.figure(f"{name} / tokens/s", tokens_per_second)
        self.check.figure(f"{name} / tflops", rate / 1e12)
        limit = self.check.report.figures.get(f"rate / {dtype} / tflops")
        if limit:
            self.check.figure(f"{name} / share", rate / limit / 1e10)


def shape_flops(architecture: Any, lengths: Sequence[int], reads: Sequence[int], pieces: int) -> int:
    """As :func:`bench_flops.forward_flops`, where layers may be gated and attention local as well."""
    total = forward_flops(architecture, lengths, reads, pieces)
    width, inner = architecture.encoder_embed_dim, architecture.encoder_ffn_embed_dim
    layers, near = architecture.encoder_layers, architecture.local_attention + 1
    for layer in range(layers):
        for length, read in zip(lengths, reads if layer == layers - 1 else lengths):
            if architecture.gated:  # a third product
                total += 2 * width * inner * read
            if architecture.is_local(layer):
                total -= 4 * width * read * (length - min(length, near))
    return total


def _default_settings() -> Any:
    from fairseq_cloze.views.settings import Settings

    return Settings()
