"""Sheets in many layouts: nothing is lost, and what is not certain is refused."""

from __future__ import annotations

import pytest

from fairseq_cloze.passages.converting.lines import Document, text_lines
from fairseq_cloze.passages.converting.sheets import read_sheet
from fairseq_cloze.passages.converting.word import read_word

from ..support.sheets import LAYOUTS, example_passages, plain
from ..support.word_sheets import WORD_LAYOUTS, saved

EXAMPLES = example_passages()[::20]


def read(text: str, key: str | None = None, uneven: bool = False) -> list[dict]:
    other = None if key is None else Document("key.txt", text_lines(key))
    return [passage.to_json() for passage in read_sheet(Document("exam.txt", text_lines(text)), other, uneven)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_back(name: str) -> None:
    layout = LAYOUTS[name]
    for fields in EXAMPLES:
        [found] = read(layout.sheet([fields]))
        assert plain(found) == plain(fields)
    pair = EXAMPLES[:2]
    assert [plain(found) for found in read(layout.sheet(pair))] == [plain(fields) for fields in pair]
    apart = read(layout.sheet(pair, with_key=False), layout.key_file(pair))
    assert [plain(found) for found in apart] == [plain(fields) for fields in pair]


@pytest.mark.parametrize("name", WORD_LAYOUTS)
def test_every_layout_of_word_reads_back(name: str) -> None:
    for passages in ([EXAMPLES[0]], EXAMPLES[1:3], EXAMPLES[3:8]):
        document = read_word(saved(WORD_LAYOUTS[name](passages)), "exam.docx")
        found = [passage.to_json() for passage in read_sheet(document)]
        assert [plain(each) for each in found] == [plain(fields) for fields in passages]
