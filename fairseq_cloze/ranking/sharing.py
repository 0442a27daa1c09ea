"""Workers: processes that a launcher started together, and how they share the work of ``evaluate`` and ``predict``.

Each takes the next batch, the longest first, when it is done with its last one.  So results are those of a process
alone to the last bit, as long as each computes with as many threads.  They go through the CPU (gloo).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

from ..errors import ClozeError, SetupError, first_line

T = TypeVar("T")

_JOIN = timedelta(minutes=30)  # to wait for all to start
_WAIT = timedelta(days=7)  # for the slowest share of the work


@dataclass(frozen=True)
class Place:
    """Which of the processes that were started together this one is."""

    number: int  #: among all of them, from 0 on
    size: int  #: how many there are, at least two
    local_number: int  #: among those on this machine
    init_method: str  #: address where they meet, as torch.distributed takes it
    launcher: str  #: for messages


def find_place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """What ``torchrun`` or ``srun`` said, ``None`` for a process alone; ``SetupError`` where it does not fit together.

    Of SLURM only what ``srun`` sets counts: the batch script itself knows the number of tasks, but is none of them.
    """
    names, launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "torchrun"
    if not environ.get("WORLD_SIZE") and "SLURM_PROCID" in environ:
        names, launcher = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), "srun"
    size = _integer(environ, names[1], "1")
    if size < 2:
        return None
    own = _integer(environ, names[0])
    local = _integer(environ, names[2], str(own))
    if not 0 <= own < size:
        raise SetupError(f"{names[0]}: expected a number below {names[1]}, which is {size}, found {own}")
    if launcher == "srun":
        return Place(own, size, local, _slurm_address(environ), launcher)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise SetupError(
                f"{names[1]} is {size}, but {name} is not set; start all processes with torchrun, or unset "
                f"{names[1]} to run this one alone"
            )
    return Place(own, size, local, "env://", launcher)


def _integer(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name) or default
    try:
        return int(text)
    except ValueError as error:
        raise SetupError(f"{name}: expected a number, found {text or None!r}; the launcher sets it") from error


def _slurm_address(environ: Mapping[str, str]) -> str:
    """The first host of the step, and a port that another job, or another step of this one, will hardly have."""
    host, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not host:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
        try:
            host = subprocess.check_output(["scontrol", "show", "hostnames", nodes], text=True).split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            raise SetupError(
                f"scontrol show hostnames '{nodes}' named no host ({error}); set MASTER_ADDR to the first node's name"
            ) from error
    job, step = _integer(environ, "SLURM_JOB_ID", "0"), _integer(environ, "SLURM_STEP_ID", "0")
    return f"tcp://{host}:{port or 15000 + (7 * job + step) % 15000}"


@dataclass
class _Team:
    """Processes that have joined: the place of this one, torch's store of small values, rounds of work dealt out."""

    place: Place
    store: Any
    rounds: int = 0


_team: _Team | None = None
_sessions = count()


@contextmanager
def joined() -> Iterator[None]:
    """Share the work inside with the processes that were started together with this one, by the same command.

    On machines with GPUs, each takes one of its machine as ``cuda``.  Of several that fail, one raises its error.

    Raises:
        SetupError: the processes cannot meet, or run different commands
        ClozeError: what the work raises; or a worker has ended, whatever it ended from
        SystemExit: with the exit code of such an error that another worker has raised
    """
    global _team
    place = find_place()
    if place is None or _team is not None:
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(place.local_number % torch.cuda.device_count())
    _team = _meet(place)
    try:
        _require_same(place)
        yield
        _exchange(dist.barrier)
    except ClozeError as error:
        try:
            first_to_speak = _team.store.add("last words", 1) == 1
        except RuntimeError:  # the process that kept the store is gone
            first_to_speak = True
        if first_to_speak:
            raise
        raise SystemExit(error.exit_code) from None
    finally:
        _team = None
        dist.destroy_process_group()


def _meet(place: Place) -> _Team:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous(place.init_method, place.number, place.size, timeout=_JOIN))
        store = PrefixStore(f"fairseq-cloze {next(_sessions)}", store)
        dist.init_process_group("gloo", store=store, rank=place.number, world_size=place.size, timeout=_WAIT)
    except (RuntimeError, ValueError, OSError) as error:
        raise SetupError(
            f"process {place.number} of {place.size} ({place.launcher}) could not meet the others: {first_line(error)}"
        ) from error
    return _Team(place, store)


def _require_same(place: Place) -> None:
    commands = everybodys(sys.argv[1:])
    for other, command in enumerate(commands):
        if command != commands[0]:
            raise SetupError(
                f"processes started together ({place.launcher}) share one command, but process {other} of {place.size} "
                f"runs '{' '.join(command)}' and process 0 '{' '.join(commands[0])}'; to run commands apart, start "
                f"each with {'env -u WORLD_SIZE' if place.launcher == 'torchrun' else 'srun --ntasks=1'}"
            )


def number() -> int:
    """Number of this worker, 0 where it is alone."""
    return _team.place.number if _team else 0


def size() -> int:
    """How many share the work, 1 for a process alone."""
    return _team.place.size if _team else 1


def is_first() -> bool:
    """Whether this worker merges, writes and prints; true for a process alone."""
    return number() == 0


def deal(total: int) -> Iterator[int]:
    """Numbers below *total*, in order, each given to the one worker that asks next; all workers have to call it."""
    if _team is None:
        yield from range(total)
        return
    _team.rounds += 1
    key = f"dealt {_team.rounds}"
    while (dealt := _exchange(_team.store.add, key, 1) - 1) < total:
        yield dealt


def everybodys(value: T) -> list[T]:
    """Every worker's *value*, in order, for all of them."""
    if _team is None:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * size()
    _exchange(dist.all_gather_object, values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """What *make* returns on the first worker, for all; the others do not call it."""
    return everybodys(make() if is_first() else None)[0]  # type: ignore[return-value]


def progress(what: str, total: int | None = None) -> Any:
    """A bar of blanks where the output is a terminal, of the first worker only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=" blanks", disable=None if is_first() else True)


def _exchange(function: Callable[..., Any], *args: Any) -> Any:
    """Call something that needs the other workers."""
    try:
        return function(*args)
    except RuntimeError as error:
        raise ClozeError(
            f"worker {number()} of {size()} lost another one, which has ended (killed, out of memory?): "
            f"{first_line(error)}"
        ) from error
