"""Judge: a language model says which proposed distractors would be right, too, in one forward per passage."""

import math
from collections import Counter
from collections.abc import Sequence

import torch

from ..errors import ClozeError
from ..files import PathLike
from ..passages.passage import Passage
from ..ranking.ranker import load
from .distractors import NEEDED
from .slots import Blank, with_gaps

MARGIN = 2.0  #: nats: how much less probable than the right word a distractor is


class Judge:
    """Picks distractors by a model, given as :func:`fairseq_cloze.load` takes it.

    Raises:
        ClozeError: the checkpoint cannot be used
    """

    def __init__(self, checkpoint: PathLike) -> None:
        self._ranker = load(checkpoint, view="joint", scorer="mean")
        #: what the user should know of the checkpoint
        self.notes = self._ranker.notes

    def pick(self, texts: Sequence[str], drafts: Sequence[Sequence[Blank]], tally: Counter[str]) -> list[list[Blank]]:
        """Keep of each blank the three likeliest distractors that are :data:`MARGIN` below the right word.

        A blank with fewer is given up: too much fits, or the model cannot tell the right word.

        Args:
            texts: the passages with the right words in them
            drafts: per passage its blanks with their proposals
            tally: gets the counts of judged and of dropped proposals and blanks
        """
        passages = []
        for text, blanks in zip(texts, drafts):
            candidates = tuple((blank.slot.gold, *blank.distractors) for blank in blanks)
            if blanks:
                passages.append(Passage("", "", with_gaps(text, blanks), candidates, (0,) * len(blanks)))
        if not passages:
            return [[] for _ in drafts]
        store = self._ranker.encode(passages)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in every worker: sums in another order could tip a decision
        try:
            scores = self._ranker.score(store).log_probabilities
        finally:
            torch.set_num_threads(threads)
        rows = iter(scores)
        picked = []
        for blanks in drafts:
            kept = []
            for blank, row in zip(blanks, rows):
                gold = float(row[0])
                ranked = sorted(
                    (-round(float(score), 3), number)
                    for number, score in enumerate(row[1 : len(blank.distractors) + 1])
                    if math.isfinite(score) and score <= gold - MARGIN
                )
                tally["proposed"] += len(blank.distractors)
                tally["fitting"] += len(blank.distractors) - len(ranked)
                if len(ranked) < NEEDED:
                    tally["given up"] += 1
                else:
                    best = tuple(blank.distractors[number] for _, number in ranked[:NEEDED])
                    kept.append(Blank(blank.slot, best))
            picked.append(kept)
        return picked


def check(checkpoint: PathLike) -> list[str]:
    """Load a checkpoint once, before long work, for its errors and notes."""
    try:
        return Judge(checkpoint).notes
    except ClozeError as error:
        raise type(error)(f"--lm {error}") from error
