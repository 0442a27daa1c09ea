"""Data-bin: a folder with encoded splits, the vocabulary they were encoded with, and a manifest."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataBinError, printable
from ..files import PathLike, read_regular, write_text
from ..jsontext import NotJson, parse_json
from ..passages.choices import LANGUAGES, TEXT_NORMS
from .checking import check_split, is_remembered, remember
from .encoding import COLUMNS, EncodingOptions, column_dtype
from .fairseq_files import FAIRSEQ_FILES, FairseqFiles
from .store import Store, damaged
from .vocabulary import FILES, Vocabulary

MANIFEST = "manifest.json"
FORMAT = "fairseq-cloze data-bin"
FORMAT_VERSION = 3

_COUNTS = ("read", "passages", "blanks", "labelled_blanks", "tokens", "unknown_tokens", "skipped", "ignored_files")
_NEW_COUNTS = ("makeshift_tokens",)  # since format 3

#: What a manifest calls the digest of the tokenizer.
_TOKENIZER_DIGEST = {1: "bpe_digest", 2: "bpe_digest", 3: "tokenizer_digest"}

_logger = logging.getLogger(__name__)


class DataBin:
    """A data-bin on disk, as ``fairseq-cloze prepare`` wrote it; splits are opened on demand.

    Raises:
        DataBinError: not a complete and sound data-bin, or one of another format version
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        content = _read(self.folder)
        self._manifest_digest = hashlib.sha256(content).hexdigest()
        self.manifest = _checked_manifest(content, self.folder / MANIFEST)
        self.splits: dict[str, Any] = self.manifest["splits"]  #: manifest entries by name
        self.encoding = EncodingOptions(**self.manifest["encoding"])  #: how text became tokens
        self.vocabulary = self._load_vocabulary()
        if self.manifest["format_version"] == 1:
            _logger.warning(
                "%s: has no digests, as an earlier version wrote it, so a damage may go unnoticed; run "
                "'fairseq-cloze prepare' again to have them", printable(str(self.folder)),
            )  # fmt: skip

    def open(self, split: str) -> Store:
        """Map a split, see :meth:`Store.open`; its files are compared with the manifest once per copy.

        Raises:
            DataBinError: no such split, or damaged files
        """
        store = self._map(split)
        if not is_remembered(store, self._manifest_digest):
            self._check(store, split)
        return store

    def check(self) -> Iterator[str]:
        """Read everything again, whatever was found before; yields a line for each split that is sound.

        Raises:
            DataBinError: the first damage
        """
        yield f"vocabulary: {len(self.vocabulary):,} rows"
        for name, entry in self.splits.items():
            self._check(self._map(name), name)
            yield f"{name}: {entry['passages']:,} passages, {entry['blanks']:,} blanks"

    def _map(self, split: str) -> Store:
        if split not in self.splits:
            raise DataBinError(
                f"{self.folder}: no split '{split}', found {', '.join(sorted(self.splits))}; "
                f"prepare it with 'fairseq-cloze prepare', or name another one"
            )
        return Store.open(self.folder / split, self.splits[split]["columns"], len(self.vocabulary))

    def _check(self, store: Store, split: str) -> None:
        check_split(store, self.folder / split, self.splits[split], self.vocabulary)
        remember(store, self._manifest_digest)

    def _load_vocabulary(self) -> Vocabulary:
        expected, version = self.manifest["vocabulary"], self.manifest["format_version"]
        files = Vocabulary.read(self.folder, tuple(self.manifest.get("files", FAIRSEQ_FILES)))
        for name, digest in (self.manifest["files"] if version > 1 else {}).items():
            if (found := hashlib.sha256(files[name]).hexdigest()) != digest:
                raise damaged(self.folder / name, f"SHA-256 {digest[:12]}", found[:12])
        vocabulary = Vocabulary(files, str(self.folder))
        digests = vocabulary.digests if version > 2 else FairseqFiles(files, str(self.folder)).digests
        for part, found in digests.items():
            if expected[part] != found:
                raise DataBinError(
                    f"{self.folder}: the {part.split('_')[0]} files were changed after the data-bin was prepared "
                    f"(expected {str(expected[part])[:12]}, found {found[:12]}); run 'fairseq-cloze prepare' again"
                )
        if expected["rows"] != len(vocabulary):
            raise damaged(self.folder / MANIFEST, f"{len(vocabulary)} at 'vocabulary.rows'", str(expected["rows"]))
        return vocabulary


