from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_cloze.data import bpe
from fairseq_cloze.data.bpe import WordEncoder

TYPOGRAPHY = "".join(map(chr, range(0x2010, 0x2028)))
ALPHABET = [
    *map(chr, range(128)),
    *TYPOGRAPHY,
    *"'\u2019 \u00a0\u2009\u00e9\u00df\u00b2\u4e2d\u0661\u2028\U0001f600",
    "'s",
    "'ll",
    "  ",
]


def words(vocabulary: Any) -> WordEncoder:
    return WordEncoder(vocabulary.tokenizer, np.arange(len(vocabulary.tokenizer.get_vocab()), dtype=np.uint16))


def by_tokenizer(vocabulary: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in vocabulary.tokenizer.encode_batch(texts)]


def as_lists(encoded: list[bytes]) -> list[list[int]]:
    return [np.frombuffer(rows, np.uint16).tolist() for rows in encoded]


@settings(max_examples=1000, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(ALPHABET), max_size=12).map("".join), max_size=4))
@example(texts=["it's 'tis he'll I'D ''s", "a  b \t\n c ", " ", "", "x\x1cy\x85z", "5\u00bd 3rd 4\u2013 5"])
def test_rows_are_the_tokenizers(vocabulary: Any, texts: list[str]) -> None:
    """Of text in ASCII and typography, of other text and of both at once."""
    encoder = words(vocabulary)
    expected = by_tokenizer(vocabulary, texts)
    assert as_lists(encoder.encode(texts)) == expected
    assert as_lists(encoder.encode(texts)) == expected  # now known


@pytest.mark.parametrize("character", ALPHABET)
def test_every_character_beside_every_kind(vocabulary: Any, character: str) -> None:
    texts = [
        f"{left}{character}{right}" for left in ("", "a", "1", " ", "(", "'") for right in ("", "b", "2", " ", "!")
    ]
    assert as_lists(words(vocabulary).encode(texts)) == by_tokenizer(vocabulary, texts)


def test_what_is_remembered_is_bounded(vocabulary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "_KEPT", 1000)
    encoder = words(vocabulary)
    for number in range(50):
        texts = [f"word{chr(97 + number % 26) * (number + 1)} again"]
        assert as_lists(encoder.encode(texts)) == by_tokenizer(vocabulary, texts)
        assert len(encoder._known) <= 7
