"""Lines: the text of a document, line by line, with the place of each for messages."""

import codecs
import re
from dataclasses import dataclass, field

from ...errors import PassageError

#: What parts the cells of a line: a tab, or two spaces and more.
CELL = re.compile(r"\t[ \t\u3000]*|[ \u3000\xa0]{2,}\t?[ \t\u3000]*")

_HIGH = re.compile(rb"[\x80-\xff]+")
_ENDS = re.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")


@dataclass(frozen=True)
class Line:
    """A line of a document, or a row of a table in it with tabs between its cells."""

    text: str
    place: str  #: such as ``line 7`` or ``table 1, row 2``
    is_row: bool = False

    @property
    def cells(self) -> list[tuple[int, str]]:
        """Column and text of each cell; empty ones are left out of lines that are no rows."""
        if self.is_row:
            return [(1000 * number, cell.strip()) for number, cell in enumerate(self.text.split("\t"))]
        found, start = [], 0
        for gap in CELL.finditer(self.text):
            found.append((start, self.text[start : gap.start()].strip()))
            start = gap.end()
        return [cell for cell in [*found, (start, self.text[start:].strip())] if cell[1]]


@dataclass
class Document:
    """A document that was read."""

    source: str  #: the file, for messages
    lines: list[Line]
    kind: str = "text"  #: what it was, in a word or two
    notes: list[str] = field(default_factory=list)  #: what people should know of how it was read

    def error(self, line: Line | None, problem: str) -> PassageError:
        """An error at a line."""
        return PassageError(self.source if line is None else f"{self.source}, {line.place}", problem)


def text_document(text: str, source: str, note: str | None = None) -> Document:
    """A plain text, and a note of how it was read."""
    lines = [Line(line.rstrip(), f"line {number}") for number, line in enumerate(_ENDS.split(text), 1)]
    return Document(source, lines, notes=[note] if note else [])


def decode(content: bytes, source: str, encoding: str | None = None) -> tuple[str, str | None]:
    """The text of a file, and a note where its encoding had to be guessed.

    Args:
        content: the file
        source: its name, for messages
        encoding: its encoding, where the user says so

    Raises:
        PassageError: the bytes are no text, or none of the encoding that was given
    """
    if encoding is not None:
        try:
            return content.decode(codecs.lookup(encoding).name).removeprefix("\ufeff"), None
        except (LookupError, UnicodeError, TypeError) as error:
            raise PassageError(source, f"expected text in --encoding {encoding}, found none ({error})") from error
    note = None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    elif content.startswith(codecs.BOM_UTF8):
        name = "utf-8-sig"
    elif b"\0" in content[:400]:
        even, odd = content[:400:2].count(0), content[1:400:2].count(0)
        name = "utf-16-le" if odd > even else "utf-16-be"
        note = f"read as {name}, which it does not say"
    else:
        name = "utf-8"
        try:
            return content.decode(name), None
        except UnicodeDecodeError:
            # Chinese characters are pairs of such bytes; in Western text such a byte mostly stands alone
            name = "gb18030" if all(len(run) % 2 == 0 for run in _HIGH.findall(content)) else "cp1252"
            note = f"read as {name}, as it is no UTF-8"
    try:
        text = content.decode(name)
    except UnicodeDecodeError as error:
        raise PassageError(source, f"expected text, found bytes that are no {name}; say --encoding NAME") from error
    if "\0" in text:
        raise PassageError(source, "expected text, found zero bytes; give the file as .txt in UTF-8")
    return text, f"{note}; --encoding says another" if note else None
