"""Registration: what fairseq is told of this package, once per process."""

import atexit
import gc

from .ending import print_errors_plainly, stop_reading_at_exit
from .names import TASK_NAME
from .requirements import require_fairseq


def register_all() -> None:
    """See :func:`fairseq_cloze.register`."""
    print_errors_plainly()
    require_fairseq()
    from fairseq.tasks import TASK_REGISTRY

    from ..weights.reading import allow_checkpoint_types
    from .patches import install_all

    allow_checkpoint_types()
    install_all()
    if TASK_NAME not in TASK_REGISTRY:
        from . import criterion, model, optimizer, task  # noqa: F401

        stop_reading_at_exit()
        # Or Python looks through all of torch and fairseq for circles once more, for as long as an import of torch.
        atexit.register(gc.freeze)
