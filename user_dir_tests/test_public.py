"""The public face: what it names, what importing it costs, and its page."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest

import fairseq_cloze

from .support.commands import ROOT


def test_names() -> None:
    assert fairseq_cloze.__all__ == [
        *("CheckpointError", "ClozeError", "DataBinError", "NoBlankError", "OutOfMemory", "PassageError", "SetupError"),
        *("Ranked", "Ranker", "__version__", "load", "register"),
    ]
    assert all(getattr(fairseq_cloze, name) is not None for name in fairseq_cloze.__all__)
    assert set(fairseq_cloze.__all__) <= set(dir(fairseq_cloze))
    with pytest.raises(AttributeError, match="^module 'fairseq_cloze' has no attribute 'rankers'$"):
        _ = fairseq_cloze.rankers


def test_importing_is_cheap() -> None:
    """No torch, no numpy, nothing that is installed beside Python itself."""
    code = (
        "import sys; before = set(sys.modules); import fairseq_cloze; import json; "
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert [name for name in loaded if name not in sys.stdlib_module_names] == ["fairseq_cloze"]


def test_types_are_there_for_others() -> None:
    assert (resources.files(fairseq_cloze) / "py.typed").is_file()


def test_the_page_is_that_of_the_docstrings() -> None:
    """``python scripts/api_page.py`` writes it anew."""
    spec: Any = importlib.util.spec_from_file_location("api_page", ROOT / "scripts" / "api_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == module.page()
