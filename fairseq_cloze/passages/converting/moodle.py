"""Moodle: questions with embedded answers (Cloze), GIFT, and both in Moodle's XML."""

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

from ...errors import PassageError
from ..passage import LETTERS
from .records import Made

CLOZE = re.compile(r"(?<!\\)\{(\d*):([A-Z_]+):((?:\\.|[^\\{}])*)\}", re.DOTALL)
GIFT = re.compile(r"(?<!\\)\{((?:\\.|[^\\{}])*)\}", re.DOTALL)
_CHOICES = re.compile(r"(?:MULTICHOICE|MC)(?:_?[VHS]{1,2})?")
_PART = re.compile(r"(?<!\\)([=~])")
_WEIGHT = re.compile(r"%(-?\d+(?:\.\d+)?)%")
_TITLE = re.compile(r"::((?:\\.|[^\\])*?)::", re.DOTALL)
_SHAPE = re.compile(r"\[(html|moodle|plain|markdown)\]\s*")


def read_cloze(text: str, source: str, stem: str) -> Made:
    """The passage of a text with embedded answers.

    Raises:
        PassageError: an answer has no options, or not one that is right
    """
    return Made([(source, stem, _from_cloze(text, source))], "Moodle, embedded answers")


def _from_cloze(text: str, source: str) -> dict[str, Any]:
    article, options, answers, end = "", [], [], 0
    for match in CLOZE.finditer(text):
        where = f"{source}, line {text.count(chr(10), 0, match.start()) + 1}"
        if not _CHOICES.fullmatch(match[2]):
            raise PassageError(where, f"expected MULTICHOICE, which has options, found {match[2]}")
        found, right = _choices(match[3], where, tildes=True)
        options.append(found)
        answers.append(LETTERS[right])
        article += _gap(article, text[end : match.start()], text[match.end() : match.end() + 1], source)
        end = match.end()
    rest = text[end:]
    if "_" in rest:
        raise PassageError(source, "expected blanks that are {1:MULTICHOICE:...} only, found '_'; take it out")
    return {"article": (article + rest).strip(), "options": options, "answers": answers}


def _gap(article: str, before: str, after: str, source: str) -> str:
    if "_" in before:
        raise PassageError(source, "expected blanks that are {1:MULTICHOICE:...} only, found '_'; take it out")
    joined = before or article[-1:]
    return f"{before}{' ' * bool(joined and (joined[-1].isalnum() or joined[-1] == '_'))}_{' ' * after.isalnum()}"


def _choices(text: str, where: str, tildes: bool) -> tuple[list[str], int]:
    """The options of a list, and the index of the right one."""
    parts = _PART.split(text)
    if parts[0].strip() and tildes:
        parts = ["", "~", *parts]  # the first may stand without ~
    elif parts[0].strip():
        raise PassageError(where, f"expected options that begin with = or ~, found '{parts[0].strip()[:40]}'")
    options: list[str] = []
    right: list[int] = []
    marks, bodies = parts[1::2], parts[2::2]
    place = 0
    while place < len(marks):
        mark, body = marks[place], bodies[place]
        if mark == "~" and not body.strip() and place + 1 < len(marks) and marks[place + 1] == "=":
            place += 1  # ~=
            mark, body = "=", bodies[place]
        body = re.split(r"(?<!\\)#", body, maxsplit=1)[0].strip()
        if weight := _WEIGHT.match(body):
            body = body[weight.end() :].strip()
            mark = "=" if float(weight[1]) == 100 else mark
            if 0 < float(weight[1]) < 100:
                raise PassageError(
                    where, f"expected one right option, found '{body[:40]}' that is right by {weight[1]}%"
                )
        if re.search(r"(?<!\\)->", body):
            raise PassageError(where, "expected one list of options, found pairs to match")
        if mark == "=":
            right.append(len(options))
        options.append(" ".join(html.unescape(_plain(body)).split()))
        place += 1
    if len(options) < 2:
        raise PassageError(where, f"expected two options or more, found {len(options)}")
    if len(options) > len(LETTERS):
        raise PassageError(where, f"expected at most {len(LETTERS)} options, found {len(options)}")
    if len(right) != 1:
        raise PassageError(where, f"expected one right option, marked =, found {len(right)}")
    if "" in options:
        raise PassageError(where, "expected a text for each option, found none; write / where nothing goes")
    return options, right[0]


def _plain(text: str) -> str:
    return re.sub(r"\\n", "\n", re.sub(r"\\([~=#{}:\\/\"'>-])", r"\1", text))


