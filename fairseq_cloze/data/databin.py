"""Data-bin: a folder with encoded splits, the vocabulary they were encoded with, and a manifest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataBinError
from ..files import PathLike
from .encoding import COLUMNS, EncodingOptions
from .store import Store
from .vocabulary import FILES, Vocabulary

MANIFEST = "manifest.json"
FORMAT = "fairseq-cloze data-bin"
FORMAT_VERSION = 1


class DataBin:
    """A data-bin on disk, as ``fairseq-cloze prepare`` wrote it; splits are opened on demand.

    Raises:
        DataBinError: not a complete data-bin, or one of another format version
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self.splits: dict[str, Any] = self.manifest["splits"]  #: manifest entries by name
        self.encoding = EncodingOptions(**self.manifest["encoding"])  #: how text became tokens
        self.vocabulary = Vocabulary.load(self.folder)
        for part, found in _digests(self.vocabulary).items():
            expected = self.manifest["vocabulary"][part]
            if expected != found:
                raise DataBinError(
                    f"{self.folder}: the {part.split('_')[0]} files were changed after the data-bin was prepared "
                    f"(expected {expected[:12]}, found {found[:12]}); run 'fairseq-cloze prepare' again"
                )

    def open(self, split: str) -> Store:
        """Map a split, see :meth:`Store.open`.

        Raises:
            DataBinError: no such split, or damaged files
        """
        if split not in self.splits:
            raise DataBinError(
                f"{self.folder}: no split '{split}', found {', '.join(sorted(self.splits))}; "
                f"prepare it with 'fairseq-cloze prepare', or name another one"
            )
        return Store.open(self.folder / split, self.splits[split]["columns"])


def _digests(vocabulary: Vocabulary) -> dict[str, str]:
    return {"dictionary_digest": vocabulary.dictionary_digest, "bpe_digest": vocabulary.bpe_digest}


def write_manifest(
    folder: Path, vocabulary: Vocabulary, encoding: EncodingOptions, splits: Mapping[str, Any], version: str
) -> None:
    """Write the manifest; a folder without one does not open."""
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_by": f"fairseq-cloze {version}",
        "vocabulary": {"rows": len(vocabulary), **_digests(vocabulary)},
        "encoding": encoding.to_dict(),
        "splits": dict(splits),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_replaceable(folder: Path) -> None:
    """Make sure that a folder is a data-bin and holds nothing but what ``prepare`` wrote.

    Raises:
        DataBinError: it is none, or holds something else; names it
    """
    splits = DataBin(folder).splits
    written = {Path(name) for name in (MANIFEST, *FILES)}
    written |= {Path(split, f"{column}.bin") for split in splits for column in COLUMNS}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if str(name) not in splits if is_folder else name not in written:
            raise DataBinError(
                f"{path}: was not written by 'fairseq-cloze prepare' and would be lost with {folder}; move it away, or "
                "choose another --out"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = "no such folder" if not folder.is_dir() else f"no {MANIFEST}"
        raise DataBinError(
            f"{folder}: expected a data-bin, found {found}; write one with 'fairseq-cloze prepare --out {folder}'"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataBinError(f"{path}: cannot be read ({error}); run 'fairseq-cloze prepare' again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataBinError(f"{path}: not the manifest of a fairseq-cloze data-bin; give the folder 'prepare' wrote")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataBinError(
            f"{path}: expected format version {FORMAT_VERSION}, found {manifest.get('format_version')}; "
            "run 'fairseq-cloze prepare' of this version again"
        )
    return manifest
