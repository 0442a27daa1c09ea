"""Prepare: passages on disk → a data-bin, each passage encoded once.

The data-bin appears under its name only when it is complete.  Until then it grows in ``<out>.partial``, which has no
manifest and does not open; a killed run leaves that folder behind and the next run removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Deque, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from tqdm import tqdm

from . import __version__
from .databin import DataBin, write_manifest
from .encoding import DEFAULT_ENCODING, Columns, EncodingOptions, encode_passages
from .errors import ClozeError, NoBlankError, PassageError
from .files import PathLike
from .passages import UNLABELLED, Passage, Record, Tally, check_unique_id, parse_record, read_passages, read_records
from .store import StoreWriter
from .text import BLANK, normalise
from .vocabulary import UNK, Vocabulary

#: Splits whose passages must be labelled.
LABELLED_SPLITS = ("train", "valid")

_CHUNK = 64  # passages a worker encodes at a time
_SKIPPED_SHOWN = 10
_SKIPPED_LISTED = 1000  # skipped passages named in the manifest; all are counted


@dataclass
class SplitReport:
    """What went into one split."""

    split: str
    tally: Tally
    read: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    columns: Dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        """The split's entry in the manifest."""
        return {
            "read": self.read,
            "passages": self.tally.passages,
            "blanks": self.tally.blanks,
            "labelled_blanks": self.tally.labelled,
            "tokens": self.tokens,
            "unknown_tokens": self.unknown_tokens,
            "skipped": len(self.tally.skipped),
            "skipped_passages": [
                {"source": source, "reason": reason} for source, reason in self.tally.skipped[:_SKIPPED_LISTED]
            ],
            "ignored_files": len(self.tally.ignored_files),
            "columns": self.columns,
        }

    def lines(self) -> List[str]:
        """Counts for people; skipped passages by name, the first ten of them."""
        skipped = self.tally.skipped
        counts = f"{self.read:,} passages, {self.tally.blanks:,} blanks, {len(skipped):,} skipped"
        if self.tally.labelled != self.tally.blanks:
            counts += f", {self.tally.blanks - self.tally.labelled:,} blanks unlabelled"
        if self.tally.ignored_files:
            counts += f", {len(self.tally.ignored_files):,} files that are neither JSON nor JSONL ignored"
        out = [f"{self.split}: {counts}"]
        out += [f"  skipped {source}: {reason}" for source, reason in skipped[:_SKIPPED_SHOWN]]
        if len(skipped) > _SKIPPED_SHOWN:
            out.append(f"  ... and {len(skipped) - _SKIPPED_SHOWN:,} more, see the manifest")
        if self.unknown_tokens:
            out.append(f"  {self.unknown_tokens:,} of {self.tokens:,} tokens are not in the dictionary (<unk>)")
        return out


def prepare(
    inputs: Mapping[str, Sequence[PathLike]],
    pretrained: PathLike,
    out: PathLike,
    options: EncodingOptions = DEFAULT_ENCODING,
    workers: Optional[int] = None,
    on_error: str = "stop",
    overwrite: bool = False,
) -> List[SplitReport]:
    """Encode passages into a data-bin.

    Args:
        inputs: files or folders per split name
        pretrained: folder with the vocabulary of the weights
        out: the data-bin to write
        options: text normalisation and capitalisation
        workers: processes that encode; default one per core
        on_error: ``stop`` or ``skip`` passages that do not fit
        overwrite: replace an existing data-bin

    Returns:
        a report per split, in the order of *inputs*

    Raises:
        ClozeError: input that does not fit, a full disk, *out* exists; nothing is left under *out*'s name
    """
    out = Path(out)
    if not inputs:
        raise ClozeError("nothing to prepare; give --train, --valid or --test")
    if out.exists() and not overwrite:
        raise ClozeError(f"{out}: already exists; choose another --out, or pass --overwrite to replace it")
    if out.exists():
        DataBin(out)  # refuses to replace anything that is not a data-bin
    vocabulary = Vocabulary.load(pretrained)
    workers = workers or _cores()
    try:
        with _Partial(out) as partial:
            vocabulary.save(partial.folder)
            with _Encoder(vocabulary, options, workers) as encoder:
                reports = [
                    _prepare_split(split, paths, partial.folder / split, encoder, on_error, len(vocabulary))
                    for split, paths in inputs.items()
                ]
            splits = {report.split: report.to_dict() for report in reports}
            write_manifest(partial.folder, vocabulary, options, splits, __version__)
            partial.publish()
    except OSError as error:
        raise ClozeError(
            f"{out}: cannot be written ({error.strerror or error}); nothing was kept; "
            "free some space or choose another --out"
        ) from error
    return reports


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def passage_texts(
    paths: Sequence[PathLike], norm: str = "standard", on_error: str = "stop", tally: Optional[Tally] = None
) -> Iterator[str]:
    """Texts of passages, gold candidates filled in where they are known, for learning a vocabulary.

    The arguments other than *norm* are those of :func:`fairseq_cloze.passages.read_passages`.
    """
    for passage in read_passages(paths, on_error, tally):
        segments = BLANK.split(normalise(passage.article, norm))
        fills = [choices[gold] if gold != UNLABELLED else "" for choices, gold in zip(passage.candidates, passage.gold)]
        yield "".join([*(segment + fill for segment, fill in zip(segments, fills)), segments[-1]])


