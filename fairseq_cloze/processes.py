"""Processes: work that is shared among worker processes, its results in order."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Generic, TypeVar

__all__ = ["BrokenProcessPool", "Pool", "cores"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool(Generic[Task, Result]):
    """Calls a function for many tasks in so many processes; with one worker, this process does the work.

    Workers are new interpreters that get a copy of the function, by pickle, and keep it.  They end with this process,
    by ``kill -9`` as well.  Ctrl-C reaches this process alone.
    """

    def __init__(self, workers: int, function: Callable[[Task], Result]) -> None:
        self._workers = workers
        self._function = function
        self._executor: ProcessPoolExecutor | None = None
        if workers > 1:
            self._executor = ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(function,)
            )

    def __enter__(self) -> Pool[Task, Result]:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._executor is None:
            return
        if error is not None:  # what is under way is of no use
            for process in list((self._executor._processes or {}).values()):
                process.terminate()
            # or the thread that sends tasks would wait for ever for somebody to read them
            self._executor._call_queue._reader.close()  # type: ignore[attr-defined]
        self._executor.shutdown(cancel_futures=True)

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Results in the order of *tasks*, of which a bounded number is under way at any time.

        Raises:
            BrokenProcessPool: a worker was killed
            Exception: what the function raised, at the place of its result
        """
        if self._executor is None:
            yield from map(self._function, tasks)
            return
        under_way: deque[Future[Result]] = deque()
        for task in tasks:
            # Ctrl-C reaches parent and workers alike, and the parent decides; a worker is started here, and inherits it
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                under_way.append(self._executor.submit(_work, task))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if len(under_way) > 4 * self._workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_function: Callable[[Any], Any]  # inside a worker


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent is gone rather than wait for tasks for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Any) -> Any:
    return _function(task)
