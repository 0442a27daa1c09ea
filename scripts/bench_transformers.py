"""Peers of Hugging Face's transformers: one forward per passage, its training step, and multiple choice.

Everything runs on random weights as well, where no folder is given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench_measure import Built, Contestant, Work, evenly, fastest, version_of
from torch import Tensor

PAD = 1
BATCH_SIZES = (4, 8, 16)  # passages
QUESTION_BATCH_SIZES = (1, 2, 4)  # blanks
TRIED = 16  # passages to find the fastest way with
DROPOUT = 0.1


@dataclass
class Row:
    """One input with its blanks.

    Attributes:
        tokens: ``<s>`` and ``</s>`` included, every blank a ``<mask>``, ``int64 (length,)``
        positions: offsets of the masks, ``int64 (blanks,)``
        candidates: tokens of the candidates, padded with ``<pad>``, ``int64 (blanks, candidates, pieces)``
        distinct: candidates that exist and repeat no earlier one, ``bool (blanks, candidates)``
        gold: index of the right candidate, -1 where unlabelled, ``int64 (blanks,)``
        blanks: number of each blank in its split, ``int64 (blanks,)``
    """

    tokens: np.ndarray
    positions: np.ndarray
    candidates: np.ndarray
    distinct: np.ndarray
    gold: np.ndarray
    blanks: np.ndarray


def rows_of(view: Any, indices: Sequence[int] | None = None) -> list[Row]:
    """Items of a :class:`fairseq_cloze.views.joint.JointView` as rows; all of them, or those of *indices*."""
    rows = []
    for index in range(len(view)) if indices is None else indices:
        item = view.item(int(index))
        sample = view.collate([item])
        rows.append(
            Row(
                np.asarray(item["tokens"]),
                np.asarray(item["positions"]),
                sample["net_input"]["candidate_tokens"].numpy(),
                sample["distinct"].numpy(),
                sample["gold"].numpy(),
                sample["blanks"].numpy(),
            )
        )
    return rows


def dump_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    return [{each.name: getattr(row, each.name).tolist() for each in fields(row)} for row in rows]


def load_rows(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The same back."""
    types = {"distinct": bool}
    return [Row(**{name: np.array(value, types.get(name, np.int64)) for name, value in row.items()}) for row in rows]


def transformers_model(
    name: str, folder: Path | None = None, shape: Any = None, vocabulary_size: int = 50265, dropout: float = 0.1
) -> Any:
    """A RoBERTa of transformers with SDPA, in float32.

    Args:
        name: class, such as ``RobertaForMaskedLM``
        folder: weights in Hugging Face's format; random ones where there is none
        shape: of the encoder, for random weights; a :class:`fairseq_cloze.weights.checkpoint.Architecture`
        vocabulary_size: for random weights
        dropout: in training
    """
    import transformers

    transformers.logging.set_verbosity_error()  # heads that are new are meant to be
    model_class = getattr(transformers, name)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if folder is not None:
        dtype = "torch_dtype" if transformers.__version__.startswith("4.") else "dtype"
        return model_class.from_pretrained(folder, attn_implementation="sdpa", **{dtype: torch.float32}, **rates)
    config = transformers.RobertaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.encoder_embed_dim,
        num_hidden_layers=shape.encoder_layers,
        num_attention_heads=shape.encoder_attention_heads,
        intermediate_size=shape.encoder_ffn_embed_dim,
        max_position_embeddings=shape.max_positions + 2,
        type_vocab_size=1,
        layer_norm_eps=shape.layer_norm_eps,
        **rates,
    )
    return model_class._from_config(config, attn_implementation="sdpa")


def autocast(device: str, on: bool) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where torch says that it is safe."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if on else nullcontext()


def score_with_transformers(
    model: Any, rows: Sequence[Row], batch_size: int, device: str = "cpu", bf16: bool = False
) -> np.ndarray:
    """One forward per row, in batches by length; logits of the whole vocabulary, as the model gives them.

    A candidate's score is the mean logit of its tokens at the blank's mask, as with this project's ``mean`` and no
    contrast.

    Args:
        model: ``RobertaForMaskedLM`` in evaluation, on the device
        rows: the inputs
        batch_size: rows in a batch
        device: ``cpu`` or ``cuda``
        bf16: autocast to bfloat16

    Returns:
        the best candidate of each blank, in the order of their numbers, ``int64 (blanks,)``
    """
    order = sorted(rows, key=lambda row: -len(row.tokens))
    numbers = np.sort(np.concatenate([row.blanks for row in rows]))
    answers = np.full(len(numbers), -1, dtype=np.int64)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        with torch.inference_mode(), autocast(device, bf16):
            scores = _scores(model, batch, device)
        places = np.searchsorted(numbers, np.concatenate([row.blanks for row in batch]))
        answers[places] = scores.argmax(dim=1).cpu().numpy()
    return answers


