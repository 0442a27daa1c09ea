"""Ranker: any masked LM ready to rank the candidates of blanks, outside of training."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from ..data.encoding import DEFAULT_ENCODING, encode_passages
from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError, PassageError
from ..files import PathLike
from ..passages.markers import Marker, compile_marker
from ..passages.passage import UNLABELLED, Passage
from ..views.settings import AS_TRAINED, PartialSettings
from ..weights.checkpoint import Checkpoint
from ..weights.finding import open_checkpoint
from . import sharing
from .answers import gold_of
from .member import Member
from .resources import DEFAULT_RESOURCES, Resources
from .scores import Outcome, Scores, fit_weights, merge, mix, shares_of

T = TypeVar("T")

_CHUNK = 256  # passages that rank_many batches together

#: What :meth:`Ranker.rank_many` takes for a passage.
PassageLike = Passage | tuple[str, Sequence[Sequence[str]]] | Mapping[str, Any]


@dataclass(frozen=True)
class Ranked:
    """The candidates of one blank, ranked.

    Attributes:
        options: the candidates, as given but stripped
        scores: of each, as the model gives them, higher is better; they compare within a blank only.  Of several
            checkpoints, the logarithm of the averaged probability
        probabilities: softmax over the blank's candidates, they sum to 1; equal candidates share theirs
        best: index of the best candidate, the first of equals
    """

    options: tuple[str, ...]
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    best: int

    @property
    def answer(self) -> str:
        """The best candidate; as it was given also where it means "nothing goes here"."""
        return self.options[self.best]

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the candidates, the best one first."""
        return tuple(sorted(range(len(self.options)), key=lambda index: -self.scores[index]))


