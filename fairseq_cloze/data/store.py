"""Store: encoded passages in memory-mapped files, one ``<column>.bin`` per column, plain arrays without a header.

Where encoding gives lengths, a store keeps offsets (see :data:`OFFSETS`), so that any passage is found without reading
the others.  Types and counts stand in the manifest of the data-bin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataBinError
from .encoding import COLUMNS, Columns, column_dtype

#: Columns of lengths → columns of offsets, running totals that start with 0, which a store has in their place.  In
#: files and manifests (format version 1) offsets go by the names of the lengths.
OFFSETS: Mapping[str, str] = {
    "id_length": "id_offsets",
    "token_count": "token_offsets",
    "sentence_count": "sentence_offsets",
    "blank_count": "blank_offsets",
    "candidate_count": "candidate_offsets",
    "candidate_length": "candidate_token_offsets",
}


class StoreWriter:
    """Append columns to the files of one split, in an empty folder, for a dictionary of so many *rows*."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._dtypes = {name: column_dtype(name, rows) for name in COLUMNS}
        self._files: dict[str, BinaryIO] = {name: open(folder / f"{name}.bin", "wb") for name in COLUMNS}
        self._counts = dict.fromkeys(COLUMNS, 0)
        self._totals = dict.fromkeys(OFFSETS, 0)
        for name in OFFSETS:
            self._write(name, np.zeros(1, dtype=self._dtypes[name]))

    def append(self, columns: Columns) -> None:
        """Write the passages of *columns* after those already there."""
        for name in COLUMNS:
            values = columns[name]
            if name in OFFSETS:
                values = np.cumsum(values, dtype=np.int64) + self._totals[name]
                self._totals[name] = int(values[-1]) if len(values) else self._totals[name]
            self._write(name, values)

    def _write(self, name: str, values: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(values, dtype=self._dtypes[name]).tobytes())
        self._counts[name] += len(values)

    def close(self) -> None:
        """Flush everything to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def describe(self) -> dict[str, Any]:
        """Type and entries of each column, for the manifest."""
        return {name: {"dtype": self._dtypes[name].name, "entries": self._counts[name]} for name in COLUMNS}


@dataclass(frozen=True)
class EncodedPassage:
    """One passage of a store."""

    id: str
    tokens: np.ndarray  #: embedding rows, a blank is one ``<mask>``, ``(tokens,)``
    sentence_starts: np.ndarray  #: offsets into *tokens*, ascending, ``(sentences,)``
    blank_positions: np.ndarray  #: offsets of the masks in *tokens*, ``(blanks,)``
    gold: np.ndarray  #: index of the right candidate or -1, ``(blanks,)``
    candidates: list[list[np.ndarray]]  #: per blank, per candidate, its tokens; none for "nothing goes here"


class Store:
    """Random access to the encoded passages of one split.

    Args:
        columns: arrays by column name, memory-mapped or not, with :data:`OFFSETS` in place of lengths
        origin: folder and description the columns were mapped from
    """

    def __init__(self, columns: Mapping[str, np.ndarray], origin: tuple[Path, Any] | None = None) -> None:
        self.columns = columns
        self._origin = origin
        self.id_offsets = columns["id_offsets"]
        self.token_offsets = columns["token_offsets"]
        self.sentence_offsets = columns["sentence_offsets"]
        self.blank_offsets = columns["blank_offsets"]
        self.candidate_offsets = columns["candidate_offsets"]
        self.candidate_token_offsets = columns["candidate_token_offsets"]

    @classmethod
    def open(cls, folder: Path, description: Mapping[str, Mapping[str, Any]]) -> Store:
        """Map the files of a split; constant time and memory.

        Raises:
            DataBinError: a file is missing or has another size than the manifest says
        """
        columns: dict[str, np.ndarray] = {}
        for name in COLUMNS:
            path = folder / f"{name}.bin"
            try:
                dtype, entries = np.dtype(description[name]["dtype"]), int(description[name]["entries"])
                size = path.stat().st_size
            except (KeyError, OSError) as error:
                raise DataBinError(f"{path}: missing ({error}); run 'fairseq-cloze prepare' again") from error
            if size != dtype.itemsize * entries:
                raise DataBinError(
                    f"{path}: expected {dtype.itemsize * entries:,} bytes, found {size:,}; "
                    "the data-bin is damaged, run 'fairseq-cloze prepare' again"
                )
            values = np.memmap(path, dtype, "r", shape=(entries,)) if entries else np.empty(0, dtype)
            columns[OFFSETS.get(name, name)] = values
        return cls(columns, (folder, description))

    def __reduce__(self) -> Any:
        """Other processes map the files anew rather than get a copy of their content."""
        return (Store.open, self._origin) if self._origin else (Store, (self.columns,))

    @classmethod
    def from_columns(cls, chunks: Sequence[Columns], rows: int) -> Store:
        """A store in memory, from the chunks that :func:`fairseq_cloze.data.encoding.encode_passages` returned."""
        columns: dict[str, np.ndarray] = {}
        for name in COLUMNS:
            values = np.concatenate([chunk[name] for chunk in chunks]).astype(column_dtype(name, rows))
            if name in OFFSETS:
                values = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
            columns[OFFSETS.get(name, name)] = values
        return cls(columns)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.token_offsets) - 1

    @property
    def blanks(self) -> int:
        """Number of blanks."""
        return len(self.columns["gold"])

    def id(self, passage: int) -> str:
        """Id of a passage."""
        return bytes(self.columns["id_bytes"][slice(*self.id_offsets[passage : passage + 2])]).decode("utf-8")

    def candidate_tokens(self, candidate: int) -> np.ndarray:
        """Tokens of a candidate, counted over the whole split."""
        start, end = self.candidate_token_offsets[candidate : candidate + 2]
        return self.columns["candidate_tokens"][start:end]

    def filling(self, blank: int, candidate: int) -> np.ndarray:
        """Tokens of a candidate of a blank."""
        return self.candidate_tokens(int(self.candidate_offsets[blank]) + candidate)

    def chunk(self, passage: int) -> Columns:
        """A passage as :func:`fairseq_cloze.data.encoding.encode_passages` returned it."""
        blanks = self.blank_offsets[passage : passage + 2]
        candidates = self.candidate_offsets[blanks]
        spans = {
            "id_bytes": self.id_offsets[passage : passage + 2],
            "tokens": self.token_offsets[passage : passage + 2],
            "sentence_start": self.sentence_offsets[passage : passage + 2],
            "candidate_tokens": self.candidate_token_offsets[candidates],
            **dict.fromkeys(("id_length", "token_count", "sentence_count", "blank_count"), (passage, passage + 1)),
            **dict.fromkeys(("blank_position", "gold", "candidate_count"), blanks),
            **dict.fromkeys(("candidate_first", "candidate_rank", "candidate_length"), candidates),
        }
        return {
            name: np.diff(self.columns[OFFSETS[name]][start : end + 1])
            if name in OFFSETS
            else np.asarray(self.columns[name][start:end])
            for name, (start, end) in ((name, spans[name]) for name in COLUMNS)
        }

    def distinct_candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """The blank of each candidate, and whether it repeats no earlier one; ``int64`` and ``bool (candidates,)``."""
        owner = np.repeat(np.arange(self.blanks), np.diff(self.candidate_offsets))
        order = np.arange(len(owner)) - self.candidate_offsets[owner]
        return owner, self.columns["candidate_first"] == order

    def __getitem__(self, passage: int) -> EncodedPassage:
        if not 0 <= passage < len(self):
            raise IndexError(f"passage {passage} of {len(self)}")
        tokens, sentences, blanks = (
            slice(*offsets[passage : passage + 2])
            for offsets in (self.token_offsets, self.sentence_offsets, self.blank_offsets)
        )
        ends = self.candidate_offsets[blanks.start : blanks.stop + 1]
        return EncodedPassage(
            self.id(passage),
            self.columns["tokens"][tokens],
            self.columns["sentence_start"][sentences],
            self.columns["blank_position"][blanks],
            self.columns["gold"][blanks],
            [[self.candidate_tokens(index) for index in range(a, b)] for a, b in zip(ends[:-1], ends[1:])],
        )
