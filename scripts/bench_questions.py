"""Blanks with each candidate filled in, as peers that score whole texts need them; and commands on one core."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench_transformers import filled

from fairseq_cloze.passages.passage import UNLABELLED, Passage
from fairseq_cloze.passages.text import BLANK, NOTHING, normalise


@dataclass(frozen=True)
class Question:
    """One blank as the task has it.

    Attributes:
        before, after: the passage around it, the other blanks removed
        fills: its candidates, empty where nothing goes there
        gold: index of the right candidate, 0 where unlabelled
    """

    before: str
    after: str
    fills: list[str]
    gold: int

    @property
    def texts(self) -> list[str]:
        """The passage with each candidate filled in."""
        return filled(self.before, self.after, self.fills)


def questions_of(passages: Sequence[Passage], choices: int) -> list[Question]:
    """All blanks that have as many candidates, by length of the text; the task has no other ones."""
    out = []
    for passage in passages:
        segments = BLANK.split(normalise(passage.article))
        for blank, candidates in enumerate(passage.candidates):
            if len(candidates) != choices:
                continue
            before, after = "".join(segments[: blank + 1]), "".join(segments[blank + 1 :])
            fills = ["" if candidate in NOTHING else candidate for candidate in candidates]
            gold = passage.gold[blank]
            out.append(Question(before, after, fills, 0 if gold == UNLABELLED else gold))
    return sorted(out, key=lambda question: len(question.texts[0]))


def run(*command: Any, core: int | None = None) -> None:
    """Run a command with one thread, on one core if it is named.

    Raises:
        SystemExit: it failed; with what it wrote
    """
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    ran = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=pin,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"},
    )
    if ran.returncode:
        raise SystemExit(f"exit status {ran.returncode}: {' '.join(map(str, command))}\n{ran.stdout[-3000:]}")
