"""Generate: cloze passages from raw prose.

The text is read twice: to count its words, and to make the passages.  Both times it goes through workers in chunks, in
order, and every choice depends on the seed and the passage alone; so the output is the same whatever their number.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import ClozeError, Exit
from ..files import PathLike, cannot_write, check_writable, is_stdout, replacing
from ..processes import BrokenProcessPool, Pool, cores
from .maker import OPTIONS, Made, Maker, count_chunk
from .prose import TEMPORARY, Chunk, find_texts, read_chunks, spool
from .wordcounts import Counting
from .words import Tagger

_COUNTED = 1 << 28  # bytes of text that are counted, spread evenly, where there are more


@dataclass
class GenerateTally:
    """What was made, and what was not.

    Attributes:
        passages, blanks, content: made; content are the blanks that ask for a content word
        excerpts: texts of a passage's length that were found
        paragraphs: skipped, whole or in part, by reason
        dropped: excerpts that became no passage, by reason
        judged: counts of :meth:`fairseq_cloze.generation.judge.Judge.pick`
        notes: what the user should know of the checkpoint
    """

    passages: int = 0
    blanks: int = 0
    content: int = 0
    excerpts: int = 0
    paragraphs: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Every count, for people."""
        share = 100.0 * self.content / max(self.blanks, 1)
        out = [
            *self.notes,
            f"{self.passages:,} passages, {self.blanks:,} blanks "
            f"({share:.1f}% content words, {100.0 - share if self.blanks else 0.0:.1f}% function words)",
        ]
        if self.judged:
            out.append(
                f"the model dropped {self.judged['fitting']:,} of {self.judged['proposed']:,} proposed distractors "
                f"that fit too well, and {self.judged['given up']:,} blanks where fewer than {OPTIONS - 1} were left"
            )
        out.append(
            f"skipped {self.excerpts - self.passages:,} of {self.excerpts:,} texts{_reasons(self.dropped)}; "
            f"{sum(self.paragraphs.values()):,} paragraphs or parts of them{_reasons(self.paragraphs)}"
        )
        return out


def _reasons(counts: Counter[str]) -> str:
    named = sorted(
        ((times, reason) for reason, times in counts.items() if times), key=lambda entry: (-entry[0], entry[1])
    )
    return f" ({', '.join(f'{times:,} {reason}' for times, reason in named)})" if named else ""


def generate(
    paths: Sequence[PathLike],
    out: PathLike,
    seed: int = 1,
    workers: int | None = None,
    lm: PathLike | None = None,
    limit: int | None = None,
) -> GenerateTally:
    """Write passages made from raw prose, whole or not at all.

    Args:
        out: a .jsonl or .jsonl.gz file, replaced where it exists; ``-`` for standard output
        paths, seed, workers, lm, limit: as for :func:`generate_passages`

    Raises:
        ClozeError: as :func:`generate_passages`; *out* cannot be written, or the run was interrupted
    """
    out = Path(out)
    if not is_stdout(out) and not out.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise ClozeError(f"{out}: expected a name that ends in .jsonl or .jsonl.gz, found '{out.name}'; rename --out")
    check_writable(out)
    tally = GenerateTally()
    try:
        with replacing(out) as temporary, ExitStack() as stack:
            target: Any = stack.enter_context(open(temporary, "wb"))
            if out.name.lower().endswith(".gz"):
                target = stack.enter_context(gzip.GzipFile("", "wb", 6, target, mtime=0))
            for passage in generate_passages(paths, seed, workers, lm, limit, tally):
                target.write(json.dumps(passage, ensure_ascii=False).encode("utf-8") + b"\n")
            stack.close()
    except OSError as error:
        raise cannot_write(out, error.strerror or str(error)) from error
    except KeyboardInterrupt:
        stopped = ClozeError(f"{out}: interrupted, nothing was kept; the same command makes the same passages again")
        stopped.exit_code = Exit.INTERRUPTED
        raise stopped from None
    return tally


