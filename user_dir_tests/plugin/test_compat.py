"""Installation: what is missing or does not fit is said in one line; the plugin registers once, however it comes in."""

from __future__ import annotations

import fractions
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from fairseq_cloze.plugin.compat import INSTALL_FAIRSEQ

from fairseq_cloze.errors import CheckpointError, SetupError
from fairseq_cloze.plugin import compat

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


def test_the_command_says_so_too(tmp_path: Path) -> None:
    package(tmp_path, "fairseq", "raise ImportError('no such thing')")
    ran = run(
        *("fairseq-cloze", "evaluate", "x.pt", "bin"),
        code=1,
        env={"PYTHONPATH": f"{tmp_path}:{PLUGIN.parent}"},
        cwd=tmp_path,
    )
    assert ran.text.splitlines()[-1] == (
        f"Error: the installed fairseq does not work with Python {PYTHON} and torch {torch.__version__} "
        f"(no such thing): pip uninstall -y fairseq ve-fairseq; {INSTALL_FAIRSEQ}"
    )


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
    compat.refuse_wrong_apex()


@pytest.mark.parametrize(
    ("text", "expected"), [("2.13.0+cpu", (2, 13, 0)), ("2.1.0a0+fb", (2, 1)), ("2.2", (2, 2)), ("", ())]
)
def test_versions(text: str, expected: tuple) -> None:
    assert compat._version(text) == expected


# -- one registration ------------------------------------------------------------------------------------------------

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
    ran = run(sys.executable, "-c", script + REGISTERED, cwd=tmp_path, env={"PYTHONPATH": str(PLUGIN.parent)})
    return next(line for line in ran.text.splitlines() if line.startswith("registered from"))


@pytest.mark.parametrize(
    "imports",
    [
        "import fairseq, fairseq_cloze",
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
    ran = run(sys.executable, "-c", script + REGISTERED, cwd=tmp_path)
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
    assert registered(tmp_path, script) == "registered from my_cloze.task my_cloze.criterion"


def test_a_foreign_folder_of_that_name(tmp_path: Path) -> None:
    package(tmp_path, "fairseq_cloze", "")
    script = f"import sys; sys.path.insert(0, {str(PLUGIN.parent)!r}); import fairseq_cloze\n" + USER_DIR
    ran = run(sys.executable, "-c", script + f"user_dir({str(tmp_path / 'fairseq_cloze')!r})", cwd=os.sep, code=1)
    assert "is not globally unique" in ran.text


def test_importing_is_cheap() -> None:
    """Neither torch nor fairseq is loaded before it is needed; the log wrapper and --help start at once."""
    script = (
        "import sys, fairseq_cloze, fairseq_cloze.cli as cli; from click.testing import CliRunner\n"
        "assert CliRunner().invoke(cli.main, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'fairseq', 'numpy', 'tokenizers'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", script).text.strip().splitlines()[-1] == "['numpy']"


# -- errors and checkpoints ------------------------------------------------------------------------------------------


def test_errors_print_as_one_line_and_others_as_ever(tmp_path: Path) -> None:
    script = "import fairseq_cloze.plugin.compat as c; from fairseq_cloze.errors import ClozeError\n"
    script += "c.print_errors_plainly()\n"
    assert run(sys.executable, "-c", script + "raise ClozeError('so and so')", code=1).text == "Error: so and so\n"
    traced = run(
        *(sys.executable, "-c", script + "raise ClozeError('so and so')"), code=1, env={"FAIRSEQ_CLOZE_TRACEBACK": "1"}
    )
    assert traced.text.startswith("Traceback") and traced.text.endswith("ClozeError: so and so\n")
    assert "Traceback" in run(sys.executable, "-c", script + "raise ValueError('x')", code=1).text


def test_fairseq_does_not_turn_on_debug_output() -> None:
    script = "import fairseq_cloze, logging; fairseq_cloze.register(); print(logging.getLogger().handlers)"
    assert run(sys.executable, "-W", "ignore", "-c", script).text == "[]\n"


def test_errors_have_an_exit_status_of_their_own() -> None:
    script = "import fairseq_cloze.plugin.compat as c; from fairseq_cloze.errors import ChanceError\n"
    script += "c.print_errors_plainly()\n"
    assert run(sys.executable, "-c", script + "raise ChanceError('so')", code=4).text == "Error: so\n"
    traced = run(sys.executable, "-c", script + "raise ChanceError('so')", code=4, env={"FAIRSEQ_CLOZE_TRACEBACK": "1"})
    assert traced.text.startswith("Traceback")
    assert run(sys.executable, "-c", script + "c.end_run(75, 'so')", code=75).text == "so\n"


SPAWN = """
import sys, time, torch
import fairseq_cloze.plugin.compat as compat

def work(rank, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    time.sleep(1 - rank)  # the one that speaks comes last
    compat.end_run(75, "so and so")

if __name__ == "__main__":
    compat.print_errors_plainly()
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
"""


def test_spawned_workers_pass_the_exit_status_on(tmp_path: Path) -> None:
    """As fairseq starts a worker for each GPU."""
    (tmp_path / "spawn.py").write_text(SPAWN)
    ran = run(sys.executable, tmp_path / "spawn.py", tmp_path / "store", code=75)
    assert "\nso and so\n" in f"\n{ran.text}" and "Traceback" not in ran.text
    script = "import fairseq_cloze.plugin.compat as c, torch.multiprocessing as m; c.print_errors_plainly()\n"
    script += "raise m.ProcessExitedException('worker 0 ended', 0, 1, 9)"  # not by end_run
    assert run(sys.executable, "-c", script, code=1).text.endswith("ProcessExitedException: worker 0 ended\n")


def test_setup_error_is_a_cloze_error() -> None:
    assert SetupError.exit_code == CheckpointError.exit_code == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_both_file_formats(tmp_path: Path, zipped: bool) -> None:
    from argparse import Namespace

    torch.save(
        {"args": Namespace(a=1), "model": {"w": torch.arange(3)}},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=zipped,
    )
    state = compat.load_checkpoint(tmp_path / "m.pt")
    assert (state["args"].a, state["model"]["w"].tolist()) == (1, [0, 1, 2])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02."])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        compat.load_checkpoint(tmp_path / "m.pt")
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'm.pt'}: cannot be read as a checkpoint, {len(content)} bytes (")
    assert text.endswith("); the file is truncated or no PyTorch file, copy it again")
    assert "\n" not in text


def test_a_checkpoint_with_other_objects(tmp_path: Path) -> None:
    """Not the file's fault, and the advice works."""
    path = tmp_path / "model.pt"
    weights = {"w": torch.ones(2)}
    torch.save({"model": weights, "args": None, "extra_state": {"meter": fractions.Fraction(1, 3)}}, path)
    with pytest.raises(CheckpointError) as error:
        compat.load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"{path}: holds an object of fractions.Fraction, which is not read as it could run code; if")
    advice = text[text.index("python -c") :]
    run("bash", "-c", advice, cwd=tmp_path)
    assert compat.load_checkpoint(tmp_path / "plain.pt")["model"]["w"].equal(weights["w"])


def test_dead_parameters_by_name() -> None:
    prefix = "encoder.sentence_encoder.layers.11."
    assert compat.is_dead_parameter(prefix + "in_proj_weight")
    assert compat.is_dead_parameter(prefix + "fc2_bias")
    for name in ("fc2.bias", "self_attn.in_proj_weight", "self_attn.out_proj.weight"):
        assert not compat.is_dead_parameter(prefix + name)
