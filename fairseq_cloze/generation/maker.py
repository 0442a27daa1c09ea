"""Maker: what becomes of a chunk of text: counts, and passages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import PathLike
from ..passages.passage import LETTERS
from .distractors import Distractors
from .prose import Chunk, Cutter, Excerpt
from .slots import WORDS_PER_BLANK, Blank, choose, find_slots, wanted_blanks
from .wordcounts import ChunkCounts, WordCounts, count
from .words import Tagger

OPTIONS = 4

_FEWEST = 0.6  # share of the blanks a passage should have
_MORE = 0.65  # words per blank where a model will drop some


@dataclass
class Counted:
    """Counts of a chunk, how many excerpts it has, its skipped paragraphs by reason, and the bytes read for it."""

    counts: ChunkCounts | None
    excerpts: int
    skipped: Counter[str]
    size: int


@dataclass
class Made:
    """Passages of a chunk, their content blanks, excerpts without a passage by reason, and the bytes read for it."""

    passages: list[dict[str, Any]]
    content: int
    dropped: Counter[str]
    judged: Counter[str]
    size: int


def count_chunk(task: tuple[Chunk, bool]) -> Counted:
    """Cut a chunk, and count its words where the flag beside it says so."""
    chunk, counted = task
    cutter = Cutter()
    excerpts = sum(1 for _ in cutter.cut(chunk))
    texts = (paragraph.text for paragraph in chunk.paragraphs if not paragraph.problem)
    return Counted(count(texts) if counted else None, excerpts, cutter.skipped, chunk.size)


class Maker:
    """Makes passages of excerpts."""

    def __init__(self, pools: dict[str, list[tuple[int, str]]], rows: Path, seed: int, lm: PathLike | None) -> None:
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

    def make(self, chunk: Chunk, quota: int) -> Made:
        """Make *quota* passages of a chunk, evenly; another one takes the place of one that yields none."""
        excerpts = list(Cutter().cut(chunk))
        done: dict[int, dict[str, Any]] = {}
        made = Made([], 0, Counter(), Counter(), chunk.size)
        due = [(2 * number + 1) * len(excerpts) // (2 * quota) for number in range(quota)]
        left = [number for number in range(len(excerpts)) if number not in set(due)]
        while due:
            drafts = [self._draft(excerpts[number]) for number in due]
            for number, blanks in zip(
                due, self._finish([excerpts[number] for number in due], drafts, made.judged), strict=False
            ):
                if blanks is None:
                    made.dropped["with too few blanks"] += 1
                else:
                    done[number] = self._passage(excerpts[number], blanks)
                    made.content += sum(blank.slot.content for blank in blanks)
            due, left = left[: quota - len(done)], left[quota - len(done) :]
        if left:
            made.dropped["beyond --limit"] += len(left)
        made.passages = [done[number] for number in sorted(done)]
        return made

    def _rng(self, excerpt: Excerpt, part: str) -> random.Random:
        return random.Random(f"{self._seed}:{part}:{excerpt.id}")

    def _draft(self, excerpt: Excerpt) -> tuple[list[Blank], int]:
        slots, words, first = find_slots(excerpt.text, self._tagger)
        rng = self._rng(excerpt, "blanks")
        density = WORDS_PER_BLANK * (1.0 if self._judge is None else _MORE)
        blanks = choose(slots, words, first, rng, lambda slot: self._distractors.offer(slot, rng), density)
        return blanks, wanted_blanks(words, first)

    def _finish(
        self, excerpts: Sequence[Excerpt], drafts: Sequence[tuple[list[Blank], int]], judged: Counter[str]
    ) -> Iterator[list[Blank] | None]:
        chosen = [blanks for blanks, _ in drafts]
        if self._judge is not None:
            some = [number for number, blanks in enumerate(chosen) if blanks]
            if some:
                texts = [excerpts[number].text for number in some]
                for number, blanks in zip(
                    some, self._judge.pick(texts, [chosen[number] for number in some], judged), strict=False
                ):
                    chosen[number] = blanks
        for blanks, (_, wanted) in zip(chosen, drafts):
            while len(blanks) > wanted:
                places = [blank.slot.place for blank in blanks]
                room = [places[at + 1] - places[at - 1] for at in range(1, len(places) - 1)]
                del blanks[1 + room.index(min(room))]
            yield blanks if len(blanks) >= max(_FEWEST * wanted, 1) else None

    def _passage(self, excerpt: Excerpt, blanks: Sequence[Blank]) -> dict[str, Any]:
        rng = self._rng(excerpt, "answers")
        article = ""
        at = 0
        options = []
        answers = []
        for blank, answer in zip(blanks, balanced(len(blanks), rng)):
            article += excerpt.text[at : blank.slot.start] + "_"
            at = blank.slot.end
            choices = list(blank.distractors)
            rng.shuffle(choices)
            choices.insert(answer, blank.slot.gold)
            options.append(choices)
            answers.append(LETTERS[answer])
        return {"id": excerpt.id, "article": article + excerpt.text[at:], "options": options, "answers": answers}


def balanced(blanks: int, rng: random.Random) -> list[int]:
    """Places of the right options in no pattern; how often each comes differs by one at most."""
    order = rng.sample(range(OPTIONS), OPTIONS)
    places = [order[number % OPTIONS] for number in range(blanks)]
    rng.shuffle(places)
    return places
