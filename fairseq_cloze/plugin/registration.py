"""Registration: what fairseq is told of this package, once per process."""

from __future__ import annotations

from . import compat, stopping
from .names import TASK_NAME


def register_all() -> None:
    """See :func:`fairseq_cloze.register`."""
    compat.print_errors_plainly()
    compat.require_fairseq()
    from fairseq.tasks import TASK_REGISTRY

    from ..weights.reading import allow_checkpoint_types
    from . import sharded

    allow_checkpoint_types()
    compat.copy_checkpoints_atomically()
    compat.exchange_by_torch()
    compat.load_ensembles()
    compat.train_as_launched()
    stopping.save_when_told()
    sharded.shard_by_torch()
    if TASK_NAME not in TASK_REGISTRY:
        from . import criterion, model, optimizer, task  # noqa: F401