class Ranker:
    """One checkpoint, or several whose probabilities are averaged, ready to rank.

    :func:`fairseq_cloze.load` makes one from names of files.  Each checkpoint scores in a view and with a scorer of its
    own where nothing else is asked for; all share one vocabulary.

    Args:
        checkpoints: at least one
        vocabulary, where: what passages are encoded with, and its name in messages; the first checkpoint's by default
        settings: how to score; where something is left open, as each checkpoint was trained
        resources: what it may use
        weights: of the checkpoints in the average, not negative; equal where they are not given
        language: of the texts, one of :data:`fairseq_cloze.passages.choices.LANGUAGES`; that of the first checkpoint's
            training, or else ``en``, where it is not given
        blank: regular expression of what stands for a blank in the texts; runs of underscores where it is not given

    Attributes:
        members, weights: the checkpoints, and their weights, which sum to 1
        vocabulary, encoding: what and how text is encoded with

    Raises:
        CheckpointError: a checkpoint cannot be used, or they do not belong together
        ClozeError: settings or weights that do not fit, a device that cannot be used
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        vocabulary: Vocabulary | None = None,
        where: str = "the data",
        settings: PartialSettings = AS_TRAINED,
        resources: Resources = DEFAULT_RESOURCES,
        weights: Sequence[float] | None = None,
        language: str | None = None,
        blank: str | None = None,
    ) -> None:
        self._marker = compile_marker(blank)
        self.weights = shares_of(weights, len(checkpoints))
        if vocabulary is None:
            vocabulary, where = checkpoints[0].require_vocabulary(), checkpoints[0].name
        self.vocabulary = vocabulary
        self.resources = resources
        self.members = [Member(each, vocabulary, where, settings, resources) for each in checkpoints]
        self.encoding = self.members[0].encoding or DEFAULT_ENCODING
        if language is not None:
            self.encoding = replace(self.encoding, language=language)

    def __repr__(self) -> str:
        return f"Ranker({', '.join(repr(member.name) for member in self.members)})"

    @property
    def notes(self) -> list[str]:
        """What to tell the user about the checkpoints and about memory; each note once."""
        return list(dict.fromkeys(note for member in self.members for note in member.notes))

    def rank(self, text: str, options: Sequence[Sequence[str]]) -> list[Ranked]:
        """Rank the candidates of the blanks of a text.

        Args:
            text: with a run of underscores, or what :class:`Ranker` was told, for each blank
            options: per blank 2 to 127 candidates; ``/`` or an empty one means "nothing goes here"

        Returns:
            one result per blank, in order

        Raises:
            PassageError: text and options do not fit; names the blank and the field
            ClozeError: the model returns no numbers, or memory does not suffice
        """
        return next(self._rank([_checked((text, options), "text", self._marker)]))

    def rank_many(self, passages: Iterable[PassageLike]) -> Iterator[list[Ranked]]:
        """Rank the blanks of many passages, batched by length.

        Passages are taken and results given a few hundred at a time, so memory does not grow with their number.

        Args:
            passages: each a pair of text and options as for :meth:`rank`, a dictionary as in the files of passages
                (``article``, ``options``, ...), or a :class:`fairseq_cloze.passages.passage.Passage`

        Yields:
            for each passage, in order, one result per blank

        Raises:
            PassageError: a passage does not fit; names its number, from 1 on, or its ``id``, the blank and the field
            ClozeError: the model returns no numbers, or memory does not suffice
        """
        checked = (_checked(passage, f"passage {number}", self._marker) for number, passage in enumerate(passages, 1))
        for chunk in chunked(checked, _CHUNK):
            yield from self._rank(chunk)

    def _rank(self, passages: Sequence[Passage]) -> Iterator[list[Ranked]]:
        store = self.encode(passages)
        scores = self.score(store)
        outcome = Outcome(scores, store)
        ends = store.candidate_offsets.tolist()
        first = store.columns["candidate_first"]
        blank = 0
        for passage in passages:
            results = []
            for options in passage.candidates:
                own = scores.raw[blank, first[ends[blank] : ends[blank + 1]]]  # equal ones score as the first
                probabilities = outcome.probabilities[blank, : len(options)]
                best = int(outcome.best[blank])
                results.append(Ranked(options, tuple(own.tolist()), tuple(probabilities.tolist()), best))
                blank += 1
            yield results

    def encode(self, passages: Sequence[Passage]) -> Store:
        """Passages as the model takes them."""
        columns = encode_passages(passages, self.vocabulary, self.encoding)
        return Store.from_columns([columns], len(self.vocabulary))

    def score(self, store: Store, progress: Any | None = None) -> Scores:
        """Score every blank of a store; *progress*, a tqdm bar, counts those of each checkpoint.

        Raises:
            ClozeError: an item costs more than ``max_tokens``, or the model returns no numbers
            OutOfMemory: an item does not fit into memory alone
        """
        return self.score_stores([store], progress)[0]

    def score_stores(self, stores: Sequence[Store], progress: Any | None = None) -> list[Scores]:
        """As :meth:`score` for several stores; workers wait for each other once."""
        scored = self._score_apart(stores, progress)
        return [parts[0] if len(parts) == 1 else mix(parts, self.weights) for parts in scored]

    def _score_apart(self, stores: Sequence[Store], progress: Any | None) -> Iterator[list[Scores]]:
        """Scores of each store by each member."""
        shares = [member.score_share(store, self.resources, progress) for store in stores for member in self.members]
        return chunked(iter(merge(shares)), len(self.members))

    def fit(self, store: Store, split: str, progress: Any | None = None) -> None:
        """Fit the weights on a split, see :func:`fit_weights`; ``ClozeError`` where it has no labelled blank."""
        gold = gold_of(store)
        labelled = np.flatnonzero(gold != UNLABELLED)
        if not len(labelled):
            raise ClozeError(f"split '{split}': expected labelled blanks to fit weights on, found none; name another")
        [scored] = self._score_apart([store], progress)
        right = [scores.log_probabilities[labelled, gold[labelled]] for scores in scored]
        self.weights = sharing.from_first(lambda: fit_weights(np.stack(right)))


def load(
    path: PathLike,
    *more: PathLike,
    weights: Sequence[float] | None = None,
    device: str | None = None,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    view: str | None = None,
    scorer: str | None = None,
    other_blanks: str | None = None,
    contrast: float | None = None,
    gpt2_bpe: PathLike | None = None,
    language: str | None = None,
    blank: str | None = None,
) -> Ranker:
    """Load weights to rank with, in place: nothing is converted or written.

    Args:
        path: a checkpoint of this project or of fairseq, a folder of weights, a local folder of Hugging Face's, or the
            name of a masked LM on the hub
        more: further ones; probabilities are averaged then
        weights: one for each in the average; equal where they are not given
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA where there is one
        fp16, bf16: compute in half precision, or in bfloat16 where that is safe
        int8: multiply the encoder's weights as 8-bit integers, on CPUs with VNNI or AMX
        batch_size, max_tokens: most items and tokens in a batch, 4096 tokens where neither limit is given
        view: ``joint``, ``full`` or ``neighbors``; as each checkpoint was trained where it is not given, and so below
        scorer: ``mean``, ``kmask``, ``l2r`` or ``head``
        other_blanks: ``remove``, ``mask`` or ``gold``, for view ``full``
        contrast: 0 to 1, for view ``joint``
        gpt2_bpe: folder with ``encoder.json``, ``vocab.bpe`` and ``dict.txt``, for weights that come without them, such
            as fairseq's releases, and Hugging Face models without tokenizer files
        language: of the texts, ``en``, ``fr`` or ``zh``; as in training where it is not given
        blank: regular expression of what stands for a blank in the texts; runs of underscores where it is not given

    Returns:
        a ranker

    Raises:
        CheckpointError: there are no such weights, or they cannot be used
        ClozeError: settings or weights that do not fit, a device that cannot be used
    """
    checkpoints = [open_checkpoint(each, gpt2_bpe) for each in (path, *more)]
    vocabulary = None
    if gpt2_bpe is not None and checkpoints[0].vocabulary is None:
        vocabulary = Vocabulary.load(gpt2_bpe)
    settings = PartialSettings(view, scorer, other_blanks, contrast)
    resources = Resources(device, batch_size, max_tokens, fp16, bf16, int8)
    return Ranker(checkpoints, vocabulary, str(gpt2_bpe), settings, resources, weights, language, blank)


def chunked(entries: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of *size* entries, the last one of those that are left."""
    while chunk := list(islice(entries, size)):
        yield chunk


def _checked(passage: PassageLike, source: str, marker: Marker | None = None) -> Passage:
    """A passage that fits the input format; ``PassageError`` where it does not."""
    if isinstance(passage, Passage):
        return passage
    fields: Any = passage
    if isinstance(passage, tuple) and len(passage) == 2:
        fields = {"article": passage[0], "options": passage[1]}
    if isinstance(fields, Mapping) and isinstance(fields.get("id"), str):
        source = f"{source} ('{fields['id']}')"
    try:
        if not isinstance(fields, Mapping):
            found = type(passage).__name__
            raise PassageError(source, f"expected a pair of text and options, or a dictionary, found {found}")
        try:
            return Passage.from_json(json.loads(json.dumps(dict(fields))), source, source, marker)
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"expected strings and numbers in lists, found something else ({error})"
            raise PassageError(source, problem) from error
    except PassageError as error:
        error.args = (f"{error.source}: {error.problem}",)  # what else it says is for the command line
        raise
