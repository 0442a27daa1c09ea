"""Errors that users can mend.

Everything a user can put right (a file that does not fit, a missing package, a wrong checkpoint) is raised as a
:class:`ClozeError`.  The command line prints its text alone, without a traceback, and so does ``fairseq-train``.
"""

from __future__ import annotations

from typing import Any


class ClozeError(Exception):
    """Something the user can put right; the text says where, what was expected, what was found and what to do."""

    exit_code = 1

    def __reduce__(self) -> Any:
        """An error comes out of another process as it was raised there, with its fields."""
        return _rebuilt, (type(self), self.args, vars(self))


def _rebuilt(kind: type[ClozeError], args: tuple[Any, ...], fields: dict[str, Any]) -> ClozeError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


class SetupError(ClozeError):
    """A missing package, or packages that do not fit together."""


class CheckpointError(ClozeError):
    """A checkpoint that is missing, cannot be read, or does not belong to the data or the model."""


class DataBinError(ClozeError):
    """A data-bin that is missing, incomplete, or of another format."""


class ChanceError(ClozeError):
    """A training that stays at chance and was asked to stop then; exit status 4."""

    exit_code = 4


class OutOfMemory(ClozeError):
    """What cannot be computed in pieces that fit into memory; exit status 5."""

    exit_code = 5


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
        where = []
        if blank is not None:
            where.append(f"blank {blank}")
        if field is not None:
            where.append(f"field '{field}'")
        self.source = source
        self.problem = f"{', '.join(where)}: {problem}" if where else problem
        super().__init__(f"{source}: {self.problem}; {SKIP_HINT}")


class NoBlankError(PassageError):
    """A passage without a blank: never fatal, always counted."""
