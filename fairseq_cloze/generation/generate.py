"""Generate: cloze passages from raw prose, which is read twice: to count its words, and to make the passages.

Every choice depends on the counts, the seed and the passage alone, so the output is the same for any number of workers.
"""

import fcntl
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import ClozeError, Exit
from ..files import UNFINISHED, PathLike, cannot_write, check_writable, is_stdout, replacing
from ..processes import BrokenProcessPool, Pool, cores
from .maker import GenerateTally, Maker, count_chunk
from .prose import TEMPORARY, find_texts, read_chunks, spool
from .wordcounts import Counting
from .words import Tagger

_COUNTED = 1 << 28  # bytes of text that are counted, spread evenly, where there are more


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
        lm: checkpoint of a masked LM that drops distractors that fit
        limit: most passages, spread evenly over the text
        tally: filled with counts

    Raises:
        ClozeError: nothing to read, a file that does not fit, a checkpoint that cannot be used, no passage
        SetupError: TextBlob or Lemminflect is not installed
    """
    tally = GenerateTally() if tally is None else tally
    workers = _default_workers(lm) if workers is None else workers
    Tagger()
    with ExitStack() as stack:
        with _temporary():
            folder = stack.enter_context(_temporary_folder())
        with _temporary(folder):
            spooled = [spool(folder) if str(path) == "-" else path for path in paths]
        files = find_texts(spooled)
        if lm is not None:
            from . import judge

            tally.notes += judge.check(lm)
        try:
            counting, excerpts = _count(files, workers, tally)
            with _temporary(folder):
                np.save(folder / "pairs.npy", counting.rows)
            maker = Maker(counting.pools(), folder / "pairs.npy", seed, lm)
            del counting
            chunks = zip(read_chunks(files), _quotas(excerpts, limit))
            with Pool(workers, maker) as pool, _progress("generate", files) as progress:
                for passages, made, size in pool.run(chunks):
                    tally.add(made)
                    yield from passages
                    progress.update(size)
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
    if lm is None:
        return cores()
    import torch

    return 1 if torch.cuda.is_available() else cores()  # each worker would load a model of its own


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for this process, which goes with it; what others left that were killed goes first.

    Its lock tells whether somebody still needs it.  So it gets its name once it is locked.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{TEMPORARY}*"):
        with suppress(OSError):  # it is needed, or no folder
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_uid == os.getuid():
                    shutil.rmtree(left)
            finally:
                os.close(fd)
    made = Path(tempfile.mkdtemp(prefix=UNFINISHED))
    fd = os.open(made, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nobody else can take it for left over either
            fcntl.flock(fd, fcntl.LOCK_EX)
        made = made.rename(place / f"{TEMPORARY}{made.name.removeprefix(UNFINISHED)}")
        yield made
    finally:
        os.close(fd)
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _temporary(folder: Path | None = None) -> Iterator[None]:
    """Errors of the temporary folder are not those of the output."""
    try:
        yield
    except OSError as error:
        where = f"the temporary folder {folder or error.filename or ''}".rstrip()
        raise ClozeError(
            f"{where}: cannot be written ({error.strerror or error}); set TMPDIR to a folder with more room"
        ) from error


def _count(files: Sequence[tuple[Path, str]], workers: int, tally: GenerateTally) -> tuple[Counting, list[int]]:
    """Count the words of the text, and the excerpts of each chunk."""
    size = sum(file.stat().st_size * (1 if file.suffix.lower() == ".txt" else 3) for file, _ in files)
    every = max(-(-size // _COUNTED), 1)
    counting = Counting()
    excerpts: list[int] = []
    chunks = ((chunk, number % every == 0) for number, chunk in enumerate(read_chunks(files)))
    with Pool(workers, count_chunk) as pool, _progress("count", files) as progress:
        for counts, found, read in pool.run(chunks):
            if counts is not None:
                counting.add(counts)
            excerpts.append(found.excerpts)
            tally.add(found)
            progress.update(read)
    return counting, excerpts


def _quotas(excerpts: Sequence[int], limit: int | None) -> list[int]:
    """How many passages each chunk is to make."""
    totals = list(accumulate(excerpts, initial=0))
    most = totals[-1] if limit is None else min(limit, totals[-1])
    return [end * most // totals[-1] - start * most // totals[-1] for start, end in pairwise(totals)] if most else []


def _progress(name: str, files: Sequence[tuple[Path, str]]) -> Any:
    plain = all(file.suffix.lower() not in (".gz", ".xz") for file, _ in files)
    total = sum(file.stat().st_size for file, _ in files) if plain else None
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)
