"""Blanks: the split that a watch scores, read once, so that no change of the data-bin changes what scores mean."""

import hashlib
import json

import numpy as np

from ..data.databin import MANIFEST, DataBin
from ..data.encoding import COLUMNS
from ..data.store import OFFSETS, Store
from ..errors import ClozeError, DataBinError
from ..files import PathLike, read_regular


class Blanks(DataBin):
    """A data-bin with one split, which is in memory.

    Raises:
        DataBinError: the data-bin cannot be used
        ClozeError: no labelled blank is in the split
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        super().__init__(folder)
        self._written = self._read_manifest()
        mapped = super().open(split).columns
        columns = {}
        for name in COLUMNS:  # read, as a mapped file that is cut short would end the process
            column = mapped[OFFSETS.get(name, name)]
            try:
                values = np.fromfile(self.folder / split / f"{name}.bin", column.dtype)
            except OSError:
                values = column[:0]
            if len(values) != len(column):
                raise DataBinError(f"{self.folder}: '{split}' was written to while it was read; try again")
            columns[OFFSETS.get(name, name)] = values
        if not (columns["gold"] >= 0).any():
            raise ClozeError(
                f"split '{split}' of {self.folder}: expected labelled blanks, found none; name another split"
            )
        self._store = Store(columns)

    def open(self, split: str) -> Store:
        """The split, whichever is asked for."""
        return self._store

    @property
    def digest(self) -> str:
        """SHA-256 of the passages and the vocabulary they are encoded with, hexadecimal."""
        own = self.manifest["vocabulary"]
        tokenizer = own["bpe_digest"] if "bpe_digest" in own else own["tokenizer_digest"]
        vocabulary = {"bpe_digest": tokenizer, **{name: own[name] for name in ("dictionary_digest", "rows")}}
        found = hashlib.sha256(json.dumps(vocabulary).encode())
        for name in sorted(COLUMNS):  # as files are called, so that digests of earlier versions hold
            column = self._store.columns[OFFSETS.get(name, name)]
            found.update(f"\n{name} {column.dtype.name} {len(column)}\n".encode())
            found.update(column.data)
        return found.hexdigest()

    def change(self) -> str:
        """What has become of the data-bin since it was read, in words; empty where nothing has."""
        found = self._read_manifest()
        return "" if found == self._written else "was prepared anew" if found else "is away"

    def _read_manifest(self) -> bytes:
        try:
            return read_regular(self.folder / MANIFEST)
        except OSError:
            return b""
