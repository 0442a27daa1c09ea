"""Encoding: a passage as embedding rows, with its blanks, candidates and sentence starts.

Encoded passages travel and rest as *columns*: flat numpy arrays over many passages, described by :data:`COLUMNS`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import ClozeError
from ..passages.choices import LANGUAGES, TEXT_NORMS
from ..passages.passage import Passage
from ..passages.text import (
    BLANK,
    NOTHING,
    WHITE_SPACE,
    capitalise,
    normalise,
    opens_sentence,
    plain,
    sentence_breaks,
)
from .vocabulary import Vocabulary, token_type

Columns = dict[str, np.ndarray]

#: Name of a column → its type and what one entry of it is.  Lists are flat, their lengths are a column of their own.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "id_bytes": ("uint8", "byte of a passage id, UTF-8"),
    "id_length": ("int64", "passage"),
    "tokens": ("token", "token of a passage: embedding row, a blank is one mask, no token of begin and end"),
    "token_count": ("int64", "passage"),
    "sentence_start": ("int32", "sentence: offset of its first token in the passage"),
    "sentence_count": ("int64", "passage"),
    "blank_position": ("int32", "blank: offset of its <mask> in the passage"),
    "blank_count": ("int64", "passage"),
    "gold": ("int8", "blank: index of the right candidate, -1 where it is not known"),
    "candidate_count": ("int64", "blank"),
    "candidate_first": ("int8", "candidate: index of the first candidate of the blank with the same text"),
    "candidate_rank": ("float32", "candidate: graded relevance; 1 for gold and 0 for the others where none was given"),
    "candidate_tokens": ("token", "token of a candidate, with the leading space the blank has; none for 'nothing'"),
    "candidate_length": ("int64", "candidate"),
}


@dataclass(frozen=True)
class EncodingOptions:
    """How text becomes tokens; recorded in the manifest and in every result."""

    text_norm: str = "standard"  #: or ``none``, see :func:`fairseq_cloze.passages.text.normalise`
    sentence_case: bool = False  #: capitalise candidates of blanks that open a sentence
    language: str = "en"  #: of the text, one of :data:`fairseq_cloze.passages.choices.LANGUAGES`

    def __post_init__(self) -> None:
        for name, known in (("text_norm", TEXT_NORMS), ("language", LANGUAGES)):
            if getattr(self, name) not in known:
                raise ClozeError(f"{name}: expected one of {', '.join(known)}, found '{getattr(self, name)}'")

    def to_dict(self) -> dict[str, Any]:
        """As JSON writes it."""
        return asdict(self)


DEFAULT_ENCODING = EncodingOptions()


def encode_passages(
    passages: Sequence[Passage], vocabulary: Vocabulary, options: EncodingOptions = DEFAULT_ENCODING
) -> Columns:
    """Encode passages into the arrays of :data:`COLUMNS`.

    Each blank stands in its text as the vocabulary's mask does, and each candidate gets the tokens that it would have
    in the blank's place, see :mod:`fairseq_cloze.data.blanks`.
    """
    plans = [_plan(passage, options) for passage in passages]
    size = vocabulary.token_type.itemsize
    tokens: list[bytes] = []
    candidate_tokens: list[bytes] = []
    out: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    encode = _encode_cut if vocabulary.is_fairseqs else _encode_whole
    for passage, plan, encoded in zip(passages, plans, encode(plans, vocabulary)):
        rows = b"".join(encoded.tokens)
        tokens.append(rows)
        out["id_length"].append(len(passage.id.encode("utf-8")))
        out["token_count"].append(len(rows) // size)
        out["sentence_start"] += encoded.sentences
        out["sentence_count"].append(len(encoded.sentences))
        out["blank_position"] += encoded.positions
        out["blank_count"].append(len(encoded.positions))
        out["gold"] += passage.gold
        found = iter(encoded.candidates)
        for blank, choices in enumerate(plan.candidates):
            out["candidate_count"].append(len(choices))
            out["candidate_first"] += map(choices.index, choices)
            if passage.ranks is not None:
                out["candidate_rank"] += passage.ranks[blank]
            else:
                gold = passage.gold[blank]
                out["candidate_rank"] += [index == gold for index in range(len(choices))]
            candidate_tokens += [next(found) if choice else b"" for choice in choices]
    raw = {
        "id_bytes": "".join(passage.id for passage in passages).encode("utf-8"),
        "tokens": b"".join(tokens),
        "candidate_tokens": b"".join(candidate_tokens),
    }
    out["candidate_length"] = [len(rows) // size for rows in candidate_tokens]
    columns = {name: np.asarray(out[name], dtype=column_dtype(name, len(vocabulary))) for name in COLUMNS}
    return {**columns, **{name: np.frombuffer(raw[name], columns[name].dtype) for name in raw if raw[name]}}


def column_dtype(name: str, rows: int) -> np.dtype:
    """Type of a column in memory and on disk, for a dictionary of *rows* embedding rows."""
    dtype = COLUMNS[name][0]
    return token_type(rows) if dtype == "token" else np.dtype(dtype)


class _Plan(NamedTuple):
    """A passage before it is encoded."""

    article: str
    blanks: list[tuple[int, int]]  #: their spans in the article
    breaks: list[int]  #: where a sentence ends, but for the last one
    candidates: list[list[str]]  #: of each blank; none is ``""``


class _Encoded(NamedTuple):
    """A passage as rows."""

    tokens: list[bytes]  #: parts of the article
    sentences: list[int]  #: first token of each sentence
    positions: list[int]  #: token of each blank
    candidates: list[bytes]  #: those that are not empty, of all blanks


def _plan(passage: Passage, options: EncodingOptions) -> _Plan:
    article = normalise(passage.article, options.text_norm, options.language)
    blanks = [match.span() for match in BLANK.finditer(article)]
    candidates: list[list[str]] = []
    behind = 0
    for (start, end), given in zip(blanks, passage.candidates):
        choices = [
            choice if choice.isalnum() else _candidate(choice, options)  # most are one word
            for choice in given
        ]
        if options.sentence_case and opens_sentence(("_" if behind else "") + article[behind:start], options.language):
            choices = list(map(capitalise, choices))
        candidates.append(choices)
        behind = end
    return _Plan(article, blanks, sentence_breaks(article, options.language), candidates)


def _encode_cut(plans: Sequence[_Plan], vocabulary: Vocabulary) -> Iterator[_Encoded]:
    """For byte-level BPE as RoBERTa has it: texts are cut at blanks and between sentences before they are encoded.

    That changes no token, as it never merges across those places, and makes nearly all words known ones.  The text
    between two blanks loses its trailing white space, as ``<mask>`` takes it in RoBERTa's pretraining input.
    """
    texts: list[str] = []
    parts = [_cut(plan, texts) for plan in plans]
    encoded = iter(vocabulary.encode_raw(texts))
    size = vocabulary.token_type.itemsize
    mask = np.array([vocabulary.mask], dtype=vocabulary.token_type).tobytes()
    for plan, order in zip(plans, parts):
        tokens: list[bytes] = []
        sentences: list[int] = []
        positions: list[int] = []
        length = 0
        for part in order:
            if part is _SENTENCE:
                sentences.append(length)
            elif part is _BLANK:
                positions.append(length)
                tokens.append(mask)
                length += 1
            else:
                rows = next(encoded)
                tokens.append(rows)
                length += len(rows) // size
        count = sum(map(bool, chain.from_iterable(plan.candidates)))
        yield _Encoded(tokens, sentences, positions, list(islice(encoded, count)))


#: Parts of a passage: a text that is encoded, a blank, and the place where a sentence starts.
_TEXT, _BLANK, _SENTENCE = range(3)


def _cut(plan: _Plan, texts: list[str]) -> list[int]:
    """Append the texts of a passage, then of its candidates; return the order of its parts."""
    article = plan.article
    breaks = iter([*plan.breaks, len(article) + 1])
    upcoming = next(breaks)
    parts = [_SENTENCE]
    candidate_texts: list[str] = []
    start = 0
    for number, (blank_start, blank_end) in enumerate([*plan.blanks, (len(article), len(article))]):
        is_blank = number < len(plan.blanks)
        end = start + len(article[start:blank_start].rstrip(WHITE_SPACE)) if is_blank else blank_start
        while start < end:
            cut = min(upcoming, end)
            texts.append(plain(article[start:cut]))
            parts.append(_TEXT)
            if cut == upcoming:
                parts.append(_SENTENCE)
                upcoming = next(breaks)
            start = cut
        if is_blank:
            parts.append(_BLANK)
            space = " " if end < blank_start else ""
            candidate_texts += [space + choice for choice in plan.candidates[number] if choice]
        start = blank_end
    texts += candidate_texts
    return parts


def _encode_whole(plans: Sequence[_Plan], vocabulary: Vocabulary) -> Iterator[_Encoded]:
    """For all others: an article is encoded in one piece, blanks in it, and cut by the places of its tokens."""
    encoder = vocabulary.blanks
    candidates = iter(
        encoder.candidates(
            [
                (" " if before and before in WHITE_SPACE else before, choice)
                for plan in plans
                for (start, _), choices in zip(plan.blanks, plan.candidates)
                for before in [plan.article[max(start - 1, 0) : start]]
                for choice in choices
                if choice
            ]
        )
    )
    for plan, (tokens, starts) in zip(plans, encoder.articles([(plain(plan.article), plan.blanks) for plan in plans])):
        rows = np.frombuffer(tokens, vocabulary.token_type)
        positions = np.flatnonzero(rows == vocabulary.mask)
        shorter = np.cumsum([0, *(end - start - 1 for start, end in plan.blanks)])  # a blank counts as one character
        breaks = np.asarray(plan.breaks, dtype=np.int64)
        ends = np.asarray([end for _, end in plan.blanks], dtype=np.int64)
        breaks -= shorter[np.searchsorted(ends, breaks, side="right")]
        sentences = [0, *np.searchsorted(starts, breaks).tolist()]
        count = sum(map(bool, chain.from_iterable(plan.candidates)))
        yield _Encoded([tokens], sentences, positions.tolist(), list(islice(candidates, count)))


def _candidate(choice: str, options: EncodingOptions) -> str:
    choice = normalise(choice, options.text_norm, options.language).strip()
    return "" if choice in NOTHING else choice
