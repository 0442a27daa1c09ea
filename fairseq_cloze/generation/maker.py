"""Maker: what becomes of a chunk of text: counts, and passages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import PathLike
from ..passages.passage import LETTERS
from .distractors import NEEDED, Distractors
from .prose import Chunk, Cutter, Excerpt
from .slots import WORDS_PER_BLANK, Blank, choose, find_slots, wanted_blanks, with_gaps
from .wordcounts import ChunkCounts, WordCounts, count
from .words import Tagger

OPTIONS = NEEDED + 1

_FEWEST = 0.6  # share of the blanks a passage should have
_MORE = 0.65  # words per blank where a model will drop some


@dataclass
class GenerateTally:
    """What was made, and what was not."""

    passages: int = 0
    blanks: int = 0
    content: int = 0  #: blanks that ask for a content word
    excerpts: int = 0  #: texts of a passage's length that were found
    paragraphs: Counter[str] = field(default_factory=Counter)  #: skipped, whole or in part, by reason
    dropped: Counter[str] = field(default_factory=Counter)  #: excerpts that became no passage, by reason
    judged: Counter[str] = field(default_factory=Counter)  #: what the judge counted
    notes: list[str] = field(default_factory=list)  #: what the user should know of the checkpoint

    def add(self, other: GenerateTally) -> None:
        """Add the counts of a chunk."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

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
                f"that fit too well, and {self.judged['given up']:,} blanks where fewer than {NEEDED} were left"
            )
        out.append(
            f"skipped {self.excerpts - self.passages:,} of {self.excerpts:,} texts{_reasons(self.dropped)}; "
            f"{self.paragraphs.total():,} paragraphs or parts of them{_reasons(self.paragraphs)}"
        )
        return out


def _reasons(counts: Counter[str]) -> str:
    named = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return f" ({', '.join(f'{times:,} {reason}' for reason, times in named)})" if named else ""


def count_chunk(task: tuple[Chunk, bool]) -> tuple[ChunkCounts | None, GenerateTally, int]:
    """Cut a chunk, and count its words where the flag beside it says so; last the bytes read for it."""
    chunk, counted = task
    cutter = Cutter()
    excerpts = sum(1 for _ in cutter.cut(chunk))
    texts = (paragraph.text for paragraph in chunk.paragraphs if not paragraph.problem)
    tally = GenerateTally(excerpts=excerpts, paragraphs=cutter.skipped)
    return count(texts) if counted else None, tally, chunk.size


class Maker:
    """Makes passages of chunks.  What that takes is loaded by the process that has to, at its first chunk."""

    def __init__(self, pools: dict[str, list[tuple[int, str]]], rows: Path, seed: int, lm: PathLike | None) -> None:
        self._counted = (pools, rows)
        self._seed = seed
        self._lm = lm

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger()

    @cached_property
    def _distractors(self) -> Distractors:
        return Distractors(WordCounts(*self._counted), evidence=self._lm is None)

    @cached_property
    def _judge(self) -> Any:
        if self._lm is None:
            return None
        from .judge import Judge

        return Judge(self._lm)

    def __call__(self, task: tuple[Chunk, int]) -> tuple[list[dict[str, Any]], GenerateTally, int]:
        """Make so many passages of a chunk, evenly; another excerpt takes the place of one that yields none."""
        chunk, quota = task
        excerpts = list(Cutter().cut(chunk))
        done: dict[int, dict[str, Any]] = {}
        tally = GenerateTally()
        due = [(2 * number + 1) * len(excerpts) // (2 * quota) for number in range(quota)]
        left = [number for number in range(len(excerpts)) if number not in set(due)]
        while due:
            drafts = [self._draft(excerpts[number]) for number in due]
            for number, blanks in zip(due, self._finish([excerpts[number] for number in due], drafts, tally.judged)):
                if blanks is None:
                    tally.dropped["with too few blanks"] += 1
                else:
                    done[number] = self._passage(excerpts[number], blanks)
                    tally.content += sum(blank.slot.content for blank in blanks)
                    tally.blanks += len(blanks)
            due, left = left[: quota - len(done)], left[quota - len(done) :]
        if left:
            tally.dropped["beyond --limit"] += len(left)
        tally.passages = len(done)
        return [done[number] for number in sorted(done)], tally, chunk.size

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
            chosen = self._judge.pick([excerpt.text for excerpt in excerpts], chosen, judged)
        for blanks, (_, wanted) in zip(chosen, drafts):
            while len(blanks) > wanted:
                places = [blank.slot.place for blank in blanks]
                room = [places[at + 1] - places[at - 1] for at in range(1, len(places) - 1)]
                del blanks[1 + room.index(min(room))]
            yield blanks if len(blanks) >= max(_FEWEST * wanted, 1) else None

    def _passage(self, excerpt: Excerpt, blanks: Sequence[Blank]) -> dict[str, Any]:
        rng = self._rng(excerpt, "answers")
        options = []
        places = balanced(len(blanks), rng)
        for blank, place in zip(blanks, places):
            choices = list(blank.distractors)
            rng.shuffle(choices)
            choices.insert(place, blank.slot.gold)
            options.append(choices)
        answers = [LETTERS[place] for place in places]
        return {"id": excerpt.id, "article": with_gaps(excerpt.text, blanks), "options": options, "answers": answers}


def balanced(blanks: int, rng: random.Random) -> list[int]:
    """Places of the right options in no pattern; how often each comes differs by one at most."""
    order = rng.sample(range(OPTIONS), OPTIONS)
    places = [order[number % OPTIONS] for number in range(blanks)]
    rng.shuffle(places)
    return places
