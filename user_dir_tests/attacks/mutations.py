"""Inputs that are nearly valid: one or more small damages to a seed, the same ones for the same number."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

#: What has broken parsers before: of JSON, of numbers, of text, of headers, of file names.
PIECES = [
    *(b"", b"\0", b"\r\n", b"\r", b"\n", b"\t", b" ", b"_", b"__", b"___41___", b"/", b"\\", b"..", b"%s", b"{}", b"-"),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"0", b"1", b"2.5", b"[]", b":"),
    *(b"2147483648", b"-2147483649", b"9223372036854775808", b"18446744073709551616", b"9" * 5000, b"1e308", b"1."),
    *(b"\\ud800", b"\\u0000", b"\\udfff\\ud800", b"\xed\xa0\x80", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3"),
    *(b"[" * 3000, b'{"a":' * 3000, b"]" * 10, b"[[", b"}", b'"', b",", b",,", b"<mask>", b"<s>", b"</s>", b"<script>"),
    *(b"=?utf-8?q?=0d=0aBcc:x?=", b"\xd9\xa3", b"\xc2\xb2", b"\xe2\x91\xa0", b"inf", b"nan", b"0x10", b"1_000", b"+1"),
    *(text.encode() for text in ("é", "🙂", "e\u0301", "\u202e", "\u200b", "\u2028", "\x1b[2J", "a" * 5000, '""')),
]  # fmt: skip

Change = Callable[[random.Random, bytearray, Sequence[bytes]], bytearray]


def _span(draw: random.Random, data: bytearray) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + int(draw.paretovariate(0.7)))


def _flip_a_bit(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _set_a_byte(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if data:
        data[draw.randrange(len(data))] = draw.randrange(256)
    return data


def _remove(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    start, end = _span(draw, data)
    times = draw.choice((1, 1, 1, 2, 10, 300)) if end - start < 100 else 1
    return data[:end] + data[start:end] * times + data[end:]


def _cut(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    return data[: draw.randrange(len(data) + 1)]


def _insert_a_piece(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    start, _ = _span(draw, data)
    return data[:start] + draw.choice(PIECES) + data[start:]


def _replace_a_word(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    words = list(re.finditer(rb"[\w.+-]+|\"[^\"]*\"|[\[\]{}]", data))
    if not words:
        return data
    word = draw.choice(words)
    others = [found[0] for found in words if found[0] != word[0]]
    new = draw.choice(others) if others and draw.random() < 0.4 else draw.choice(PIECES)
    return data[: word.start()] + new + data[word.end() :]


def _move(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    start, end = _span(draw, data)
    rest, to = data[:start] + data[end:], draw.randrange(len(data) + 1)
    return rest[:to] + data[start:end] + rest[to:]


def _cross(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> bytearray:
    other = draw.choice(seeds)
    start, end = _span(draw, bytearray(other))
    at = draw.randrange(len(data) + 1)
    return data[:at] + other[start:] if draw.random() < 0.5 else data[:at] + other[start:end] + data[at:]


CHANGES: list[Change] = [
    *(_flip_a_bit, _set_a_byte, _remove, _repeat, _cut, _insert_a_piece),
    *(_replace_a_word, _replace_a_word, _move, _cross),
]


def mutated(seeds: Sequence[bytes], key: str, limit: int = 1 << 16) -> bytes:
    """A damaged seed of at most *limit* bytes; *key* decides which, and how."""
    draw = random.Random(key)
    data = bytearray(draw.choice(seeds))
    for _ in range(min(8, int(draw.paretovariate(1.0)))):
        data = draw.choice(CHANGES)(draw, data, seeds)
    return bytes(data[:limit])
