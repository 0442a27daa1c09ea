"""Documents of Word: what its reader sees, and what is left out by name."""

from __future__ import annotations

import sys
from typing import Any

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from fairseq_cloze.errors import PassageError, SetupError
from fairseq_cloze.passages.converting import word
from fairseq_cloze.passages.converting.word import read_word

from ...support.word_sheets import add_list, in_list, saved


def lines(document: Any) -> list[str]:
    return [f"{line.place}: {line.text}" for line in read_word(saved(document), "a.docx").lines]


def test_numbers_of_lists_are_counted_as_word_counts() -> None:
    document = docx.Document()
    first, other = add_list(document, 5), add_list(document)
    for number, level, text in [
        (first, 0, "a"),
        (first, 1, "b"),
        (first, 1, "c"),
        (other, 0, "d"),
        (first, 0, "e"),
        (first, 1, "f"),
    ]:
        in_list(document.add_paragraph(text), number, level)
    document.add_paragraph("g", "List Number")
    document.add_paragraph("h", "List Bullet")
    document.add_paragraph("i", "List Number")
    texts = [line.split(": ")[1] for line in lines(document)]
    assert texts == ["5. a", "A. b", "B. c", "1. d", "6. e", "A. f", "1. g", "h", "2. i"]


@pytest.mark.parametrize(
    ("number", "style", "shown"),
    [
        (4, "lowerRoman", "iv"),
        (49, "upperRoman", "XLIX"),
        (28, "lowerLetter", "bb"),
        (3, "decimalEnclosedCircle", "③"),
        (7, "decimal", "7"),
    ],
)
def test_styles_of_numbers(number: int, style: str, shown: str) -> None:
    assert word._spelt(number, style) == shown


def test_underlined_space_is_a_blank_and_underlined_words_are_words() -> None:
    document = docx.Document()
    paragraph = document.add_paragraph("It was ")
    for text, underlined in [
        ("   ", True),
        (" and ", False),
        (" 2", True),
        (" ", True),
        (", ", False),
        ("very", True),
        (" ", True),
        ("old", True),
    ]:
        paragraph.add_run(text).underline = underlined
    assert lines(document) == ["paragraph 1: It was ____ and __2__, very old"]


def test_tables_frames_boxes_and_tracked_changes() -> None:
    document = docx.Document()
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "1", "A.  x"
    frame = document.add_table(1, 1)
    frame.cell(0, 0).text = "in a frame"
    paragraph = document.add_paragraph("kept")
    space = nsdecls("w")
    for xml in (
        f"<w:ins {space}><w:r><w:t> new</w:t></w:r></w:ins>",
        f"<w:del {space}><w:r><w:delText> old</w:delText></w:r></w:del>",
        f"<w:r {space}><w:rPr><w:vanish/></w:rPr><w:t> hidden</w:t></w:r>",
        f"<w:r {space}><w:br/><w:t>next</w:t></w:r>",
        f"<w:r {space}><w:pict><w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent></w:pict></w:r>",
    ):
        paragraph._p.append(parse_xml(xml))
    assert lines(document) == [
        "table 1, row 1: 1\tA. x",
        "table 2, row 1: in a frame",
        "paragraph 4: kept new",
        "paragraph 4: next",
        "paragraph 5: boxed",
    ]


def test_what_stands_beside_the_text_is_named() -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Riverside School"
    document.add_paragraph()._p.append(parse_xml(f"<w:r {nsdecls('w')}><w:drawing/></w:r>"))
    assert read_word(saved(document), "a.docx").notes == [
        "1 picture not read",
        "left out the header 'Riverside School'",
    ]


def test_a_document_that_unpacks_to_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word, "_LARGEST", 1 << 10)
    with pytest.raises(PassageError, match="a.docx: expected a document of at most 0 MB unpacked, found more"):
        read_word(saved(docx.Document()), "a.docx")


def test_without_python_docx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    with pytest.raises(SetupError, match=r"\.docx files need python-docx .*: pip install 'fairseq-cloze\[sheets\]'"):
        read_word(b"", "a.docx")