def read_gift(text: str, source: str, stem: str) -> Made:
    """The passages of a file of GIFT: one for each question.

    Raises:
        PassageError: a question has no gap, or no options
    """
    made = Made([], "GIFT")
    left_out = 0
    chunk: list[str] = []
    start = 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip().startswith("//") or line.strip().startswith("$CATEGORY:"):
            left_out += 1
        elif line.strip():
            start = start if chunk else number
            chunk.append(line)
        elif chunk:
            where = f"{source}, line {start}"
            fields = _from_gift("\n".join(chunk), where)
            made.passages.append((where, f"{stem}:{len(made.passages) + 1}", fields))
            chunk = []
    if left_out:
        made.notes.append(f"left out {left_out} comments and categories")
    if not made.passages:
        raise PassageError(source, "expected questions of GIFT, found none")
    return made


def _from_gift(text: str, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    text = text.strip()
    if title := _TITLE.match(text):
        fields["id"], text = _plain(title[1]).strip(), text[title.end() :].strip()
    is_html = False
    if shape := _SHAPE.match(text):
        is_html, text = shape[1] == "html", text[shape.end() :]
    found = list(GIFT.finditer(text))
    if len(found) != 1:
        raise PassageError(
            where, f"expected one list of options in {{ }}, found {len(found)}; part questions by empty lines"
        )
    body = re.split(r"(?<!\\)####", found[0][1], maxsplit=1)[0]
    before, after = _plain(text[: found[0].start()]), _plain(text[found[0].end() :])
    if is_html:
        before, after = plain_html(before), plain_html(after)
    options, right = _choices(body, where, tildes=False)
    if after.strip():
        if "_" in before + after:
            raise PassageError(where, "expected one blank, the place of { }, found '_' beside it")
        article = before + " " * before[-1:].isalnum() + "_" + " " * after[:1].isalnum() + after
    elif re.search("_", before):
        article = before.strip()
    elif before.rstrip()[-1:] in (".", "?", "!", ":"):
        raise PassageError(where, "expected a sentence with a gap, found a question; mark the gap ____")
    else:
        article = before + " " * before[-1:].isalnum() + "_"
    return {**fields, "article": article, "options": [options], "answers": [LETTERS[right]]}


def read_xml(content: bytes, source: str, stem: str) -> Made:
    """The passages of Moodle's XML: questions with embedded answers.

    Raises:
        PassageError: it is no XML, has entities of its own, or a question of another type
    """
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise PassageError(source, "expected XML of Moodle, found a document type, which that has not; take it out")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise PassageError(source, f"expected XML, found a mistake ({error})") from error
    if root.tag != "quiz":
        raise PassageError(source, f"expected <quiz>, as Moodle exports questions, found <{root.tag[:40]}>")
    made = Made([], "Moodle, XML")
    others: list[str] = []
    for number, question in enumerate(root.iter("question"), 1):
        kind = question.get("type", "")
        if kind == "category":
            others.append(kind)
            continue
        where = f"{source}, question {number}"
        if kind != "cloze":
            raise PassageError(
                where, f"expected type 'cloze', found '{kind[:40]}'; export questions with embedded answers"
            )
        text = plain_html(question.findtext("questiontext/text") or "")
        fields = _from_cloze(text, where)
        if name := (question.findtext("name/text") or "").strip():
            fields["id"] = name
        made.passages.append((where, f"{stem}:{len(made.passages) + 1}", fields))
    if others:
        made.notes.append(f"left out {len(others)} categories")
    if not made.passages:
        raise PassageError(source, "expected questions of type 'cloze', found none")
    return made


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Tags that begin a line."""
        if tag in ("p", "br", "div", "li", "h1", "h2", "h3", "h4", "tr"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Tags that end one."""
        if tag in ("p", "div", "li", "h1", "h2", "h3", "h4", "tr"):
            self.parts.append("\n")


def plain_html(text: str) -> str:
    """HTML without its tags."""
    parser = _Text()
    parser.feed(text)
    parser.close()
    lines = ("".join(parser.parts)).split("\n")
    return "\n".join(line for line in (" ".join(line.split(" ")).strip() for line in lines) if line)


def gaps(text: str) -> Iterator[str]:
    """Lists in braces that look like options of GIFT."""
    for match in GIFT.finditer(text):
        if re.search(r"(?<!\\)=", match[1]) and re.search(r"(?<!\\)~", match[1]):
            yield match[0]
