from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fairseq_cloze.generation import judge
from fairseq_cloze.generation.generate import GenerateTally, generate_passages
from fairseq_cloze.generation.judge import MARGIN, Judge
from fairseq_cloze.generation.slots import Blank, Slot
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.ranking.ranker import load

TEXT = "He opened the door. She drank a cup of coffee and read the paper in the garden."


def blank(word: str, *distractors: str) -> Blank:
    start = TEXT.index(word)
    slot = Slot(start, start + len(word), 0, word, word, "NN", "", "", "", "", ())
    return Blank(slot, distractors)


def test_it_drops_what_the_model_finds_as_good(pretrained: Path) -> None:
    """Against the scores of the same passage, asked for in the usual way."""
    proposals = "door road tea water book garden hand train window night".split()
    blanks = [blank("coffee", *proposals), blank("paper", *proposals)]
    article = TEXT.replace("coffee", "_").replace("paper", "_")
    passage = Passage("", "", article, (("coffee", *proposals), ("paper", *proposals)), (0, 0))
    ranker = load(pretrained / "model.pt")
    scores = ranker.score(ranker.encode([passage])).log_probabilities
    expected: list[Blank] = []
    fitting = 0
    for own, row in zip(blanks, scores):
        below = [number for number in range(10) if row[number + 1] <= row[0] - MARGIN]
        fitting += 10 - len(below)
        best = sorted(below, key=lambda number: -row[number + 1])[:3]
        if len(best) == 3:
            expected.append(Blank(own.slot, tuple(proposals[number] for number in best)))
    tally: Counter[str] = Counter()
    assert Judge(pretrained / "model.pt").pick([TEXT], [blanks], tally) == [expected]
    assert tally["proposed"] == 20 and tally["fitting"] == fitting and tally["given up"] == 2 - len(expected)


def test_passages_with_a_model(prose: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model knows nothing, so nearly every margin is too wide for it."""
    monkeypatch.setattr(judge, "MARGIN", -0.5)
    tally = GenerateTally()
    passages = list(generate_passages([prose], workers=1, lm=pretrained / "model.pt", limit=12, tally=tally))
    assert len(passages) == 12 and all(len(options) == 4 for passage in passages for options in passage["options"])
    assert tally.judged["proposed"] > tally.judged["fitting"] > 0
    assert f"dropped {tally.judged['fitting']:,} of {tally.judged['proposed']:,} proposed" in "\n".join(tally.lines())


@pytest.mark.slow
def test_workers_change_nothing_with_a_model(prose: Path, weights: Path) -> None:
    one, two = (
        list(generate_passages([prose], workers=workers, lm=weights / "model.pt", limit=8)) for workers in (1, 2)
    )
    assert one == two and len(one) == 8


def test_a_real_model_keeps_what_is_wrong(weights: Path) -> None:
    proposals = "tea water milk juice wine stone fence shirt nail lamp".split()
    [[kept]] = Judge(weights / "model.pt").pick([TEXT], [[blank("coffee", *proposals)]], Counter())
    assert "tea" not in kept.distractors and "water" not in kept.distractors
    assert np.isin(kept.distractors, proposals).all()
