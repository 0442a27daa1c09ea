"""Checking: is a split of a data-bin what was written, bit for bit, and can it be scored?

All of it is read for that, once per copy: a split that was found sound is remembered by its files' sizes, times and
inodes, as an empty file in the user's cache.  Without a cache it is read each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..passages.passage import LETTERS, UNLABELLED
from .encoding import COLUMNS
from .store import OFFSETS, Store, damaged
from .vocabulary import UNK, Vocabulary

_RULES = 1  # other rules, other memories
SETTLED = 2 * 10**9  # nanoseconds: what was changed later may change again with the same time
_FORGOTTEN = 90 * 86_400.0  # seconds after which a split is read again
_PASSAGES = 4096  # that are looked at in one go
_ENTRIES = 1 << 20


def check_split(store: Store, folder: Path, entry: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Make sure that the files of a split hold what its *entry* of the manifest says, and nothing out of range.

    Raises:
        DataBinError: they do not; names the file
    """
    expected = {name: column["sha256"] for name, column in entry["columns"].items() if "sha256" in column}
    for name, digest in zip(COLUMNS, store.digests() if expected else ()):
        if expected[name] != digest:
            raise damaged(folder / f"{name}.bin", f"SHA-256 {expected[name][:12]}", digest[:12])
    columns = {name: store.columns[OFFSETS.get(name, name)] for name in COLUMNS}
    for name, what in _faults(columns, entry, vocabulary):
        raise damaged(folder / f"{name}.bin", what, "others")


def is_remembered(store: Store, manifest: str) -> bool:
    """Whether a split was found sound as it is now, under a manifest of that digest."""
    place = _place(store, manifest)
    return place is not None and os.path.exists(place)


def remember(store: Store, manifest: str) -> None:
    """Remember that a split was found sound."""
    place = _place(store, manifest)
    newest = max(max(file[-2:]) for file in store.files)
    if place is not None and time.time_ns() - newest > SETTLED:
        with suppress(OSError):  # a home that is full or read-only
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
            for other in place.parent.iterdir():
                if time.time() - other.stat().st_mtime > _FORGOTTEN:
                    other.unlink()


def _place(store: Store, manifest: str) -> Path | None:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # which counts for nothing then, says the XDG specification
        cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):
        return None
    key = hashlib.sha256(json.dumps([_RULES, manifest, store.files]).encode()).hexdigest()
    return Path(cache, "fairseq-cloze", "sound", key)


Fault = tuple[str, str]  # a column, and what was expected of it


def _faults(columns: Mapping[str, np.ndarray], entry: Mapping[str, Any], vocabulary: Vocabulary) -> Iterator[Fault]:
    """What does not hold of columns with offsets, in the order in which later checks rely on earlier ones."""
    passages, blanks, candidates = len(columns["id_length"]) - 1, len(columns["gold"]), len(columns["candidate_first"])
    if passages < 1:
        yield "id_length", "passages"
    for name, count in (
        *((name, passages + 1) for name in ("token_count", "sentence_count", "blank_count")),
        *(("blank_position", blanks), ("candidate_count", blanks + 1)),
        *(("candidate_rank", candidates), ("candidate_length", candidates + 1)),
    ):
        if len(columns[name]) != count:
            yield name, f"{count:,} entries"
    for name, of, least, most in (
        ("id_length", "id_bytes", 0, None),
        ("token_count", "tokens", 1, None),
        ("sentence_count", "sentence_start", 1, None),
        ("blank_count", "gold", 1, None),
        ("candidate_count", "candidate_first", 2, len(LETTERS)),
        ("candidate_length", "candidate_tokens", 0, None),
    ):
        if not _are_offsets(columns[name], len(columns[of]), least, most):
            yield name, f"running totals from 0 to {len(columns[of]):,}"
    counted = dict.fromkeys(("labelled_blanks", "unknown_tokens", "makeshift_tokens"), 0)
    for first in range(0, passages, _PASSAGES):
        yield from _faults_of_passages(columns, first, min(first + _PASSAGES, passages), vocabulary, counted)
    counted |= {"passages": passages, "blanks": blanks, "tokens": len(columns["tokens"])}
    for name, count in counted.items():
        if entry.get(name, count) != count:  # older manifests lack some
            yield "tokens" if "token" in name else "gold", f"{entry[name]:,} {name.replace('_', ' ')}"


