"""Requirements: fairseq, torch and apex, or one line that says what to install."""

import importlib
import importlib.util
import logging
import re
import sys
from pathlib import Path

from ..errors import SetupError

INSTALL_FAIRSEQ = "pip install ve-fairseq==0.12.3"


def require_installed() -> None:
    """Say by a SetupError what to install where there is no fairseq; takes no time, as nothing is imported."""
    if importlib.util.find_spec("fairseq") is None:
        raise SetupError(f"fairseq is not installed: {INSTALL_FAIRSEQ}")


def require_fairseq() -> None:
    """Import fairseq, or say in the one line of a SetupError what to install, or what is in the way."""
    try:
        import torch
    except ImportError as error:
        raise SetupError(f"torch cannot be imported ({error}): pip install 'torch>=2.6'") from error
    if tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
        raise SetupError(f"torch {torch.__version__} is too old, 2.6 or newer is needed: pip install 'torch>=2.6'")
    refuse_wrong_apex()
    require_installed()
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        importlib.import_module("fairseq")
    except Exception as error:  # whatever a package raises that does not fit its surroundings
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        python = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(
            f"the installed fairseq does not work with Python {python} and torch {torch.__version__} ({reason}): "
            f"pip uninstall -y fairseq ve-fairseq; {INSTALL_FAIRSEQ}"
        ) from error
    finally:  # one of its models turns on the debug output of every library
        root.setLevel(level)
        root.handlers[:] = handlers


def refuse_wrong_apex() -> None:
    """Refuse by a SetupError the ``apex`` of PyPI, a web toolkit that has nothing to do with NVIDIA's."""
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if spec and not any(Path(folder, "optimizers").is_dir() for folder in folders):
        raise SetupError(
            "the installed 'apex' is not NVIDIA's but another project of that name from PyPI: pip uninstall -y apex "
            "(NVIDIA's is optional: https://github.com/NVIDIA/apex)"
        )
