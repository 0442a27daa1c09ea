"""Prepare: passages on disk → a data-bin, each passage encoded once.

Workers encode shards of the input, whose files are meanwhile appended, in order, to the columns of the data-bin.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import ClozeError, UnreadablePassageError, first_line
from ..files import PathLike, cannot_write, check_stdin_once, is_stdin
from ..passages.markers import compile_marker
from ..passages.passage import UNLABELLED
from ..passages.reading import Tally, check_unique_id, find_files, read_passages
from ..passages.text import BLANK, normalise, plain
from ..processes import BrokenProcessPool, Pool, cores
from ..version import __version__
from .databin import FORMAT_VERSION, check_replaceable, files_of, is_split_name, write_manifest
from .encoding import DEFAULT_ENCODING, EncodingOptions
from .partial import Partial
from .shards import EncodedShard, Shard, ShardEncoder, is_sound, plan, stamp
from .store import StoreWriter
from .vocabulary import Vocabulary

#: Splits whose passages must be labelled.
LABELLED_SPLITS = ("train", "valid")

_SKIPPED_SHOWN = 10
_LOST = 0.01  # share of tokens for text that the vocabulary lacks from which there is a warning
_SKIPPED_LISTED = 1000  # skipped passages named in the manifest; all are counted


@dataclass
class SplitReport:
    """What goes into one split: its input, and the counts of what was read."""

    split: str
    paths: Sequence[PathLike]
    files: list[tuple[Path, str]] = field(init=False)
    tally: Tally = field(default_factory=Tally)
    tokens: int = 0
    unknown_tokens: int = 0
    makeshift_tokens: int = 0  #: unknown ones and parts of characters
    language: str = "en"  #: of the text, as was chosen
    languages: Counter[str] = field(default_factory=Counter)  #: as the text looks, of :attr:`looked_at` passages
    looked_at: int = 0
    columns: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = [file for path in self.paths for file in find_files(path, self.tally)]

    @property
    def read(self) -> int:
        """Passages met, those that were skipped included."""
        return self.tally.passages + len(self.tally.skipped)

    def shards(self, folder: Path) -> Iterator[tuple[Shard, Path, bool]]:
        """The tasks of :class:`fairseq_cloze.data.shards.ShardEncoder`, which go to files in *folder*."""
        for number, shard in enumerate(plan(self.files)):
            yield shard, folder / f"{self.split}-{number:06d}.npz", self.split in LABELLED_SPLITS

    def to_dict(self) -> dict[str, Any]:
        """The split's entry in the manifest."""
        skipped = self.tally.skipped
        return {
            "read": self.read,
            "passages": self.tally.passages,
            "blanks": self.tally.blanks,
            "labelled_blanks": self.tally.labelled,
            "tokens": self.tokens,
            "unknown_tokens": self.unknown_tokens,
            "makeshift_tokens": self.makeshift_tokens,
            "skipped": len(skipped),
            "skipped_passages": [{"source": source, "reason": why} for source, why in skipped[:_SKIPPED_LISTED]],
            "ignored_files": len(self.tally.ignored_files),
            "columns": self.columns,
        }

    def lines(self) -> list[str]:
        """Counts for people; skipped passages by name, the first ten of them."""
        skipped = self.tally.skipped
        counts = f"{self.read:,} passages, {self.tally.blanks:,} blanks, {len(skipped):,} skipped"
        if unlabelled := self.tally.blanks - self.tally.labelled:
            counts += f", {unlabelled:,} blanks unlabelled"
        if self.tally.ignored_files:
            counts += f", {len(self.tally.ignored_files):,} files that are neither JSON nor JSONL ignored"
        out = [f"{self.split}: {counts}"]
        out += [f"  skipped {source}: {reason}" for source, reason in skipped[:_SKIPPED_SHOWN]]
        if len(skipped) > _SKIPPED_SHOWN:
            out.append(f"  ... and {len(skipped) - _SKIPPED_SHOWN:,} more, see the manifest")
        if self.unknown_tokens:
            out.append(f"  {self.unknown_tokens:,} of {self.tokens:,} tokens are not in the dictionary (<unk>)")
        if (lost := self.makeshift_tokens) > _LOST * self.tokens:
            out.append(
                f"  warning: {100 * lost / self.tokens:.1f}% of the tokens stand for text that the vocabulary lacks: "
                f"{self.unknown_tokens:,} are unknown and {lost - self.unknown_tokens:,} are parts of characters, of "
                f"{self.tokens:,}; take weights that were trained on such text"
            )
        for language, count in self.languages.most_common(1):
            if language != self.language and 2 * count > self.looked_at:
                out.append(
                    f"  warning: {count:,} of {self.looked_at:,} passages looked at seem to need --language "
                    f"{language}, and were read with --language {self.language}; prepare them again if so"
                )
        return out


