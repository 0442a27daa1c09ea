"""The plugin registers once, however it comes in."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from ..support.commands import PLUGIN, run
from ..support.warm import FAIRSEQ, TORCH

REGISTERED = """
from fairseq.tasks import TASK_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.criterions import CRITERION_REGISTRY
assert {"cloze_roberta", "cloze_roberta_base", "cloze_roberta_large"} <= set(ARCH_MODEL_REGISTRY)
print("registered from", TASK_REGISTRY["cloze_ranking"].__module__, CRITERION_REGISTRY["cloze_ranking"].__module__)
"""

USER_DIR = """
from argparse import Namespace
from fairseq.utils import import_user_module
def user_dir(path):
    import_user_module(Namespace(user_dir=path))
"""


def registered(tmp_path: Path, script: str) -> str:
    """What a process says that runs the script; fairseq is there already if that is what the script imports first."""
    warm = TORCH if script.startswith("import fairseq_cloze") else FAIRSEQ
    ran = run(sys.executable, "-c", script + REGISTERED, cwd=tmp_path, warm=warm)
    return next(line for line in ran.text.splitlines() if line.startswith("registered from"))


@pytest.mark.parametrize(
    "imports",
    [
        "import fairseq, fairseq_cloze",
        "import fairseq_cloze\nfrom fairseq.models.roberta import RobertaModel",
        "import fairseq_cloze\nfairseq_cloze.register()",
        USER_DIR + f"user_dir({str(PLUGIN)!r})",
        USER_DIR + f"import os; os.chdir({str(PLUGIN.parent)!r}); user_dir('fairseq_cloze')",
        # imported before fairseq, which then finds it as --user-dir
        "import fairseq_cloze\n" + USER_DIR + f"user_dir({str(PLUGIN)!r})",
        # everything in one process
        "import fairseq_cloze\n"
        + USER_DIR
        + f"import os; os.chdir({str(PLUGIN.parent)!r})\n"
        + f"user_dir('fairseq_cloze'); user_dir({str(PLUGIN)!r}); user_dir(os.environ['COPY'])\n"
        + "import fairseq_cloze; fairseq_cloze.register(); user_dir(os.environ['COPY'])",
    ],
)
def test_ways_in(tmp_path: Path, imports: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "elsewhere" / "fairseq_cloze"
    shutil.copytree(PLUGIN, copy)
    monkeypatch.setenv("COPY", str(copy))
    assert registered(tmp_path, imports) == "registered from fairseq_cloze.plugin.task fairseq_cloze.plugin.criterion"


def test_a_copy_elsewhere_that_comes_first(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "fairseq_cloze"
    shutil.copytree(PLUGIN, copy)
    script = (
        USER_DIR + f"user_dir({str(copy)!r}); user_dir({str(PLUGIN)!r})\nimport fairseq_cloze as f; print(f.__file__)\n"
    )
    ran = run(sys.executable, "-c", script + REGISTERED, cwd=tmp_path, warm=FAIRSEQ)
    lines = ran.text.splitlines()
    assert str(copy / "__init__.py") in lines
    assert lines[-1] == "registered from fairseq_cloze.plugin.task fairseq_cloze.plugin.criterion"
    assert any(f"--user-dir {PLUGIN}: already imported from {copy}, which is used" in line for line in lines)


def test_a_copy_under_another_name(tmp_path: Path) -> None:
    """The first one in stays; the second adds nothing and does not fail."""
    copy = tmp_path / "my_cloze"
    shutil.copytree(PLUGIN, copy)
    script = USER_DIR + f"user_dir({str(PLUGIN)!r}); user_dir({str(copy)!r})"
    assert registered(tmp_path, script) == "registered from fairseq_cloze.plugin.task fairseq_cloze.plugin.criterion"
    script = USER_DIR + f"user_dir({str(copy)!r}); user_dir({str(PLUGIN)!r})"
    assert registered(tmp_path, script) == "registered from my_cloze.plugin.task my_cloze.plugin.criterion"


@pytest.mark.slow
def test_a_foreign_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "fairseq_cloze").mkdir()
    (tmp_path / "fairseq_cloze" / "__init__.py").write_text("")
    script = f"import sys; sys.path.insert(0, {str(PLUGIN.parent)!r}); import fairseq_cloze\n" + USER_DIR
    ran = run(sys.executable, "-c", script + f"user_dir({str(tmp_path / 'fairseq_cloze')!r})", cwd=os.sep, code=1)
    assert "is not globally unique" in ran.text
