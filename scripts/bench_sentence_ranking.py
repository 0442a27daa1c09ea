"""Peer: fairseq's own ranking task, ``sentence_ranking``, and the way its data are prepared.

Every candidate of every blank is a text of its own: the whole passage with that candidate filled in and the other
blanks removed.  ``input1`` to ``inputN`` hold these texts, one line per blank; ``input0``, which the task appends to
each, is empty.  They go through fairseq's ``multiprocessing_bpe_encoder`` and ``fairseq-preprocess``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_measure import Built, Contestant, Work, evenly, fastest, version_of
from bench_questions import Question, questions_of, run
from bench_transformers import ranking_head
from fairseq import options, tasks
from fairseq.data.encoders.gpt2_bpe import get_encoder
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import preprocess
from torch import Tensor

from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.passages.text import BLANK, NOTHING, normalise
from fairseq_cloze.views.view import to_device
from fairseq_cloze.weights.checkpoint import Checkpoint

SPLIT = "valid"
BATCH_SIZES = (1, 2, 4)  # blanks


def write_texts(questions: Sequence[Question], folder: Path) -> None:
    """What a user of the task has to write: a text file per input, and the labels."""
    folder.mkdir(parents=True)
    (folder / "input0.txt").write_text("\n" * len(questions))
    for choice, texts in enumerate(zip(*(question.texts for question in questions))):
        lines = "".join(f"{text}\n" for text in texts)
        (folder / f"input{choice + 1}.txt").write_text(lines, encoding="utf-8")
    (folder / "label.txt").write_text("".join(f"{question.gold}\n" for question in questions))


def prepare_texts(folder: Path, weights: Path, choices: int, core: int | None = None) -> None:
    """Run fairseq's two commands on what :func:`write_texts` wrote, each with one worker, the second once per input.

    Without a *core*, where no time is taken, what they do is done in this process.

    Args:
        folder: with the texts; the data go to ``bin`` in it
        weights: folder with ``encoder.json``, ``vocab.bpe`` and ``dict.txt``
        choices: candidates of each blank
        core: the one core to run the commands on
    """
    inputs = [f"input{number}" for number in range(choices + 1)]
    if core is None:
        bpe = get_encoder(weights / "encoder.json", weights / "vocab.bpe")
        for name in inputs:
            lines = (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]
            encoded = (" ".join(map(str, bpe.encode(line))) for line in lines)
            (folder / f"{name}.bpe").write_text("".join(f"{line}\n" for line in encoded))
    else:
        run(
            *(sys.executable, _bpe_encoder(), "--encoder-json", weights / "encoder.json"),
            *("--vocab-bpe", weights / "vocab.bpe", "--keep-empty", "--workers", 1),
            *("--inputs", *(folder / f"{name}.txt" for name in inputs)),
            *("--outputs", *(folder / f"{name}.bpe" for name in inputs)),
            core=core,
        )
    for name in inputs:
        flags = [
            *("--only-source", "--validpref", folder / f"{name}.bpe", "--destdir", folder / "bin" / name),
            *("--srcdict", weights / "dict.txt", "--workers", 1),
        ]
        if core is None:
            preprocess.main(options.get_preprocessing_parser().parse_args([str(flag) for flag in flags]))
        else:
            run(sys.executable, "-c", "from fairseq_cli.preprocess import cli_main; cli_main()", *flags, core=core)
    label = folder / "bin" / "label" / f"{SPLIT}.label"
    label.parent.mkdir()
    label.write_text((folder / "label.txt").read_text())


def _bpe_encoder() -> Path:
    import fairseq

    path = Path(fairseq.__file__).parent / "examples" / "roberta" / "multiprocessing_bpe_encoder.py"
    if not path.is_file():
        raise SystemExit(f"{path}: not there; this fairseq was installed without its examples")
    return path


class SentenceRanking:
    """The task with its criterion and a RoBERTa that has the weights of a checkpoint and a given ranking head.

    Args:
        data: ``bin`` of :func:`prepare_texts`
        architecture: :class:`fairseq_cloze.weights.checkpoint.Architecture`
        weights: of the encoder, by fairseq's names
        head: of the ranking head, by fairseq's names
        choices: candidates of each blank
        device: ``cpu`` or ``cuda``
    """

    def __init__(
        self,
        data: Path,
        architecture: Any,
        weights: dict[str, Tensor],
        head: dict[str, Tensor],
        choices: int,
        device: str = "cpu",
    ) -> None:
        shape = [
            *("--encoder-layers", architecture.encoder_layers, "--encoder-embed-dim", architecture.encoder_embed_dim),
            *("--encoder-ffn-embed-dim", architecture.encoder_ffn_embed_dim),
            *("--encoder-attention-heads", architecture.encoder_attention_heads),
            *("--max-positions", architecture.max_positions),
        ]
        flags = [
            *(data, "--task", "sentence_ranking", "--criterion", "sentence_ranking", "--arch", "roberta_base"),
            *("--num-classes", choices, "--init-token", 0, "--shorten-method", "truncate", *shape, "--cpu"),
        ]
        args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
        config = convert_namespace_to_omegaconf(args)
        self.device = torch.device(device)
        self.task = tasks.setup_task(config.task)
        self.criterion = self.task.build_criterion(config.criterion)
        self.task.load_dataset(SPLIT)
        self.dataset = self.task.dataset(SPLIT)
        self.numbers = [int(self.dataset[index]["id"]) for index in range(len(self.dataset))]  #: of the blanks
        self.model = self.task.build_model(config.model)
        for module in self.model.modules():  # fairseq has no option for it
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = architecture.layer_norm_eps
        found = {**weights, **{f"classification_heads.sentence_classification_head.{k}": v for k, v in head.items()}}
        missing, unexpected = self.model.load_state_dict(found)
        if missing or any(not name.endswith("version") for name in unexpected):
            raise SystemExit(f"sentence_ranking: weights missing {missing}, unexpected {unexpected}")
        self.model.to(self.device).eval()

    def rows(self) -> list[list[np.ndarray]]:
        """The input of each blank's candidates, in the order of the split."""
        out: dict[int, list[np.ndarray]] = {}
        for index in range(len(self.dataset)):
            item = self.dataset[index]
            out[int(item["id"])] = [
                item[f"net_input{choice + 1}.src_tokens"].numpy() for choice in range(self.criterion.num_classes)
            ]
        return [out[index] for index in range(len(out))]

    def evaluate(self, batch_size: int, size: int | None = None) -> np.ndarray:
        """What ``fairseq-validate`` does with the split, or with as many of its blanks, evenly spread.

        Returns:
            the best candidate of each blank, ``int64 (blanks,)``
        """
        written = self.criterion.prediction_h = io.StringIO()  # as with --save-predictions
        chosen = set(evenly(range(len(self.numbers)), size or len(self.numbers)))  # those that the other peers take
        order = [index for index in self.dataset.ordered_indices().tolist() if self.numbers[index] in chosen]
        for start in range(0, len(order), batch_size):
            sample = self.dataset.collater([self.dataset[index] for index in order[start : start + batch_size]])
            self.task.valid_step(to_device(sample, self.device), self.model, self.criterion)
        lines = (line.split("\t") for line in written.getvalue().splitlines())
        answers = {int(number): int(answer) for number, answer, _ in lines}
        return np.array([answers[number] for number in sorted(answers)])