def files_of(vocabulary: Vocabulary) -> dict[str, bytes]:
    """The files of a vocabulary that lie in a data-bin; of a RoBERTa also fairseq's three, for fairseq's own tools."""
    return {**vocabulary.files, **(vocabulary.fairseq_files() if vocabulary.is_fairseqs else {})}


def write_manifest(
    folder: Path,
    vocabulary: Vocabulary,
    encoding: EncodingOptions,
    splits: Mapping[str, Any],
    version: str,
    blank: str | None = None,
) -> None:
    """Write the manifest; a folder without one does not open.  *blank* is the marker of blanks that was chosen."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in files_of(vocabulary).items()}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_by": f"fairseq-cloze {version}",
        "files": files,
        "vocabulary": {"rows": len(vocabulary), **vocabulary.digests},
        "encoding": encoding.to_dict(),
        **({} if blank is None else {"blank": blank}),
        "splits": dict(splits),
    }
    manifest["digest"] = _digest(manifest)
    write_text(folder / MANIFEST, _written(manifest))


def _written(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON, whatever its layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_replaceable(folder: Path) -> None:
    """Make sure that a folder is a data-bin, maybe a damaged one, and holds nothing but what ``prepare`` wrote.

    Raises:
        DataBinError: it is none, or holds something else; names it
    """
    if FORMAT.encode() not in _read(folder):
        raise _not_ours(folder / MANIFEST)
    columns = {f"{column}.bin" for column in COLUMNS}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            ours = False
        elif path.is_dir():
            ours = path.parent == folder and any((path / name).is_file() for name in columns)
        elif path.parent == folder:
            ours = path.name in (MANIFEST, *FILES, *FAIRSEQ_FILES)
        else:
            ours = path.name in columns
        if not ours:
            raise DataBinError(
                f"{path}: was not written by 'fairseq-cloze prepare' and would be lost with {folder}; move it away, or "
                "choose another --out"
            )


def _not_ours(path: Path) -> DataBinError:
    return DataBinError(f"{path}: not the manifest of a fairseq-cloze data-bin; give the folder 'prepare' wrote")


def _read(folder: Path) -> bytes:
    """The manifest, as it is."""
    path = folder / MANIFEST
    try:
        return read_regular(path)
    except OSError as error:
        if not os.path.lexists(path):
            found = f"no {MANIFEST}" if os.path.isdir(folder) else "no such folder"
            raise DataBinError(
                f"{folder}: expected a data-bin, found {found}; write one with 'fairseq-cloze prepare --out {folder}'"
            ) from error
        raise damaged(path, "a file", error.strerror or str(error)) from error


def _checked_manifest(content: bytes, path: Path) -> dict[str, Any]:
    """The manifest, if all that is used of it is what it should be."""
    try:
        manifest = parse_json(content)
    except NotJson as error:
        raise DataBinError(f"{path}: {error}; the data-bin is damaged, copy it again, or run 'fairseq-cloze prepare' "
                           "again") from error  # fmt: skip
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _not_ours(path)
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise DataBinError(
            f"{path}: expected format version {FORMAT_VERSION}, found {_shown(version)}; "
            "run 'fairseq-cloze prepare' of this version again"
        )
    digested = version > 1
    if digested or "digest" in manifest:
        digest = _digest({key: value for key, value in manifest.items() if key != "digest"})
        if manifest.get("digest") != digest or content != _written(manifest).encode():
            raise damaged(path, f"a content of SHA-256 {_shown(manifest.get('digest'))}", "another one")
    expect = _Expect(path)
    vocabulary = expect.keys(manifest, "", ("vocabulary", "encoding", "splits"))["vocabulary"]
    expect.keys(vocabulary, "vocabulary", ("rows", "dictionary_digest", _TOKENIZER_DIGEST[version]))
    if digested:
        names = FILES if version > 2 else FAIRSEQ_FILES
        files = expect.keys(expect.keys(manifest, "", ("files",))["files"], "files", names)
        others = FAIRSEQ_FILES if version > 2 and len(files) > len(names) else ()  # those of a RoBERTa
        expect.exactly(files, "files", (*names, *others))
        expect.that(all(isinstance(digest, str) for digest in files.values()), "files", "digests", files)
    encoding = manifest["encoding"]
    if isinstance(encoding, dict):  # earlier versions knew English only
        encoding.setdefault("language", EncodingOptions.language)
    expect.exactly(encoding, "encoding", EncodingOptions().to_dict())
    norm, case, language = encoding["text_norm"], encoding["sentence_case"], encoding["language"]
    expect.that(norm in TEXT_NORMS, "encoding.text_norm", f"one of {', '.join(TEXT_NORMS)}", norm)
    expect.that(type(case) is bool, "encoding.sentence_case", "true or false", case)
    expect.that(language in LANGUAGES, "encoding.language", f"one of {', '.join(LANGUAGES)}", language)
    rows, counts = vocabulary["rows"], (*_COUNTS, *(_NEW_COUNTS if version > 2 else ()))
    expect.count(rows, "vocabulary.rows")
    for name, entry in expect.keys(manifest["splits"], "splits", ()).items():
        expect.that(is_split_name(name), "splits", "names of folders", name)
        columns = expect.keys(entry, f"splits.{name}", (*counts, "columns"))["columns"]
        for count in counts:
            expect.count(entry[count], f"splits.{name}.{count}")
        expect.exactly(columns, f"splits.{name}.columns", COLUMNS)
        for column, found in columns.items():
            where = f"splits.{name}.columns.{column}"
            expect.exactly(found, where, ("dtype", "entries", "sha256") if digested else ("dtype", "entries"))
            expect.count(found["entries"], f"{where}.entries")
            dtype = column_dtype(column, rows).name
            expect.that(found["dtype"] == dtype, f"{where}.dtype", dtype, found["dtype"])
            digest = found.get("sha256", "")
            expect.that(isinstance(digest, str), f"{where}.sha256", "a digest", digest)
    return manifest


class _Expect:
    """Raises ``DataBinError`` for what is not as expected in a manifest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def that(self, holds: bool, where: str, what: str, found: Any) -> None:
        if not holds:
            raise damaged(self._path, f"{what} at '{where}'" if where else what, _shown(found))

    def keys(self, found: Any, where: str, names: Iterable[str]) -> dict[str, Any]:
        """An object that has these keys."""
        with_names = f" with {', '.join(names)}" if names else ""
        self.that(isinstance(found, dict) and set(names) <= set(found), where, f"an object{with_names}", found)
        return found

    def exactly(self, found: Any, where: str, names: Iterable[str]) -> dict[str, Any]:
        """An object that has these keys and no others."""
        others = sorted(set(self.keys(found, where, names)) - set(names))
        self.that(not others, where, f"nothing but {', '.join(names)}", others)
        return found

    def count(self, found: Any, where: str) -> None:
        self.that(type(found) is int and 0 <= found < 1 << 48, where, "a number", found)


def is_data_bin(folder: PathLike) -> bool:
    """Whether a path is a data-bin, maybe a damaged one."""
    return os.path.lexists(Path(folder, MANIFEST))


def is_split_name(name: str) -> bool:
    """Whether a split may be called so: it is the name of a folder in the data-bin."""
    return (
        name == os.path.basename(name)
        and name not in ("", ".", "..", MANIFEST, *FILES, *FAIRSEQ_FILES)
        and name.isprintable()
    )


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
