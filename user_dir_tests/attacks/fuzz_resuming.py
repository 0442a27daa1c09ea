"""What a checkpoint says of its run: position in the epoch, cuts, best score, patience."""

from __future__ import annotations

import json
from typing import Any

from fairseq_cloze import register
from fairseq_cloze.errors import ClozeError

register()

from fairseq_cloze.plugin.epochs import Cut, is_position, read_cuts  # noqa: E402
from fairseq_cloze.plugin.resuming import MEMORY, remembered  # noqa: E402

CUT = {"max_tokens": 2048, "batch_size": None, "update_freq": 2, "processes": 1, "seed": 1, "batch_seed": 1}
CUT |= {"grouped": False, "even": True, "batches": 4}
RUN = {"start": {"encoder": "ab"}, "data": ["cd"], "measure": ["accuracy", "highest", "valid", "ef"], "best": 51.5}
RUN |= {"not_better": 1, "rate": 1e-5, "plateau": None, "owes": [2, True]}


def seeds() -> list[bytes]:
    """States of a first epoch, of one with two cuts, and of a run that has not validated."""
    position = {"version": 2, "epoch": 1, "iterations_in_epoch": 4, "shuffle": True, "digest": "ab", "cuts": [CUT]}
    two = {**position, "iterations_in_epoch": 8, "cuts": [CUT, {**CUT, "max_tokens": None, "batch_size": 3}]}
    bare = {**RUN, "start": None, "measure": None, "best": None, "owes": None, "plateau": 3}
    return [
        json.dumps({"train_iterator": where, MEMORY: run}).encode()
        for where, run in ((position, RUN), (two, RUN), (position, bare))
    ]


def attack(data: bytes) -> None:
    """Read a state; whatever it holds, a position, cuts and a memory of the right kinds come out, or nothing."""
    try:
        extra: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(extra, dict):
        return
    try:
        then = remembered(extra, "a checkpoint")
        position = extra.get("train_iterator")
        cuts = read_cuts(position) if is_position(position) else []
    except ClozeError:
        return
    assert not then or (isinstance(then["not_better"], int) and isinstance(then["data"], list))
    assert all(isinstance(cut, Cut) and cut.processes >= 1 and count >= 0 for cut, count in cuts)
