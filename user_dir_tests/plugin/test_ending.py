"""How a training ends: a last word, an exit status, no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fairseq_cloze.plugin.ending import _plainly

from ..support.commands import run
from ..support.warm import TORCH


def ended(script: str, code: int, **env: str) -> str:
    """What a process with a script of an ending prints."""
    beginning = "import fairseq_cloze.plugin.ending as c; from fairseq_cloze.errors import ClozeError, OutOfMemory\n"
    beginning += "c.print_errors_plainly()\n"
    return run(sys.executable, "-c", beginning + script, code=code, env=env, warm=TORCH).text


def test_errors_print_as_one_line_and_others_as_ever() -> None:
    assert ended("raise ClozeError('so and so')", 1) == "Error: so and so\n"
    traced = ended("raise ClozeError('so and so')", 1, FAIRSEQ_CLOZE_TRACEBACK="1")
    assert traced.startswith("Traceback") and traced.endswith("ClozeError: so and so\n")
    assert "Traceback" in ended("raise ValueError('x')", 1)


def test_errors_have_an_exit_status_of_their_own() -> None:
    assert ended("raise OutOfMemory('so')", 5) == "Error: so\n"
    assert ended("raise OutOfMemory('so')", 5, FAIRSEQ_CLOZE_TRACEBACK="1").startswith("Traceback")
    assert ended("c.end_run(75, 'so')", 75) == "so\n"


SPAWN = """
import sys, time, torch
import fairseq_cloze.plugin.ending as ending

def work(rank, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    time.sleep(1 - rank)  # the one that speaks comes last
    ending.end_run(75, "so and so")

if __name__ == "__main__":
    ending.print_errors_plainly()
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
"""


def test_spawned_workers_pass_the_exit_status_on(tmp_path: Path) -> None:
    """As fairseq starts a worker for each GPU."""
    (tmp_path / "spawn.py").write_text(SPAWN)
    ran = run(sys.executable, tmp_path / "spawn.py", tmp_path / "store", code=75)
    assert "\nso and so\n" in f"\n{ran.text}" and "Traceback" not in ran.text
    died = "import torch.multiprocessing as m; raise m.ProcessExitedException('worker 0 ended', 0, 1, 9)"
    assert ended(died, 1).endswith("ProcessExitedException: worker 0 ended\n")  # not by end_run


READING = """
import sys, torch
from fairseq_cloze import register
from fairseq_cloze.errors import OutOfMemory
register()
from fairseq.data.iterators import BufferedIterator

class Batches:
    def __len__(self):
        return 100000
    def __iter__(self):
        return (torch.randn(300000).sort() for _ in range(len(self)))

batches = BufferedIterator(int(sys.argv[1]), Batches())
next(batches)
raise OutOfMemory("so")
"""


@pytest.mark.parametrize("ahead", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_batches_that_are_made_ahead_do_not_abort_the_end(tmp_path: Path, ahead: int) -> None:
    """It was status 134 and "terminate called without an active exception"."""
    (tmp_path / "reading.py").write_text(READING)
    assert run(sys.executable, tmp_path / "reading.py", ahead, code=5).text.splitlines()[-1] == "Error: so"


COMMAND = """
def {inner}():
    raise {error}
def cli_main():
    {inner}()
cli_main()
"""


@pytest.mark.parametrize(
    ("inner", "error", "said"),
    [
        (
            *("load", "ValueError('no\\n  such option')"),
            "ValueError: no such option (FAIRSEQ_CLOZE_TRACEBACK=1 shows where; see docs/training-options.md)",
        ),
        ("load", "KeyboardInterrupt()", None),
        ("train", "ValueError('in an update')", None),  # fairseq_cli.train.train
    ],
)
def test_what_ends_a_command_before_its_first_update_is_a_line(inner: str, error: str, said: str | None) -> None:
    code = compile(COMMAND.format(inner=inner, error=error), "/lib/fairseq_cli/train.py", "exec")
    with pytest.raises(BaseException) as caught:
        exec(code, {})
    assert _plainly(caught.value, caught.tb) == said


def test_errors_of_other_programs_keep_their_traceback() -> None:
    with pytest.raises(ValueError) as caught:
        raise ValueError("mine")
    assert _plainly(caught.value, caught.tb) is None
