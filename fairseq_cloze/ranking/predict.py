"""Predict: answer raw passages."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from ..data.encoding import EncodingOptions, encode_passages
from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError
from ..files import PathLike, is_stdin, is_stdout, is_stream, split_paths
from ..passages.markers import compile_marker
from ..passages.passage import Passage
from ..passages.reading import Tally, incoming_passages, read_passages
from ..views.settings import AS_TRAINED, PartialSettings
from ..views.view import TooLongError
from ..weights.finding import open_checkpoint
from . import sharing
from .answers import ORIGIN_FIELD, predictions_in_order, writing
from .metrics import COUNTS
from .origin import origin_of
from .ranker import Ranker, chunked
from .resources import DEFAULT_RESOURCES, Resources
from .scores import Outcome, Scores

_CHUNK = 2048  # passages that are batched together
_FIRST, _LATER = 8, 256  # the same where the answers go to a stream: at first, and at most
_CHARACTERS = 1 << 20  # of these passages after which no more are waited for
_PATIENCE = 0.05  # seconds to wait for another passage before those that are there are answered
_MOST_CHUNKS = 16  # that workers hold at a time, and wait for each other after


@dataclass
class Prediction:
    """What was predicted."""

    answers: dict[str, Any]  #: per passage id; empty where they went to a file, and on workers other than the first
    tally: Tally  #: what was read
    counts: dict[str, int]  #: sums of :data:`COUNTS`; of the first worker
    seconds: float  #: wall time of scoring
    notes: list[str]


def predict(
    checkpoint: PathLike,
    inputs: Sequence[PathLike],
    with_probabilities: bool = False,
    settings: PartialSettings = AS_TRAINED,
    resources: Resources = DEFAULT_RESOURCES,
    weights: Sequence[float] | None = None,
    text_norm: str | None = None,
    language: str | None = None,
    blank: str | None = None,
    on_error: str = "stop",
    out: PathLike | None = None,
    tell: Callable[[str, str], None] | None = None,
) -> Prediction:
    """Answer raw passages, labelled or not; memory does not grow with their number where the answers go to a file.

    Answers that go to a stream are written while more passages come in: soon after each other where many are there, and
    at once where the next one is waited for.

    Inside :func:`sharing.joined` all workers read the passages, and each encodes and scores a part of every chunk.

    Args:
        checkpoint: one, with its vocabulary in it or beside it, or several with colons between them
        inputs: files or folders of passages; ``-`` is standard input
        with_probabilities: add gold, where there is any, and the probability of every candidate
        settings, resources, weights: as for :class:`fairseq_cloze.ranking.ranker.Ranker`
        text_norm, language: see :class:`fairseq_cloze.data.encoding.EncodingOptions`; as in training where not given
        blank: regular expression of what stands for a blank; runs of underscores by default
        on_error: ``stop`` or ``skip`` passages that do not fit
        out: file to write the answers to, whole or not at all; or a stream, see :func:`fairseq_cloze.files.is_stream`
        tell: told of each passage that is skipped, where the answers go to a stream

    Raises:
        ClozeError: nothing to read, a passage that does not fit, a checkpoint that cannot be used
    """
    if sharing.size() > 1 and any(map(is_stdin, inputs)):
        raise ClozeError(f"-: standard input cannot be shared by {sharing.size()} processes; give a file")
    marker = compile_marker(blank)
    checkpoints = [open_checkpoint(path) for path in split_paths(checkpoint)]
    ranker = Ranker(checkpoints, settings=settings, resources=resources, weights=weights, language=language)
    encoding, (first, *others) = ranker.encoding, ranker.members
    other_encodings = [
        f"{member.name}: its text was encoded with {member.encoding.to_dict()}, that of {first.name} with "
        f"{encoding.to_dict()}, which is used"
        for member in others
        if member.encoding is not None and member.encoding != encoding
    ]
    if text_norm is not None:
        encoding = replace(encoding, text_norm=text_norm)
    tally, seconds = Tally(), 0.0
    answers: dict[str, Any] = {}
    counts: Counter[str] = Counter({name: 0 for name in COUNTS})
    names_origin = with_probabilities and out is not None and not is_stream(out)  # as a prediction file does
    if out is not None and is_stream(out) and sharing.size() == 1:
        tally.tell = tell
        read = _as_they_come(incoming_passages(inputs, _PATIENCE, on_error, tally, marker))
    else:
        read = chunked(read_passages(inputs, on_error, tally, marker), _CHUNK)
    with ExitStack() as stack:
        write = stack.enter_context(writing(out)) if out is not None and sharing.is_first() else answers.__setitem__
        is_shown = is_stdout(out) and sys.stdout.isatty()  # the answers themselves show how far it is
        progress = None if is_shown else stack.enter_context(sharing.progress("predict"))
        for chunks in chunked(read, min(sharing.size(), _MOST_CHUNKS)):
            for store, scores in _scored(chunks, ranker, encoding, tally if on_error == "skip" else None, progress):
                seconds += scores.seconds
                if not sharing.is_first():
                    continue
                outcome = Outcome(scores, store)
                counts.update(outcome.counts)
                for key, prediction in predictions_in_order(store, outcome.best, outcome.probabilities):
                    write(key, prediction.to_dict() if with_probabilities else prediction.answers)
                    names_origin &= key != ORIGIN_FIELD
        tally.require_passages(inputs)
        if names_origin and sharing.is_first():
            origin = origin_of(
                checkpoints, ranker.members, ranker.weights, resources, encoding.to_dict(), inputs=inputs
            )
            write(ORIGIN_FIELD, origin.to_dict())
    numbering = tally.numbering.problem()
    notes = [*ranker.notes, *other_encodings, *([f"the accuracy means nothing: {numbering}"] if numbering else [])]
    return Prediction(answers, tally, dict(counts), seconds, notes)


def _as_they_come(passages: Iterator[Passage | None]) -> Iterator[list[Passage]]:
    """Passages in lists that grow, so that the first answers come early.

    What is there is answered where the next passage is waited for, and before the error of one that does not fit.
    """
    chunk: list[Passage] = []
    most, characters = _FIRST, 0
    try:
        for passage in passages:
            if passage is not None:
                chunk.append(passage)
                characters += len(passage.article)
            if chunk and (passage is None or len(chunk) == most or characters >= _CHARACTERS):
                yield chunk
                chunk, most, characters = [], min(2 * most, _LATER), 0
    except ClozeError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _scored(
    chunks: list[list[Passage]], ranker: Ranker, encoding: EncodingOptions, tally: Tally | None, progress: Any
) -> Iterator[tuple[Store, Scores]]:
    """A store for each chunk, and its scores; passages that do not fit the model are left out and counted in *tally*.

    Raises:
        TooLongError: a passage does not fit, and there is no tally
    """
    while chunks:
        stores = _encode(chunks, ranker.vocabulary, encoding)
        try:
            scores = ranker.score_stores(stores, progress)
        except TooLongError as error:
            if tally is None:
                raise
            at = error.number
            odd = next(chunk[at] for chunk in chunks if at < len(chunk) and chunk[at].id == error.passage)
            tally.leave_out(odd, error.problem)
            chunks = [rest for chunk in chunks if (rest := [passage for passage in chunk if passage is not odd])]
        else:
            yield from zip(stores, scores, strict=True)
            return


def _encode(chunks: Sequence[list[Passage]], vocabulary: Vocabulary, options: EncodingOptions) -> list[Store]:
    """A store for each chunk; every worker encodes an equal part of each."""
    own, size = sharing.number(), sharing.size()
    parts = []
    for chunk in chunks:
        part = chunk[len(chunk) * own // size : len(chunk) * (own + 1) // size]
        parts.append([encode_passages(part, vocabulary, options)] if part else [])
    return [Store.from_columns(sum(each, []), len(vocabulary)) for each in zip(*sharing.everybodys(parts))]