def train_step_with_transformers(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    device: str = "cpu",
    bf16: bool = False,
    clip_norm: float = 1.0,
) -> float:
    """One update on one batch: cross-entropy over the candidates at the masks; logits of the whole vocabulary.

    Args:
        model: ``RobertaForMaskedLM`` in training, on the device
        optimizer: of its parameters
        rows: the batch
        device: ``cpu`` or ``cuda``
        bf16: autocast to bfloat16
        clip_norm: largest norm of the gradient

    Returns:
        the mean loss of the batch, in nats per blank
    """
    with autocast(device, bf16):
        scores = _scores(model, rows, device)
    gold = torch.from_numpy(np.concatenate([row.gold for row in rows])).to(device)
    loss = F.cross_entropy(scores, gold, ignore_index=-1)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss)


def _scores(model: Any, rows: Sequence[Row], device: str) -> Tensor:
    """Scores of the candidates of a batch, ``float32 (blanks, candidates)``, ``-inf`` where there is no other one."""
    tokens = _padded([row.tokens for row in rows]).to(device)
    logits = model(tokens, attention_mask=tokens.ne(PAD).long()).logits
    number = np.repeat(np.arange(len(rows)), [len(row.positions) for row in rows])
    positions = np.concatenate([row.positions for row in rows])
    candidates, distinct = _stacked(rows)
    candidates, distinct = candidates.to(device), distinct.to(device)
    at_masks = logits[torch.from_numpy(number).to(device), torch.from_numpy(positions).to(device)]
    pieces = at_masks.float().gather(1, candidates.flatten(1)).view_as(candidates)
    present = candidates.ne(PAD)
    scores = (pieces * present).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)
    return scores.masked_fill(~distinct, float("-inf"))


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    tokens = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for row, values in zip(tokens, rows):
        row[: len(values)] = values
    return torch.from_numpy(tokens)


