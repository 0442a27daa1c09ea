"""Generate: cloze passages from raw prose.

The text is read twice: to count its words, and to make the passages.  Both times it goes through workers in chunks, in
order, and every choice depends on the seed and the passage alone; so the output is the same whatever their number.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import tempfile
from collections import Counter, deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from .blanks import WORDS_PER_BLANK, Blank, choose, find_slots
from .distractors import Distractors
from .errors import ClozeError
from .files import PathLike, cannot_write, check_writable, replacing
from .passages import LETTERS
from .prose import Chunk, Cutter, Piece, find_texts, read_chunks, spool
from .wordcounts import ChunkCounts, Counting, WordCounts, count
from .words import Tagger

OPTIONS = 4

_COUNTED = 1 << 28  # bytes of text that are counted, spread evenly, where there are more
_FEWEST = 0.6  # share of the blanks a passage should have
_MORE = 0.75  # words per blank where a model will drop some


@dataclass
class GenerateTally:
    """What was made, and what was not.

    Attributes:
        passages, blanks, content: made; content are the blanks that ask for a content word
        pieces: texts of a passage's length that were found
        paragraphs: skipped, by reason
        dropped: pieces that became no passage, by reason
        judged: counts of :meth:`fairseq_cloze.judge.Judge.pick`
        notes: what the user should know of the checkpoint
    """

    passages: int = 0
    blanks: int = 0
    content: int = 0
    pieces: int = 0
    paragraphs: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    notes: List[str] = field(default_factory=list)

    def lines(self) -> List[str]:
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
            f"skipped {self.pieces - self.passages:,} of {self.pieces:,} texts{_reasons(self.dropped)}; "
            f"{sum(self.paragraphs.values()):,} paragraphs{_reasons(self.paragraphs)}"
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
    workers: Optional[int] = None,
    lm: Optional[PathLike] = None,
    limit: Optional[int] = None,
) -> GenerateTally:
    """Write passages made from raw prose, whole or not at all.

    Args:
        out: a .jsonl or .jsonl.gz file, replaced where it exists
        paths, seed, workers, lm, limit: as for :func:`generate_passages`

    Raises:
        ClozeError: as :func:`generate_passages`; *out* cannot be written, or the run was interrupted
    """
    out = Path(out)
    if not out.name.lower().endswith((".jsonl", ".jsonl.gz")):
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
        stopped.exit_code = 130
        raise stopped from None
    return tally


def generate_passages(
    paths: Sequence[PathLike],
    seed: int = 1,
    workers: Optional[int] = None,
    lm: Optional[PathLike] = None,
    limit: Optional[int] = None,
    tally: Optional[GenerateTally] = None,
) -> Iterator[Dict[str, Any]]:
    """Yield passages made from raw prose, in the order of the text.

    Args:
        paths: text files, folders of them, or ``-`` for standard input
        seed: another one makes other blanks
        workers: processes; default one per core
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
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    Tagger()
    with tempfile.TemporaryDirectory(prefix="fairseq-cloze-generate.") as name:
        folder = Path(name)
        paths = [spool(folder) if str(path) == "-" else path for path in paths]
        files = find_texts(paths)
        if lm is not None:
            from . import judge

            tally.notes += judge.check(lm)
        rows = folder / "pairs.npy"
        pools, pieces = _count(files, workers, rows, tally)
        tally.pieces = sum(pieces)
        if tally.pieces:
            yield from _make(files, workers, (pools, rows, seed, lm), _quotas(pieces, limit), tally)
    if not tally.passages:
        raise ClozeError(
            f"{', '.join(map(str, paths))}: expected English prose, found nothing to make passages of "
            f"({'; '.join(tally.lines())}); paragraphs are lines, or stand between blank lines"
        )