def _prepare_split(
    split: str, paths: Sequence[PathLike], folder: Path, encoder: _Encoder, on_error: str, rows: int
) -> SplitReport:
    folder.mkdir()
    writer = StoreWriter(folder, rows)
    tally = Tally()
    report = SplitReport(split, tally)
    seen: Dict[str, str] = {}
    with tqdm(desc=f"prepare {split}", unit=" passages", disable=None) as progress:
        for chunk in encoder.run(read_records(paths, tally), needs_answers=split in LABELLED_SPLITS):
            report.read += chunk.read
            for problem in chunk.problems:
                if on_error == "stop" and not problem.harmless:
                    raise PassageError(problem.source, problem.text)
                tally.skipped.append((problem.source, problem.text))
            for passage_id, source in chunk.ids:
                check_unique_id(passage_id, source, seen)
            if chunk.columns is not None:
                writer.append(chunk.columns)
                report.tokens += len(chunk.columns["tokens"])
                report.unknown_tokens += int((chunk.columns["tokens"] == UNK).sum())
                tally.passages += len(chunk.ids)
                tally.blanks += len(chunk.columns["gold"])
                tally.labelled += int((chunk.columns["gold"] != UNLABELLED).sum())
            progress.update(chunk.read)
    writer.close()
    if not tally.passages:
        raise ClozeError(
            f"{', '.join(map(str, paths))}: expected passages for the {split} split, "
            f"found none that can be used ({'; '.join(report.lines())})"
        )
    report.columns = writer.describe()
    return report


# -- encoding in worker processes ------------------------------------------------------------------------------------


@dataclass
class _Problem:
    source: str
    text: str
    harmless: bool


@dataclass
class _Chunk:
    """What a worker returns; exceptions stay text so that they cross processes."""

    read: int
    columns: Optional[Columns]
    ids: List[Tuple[str, str]]
    problems: List[_Problem]


class _Encoder:
    """Encode records in order, in this process or in several."""

    def __init__(self, vocabulary: Vocabulary, options: EncodingOptions, workers: int) -> None:
        self._workers = workers
        self._pool: Optional[Executor] = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(
                workers,
                mp_context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(vocabulary.files, vocabulary.origin, options),
            )
        else:
            _worker_state.update(vocabulary=vocabulary, options=options)

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, records: Iterable[Record], needs_answers: bool) -> Iterator[_Chunk]:
        """Encoded chunks in the order of *records*; a bounded number is under way at any time."""
        iterator = iter(records)
        chunks = iter(lambda: list(islice(iterator, _CHUNK)), [])
        if self._pool is None:
            for chunk in chunks:
                yield _encode_chunk(chunk, needs_answers)
            return
        under_way: Deque[Future[_Chunk]] = deque()
        for chunk in chunks:
            under_way.append(self._pool.submit(_encode_chunk, chunk, needs_answers))
            if len(under_way) > 4 * self._workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_worker_state: Dict[str, Any] = {}


def _start_worker(files: Mapping[str, bytes], origin: str, options: EncodingOptions) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_state.update(vocabulary=Vocabulary(files, origin), options=options)


def _encode_chunk(records: Sequence[Record], needs_answers: bool) -> _Chunk:
    passages: List[Passage] = []
    problems: List[_Problem] = []
    for record in records:
        try:
            passage = parse_record(record)
            if needs_answers and UNLABELLED in passage.gold:
                raise PassageError(
                    record.source, "expected answers, as train and valid need them, found none", "answers"
                )
            passages.append(passage)
        except NoBlankError as error:
            problems.append(_Problem(error.source, error.problem, harmless=True))
        except PassageError as error:
            problems.append(_Problem(error.source, error.problem, harmless=False))
    columns = encode_passages(passages, _worker_state["vocabulary"], _worker_state["options"]) if passages else None
    return _Chunk(len(records), columns, [(passage.id, passage.source) for passage in passages], problems)


# -- one folder, complete or absent ----------------------------------------------------------------------------------


class _Partial:
    """The growing data-bin, ``<out>.partial``, under a lock that ends with the process."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(out.name + ".partial")
        self._published = False

    def __enter__(self) -> _Partial:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ClozeError(
                f"{self._out}: another 'prepare' is writing it; wait for it, or choose another --out"
            ) from error
        for left_over in self.folder.iterdir():  # of a run that was killed
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        return self

    def publish(self) -> None:
        """Give the finished folder its name; an old data-bin of that name goes only then."""
        if self._out.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{self._out.name}.replaced.", dir=self._out.parent))
            os.rename(self._out, old)  # onto the empty folder
            try:
                os.rename(self.folder, self._out)
            except OSError:
                os.rename(old, self._out)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(self.folder, self._out)
        self._published = True

    def __exit__(self, *_: object) -> None:
        if not self._published:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
