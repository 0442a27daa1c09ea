"""Tables of characters: those of SentencePiece are sound, and whatever is called sound can be followed."""

from __future__ import annotations

import random

import pytest

from fairseq_cloze.data.charsmap import charsmap_problem
from fairseq_cloze.weights.sentencepiece_file import read_sentencepiece

from ..support.tokenizers import SCRIPTS, sentencepiece_model


@pytest.fixture(scope="module", params=["nmt_nfkc", "nfkc_cf"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = sentencepiece_model(tmp_path_factory.mktemp("pieces") / "a.model", normalization_rule_name=request.param)
    return read_sentencepiece(path.read_bytes(), "a.model").charsmap


def test_sentencepieces_own(table: bytes) -> None:
    assert len(table) > 100_000 and charsmap_problem(table) == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "its trie is cut short"),
        (b"\x04\0\0", "its trie is cut short"),
        (b"\0\0\0\0", "its trie is cut short"),
        (b"\x08\0\0\0\0\0\0\0", "its trie is cut short"),
        (b"\x04\0\0\0\xff\xff\xff\x7f", "its trie leads out of itself"),
        (b"\x04\0\0\0\0\0\0\0\xff", "its replacements are not UTF-8"),
    ],
)
def test_others(content: bytes, problem: str) -> None:
    assert charsmap_problem(content) == problem


def test_damages_that_are_not_seen_do_no_harm(table: bytes) -> None:
    from tokenizers import normalizers

    draw, sound = random.Random(1), 0
    for _ in range(150):
        content = bytearray(table)
        for _ in range(draw.choice([1, 1, 50])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        if not charsmap_problem(bytes(content)):
            sound += 1
            normalizer = normalizers.Precompiled(bytes(content))
            for text in SCRIPTS:  # a panic would be an exception that is no Exception
                normalizer.normalize_str(text + "".join(map(chr, range(1, 0x3000, 7))))
    assert sound > 10
