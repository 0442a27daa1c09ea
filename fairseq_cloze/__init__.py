"""fairseq-cloze: masked LMs on cloze exams, trained with fairseq, used without.

In Python, :func:`load` gives a :class:`Ranker`; on the command line it is ``fairseq-cloze``, and ``fairseq-train
--user-dir fairseq_cloze --task cloze_ranking``.  Importing is cheap: torch is loaded when :func:`load` is used, and
fairseq is not.  Where fairseq is imported, before or after, it knows this package's task and model from then on.
"""

from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ClozeError, DataBinError, NoBlankError, OutOfMemory, PassageError, SetupError
from .user_dir import UserDirs, register, register_with_fairseq
from .version import __version__

__all__ = ["CheckpointError", "ClozeError", "DataBinError", "NoBlankError", "OutOfMemory", "PassageError", "SetupError"]
__all__ += ["Ranked", "Ranker", "__version__", "load", "register"]


if TYPE_CHECKING:
    from .ranking.ranker import Ranked, Ranker, load
else:

    def __getattr__(name: str) -> Any:
        if name in ("Ranked", "Ranker", "load"):
            from .ranking import ranker

            return getattr(ranker, name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "__path__" in globals():
    __path__ = UserDirs(__path__)
register_with_fairseq()