def generate_passages(
    paths: Sequence[PathLike],
    seed: int = 1,
    workers: int | None = None,
    lm: PathLike | None = None,
    limit: int | None = None,
    tally: GenerateTally | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield passages made from raw prose, in the order of the text.

    Args:
        paths: text files, folders of them, or ``-`` for standard input
        seed: another one makes other blanks
        workers: processes; default one per core, but one where a model runs on a GPU
        lm: checkpoint of a RoBERTa that drops distractors that fit
        limit: most passages, spread evenly over the text
        tally: filled with counts

    Yields:
        the fields of a passage: ``id``, ``article``, ``options``, ``answers``

    Raises:
        ClozeError: nothing to read, a file that does not fit, a checkpoint that cannot be used, no passage
        SetupError: TextBlob or Lemminflect is not installed
    """
    tally = GenerateTally() if tally is None else tally
    workers = _default_workers(lm) if workers is None else workers
    Tagger()
    with ExitStack() as stack:
        with _temporary(tempfile.gettempdir):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=TEMPORARY)))
        with _temporary(lambda: folder):
            spooled = [spool(folder) if str(path) == "-" else path for path in paths]
        files = find_texts(spooled)
        if lm is not None:
            from . import judge

            tally.notes += judge.check(lm)
        rows = folder / "pairs.npy"
        try:
            pools, excerpts = _count(files, workers, rows, tally)
            tally.excerpts = sum(excerpts)
            if tally.excerpts:
                yield from _make(files, workers, (pools, rows, seed, lm), _quotas(excerpts, limit), tally)
        except BrokenProcessPool as error:
            raise ClozeError(
                "generate: a worker process died (out of memory, or a script without if __name__ == '__main__':); "
                "use fewer --workers"
            ) from error
    if not tally.passages:
        named = ["standard input" if str(path) == "-" else str(path) for path in paths]
        raise ClozeError(
            f"{', '.join(named)}: expected English prose, found nothing to make passages of "
            f"({'; '.join(tally.lines())}); paragraphs are lines, or stand between blank lines"
        )


def _default_workers(lm: PathLike | None) -> int:
    if lm is not None:
        import torch

        if torch.cuda.is_available():
            return 1  # each worker would load a model of its own
    return cores()


@contextmanager
def _temporary(folder: Callable[[], Any]) -> Iterator[None]:
    """Errors of the temporary folder are not those of the output."""
    try:
        yield
    except OSError as error:
        try:
            where = f"the temporary folder {folder()}"
        except OSError:
            where = "the temporary folder"
        raise ClozeError(
            f"{where}: cannot be written ({error.strerror or error}); set TMPDIR to a folder with more room"
        ) from error


def _count(
    files: Sequence[tuple[Path, str]], workers: int, rows: Path, tally: GenerateTally
) -> tuple[dict[str, list[tuple[int, str]]], list[int]]:
    """Count the words of the text into *rows* and pools, and the excerpts of each chunk."""
    size = sum(file.stat().st_size * (1 if file.suffix.lower() == ".txt" else 3) for file, _ in files)
    every = -(-size // _COUNTED)
    counting = Counting()
    excerpts: list[int] = []
    chunks = ((chunk, number % max(every, 1) == 0) for number, chunk in enumerate(read_chunks(files)))
    with Pool(workers, count_chunk) as pool, _progress("count", files) as progress:
        for found in pool.run(chunks):
            if found.counts is not None:
                counting.add(found.counts)
            excerpts.append(found.excerpts)
            tally.paragraphs.update(found.skipped)
            progress.update(found.size)
    with _temporary(lambda: rows.parent):
        np.save(rows, counting.rows)
    return counting.pools(), excerpts


def _make(
    files: Sequence[tuple[Path, str]], workers: int, state: tuple[Any, ...], quotas: Sequence[int], tally: GenerateTally
) -> Iterator[dict[str, Any]]:
    chunks = ((chunk, quota) for chunk, quota in zip(read_chunks(files), quotas))
    with Pool(workers, _ChunkMaker(state)) as pool, _progress("generate", files) as progress:
        for made in pool.run(chunks):
            for passage in made.passages:
                tally.passages += 1
                tally.blanks += len(passage["answers"])
                yield passage
            tally.content += made.content
            tally.dropped.update(made.dropped)
            tally.judged.update(made.judged)
            progress.update(made.size)


class _ChunkMaker:
    """Makes passages of chunks; its :class:`Maker` is made by the process that has to, at its first chunk."""

    def __init__(self, state: tuple[Any, ...]) -> None:
        self._state = state
        self._maker: Maker | None = None

    def __call__(self, task: tuple[Chunk, int]) -> Made:
        if self._maker is None:
            self._maker = Maker(*self._state)
        return self._maker.make(*task)


def _quotas(excerpts: Sequence[int], limit: int | None) -> list[int]:
    """How many passages each chunk is to make."""
    total = sum(excerpts)
    if limit is None or limit >= total:
        return list(excerpts)
    quotas = []
    before = 0
    for number in excerpts:
        quotas.append((before + number) * limit // total - before * limit // total)
        before += number
    return quotas


def _progress(name: str, files: Sequence[tuple[Path, str]]) -> Any:
    plain = all(file.suffix.lower() not in (".gz", ".xz") for file, _ in files)
    total = sum(file.stat().st_size for file, _ in files) if plain else None
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)
