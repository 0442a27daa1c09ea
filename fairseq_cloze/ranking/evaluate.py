"""Evaluate: score a split of a data-bin, outside of training."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..data.databin import DataBin
from ..data.store import Store
from ..errors import ClozeError
from ..files import PathLike, split_paths
from ..passages.passage import LETTERS
from ..statistics import chance_interval
from ..views.settings import AS_TRAINED, CARRIED, PartialSettings
from ..weights.checkpoint import Checkpoint
from ..weights.finding import open_checkpoint
from . import sharing
from .answers import make_predictions, write_predictions
from .breakdown import Breakdown, break_down, breakdown_lines
from .metrics import metrics_of
from .origin import Source, origin_of
from .ranker import Ranker
from .resources import DEFAULT_RESOURCES, Resources
from .scores import Outcome, Scores


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
    weights: list[float]
    encoding: dict[str, Any]
    device: str
    fp16: bool
    bf16: bool
    int8: bool
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
    checkpoints: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    breakdown: Breakdown = field(default_factory=dict)

    def to_json(self) -> str:
        """The result as JSON; ``null`` where there is no number."""
        values = {key: value if value == value else None for key, value in asdict(self).items()}  # NaN is not itself
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """The result as a table."""
        more = {"full": f", other blanks {self.other_blanks}", "joint": f", contrast {self.contrast:g}"}
        how = f"view {self.view}, scorer {self.scorer}{more.get(self.view, '')}"
        speed = f"{self.seconds:.1f} s, {self.blanks_per_second:,.1f} blanks/s, padding {self.padding:.1f}%"
        out = [
            f"{self.checkpoint} on {self.split} of {self.data_bin} ({how})",
            f"{'':24}{'accuracy %':>10}{'blanks':>10}",
            f"{'all blanks':24}{self.accuracy:10.2f}{self.n_blanks:10,}",
            f"{'one-token candidates':24}{self.accuracy_one_token:10.2f}{self.n_one_token:10,}",
            f"{'multi-token candidates':24}{self.accuracy_multi_token:10.2f}{self.n_multi_token:10,}",
            f"{'chance':24}{self.chance:10.2f}",
            f"{f'always {self.majority_answer}':24}{self.majority:10.2f}",
            f"MRR {self.mrr:.4f}; {speed}",
            f"a passage takes {self.forwards_per_passage:.2f} forwards with {self.tokens_per_passage:,.0f} tokens",
        ]
        if len(self.weights) > 1:
            out.append(f"weights of the checkpoints: {' '.join(f'{weight:.3f}' for weight in self.weights)}")
        return out + self.notes + breakdown_lines(self.breakdown)


def evaluate(
    checkpoint: PathLike | Checkpoint,
    data_bin: PathLike | DataBin,
    split: str = "valid",
    settings: PartialSettings = AS_TRAINED,
    resources: Resources = DEFAULT_RESOURCES,
    weights: Sequence[float] | None = None,
    fit_on: str | None = None,
    predictions_path: PathLike | None = None,
    with_breakdown: bool = False,
) -> Evaluation:
    """Score a split of a data-bin; inside :func:`sharing.joined` all workers share the work and get the result.

    Args:
        checkpoint: one, as a path or read already, or paths of several to average, with colons between them
        data_bin, split: what ``fairseq-cloze prepare`` wrote, as a path or opened already
        settings, resources, weights: as for :class:`fairseq_cloze.ranking.ranker.Ranker`
        fit_on: split on which to fit the weights, see :func:`fairseq_cloze.ranking.scores.fit_weights`
        predictions_path: prediction file to write, see :mod:`fairseq_cloze.ranking.answers`
        with_breakdown: add accuracy by groups of blanks, see :mod:`fairseq_cloze.ranking.breakdown`

    Raises:
        ClozeError: checkpoint and data-bin cannot be read or do not belong together
    """
    if weights is not None and fit_on is not None:
        raise ClozeError("--weights and --fit-weights: expected one of them, as fitting chooses the weights")
    data = data_bin if isinstance(data_bin, DataBin) else DataBin(data_bin)
    store = data.open(split)
    if isinstance(checkpoint, Checkpoint):
        checkpoints, name = [checkpoint], checkpoint.name
    else:
        checkpoints, name = [open_checkpoint(path) for path in split_paths(checkpoint)], str(checkpoint)
    ranker = Ranker(checkpoints, data.vocabulary, f"data-bin {data.folder}", settings, resources, weights)
    if fit_on is not None:
        fitted = data.open(fit_on)
        with sharing.progress(f"fit on {fit_on}", fitted.blanks * len(ranker.members)) as progress:
            ranker.fit(fitted, fit_on, progress)
    with sharing.progress(f"evaluate {split}", store.blanks * len(ranker.members)) as progress:
        scores = ranker.score(store, progress)
    given = {"checkpoint": name, "data_bin": str(data.folder), "split": split, "encoding": data.encoding.to_dict()}

    def judge() -> Evaluation:
        outcome = Outcome(scores, store)
        origin = origin_of(
            checkpoints, ranker.members, ranker.weights, resources, data.encoding.to_dict(), data.folder, split
        )
        if predictions_path is not None:
            write_predictions(predictions_path, make_predictions(store, outcome.best, outcome.probabilities), origin)
        evaluation = _judge(ranker, store, scores, outcome.counts, given)
        evaluation.checkpoints = origin.checkpoints
        if with_breakdown:
            evaluation.breakdown = break_down(store, data.vocabulary, outcome.best)
        return evaluation

    return sharing.from_first(judge)


def _judge(ranker: Ranker, store: Store, scores: Scores, counts: dict[str, int], given: dict[str, Any]) -> Evaluation:
    letters = np.bincount(store.columns["gold"][store.columns["gold"] >= 0], minlength=1)
    figures: dict[str, Any] = {name: getattr(ranker.members[0].settings, name) for name in CARRIED}
    figures |= metrics_of(counts)
    figures |= {name: counts[name] for name in ("n_blanks", "n_one_token", "n_multi_token", "n_unlabelled")}
    evaluation = Evaluation(
        **given,
        **figures,
        weights=ranker.weights,
        device=str(ranker.members[0].device),
        fp16=ranker.resources.fp16,
        bf16=ranker.resources.bf16,
        int8=ranker.members[0].int8,
        majority=100.0 * int(letters.max()) / counts["n_blanks"] if counts["n_blanks"] else float("nan"),
        majority_answer=LETTERS[int(letters.argmax())],
        seconds=scores.seconds,
        blanks_per_second=store.blanks / scores.seconds,
        tokens_per_second=scores.tokens / scores.seconds,
        forwards_per_passage=scores.forwards / len(store),
        tokens_per_passage=scores.tokens / len(store),
        padding=100.0 * (scores.computed_tokens - scores.tokens) / scores.computed_tokens,
    )
    notes = evaluation.notes
    notes += ranker.notes
    if evaluation.n_unlabelled:
        notes.append(f"{evaluation.n_unlabelled:,} blanks are unlabelled and count for nothing above")
    for own in {member.encoding: member.encoding.to_dict() for member in ranker.members if member.encoding}.values():
        if own != evaluation.encoding:
            notes.append(f"the checkpoint's text was encoded with {own}, the data-bin's with {evaluation.encoding}")
    if evaluation.n_blanks:
        low, high = chance_interval(evaluation.chance, evaluation.n_blanks)
        if evaluation.accuracy <= high:
            notes.append(
                f"accuracy is not above chance: guessing gives {low:.1f} to {high:.1f}% in 95 of 100 cases; "
                "see docs/chance.md for the likely causes"
            )
    return evaluation
