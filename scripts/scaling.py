"""What gradients cost between GPUs: seconds of their sum, and the batch from which it pays, by formula and by trial.

    python scripts/scaling.py                  # the tables of docs/scaling.md
    sudo python scripts/scaling.py --try 2,4   # the formula against processes whose links are slowed down (Linux)

A ring sends from each of N members 2 (N - 1) / N of the bytes (Patarasuk and Yuan, "Bandwidth optimal all-reduce
algorithms for clusters of workstations", 2009).  Inside a machine it goes over NVLink; between machines each sends it
over all its links together, so what counts of several machines is the slowest: one machine's links to the others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PARAMETERS = 355_000_000  # RoBERTa-large
TYPES = {"fp16": 2, "fp32": 4}  # bytes of a gradient; --fp16 and --bf16, and --autocast, which keeps float32

#: Measured on an H200, ``fairseq-train --autocast --compile``: 29,600 tokens in 0.168 s, of which 20 ms come with every
#: update whatever its size.
TOKENS, SECONDS, FIXED = 29_600, 0.168, 0.020

IN_MACHINE = 8  # GPUs of a machine
NVLINK = 300e9  # bytes/s that a sum reaches between the GPUs of a machine
LATENCY = 20e-6  # seconds of a step of the ring

#: Bytes/s of all links of a machine; a part of that is headers and pauses.
USED = 0.9
LINKS = {
    "8 x 400 Gbit/s": 8 * 400e9 / 8,
    "1 x 400 Gbit/s": 400e9 / 8,
    "1 x 100 Gbit/s": 100e9 / 8,
    "25 Gbit/s": 25e9 / 8,
    "10 Gbit/s": 10e9 / 8,
}


class Sum(NamedTuple):
    """A sum of gradients over a number of GPUs."""

    gpus: int
    size: float  #: bytes
    link: float  #: bytes/s of a machine's links

    @property
    def seconds(self) -> float:
        """What it takes, with nothing beside it."""
        inside = min(self.gpus, IN_MACHINE)
        machines = -(-self.gpus // IN_MACHINE)
        out = ring_seconds(inside, self.size, NVLINK) if inside > 1 else 0.0
        return out + (ring_seconds(machines, self.size, self.link * USED) if machines > 1 else 0.0)


def ring_seconds(members: int, size: float, rate: float) -> float:
    """Seconds of a sum of *size* bytes in a ring whose members send *rate* bytes a second each."""
    return 2 * (members - 1) * (size / members / rate + LATENCY)


def efficiency(tokens: float, exchange: float, overlap: bool = False) -> float:
    """Share of its time that a GPU computes, with so many *tokens* in an update and seconds of *exchange*.

    With *overlap*, the sum goes on beside the backward pass, two thirds of what is computed, but for its last tenth.
    """
    compute = tokens / TOKENS * (SECONDS - FIXED)
    hidden = min(exchange * 0.9, 2 / 3 * compute) if overlap else 0.0
    return (compute + FIXED) / (compute + FIXED + exchange - hidden)


def least_tokens(exchange: float, share: float) -> int:
    """Tokens of a GPU in an update from which it computes that share of its time, without overlap."""
    compute = exchange * share / (1 - share) - FIXED
    return max(0, round(compute / (SECONDS - FIXED) * TOKENS))


def tables() -> str:
    """The tables, as they stand in the manual."""
    lines = [
        "| GPUs | links of a machine | gradients | sum, s | share | beside the backward pass | half from | 90% from |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for gpus in (8, 32, 256):
        for name, link in LINKS.items():
            if gpus <= IN_MACHINE and name != next(iter(LINKS)):
                continue
            for kind, size in TYPES.items():
                exchange = Sum(gpus, size * PARAMETERS, link).seconds
                shares = [f"{efficiency(TOKENS, exchange, overlap):.0%}" for overlap in (False, True)]
                least = [f"{least_tokens(exchange, share):,}" for share in (0.5, 0.9)]
                where = "NVLink" if gpus <= IN_MACHINE else name
                figures = (f"{kind}, {size * PARAMETERS / 1e9:.2f} GB", f"{exchange:.3f}", *shares, *least)
                lines.append(f"| {gpus} | {where} | {' | '.join(figures)} |")
    return "\n".join(lines)


# -- by trial --------------------------------------------------------------------------------------------------------


def try_out(members: int, mbit: float, megabytes: float, pause: float) -> tuple[float, float, float]:
    """Seconds of a sum by the formula and as measured, and of a step of *pause* seconds and a sum.

    Each process is in a network of its own, whose link to the others is slowed down to *mbit* Mbit/s.
    """
    with _networks(members, mbit) as names:
        code = [sys.executable, str(Path(__file__).resolve()), "--member"]
        address = "10.199.0.1"
        settings = {**os.environ, "GLOO_SOCKET_IFNAME": "ring", "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *code, f"{rank},{members},{address},{megabytes},{pause}"],
                env=settings,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        texts = [process.communicate(timeout=300)[0] for process in processes]
    summed, step = (max(values) for values in zip(*(map(float, text.split()) for text in texts)))
    return ring_seconds(members, megabytes * 1e6, mbit * 1e6 / 8), summed, step


@contextmanager
def _networks(members: int, mbit: float) -> Iterator[list[str]]:
    """Networks of one process each, on one bridge; gone at the end."""
    mark = f"sc{os.getpid() % 10000}"
    names = [f"{mark}n{number}" for number in range(members)]
    try:
        _ip("link", "add", f"{mark}b", "type", "bridge")
        _ip("link", "set", f"{mark}b", "up")
        for number, name in enumerate(names, 1):
            _ip("netns", "add", name)
            _ip("link", "add", f"{mark}v{number}", "type", "veth", "peer", "name", "ring", "netns", name)
            _ip("link", "set", f"{mark}v{number}", "master", f"{mark}b", "up")
            _ip("-n", name, "addr", "add", f"10.199.0.{number}/24", "dev", "ring")
            _ip("-n", name, "link", "set", "ring", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            rate = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "128kb", "latency", "100ms")
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "ring", *rate], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", f"{mark}b"], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def member(rank: int, members: int, address: str, megabytes: float, pause: float, rounds: int = 4) -> None:
    """Take part in sums; print the median seconds of one, and of a step with a pause, in which others may compute."""
    import torch

    torch.distributed.init_process_group("gloo", f"tcp://{address}:29555", rank=rank, world_size=members)
    gradients = torch.ones(int(megabytes * 1e6 / 4))
    found = []
    for wait in (0.0, pause):
        seconds = []
        for _ in range(rounds):
            torch.distributed.barrier()
            start = time.perf_counter()
            time.sleep(wait)
            torch.distributed.all_reduce(gradients)
            seconds.append(time.perf_counter() - start)
        found.append(sorted(seconds)[rounds // 2])
    print(*found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or try the formula out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="members", help="numbers of processes, with commas; needs root, ip and tc")
    parser.add_argument("--mbit", type=float, default=400.0, help="of the link of each process")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of gradients")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.member:
        rank, members, address, megabytes, pause = options.member.split(",")
        return member(int(rank), int(members), address, float(megabytes), float(pause))
    if not options.members:
        return print(tables())
    print("| processes | Mbit/s | MB | formula, s | measured | step of 0.5 s and a sum, by formula | measured |")
    print("|---|---|---|---|---|---|---|")
    for members in map(int, options.members.split(",")):
        expected, summed, step = try_out(members, options.mbit, options.megabytes, 0.5)
        figures = f"{expected:.2f} | {summed:.2f} | {0.5 + expected:.2f} | {step:.2f}"
        print(f"| {members} | {options.mbit:g} | {options.megabytes:g} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
