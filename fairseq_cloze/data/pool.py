"""Pool: shards encoded in this process or in several, handed back in order."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Deque, Dict, Iterable, Iterator, Mapping, Optional, Tuple

from ..errors import PassageError
from .shards import Problem, Shard, Work, encode_shard
from .vocabulary import Vocabulary


class Pool:
    """Processes that encode.

    Args:
        vocabulary: BPE and dictionary
        count: how many; with one, this process encodes
    """

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        self._vocabulary = vocabulary
        self._count = count
        self._pool: Optional[Executor] = None
        if count > 1:
            self._pool = ProcessPoolExecutor(
                count,
                mp_context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(vocabulary.files, vocabulary.origin),
            )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def encode(self, shards: Iterable[Tuple[Shard, Path]], work: Work) -> Iterator[Path]:
        """Encode shards into their files, a bounded number ahead; a file that is there stays.

        Raises:
            PassageError: the first problem for which a shard was given up
        """
        under_way: Deque[Tuple[Path, Optional[Future[Optional[Problem]]]]] = deque()
        for shard, target in shards:
            future: Optional[Future[Optional[Problem]]] = None
            if not target.exists():
                if self._pool is not None:
                    with _interrupts_wait():  # a worker is started here, and inherits that
                        future = self._pool.submit(_encode_shard, shard, target, work)
                else:
                    _check(encode_shard(shard, target, work, self._vocabulary))
            under_way.append((target, future))
            if self._pool is None or len(under_way) > 4 * self._count:
                yield _finish(*under_way.popleft())
        while under_way:
            yield _finish(*under_way.popleft())


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back: it reaches parent and workers alike, and the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finish(target: Path, future: Optional[Future[Optional[Problem]]]) -> Path:
    if future is not None:
        _check(future.result())
    return target


def _check(problem: Optional[Problem]) -> None:
    if problem is not None:
        raise PassageError(problem.source, problem.text)


# -- inside a worker -------------------------------------------------------------------------------------------------

_state: Dict[str, Any] = {}


def _start_worker(files: Mapping[str, bytes], origin: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state.update(vocabulary=Vocabulary(files, origin))


def _end_with_parent() -> None:
    """End when the parent is gone, by ``kill -9`` as well, rather than wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _encode_shard(shard: Shard, target: Path, work: Work) -> Optional[Problem]:
    return encode_shard(shard, target, work, _state["vocabulary"])
