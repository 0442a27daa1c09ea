"""Ending: how a training that cannot go on ends, alone or as one of several processes."""

import atexit
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

from ..errors import ClozeError, Exit


def print_errors_plainly() -> None:
    """Print a :class:`ClozeError` that ends the process as its text alone, as our own command line does.

    ``FAIRSEQ_CLOZE_TRACEBACK=1`` brings the traceback back.  Where a worker that torch has spawned ended with
    :func:`end_run` or :func:`end_worker`, its parent ends with the same exit status, without a word of its own.
    """
    previous: Callable[..., Any] = sys.excepthook
    if getattr(previous, "plain_cloze_errors", False):
        return
    own_codes = (Exit.AT_CHANCE, Exit.OUT_OF_MEMORY, Exit.REQUEUE)

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code = error.exit_code if isinstance(error, ClozeError) else Exit.FAILED
        if kind.__name__ == "ProcessExitedException" and getattr(error, "exit_code", Exit.FAILED) in own_codes:
            code = error.exit_code  # type: ignore[attr-defined]
        elif not os.environ.get("FAIRSEQ_CLOZE_TRACEBACK") and (text := _plainly(error, trace)):
            sys.stdout.flush()
            print(f"Error: {text}", file=sys.stderr)
        else:
            previous(kind, error, trace)
        if code != Exit.FAILED:  # Python's own after a hook
            raise SystemExit(code)

    hook.plain_cloze_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _plainly(error: BaseException, trace: TracebackType | None) -> str | None:
    """The text of an error that ends a command of fairseq before its first update; of others a ``ClozeError``'s."""
    if isinstance(error, ClozeError):
        return str(error)
    codes = [frame.f_code for frame, _ in traceback.walk_tb(trace)]
    names = [code.co_name for code in codes if "fairseq_cli" in code.co_filename]
    if not isinstance(error, Exception) or "cli_main" not in names or "train" in names:
        return None
    lines = str(error).strip().splitlines()
    said = " ".join(filter(None, map(str.strip, lines)))[:300]
    return f"{type(error).__name__}: {said} (FAIRSEQ_CLOZE_TRACEBACK=1 shows where; see docs/training-options.md)"


def stop_reading_at_exit() -> None:
    """Let the thread in which fairseq makes batches ahead end before Python does.

    Where Python ends while a thread is inside of torch, C++ ends the process with ``terminate called without an active
    exception`` and status 134, whatever status it had.
    """
    from fairseq.data.iterators import BackgroundConsumer

    @atexit.register
    def stop() -> None:
        until = time.monotonic() + 10.0  # a batch takes milliseconds; who waits for a file longer is left alone
        for reader in threading.enumerate():
            if isinstance(reader, BackgroundConsumer):
                reader._max_len = 0  # the batch at hand is the last one
                while reader.is_alive() and time.monotonic() < until:
                    with suppress(queue.Empty):
                        reader._queue.get(timeout=0.02)


def end_run(status: int, text: str) -> NoReturn:
    """End all processes that train together, each of which has to call it, with an exit status and a last word.

    Any exception but ``SystemExit`` would become status 1 and a traceback where hydra or torch's spawn runs it.
    """
    from .distributed import gather, is_distributed, rank

    if rank() == 0:
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    gather(None)  # torch kills spawned workers when the first one ends: not before the text was printed
    if is_distributed():
        import torch.distributed

        torch.distributed.destroy_process_group()  # gloo's threads abort a process that ends without, now and then
    raise SystemExit(status)


def end_worker(status: int, text: str) -> NoReturn:
    """End this process at once, without the others: of workers that torch has spawned, it ends the rest."""
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(status)
