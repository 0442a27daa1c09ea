"""SentencePiece file: what a tokenizer needs of a ``.model``, which is a message of protocol buffers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import CheckpointError
from .plain import show

#: Types of a piece.
CONTROL, USER_DEFINED = 3, 4

_UNIGRAM = 1

#: Numbers of fields of ``ModelProto`` and of the messages in it, as sentencepiece_model.proto has them.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _UNKNOWN_ID = 3, 40
_CHARSMAP = 2

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


class SentencePieces(NamedTuple):
    """A model."""

    pieces: list[tuple[str, float, int]]  #: text, score and type of each
    unknown: int  #: number of the piece for unknown text
    charsmap: bytes  #: characters that are replaced; empty if none


def read_sentencepiece(content: bytes, where: str) -> SentencePieces:
    """Read a model of the kind Unigram.

    Raises:
        CheckpointError: it is none, or damaged
    """
    pieces, trainer, normalizer = [], {}, {}
    try:
        for field, value in _fields(content):
            if field == _PIECES:
                piece = dict(_fields(_as_bytes(value)))
                text, score = _as_bytes(piece[_PIECE]).decode(), piece.get(_SCORE, b"\0\0\0\0")
                pieces.append((text, struct.unpack("<f", _as_bytes(score))[0], _as_number(piece.get(_TYPE, 1))))
            elif field == _TRAINER:
                trainer = dict(_fields(_as_bytes(value)))
            elif field == _NORMALIZER:
                normalizer = dict(_fields(_as_bytes(value)))
        kind, unknown = _as_number(trainer.get(_MODEL_TYPE, 1)), _as_number(trainer.get(_UNKNOWN_ID, 0))
        charsmap = _as_bytes(normalizer.get(_CHARSMAP, b""))
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{where}: is no model of SentencePiece, or damaged; copy or download it again"
        ) from error
    if kind != _UNIGRAM:
        raise CheckpointError(f"{where}: expected SentencePiece of the kind Unigram, found kind {show(kind)}; such a "
                              "tokenizer cannot be used")  # fmt: skip
    return SentencePieces(pieces, unknown, charsmap)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: their numbers and what they hold."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(content, at)
        else:
            size, at = _varint(content, at) if kind == _BYTES else ({_FIXED_64: 8, _FIXED_32: 4}[kind], at)
            if size > len(content) - at:
                raise ValueError("cut short")
            value, at = content[at : at + size], at + size
        yield key >> 3, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number")
    return value


def _as_number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("no number")
    return value
