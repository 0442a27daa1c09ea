"""Evaluate and predict: score passages with checkpoints, outside of training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ..data.databin import DataBin
from ..data.encoding import EncodingOptions, encode_passages
from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError
from ..files import PathLike, split_paths
from ..passages.reading import LETTERS, Passage, Tally, read_passages
from ..views.settings import AS_TRAINED, PartialSettings
from . import sharing
from .answers import make_predictions, write_predictions, writing
from .breakdown import Breakdown, break_down, breakdown_lines
from .ensemble import Ensemble
from .metrics import COUNTS, chance_interval, metrics_of
from .ranker import Answers, Scorer, Scores

T = TypeVar("T")

_CHUNK = 2048  # passages that predict batches together
_MOST_CHUNKS = 16  # that workers hold at a time, and wait for each other after


# -- evaluate --------------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """Result of scoring one split; accuracies, chance and majority are percentages, NaN where nothing was counted."""

    checkpoint: str
    data_bin: str
    split: str
    view: str
    scorer: str
    other_blanks: str
    contrast: float
    refine: int
    cascade: int
    weights: list[float]
    encoding: dict[str, Any]
    device: str
    fp16: bool
    bf16: bool
    accuracy: float
    mrr: float
    chance: float
    majority: float
    majority_answer: str
    accuracy_one_token: float
    accuracy_multi_token: float
    n_blanks: int
    n_one_token: int
    n_multi_token: int
    n_unlabelled: int
    seconds: float
    blanks_per_second: float
    tokens_per_second: float
    forwards_per_passage: float
    tokens_per_passage: float
    padding: float
    notes: list[str] = field(default_factory=list)
    breakdown: Breakdown = field(default_factory=dict)

    def to_json(self) -> str:
        """The result as JSON; ``null`` where there is no number."""
        values = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """The result as a table."""
        rows = [
            ("all blanks", self.accuracy, self.n_blanks),
            ("one-token candidates", self.accuracy_one_token, self.n_one_token),
            ("multi-token candidates", self.accuracy_multi_token, self.n_multi_token),
        ]
        how = f"view {self.view}, scorer {self.scorer}"
        if self.view == "full":
            how += f", other blanks {self.other_blanks}"
        if self.view == "joint":
            how += f", contrast {self.contrast:g}"
        for name, value in (("refine", self.refine), ("cascade", self.cascade)):
            how += f", {name} {value}" if value else ""
        out = [
            f"{self.checkpoint} on {self.split} of {self.data_bin} ({how})",
            f"{'':24}{'accuracy %':>10}{'blanks':>10}",
        ]
        out += [f"{name:24}{accuracy:10.2f}{blanks:10,}" for name, accuracy, blanks in rows]
        out.append(f"{'chance':24}{self.chance:10.2f}")
        out.append(f"{f'always {self.majority_answer}':24}{self.majority:10.2f}")
        speed = f"{self.seconds:.1f} s, {self.blanks_per_second:,.1f} blanks/s, padding {self.padding:.1f}%"
        out.append(f"MRR {self.mrr:.4f}; {speed}")
        out.append(
            f"a passage takes {self.forwards_per_passage:.2f} forwards with {self.tokens_per_passage:,.0f} tokens"
        )
        if len(self.weights) > 1:
            out.append(f"weights of the checkpoints: {' '.join(f'{weight:.3f}' for weight in self.weights)}")
        return out + self.notes + breakdown_lines(self.breakdown)


def evaluate(
    checkpoint: PathLike,
    data_bin: PathLike,
    split: str = "valid",
    settings: PartialSettings = AS_TRAINED,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    device: str | None = None,
    fp16: bool = False,
    bf16: bool = False,
    weights: Sequence[float] | None = None,
    fit_weights: str | None = None,
    predictions_path: PathLike | None = None,
    with_breakdown: bool = False,
) -> Evaluation:
    """Score a split of a data-bin.

    Inside :func:`fairseq_cloze.ranking.sharing.joined` the work is shared, and all workers get the result.

    Args:
        checkpoint: one, or several with colons between them, whose probabilities are averaged
        data_bin: what ``fairseq-cloze prepare`` wrote
        split: name of a split
        settings: how to score; where a value is ``None``, each checkpoint has its own
        batch_size, max_tokens: as for :meth:`fairseq_cloze.ranking.ranker.Scorer.score`
        device, fp16, bf16: as for :class:`fairseq_cloze.ranking.ranker.Scorer`
        weights: of the checkpoints in the average; equal where they are not given
        fit_weights: split on which to fit the weights, see :func:`fairseq_cloze.ranking.ensemble.fit`
        predictions_path: prediction file to write, see :mod:`fairseq_cloze.ranking.answers`
        with_breakdown: add accuracy by groups of blanks, see :mod:`fairseq_cloze.ranking.breakdown`

    Raises:
        ClozeError: checkpoint and data-bin cannot be read or do not belong together
    """
    if weights is not None and fit_weights is not None:
        raise ClozeError("--weights and --fit-weights: expected one of them, as fitting chooses the weights")
    data = DataBin(data_bin)
    store = data.open(split)
    where = f"data-bin {data.folder}"
    ensemble = Ensemble(split_paths(checkpoint), data.vocabulary, where, settings, device, fp16, bf16, weights)
    limits = (batch_size, max_tokens)
    if fit_weights is not None:
        fitted = data.open(fit_weights)
        total = fitted.blanks * len(ensemble.scorers)
        with _progress(f"fit on {fit_weights}", total) as progress:
            ensemble.fit(fitted, fit_weights, *limits, progress)
    total = store.blanks * len(ensemble.scorers)
    with _progress(f"evaluate {split}", total) as progress:
        scores = ensemble.score(store, *limits, progress)
    options = {"checkpoint": str(checkpoint), "data_bin": str(data_bin), "split": split, "fp16": fp16, "bf16": bf16}
    return sharing.from_first(lambda: _judge(ensemble, data, store, scores, options, predictions_path, with_breakdown))


def _judge(
    ensemble: Ensemble,
    data: DataBin,
    store: Store,
    scores: Scores,
    options: dict[str, Any],
    predictions_path: PathLike | None,
    with_breakdown: bool,
) -> Evaluation:
    scorer = ensemble.scorers[0]
    found = Answers(scores.log_probabilities, store)
    counts = found.counts
    if predictions_path is not None:
        write_predictions(predictions_path, make_predictions(store, found.answers, found.probabilities))
    letters = np.bincount(store.columns["gold"][store.columns["gold"] >= 0], minlength=1)
    metrics = metrics_of(counts)
    figures: dict[str, Any] = {**asdict(scorer.settings), **metrics}
    figures.update((name, counts[name]) for name in ("n_blanks", "n_one_token", "n_multi_token", "n_unlabelled"))
    evaluation = Evaluation(
        **figures,
        **options,
        weights=ensemble.weights,
        encoding=data.encoding.to_dict(),
        device=str(scorer.device),
        majority=100.0 * int(letters.max()) / counts["n_blanks"] if counts["n_blanks"] else float("nan"),
        majority_answer=LETTERS[int(letters.argmax())],
        seconds=scores.seconds,
        blanks_per_second=store.blanks / scores.seconds,
        tokens_per_second=scores.tokens / scores.seconds,
        forwards_per_passage=scores.forwards / len(store),
        tokens_per_passage=scores.tokens / len(store),
        padding=100.0 * (scores.computed_tokens - scores.tokens) / scores.computed_tokens,
    )
    evaluation.notes += _notes(evaluation, ensemble.scorers)
    if with_breakdown:
        evaluation.breakdown = break_down(store, data.vocabulary, found.answers)
    return evaluation


def _progress(what: str, total: int | None = None) -> Any:
    """A bar of blanks where the output is a terminal, of the first worker only."""
    return tqdm(total=total, desc=what, unit=" blanks", disable=None if sharing.is_first() else True)


def _notes(evaluation: Evaluation, scorers: Sequence[Scorer]) -> list[str]:
    notes = list(dict.fromkeys(note for scorer in scorers for note in (*scorer.notes, *scorer.memory.notes())))
    if evaluation.n_unlabelled:
        notes.append(f"{evaluation.n_unlabelled:,} blanks are unlabelled and count for nothing above")
    for encoding in dict.fromkeys(scorer.encoding for scorer in scorers):
        if encoding is not None and encoding.to_dict() != evaluation.encoding:
            notes.append(
                f"the checkpoint's text was encoded with {encoding.to_dict()}, "
                f"the data-bin's with {evaluation.encoding}"
            )
    if evaluation.n_blanks:
        low, high = chance_interval(evaluation.chance, evaluation.n_blanks)
        if evaluation.accuracy <= high:
            notes.append(
                f"accuracy is not above chance: guessing gives {low:.1f} to {high:.1f}% in 95 of 100 cases; "
                "see docs/chance.md for the likely causes"
            )
    return notes


# -- predict ---------------------------------------------------------------------------------------------------------


@dataclass
class Prediction:
    """What was predicted.

    Attributes:
        answers: per passage id, or what :class:`fairseq_cloze.ranking.answers.PassagePrediction` holds; empty where
            they were written to a file, and on workers other than the first
        tally: what was read
        counts: sums of :data:`fairseq_cloze.ranking.metrics.COUNTS`; of the first worker
        seconds: wall time of scoring
        notes: what is worth knowing
    """

    answers: dict[str, Any]
    tally: Tally
    counts: dict[str, int]
    seconds: float
    notes: list[str]


def predict(
    checkpoint: PathLike,
    inputs: Sequence[PathLike],
    with_probabilities: bool = False,
    settings: PartialSettings = AS_TRAINED,
    text_norm: str | None = None,
    on_error: str = "stop",
    batch_size: int | None = None,
    max_tokens: int | None = None,
    device: str | None = None,
    fp16: bool = False,
    bf16: bool = False,
    weights: Sequence[float] | None = None,
    out: PathLike | None = None,
) -> Prediction:
    """Answer raw passages, labelled or not.

    Memory does not grow with the number of passages where the answers go to a file.  Inside
    :func:`fairseq_cloze.ranking.sharing.joined` the work is shared: all workers read the passages, and each encodes
    and scores a part of every chunk.

    Args:
        checkpoint: one, with its vocabulary in it or beside it, or several with colons between them
        inputs: files or folders of passages
        with_probabilities: add gold, where there is any, and the probability of every candidate
        settings: how to score
        text_norm: see :class:`fairseq_cloze.data.encoding.EncodingOptions`; as in training where it is not given
        on_error: ``stop`` or ``skip`` passages that do not fit
        batch_size, max_tokens, device, fp16, bf16, weights: as in :func:`evaluate`
        out: file to write the answers to as they come, whole or not at all

    Raises:
        ClozeError: nothing to read, a passage that does not fit, a checkpoint that cannot be used
    """
    paths = split_paths(checkpoint)
    ensemble = Ensemble(paths, None, "the data", settings, device, fp16, bf16, weights)
    first = ensemble.scorers[0]
    encoding = first.encoding or EncodingOptions()
    notes = [note for scorer in ensemble.scorers for note in scorer.notes]
    notes += [
        f"{scorer.path}: its text was encoded with {scorer.encoding.to_dict()}, that of {first.path} with "
        f"{encoding.to_dict()}, which is used"
        for scorer in ensemble.scorers[1:]
        if scorer.encoding is not None and scorer.encoding != encoding
    ]
    if text_norm is not None:
        encoding = replace(encoding, text_norm=text_norm)
    tally = Tally()
    answers: dict[str, Any] = {}
    counts: Counter[str] = Counter({name: 0 for name in COUNTS})
    seconds = 0.0
    passages = read_passages(inputs, on_error, tally)
    with ExitStack() as stack:
        write = stack.enter_context(writing(out)) if out is not None and sharing.is_first() else answers.__setitem__
        progress = stack.enter_context(_progress("predict"))
        for chunks in _chunks(_chunks(passages, _CHUNK), min(sharing.size(), _MOST_CHUNKS)):
            stores = _encode(chunks, first.vocabulary, encoding)
            for store, scores in zip(
                stores, ensemble.score_stores(stores, batch_size, max_tokens, progress), strict=False
            ):
                seconds += scores.seconds
                if not sharing.is_first():
                    continue
                found = Answers(scores.log_probabilities, store)
                counts.update(found.counts)
                for key, prediction in make_predictions(store, found.answers, found.probabilities).items():
                    write(key, prediction.to_dict() if with_probabilities else prediction.answers)
        tally.require_passages(inputs)
    notes += [note for scorer in ensemble.scorers for note in scorer.memory.notes()]
    return Prediction(answers, tally, dict(counts), seconds, notes)


def _encode(chunks: Sequence[list[Passage]], vocabulary: Vocabulary, options: EncodingOptions) -> list[Store]:
    """A store for each chunk; every worker encodes an equal part of each."""
    parts = []
    for chunk in chunks:
        start, end = (len(chunk) * number // sharing.size() for number in (sharing.rank(), sharing.rank() + 1))
        parts.append(encode_passages(chunk[start:end], vocabulary, options) if start < end else None)
    by_worker = sharing.everybodys(parts)
    return [
        Store.from_columns([part for part in chunk_parts if part is not None], len(vocabulary))
        for chunk_parts in zip(*by_worker)
    ]


def _chunks(entries: Iterator[T], size: int) -> Iterator[list[T]]:
    while True:
        chunk = list(islice(entries, size))
        if not chunk:
            return
        yield chunk
