"""Command line: one file per sub-command, none of which holds logic that Python callers cannot reach."""

import atexit
import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from ..errors import ClozeError, Exit, ReaderGone
from ..version import __version__

#: Sub-commands, each of a module of that name, which is loaded when it is used, as torch alone takes seconds.
COMMANDS = (
    "examples convert prepare import-hf export-hf clean learn-bpe calibrate fit-batch train evaluate predict try "
    "generate doctor compare average run watch mail report"
).split()

atexit.register(gc.freeze)  # or Python looks through all of torch for circles once more: a quarter of its start-up

_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class _Group(click.Group):
    """Sub-commands by name; whatever users or the system can cause ends the process with a line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name.replace('-', '_')}", __name__).command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        _open_standard_files()
        status: Any = Exit.DONE
        stdout = sys.stdout
        with _ended_by_signals() as told:
            try:
                super().main(*args, **kwargs)
            except SystemExit as end:
                status = end.code
                if sys.stdout is not stdout:  # click has seen that nobody reads --help any more
                    _complain(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            except OSError as error:  # of --help, too
                status = _complain(error)
            for stream in (stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError as error:
                    if stream is stdout:
                        status = status or _complain(error)
                    with suppress(OSError):  # or Python would complain once more when it ends, with a status of its own
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + told[0] if told else status)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReaderGone as error:
            ctx.exit(error.exit_code)
        except ClozeError as error:
            _say(str(error))
            ctx.exit(error.exit_code)
        except OSError as error:
            ctx.exit(_complain(error))
        except KeyboardInterrupt:
            _say("interrupted")
            ctx.exit(Exit.INTERRUPTED)


def _say(problem: str) -> None:
    from ..secrecy import hide_secrets

    with suppress(OSError):  # nobody can be told
        click.echo(f"Error: {hide_secrets(problem)}", err=True)


def _complain(error: OSError) -> int:
    """Say what the system said no to.  Files that are written have errors of their own, so it was standard output."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        reason = f"{os.fsdecode(error.filename)}: {reason}"
    elif error.errno in _UNWRITABLE:
        reason = f"standard output: cannot be written ({reason})"
    _say(reason)
    return Exit.FAILED


def _open_standard_files() -> None:
    """What was closed at the start gets its place back, or files that are opened later would stand there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # what goes to a standard output that nobody opened must not seem to have arrived
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
            setattr(sys, f"__{name}__", getattr(sys, name))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files that are no text can be shown, too
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """TERM and HUP end a command as Ctrl-C does, so that nothing half done is left; the list holds what came.

    Not in one of several processes that wait for each other: they wait in C, where Python acts on no signal.
    """
    told: list[int] = []

    def stop(number: int, frame: Any) -> None:
        told.append(number)
        raise KeyboardInterrupt

    numbers = [] if "WORLD_SIZE" in os.environ else [signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield told
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairseq-cloze")
def main() -> None:
    """Prepare cloze passages, move weights, train, score, compare and average checkpoints, look after runs.

    train runs fairseq-train --user-dir fairseq_cloze --task cloze_ranking, which has every knob.
    """
