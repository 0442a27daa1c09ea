"""This project: its ranker, a training step by fairseq's trainer, and ``prepare``; and what all peers are given.

It runs against the package of another commit as well, so it asks for no more of it than it needs.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import Built, Contestant, Work, evenly, machine
from bench_questions import questions_of, run
from bench_transformers import dump_rows, rows_of

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.store import Store
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.passages.passage import LETTERS, UNLABELLED, Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.ranker import load
from fairseq_cloze.ranking.scores import Outcome
from fairseq_cloze.views.making import make_view
from fairseq_cloze.weights.checkpoint import Checkpoint
from fairseq_cloze.weights.hugging_face import export_hf

FIRST = 16  # passages of the first short measurement
BATCHES = 3  # of a round of training at most
MAX_TOKENS = 4096
DROPOUT = 0.1
OPTIMIZER = ("fused_adamw", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01")

#: How the ranker computes, by name of a type: options of :func:`fairseq_cloze.load`.  One that it has not is left out.
PRECISIONS: dict[str, dict[str, bool]] = {"float32": {}, "bfloat16": {"bf16": True}, "int8": {"int8": True}}


def read(job: dict[str, Any]) -> list[Passage]:
    """All passages, by length."""
    return sorted(read_passages([job["passages"]]), key=lambda passage: len(passage.article))


def runs_on(job: dict[str, Any]) -> dict[str, Any]:
    """What this runs on."""
    return machine(job["device"])


def write_inputs(job: dict[str, Any]) -> dict[str, Any]:
    """Write what peers work on into the folder ``work``: ``hf``, ``rows.json``, ``questions.json`` and ``files``.

    Args:
        job: ``weights``, ``passages``, ``work``; most passages to score (``limit``), to train on (``pool``, 0 where
            nothing is trained or prepared), to prepare (``prepared``), and most blanks to fill in (``filled``)

    Returns:
        the architecture, and how many there are of each

    Raises:
        SystemExit: a blank has no right answer, which training and its preparation need
    """
    work, weights, passages = Path(job["work"]), Path(job["weights"]), read(job)
    checkpoint = Checkpoint.read(weights / "model.pt")
    export_hf(checkpoint, work / "hf")
    chosen, pool = evenly(passages, job["limit"]), evenly(passages, job["pool"])
    [member] = load(weights / "model.pt", device="cpu").members
    rows, blanks = [], 0
    for passage in chosen:
        store = Store.from_columns([encode_passages([passage], member.vocabulary)], len(member.vocabulary))
        view = make_view(member.settings, store, member.vocabulary, member.architecture.max_positions)
        rows.append([replace(row, blanks=row.blanks + blanks) for row in rows_of(view)])
        blanks += store.blanks
    (work / "rows.json").write_text(json.dumps([dump_rows(each) for each in rows]))
    choices = Counter(len(options) for p in chosen for options in p.candidates).most_common(1)[0][0]
    every = questions_of(chosen, choices)
    questions = evenly(every, job["filled"])
    (work / "questions.json").write_text(json.dumps([asdict(question) for question in questions]))
    write_passages(pool, work / "pool")
    prepared = evenly(pool, job["prepared"])
    write_passages(prepared, work / "files")
    return {
        "architecture": vars(checkpoint.architecture),
        "passages": len(passages),
        "chosen": len(chosen),
        "questions": len(questions),
        "blanks": len(every),
        "choices": choices,
        "prepared": {
            "passages": len(prepared),
            "texts": len(questions_of(prepared, choices)) * choices,
            "tokens": _tokens(encode_passages(prepared, member.vocabulary)),
        }
        if prepared
        else {},
    }


def write_passages(passages: Sequence[Passage], folder: Path) -> None:
    """One JSON file per passage.

    Raises:
        SystemExit: a blank has no right answer
    """
    folder.mkdir(parents=True)
    for number, passage in enumerate(passages):
        if UNLABELLED in passage.gold:
            raise SystemExit(f"{passage.source}: expected answers, found none; measuring training needs them")
        record = {
            "article": passage.article,
            "options": [list(options) for options in passage.candidates],
            "answers": [LETTERS[gold] for gold in passage.gold],
        }
        (folder / f"{number:06d}.json").write_text(json.dumps(record), encoding="utf-8")


# -- scoring ---------------------------------------------------------------------------------------------------------


def scoring(job: dict[str, Any]) -> Built:
    """``evaluate``'s path with its defaults, in each type of :data:`PRECISIONS`; and once more without contrast.

    They return tokens without padding and all tokens; without contrast, which no peer has, the answers.

    Args:
        job: of :func:`write_inputs`, ``device``, and whether this is not another commit (``here``)
    """
    chosen, device = evenly(read(job), job["limit"]), job["device"]
    built = Built({})
    rankers = {}
    for name, options in PRECISIONS.items():
        if not set(options) <= set(inspect.signature(load).parameters) or (name == "int8" and device != "cpu"):
            continue
        ranker = load(Path(job["weights"]) / "model.pt", device=device, **options)
        if getattr(ranker.members[0], name, True):  # this CPU has what int8 needs
            rankers[name] = ranker

    def take(name: str, size: int, plain: bool = False) -> Work:
        ranker = rankers[name]
        [member] = ranker.members
        vocabulary = member.vocabulary
        store = Store.from_columns([encode_passages(evenly(chosen, size), vocabulary)], len(vocabulary))

        def score() -> list[int]:
            scores = ranker.score(store)
            return [scores.tokens, scores.computed_tokens]

        def answer() -> np.ndarray:
            settings, member.settings = member.settings, replace(member.settings, contrast=0.0)
            answers = Outcome(ranker.score(store), store).best
            member.settings = settings
            return answers

        return Work(answer if plain else score, store.blanks)

    for name in rankers:
        first = min(FIRST, len(chosen))
        built.contestants[name] = Contestant.warmed(partial(take, name), "passages", first, device)
        seconds = built.contestants[name].seconds
        if job["here"] and name != "int8":
            built.contestants[f"{name} without contrast"] = Contestant(
                partial(take, name, plain=True), "check", seconds
            )
    return built


# -- training --------------------------------------------------------------------------------------------------------


class Training:
    """``fairseq-train`` up to its first update.

    Args:
        weights: folder of the pretrained checkpoint
        data_bin: with a split ``train``
        save_dir: of the run
        device: ``cpu`` or ``cuda``
        bf16: autocast to bfloat16
    """

    def __init__(self, weights: Path, data_bin: Path, save_dir: Path, device: str, bf16: bool) -> None:
        import fairseq_cloze

        fairseq_cloze.register()
        from fairseq import checkpoint_utils, options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.trainer import Trainer

        flags = [
            *(data_bin, "--task", "cloze_ranking", "--criterion", "cloze_ranking", "--arch", "cloze_roberta"),
            *("--finetune-from-model", weights / "model.pt", "--save-dir", save_dir, "--optimizer", *OPTIMIZER),
            *("--lr", 1e-5, "--clip-norm", 1.0, "--max-tokens", MAX_TOKENS, "--dropout", DROPOUT),
            *("--attention-dropout", DROPOUT, "--chance-patience", 0, "--num-workers", 0),
            *(["--autocast"] if bf16 else []),
            *(["--cpu"] if device == "cpu" else []),
        ]
        args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
        config = convert_namespace_to_omegaconf(args)
        save_dir.mkdir(parents=True)
        task = tasks.setup_task(config.task)
        model, criterion = task.build_model(config.model), task.build_criterion(config.criterion)
        self.trainer = Trainer(config, task, model, criterion)
        _, epoch = checkpoint_utils.load_checkpoint(config.checkpoint, self.trainer)
        epoch.next_epoch_itr(shuffle=False)
        self.trainer.begin_epoch(1)  # proves the load
        dataset = task.dataset("train")
        chosen = evenly(dataset.batch_by_size(dataset.ordered_indices(), MAX_TOKENS), BATCHES)
        self.batches = [rows_of(dataset.view, batch) for batch in chosen]
        self.samples = [dataset.collater([dataset[int(index)] for index in batch]) for batch in chosen]
        self.padding = [_padding([len(row.tokens) for row in batch]) for batch in self.batches]

    def take(self, size: int) -> Work:
        """One update on each of so many batches; its amount is tokens without padding."""
        from fairseq.logging import metrics

        samples, batches = evenly(self.samples, size), evenly(self.batches, size)

        def step() -> None:
            for sample in samples:
                with metrics.aggregate(new_root=True):
                    if self.trainer.train_step([sample]) is None:
                        raise SystemExit("fairseq's trainer skipped a batch")

        return Work(step, sum(len(row.tokens) for batch in batches for row in batch))


def _padding(lengths: list[int]) -> float:
    return 100 * (1 - sum(lengths) / (max(lengths) * len(lengths)))


def training(job: dict[str, Any]) -> Built:
    """A training step in both types; writes ``batches.json`` for peers, unless it is of another commit."""
    from fairseq_cloze.data.prepare import prepare

    work = Path(job["own"])
    prepare({"train": [Path(job["work"]) / "pool"]}, Path(job["weights"]), work / "bin", workers=1)
    built = Built({})
    for name in ("float32", "bfloat16"):
        ours = Training(Path(job["weights"]), work / "bin", work / name, job["device"], name == "bfloat16")
        built.contestants[name] = Contestant.warmed(ours.take, "batches", 1, job["device"], runs=1)
    if job["here"]:
        (Path(job["work"]) / "batches.json").write_text(json.dumps([dump_rows(batch) for batch in ours.batches]))
    built.facts["padding"] = ours.padding
    return built


# -- preparation -----------------------------------------------------------------------------------------------------


def preparation(job: dict[str, Any]) -> Built:
    """``fairseq-cloze prepare`` with one worker on one core, start-up included; and encoding alone."""
    files, out = Path(job["work"]) / "files", Path(job["own"]) / "prepared"
    passages = list(read_passages([files]))
    vocabulary = Vocabulary.load(job["weights"])
    command = [
        *(sys.executable, "-c", "from fairseq_cloze.cli import main; main()", "prepare", "--train", files),
        *("--pretrained", job["weights"], "--out", out, "--workers", 1),
    ]

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        run(*command, core=min(os.sched_getaffinity(0)))

    commands = Work(prepare, len(passages))
    encoding = Work(lambda: _tokens(encode_passages(passages, vocabulary)), job["tokens"])
    return Built(
        {
            "commands": Contestant.warmed(lambda _: commands, "", 1, "cpu", runs=1),
            "encoding": Contestant.warmed(lambda _: encoding, "", 1, "cpu", runs=1),
        }
    )


def _tokens(columns: Any) -> int:
    return len(columns["tokens"]) + len(columns["candidate_tokens"])
