"""Workers: processes that a launcher started together, and how they share the work of ``evaluate`` and ``predict``.

``torchrun`` and SLURM's ``srun`` start the same command several times and say in the environment which of how many
each process is.  :func:`find_place` reads that, for training and for scoring.

Scoring shares batches, not passages: the batches are those of a process alone, and a batch's scores do not depend on
who computes them, so the results are the same to the last bit, as long as each process computes with as many threads.
Every worker takes the next batch when it is done with its last one; the longest come first.  Results go through the
CPU (gloo), also from GPUs.  Where nothing was launched, everything here does what a process alone does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, NoReturn, TypeVar

from ..errors import ClozeError, SetupError

T = TypeVar("T")

_JOIN = timedelta(minutes=30)  # to wait for all to start
_WAIT = timedelta(days=7)  # for the slowest share of the work


# -- what the launcher said ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Which of the processes that were started together this one is.

    Attributes:
        number: among all of them, from 0 on
        size: how many there are, at least two
        local_number: among those on this machine
        init_method: address where they meet, as torch.distributed takes it
        launcher: for messages
    """

    number: int
    size: int
    local_number: int
    init_method: str
    launcher: str


def find_place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """What ``torchrun`` or ``srun`` said; ``None`` for a process alone.

    Of SLURM only what ``srun`` sets counts: the batch script itself knows the number of tasks, but is none of them.

    Raises:
        SetupError: the variables do not fit together
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
    if launcher == "torchrun":
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not environ.get(name):
                raise SetupError(
                    f"{names[1]} is {size}, but {name} is not set; start all processes with torchrun, or unset "
                    f"{names[1]} to run this one alone"
                )
        return Place(own, size, local, "env://", launcher)
    return Place(own, size, local, "tcp://{}:{}".format(*_slurm_address(environ)), launcher)


def _integer(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name) or default
    try:
        return int(text or "")
    except ValueError as error:
        raise SetupError(f"{name}: expected a number, found {text!r}; the launcher sets it") from error


def _slurm_address(environ: Mapping[str, str]) -> tuple[str, int]:
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
    if not port:
        step = _integer(environ, "SLURM_STEP_ID", "0")
        port = str(15000 + (7 * _integer(environ, "SLURM_JOB_ID", "0") + step) % 15000)
    return host, int(port)


# -- sharing the work of one command ---------------------------------------------------------------------------------


class _Team:
    """Processes that have joined.

    Attributes:
        place: of this one
        store: torch.distributed's store of small values
        rounds: how often work was dealt out
    """

    def __init__(self, place: Place) -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self.place = place
        self.rounds = 0
        where = (place.init_method, place.number, place.size)
        try:
            store, _, _ = next(rendezvous(*where, timeout=_JOIN))
            self.store = PrefixStore(f"fairseq-cloze {next(_sessions)}", store)
            dist.init_process_group("gloo", store=self.store, rank=place.number, world_size=place.size, timeout=_WAIT)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SetupError(
                f"process {place.number} of {place.size} ({place.launcher}) could not meet the others: {reason}"
            ) from error

    def first_to_speak(self) -> bool:
        """Whether no other worker has said yet why the command ends."""
        try:
            return bool(self.store.add("last words", 1) == 1)
        except RuntimeError:  # the process that kept the store is gone
            return True


class _Lost(ClozeError):
    """A worker that has ended while others waited for it."""


_team: _Team | None = None
_sessions = count()


@contextmanager
def joined() -> Iterator[None]:
    """Share the work inside with the processes that were started together with this one; alone, do nothing.

    All of them have to run the same command.  On machines with GPUs, each takes one of its machine as ``cuda``.
    Of several that fail, one raises its error.

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
    _team = _Team(place)
    try:
        _require_same(place)
        yield
        _exchange(dist.barrier)
    except ClozeError as error:
        if _team.first_to_speak():
            raise
        raise SystemExit(error.exit_code) from None
    finally:
        _team = None
        dist.destroy_process_group()


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
    """Numbers below *total*, each given to one worker only, in order, to whoever asks next.

    All workers have to call it, in the same order.
    """
    if _team is None:
        yield from range(total)
        return
    _team.rounds += 1
    key = f"dealt {_team.rounds}"
    while True:
        dealt = _exchange(_team.store.add, key, 1) - 1
        if dealt >= total:
            return
        yield dealt


def first_gets(value: T) -> list[T] | None:
    """Every worker's *value*, in order, for the first worker; ``None`` for the others."""
    if _team is None:
        return [value]
    import torch.distributed as dist

    values: list[Any] | None = [None] * size() if is_first() else None
    _exchange(dist.gather_object, value, values)
    return values


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
    if _team is None:
        return make()
    import torch.distributed as dist

    box = [make()] if is_first() else [None]
    _exchange(dist.broadcast_object_list, box)
    return box[0]  # type: ignore[return-value]


def progress(what: str, total: int | None = None) -> Any:
    """A bar of blanks where the output is a terminal, of the first worker only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=" blanks", disable=None if is_first() else True)


def _exchange(function: Callable[..., Any], *args: Any) -> Any:
    """Call something that needs the other workers."""
    try:
        return function(*args)
    except RuntimeError as error:
        _say_lost(error)


def _say_lost(error: RuntimeError) -> NoReturn:
    raise _Lost(
        f"worker {number()} of {size()} lost another one, which has ended (killed, out of memory?): "
        f"{str(error).strip().splitlines()[0]}"
    ) from error
