"""Prepare: passages on disk → a data-bin, each passage encoded once.

The input is cut into shards, which workers read, check and encode.  Meanwhile their files are appended, in order, to
the columns of the data-bin, which appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import ClozeError
from ..files import PathLike
from ..passages.passage import UNLABELLED
from ..passages.reading import Tally, check_unique_id, find_files, read_passages
from ..passages.text import BLANK, normalise
from ..processes import BrokenProcessPool, Pool, cores
from ..version import __version__
from .databin import FORMAT_VERSION, check_replaceable, write_manifest
from .encoding import DEFAULT_ENCODING, EncodingOptions
from .partial import Partial
from .shards import EncodedShard, IdDigests, Shard, ShardEncoder, Work, can_be_read_again, is_sound, plan, stamp
from .store import StoreWriter
from .vocabulary import Vocabulary

#: Splits whose passages must be labelled.
LABELLED_SPLITS = ("train", "valid")

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
    columns: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
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

    def lines(self) -> list[str]:
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


@dataclass
class _Split:
    """A split to be prepared."""

    name: str
    paths: Sequence[PathLike]
    files: list[tuple[Path, str]]
    tally: Tally

    def shards(self, folder: Path) -> Iterator[tuple[Shard, Path]]:
        """The shards and where each is encoded to."""
        return ((shard, folder / f"{self.name}-{number:06d}.npz") for number, shard in enumerate(plan(self.files)))

    def tasks(self, folder: Path, work: Work) -> Iterator[tuple[Shard, Path, Work]]:
        """What :class:`fairseq_cloze.data.shards.ShardEncoder` takes."""
        return ((shard, target, work) for shard, target in self.shards(folder))


def prepare(
    inputs: Mapping[str, Sequence[PathLike]],
    pretrained: PathLike,
    out: PathLike,
    options: EncodingOptions = DEFAULT_ENCODING,
    workers: int | None = None,
    on_error: str = "stop",
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[SplitReport]:
    """Encode passages into a data-bin.

    A run that was cut off is taken up by the same call; the data-bin is the same, byte for byte, however often that
    happened and however many workers there were.

    Args:
        inputs: files or folders per split name
        pretrained: folder with the vocabulary of the weights
        out: the data-bin to write
        options: text normalisation and capitalisation
        workers: processes that encode; default one per core
        on_error: ``stop`` or ``skip`` passages that do not fit
        overwrite: replace an existing data-bin, unless it holds anything that was not written here
        tell: given a line about what an earlier run has left

    Returns:
        a report per split, in the order of *inputs*

    Raises:
        ClozeError: input that does not fit, a full disk, *out* exists or holds what would be lost; nothing new is left
            under *out*'s name
    """
    out = Path(out)
    if not inputs:
        raise ClozeError("nothing to prepare; give --train, --valid or --test")
    if out.exists() and not overwrite:
        raise ClozeError(f"{out}: already exists; choose another --out, or pass --overwrite to replace it")
    if out.exists():
        check_replaceable(out)
    for path in (path for paths in inputs.values() for path in paths):
        if Path(path).resolve() in out.resolve().parents:
            raise ClozeError(f"{out}: lies inside {path}, whose passages are read; choose an --out outside it")
    vocabulary = Vocabulary.load(pretrained)
    partial = Partial(out)
    try:
        with partial:
            splits = [_find(name, paths) for name, paths in inputs.items()]
            read = [stamp(split.files) for split in splits]
            shards = partial.claim(_digest(splits, read, vocabulary, options, on_error))
            if partial.goes_on:
                tell(_take_up(splits, shards))
            elif not partial.was_empty:
                tell(f"starting over: {partial.folder} was left by another command, other input or another version")
            for name, content in vocabulary.files.items():
                (partial.data_bin / name).write_bytes(content)
            with Pool(workers or cores(), ShardEncoder(vocabulary)) as pool:
                reports = [
                    _prepare_split(
                        split,
                        pool.run(split.tasks(shards, Work(options, split.name in LABELLED_SPLITS, on_error == "stop"))),
                        partial.data_bin / split.name,
                        len(vocabulary),
                    )
                    for split in splits
                ]
            if read != [stamp(split.files) for split in splits]:
                raise ClozeError("the input was changed while it was read; nothing was kept, run the command again")
            entries = {report.split: report.to_dict() for report in reports}
            write_manifest(partial.data_bin, vocabulary, options, entries, __version__)
            partial.publish()
    except OSError as error:
        raise ClozeError(
            f"{out}: cannot be written ({error.strerror or error}); what is done stays in {partial.folder}; "
            "free some space and give the same command again, or remove that folder"
        ) from error
    except BrokenProcessPool as error:
        raise ClozeError(
            f"{out}: a worker was killed, maybe for want of memory; what is done stays in {partial.folder}; "
            "give the same command again, with fewer --workers if memory is short"
        ) from error
    return reports


def passage_texts(
    paths: Sequence[PathLike], norm: str = "standard", on_error: str = "stop", tally: Tally | None = None
) -> Iterator[str]:
    """Texts of passages, gold candidates filled in where they are known, for learning a vocabulary.

    The arguments other than *norm* are those of :func:`fairseq_cloze.passages.reading.read_passages`.
    """
    for passage in read_passages(paths, on_error, tally):
        segments = BLANK.split(normalise(passage.article, norm))
        fills = [choices[gold] if gold != UNLABELLED else "" for choices, gold in zip(passage.candidates, passage.gold)]
        yield "".join([*(segment + fill for segment, fill in zip(segments, fills)), segments[-1]])


def _find(name: str, paths: Sequence[PathLike]) -> _Split:
    tally = Tally()
    return _Split(name, paths, [file for path in paths for file in find_files(path, tally)], tally)


def _digest(
    splits: Sequence[_Split], read: Sequence[str], vocabulary: Vocabulary, options: EncodingOptions, on_error: str
) -> str:
    """A digest of all that decides what the shards hold; another one each time for input that is gone once read."""
    again = all(can_be_read_again(split.files) for split in splits)
    parts = [
        *(FORMAT_VERSION, __version__, vocabulary.dictionary_digest, vocabulary.bpe_digest),
        *(options.to_dict(), on_error, [(split.name, stamped) for split, stamped in zip(splits, read)]),
        os.urandom(16).hex() if not again else "",
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _take_up(splits: Sequence[_Split], folder: Path) -> str:
    """Remove damaged shards, and say what there is to take up."""
    done = total = 0
    left = {path.name for path in folder.iterdir()}
    for split in splits:
        for _, path in split.shards(folder):
            total += 1
            if path.name in left and is_sound(path):
                done += 1
                left.remove(path.name)
    for name in left:
        (folder / name).unlink()
    return f"resuming: {done:,} of {total:,} shards were done"


def _prepare_split(split: _Split, encoded: Iterator[Path], folder: Path, rows: int) -> SplitReport:
    folder.mkdir()
    writer = StoreWriter(folder, rows)
    tally = split.tally
    report = SplitReport(split.name, tally)
    digests = IdDigests()
    done: list[Path] = []
    with tqdm(desc=f"prepare {split.name}", unit=" passages", disable=None) as progress:
        for path in encoded:
            done.append(path)
            shard = EncodedShard(path)
            tally.skipped += shard.problems
            repeated = digests.add(shard.id_digests)
            if len(repeated):
                _check_unique_ids(done, set(repeated.tolist()))
            columns = shard.columns()
            writer.append(columns)
            report.read += shard.read
            report.tokens += len(columns["tokens"])
            report.unknown_tokens += shard.unknown_tokens
            tally.passages += len(columns["token_count"])
            tally.blanks += len(columns["gold"])
            tally.labelled += shard.labelled
            progress.update(shard.read)
    writer.close()
    if not tally.passages:
        raise ClozeError(
            f"{', '.join(map(str, split.paths))}: expected passages for the {split.name} split, "
            f"found none that can be used ({'; '.join(report.lines())})"
        )
    report.columns = writer.describe()
    return report


def _check_unique_ids(paths: Sequence[Path], digests: set[int]) -> None:
    """Compare the ids that have one of *digests*; those of different ids can be equal, too."""
    seen: dict[str, str] = {}
    for path in paths:
        shard = EncodedShard(path)
        if digests.isdisjoint(shard.id_digests.tolist()):
            continue
        for (passage_id, source), digest in zip(shard.ids(), shard.id_digests.tolist()):
            if digest in digests:
                check_unique_id(passage_id, source, seen)
