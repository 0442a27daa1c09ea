"""A worker whose model sums gradients in the backward pass, and which runs out of memory.

    python -m user_dir_tests.support.summing DATA-BIN FOLDER PORT RANK FAILS

FAILS is ``never``, or where worker 1 runs out of memory in an update of two batches: ``forward`` of the last one,
``backward`` of the first one, or ``summing``, the backward pass of the last one.  Writes its gradients into FOLDER.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fairseq.distributed import ModuleProxyWrapper

from .models import FailingOptimizer, build


def main(data_bin: str, folder: str, port: str, rank: str, fails: str) -> None:
    """Run one update."""
    from fairseq_cloze.plugin.criterion import ClozeRankingCriterion

    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=int(rank), world_size=2)
    torch.manual_seed(1)
    shape = {"encoder_layers": 1, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
    task, model = build(Path(data_bin), Path(folder), from_scratch=True, dropout=0.0, attention_dropout=0.0, **shape)
    task.load_dataset("train")
    dataset, criterion = task.dataset("train"), ClozeRankingCriterion(task, "softmax", 1.0)
    ddp: Any = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=False))
    mine = fails if rank == "1" else "never"
    optimizer = FailingOptimizer(model, {"backward": [1], "summing": [2]}.get(mine, []))
    plain, calls = model.forward, 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        out = plain(*args, **kwargs)
        if mine == "forward" and calls == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return out

    model.forward = forward
    for number in range(2):
        start = 10 * int(rank) + 5 * number
        sample = dataset.collater([dataset[item] for item in range(start, start + 4)])
        with nullcontext() if number else ddp.no_sync():
            task.train_step(sample, ddp, criterion, optimizer, 0)
    torch.save([each.grad for each in model.parameters()], Path(folder, f"{fails}-{rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
