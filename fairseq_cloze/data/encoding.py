"""Encoding: a passage as embedding rows, with its blanks, candidates and sentence starts.

Encoded passages travel and rest as *columns*: flat numpy arrays over many passages, described by :data:`COLUMNS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ClozeError
from ..passages.passage import Passage
from ..passages.text import (
    BLANK,
    LANGUAGES,
    NOTHING,
    TEXT_NORMS,
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
    "tokens": ("token", "token of a passage: embedding row, a blank is one <mask>, no <s> and </s>"),
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
    language: str = "en"  #: of the text, one of :data:`fairseq_cloze.passages.text.LANGUAGES`

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

    The text between two blanks loses its trailing white space, as ``<mask>`` takes it in RoBERTa's pretraining input;
    a candidate gets one leading space where its blank had white space before it.  Text is cut at blanks and between
    sentences before it is encoded, which changes no token: byte-level BPE never merges across those places.
    """
    texts: list[str] = []
    plans = [_plan(passage, options, texts) for passage in passages]
    encoded = iter(vocabulary.encode_raw(texts))
    size = vocabulary.token_type.itemsize
    mask = np.array([vocabulary.mask], dtype=vocabulary.token_type).tobytes()
    tokens: list[bytes] = []
    candidate_tokens: list[bytes] = []
    out: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for passage, (plan, candidates) in zip(passages, plans):
        sentences: list[int] = []
        positions: list[int] = []
        length = 0
        for part in plan:
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
        out["id_length"].append(len(passage.id.encode("utf-8")))
        out["token_count"].append(length)
        out["sentence_start"] += sentences
        out["sentence_count"].append(len(sentences))
        out["blank_position"] += positions
        out["blank_count"].append(len(positions))
        out["gold"] += passage.gold
        for blank, choices in enumerate(candidates):
            out["candidate_count"].append(len(choices))
            out["candidate_first"] += map(choices.index, choices)
            if passage.ranks is not None:
                out["candidate_rank"] += passage.ranks[blank]
            else:
                gold = passage.gold[blank]
                out["candidate_rank"] += [index == gold for index in range(len(choices))]
            candidate_tokens += [next(encoded) if choice else b"" for choice in choices]
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


#: Parts of a passage: a text that is encoded, a blank, and the place where a sentence starts.
_TEXT, _BLANK, _SENTENCE = range(3)


def _plan(passage: Passage, options: EncodingOptions, texts: list[str]) -> tuple[list[int], list[list[str]]]:
    """Append the texts of a passage, then of its candidates; return the order of its parts, and the candidates."""
    article = normalise(passage.article, options.text_norm, options.language)
    blanks = [match.span() for match in BLANK.finditer(article)]
    breaks = iter([*sentence_breaks(article, options.language), len(article) + 1])
    upcoming = next(breaks)
    plan = [_SENTENCE]
    candidates: list[list[str]] = []
    candidate_texts: list[str] = []
    start = 0
    for number, (blank_start, blank_end) in enumerate([*blanks, (len(article), len(article))]):
        segment = article[start:blank_start]
        end = start + len(segment.rstrip()) if number < len(blanks) else blank_start
        while start < end:
            cut = min(upcoming, end)
            texts.append(plain(article[start:cut]))
            plan.append(_TEXT)
            if cut == upcoming:
                plan.append(_SENTENCE)
                upcoming = next(breaks)
            start = cut
        if number < len(blanks):
            plan.append(_BLANK)
            space = " " if end < blank_start else ""
            upper = options.sentence_case and opens_sentence(("_" if number else "") + segment, options.language)
            choices = [
                choice if choice.isalnum() else _candidate(choice, options)  # most are one word
                for choice in passage.candidates[number]
            ]
            candidates.append([capitalise(choice) if upper else choice for choice in choices])
            candidate_texts += [space + choice for choice in candidates[-1] if choice]
        start = blank_end
    texts += candidate_texts
    return plan, candidates


def _candidate(choice: str, options: EncodingOptions) -> str:
    choice = normalise(choice, options.text_norm, options.language).strip()
    return "" if choice in NOTHING else choice
