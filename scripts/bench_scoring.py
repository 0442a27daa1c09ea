"""Scoring: this project's ranker, and peers with the same weights on the same passages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from bench_measure import Contestant, in_turns, seconds_of
from bench_sentence_ranking import SentenceRanking, prepare_texts, questions_of, write_texts
from bench_transformers import (
    choose_with_transformers,
    rows_of,
    score_with_transformers,
    transformers_model,
)

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.ranking.ranker import load
from fairseq_cloze.ranking.scores import Outcome
from fairseq_cloze.views.making import make_view
from fairseq_cloze.weights.checkpoint import Checkpoint

BATCH_SIZES = (4, 8, 16)  # the peers' best is taken
QUESTION_BATCH_SIZES = (1, 2, 4)

#: Share of the answers that must be ours and the peer's alike, in float32; where two scores nearly tie they may differ.
AGREEMENT = 0.995

T = TypeVar("T")


def evenly(things: Sequence[T], number: int) -> list[T]:
    """As many of a sorted sequence, evenly spread over it, so that lengths are distributed as in all of it."""
    if number >= len(things):
        return list(things)
    places = ((np.arange(number) + 0.5) * len(things) / number).astype(int)
    return [things[int(place)] for place in places]


class ScoringBench:
    """All contestants, built once.

    Args:
        weights: folder of the checkpoint
        folder: the same weights in Hugging Face's format
        passages: to score
        work: folder to work in
        device: ``cpu`` or ``cuda``
    """

    def __init__(self, weights: Path, folder: Path, passages: Sequence[Passage], work: Path, device: str) -> None:
        self.weights, self.folder, self.work, self.device = weights, folder, work, device
        self.passages = passages
        self.rankers = {
            dtype: load(weights / "model.pt", device=device, bf16=dtype == "bfloat16")
            for dtype in ("float32", "bfloat16")
        }
        [member] = self.rankers["float32"].members
        self.architecture = member.architecture
        vocabulary = member.vocabulary
        self.store = Store.from_columns([encode_passages(passages, vocabulary)], len(vocabulary))
        self.rows = rows_of(make_view(member.settings, self.store, vocabulary, self.architecture.max_positions))
        self.facts: dict[str, Any] = {
            "passages": len(self.store),
            "rows": len(self.rows),
            "blanks": self.store.blanks,
            "lengths": [len(row.tokens) for row in self.rows],
            "reads": [len(row.blanks) for row in self.rows],
            "tokens": sum(len(row.tokens) for row in self.rows),
            "pieces": sum(int((row.candidates != 1).sum()) for row in self.rows),
        }
        self.contestants: dict[str, Contestant] = {}

    def add_ours(self) -> None:
        """The ranker with its defaults."""
        for dtype, ranker in self.rankers.items():
            self.contestants[f"ours {dtype}"] = Contestant(partial(ranker.score, self.store), self.store.blanks)
        scores = self.rankers["float32"].score(self.store)
        self.facts["padding"] = 100 * (1 - scores.tokens / scores.computed_tokens)

    def add_transformers(self) -> None:
        """One forward per passage, in batches by length; the fastest batch size and kind of bfloat16.

        Raises:
            SystemExit: its float32 answers are not ours
        """
        full = transformers_model("RobertaForMaskedLM", self.folder).to(self.device).eval()
        half = transformers_model("RobertaForMaskedLM", self.folder).to(self.device, torch.bfloat16).eval()
        some = evenly(sorted(self.rows, key=lambda row: len(row.tokens)), min(max(len(self.rows) // 4, 8), 32))
        ways = {"float32": [("", full, False)], "bfloat16": [("autocast", full, True), ("weights", half, False)]}
        self.facts["agreement"], self.facts["transformers"] = {}, {}
        for dtype, choices in ways.items():
            timed = {
                (name, size): seconds_of(
                    partial(score_with_transformers, model, some, size, self.device, bf16), self.device
                )
                for name, model, bf16 in choices
                for size in BATCH_SIZES
            }
            best, size = min(timed, key=lambda key: timed[key])
            [(model, bf16)] = [(model, bf16) for name, model, bf16 in choices if name == best]
            self.facts["transformers"][dtype] = {"batch_size": size, "bfloat16": best}
            self.contestants[f"transformers {dtype}"] = Contestant(
                partial(score_with_transformers, model, self.rows, size, self.device, bf16), self.store.blanks
            )
            answers = score_with_transformers(model, self.rows, size, self.device, bf16)
            agreement = float((answers == self._answers(dtype)).mean())
            self.facts["agreement"][dtype] = agreement
            if dtype == "float32" and agreement < AGREEMENT:
                raise SystemExit(f"{100 * agreement:.2f}% of transformers' answers are ours, expected nearly all")

    def _answers(self, dtype: str) -> np.ndarray:
        """Our answers without contrast, which the peer has not."""
        ranker = self.rankers[dtype]
        [member] = ranker.members
        settings, member.settings = member.settings, replace(member.settings, contrast=0.0)
        answers = Outcome(ranker.score(self.store), self.store).best
        member.settings = settings
        return answers

    def add_filled(self, number: int) -> None:
        """Peers that fill in every candidate, on some of the blanks; the fastest batch size of each.

        Raises:
            SystemExit: they do not agree among themselves
        """
        choices = Counter(len(options) for p in self.passages for options in p.candidates).most_common(1)[0][0]
        every = questions_of(self.passages, choices)
        questions = evenly(every, number)
        write_texts(questions, self.work / "questions")
        prepare_texts(self.work / "questions", self.weights, choices)
        torch.manual_seed(1)  # the ranking head is new
        chooser = transformers_model("RobertaForMultipleChoice", self.folder).to(self.device).eval()
        head = {
            f"{theirs}.{kind}": chooser.get_parameter(f"{name}.{kind}").detach().cpu()
            for theirs, name in (("dense", "roberta.pooler.dense"), ("out_proj", "classifier"))
            for kind in ("weight", "bias")
        }
        state = Checkpoint.read(self.weights / "model.pt").weights
        state = {name: value.float() for name, value in state.items()}
        ranking = SentenceRanking(self.work / "questions" / "bin", self.architecture, state, head, choices, self.device)
        rows = ranking.rows()
        gold = np.array([question.gold for question in questions])
        runs: dict[str, Callable[..., np.ndarray]] = {
            "sentence_ranking": ranking.evaluate,
            "multiple choice": partial(choose_with_transformers, chooser, rows, device=self.device),
        }
        answers: dict[str, np.ndarray] = {}
        self.facts["filled"] = {
            "blanks": len(questions),
            "of": len(every),
            "choices": choices,
            "cut": sum(len(row) >= self.architecture.max_positions for question in rows for row in question),
            "rows": sum(map(len, rows)),
            "batch_size": {},
        }

        def tried(name: str, size: int) -> None:
            answers[name] = runs[name](batch_size=size)

        for name, run in runs.items():
            timed = {size: seconds_of(partial(tried, name, size), self.device) for size in QUESTION_BATCH_SIZES}
            size = min(timed, key=lambda key: timed[key])
            self.facts["filled"]["batch_size"][name] = size
            self.contestants[f"{name} float32"] = Contestant(partial(run, batch_size=size), len(questions))
        agreement = float((answers["sentence_ranking"] == answers["multiple choice"]).mean())
        self.facts["filled"].update(
            agreement=agreement, correct={name: int((each == gold).sum()) for name, each in answers.items()}
        )
        if agreement < 0.9:  # few, and a new head tells them apart by little
            raise SystemExit(f"the same weights and texts: {100 * agreement:.1f}% of the peers' answers are the same")

    def measure(self, gemm: dict[str, Contestant], rounds: int) -> dict[str, Any]:
        """All in turns, and the machine's rate of matrix products with them."""
        contestants = {**self.contestants, **{f"gemm {dtype}": contestant for dtype, contestant in gemm.items()}}
        return {**self.facts, "rates": in_turns(contestants, rounds, self.device)}
