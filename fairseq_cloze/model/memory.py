"""Out of memory: what counts as that, and computing a batch in parts where it does not fit.

Losses and scores are computed per blank, so the parts of a batch give what the batch would have given.
"""

import ctypes
import gc
import logging
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from ..errors import OutOfMemory, first_line

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: What errors say that mean that memory ran out: of CUDA, cuBLAS, torch's allocator on a CPU, C++ and oneDNN.
TEXTS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory",
)

#: Where a batch did not fit, batches of that share of its tokens are split ahead.  Each further failure lowers the
#: limit by a tenth, so at most seven lie between a limit and its half, which parts have at most.
LIMIT_SHARE = 0.9

#: Bytes that oneDNN takes beside a product; 4 MB were enough in all trials, with 1 MB some crashed.
_ROOM = 1 << 23

#: glibc's numbers of what :func:`_keep` sets.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

#: Names of the sums in logging outputs: how often memory ran out, and batches that were split ahead.
COUNTED = OOM, SPLIT = "oom", "split_ahead"

#: What to do where batches, and where the optimizer's state does not fit.
ADVICE = "--checkpoint-activations, --fp16 or --autocast need less memory per token"
OPTIMIZER_ADVICE = (
    "--memory-efficient-fp16 has no second copy of weights and gradients, --optimizer adafactor less state than adam"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the machine."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def make_sure_of_room(x: Tensor, packed: bool = False) -> None:
    """Raise a RuntimeError where there is no memory for what oneDNN takes beside a product of *x* on a CPU.

    It does not look whether it got that, and would end the process.  In float32 torch's products are MKL's, but those
    with *packed* weights are oneDNN's.
    """
    if x.device.type == "cpu" and (packed or x.dtype != torch.float32):
        torch.empty(_ROOM, dtype=torch.uint8)


def attempt(work: Callable[[], R]) -> tuple[R] | None:
    """Do some work; a tuple of its result, or ``None`` where memory ran out.

    All that the work held is free again then, as nothing refers any more to the error, whose traceback would keep
    activations alive.
    """
    try:
        return (work(),)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.info("%s", first_line(error))
    free_memory()
    if _has_limit():
        _give_back_at_once()
    return None


def free_memory() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    empty_cuda_cache()


def empty_cuda_cache() -> None:
    """After an error on a GPU: give back what torch keeps there."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@cache  # once for a process
def keep_freed_memory() -> None:
    """Let this process keep memory that tensors on the CPU no longer need, where the C library is glibc.

    Otherwise much of it goes back to the system, which clears every page before it gives it out again.  But it has
    gaps that not everything fits into, so a process with a limit of memory keeps none.  Whoever set one of glibc's
    variables keeps what it says.
    """
    if not _has_limit() and (libc := _glibc()):
        _keep(libc, 1 << 28, 1 << 25)  # 256 and 32 MB


def _give_back_at_once() -> None:
    """Let this process give back what tensors on the CPU no longer need, from now on as soon as they do not."""
    if libc := _glibc():
        _keep(libc, 1 << 17, 1 << 17)  # 128 KB, what glibc starts with; by itself it raises both
        libc.malloc_trim(0)


def _has_limit() -> bool:
    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return any(limit != resource.RLIM_INFINITY for limit in limits)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and nobody has told it what to keep."""
    libc = ctypes.CDLL(None)
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return libc if hasattr(libc, "mallopt") and not told else None


def _keep(libc: ctypes.CDLL, kept: int, own_pages: int) -> None:
    """Keep that many freed bytes; what has *own_pages* bytes or more gets pages of its own, and gives them back."""
    libc.mallopt(_M_MMAP_THRESHOLD, own_pages)
    libc.mallopt(_M_TRIM_THRESHOLD, kept)


@dataclass
class Limit:
    """What is known of the memory for one kind of work."""

    tokens: int | None = None  #: batches of as many computed tokens or more are split ahead; ``None`` while all fit
    failed: int | None = None  #: tokens of the smallest batch that did not fit
    count: int = 0  #: how often memory ran out
    splits: int = 0  #: batches that were split ahead, without running out of memory

    @property
    def counts(self) -> tuple[int, int]:
        """How often memory ran out, and batches that were split ahead."""
        return self.count, self.splits

    def exceeded(self, tokens: int) -> None:
        """Take note that a batch of that many tokens did not fit."""
        self.count += 1
        self.failed = min(tokens, self.failed or tokens)
        self.tokens = max(int(LIMIT_SHARE * self.failed), 1)

    def notes(self) -> list[str]:
        """What to say of it, if anything."""
        if self.tokens is None:
            return []
        text = f"batches that ran out of memory: {self.count:,}, and split ahead: {self.splits:,}; no score is missing"
        return [f"{text}. With --max-tokens {self.tokens - 1} or less it is faster"]

    def fits(self, tokens: int) -> bool:
        """Whether nothing speaks against a batch of that many tokens."""
        return self.tokens is None or tokens < self.tokens


def in_parts(
    things: Sequence[T],
    work: Callable[[Sequence[T]], R],
    cost: Callable[[Sequence[T]], int],
    limit: Limit,
    too_large: Callable[[T], NoReturn],
    failed: Callable[[Sequence[T]], Sequence[Sequence[T]]] = lambda part: (),
) -> list[R]:
    """Do some work on a batch of things: on all at once, or on halves, and halves of these, where memory runs out.

    Args:
        things: at least one
        work: what to do with some of them
        cost: tokens that some of them are computed with
        limit: what is known of the memory
        too_large: is called with a thing that does not fit alone, and raises
        failed: is called with a part that did not fit and has halves; returns parts whose work that undid, which is
            done again first

    Returns:
        the result of each part, in the order in which they were computed
    """
    results: list[R] = []
    left = [things]
    split = False
    while left:
        part = left.pop(0)
        tokens, middle = cost(part), (len(part) + 1) // 2
        halves = [part[:middle], part[middle:]]
        if len(part) > 1 and not limit.fits(tokens):
            split = split or part is things
            left[:0] = halves
            continue
        done = attempt(partial(work, part))
        if done is not None:
            results += done
            continue
        limit.exceeded(tokens)
        if len(part) == 1:
            too_large(part[0])
        left[:0] = [*failed(part), *halves]
    limit.splits += split
    return results


def cannot_split(what: str, tokens: int, advice: str) -> OutOfMemory:
    """The error of one item that does not fit."""
    return OutOfMemory(f"out of memory: {what} alone, {tokens:,} tokens, does not fit; {advice}")


def smaller_batches(fits: int, worst: int, max_tokens: int | None, batch_size: int | None, update_freq: int) -> str:
    """Options that fit and make the same updates as those of the run, as text.

    Args:
        fits: tokens of a batch that is expected to fit
        worst: tokens of the most expensive item
    """
    if max_tokens is None:
        if batch_size is None or batch_size < 2:
            return ADVICE
        return f"--batch-size {(batch_size + 1) // 2} --update-freq {2 * update_freq} makes the same updates"
    parts = -(-max_tokens // max(fits, 1))
    tokens = max_tokens // max(parts, 2)
    if tokens < worst:
        return f"--max-tokens {worst} is the least that these passages need; {ADVICE}"
    return f"--max-tokens {tokens} --update-freq {max(parts, 2) * update_freq} makes the same updates"
