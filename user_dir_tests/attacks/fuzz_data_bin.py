"""A data-bin: its manifest with a right digest but other content, or a column (``NAME``, NUL, bytes) without a digest.

Whatever opens can be scored: views take every passage.
"""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from fairseq_cloze.data.bpe import byte_characters
from fairseq_cloze.data.databin import MANIFEST, DataBin, _digest, _written
from fairseq_cloze.data.encoding import COLUMNS, column_dtype
from fairseq_cloze.data.fairseq_files import FairseqFiles
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import ClozeError, DataBinError
from fairseq_cloze.views.making import make_view
from fairseq_cloze.views.settings import Settings

LINES = (
    {"article": "So. She _ home, and _ slept .", "options": [["went", "go", "go"], ["she", "/"]], "answers": ["A", 1]},
    {"article": "“Yes,” said _ . Oh !", "options": [["he", "him", "they all"]], "answers": []},
)  # fmt: skip


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    tokens = [*byte_characters(), "he", "<|endoftext|>"]
    Vocabulary.build(tokens, [("h", "e")], "tiny").save(folder / "weights")
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    prepare({"test": [folder / "a.jsonl"]}, folder / "weights", folder / "bin", workers=1)
    for path in (folder / "weights").iterdir():  # those of format 1
        shutil.copy(path, folder / "bin")
    return kept, folder / "bin"


@cache
def _manifest() -> bytes:
    return (_folder()[1] / MANIFEST).read_bytes()


@cache
def _column(name: str) -> bytes:
    return (_folder()[1] / "test" / f"{name}.bin").read_bytes()


def seeds() -> list[bytes]:
    return [_manifest(), *(name.encode() + b"\0" + _column(name) for name in COLUMNS)]


def attack(data: bytes) -> None:
    folder = _folder()[1]
    name, _, content = data.partition(b"\0")
    column = name.decode("latin1")
    manifest = json.loads(_manifest())
    if column in COLUMNS:
        vocabulary = Vocabulary.load(folder.parent / "weights")
        files = FairseqFiles(vocabulary.fairseq_files(), "tiny")
        manifest = {**manifest, "format_version": 1, "vocabulary": {"rows": len(vocabulary), **files.digests}}
        del manifest["digest"]
        entry = manifest["splits"]["test"]["columns"]
        size = column_dtype(column, manifest["vocabulary"]["rows"]).itemsize
        for each in entry.values():
            del each["sha256"]
        entry[column]["entries"] = len(content) // size
        (folder / "test" / f"{column}.bin").write_bytes(content[: len(content) // size * size])
        written = _written(manifest).encode()
    else:
        try:
            manifest = json.loads(data)
            manifest["digest"] = _digest({key: value for key, value in manifest.items() if key != "digest"})
            written = _written(manifest).encode()
        except (ValueError, RecursionError, TypeError, AttributeError):
            written = data
    (folder / MANIFEST).write_bytes(written)
    try:
        data_bin = DataBin(folder)
        for split in data_bin.splits:
            store = data_bin.open(split)
            for view in ("joint", "full", "neighbors"):
                items = make_view(Settings(view), store, data_bin.vocabulary, 128)
                items.collate([items.item(number) for number in range(len(items))])
            assert np.isfinite(store.columns["candidate_rank"]).all() and [store.id(n) for n in range(len(store))]
    except DataBinError as error:
        assert str(folder) in str(error) or "positions" in str(error)
    except ClozeError as error:  # of a vocabulary
        assert str(folder) in str(error)
    finally:
        if column in COLUMNS:
            (folder / "test" / f"{column}.bin").write_bytes(_column(column))
