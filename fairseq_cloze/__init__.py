"""fairseq-cloze: fine-tune RoBERTa on cloze exams with fairseq.

Used as ``fairseq-train --user-dir fairseq_cloze --task cloze_ranking ...`` and as ``fairseq-cloze`` on the command
line.  Importing the package is cheap: fairseq and torch are loaded when fairseq imports it as ``--user-dir``, or when
:func:`register` is called.
"""

from __future__ import annotations

import logging
import sys
from typing import List, Optional

__version__ = "0.1.0"

__all__ = ["__version__", "register"]


def register() -> None:
    """Register task, criterion and model with fairseq; once per process, whatever name the package was imported by.

    Raises:
        SetupError: fairseq, torch or apex do not fit together
    """
    from . import compat, requeue

    compat.print_errors_plainly()
    compat.require_fairseq()
    from fairseq.tasks import TASK_REGISTRY

    compat.allow_checkpoint_types()
    compat.copy_checkpoints_atomically()
    compat.exchange_by_torch()
    compat.check_before_building()
    compat.train_as_launched()
    requeue.save_when_told()
    if "cloze_ranking" not in TASK_REGISTRY:
        from . import criterion, model, optimizer, task  # noqa: F401


class _UserDirs(list[str]):
    """``__path__`` of this package, which fairseq searches for ``--user-dir``.

    Where the package is already imported, fairseq accepts a ``--user-dir`` of the same name only if it finds the path
    here, and then imports nothing.  This is the moment to register, and the answer is yes for any copy of the package.
    """

    def __contains__(self, folder: object) -> bool:
        from pathlib import Path

        if not Path(str(folder), "compat.py").is_file() or Path(str(folder)).name != __name__:
            return super().__contains__(folder)
        if not super().__contains__(folder):
            logging.getLogger(__name__).warning(
                "--user-dir %s: already imported from %s, which is used", folder, self[0]
            )
        register()
        return True


_path: list[str] | None = globals().get("__path__")
if _path is not None:
    __path__ = _UserDirs(_path)
if "fairseq" in sys.modules:
    register()
