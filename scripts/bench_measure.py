"""Measuring in turns, whether the machine was quiet meanwhile, and what it can do at best."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

T = TypeVar("T")

BUSY = 0.05  # share of the machine's CPUs that others may take before a figure is marked
TICKS = 0.05  # seconds that the clocks of processes cannot tell apart


@dataclass
class Rates:
    """Units per second in each round; in all that is derived, a round is compared with the same round of others.

    Attributes:
        rounds: rates
        busy: share of the machine's CPUs that others took in each round, where that was measured
    """

    rounds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle round's."""
        return statistics.median(self.rounds)

    @property
    def disturbed(self) -> bool:
        """Whether others took more than :data:`BUSY` of the machine in some round."""
        return any(share > BUSY for share in self.busy)

    def over(self, other: Rates) -> Rates:
        """How many times *other* this is, round by round."""
        ratios = [ours / theirs for ours, theirs in zip(self.rounds, other.rounds)]
        return Rates(ratios, [max(shares) for shares in zip(self.busy, other.busy)])

    def times(self, factor: float) -> Rates:
        """In another unit."""
        return Rates([rate * factor for rate in self.rounds], self.busy)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        out = {"median": self.median, "min": min(self.rounds), "max": max(self.rounds), "rounds": self.rounds}
        return {**out, "busy": self.busy, "disturbed": self.disturbed} if self.busy else out


def evenly(things: Sequence[T], number: int) -> list[T]:
    """As many of a sorted sequence, evenly spread over it, so that lengths are distributed as in all of it."""
    if number >= len(things):
        return list(things)
    return [things[int((place + 0.5) * len(things) / number)] for place in range(number)]


def in_turns(
    contestants: Mapping[str, tuple[Callable[[], Any], float]], rounds: int, device: str = "cpu"
) -> dict[str, Rates]:
    """Measure work in this process, each once in a round, after a round that does not count.

    Args:
        contestants: work and how much it is, by name
        rounds: that count
        device: ``cpu`` or ``cuda``; work is waited for
    """
    rates: dict[str, Rates] = {name: Rates() for name in contestants}
    for number in range(rounds + 1):
        for name, (run, amount) in contestants.items():
            with Others([os.getpid()]) as others:
                seconds = seconds_of(run, device)
            if number:
                rates[name].rounds.append(amount / seconds)
                rates[name].busy.append(others.share)
    return rates


