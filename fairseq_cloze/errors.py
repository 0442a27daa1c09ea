"""Errors that users can mend: the command line and ``fairseq-train`` print their text alone, without a traceback."""

import copyreg
import re
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit statuses of all commands; 128 + n besides where signal n ended one."""

    DONE = 0
    FAILED = 1  #: something the user can put right
    USAGE = 2  #: options that do not go together, as the command line's parsers have it
    UNFIT = 3  #: the doctor found a checkpoint unfit
    AT_CHANCE = 4  #: a training stayed at chance and was asked to stop then
    OUT_OF_MEMORY = 5  #: what cannot be computed in parts does not fit into memory
    REQUEUE = 75  #: a training was told to stop, has saved and wants to go on: sysexits.h's ``EX_TEMPFAIL``
    NOT_EXECUTABLE = 126  #: the command that was to run under a log cannot be run, as shells have it
    NOT_FOUND = 127  #: it was not found
    INTERRUPTED = 130  #: Ctrl-C
    READER_GONE = 141  #: nobody reads the results any more, as behind ``| head``: 128 and SIGPIPE's number


class ClozeError(Exception):
    """Something the user can put right; the text says where, what was expected, what was found and what to do."""

    exit_code: int = Exit.FAILED

    def __str__(self) -> str:
        return printable(super().__str__())

    def __reduce__(self) -> Any:
        """An error comes out of another process as it was raised there, with its fields."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class SetupError(ClozeError):
    """A missing package, or packages that do not fit together."""


class CheckpointError(ClozeError):
    """A checkpoint that is missing, cannot be read, or does not belong to the data or the model."""


class DataBinError(ClozeError):
    """A data-bin that is missing, incomplete, or of another format."""


class OutOfMemory(ClozeError):
    """What cannot be computed in parts that fit into memory."""

    exit_code = Exit.OUT_OF_MEMORY


class ReaderGone(ClozeError):
    """A pipe that results go to and nobody reads any more: no mistake, so commands end without a word."""

    exit_code = Exit.READER_GONE


# Controls, what turns the direction of a text, other ends of lines, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """One line that every file and terminal takes: control characters, bytes that are no UTF-8 and such are escaped."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found[0])[1:-1]


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


SKIP_HINT = "mend the passage, or pass --on-error skip to leave such passages out"


class PassageError(ClozeError):
    """A passage that does not fit the input format.

    Args:
        source: file, and line where there is one
        problem: what was expected and what was found
        field: name of the JSON field, if the problem has one
        blank: number of the blank, counted from 1, if the problem has one
    """

    def __init__(self, source: str, problem: str, field: str | None = None, blank: int | None = None) -> None:
        places = {"blank": blank, "field": None if field is None else f"'{field}'"}
        where = ", ".join(f"{kind} {place}" for kind, place in places.items() if place is not None)
        self.source = printable(source)
        self.problem = printable(f"{where}: {problem}" if where else problem)
        super().__init__(f"{self.source}: {self.problem}; {SKIP_HINT}")


class NoBlankError(PassageError):
    """A passage without a blank: never fatal, always counted."""


class UnreadablePassageError(PassageError):
    """A passage whose file cannot be read now; that may be another time."""


class OneTooHighError(PassageError):
    """A passage with an answer that is a number, and one too high; *lowest* is the lowest of its numbers.

    Maybe all of them are counted from 1.
    """

    lowest = 0
