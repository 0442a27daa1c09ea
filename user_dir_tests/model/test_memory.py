"""What counts as out of memory, and work in parts."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest
import torch

from fairseq_cloze.model.memory import ADVICE, Limit, attempt, in_parts, is_out_of_memory, smaller_batches


def cuda_error(text: str = "CUDA out of memory. Tried to allocate 2.00 GiB") -> RuntimeError:
    return torch.cuda.OutOfMemoryError(text)


@pytest.mark.parametrize(
    "error",
    [
        cuda_error(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at CPUAllocator.cpp:68] . DefaultCPUAllocator: not enough memory: you tried to"),
        MemoryError(),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_what_counts(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), KeyError("memory")])
def test_what_does_not(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        attempt(lambda: _raise(error))


def _raise(error: BaseException) -> NoReturn:
    raise error


FREED = """
import ctypes, resource, sys, torch
from fairseq_cloze.model.memory import attempt, keep_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) * 1024

def run_out():
    assert attempt(lambda: torch.empty(1 << 60)) is None

libc = ctypes.CDLL(None)
libc.mallopt(-3, 1 << 17), libc.mallopt(-1, 1 << 17)  # what glibc does by itself depends on the order of what was freed
if "free" in sys.argv:
    libc.mallopt(-3, 1 << 25), libc.mallopt(-1, 1 << 28)
if "limit" in sys.argv:
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))
if "keep" in sys.argv:
    keep_freed_memory()
if "out" in sys.argv:
    run_out()
if "free" in sys.argv:
    before = resident()
    tensors = [torch.ones(5_000_000) for _ in range(6)]
    del tensors[:-1]  # the last one lies above the others
    kept = resident() - before
    run_out()
    assert resident() - before < 30_000_000 < 100_000_000 < kept, (kept, resident() - before)
    del tensors
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(5_000_000) for _ in range(6)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(*how: str, **variables: str) -> int:
    """Pages that are new to a process that makes tensors of 120 MB again and again, the last time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", FREED, *how]
    return int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept() -> None:
    """Also after a batch ran out of it; not where glibc's variables speak, nor with a limit, which ends all keeping."""
    given_back = new_pages()
    assert 10 * new_pages("keep", "out") < given_back
    assert new_pages("keep", MALLOC_ARENA_MAX="2") > 0.9 * given_back
    assert new_pages("keep", "limit") > 0.9 * given_back
    assert new_pages("limit", "free") > 0.9 * given_back


def test_what_a_failed_attempt_held_is_free() -> None:
    """The traceback of the error holds its frames, and these the activations."""
    held: list[Any] = []

    def work() -> None:
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        raise cuda_error()

    gc.disable()
    try:
        assert attempt(work) is None
        assert held[0]() is None
    finally:
        gc.enable()
    assert attempt(lambda: None) == (None,)


def parts(limit: Limit, fits: int, things: Sequence[int]) -> list[Sequence[int]]:
    """The parts in which things, which cost ten tokens each, are computed where *fits* tokens fit."""

    def work(part: Sequence[int]) -> Sequence[int]:
        if 10 * len(part) > fits:
            raise cuda_error()
        return part

    def too_large(thing: int) -> NoReturn:
        raise LookupError(thing)

    return in_parts(things, work, lambda part: 10 * len(part), limit, too_large)


def test_parts() -> None:
    limit = Limit()
    assert parts(limit, 100, range(10)) == [range(10)]
    assert limit == Limit() and limit.notes() == []
    assert parts(limit, 30, range(10)) == [range(3), range(3, 5), range(5, 8), range(8, 10)]
    assert limit == Limit(tokens=45, failed=50, count=2, splits=0)
    # What is known to fail is not tried again.
    assert parts(limit, 30, range(8)) == [range(2), range(2, 4), range(4, 6), range(6, 8)]
    assert limit == Limit(tokens=36, failed=40, count=3, splits=1)
    assert limit.notes() == [
        "batches that ran out of memory: 3, and split ahead: 1; no score is missing. "
        "With --max-tokens 35 or less it is faster"
    ]
    with pytest.raises(LookupError, match="7"):
        parts(limit, 5, [7])


def test_what_a_failure_undoes_is_done_again_first() -> None:
    done: list[Sequence[int]] = []

    def work(part: Sequence[int]) -> None:
        if len(part) > 1 and part[-1] == 3:
            raise cuda_error()
        done.append(part)

    def too_large(thing: int) -> NoReturn:
        raise LookupError(thing)

    def failed(part: Sequence[int]) -> list[Sequence[int]]:
        again = done[:]
        done.clear()
        return again

    limit = Limit()
    in_parts(range(4), work, len, limit, too_large, failed)
    assert done == [range(1), range(1, 2), range(2, 3), range(3, 4)]  # by now two things are known to be too many
    assert limit.counts == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((7000, 500, 8192, None, 1), "--max-tokens 4096 --update-freq 2 makes the same updates"),
        ((3000, 500, 8192, None, 2), "--max-tokens 2730 --update-freq 6 makes the same updates"),
        ((300, 500, 8192, None, 1), f"--max-tokens 500 is the least that these passages need; {ADVICE}"),
        ((300, 500, None, 8, 3), "--batch-size 4 --update-freq 6 makes the same updates"),
        ((300, 500, None, 1, 3), ADVICE),
    ],
)
def test_advice(arguments: Any, text: str) -> None:
    assert smaller_batches(*arguments) == text
