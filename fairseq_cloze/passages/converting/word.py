"""Word: the lines of a ``.docx`` as its reader sees them, with automatic numbers and blanks that are underlined."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import ClozeError, PassageError, SetupError, first_line
from .lines import Document, Line

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"

_LARGEST = 256 << 20  # bytes of all parts, unpacked

#: Parts of a document besides its text, by the words for them; what stands there is left out by name.
_BESIDE = {
    "header": "header",
    "footer": "footer",
    "footnotes": "footnote",
    "endnotes": "endnote",
    "comments": "comment",
}


def _docx() -> Any:
    try:
        import docx
    except ImportError as error:
        raise SetupError(f".docx files need python-docx ({error}): pip install 'fairseq-cloze[sheets]'") from error
    return docx


def read_word(content: bytes, source: str) -> Document:
    """The lines of a ``.docx``.

    Raises:
        PassageError: it is none, or holds what has no lines
        SetupError: python-docx is not installed
    """
    docx = _docx()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > _LARGEST:
                raise PassageError(source, f"expected a document of at most {_LARGEST >> 20} MB unpacked, found more")
        opened = docx.Document(io.BytesIO(content))
        reader = _Reader(opened)
        lines = list(reader.lines())
    except ClozeError:
        raise
    except Exception as error:  # python-docx raises whatever a broken part leads to
        found = first_line(error)
        raise PassageError(
            source, f"expected a document of Word (.docx), found a broken one ({found}); save it anew"
        ) from error
    return Document(source, lines, "Word", reader.notes())


class _Reader:
    def __init__(self, opened: Any) -> None:
        self.opened = opened
        self.numbering = _Numbering(opened)
        self.pictures = 0
        self.paragraphs = 0
        self.tables = 0

    def notes(self) -> list[str]:
        """What stands in the document and not in its lines."""
        found = [f"{self.pictures} picture{'s' * (self.pictures > 1)} not read"] if self.pictures else []
        for part in self.opened.part.package.iter_parts():
            name = re.search(r"/word/([a-z]+)\d*\.xml$", str(part.partname))
            if name and name[1] in _BESIDE:
                root = _root(part)
                text = (
                    " ".join("".join(node.text or "" for node in root.iter(f"{_W}t")).split())
                    if root is not None
                    else ""
                )
                if text:
                    found.append(f"left out the {_BESIDE[name[1]]} '{text[:60]}'")
        return found

    def lines(self) -> Iterator[Line]:
        """The lines of the body."""
        yield from self.block(self.opened.element.body)

    def block(self, parent: Any) -> Iterator[Line]:
        for node in parent:
            if node.tag == f"{_W}p":
                self.paragraphs += 1
                for text in self.paragraph(node).split("\n"):
                    yield Line(text.rstrip(), f"paragraph {self.paragraphs}")
                for box in _boxes(node):
                    yield from self.block(box)
            elif node.tag == f"{_W}tbl":
                self.tables += 1
                yield from self.table(node, f"table {self.tables}")
            elif node.tag in (
                f"{_W}sdt",
                f"{_W}sdtContent",
                f"{_W}ins",
                f"{_W}moveTo",
                f"{_W}customXml",
                f"{_W}smartTag",
            ):
                yield from self.block(node)

    def table(self, table: Any, name: str) -> Iterator[Line]:
        rows = list(_children(table, "tr"))
        for number, row in enumerate(rows, 1):
            cells = [list(self.block(cell)) for cell in _children(row, "tc")]
            place = f"{name}, row {number}"
            texts = [[line for line in cell if line.text.strip()] for cell in cells]
            if len(cells) == 1:  # a frame around text
                yield from (Line(line.text, place) for line in cells[0])
            elif all(len(lines) <= 1 for lines in texts):
                yield Line("\t".join(_plain(lines[0].text) if lines else "" for lines in texts), place, True)
            elif any(line.is_row for lines in texts for line in lines):
                yield from (Line(line.text, place, line.is_row) for lines in texts for line in lines)
            elif len({len(lines) for lines in texts if len(lines) > 1}) == 1 and len(texts[0]) == 1 and len(texts) == 2:
                # a number beside the options
                yield Line(texts[0][0].text, place)
                yield from (Line(line.text, place) for line in texts[1])
            else:  # columns of text, one after the other
                for lines in cells:
                    yield from (Line(line.text, place) for line in lines)

    def paragraph(self, node: Any) -> str:
        """The text of a paragraph, with the number that Word puts before it, and underscores for underlined space."""
        runs = list(self.runs(node, False))
        text = "".join(_drawn(runs))
        label = self.numbering.label(node)
        return f"{label} {text}" if label else text

    def runs(self, node: Any, underlined: bool) -> Iterator[tuple[str, bool]]:
        """Pieces of text, and whether they are underlined."""
        for child in node:
            tag = child.tag
            if tag == f"{_W}r":
                yield from self.run(child)
            elif tag in (
                f"{_W}hyperlink",
                f"{_W}ins",
                f"{_W}moveTo",
                f"{_W}smartTag",
                f"{_W}fldSimple",
                f"{_W}sdt",
                f"{_W}sdtContent",
                f"{_W}customXml",
                f"{_W}dir",
                f"{_W}bdo",
            ):
                yield from self.runs(child, underlined)
            elif isinstance(tag, str) and tag.startswith(_M):
                yield "".join(part.text or "" for part in child.iter(f"{_M}t")), False

    def run(self, run: Any) -> Iterator[tuple[str, bool]]:
        properties = run.find(f"{_W}rPr")
        mark = properties.find(f"{_W}u") if properties is not None else None
        underlined = mark is not None and mark.get(f"{_W}val", "single") != "none"
        hidden = properties is not None and _is_on(properties.find(f"{_W}vanish"))
        for child in run:
            tag = child.tag
            if hidden:
                continue
            if tag == f"{_W}t":
                yield child.text or "", underlined
            elif tag == f"{_W}tab":
                yield "\t", underlined
            elif tag in (f"{_W}br", f"{_W}cr"):
                yield "\n", False
            elif tag == f"{_W}noBreakHyphen":
                yield "-", underlined
            elif tag in (f"{_W}drawing", f"{_W}pict", f"{_W}object", f"{_MC}AlternateContent"):
                self.pictures += not list(_boxes(child))


def _drawn(runs: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """The text of runs, in which underlined space, with or without a number, is a blank."""
    merged: list[tuple[str, bool]] = []
    for text, underlined in runs:
        if merged and merged[-1][1] == underlined:
            merged[-1] = (merged[-1][0] + text, underlined)
        else:
            merged.append((text, underlined))
    for text, underlined in merged:
        found = re.fullmatch(r"([\s_]*)([(\[\uff08]?\d{0,3}[)\].\uff09]?|[\u2460-\u2473])([\s_]*)", text)
        if (
            underlined
            and found
            and len(text) > 1
            and (found[2] == "" or found[1] or found[3])
            and (found[2] or len(text.strip("\n")) > 1)
        ):
            yield f"__{found[2]}__" if found[2] else "____"
        else:
            yield text


def _plain(text: str) -> str:
    return " ".join(text.split())


def _is_on(node: Any) -> bool:
    return node is not None and node.get(f"{_W}val", "true") not in ("0", "false", "none")


def _children(node: Any, name: str) -> Iterator[Any]:
    for child in node:
        if child.tag == f"{_W}{name}":
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            yield from _children(child, name)


def _boxes(node: Any) -> Iterator[Any]:
    """Text boxes, each once; newer and older Words find them in different places of the same paragraph."""
    for child in node:
        if child.tag == f"{_MC}Fallback":
            continue
        if child.tag == f"{_W}txbxContent":
            yield child
        elif isinstance(child.tag, str) and child.tag != f"{_W}tbl":
            yield from _boxes(child)


def _root(part: Any) -> Any:
    element = getattr(part, "element", None)
    if element is not None:
        return element
    from docx.oxml import parse_xml

    return parse_xml(part.blob)


class _Numbering:
    """The numbers that Word puts before the paragraphs of its lists."""

    def __init__(self, opened: Any) -> None:
        self.levels: dict[str, dict[int, dict[str, Any]]] = {}  #: by list
        self.abstract: dict[str, str] = {}
        self.overrides: dict[str, dict[int, int]] = {}
        self.counts: dict[tuple[str, int], int] = {}
        self.seen: set[str] = set()
        self.styles = {style.get(f"{_W}styleId"): style for style in opened.styles.element.iter(f"{_W}style")}
        part = next((p for p in opened.part.package.iter_parts() if str(p.partname) == "/word/numbering.xml"), None)
        if part is None:
            return
        root = _root(part)
        made = {
            node.get(f"{_W}abstractNumId"): {
                int(level.get(f"{_W}ilvl")): _level(level) for level in node.iter(f"{_W}lvl")
            }
            for node in root.findall(f"{_W}abstractNum")
        }
        for node in root.findall(f"{_W}num"):
            key = node.get(f"{_W}numId")
            self.abstract[key] = _value(node, "abstractNumId") or ""
            self.levels[key] = dict(made.get(self.abstract[key], {}))
            self.overrides[key] = {}
            for override in node.findall(f"{_W}lvlOverride"):
                number = int(override.get(f"{_W}ilvl"))
                if override.find(f"{_W}lvl") is not None:
                    self.levels[key][number] = _level(override.find(f"{_W}lvl"))
                start = _value(override, "startOverride")
                if start is not None:
                    self.overrides[key][number] = int(start)

    def label(self, paragraph: Any) -> str:
        """The number before a paragraph, counted."""
        found = self._list(paragraph)
        if found is None:
            return ""
        key, level = found
        levels, abstract = self.levels.get(key, {}), self.abstract.get(key, key)
        if level not in levels:
            return ""
        if key not in self.seen:
            self.seen.add(key)
            for number, start in self.overrides[key].items():
                self.counts[abstract, number] = start - 1
        for number in range(level + 1):
            first = levels[number]["start"] if number in levels else 1
            self.counts.setdefault((abstract, number), first - (number == level))
        self.counts[abstract, level] += 1
        for deeper in [at for at in self.counts if at[0] == abstract and at[1] > level]:
            del self.counts[deeper]
        if levels[level]["format"] in ("bullet", "none"):
            return ""

        def shown(match: re.Match[str]) -> str:
            number = int(match[1]) - 1
            return _spelt(self.counts.get((abstract, number), 1), levels.get(number, levels[level])["format"])

        return re.sub(r"%(\d)", shown, levels[level]["text"])

    def _list(self, paragraph: Any) -> tuple[str, int] | None:
        properties = paragraph.find(f"{_W}pPr")
        style = _value(properties, "pStyle") if properties is not None else None
        key = level = None
        for _ in range(20):  # styles that rest on others
            found = properties.find(f"{_W}numPr") if properties is not None else None
            if found is not None:
                key = _value(found, "numId") if key is None else key
                level = _value(found, "ilvl") if level is None else level
            if key is not None or style not in self.styles:
                break
            properties = self.styles[style].find(f"{_W}pPr")
            style = _value(self.styles[style], "basedOn")
        return None if key in (None, "0") else (str(key), int(level or 0))


def _value(node: Any, name: str) -> str | None:
    child = node.find(f"{_W}{name}")
    return None if child is None else child.get(f"{_W}val")


def _level(node: Any) -> dict[str, Any]:
    return {
        "start": int(_value(node, "start") or 0),
        "format": _value(node, "numFmt") or "decimal",
        "text": _value(node, "lvlText") or "",
    }


def _spelt(number: int, style: str) -> str:
    if style in ("upperLetter", "lowerLetter") and number > 0:
        letter = chr(ord("A") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letter if style == "upperLetter" else letter.lower()
    if style in ("upperRoman", "lowerRoman") and number > 0:
        out, rest = "", number
        for value, sign in zip(
            (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1), "M CM D CD C XC L XL X IX V IV I".split()
        ):
            out, rest = out + sign * (rest // value), rest % value
        return out if style == "upperRoman" else out.lower()
    if style.startswith("decimalEnclosedCircle") and 0 < number <= 20:
        return chr(0x245F + number)
    return str(number)


def write_word(paragraphs: Sequence[Sequence[tuple[str, bool]]], path: Any) -> None:
    """Write a ``.docx``: paragraphs of pieces of text, each underlined or not.

    Raises:
        SetupError: python-docx is not installed
    """
    document = _docx().Document()
    for pieces in paragraphs:
        paragraph = document.add_paragraph()
        for text, underlined in pieces:
            run = paragraph.add_run(_UNFIT.sub("\ufffd", text))
            run.underline = underlined or None
    with open(path, "wb") as file:
        document.save(file)


_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
