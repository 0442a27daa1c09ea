"""Evaluate and predict: score passages with a checkpoint, outside of training.

Any RoBERTa checkpoint of fairseq will do: fine-tuned, imported, or one of fairseq's own releases.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .breakdown import Breakdown, break_down, breakdown_lines
from .checkpoints import (
    HEAD_NAME,
    HEADS,
    Architecture,
    check_vocabulary,
    load_state,
    read_architecture,
    read_task_state,
    require_ranking_head,
    require_vocabulary,
    roberta_weights,
)
from .databin import DataBin
from .dataset import ClozeDataset
from .encoding import EncodingOptions, encode_passages
from .errors import ClozeError
from .files import PathLike
from .model import ClozeRobertaConfig, ClozeRobertaModel, finish_model
from .passages import LETTERS, UNLABELLED, Tally, read_passages
from .predictions import make_predictions, write_predictions
from .ranking import COUNTS, count_metrics, metrics_of, predictions, probabilities
from .scoring import candidate_scores
from .settings import DEFAULT_SETTINGS, Settings
from .store import Store
from .task import make_dictionary
from .views import Sample, make_view
from .vocabulary import Vocabulary

#: Most tokens of a batch where neither limit is given, unless one item alone costs more.
DEFAULT_MAX_TOKENS = 4096

_CHUNK = 2048  # passages that predict holds at a time


@dataclass
class Scores:
    """Scores of the blanks of one store.

    Attributes:
        answers: index of the best candidate, ``int64 (blanks,)``
        probabilities: of each candidate, 0 where there is none, ``float32 (blanks, candidates)``
        counts: sums of :data:`fairseq_cloze.ranking.COUNTS`
        tokens: computed tokens that are not padding
        computed_tokens: all computed tokens
        seconds: wall time of scoring
    """

    answers: np.ndarray
    probabilities: np.ndarray
    counts: Dict[str, int]
    tokens: int
    computed_tokens: int
    seconds: float


class Scorer:
    """A checkpoint, ready to score.

    Args:
        checkpoint: RoBERTa of fairseq
        vocabulary: what the passages are encoded with; the checkpoint's own where it is not given
        where: origin of *vocabulary*, for messages
        settings: view and scorer
        device: ``cpu``, ``cuda``, ...; CUDA where there is one
        fp16: compute in half precision

    Raises:
        CheckpointError: it cannot be read, or does not belong to the vocabulary, or has no ranking head to score with
    """

    def __init__(
        self,
        checkpoint: PathLike,
        vocabulary: Optional[Vocabulary] = None,
        where: str = "the data",
        settings: Settings = DEFAULT_SETTINGS,
        device: Optional[str] = None,
        fp16: bool = False,
    ) -> None:
        self.path = Path(checkpoint)
        state = load_state(self.path)
        carried = read_task_state(state)
        self.settings = settings.completed(carried)
        self.encoding = EncodingOptions(**carried["encoding"]) if carried else None
        self.architecture = read_architecture(state, self.path)
        vocabulary = vocabulary or require_vocabulary(state, self.path)
        line, proved = check_vocabulary(state, self.path, vocabulary, where)
        #: what the user should know of the checkpoint
        self.notes = [] if proved else [line]
        self.vocabulary = vocabulary
        self.device = _device(device)
        self.fp16 = fp16
        weights = roberta_weights(state, self.path)
        head = self.settings.scorer == "head"
        if head:
            require_ranking_head(state, self.path)
        model = build_model(self.architecture, vocabulary, head)
        heads = {name.split(".")[1] for name in weights if name.startswith(HEADS)} - {HEAD_NAME if head else ""}
        if heads:
            self.notes.append(f"heads of the checkpoint that are not used: {', '.join(sorted(heads))}")
            weights = {name: value for name, value in weights.items() if name.split(".")[1] not in heads}
        model.load_state_dict(weights, strict=True)
        self.model = (model.half() if fp16 else model.float()).to(self.device).eval()

    def score(
        self,
        store: Store,
        batch_size: Optional[int] = None,
        max_tokens: Optional[int] = None,
        progress: Optional[Any] = None,
    ) -> Scores:
        """Score every blank of a store once.

        Args:
            store: encoded with this scorer's vocabulary
            batch_size: most items in a batch
            max_tokens: most tokens in a batch, padding and every candidate counted
            progress: a tqdm bar that counts blanks

        Raises:
            ClozeError: an item costs more than *max_tokens*, or the model returns no numbers
        """
        settings = self.settings
        view = make_view(
            str(settings.view), store, self.vocabulary, self.architecture.max_positions, str(settings.other_blanks)
        )
        dataset = ClozeDataset(view, shuffle=False)
        if batch_size is None and max_tokens is None:
            max_tokens = max(DEFAULT_MAX_TOKENS, int(view.cost.max(initial=0)))
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens, batch_size)
        width = int(np.diff(store.candidate_end).max(initial=1))
        answers = np.full(store.blanks, UNLABELLED, dtype=np.int64)
        chances = np.zeros((store.blanks, width), dtype=np.float32)
        counts: Counter[str] = Counter({name: 0 for name in COUNTS})
        tokens = computed = 0
        start = time.perf_counter()
        for batch in batches:
            sample = view.collate([view.item(int(index)) for index in batch])
            scores, sample = self._score_batch(sample, store)
            counts.update(count_metrics(scores, sample))
            exists = sample["exists"]
            blanks = sample["blanks"].numpy()
            answers[blanks] = predictions(scores).numpy()
            chances[blanks, : scores.size(1)] = probabilities(scores, sample["first"], exists).numpy()
            tokens += sample["ntokens"]
            computed += sample["net_input"]["src_tokens"].numel()
            if progress is not None:
                progress.update(len(blanks))
        return Scores(answers, chances, dict(counts), tokens, computed, time.perf_counter() - start)

    def _score_batch(self, sample: Sample, store: Store) -> Any:
        moved = _move(sample, self.device)
        with torch.inference_mode():
            scores = candidate_scores(self.model, moved, str(self.settings.scorer)).cpu()
        wrong = scores.isnan().any(dim=1) | (~scores.isfinite() & sample["distinct"]).any(dim=1)
        if wrong.any():
            blank = int(sample["blanks"][wrong][0])
            passage = int(np.searchsorted(store.blank_end, blank, side="right")) - 1
            number = blank - int(store.blank_end[passage]) + 1
            advice = "score without --fp16" if self.fp16 else "the weights are damaged, take another checkpoint"
            raise ClozeError(
                f"{self.path}: expected numbers as scores, found NaN or infinity for {int(wrong.sum())} blanks, "
                f"first in passage '{store.id(passage)}', blank {number}; {advice}"
            )
        return scores, sample


def build_model(architecture: Architecture, vocabulary: Vocabulary, head: bool) -> ClozeRobertaModel:
    """An untrained model of that shape.

    Args:
        architecture: shape of the encoder
        vocabulary: for the rows of the embedding
        head: with a ranking head
    """
    config = SimpleNamespace(**{**asdict_config(ClozeRobertaConfig()), **asdict(architecture)})
    task = SimpleNamespace(
        source_dictionary=make_dictionary(vocabulary), max_positions=lambda: architecture.max_positions
    )
    model: ClozeRobertaModel = ClozeRobertaModel.build_model(config, task)
    finish_model(model, architecture.layer_norm_eps)
    if head:
        model.register_classification_head(HEAD_NAME, num_classes=1)
    return model


def asdict_config(config: Any) -> Dict[str, Any]:
    """Options of a fairseq dataclass without its private fields."""
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}


def _device(name: Optional[str]) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClozeError(f"device {name} cannot be used ({reason}); take cpu, cuda, or cuda:N") from error
    return device


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _move(entry, device) for key, entry in value.items()}
    return value


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
    encoding: Dict[str, Any]
    device: str
    fp16: bool
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
    padding: float
    notes: List[str] = field(default_factory=list)
    breakdown: Breakdown = field(default_factory=dict)

    def to_json(self) -> str:
        """The result as JSON; ``null`` where there is no number."""
        values = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> List[str]:
        """The result as a table."""
        rows = [
            ("all blanks", self.accuracy, self.n_blanks),
            ("one-token candidates", self.accuracy_one_token, self.n_one_token),
            ("multi-token candidates", self.accuracy_multi_token, self.n_multi_token),
        ]
        how = f"view {self.view}, scorer {self.scorer}"
        if self.view == "full":
            how += f", other blanks {self.other_blanks}"
        out = [
            f"{self.checkpoint} on {self.split} of {self.data_bin} ({how})",
            f"{'':24}{'accuracy %':>10}{'blanks':>10}",
        ]
        out += [f"{name:24}{accuracy:10.2f}{blanks:10,}" for name, accuracy, blanks in rows]
        out.append(f"{'chance':24}{self.chance:10.2f}")
        out.append(f"{f'always {self.majority_answer}':24}{self.majority:10.2f}")
        speed = f"{self.seconds:.1f} s, {self.blanks_per_second:,.1f} blanks/s, padding {self.padding:.1f}%"
        out.append(f"MRR {self.mrr:.4f}; {speed}")
        return out + self.notes + breakdown_lines(self.breakdown)


def evaluate(
    checkpoint: PathLike,
    data_bin: PathLike,
    split: str = "valid",
    settings: Settings = DEFAULT_SETTINGS,
    batch_size: Optional[int] = None,
    max_tokens: Optional[int] = None,
    device: Optional[str] = None,
    fp16: bool = False,
    predictions_path: Optional[PathLike] = None,
    with_breakdown: bool = False,
) -> Evaluation:
    """Score a split of a data-bin.

    Args:
        checkpoint: RoBERTa of fairseq
        data_bin: folder that ``fairseq-cloze prepare`` wrote
        split: one of its splits
        settings: view and scorer
        batch_size, max_tokens: as in :meth:`Scorer.score`
        device, fp16: as in :class:`Scorer`
        predictions_path: prediction file to write, see :mod:`fairseq_cloze.predictions`
        with_breakdown: add accuracy by groups of blanks, see :mod:`fairseq_cloze.breakdown`

    Raises:
        ClozeError: checkpoint and data-bin cannot be read or do not belong together
    """
    data = DataBin(data_bin)
    store = data.open(split)
    scorer = Scorer(checkpoint, data.vocabulary, f"data-bin {data.folder}", settings, device, fp16)
    with tqdm(total=store.blanks, desc=f"evaluate {split}", unit=" blanks", disable=None) as progress:
        scores = scorer.score(store, batch_size, max_tokens, progress)
    if predictions_path:
        write_predictions(predictions_path, make_predictions(store, scores.answers, scores.probabilities))
    letters = np.bincount(store.columns["gold"][store.columns["gold"] >= 0], minlength=1)
    counts = scores.counts
    metrics = metrics_of(counts)
    blanks = counts["n_blanks"] + counts["n_unlabelled"]
    evaluation = Evaluation(
        checkpoint=str(checkpoint),
        data_bin=str(data_bin),
        split=split,
        view=str(scorer.settings.view),
        scorer=str(scorer.settings.scorer),
        other_blanks=str(scorer.settings.other_blanks),
        encoding=data.encoding.to_dict(),
        device=str(scorer.device),
        fp16=fp16,
        majority=100.0 * int(letters.max()) / counts["n_blanks"] if counts["n_blanks"] else float("nan"),
        majority_answer=LETTERS[int(letters.argmax())],
        n_blanks=counts["n_blanks"],
        n_one_token=counts["n_one_token"],
        n_multi_token=counts["n_multi_token"],
        n_unlabelled=counts["n_unlabelled"],
        seconds=scores.seconds,
        blanks_per_second=blanks / scores.seconds,
        tokens_per_second=scores.tokens / scores.seconds,
        padding=100.0 * (scores.computed_tokens - scores.tokens) / scores.computed_tokens,
        accuracy=metrics["accuracy"],
        mrr=metrics["mrr"],
        chance=metrics["chance"],
        accuracy_one_token=metrics["accuracy_one_token"],
        accuracy_multi_token=metrics["accuracy_multi_token"],
    )
    evaluation.notes += _notes(evaluation, scorer)
    if with_breakdown:
        evaluation.breakdown = break_down(store, data.vocabulary, scores.answers)
    return evaluation


def _notes(evaluation: Evaluation, scorer: Scorer) -> List[str]:
    notes = list(scorer.notes)
    if evaluation.n_unlabelled:
        notes.append(f"{evaluation.n_unlabelled:,} blanks are unlabelled and count for nothing above")
    if scorer.encoding is not None and scorer.encoding.to_dict() != evaluation.encoding:
        notes.append(
            f"the checkpoint's text was encoded with {scorer.encoding.to_dict()}, "
            f"the data-bin's with {evaluation.encoding}"
        )
    if evaluation.n_blanks:
        chance = evaluation.chance / 100.0
        margin = 196.0 * math.sqrt(chance * (1.0 - chance) / evaluation.n_blanks)
        if evaluation.accuracy <= evaluation.chance + margin:
            notes.append(
                f"accuracy is not above chance: guessing gives {evaluation.chance - margin:.1f} to "
                f"{evaluation.chance + margin:.1f}% in 95 of 100 cases; see docs/chance.md for the likely causes"
            )
    return notes


# -- predict ---------------------------------------------------------------------------------------------------------


@dataclass
class Prediction:
    """Answers per passage id; with probabilities, what :class:`fairseq_cloze.predictions.PassagePrediction` holds."""

    answers: Dict[str, Any]
    tally: Tally
    counts: Dict[str, int]
    seconds: float
    notes: List[str]


def predict(
    checkpoint: PathLike,
    inputs: Sequence[PathLike],
    with_probabilities: bool = False,
    settings: Settings = DEFAULT_SETTINGS,
    text_norm: Optional[str] = None,
    on_error: str = "stop",
    batch_size: Optional[int] = None,
    max_tokens: Optional[int] = None,
    device: Optional[str] = None,
    fp16: bool = False,
) -> Prediction:
    """Answer raw passages, labelled or not.

    Args:
        checkpoint: RoBERTa of fairseq, with its vocabulary in it or beside it
        inputs: files or folders of passages
        with_probabilities: add gold, where there is any, and the probability of every candidate
        settings: view and scorer
        text_norm: see :class:`fairseq_cloze.encoding.EncodingOptions`; as in training where it is not given
        on_error: ``stop`` or ``skip`` passages that do not fit
        batch_size, max_tokens, device, fp16: as in :func:`evaluate`

    Raises:
        ClozeError: nothing to read, a passage that does not fit, a checkpoint that cannot be used
    """
    scorer = Scorer(checkpoint, settings=settings, device=device, fp16=fp16)
    encoding = scorer.encoding or EncodingOptions()
    if text_norm is not None:
        encoding = replace(encoding, text_norm=text_norm)
    tally = Tally()
    answers: Dict[str, Any] = {}
    counts: Counter[str] = Counter({name: 0 for name in COUNTS})
    seconds = 0.0
    passages = read_passages(inputs, on_error, tally)
    with tqdm(desc="predict", unit=" blanks", disable=None) as progress:
        for chunk in _chunks(passages, _CHUNK):
            store = Store.from_columns([encode_passages(chunk, scorer.vocabulary, encoding)], len(scorer.vocabulary))
            scores = scorer.score(store, batch_size, max_tokens, progress)
            counts.update(scores.counts)
            seconds += scores.seconds
            for key, prediction in make_predictions(store, scores.answers, scores.probabilities).items():
                answers[key] = prediction.to_dict() if with_probabilities else prediction.answers
    tally.require_passages(inputs)
    return Prediction(answers, tally, dict(counts), seconds, scorer.notes)


def _chunks(passages: Iterator[Any], size: int) -> Iterator[List[Any]]:
    while True:
        chunk = list(islice(passages, size))
        if not chunk:
            return
        yield chunk
