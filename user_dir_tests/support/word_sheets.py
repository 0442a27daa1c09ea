"""Passages as documents of Word, in the layouts that people use."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from itertools import count as count_from
from string import ascii_uppercase
from typing import Any

import docx
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls

from fairseq_cloze.passages.text import BLANK

from .sheets import Fields, filled, key_table, ranges, singly

_LISTS = """<w:abstractNum {ns} w:abstractNumId="{abstract}"><w:multiLevelType w:val="multilevel"/>
<w:lvl w:ilvl="0"><w:start w:val="{first}"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="upperLetter"/><w:lvlText w:val="%2."/></w:lvl>
</w:abstractNum>"""


def saved(document: Any) -> bytes:
    """A document as a file."""
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def add_list(document: Any, first: int = 1) -> int:
    """A list with automatic numbers and letters; the number of it."""
    root = document.part.numbering_part.element
    abstract = 900 + len(root)
    root.insert(0, parse_xml(_LISTS.format(ns=nsdecls("w"), abstract=abstract, first=first)))
    return root.add_num(abstract).numId


def in_list(paragraph: Any, number: int, level: int) -> None:
    """Make a paragraph an item of a list."""
    properties = paragraph._p.get_or_add_pPr().get_or_add_numPr()
    properties.get_or_add_ilvl().val = level
    properties.get_or_add_numId().val = number


def add_split(paragraph: Any, text: str, seed: int) -> None:
    """Text in runs that end anywhere, as Word leaves them behind after changes."""
    chance, start = random.Random(seed), 0
    while start < len(text):
        end = start + chance.randint(1, 9)
        run = paragraph.add_run(text[start:end])
        run.bold = chance.random() < 0.3 or None
        start = end


def add_underlined(document: Any, article: str, blank: Callable[[], Sequence[str]]) -> None:
    """The paragraphs of an article, with underlined pieces in place of each blank."""
    for text in article.split("\n"):
        paragraph = document.add_paragraph()
        for place, part in enumerate(BLANK.split(text)):
            for piece in blank() if place else ():
                paragraph.add_run(piece).underline = True
            paragraph.add_run(part)


def automatic(passages: Sequence[Fields]) -> Any:
    """Numbers and letters that Word makes; runs split anywhere."""
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Riverside School"
    document.add_heading("Passage 1", 2)
    first = 1
    for number, fields in enumerate(passages):
        if number:
            document.add_heading(f"Passage {number + 1}", 2)
        for text in filled(fields["article"], "__{}__".format, first).split("\n"):
            add_split(document.add_paragraph(), text, number)
        first += len(fields["options"])
    key: list[str] = []
    made = add_list(document)
    for fields in passages:
        for own in fields["options"]:
            head, *rest = own
            in_list(document.add_paragraph(f"A. {head}"), made, 0)
            for index, option in enumerate(rest, 1):
                document.add_paragraph(f"{ascii_uppercase[index]}. {option}")
        key += fields["answers"]
    document.add_paragraph("\n".join(ranges()(key, 1)))
    return document


def automatic_letters(passages: Sequence[Fields]) -> Any:
    """Both levels are automatic; the number stands alone before its options."""
    document = docx.Document()
    first = 11
    key: list[str] = []
    for fields in passages:
        for text in filled(fields["article"], "({}) ____".format, first).split("\n"):
            document.add_paragraph(text)
        made = add_list(document, first)
        for own in fields["options"]:
            in_list(document.add_paragraph(""), made, 0)
            for option in own:
                in_list(document.add_paragraph(option), made, 1)
        first += len(fields["options"])
        key += fields["answers"]
    document.add_paragraph("Answer key")
    for text in singly(together=None)(key, 11):
        document.add_paragraph(text)
    return document


def tables(passages: Sequence[Fields]) -> Any:
    """Options and answers in tables, blanks as underlined space with the number in it."""
    document = docx.Document()
    frame = document.add_table(1, 1)
    frame.cell(0, 0).text = "Name: ________   Class: ______"
    document.add_paragraph("Directions: Choose the best word for each blank. Mark your answers A, B, C or D.")
    numbers = count_from(1)
    first, key = 1, list[str]()
    for fields in passages:
        add_underlined(document, fields["article"], lambda: ("  ", str(next(numbers)), "  "))
        count = len(fields["options"])
        first += count
        table = document.add_table(count + 1, 5)
        for column, title in enumerate(["", *"ABCD"]):
            table.cell(0, column).text = title
        for row, own in enumerate(fields["options"], 1):
            for column, cell in enumerate([str(first - count + row - 1), *own]):
                table.cell(row, column).text = cell
        key += fields["answers"]
    document.add_paragraph("Answers")
    for start in range(0, len(key), 10):
        own = key[start : start + 10]
        table = document.add_table(2, len(own))
        for column, answer in enumerate(own):
            table.cell(0, column).text = str(start + column + 1)
            table.cell(1, column).text = answer
    return document


def lettered_cells(passages: Sequence[Fields]) -> Any:
    """A table with a letter in each cell, in two rows per blank; blanks as underlined space alone."""
    document = docx.Document()
    first, key = 1, list[str]()
    for fields in passages:
        add_underlined(document, fields["article"], lambda: ("        ",))
        table = document.add_table(0, 3)
        for own in fields["options"]:
            for start in (0, 2):
                cells = [f"{ascii_uppercase[index]}. {own[index]}" for index in (start, start + 1)]
                for cell, text in zip(table.add_row().cells, [f"{first}." if start == 0 else "", *cells]):
                    cell.text = text
            first += 1
        key += fields["answers"]
    for text in key_table(key, 1):
        document.add_paragraph(text)
    return document


def beside(passages: Sequence[Fields]) -> Any:
    """A number beside the options, which stand in one cell, with tabs between; changes that Word tracked."""
    document = docx.Document()
    first, key = 1, list[str]()
    for fields in passages:
        for text in filled(fields["article"], "____({})".format, first).split("\n"):
            paragraph = document.add_paragraph(text)
            for tag, word in (("w:ins", text[:0]), ("w:del", "gone")):
                change = OxmlElement(tag)
                run = OxmlElement("w:r")
                node = OxmlElement("w:t" if tag == "w:ins" else "w:delText")
                node.text = word
                run.append(node)
                change.append(run)
                paragraph._p.append(change)
        table = document.add_table(0, 2)
        for own in fields["options"]:
            row = table.add_row().cells
            row[0].text = str(first)
            row[1].text = "\n".join(f"{ascii_uppercase[index]}) {option}" for index, option in enumerate(own))
            first += 1
        key += fields["answers"]
    document.add_paragraph("\n".join(singly("Key", "{}.{}")(key, 1)))
    return document


WORD_LAYOUTS: dict[str, Callable[[Sequence[Fields]], Any]] = {
    "automatic numbers": automatic,
    "automatic letters": automatic_letters,
    "tables": tables,
    "lettered cells": lettered_cells,
    "beside": beside,
}