def _count(
    files: Sequence[Tuple[Path, str]], workers: int, rows: Path, tally: GenerateTally
) -> Tuple[Dict[str, List[Tuple[int, str]]], List[int]]:
    """Count the words of the text into *rows* and pools, and the pieces of each chunk."""
    size = sum(file.stat().st_size * (1 if file.suffix.lower() == ".txt" else 3) for file, _ in files)
    every = -(-size // _COUNTED)
    counting = Counting()
    pieces: List[int] = []
    chunks = ((chunk, number % max(every, 1) == 0) for number, chunk in enumerate(read_chunks(files)))
    with _Workers(workers, None) as pool, _progress("count", files) as progress:
        for found in pool.run(_count_chunk, chunks):
            if found.counts is not None:
                counting.add(found.counts)
            pieces.append(found.pieces)
            tally.paragraphs.update(found.skipped)
            progress.update(found.size)
    np.save(rows, counting.rows)
    return counting.pools(), pieces


def _make(
    files: Sequence[Tuple[Path, str]], workers: int, state: Tuple[Any, ...], quotas: Sequence[int], tally: GenerateTally
) -> Iterator[Dict[str, Any]]:
    chunks = ((chunk, quota) for chunk, quota in zip(read_chunks(files), quotas))
    with _Workers(workers, state) as pool, _progress("generate", files) as progress:
        for made in pool.run(_make_chunk, chunks):
            for passage in made.passages:
                tally.passages += 1
                tally.blanks += len(passage["answers"])
                yield passage
            tally.content += made.content
            tally.dropped.update(made.dropped)
            tally.judged.update(made.judged)
            progress.update(made.size)


def _quotas(pieces: Sequence[int], limit: Optional[int]) -> List[int]:
    """How many passages each chunk is to make."""
    total = sum(pieces)
    if limit is None or limit >= total:
        return list(pieces)
    quotas = []
    before = 0
    for number in pieces:
        quotas.append((before + number) * limit // total - before * limit // total)
        before += number
    return quotas


def _progress(name: str, files: Sequence[Tuple[Path, str]]) -> Any:
    plain = all(file.suffix.lower() not in (".gz", ".xz") for file, _ in files)
    total = sum(file.stat().st_size for file, _ in files) if plain else None
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)


# -- chunks, in worker processes -------------------------------------------------------------------------------------


@dataclass
class _Counted:
    counts: Optional[ChunkCounts]
    pieces: int
    skipped: Counter[str]
    size: int


@dataclass
class _Made:
    passages: List[Dict[str, Any]]
    content: int
    dropped: Counter[str]
    judged: Counter[str]
    size: int


def _count_chunk(task: Tuple[Chunk, bool]) -> _Counted:
    chunk, counted = task
    cutter = Cutter()
    pieces = sum(1 for _ in cutter.cut(chunk))
    texts = (paragraph.text for paragraph in chunk.paragraphs if not paragraph.problem)
    return _Counted(count(texts) if counted else None, pieces, cutter.skipped, chunk.size)


class _Maker:
    """Makes passages of pieces."""

    def __init__(self, pools: Dict[str, List[Tuple[int, str]]], rows: Path, seed: int, lm: Optional[PathLike]) -> None:
        self._tagger = Tagger()
        self._seed = seed
        self._judge = None
        counts = WordCounts(pools, rows)
        if lm is None:
            self._distractors = Distractors(counts)
        else:
            from .judge import PROPOSED, Judge

            self._judge = Judge(lm)
            self._distractors = Distractors(counts, most=PROPOSED, evidence=False)

    def make(self, chunk: Chunk, quota: int) -> _Made:
        """Make *quota* passages of a chunk, evenly; another piece takes the place of one that yields none."""
        pieces = list(Cutter().cut(chunk))
        done: Dict[int, Dict[str, Any]] = {}
        made = _Made([], 0, Counter(), Counter(), chunk.size)
        due = [(2 * number + 1) * len(pieces) // (2 * quota) for number in range(quota)]
        left = [number for number in range(len(pieces)) if number not in set(due)]
        while due:
            drafts = [self._draft(pieces[number]) for number in due]
            for number, blanks in zip(due, self._finish([pieces[number] for number in due], drafts, made.judged)):
                if blanks is None:
                    made.dropped["with too few blanks"] += 1
                else:
                    done[number] = self._passage(pieces[number], blanks)
                    made.content += sum(blank.slot.content for blank in blanks)
            due, left = left[: quota - len(done)], left[quota - len(done) :]
        if left:
            made.dropped["beyond --limit"] += len(left)
        made.passages = [done[number] for number in sorted(done)]
        return made

    def _rng(self, piece: Piece, part: str) -> random.Random:
        return random.Random(f"{self._seed}:{part}:{piece.id}")

    def _draft(self, piece: Piece) -> Tuple[List[Blank], int]:
        slots, words, first = find_slots(piece.text, self._tagger)
        rng = self._rng(piece, "blanks")
        density = WORDS_PER_BLANK * (1.0 if self._judge is None else _MORE)
        blanks = choose(slots, words, first, rng, lambda slot: self._distractors.offer(slot, rng), density)
        return blanks, max(round(words / WORDS_PER_BLANK), 1)

    def _finish(
        self, pieces: Sequence[Piece], drafts: Sequence[Tuple[List[Blank], int]], judged: Counter[str]
    ) -> Iterator[Optional[List[Blank]]]:
        chosen = [blanks for blanks, _ in drafts]
        if self._judge is not None:
            some = [number for number, blanks in enumerate(chosen) if blanks]
            if some:
                texts = [pieces[number].text for number in some]
                for number, blanks in zip(some, self._judge.pick(texts, [chosen[number] for number in some], judged)):
                    chosen[number] = blanks
        for blanks, (_, wanted) in zip(chosen, drafts):
            while len(blanks) > wanted:
                places = [blank.slot.place for blank in blanks]
                room = [places[at + 1] - places[at - 1] for at in range(1, len(places) - 1)]
                del blanks[1 + room.index(min(room))]
            yield blanks if len(blanks) >= max(_FEWEST * wanted, 1) else None

    def _passage(self, piece: Piece, blanks: Sequence[Blank]) -> Dict[str, Any]:
        rng = self._rng(piece, "answers")
        article = ""
        at = 0
        options = []
        answers = []
        for blank, answer in zip(blanks, balanced(len(blanks), rng)):
            article += piece.text[at : blank.slot.start] + "_"
            at = blank.slot.end
            choices = list(blank.distractors)
            rng.shuffle(choices)
            choices.insert(answer, blank.slot.gold)
            options.append(choices)
            answers.append(LETTERS[answer])
        return {"id": piece.id, "article": article + piece.text[at:], "options": options, "answers": answers}


def balanced(blanks: int, rng: random.Random) -> List[int]:
    """Places of the right options in no pattern; how often each comes differs by one at most."""
    order = rng.sample(range(OPTIONS), OPTIONS)
    places = [order[number % OPTIONS] for number in range(blanks)]
    rng.shuffle(places)
    return places


_state: Dict[str, _Maker] = {}


def _start_worker(state: Optional[Tuple[Any, ...]]) -> None:
    if state is not None:
        _state["arguments"] = state  # type: ignore[assignment]
        _state.pop("maker", None)


def _start_process(state: Optional[Tuple[Any, ...]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _start_worker(state)


def _make_chunk(task: Tuple[Chunk, int]) -> _Made:
    if "maker" not in _state:  # here, so that its errors reach the parent
        _state["maker"] = _Maker(*_state["arguments"])  # type: ignore[misc]
    return _state["maker"].make(*task)


class _Workers:
    """Runs a function over tasks in order, in this process or in several."""

    def __init__(self, workers: int, state: Optional[Tuple[Any, ...]]) -> None:
        self._workers = workers
        self._pool: Optional[Executor] = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=_start_process, initargs=(state,)
            )
        else:
            _start_worker(state)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        _state.clear()

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of *tasks*; a bounded number is under way at any time."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        under_way: Deque[Future[Any]] = deque()
        for task in tasks:
            under_way.append(self._pool.submit(function, task))
            if len(under_way) > 2 * self._workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
