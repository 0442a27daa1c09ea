"""fairseq-cloze: fine-tune RoBERTa on cloze exams with fairseq.

Used as ``fairseq-train --user-dir fairseq_cloze --task cloze_ranking ...`` and as ``fairseq-cloze`` on the command
line.  Importing the package is cheap: fairseq and torch are loaded when fairseq imports it as ``--user-dir``, or when
:func:`register` is called.
"""

import sys

from .user_dir import UserDirs, register
from .version import __version__

__all__ = ["__version__", "register"]

if "__path__" in globals():
    __path__ = UserDirs(__path__)
if "fairseq" in sys.modules:
    register()
