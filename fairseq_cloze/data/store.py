"""Store: encoded passages in memory-mapped files, one ``<column>.bin`` per column, plain arrays without a header.

Where encoding gives lengths, a store keeps offsets (see :data:`OFFSETS`), so that any passage is found without reading
the others.  Types and counts stand in the manifest of the data-bin.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataBinError
from ..files import open_regular, stamp
from ..processes import cores
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
        self._digests = {name: hashlib.sha256() for name in COLUMNS}
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
        content = np.ascontiguousarray(values, dtype=self._dtypes[name]).tobytes()
        self._files[name].write(content)
        self._digests[name].update(content)
        self._counts[name] += len(values)

    def close(self) -> None:
        """Flush everything to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def describe(self) -> dict[str, Any]:
        """Type, entries and SHA-256 of each column, for the manifest."""
        return {
            name: {
                "dtype": self._dtypes[name].name,
                "entries": self._counts[name],
                "sha256": self._digests[name].hexdigest(),
            }
            for name in COLUMNS
        }


def damaged(path: Path, expected: str, found: str) -> DataBinError:
    """The error of a file of a data-bin that is not as it was written."""
    return DataBinError(
        f"{path}: expected {expected}, found {found}; the data-bin is damaged, copy it again, or run "
        "'fairseq-cloze prepare' again"
    )


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
        origin: folder, entry of the manifest and rows the columns were mapped for
        files: :func:`fairseq_cloze.files.stamp` of each file
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        origin: tuple[Path, Any, int] | None = None,
        files: Sequence[Sequence[int]] = (),
    ) -> None:
        self.columns = columns
        self._origin = origin
        self.files = files
        self.id_offsets = columns["id_offsets"]
        self.token_offsets = columns["token_offsets"]
        self.sentence_offsets = columns["sentence_offsets"]
        self.blank_offsets = columns["blank_offsets"]
        self.candidate_offsets = columns["candidate_offsets"]
        self.candidate_token_offsets = columns["candidate_token_offsets"]

    @classmethod
    def open(cls, folder: Path, described: Mapping[str, Mapping[str, Any]], rows: int) -> Store:
        """Map the files of a split for a dictionary of so many *rows*; constant time and memory.

        Args:
            folder: where they are
            described: what :meth:`StoreWriter.describe` said of them
            rows: of the dictionary

        Raises:
            DataBinError: a file is missing, or has another size than that of so many entries
        """
        columns: dict[str, np.ndarray] = {}
        files = []
        for name in COLUMNS:
            path, dtype = folder / f"{name}.bin", column_dtype(name, rows)
            try:
                with open_regular(path) as file:
                    found = os.fstat(file.fileno())
                    expected = dtype.itemsize * described[name]["entries"]
                    if found.st_size != expected:
                        raise damaged(path, f"{expected:,} bytes", f"{found.st_size:,}")
                    values = np.memmap(file, dtype, "r") if expected else np.empty(0, dtype)
            except OSError as error:
                raise damaged(path, "a file", error.strerror or str(error)) from error
            columns[OFFSETS.get(name, name)] = values
            files.append(stamp(found))
        return cls(columns, (folder, described, rows), files)

    def digests(self) -> list[str]:
        """SHA-256 of each column, in the order of :data:`COLUMNS`, hexadecimal."""
        columns = [self.columns[OFFSETS.get(name, name)] for name in COLUMNS]
        with ThreadPoolExecutor(cores()) as pool:  # hashing leaves Python to others
            return list(pool.map(lambda values: hashlib.sha256(values.data).hexdigest(), columns))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is stored, wherever it lies; nothing is read for it where the manifest has digests."""
        described = self._origin[1] if self._origin else {}
        recorded = [described[name]["sha256"] for name in COLUMNS if "sha256" in described.get(name, ())]
        digests = recorded if len(recorded) == len(COLUMNS) else self.digests()
        return hashlib.sha256("\n".join(map(" ".join, zip(COLUMNS, digests))).encode()).hexdigest()

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