def _stacked(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    shape = np.max([row.candidates.shape for row in rows], axis=0)
    blanks = sum(len(row.candidates) for row in rows)
    candidates = np.full((blanks, *shape[1:]), PAD, dtype=np.int64)
    distinct = np.zeros((blanks, shape[1]), dtype=bool)
    start = 0
    for row in rows:
        count, options, pieces = row.candidates.shape
        candidates[start : start + count, :options, :pieces] = row.candidates
        distinct[start : start + count, :options] = row.distinct
        start += count
    return torch.from_numpy(candidates), torch.from_numpy(distinct)


# -- multiple choice -------------------------------------------------------------------------------------------------


def choose_with_transformers(
    model: Any, questions: Sequence[Sequence[np.ndarray]], batch_size: int, device: str = "cpu"
) -> np.ndarray:
    """``RobertaForMultipleChoice``: every candidate filled in, one row for each.

    Args:
        model: in evaluation, on the device
        questions: the rows of each blank's candidates, as many for every blank
        batch_size: blanks in a batch, which are taken by length
        device: ``cpu`` or ``cuda``

    Returns:
        the best candidate of each blank, ``int64 (blanks,)``
    """
    order = sorted(range(len(questions)), key=lambda number: -max(map(len, questions[number])))
    answers = np.full(len(questions), -1, dtype=np.int64)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens = _padded([row for number in batch for row in questions[number]])
        tokens = tokens.view(len(batch), -1, tokens.size(1)).to(device)
        with torch.inference_mode():
            logits = model(tokens, attention_mask=tokens.ne(PAD).long()).logits
        answers[batch] = logits.argmax(dim=1).cpu().numpy()
    return answers


def ranking_head(folder: Path) -> dict[str, Tensor]:
    """The new head of :func:`multiple_choice`, by fairseq's names."""
    model = _chooser(folder)
    return {
        f"{theirs}.{kind}": model.get_parameter(f"{name}.{kind}").detach()
        for theirs, name in (("dense", "roberta.pooler.dense"), ("out_proj", "classifier"))
        for kind in ("weight", "bias")
    }


def _chooser(folder: Path) -> Any:
    torch.manual_seed(1)
    return transformers_model("RobertaForMultipleChoice", folder).eval()


# -- what is measured ------------------------------------------------------------------------------------------------


def scoring(job: dict[str, Any]) -> Built:
    """One forward per passage; the fastest size of batch, and the faster one of autocast and of weights in bfloat16.

    Args:
        job: ``work`` with ``rows.json`` and ``hf``, ``device``, and ``ways`` if another version found the fastest ones
    """
    work, device = Path(job["work"]), job["device"]
    passages = [load_rows(rows) for rows in json.loads((work / "rows.json").read_text())]
    full = transformers_model("RobertaForMaskedLM", work / "hf").to(device).eval()
    half = transformers_model("RobertaForMaskedLM", work / "hf").to(device, torch.bfloat16).eval()
    models = {"float32": (full, False), "autocast": (full, True), "bfloat16": (half, False)}
    middle = (len(passages) - TRIED) // 2
    tried = passages[max(middle, 0) : max(middle, 0) + TRIED]  # neighbours, so with as little padding as ever

    def take(way: str, batch_size: int, size: int) -> Work:
        model, bf16 = models[way]
        rows = [row for passage in evenly(passages, size) for row in passage]
        run = partial(score_with_transformers, model, rows, batch_size, device, bf16)
        return Work(run, sum(len(row.blanks) for row in rows))

    built = Built({}, {"version": f"transformers {version_of('transformers')}", "ways": {}})
    rows = [row for passage in tried for row in passage]
    for name, kinds in {"float32": ["float32"], "bfloat16": ["autocast", "bfloat16"]}.items():
        found: list[tuple[float, str, int]] = []
        for kind in [job["ways"][name][0]] if "ways" in job else kinds:
            model, bf16 = models[kind]
            sizes = [job["ways"][name][1]] if "ways" in job else BATCH_SIZES
            score_with_transformers(model, rows[: sizes[0]], sizes[0], device, bf16)  # warm
            trial = partial(score_with_transformers, model, rows, device=device, bf16=bf16)
            seconds, size = fastest(sizes, lambda size, trial=trial: trial(batch_size=size), device)
            found.append((seconds, kind, size))
        seconds, *best = min(found)
        built.facts["ways"][name] = best
        built.contestants[name] = Contestant(partial(take, *best), "passages", seconds / len(tried))
    return built


def training(job: dict[str, Any]) -> Built:
    """``RobertaForMaskedLM`` with torch's fused AdamW, on our batches (``batches.json``)."""
    work, device = Path(job["work"]), job["device"]
    batches = [load_rows(batch) for batch in json.loads((work / "batches.json").read_text())]
    built = Built({}, {"version": f"transformers {version_of('transformers')}"})
    for name in ("float32", "bfloat16"):
        model = transformers_model("RobertaForMaskedLM", work / "hf", dropout=DROPOUT).to(device).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
        )
        take = partial(_steps, model, optimizer, batches, device, name == "bfloat16")
        built.contestants[name] = Contestant.warmed(take, "batches", 1, device, runs=1)
    return built


def _steps(
    model: Any, optimizer: torch.optim.Optimizer, batches: list[list[Row]], device: str, bf16: bool, size: int
) -> Work:
    chosen = evenly(batches, size)

    def step() -> None:
        for batch in chosen:
            train_step_with_transformers(model, optimizer, batch, device, bf16)

    return Work(step, sum(len(row.tokens) for batch in chosen for row in batch))


def multiple_choice(job: dict[str, Any]) -> Built:
    """``RobertaForMultipleChoice`` on the texts with each candidate filled in; the fastest size of batch."""
    from transformers import AutoTokenizer

    work, device = Path(job["work"]), job["device"]
    tokenizer, longest = AutoTokenizer.from_pretrained(work / "hf"), job["architecture"]["max_positions"]
    texts = [filled(**each) for each in json.loads((work / "questions.json").read_text())]
    rows = [tokenizer(each, truncation=True, max_length=longest - 1)["input_ids"] for each in texts]
    # sentence_ranking ends a text with two </s>, and answers are compared with its own.
    questions = [[np.array([*row, row[-1]]) for row in each] for each in rows]
    model = _chooser(work / "hf").to(device)
    first = min(4, len(questions))

    def take(size: int, batch_size: int) -> Work:
        return Work(partial(choose_with_transformers, model, evenly(questions, size), batch_size, device), size)

    take(1, 1).run()
    seconds, size = fastest(QUESTION_BATCH_SIZES, lambda size: take(first, size).run(), device)
    facts = {"version": f"transformers {version_of('transformers')}", "batch_size": size}
    return Built({"float32": Contestant(partial(take, batch_size=size), "blanks", seconds / first)}, facts)


def filled(before: str, after: str, fills: Sequence[str], **_: Any) -> list[str]:
    """A passage with each candidate of a blank filled in."""
    return [" ".join(f"{before}{fill}{after}".split()) for fill in fills]