# -- what is measured ------------------------------------------------------------------------------------------------


def scoring(job: dict[str, Any]) -> Built:
    """The task and its criterion on some blanks, as ``fairseq-validate`` runs them; the fastest size of batch."""
    work, weights, device = Path(job["work"]), Path(job["weights"]), job["device"]
    questions = [Question(**each) for each in json.loads((work / "questions.json").read_text())]
    checkpoint = Checkpoint.read(weights / "model.pt")
    choices = len(questions[0].fills)
    write_texts(questions, work / "questions")
    prepare_texts(work / "questions", weights, choices)
    state = {name: value.float() for name, value in checkpoint.weights.items()}
    head, data = ranking_head(work / "hf"), work / "questions" / "bin"
    ranking = SentenceRanking(data, checkpoint.architecture, state, head, choices, device)
    rows = ranking.rows()
    first = min(4, len(questions))
    ranking.evaluate(1, 1)
    seconds, size = fastest(BATCH_SIZES, lambda size: ranking.evaluate(size, first), device)
    longest = checkpoint.architecture.max_positions
    facts = {
        "version": f"fairseq {version_of('ve-fairseq')}",
        "batch_size": size,
        "rows": sum(map(len, rows)),
        "cut": sum(len(row) >= longest for question in rows for row in question),
    }
    return Built(
        {"float32": Contestant(lambda n: Work(partial(ranking.evaluate, size, n), n), "blanks", seconds / first)}, facts
    )


def preparation(job: dict[str, Any]) -> Built:
    """fairseq's commands on one core, start-up included; and encoding alone.  Writing their texts is not counted."""
    work, weights = Path(job["work"]), Path(job["weights"])
    passages, texts = list(read_passages([work / "files"])), Path(job["own"]) / "texts"
    write_texts(questions_of(passages, job["choices"]), texts)

    def prepare() -> None:
        shutil.rmtree(texts / "bin", ignore_errors=True)
        prepare_texts(texts, weights, job["choices"], min(os.sched_getaffinity(0)))

    commands = Work(prepare, len(passages))
    encoding = Work(_encode(weights, passages), job["tokens"])
    return Built(
        {
            "commands": Contestant(lambda _: commands, "", 0.0),  # it takes too long to try
            "encoding": Contestant.warmed(lambda _: encoding, "", 1, "cpu", runs=1),
        },
        {"version": f"fairseq {version_of('ve-fairseq')}"},
    )


def _encode(weights: Path, passages: Sequence[Passage]) -> Callable[[], None]:
    """The texts that we encode through fairseq's BPE and dictionary, as its two commands do."""
    from fairseq.data import Dictionary
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    config = GPT2BPEConfig(gpt2_encoder_json=str(weights / "encoder.json"), gpt2_vocab_bpe=str(weights / "vocab.bpe"))
    dictionary = Dictionary.load(str(weights / "dict.txt"))

    def encode() -> None:
        bpe = GPT2BPE(config)
        for passage in passages:
            texts: list[str] = BLANK.split(normalise(passage.article))
            texts += [f" {choice}" for row in passage.candidates for choice in row if choice not in NOTHING]
            for text in texts:
                dictionary.encode_line(bpe.encode(text), append_eos=False, add_if_not_exist=False)

    return encode
