"""Fuzz: pickles of checkpoints in files whose checksums are right, or the bytes of whole files."""

from __future__ import annotations

import io
import zipfile
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.cleaning import _Cleaning
from fairseq_cloze.weights.reading import read_checkpoint

from ..support.models import tiny_state

_ZIP = b"PK\x03\x04"


def _saved(state: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("archive/data.pkl")


_WHOLE = _saved(tiny_state())


def seeds() -> list[bytes]:
    """Pickles, which are put into a file, and whole files in both formats."""
    state = tiny_state()
    older = {**state, "args": None, "cfg": {"model": vars(state["args"])}}
    odd = {**state, "args": Namespace(a=np.float64(1)), "model": OrderedDict(state["model"]), "x": {(1, "a"), 2}}
    return [*(_pickle(_saved(each)) for each in (state, older, odd)), _WHOLE, _saved(state, zipped=False)]


def attack(data: bytes) -> None:
    """Read as a checkpoint, plainly and to clean it, then look at all that is read of one."""
    if not data.startswith((_ZIP, b"\x80\x02\x8a")):  # a pickle of a state
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(_WHOLE)) as archive, zipfile.ZipFile(file, "w") as changed:
            for info in archive.infolist():
                changed.writestr(info.filename, data if info.filename.endswith(".pkl") else archive.read(info))
        data = file.getvalue()
    for convert in (None, _Cleaning("x.pt").convert):
        try:
            return look_at(read_checkpoint(io.BytesIO(data), "x.pt", optimizer=True, convert=convert))
        except ClozeError as error:
            assert "\n" not in str(error)
            if "fairseq-cloze clean" not in str(error):
                return


def look_at(state: Any) -> None:
    """All that is read of a checkpoint."""
    checkpoint = Checkpoint(state, "nowhere/x.pt")
    for name in ("progress", "task_options", "carried", "encoding", "vocabulary", "heads", "architecture"):
        try:
            getattr(checkpoint, name)
        except ClozeError as error:
            assert "\n" not in str(error)
    checkpoint.require_sound()
