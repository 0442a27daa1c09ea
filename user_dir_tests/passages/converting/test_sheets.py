"""Sheets in many layouts: nothing is lost, and what is not certain is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.errors import PassageError
from fairseq_cloze.passages.converting.lines import Document, text_lines
from fairseq_cloze.passages.converting.sheets import read_sheet
from fairseq_cloze.passages.converting.word import read_word

from ...support.sheets import LAYOUTS, example_passages, plain
from ...support.word_sheets import WORD_LAYOUTS, saved

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


WORDS = st.sampled_from(
    ["the", "A", "boy", "Maya", "to", "of", "river,", "house.", "No.", "20", "3", "1999", '"Yes,"', "(twice)", "I", "B"]
    + ["c.", "D)", "key", "text"]
)
OPTION = st.lists(st.sampled_from("went slowly to A. b) 3 vitamin C don't / no".split()), min_size=1, max_size=3).map(
    " ".join
)


@st.composite
def passages(draw: st.DrawFn) -> dict:
    blanks, count = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    article = " ".join(draw(st.lists(WORDS, min_size=1, max_size=6))[0:6])
    for _ in range(blanks):
        article += " _" + draw(st.sampled_from(["", ",", "."] if "_" in article else ["", ","]))
        article += draw(st.sampled_from([" ", "\n", " "])) + " ".join(draw(st.lists(WORDS, min_size=1, max_size=6)))
    options = [draw(st.lists(OPTION, min_size=count, max_size=count)) for _ in range(blanks)]
    answers = [draw(st.sampled_from("ABCDE"[:count])) for _ in range(blanks)]
    return {"article": article, "options": options, "answers": answers}


@pytest.mark.parametrize("name", LAYOUTS)
@given(fields=passages())
def test_a_passage_is_read_as_it_is_or_refused(name: str, fields: dict) -> None:
    """Whatever words it has, such as such that look like letters, numbers or headings."""
    try:
        [found] = read(LAYOUTS[name].sheet([fields]))
    except PassageError:
        return
    assert plain(found) == plain(fields)
