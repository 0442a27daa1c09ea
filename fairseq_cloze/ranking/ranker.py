"""Scorer: a checkpoint, or several, ready to score passages outside of training.

Any RoBERTa checkpoint of fairseq will do: fine-tuned, imported, or one of fairseq's own releases.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..data.store import Store
from ..data.vocabulary import PAD, Vocabulary
from ..errors import ClozeError
from ..files import PathLike
from ..model.architecture import Architecture
from ..model.memory import Limit, cannot_split, in_pieces
from ..model.names import HEAD_NAME, HEADS
from ..model.scores import candidate_scores, filled_scores
from ..plugin.dataset import ClozeDataset
from ..plugin.model import ClozeRobertaConfig, ClozeRobertaModel
from ..plugin.task import make_dictionary
from ..views.joint import JointView
from ..views.making import make_view
from ..views.settings import AS_TRAINED, PartialSettings
from ..views.view import Item, Sample, View, blank_fields, pad_rows, to_device
from ..weights.checkpoint import Checkpoint
from . import sharing
from .metrics import count_metrics, predictions, probabilities

#: Most tokens of a batch where neither limit is given, unless one item alone costs more.
DEFAULT_MAX_TOKENS = 4096


@dataclass
class Scores:
    """Scores of all blanks of one store.

    Attributes:
        log_probabilities: of each candidate, ``-inf`` where there is none or it repeats an earlier one,
            ``float32 (blanks, candidates)``
        forwards: rows of input
        tokens: computed tokens that are not padding
        computed_tokens: all computed tokens
        seconds: wall time of scoring; of the slowest worker where several share it
        scored: numbers of the blanks that this worker has scored, batch by batch
    """

    log_probabilities: np.ndarray
    forwards: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    scored: list[np.ndarray] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Count the input of a batch."""
        source = sample["net_input"]["src_tokens"]
        self.forwards += len(source)
        self.tokens += int(source.ne(PAD).sum())
        self.computed_tokens += source.numel()


def merge(shares: list[Scores]) -> list[Scores]:
    """Put the shares of all workers together, each of some stores; complete on the first worker only."""
    if sharing.size() == 1:
        return shares
    sent = []
    for share in shares:
        blanks = np.concatenate([np.empty(0, np.int64), *share.scored])
        sent.append((blanks, share.log_probabilities[blanks], share.forwards, share.tokens, share.computed_tokens))
    seconds = [max(times) for times in zip(*sharing.everybodys([share.seconds for share in shares]))]
    others = sharing.first_gets(sent)
    for number, out in enumerate(shares):
        out.seconds = seconds[number]
        for theirs in others[1:] if others else []:
            blanks, scores, forwards, tokens, computed_tokens = theirs[number]
            out.log_probabilities[blanks] = scores
            out.forwards += forwards
            out.tokens += tokens
            out.computed_tokens += computed_tokens
    return shares


class Answers:
    """What scores say.

    Args:
        log_probabilities: see :class:`Scores`
        store: the split they are of

    Attributes:
        answers: index of the best candidate, the first of equals, ``int64 (blanks,)``
        probabilities: of each candidate, 0 where there is none; equal ones share theirs,
            ``float32 (blanks, candidates)``
        counts: sums of :data:`fairseq_cloze.ranking.metrics.COUNTS`
    """

    def __init__(self, log_probabilities: np.ndarray, store: Store) -> None:
        scores = torch.from_numpy(log_probabilities)
        fields = blank_fields(store, np.arange(store.blanks))
        self.answers: np.ndarray = predictions(scores).numpy()
        self.probabilities: np.ndarray = probabilities(scores, fields["first"], fields["exists"]).numpy()
        self.counts: dict[str, int] = count_metrics(scores, fields)


