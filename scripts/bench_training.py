"""A training step: fairseq's trainer with this project's task, criterion and model, and that of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_measure import Contestant, in_turns
from bench_transformers import Row, rows_of, train_step_with_transformers, transformers_model
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

MAX_TOKENS = 4096
BATCHES = 2  # of a round, a shorter and a longer one
DROPOUT = 0.1
OPTIMIZER = ("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01")


class OurTraining:
    """``fairseq-train`` up to its first update.

    Args:
        weights: folder of the pretrained checkpoint
        data_bin: with a split ``train``
        save_dir: of the run
        device: ``cpu`` or ``cuda``
        bf16: autocast to bfloat16
        max_tokens: of a batch
    """

    def __init__(
        self, weights: Path, data_bin: Path, save_dir: Path, device: str, bf16: bool, max_tokens: int = MAX_TOKENS
    ) -> None:
        flags = [
            *(data_bin, "--task", "cloze_ranking", "--criterion", "cloze_ranking", "--arch", "cloze_roberta"),
            *("--finetune-from-model", weights / "model.pt", "--save-dir", save_dir, *OPTIMIZER),
            *("--lr", 1e-5, "--clip-norm", 1.0, "--max-tokens", max_tokens, "--dropout", DROPOUT),
            *("--attention-dropout", DROPOUT, "--chance-patience", 0, "--num-workers", 0),
            *(["--autocast"] if bf16 else []),
            *(["--cpu"] if torch.device(device).type == "cpu" else []),
        ]
        args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
        config = convert_namespace_to_omegaconf(args)
        save_dir.mkdir(parents=True)
        task = tasks.setup_task(config.task)
        model, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
        self.trainer = Trainer(config, task, model, criterion)
        _, epoch = checkpoint_utils.load_checkpoint(config.checkpoint, self.trainer)
        epoch.next_epoch_itr(shuffle=False)
        self.trainer.begin_epoch(1)  # proves the load
        self.dataset = task.dataset("train")
        every = self.dataset.batch_by_size(self.dataset.ordered_indices(), max_tokens)
        places = (np.arange(BATCHES) + 0.5) * len(every) / BATCHES
        self.batches = [every[int(place)] for place in np.unique(places.astype(int))]
        self.samples = [self.dataset.collater([self.dataset[int(index)] for index in batch]) for batch in self.batches]
        self.padding = 0.0

    def run(self) -> None:
        """One update on each batch."""
        for sample in self.samples:
            with metrics.aggregate(new_root=True) as logged:
                if self.trainer.train_step([sample]) is None:
                    raise SystemExit("fairseq's trainer skipped a batch")
            self.padding = logged.get_smoothed_values()["padding"]


class PeerTraining:
    """The same batches through ``RobertaForMaskedLM``.

    Args:
        folder: the same weights in Hugging Face's format
        batches: the inputs
        device: ``cpu`` or ``cuda``
        bf16: autocast to bfloat16
    """

    def __init__(self, folder: Path, batches: list[list[Row]], device: str, bf16: bool) -> None:
        self.model = transformers_model("RobertaForMaskedLM", folder, dropout=DROPOUT).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
        )
        self.batches, self.device, self.bf16 = batches, device, bf16

    def run(self) -> None:
        """One update on each batch."""
        for batch in self.batches:
            train_step_with_transformers(self.model, self.optimizer, batch, self.device, self.bf16)


def measure_training(
    weights: Path, folder: Path, data_bin: Path, work: Path, gemm: dict[str, Contestant], rounds: int, device: str
) -> dict[str, Any]:
    """Non-padding tokens per second of both, in float32 and in bfloat16.

    Args:
        weights: folder of the pretrained checkpoint
        folder: the same weights in Hugging Face's format
        data_bin: with a split ``train``
        work: folder to work in
        gemm: to measure in the same rounds
        rounds: that count
        device: ``cpu`` or ``cuda``

    Returns:
        ``rates`` by contestant, and what was trained on
    """
    contestants: dict[str, Contestant] = {}
    out: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        ours = OurTraining(weights, data_bin, work / f"save-{dtype}", device, dtype == "bfloat16")
        batches = [rows_of(ours.dataset.view, batch) for batch in ours.batches]
        rows = [row for batch in batches for row in batch]
        lengths = [len(row.tokens) for row in rows]
        contestants[f"ours {dtype}"] = Contestant(ours.run, sum(lengths))
        peer = PeerTraining(folder, batches, device, dtype == "bfloat16")
        contestants[f"transformers {dtype}"] = Contestant(peer.run, sum(lengths))
        out.update(
            updates=len(batches),
            passages=len(rows),
            tokens=sum(lengths),
            lengths=lengths,
            reads=[len(row.blanks) for row in rows],
            blanks=sum(len(row.blanks) for row in rows),
            pieces=sum(int((row.candidates != 1).sum()) for row in rows),
        )
        contestants[f"gemm {dtype}"] = gemm[dtype]
        out["trained"] = ours
    out["rates"] = in_turns(contestants, rounds, device)
    out["padding"] = out.pop("trained").padding
    return out
