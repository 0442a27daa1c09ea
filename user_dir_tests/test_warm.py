"""Commands that are forked from a warm process behave as those from scratch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .support import warm
from .support.commands import ROOT, environment, run, start, warm_path
from .support.warm import TORCH, WarmProcess


def forked(folder: Path, code: str, *arguments: str, **options: Any) -> WarmProcess:
    """A script in a process that is forked from one with json imported."""
    script = folder / f"{options.pop('name', 'script')}.py"
    script.write_text(code)
    options = {"cwd": folder, "env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    return WarmProcess(("json", "sqlite3"), environment(), [str(script), *arguments], text=True, **options)


SELF = """
import os, sys
modules = sorted({"json", "sqlite3", "warm_server"} & set(sys.modules))
import json
out = [__name__, sys.argv, sys.path[0], modules, os.getcwd(), os.environ.get("WORD"), os.environ.get("HOME")]
json.dump([*out, sys.stdin.read(), os.getsid(0) == os.getpid(), sorted(os.listdir("/proc/self/fd"))[:-1]], sys.stdout)
"""


def test_it_has_its_own_arguments_environment_folder_files_and_session(tmp_path: Path) -> None:
    env = {**environment(WORD="\udcff ü"), "HOME": "/nowhere"}
    process = forked(tmp_path, SELF, "a", "ü \udcff", env=env, stdin=subprocess.PIPE, start_new_session=True)
    text, _ = process.communicate("to read")
    argv = [str(tmp_path / "script.py"), "a", "ü \udcff"]
    assert json.loads(text) == [
        *("__main__", argv, str(tmp_path), ["json", "sqlite3"], str(tmp_path), "\udcff ü", "/nowhere", "to read", True),
        ["0", "1", "2"],
    ]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("import sys; print('so'); sys.exit(75)", 75, "so\n"),
        ("import sys; sys.exit('Error: so')", 1, "Error: so\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast\n"),
        ("import os; os._exit(3)", 3, ""),
        ("import sys; print('one', file=sys.stderr); print('two')", 0, "one\ntwo\n"),
    ],
)
def test_how_it_ends(tmp_path: Path, code: str, status: int, text: str) -> None:
    process = forked(tmp_path, code)
    assert process.communicate() == (text, None)
    assert process.returncode == process.wait() == process.poll() == status


def test_an_exception_that_nobody_catches(tmp_path: Path) -> None:
    process = forked(tmp_path, "raise ValueError('so')")
    text, _ = process.communicate()
    assert process.returncode == 1
    assert text.startswith("Traceback (most recent call last):\n") and text.endswith("\nValueError: so\n")


def test_several_run_at_once(tmp_path: Path) -> None:
    """One ends, with all its files closed, while another that was started after it goes on."""
    first = forked(tmp_path, "import sys; print(sys.stdin.readline())", stdin=subprocess.PIPE)
    second = forked(tmp_path, "import time; time.sleep(300)", name="second")
    assert first.poll() is None and second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    assert first.communicate("word\n") == ("word\n\n", None)
    assert first.returncode == 0 and second.poll() is None
    second.kill()
    assert second.communicate() == ("", None) and second.returncode == -9


def test_commands_say_the_same() -> None:
    for command, code in ((("fairseq-train", "--help"), 0), (("fairseq-cloze", "nonsense"), 2)):
        assert run(*command, code=code).text == run(*command, code=code, real=True).text


def test_commands_of_a_script(tmp_path: Path) -> None:
    """They are found by name, end as they would, and get the signals that are sent to them."""
    env = warm_path(tmp_path / "bin", "fairseq-cloze")
    script = "fairseq-cloze --version; fairseq-cloze nonsense"
    assert run("bash", "-c", script, env=env, code=2).text == run("bash", "-c", script, code=2).text
    assert run("bash", "-c", "command -v fairseq-cloze", env=env).text == f"{tmp_path}/bin/fairseq-cloze\n"
    script = "fairseq-cloze run -- sleep 300 & until grep -q . logs/*; do sleep 0.1; done; kill $!; wait $!"
    run("bash", "-c", script, env=env, code=128 + 15, cwd=tmp_path)


def test_code_is_forked_with_what_it_is_given() -> None:
    code = "import sys; print(__name__, sys.argv, sys.path[0], 'torch' in sys.modules, 'fairseq' in sys.modules)"
    assert run(sys.executable, "-c", code, "a", 1, warm=TORCH).text == "__main__ ['-c', 'a', '1']  True False\n"


def test_what_needs_a_process_from_scratch(tmp_path: Path) -> None:
    options: dict[str, Any]
    for options in (
        {"real": True},
        {"env": {"PYTHONPATH": str(ROOT)}},
        {"env": {"LOGLEVEL": "DEBUG"}},
        {"umask": 0o77},
    ):
        process = start("fairseq-cloze", "--version", **options)
        assert process.communicate()[0].startswith("fairseq-cloze, version ") and type(process) is subprocess.Popen
    for options in ({}, {"env": {"FAIRSEQ_CLOZE_DATA": "x"}}, {"cwd": tmp_path, "stdin": subprocess.DEVNULL}):
        process = start("fairseq-cloze", "--version", **options)
        assert process.communicate()[0].startswith("fairseq-cloze, version ") and type(process) is WarmProcess


def test_the_plugin_is_imported_anew(tmp_path: Path) -> None:
    """What is warm is not of this project: --user-dir still has everything to do."""
    code = "import sys; print([name for name in sys.modules if name.startswith(('fairseq_cloze', 'user_dir_tests'))])"
    assert forked(tmp_path, code).communicate()[0] == "[]\n"


def test_workers_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has started is found by those that it starts, whose environment differs in other things."""
    monkeypatch.setenv("FAIRSEQ_CLOZE_WARM_SHARED", "[null, {}]")  # is set back
    monkeypatch.setattr(warm, "TORCH", ("json",))
    monkeypatch.setattr(warm, "FAIRSEQ", ("json", "csv"))
    base = environment()
    warm.share(base)
    find = warm.address.__wrapped__  # without the memory of this process
    mine = warm.address(("json",), tuple(base.items()))
    assert find(("json",), tuple({**base, "PYTEST_XDIST_WORKER": "gw7"}.items())) == mine
    assert find(("json", "csv"), tuple(base.items())) != mine
    assert find(("json",), tuple({**base, "PYTHONOPTIMIZE": "1"}.items())) != mine
