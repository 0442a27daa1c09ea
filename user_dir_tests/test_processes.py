from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fairseq_cloze.errors import ClozeError, NoBlankError, OutOfMemory, PassageError
from fairseq_cloze.processes import BrokenProcessPool, Pool, cores

from .support.commands import ROOT, run


def late_first(number: int) -> tuple[int, int]:
    """The number and the process; the first result is the last to be there."""
    time.sleep(0.3 if number == 0 else 0.0)
    return number, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise PassageError("a.json", "expected a string, found 1", "options", 2)
    return number


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Counter:
    """Remembers between tasks."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: object) -> int:
        self.calls += 1
        return self.calls


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    with Pool(workers, late_first) as pool:
        numbers, processes = zip(*pool.run(range(20)))
    assert numbers == tuple(range(20))
    assert (os.getpid() in processes) == (workers == 1)
    assert len(set(processes)) <= workers


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with Pool(2, late_first) as pool:
        results = pool.run(tasks())
        assert next(results)[0] == 0
        assert len(taken) == 9


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_at_their_place_with_their_fields(workers: int) -> None:
    done = []
    with pytest.raises(PassageError) as error, Pool(workers, refuse) as pool:
        for number in pool.run(range(9)):
            done.append(number)
    assert done == [0, 1, 2]
    assert vars(error.value) == {"source": "a.json", "problem": "blank 2, field 'options': expected a string, found 1"}
    assert str(error.value).startswith("a.json: blank 2, field 'options': expected a string, found 1; ")


def test_a_worker_keeps_its_function() -> None:
    counter = Counter()
    with Pool(1, counter) as pool:
        assert list(pool.run("abc")) == [1, 2, 3]
    assert counter.calls == 3
    with Pool(2, counter) as pool:  # copies, that begin with 3
        results = list(pool.run("abcdef"))
    assert min(results) == 4 and max(results) >= 6
    assert counter.calls == 3


def test_a_killed_worker() -> None:
    with pytest.raises(BrokenProcessPool), Pool(2, die) as pool:
        list(pool.run(range(9)))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from fairseq_cloze.processes import Pool\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(2, time.sleep)\n"
        "    list(pool.run([0.2] * 4))\n"
        "    print(*(process.pid for process in pool._executor._processes.values()), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    first = run(sys.executable, script, cwd=ROOT, code=-9).text.splitlines()[0]
    workers = [int(pid) for pid in first.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(lives, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_errors_keep_their_kind_and_fields_in_a_pickle() -> None:
    stopped = ClozeError("a: interrupted")
    stopped.exit_code = 130
    for error in (stopped, OutOfMemory("too large"), NoBlankError("a.json", "no blank")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, vars(copy)) == (type(error), error.args, vars(error))
    assert pickle.loads(pickle.dumps(stopped)).exit_code == 130


def test_cores() -> None:
    assert cores() == len(os.sched_getaffinity(0))
