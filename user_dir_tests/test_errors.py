"""Errors and exit statuses: one table in the code, the same in the docs."""

from __future__ import annotations

import pickle
import re

from fairseq_cloze import errors
from fairseq_cloze.errors import SKIP_HINT, ClozeError, Exit, PassageError, first_line

from .support.commands import ROOT


def test_exit_statuses_are_those_of_the_docs() -> None:
    """Batch systems and scripts rely on the numbers."""
    assert {status.name: status.value for status in Exit} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "UNFIT": 3,
        "AT_CHANCE": 4,
        "OUT_OF_MEMORY": 5,
        "REQUEUE": 75,
        "NOT_EXECUTABLE": 126,
        "NOT_FOUND": 127,
        "INTERRUPTED": 130,
        "READER_GONE": 141,
    }
    page = (ROOT / "docs" / "exit-statuses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", page, re.M)
    assert [int(number) for row in rows for number in row.split(",")] == [status.value for status in Exit]


def test_every_error_of_a_user_is_a_cloze_error_with_a_status_of_the_table() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(issubclass(kind, ClozeError) for kind in kinds)
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert {name: code for name, code in codes.items() if code != Exit.FAILED} == {
        "OutOfMemory": Exit.OUT_OF_MEMORY,
        "ReaderGone": Exit.READER_GONE,
    }
    assert all(isinstance(code, Exit) for code in codes.values())


def test_an_error_that_says_nothing_is_named() -> None:
    """Libraries raise errors without a text, too; a message of ours does not break on them."""
    assert first_line(RuntimeError("\n CUDA error: busy \nmore\n")) == "CUDA error: busy "
    assert first_line(NotImplementedError()) == first_line(NotImplementedError(" \n")) == "NotImplementedError"


def test_errors_are_one_line_for_every_terminal() -> None:
    name = "a\x1b[2J\nb\u2028\u202e\udce9\ud800 é 语.json"
    shown = "a\\x1b[2J\\nb\\u2028\\u202e\\xe9\\ud800 é 语.json"
    assert str(ClozeError(f"{name}: no")) == f"{shown}: no"
    error = PassageError(name, f"found {name}")
    assert (error.source, error.problem) == (shown, f"found {shown}")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == f"{shown}: found {shown}; {SKIP_HINT}"