def seconds_of(function: Callable[[], Any], device: str = "cpu") -> float:
    """Wall time of one call."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


# -- what a worker measures ------------------------------------------------------------------------------------------


@dataclass
class Work:
    """Something to do.

    Attributes:
        run: does it; returns answers, if it has some
        amount: units of work that *run* does; ``None`` if it returns its rate itself
    """

    run: Callable[[], Any]
    amount: float | None = None


@dataclass
class Contestant:
    """Somebody to measure, who has warmed up.

    Attributes:
        take: makes ready to work on so many
        of: what they are: ``passages``, ``blanks``, ``few`` of these, ``batches``, or nothing where there is one size
        seconds: that one of them took in a first short measurement
    """

    take: Callable[[int], Work]
    of: str
    seconds: float

    @classmethod
    def warmed(cls, take: Callable[[int], Work], of: str, first: int, device: str, runs: int = 2) -> Contestant:
        """One that runs *runs* times on *first* of them, and takes the last time."""
        work = take(first)
        times = [seconds_of(work.run, device) for _ in range(runs)]
        return cls(take, of, times[-1] / first)


@dataclass
class Built:
    """What a peer can do, ready to be measured.

    Attributes:
        contestants: by type of numbers, or another name
        facts: for the page
    """

    contestants: dict[str, Contestant]
    facts: dict[str, Any] = field(default_factory=dict)


def fastest(sizes: Sequence[int], run: Callable[[int], Any], device: str) -> tuple[float, int]:
    """The seconds of the fastest size of batch, and that; larger ones are tried while they are faster."""
    best = (seconds_of(partial(run, sizes[0]), device), sizes[0])
    for size in sizes[1:]:
        seconds = seconds_of(partial(run, size), device)
        if seconds >= best[0]:
            break
        best = (seconds, size)
    return best


# -- others on this machine ------------------------------------------------------------------------------------------


class Others:
    """What other processes and other guests of the host take of this machine's CPUs meanwhile; for ``with``.

    Args:
        processes: numbers of our own, whose children that ended are ours, too

    Attributes:
        share: of the CPUs' time, 0 to 1, where Linux says it; 0 where it is too little to tell
    """

    def __init__(self, processes: Iterable[int]) -> None:
        self.processes, self.share = list(processes), 0.0

    def __enter__(self) -> Others:
        self._start, self._before = time.perf_counter(), self._others()
        return self

    def __exit__(self, *_: Any) -> None:
        others, wall = self._others() - self._before, time.perf_counter() - self._start
        self.share = round(others / (wall * (os.cpu_count() or 1)), 4) if others > TICKS else 0.0

    def _others(self) -> float:
        """Seconds of all CPUs so far, those that the host gave to others included, but for our own."""
        try:
            words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return 0.0
        user, nice, system, _, _, interrupts, soft, steal = map(int, words[1:9])
        ticks = user + nice + system + interrupts + soft + steal
        for process in self.processes:
            try:
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            ticks -= sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def load() -> dict[str, float]:
    """What others take of this machine now, over a second, and its load average of the last minute."""
    with Others([os.getpid()]) as others:
        time.sleep(1)
    return {"others": others.share, "load": round(os.getloadavg()[0], 2)}


# -- the limit -------------------------------------------------------------------------------------------------------

GemmShape = tuple[int, int, int]


def gemm_shapes(architecture: Any, tokens: int = 4096, device: str = "cpu") -> list[GemmShape]:
    """Products of a layer, *tokens* at once, and a large square one; rows, inner size, columns."""
    width, inner = architecture.encoder_embed_dim, architecture.encoder_ffn_embed_dim
    square = max(inner, 1024) if torch.device(device).type == "cpu" else 8192
    return [
        (tokens, width, inner),
        (tokens, inner, width),
        (tokens, width, 3 * width),
        (tokens // 4, width, inner),
        (square, square, square),
    ]


def gemm_rate(dtype: torch.dtype, device: str, shapes: Sequence[GemmShape], seconds: float = 0.1) -> float:
    """The machine's rate of matrix products, the best of several shapes and of torch's ways to ask for one.

    Args:
        dtype: of both factors
        device: ``cpu`` or ``cuda``
        shapes: rows, inner size, columns
        seconds: time to spend on each, at least

    Returns:
        floating-point operations per second, two for each multiplication with its addition
    """
    best = 0.0
    with torch.inference_mode():
        for rows, inner, columns in shapes:
            left = torch.randn(rows, inner, device=device, dtype=torch.float32).to(dtype)
            right = torch.randn(columns, inner, device=device, dtype=torch.float32).to(dtype)
            other = right.t().contiguous()
            ways = [partial(torch.nn.functional.linear, left, right), partial(torch.matmul, left, other)]
            for way in ways:
                seconds_of(way, device)
                spent = 0.0
                while spent < seconds / len(ways):
                    taken = seconds_of(way, device)
                    best = max(best, 2.0 * rows * inner * columns / taken)
                    spent += taken
    return best


def measure_limit(job: Mapping[str, Any]) -> Built:
    """Matrix products of the shapes of a model, in both types.

    Args:
        job: ``architecture`` and ``device``
    """
    shapes, device = gemm_shapes(SimpleNamespace(**job["architecture"]), device=job["device"]), job["device"]
    contestants = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        work = Work(partial(gemm_rate, dtype, device, shapes))
        contestants[name] = Contestant.warmed(lambda _, work=work: work, "", 1, device, runs=1)
    return Built(contestants)


# -- the machine -----------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """What this runs on."""
    out: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fairseq": version_of("ve-fairseq"),
        "transformers": version_of("transformers"),
    }
    if torch.device(device).type == "cuda":
        out["gpu"] = torch.cuda.get_device_name(0)
    return out


def version_of(package: str) -> str:
    """Of what is installed, nothing if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