class Scorer:
    """A checkpoint, ready to score.

    Args:
        checkpoint: RoBERTa of fairseq
        vocabulary: what the passages are encoded with; the checkpoint's own where it is not given
        where: origin of *vocabulary*, for messages
        settings: how to score
        device: ``cpu``, ``cuda``, ...; CUDA where there is one
        fp16: compute in half precision
        bf16: compute in bfloat16 where that is safe

    Raises:
        CheckpointError: it cannot be read, or does not belong to the vocabulary, or has no ranking head to score with
    """

    def __init__(
        self,
        checkpoint: PathLike,
        vocabulary: Vocabulary | None = None,
        where: str = "the data",
        settings: PartialSettings = AS_TRAINED,
        device: str | None = None,
        fp16: bool = False,
        bf16: bool = False,
    ) -> None:
        self.path = Path(checkpoint)
        source = Checkpoint.read(checkpoint)
        self.settings = settings.completed(source.carried)
        self.encoding = source.encoding
        self.architecture = source.architecture
        vocabulary = vocabulary or source.require_vocabulary()
        line, proved = source.check_vocabulary(vocabulary, where)
        #: what the user should know of the checkpoint
        self.notes = [] if proved else [line]
        #: what is known of the memory
        self.memory = Limit()
        self.vocabulary = vocabulary
        self.device = _device(device)
        self.fp16 = fp16
        weights = source.weights
        head = self.settings.scorer == "head"
        if head:
            source.require_ranking_head()
        model = build_model(self.architecture, vocabulary, head, bf16)
        unused = source.heads - {HEAD_NAME if head else ""}
        if unused:
            self.notes.append(f"heads of the checkpoint that are not used: {', '.join(sorted(unused))}")
            others = tuple(f"{HEADS}{name}." for name in unused)
            weights = {name: value for name, value in weights.items() if not name.startswith(others)}
        model.load_state_dict(weights, strict=True)
        self.model = (model.half() if fp16 else model.float()).to(self.device).eval()

    def score(
        self,
        store: Store,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        progress: Any | None = None,
    ) -> Scores:
        """Score every blank of a store, shared with other workers where there are some.

        Workers other than the first get no more than their own share of the scores, see :func:`merge`.

        Args:
            store: encoded with this scorer's vocabulary
            batch_size: most items in a batch
            max_tokens: most tokens in a batch, padding and every candidate counted; candidates that ``refine`` and
                ``cascade`` fill in come on top
            progress: a tqdm bar that counts blanks

        Where memory runs out, a batch is scored in halves, with the same scores; :attr:`memory` counts it.

        Raises:
            ClozeError: an item costs more than *max_tokens*, or the model returns no numbers
            OutOfMemory: an item does not fit into memory alone
        """
        return merge([self.score_share(store, batch_size, max_tokens, progress)])[0]

    def score_share(
        self,
        store: Store,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        progress: Any | None = None,
    ) -> Scores:
        """Score the batches that this worker is dealt, see :meth:`score` and :func:`merge`."""
        view = make_view(self.settings, store, self.vocabulary, self.architecture.max_positions)
        dataset = ClozeDataset(view, shuffle=False)
        if batch_size is None and max_tokens is None:
            max_tokens = max(DEFAULT_MAX_TOKENS, int(view.cost.max(initial=0)))
        width = int(np.diff(store.candidate_end).max(initial=1))
        out = Scores(np.full((store.blanks, width), -np.inf, dtype=np.float32))
        start = time.perf_counter()
        shown = 0
        batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens, batch_size)
        for number in sharing.deal(len(batches)):
            batch = batches[number]
            blanks = self._score_items(view, [view.item(int(index)) for index in batch], out)
            out.scored.append(blanks)
            if isinstance(view, JointView):
                windows = [_Window(int(index), view.blanks_of(int(index))) for index in batch]
                for step in range(1, self.settings.refine + 1):
                    self._refine(view, windows, step / (self.settings.refine + 1), out)
                if self.settings.cascade:
                    self._cascade(view, windows, out)
            if progress is not None:  # others do as much meanwhile
                step = min(sharing.size() * len(blanks), store.blanks - shown)
                shown += step
                progress.update(step)
        out.seconds = time.perf_counter() - start
        if progress is not None:
            progress.update(store.blanks - shown)
        return out

    def _score_items(self, view: View, items: list[Item], out: Scores) -> np.ndarray:
        """Score the blanks of a batch into *out* and return their numbers."""

        def cost(piece: Sequence[Item]) -> int:
            numbers = [item["index"] for item in piece]
            return int(view.row_length[numbers].max() * view.rows[numbers].sum())

        def too_large(item: Item) -> NoReturn:
            passage = view.store.id(view.passage_of(item["index"]))
            advice = "--device cpu has more memory, --fp16 or --bf16 need less"
            raise cannot_split(f"passage '{passage}'", cost([item]), advice)

        return np.concatenate(
            in_pieces(items, lambda piece: self._score_piece(view, piece, out), cost, self.memory, too_large)
        )

    def _score_piece(self, view: View, items: Sequence[Item], out: Scores) -> np.ndarray:
        sample = view.collate(items)
        with torch.inference_mode():
            scores = candidate_scores(self.model, to_device(sample, self.device), self.settings).cpu()
        blanks: np.ndarray = sample["blanks"].numpy()
        self._check(scores, sample["distinct"], blanks, view.store)
        out.add(sample)
        out.log_probabilities[blanks, : scores.size(1)] = scores.log_softmax(dim=1).numpy()
        return blanks

    def _refine(self, view: JointView, windows: list[_Window], share: float, out: Scores) -> None:
        """Commit the most certain blanks of each window until *share* of them are, and score the others again."""
        changed = []
        for window in windows:
            number = int(len(window.blanks) * share) - len(window.committed)
            if number <= 0:
                continue
            left = np.setdiff1d(window.blanks, list(window.committed))
            best = out.log_probabilities[left]
            order = np.argsort(-best.max(axis=1), kind="stable")[:number]
            window.committed.update(zip(left[order].tolist(), best[order].argmax(axis=1).tolist()))
            changed.append(window)
        if changed:
            self._score_items(view, [view.item(window.index, window.committed) for window in changed], out)

    def _cascade(self, view: JointView, windows: list[_Window], out: Scores) -> None:
        """Compare the two best candidates of the most uncertain blanks in the text filled with all other answers.

        Of a blank's probability, the share of these two is divided anew: their log-probabilities so far are added to
        those of the filled text, see :func:`fairseq_cloze.model.scores.filled_scores`.
        """
        chosen: list[int] = []
        pairs: list[list[int]] = []
        rows: list[np.ndarray] = []
        spans: list[tuple[int, int]] = []
        for window in windows:
            scores = out.log_probabilities[window.blanks]
            order = np.argsort(-scores, axis=1, kind="stable")
            answers = dict(zip(window.blanks.tolist(), order[:, 0].tolist()))
            best = np.take_along_axis(scores, order[:, :2], axis=1)
            margin = np.exp(best[:, 0]) - np.exp(best[:, 1])
            for number in np.argsort(margin, kind="stable")[: self.settings.cascade // 2].tolist():
                blank = int(window.blanks[number])
                if not np.isfinite(best[number]).all():
                    continue
                others = {other: answer for other, answer in answers.items() if other != blank}
                tokens, position = view.row_around(window.index, blank, others)
                chosen.append(blank)
                pairs.append(order[number, :2].tolist())
                for candidate in pairs[-1]:
                    fill = view.store.filling(blank, candidate)
                    rows.append(np.concatenate([tokens[:position], fill, tokens[position + 1 :]]))
                    spans.append((position, position + len(fill)))
        if not rows:
            return

        def score_rows(numbers: Sequence[int]) -> Tensor:
            of = [row for number in numbers for row in (2 * number, 2 * number + 1)]
            source, where = pad_rows([rows[row] for row in of]), torch.tensor([spans[row] for row in of])
            sample: Sample = {"net_input": {"src_tokens": source}, "spans": where}
            with torch.inference_mode():
                scores = filled_scores(self.model, to_device(sample, self.device)).cpu()
            out.add(sample)
            return scores.view(-1, 2)

        def cost(numbers: Sequence[int]) -> int:
            return 2 * len(numbers) * max(len(rows[2 * number]) for number in numbers)

        def too_large(number: int) -> NoReturn:
            raise cannot_split("a pair of filled passages", cost([number]), "leave --cascade out")

        filled = torch.cat(in_pieces(range(len(chosen)), score_rows, cost, self.memory, too_large))
        blanks = np.array(chosen)
        self._check(filled, torch.ones_like(filled, dtype=torch.bool), blanks, view.store)
        columns = np.array(pairs)
        before = torch.from_numpy(out.log_probabilities[blanks[:, None], columns])
        after = (before + filled).log_softmax(dim=1) + before.logsumexp(dim=1, keepdim=True)
        out.log_probabilities[blanks[:, None], columns] = after.numpy()

    def _check(self, scores: Tensor, expected: Tensor, blanks: np.ndarray, store: Store) -> None:
        """Make sure that scores are numbers where they are *expected* to be."""
        wrong = scores.isnan().any(dim=1) | (~scores.isfinite() & expected).any(dim=1)
        if wrong.any():
            blank = int(blanks[wrong.numpy()][0])
            passage = int(np.searchsorted(store.blank_end, blank, side="right")) - 1
            number = blank - int(store.blank_end[passage]) + 1
            advice = "score without --fp16" if self.fp16 else "the weights are damaged, take another checkpoint"
            raise ClozeError(
                f"{self.path}: expected numbers as scores, found NaN or infinity for {int(wrong.sum())} blanks, "
                f"first in passage '{store.id(passage)}', blank {number}; {advice}"
            )


class _Window:
    """A window that is being refined: its blanks, and those committed with their answers."""

    def __init__(self, index: int, blanks: np.ndarray) -> None:
        self.index = index
        self.blanks = blanks
        self.committed: dict[int, int] = {}


def build_model(
    architecture: Architecture, vocabulary: Vocabulary, head: bool, bf16: bool = False
) -> ClozeRobertaModel:
    """An untrained model of that shape.

    Args:
        architecture: shape of the encoder
        vocabulary: for the rows of the embedding
        head: with a ranking head
        bf16: compute in bfloat16 where that is safe
    """
    config = SimpleNamespace(**{**asdict_config(ClozeRobertaConfig()), **asdict(architecture), "autocast": bf16})
    task = SimpleNamespace(
        source_dictionary=make_dictionary(vocabulary), max_positions=lambda: architecture.max_positions
    )
    model: ClozeRobertaModel = ClozeRobertaModel.build_model(config, task)
    if head:
        model.register_classification_head(HEAD_NAME, num_classes=1)
    return model


def asdict_config(config: Any) -> dict[str, Any]:
    """Options of a fairseq dataclass without its private fields."""
    return {name: value for name, value in vars(config).items() if not name.startswith("_")}


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ClozeError(f"device {name} cannot be used ({reason}); take cpu, cuda, or cuda:N") from error
    return device
