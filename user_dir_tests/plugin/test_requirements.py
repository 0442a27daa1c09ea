"""What is missing or does not fit is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fairseq_cloze.errors import SetupError
from fairseq_cloze.plugin import requirements
from fairseq_cloze.plugin.requirements import INSTALL_FAIRSEQ

from ..support.commands import PLUGIN, run

PYTHON = ".".join(map(str, sys.version_info[:2]))


def failing(tmp_path: Path, script: str = "import fairseq_cloze; fairseq_cloze.register()") -> str:
    """Run a script with *tmp_path* before everything else on the path; its last line."""
    ran = run(sys.executable, "-c", script, code=1, env={"PYTHONPATH": f"{tmp_path}:{PLUGIN.parent}"}, cwd=tmp_path)
    return ran.text.splitlines()[-1]


def package(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(code)


def test_fairseq_is_missing(tmp_path: Path) -> None:
    """An interpreter in which nobody finds fairseq."""
    script = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "fairseq" else real(name, package)
import fairseq_cloze
fairseq_cloze.register()
"""
    assert failing(tmp_path, script) == f"Error: fairseq is not installed: {INSTALL_FAIRSEQ}"


def test_fairseq_does_not_fit_python(tmp_path: Path) -> None:
    """The official 0.12.2 fails so when Python 3.11 imports it."""
    package(
        tmp_path,
        "fairseq",
        "raise ValueError(\"mutable default <class 'CommonConfig'> for field common is not allowed\")",
    )
    assert failing(tmp_path) == (
        f"Error: the installed fairseq does not work with Python {PYTHON} and torch {torch.__version__} "
        "(mutable default <class 'CommonConfig'> for field common is not allowed): "
        f"pip uninstall -y fairseq ve-fairseq; {INSTALL_FAIRSEQ}"
    )


def test_old_torch(tmp_path: Path) -> None:
    package(tmp_path, "torch", "__version__ = '2.5.1+cu117'")
    assert failing(tmp_path) == (
        "Error: torch 2.5.1+cu117 is too old, 2.6 or newer is needed: pip install 'torch>=2.6'"
    )


def test_broken_torch(tmp_path: Path) -> None:
    package(tmp_path, "torch", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    assert failing(tmp_path) == (
        "Error: torch cannot be imported (libcudart.so.12: cannot open shared object file): pip install 'torch>=2.6'"
    )


def test_the_other_apex(tmp_path: Path) -> None:
    """What PyPI calls apex is a web toolkit."""
    package(tmp_path, "apex", "")
    (tmp_path / "apex" / "lib").mkdir()
    assert failing(tmp_path) == (
        "Error: the installed 'apex' is not NVIDIA's but another project of that name from PyPI: pip uninstall -y apex "
        "(NVIDIA's is optional: https://github.com/NVIDIA/apex)"
    )


def test_nvidias_apex_is_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "apex", "")
    (tmp_path / "apex" / "optimizers").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    requirements.refuse_wrong_apex()


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "2.10.0a0+fb", "3.0"])
def test_torch_that_will_do(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    requirements.require_fairseq()


@pytest.mark.slow
def test_fairseq_does_not_turn_on_debug_output() -> None:
    script = "import fairseq_cloze, logging; fairseq_cloze.register(); print(logging.getLogger().handlers)"
    assert run(sys.executable, "-W", "ignore", "-c", script).text == "[]\n"


def test_setup_error_is_a_cloze_error() -> None:
    assert SetupError.exit_code == 1
