"""Peer: minicons, which scores by a masked LM: the passage once for each token of each candidate, that token masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import Built, Contestant, Work, evenly, version_of


def scoring(job: dict[str, Any]) -> Built:
    """``conditional_score`` of each candidate between the text before and behind its blank, a blank a batch.

    Blanks that it cannot do are left out: an empty candidate, and a text longer than the model's positions.
    """
    from minicons.scorer import MaskedLMScorer

    scorer = MaskedLMScorer(str(Path(job["work"]) / "hf"), job["device"])
    longest = job["architecture"]["max_positions"]

    def fits(question: dict[str, Any]) -> bool:
        texts = [f"{question['before']} {fill} {question['after']}" for fill in question["fills"]]
        return all(question["fills"]) and max(map(len, scorer.tokenizer(texts)["input_ids"])) <= longest

    every = json.loads((Path(job["work"]) / "questions.json").read_text())
    questions = [question for question in every if fits(question)]
    if not questions:
        raise SystemExit("no blank that it can do")

    def take(size: int) -> Work:
        chosen = evenly(questions, size)

        def score() -> np.ndarray:
            answers = []
            for each in chosen:
                times = len(each["fills"])
                scores = scorer.conditional_score([each["before"]] * times, each["fills"], [each["after"]] * times)
                answers.append(int(np.argmax(scores)))
            return np.array(answers)

        return Work(score, len(chosen))

    take(1).run()
    contestant = Contestant.warmed(take, "few", min(2, len(questions)), job["device"], runs=1)
    return Built({"float32": contestant}, {"version": f"minicons {version_of('minicons')}", "batch_size": 1})