def prepare(
    inputs: Mapping[str, Sequence[PathLike]],
    pretrained: PathLike,
    out: PathLike,
    options: EncodingOptions = DEFAULT_ENCODING,
    workers: int | None = None,
    on_error: str = "stop",
    overwrite: bool = False,
    blank: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[SplitReport]:
    """Encode passages into a data-bin, the same, byte for byte, however often the same call had to take it up.

    Args:
        inputs: files or folders per split name
        pretrained: folder with the vocabulary of the weights, see :meth:`Vocabulary.load`
        out: the data-bin to write
        options: text normalisation, capitalisation and language
        workers: processes that encode; default one per core
        on_error: ``stop`` or ``skip`` passages that do not fit
        overwrite: replace an existing data-bin, unless it holds anything that was not written here
        blank: regular expression of what stands for a blank in the passages; runs of underscores by default
        tell: given a line about what an earlier run has left

    Raises:
        ClozeError: input that does not fit, a full disk, *out* exists or holds what would be lost
    """
    out = Path(os.path.realpath(out)) if os.path.islink(out) else Path(out)  # as of files, a link stays one
    if not inputs:
        raise ClozeError("nothing to prepare; give --train, --valid or --test")
    if odd := [name for name in inputs if not is_split_name(name)]:
        raise ClozeError(f"split '{odd[0]}': expected the name of a folder; give it another name")
    if os.path.lexists(out):
        if not overwrite:
            raise ClozeError(f"{out}: already exists; choose another --out, or pass --overwrite to replace it")
        check_replaceable(out)
    given = [path for paths in inputs.values() for path in paths]
    check_stdin_once(given)
    for path in given:
        if Path(path).resolve() in out.resolve().parents:
            raise ClozeError(f"{out}: lies inside {path}, whose passages are read; choose an --out outside it")
    marker = compile_marker(blank)
    vocabulary = Vocabulary.load(pretrained)
    splits = [SplitReport(name, paths, language=options.language) for name, paths in inputs.items()]
    read = [stamp(split.files) for split in splits]
    partial = Partial(out)
    try:
        with partial:
            shards = partial.claim(_digest(splits, read, vocabulary, options, on_error, blank))
            if partial.goes_on:
                tell(_take_up(splits, shards))
            elif not partial.was_empty:
                tell(f"starting over: {partial.folder} was left by another command, other input or another version")
            for name, content in files_of(vocabulary).items():
                (partial.data_bin / name).write_bytes(content)
            with Pool(workers or cores(), ShardEncoder(vocabulary, options, on_error == "stop", marker)) as pool:
                for split in splits:
                    _append(split, pool.run(split.shards(shards)), partial.data_bin / split.split, len(vocabulary))
            if read != [stamp(split.files) for split in splits]:
                raise ClozeError("the input was changed while it was read; nothing was kept, run the command again")
            entries = {split.split: split.to_dict() for split in splits}
            write_manifest(partial.data_bin, vocabulary, options, entries, __version__, blank)
            partial.publish()
    except UnreadablePassageError as error:
        or_skip = ", or pass --on-error skip" if on_error == "stop" else ""
        raise ClozeError(
            f"{error.source}: {error.problem}; what is done stays in {partial.folder}; give the same command again "
            f"when the file can be read{or_skip}"
        ) from error
    except (OSError, BrokenProcessPool) as error:
        if not os.path.isdir(partial.folder):
            raise cannot_write(out, first_line(error)) from error
        problem = "a worker was killed, maybe for want of memory"
        what_to_do = "give the same command again, with fewer --workers if memory is short"
        if isinstance(error, OSError):
            problem = f"cannot be written ({error.strerror or error})"
            what_to_do = "free some space and give the same command again, or remove that folder"
        raise ClozeError(f"{out}: {problem}; what is done stays in {partial.folder}; {what_to_do}") from error
    return splits


def passage_texts(
    paths: Sequence[PathLike],
    on_error: str = "stop",
    tally: Tally | None = None,
    language: str = "en",
    blank: str | None = None,
) -> Iterator[str]:
    """Texts of passages, gold candidates filled in where they are known, for learning a vocabulary."""
    for passage in read_passages(paths, on_error, tally, compile_marker(blank)):
        segments = [plain(part) for part in BLANK.split(normalise(passage.article, language=language))]
        fills = [choices[gold] if gold != UNLABELLED else "" for choices, gold in zip(passage.candidates, passage.gold)]
        yield "".join([*(segment + fill for segment, fill in zip(segments, fills)), segments[-1]])


def _digest(
    splits: Sequence[SplitReport],
    read: Sequence[str],
    vocabulary: Vocabulary,
    options: EncodingOptions,
    on_error: str,
    blank: str | None,
) -> str:
    """A digest of all that decides what the shards hold; another one each time for input that is gone once read."""
    again = all(file.is_file() and not is_stdin(file) for split in splits for file, _ in split.files)
    parts = [
        *(FORMAT_VERSION, __version__, *vocabulary.digests.values()),
        *(options.to_dict(), on_error, blank, [(split.split, stamped) for split, stamped in zip(splits, read)]),
        "" if again else os.urandom(16).hex(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _take_up(splits: Sequence[SplitReport], folder: Path) -> str:
    """Remove damaged shards, and say what there is to take up."""
    targets = [target for split in splits for _, target, _ in split.shards(folder)]
    sound = {target for target in targets if is_sound(target)}
    for path in set(folder.iterdir()) - sound:
        path.unlink()
    return f"resuming: {len(sound):,} of {len(targets):,} shards were done"


def _append(split: SplitReport, encoded: Iterator[Path], folder: Path, rows: int) -> None:
    """Write and count the shards of a split as they are encoded."""
    folder.mkdir()
    writer = StoreWriter(folder, rows)
    tally = split.tally
    digests = [np.empty(0, np.uint64)]
    done: list[Path] = []
    with tqdm(desc=f"prepare {split.split}", unit=" passages", disable=None) as progress:
        for path in encoded:
            done.append(path)
            shard = EncodedShard(path)
            digests.append(shard.id_digests)
            writer.append(shard.columns)
            split.tokens += len(shard.columns["tokens"])
            split.unknown_tokens += shard.unknown_tokens
            split.makeshift_tokens += shard.makeshift_tokens
            split.languages.update(shard.languages)
            split.looked_at += shard.looked_at
            tally.skipped += shard.problems
            tally.numbering.add(shard.numbering)
            tally.passages += len(shard.columns["token_count"])
            tally.blanks += len(shard.columns["gold"])
            tally.labelled += shard.labelled
            progress.update(len(shard.id_digests) + len(shard.problems))
    writer.close()
    values, times = np.unique(np.concatenate(digests), return_counts=True)
    if len(values) < times.sum():
        _check_unique_ids(done, set(values[times > 1].tolist()))
    if numbering := tally.numbering.problem():
        raise ClozeError(numbering)
    if not tally.passages:
        raise ClozeError(
            f"{', '.join(map(str, split.paths))}: expected passages for the {split.split} split, "
            f"found none that can be used ({'; '.join(split.lines())})"
        )
    split.columns = writer.describe()


def _check_unique_ids(paths: Sequence[Path], digests: set[int]) -> None:
    """Compare the ids that have one of *digests*; those of different ids can be equal, too."""
    seen: dict[str, str] = {}
    for shard in map(EncodedShard, paths):
        for (passage_id, source), digest in zip(shard.ids(), shard.id_digests.tolist()):
            if digest in digests:
                check_unique_id(passage_id, source, seen)
