"""Preparation: ``fairseq-cloze prepare`` and what ``sentence_ranking`` needs, each with one worker on one core."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_measure import Contestant, in_turns
from bench_sentence_ranking import prepare_texts, questions_of, run, write_texts

from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.passages.passage import LETTERS, UNLABELLED, Passage
from fairseq_cloze.passages.text import BLANK, NOTHING, normalise


def write_passages(passages: Sequence[Passage], folder: Path) -> None:
    """One JSON file per passage.

    Raises:
        SystemExit: a blank has no right answer, which training and its preparation need
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


def encode_as_fairseq(weights: Path, passages: Sequence[Passage]) -> Callable[[], None]:
    """The same texts through fairseq's GPT-2 BPE and dictionary, as multiprocessing_bpe_encoder and preprocess do."""
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


def measure_preparation(weights: Path, passages: Sequence[Passage], work: Path, rounds: int) -> dict[str, Any]:
    """Passages per second by the real commands, start-up included; and tokens per second of encoding alone.

    That the peer's texts have to be written first is not counted.

    Args:
        weights: folder of the checkpoint, for its vocabulary
        passages: to prepare
        work: folder to work in
        rounds: that count
    """
    choices = Counter(len(options) for p in passages for options in p.candidates).most_common(1)[0][0]
    questions = questions_of(passages, choices)
    files, texts, out = work / "files", work / "texts", work / "prepared"
    write_passages(passages, files)
    write_texts(questions, texts)
    core = min(os.sched_getaffinity(0))
    command = [
        *(sys.executable, "-c", "from fairseq_cloze.cli import main; main()", "prepare", "--train", files),
        *("--pretrained", weights, "--out", out, "--workers", 1),
    ]

    def ours() -> None:
        shutil.rmtree(out, ignore_errors=True)
        run(*command, core=core)

    def theirs() -> None:
        shutil.rmtree(texts / "bin", ignore_errors=True)
        prepare_texts(texts, weights, choices, core)

    contestants = {"ours": Contestant(ours, len(passages)), "fairseq": Contestant(theirs, len(passages))}
    rates = in_turns(contestants, rounds, warm_up=False)
    vocabulary = Vocabulary.load(weights)
    columns = encode_passages(passages, vocabulary)
    tokens = len(columns["tokens"]) + len(columns["candidate_tokens"])
    encoding = {
        "ours": Contestant(lambda: encode_passages(passages, vocabulary), tokens),
        "fairseq": Contestant(encode_as_fairseq(weights, passages), tokens),
    }
    return {
        "passages": len(passages),
        "texts": len(questions) * choices,
        "tokens": tokens,
        "rates": rates,
        "encoding": in_turns(encoding, rounds),
    }
