"""Lines that come over a pipe: whole, in order, and no longer waited for than asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq_cloze.passages.incoming import Incoming


@pytest.fixture
def pipe() -> Iterator[tuple[Incoming, int]]:
    """Lines, and the end to write to."""
    read, write = os.pipe()
    yield Incoming(read, 1000), write
    os.close(read)


def test_lines_and_their_end(pipe: tuple[Incoming, int]) -> None:
    lines, end = pipe
    os.write(end, b"one\n\ntwo\r\nthree")
    os.close(end)
    assert [lines.readline(1000) for _ in range(6)] == [b"one\n", b"\n", b"two\r\n", b"three", b"", b""]


def test_a_line_that_is_too_long_comes_in_parts(pipe: tuple[Incoming, int]) -> None:
    lines, end = pipe
    os.write(end, b"x" * 25 + b"\nab\n")
    os.close(end)
    assert [lines.readline(10) for _ in range(5)] == [b"x" * 10, b"x" * 10, b"x" * 5 + b"\n", b"ab\n", b""]


@pytest.mark.parametrize("part", [b"", b"half", b"\n \n", b"\n half"])
def test_what_is_not_there_yet(pipe: tuple[Incoming, int], part: bytes) -> None:
    """Half a line, and blank ones, are nothing to work on; what is there is not lost."""
    lines, end = pipe
    os.write(end, part)
    began = time.monotonic()
    assert not lines.is_there(0.05)
    assert 0.04 < time.monotonic() - began < 5
    os.write(end, b" line\nmore")
    assert lines.is_there(0.0)
    read = b""
    while not read.endswith(b" line\n"):
        read += lines.readline(1000)
    assert read == part + b" line\n"
    os.close(end)
    assert lines.is_there(60)  # the end is known at once


def test_a_line_is_waited_for(pipe: tuple[Incoming, int]) -> None:
    lines, end = pipe
    writer = threading.Timer(0.1, os.write, (end, b"late\n"))
    writer.start()
    assert lines.is_there(60) and lines.readline(1000) == b"late\n"
    writer.join()
    os.close(end)


def test_no_more_is_kept_than_a_line_may_hold(pipe: tuple[Incoming, int]) -> None:
    lines, end = pipe
    os.write(end, b"x" * 1001)
    assert lines.is_there(0.0) and lines.readline(10) == b"x" * 10
    os.close(end)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\n" * 100_000 + b"b")
    with open(tmp_path / "a", "rb", buffering=0) as file:
        lines = Incoming(file.fileno(), 1000)
        assert lines.is_there(0.0)
        found = list(iter(lambda: lines.readline(1000), b""))
    assert found == [b"a\n"] * 100_000 + [b"b"]