def _are_offsets(values: np.ndarray, total: int, least: int, most: int | None) -> bool:
    if len(values) == 0 or values[0] != 0 or values[-1] != total:
        return False
    for start in range(0, len(values), _ENTRIES):
        part = values[start : start + _ENTRIES + 1]
        if part.min() < 0 or part.max() > total:  # first, so that differences do not overflow
            return False
        steps = np.diff(part)
        if len(steps) and (steps.min() < least or (most is not None and steps.max() > most)):
            return False
    return True


def _faults_of_passages(
    columns: Mapping[str, np.ndarray], first: int, last: int, vocabulary: Vocabulary, counted: dict[str, int]
) -> Iterator[Fault]:
    def part(name: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of some lists, from 0 on, and the list of each of their entries."""
        offsets = columns[name][start : end + 1] - columns[name][start]
        return offsets, np.repeat(np.arange(end - start), np.diff(offsets))

    def of(name: str, offsets: str, start: int, end: int) -> np.ndarray:
        """The entries of these lists."""
        return np.asarray(columns[name][columns[offsets][start] : columns[offsets][end]])

    ids, _ = part("id_length", first, last)
    id_bytes = of("id_bytes", "id_length", first, last)
    begins = id_bytes[ids[:-1][ids[:-1] < len(id_bytes)]]
    if not _is_utf8(id_bytes) or ((begins & 0xC0) == 0x80).any():
        yield "id_bytes", "ids in UTF-8"

    token_ends, _ = part("token_count", first, last)
    tokens, lengths = of("tokens", "token_count", first, last), np.diff(token_ends)
    rows = len(vocabulary)
    if (tokens >= rows).any():
        yield "tokens", f"tokens below {rows:,}"
    counted["unknown_tokens"] += int((tokens == UNK).sum())
    counted["makeshift_tokens"] += int(vocabulary.makeshift[tokens].sum())

    sentence_ends, passage = part("sentence_count", first, last)
    sentences = of("sentence_start", "sentence_count", first, last).astype(np.int64)
    inside = (sentences >= 0).all() and (sentences <= lengths[passage]).all()
    ascending = ((np.diff(sentences) >= 0) | (np.diff(passage) > 0)).all()
    if not inside or not ascending or sentences[sentence_ends[:-1]].any():
        yield "sentence_start", "ascending places in each passage, from 0 on"

    _, passage = part("blank_count", first, last)
    positions = of("blank_position", "blank_count", first, last).astype(np.int64)
    inside = (positions >= 0).all() and (positions < lengths[passage]).all()
    ascending = ((np.diff(positions) > 0) | (np.diff(passage) > 0)).all()
    if not inside or not ascending or (tokens[token_ends[passage] + positions] != vocabulary.mask).any():
        yield "blank_position", "ascending places of <mask> in each passage"

    blanks = columns["blank_count"][first], columns["blank_count"][last]
    candidate_ends, blank = part("candidate_count", *map(int, blanks))
    gold = of("gold", "blank_count", first, last).astype(np.int64)
    if (gold < UNLABELLED).any() or (gold >= np.diff(candidate_ends)).any():
        yield "gold", "numbers of candidates, or -1"
    counted["labelled_blanks"] += int((gold != UNLABELLED).sum())

    same = of("candidate_first", "candidate_count", *map(int, blanks)).astype(np.int64)
    start = candidate_ends[:-1][blank]
    order = np.arange(len(blank)) - start
    if (same < 0).any() or (same > order).any() or (same[start + same] != same).any():
        yield "candidate_first", "numbers of earlier candidates, or their own"
    if not np.isfinite(of("candidate_rank", "candidate_count", *map(int, blanks))).all():
        yield "candidate_rank", "finite numbers"
    candidates = (int(columns["candidate_count"][blank]) for blank in blanks)
    if (of("candidate_tokens", "candidate_length", *candidates) >= rows).any():
        yield "candidate_tokens", f"tokens below {rows:,}"


def _is_utf8(content: np.ndarray) -> bool:
    try:
        content.tobytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
