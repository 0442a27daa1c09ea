"""Peer: ``CrossEncoder`` of sentence-transformers with a new head, a score for each text with a candidate filled in."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import Built, Contestant, Work, evenly, fastest, version_of

BATCH_SIZES = (1, 2, 4)  # blanks


def scoring(job: dict[str, Any]) -> Built:
    """Its ``predict``, in pairs of what stands before the blank, with a candidate, and what stands behind it."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.manual_seed(1)  # the head is new
    model = CrossEncoder(str(Path(job["work"]) / "hf"), num_labels=1, device=job["device"])
    questions = json.loads((Path(job["work"]) / "questions.json").read_text())

    def take(size: int, batch_size: int) -> Work:
        chosen = evenly(questions, size)
        pairs = [(each["before"] + fill, each["after"]) for each in chosen for fill in each["fills"]]
        most = batch_size * len(chosen[0]["fills"])

        def score() -> np.ndarray:
            scores = model.predict(pairs, batch_size=most, show_progress_bar=False)
            return np.asarray(scores).reshape(len(chosen), -1).argmax(axis=1)

        return Work(score, len(chosen))

    first = min(4, len(questions))
    take(1, 1).run()
    seconds, size = fastest(BATCH_SIZES, lambda size: take(first, size).run(), job["device"])
    facts = {"version": f"sentence-transformers {version_of('sentence-transformers')}", "batch_size": size}
    return Built({"float32": Contestant(partial(take, batch_size=size), "blanks", seconds / first)}, facts)
