"""Measuring in turns, and what the machine can do at best."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch


@dataclass
class Rates:
    """Units per second in each round; in all that is derived, a round is compared with the same round of others."""

    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle round's."""
        return statistics.median(self.rounds)

    def over(self, other: Rates) -> Rates:
        """How many times *other* this is, round by round."""
        return Rates([ours / theirs for ours, theirs in zip(self.rounds, other.rounds)])

    def times(self, factor: float) -> Rates:
        """In another unit."""
        return Rates([rate * factor for rate in self.rounds])

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"median": self.median, "min": min(self.rounds), "max": max(self.rounds), "rounds": self.rounds}


@dataclass
class Contestant:
    """Somebody to measure.

    Attributes:
        run: does the work
        amount: units of work that *run* does; ``None`` if it returns its rate itself
    """

    run: Callable[[], Any]
    amount: float | None = None


def in_turns(
    contestants: Mapping[str, Contestant], rounds: int, device: str = "cpu", warm_up: bool = True
) -> dict[str, Rates]:
    """Measure all contestants, each once in a round, so that whatever else the machine does hits all of them.

    Args:
        contestants: by name
        rounds: that count
        device: ``cpu`` or ``cuda``; work is waited for
        warm_up: begin with a round that does not count
    """
    rates: dict[str, Rates] = {name: Rates() for name in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, contestant in contestants.items():
            synchronize(device)
            start = time.perf_counter()
            value = contestant.run()
            synchronize(device)
            seconds = time.perf_counter() - start
            if number:
                rates[name].rounds.append(contestant.amount / seconds if contestant.amount is not None else value)
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


# -- the machine -----------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """What this runs on."""
    import fairseq
    import transformers

    out: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fairseq": fairseq.__version__,
        "transformers": transformers.__version__,
    }
    if torch.device(device).type == "cuda":
        out["gpu"] = torch.cuda.get_device_name(0)
    return out


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
