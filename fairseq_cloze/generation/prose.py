"""Prose: text files of any size as chunks of paragraphs, and paragraphs as excerpts of a passage's length.

A line is a paragraph, or, in files whose lines are wrapped by hand, what stands between two blank lines.  Paragraphs
that are not English prose (headings, lists, tables, verse, other scripts) are left out with a reason, and no excerpt
reaches across one.
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import ClozeError
from ..files import PathLike
from ..passages.text import normalise, sentence_breaks

SUFFIXES = (".txt", ".txt.gz", ".txt.xz")

#: How the name of the temporary folder begins.
TEMPORARY = "fairseq-cloze-generate."

#: Words of an excerpt: at least, at most; it ends after 200 to 280 where sentences allow.
MIN_WORDS, MAX_WORDS = 150, 350

_SPOOLED = "stdin.txt"
_CHUNK = 1 << 18  # characters
_LINE = 1 << 20  # bytes: a longer line is left out
_SAMPLE = 400  # lines that show how a file is laid out
_WRAPPED = 100  # characters: longest line of text wrapped by hand

_MARKUP = re.compile(r"https?://|www\.|[<>{}\[\]\\|^=~*#@•■]")
_LIST = re.compile(r"(?:[-–—+·]\s|\(?(?:\d{1,3}|[a-z]|[ivxlIVXL]{1,5})[.)]\s)")
_SPACE = re.compile(r"\s*")
_NO_LETTER = re.compile(r"[\W\d_]+")
_OPEN_END = re.compile(r"[:,;–—-]$")
_CLOSED = re.compile(r"[.!?…:;,—-][\"'”’)]*$|[\"”’)]$")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Hon|Capt|Col|Gen|Lt|Sgt|vs|etc|No|Vol|Fig|[A-Z]))\.$")
_COMMON = frozenset(
    "the of and to a in that is was he it for with as his on be at by i this had not but from have are you which or "
    "her she they an were their all we my one so there been no when him if who has what would them will more out up me "
    "our into your its could than then some do can about only any may".split()
)


@dataclass(frozen=True)
class Paragraph:
    """One paragraph: the line it begins in, its text with white space normalised, and why it is left out, if it is."""

    line: int
    text: str
    problem: str = ""


@dataclass(frozen=True)
class Chunk:
    """Some paragraphs of one file.

    Attributes:
        name: of the file, without its suffix
        paragraphs: in order
        size: bytes read for it
    """

    name: str
    paragraphs: tuple[Paragraph, ...]
    size: int


@dataclass(frozen=True)
class Excerpt:
    """Text of a passage's length: its id, and its paragraphs with blank lines between them."""

    id: str
    text: str


# -- files -----------------------------------------------------------------------------------------------------------


def find_texts(paths: Sequence[PathLike]) -> list[tuple[Path, str]]:
    """List the text files under *paths* with their names, in the order given, those of a folder sorted.

    Raises:
        ClozeError: a path does not exist, holds no text file or is a pipe, or two files are the same or share a name
    """
    found: list[tuple[Path, str]] = []
    for given in paths:
        path = Path(given)
        if not path.exists():
            raise ClozeError(
                f"{path}: no such file or folder; give text files, folders of them, or - for standard input"
            )
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob("*")
                if file.name.lower().endswith(SUFFIXES)
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not files:
                raise ClozeError(
                    f"{path}: expected a folder with {', '.join(SUFFIXES)} files, found none; check the path"
                )
            found += [(file, _stem(file.relative_to(path).as_posix())) for file in files]
        elif path.is_file():
            found.append((path, _stem(path.name)))
        else:
            raise ClozeError(f"{path}: cannot be read twice; pipe the text in and give -")
    places = set()
    seen: dict[str, Path] = {}
    for file, name in found:
        place = os.path.abspath(file)
        if place in places:
            raise ClozeError(f"{_shown(file)}: given twice; give it once")
        places.add(place)
        if name in seen:
            raise ClozeError(
                f"{_shown(file)}: its passages would have the same ids as those of {_shown(seen[name])}; "
                "rename one of them, or give the folder above both"
            )
        seen[name] = file
    return found


def _shown(file: Path) -> str:
    """What the user calls a file."""
    return "standard input" if file.name == _SPOOLED and file.parent.name.startswith(TEMPORARY) else str(file)


def _stem(name: str) -> str:
    for suffix in (".gz", ".xz", ".txt"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name


def read_chunks(files: Sequence[tuple[Path, str]]) -> Iterator[Chunk]:
    """Yield the paragraphs of files in chunks of about 256 kB; a chunk is of one file.

    Raises:
        ClozeError: a file cannot be read or is not UTF-8
    """
    for file, name in files:
        paragraphs: list[Paragraph] = []
        characters = 0
        size = 0
        for paragraph, bytes_read in _paragraphs(file):
            paragraphs.append(paragraph)
            characters += len(paragraph.text)
            size += bytes_read
            if characters >= _CHUNK:
                yield Chunk(name, tuple(paragraphs), size)
                paragraphs, characters, size = [], 0, 0
        if paragraphs:
            yield Chunk(name, tuple(paragraphs), size)


def _open(file: Path) -> IO[bytes]:
    opened: Any
    if file.suffix.lower() == ".gz":
        opened = gzip.open(file, "rb")
    elif file.suffix.lower() == ".xz":
        opened = lzma.open(file, "rb")
    else:
        opened = open(file, "rb")
    return opened


@dataclass
class _Line:
    number: int
    text: str
    size: int
    too_long: bool = False


def _lines(file: Path) -> Iterator[_Line]:
    try:
        with _open(file) as source:
            number = 0
            while True:
                raw = source.readline(_LINE)
                if not raw:
                    return
                number += 1
                size = len(raw)
                too_long = size == _LINE and not raw.endswith(b"\n")
                while len(raw) == _LINE and not raw.endswith(b"\n"):
                    raw = source.readline(_LINE)
                    size += len(raw)
                if number == 1 and raw.startswith(codecs.BOM_UTF8):
                    raw = raw[3:]
                yield _Line(number, "" if too_long else raw.decode("utf-8"), size, too_long)
    except UnicodeDecodeError as error:
        raise ClozeError(
            f"{_shown(file)}, line {number}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x}; "
            "convert the file, for example with iconv -f latin1 -t utf-8"
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ClozeError(f"{_shown(file)}: cannot be read ({error}); check the file") from error


def _paragraphs(file: Path) -> Iterator[tuple[Paragraph, int]]:
    """Paragraphs of a file, each with the bytes read since the last one."""
    lines = _lines(file)
    sample = list(islice(lines, _SAMPLE))
    width = _wrap_width([line.text.rstrip() for line in sample])
    block: list[_Line] = []
    size = 0
    for line in _chain(sample, lines):
        size += line.size
        blank = not line.text.strip()
        if line.too_long:
            yield Paragraph(line.number, "", "line over 1 MB"), size
            size = 0
        if width is not None and not blank:
            block.append(line)
            if len(block) < 2000:
                continue
        if width is None and not blank:
            block = [line]
        if block:
            yield _paragraph(block, width), size
            block, size = [], 0
    if block:
        yield _paragraph(block, width), size


def _chain(first: list[_Line], rest: Iterator[_Line]) -> Iterator[_Line]:
    yield from first
    yield from rest


def _wrap_width(lines: Sequence[str]) -> int | None:
    """Width of a file whose lines are wrapped by hand, or ``None`` where each line is a paragraph."""
    lengths = sorted(len(line) for line in lines if line.strip())
    blank = len(lines) - len(lengths)
    if blank == 0 or len(lengths) < 2 * blank or lengths[int(0.98 * (len(lengths) - 1))] > _WRAPPED:
        return None
    return lengths[int(0.9 * (len(lengths) - 1))]


def _paragraph(block: Sequence[_Line], width: int | None) -> Paragraph:
    raw = "\n".join(line.text for line in block)
    text = normalise(raw)
    problem = ""
    if "\t" in raw.strip():
        problem = "table"
    elif width is not None and len(block) > 2:
        full = [len(line.text.strip()) for line in block[:-1]]
        if sum(full) < 0.75 * width * len(full):
            problem = "verse or list"
    return Paragraph(block[0].number, text, problem or unsuitable(text))


def unsuitable(text: str) -> str:
    """Why a paragraph is not English prose, or nothing.

    >>> unsuitable("CHAPTER ONE")
    'heading'
    """
    words = text.split()
    if "_" in text:
        return "underscores"
    if _MARKUP.search(text):
        return "markup"
    if _LIST.match(text):
        return "verse or list"
    if len(words) <= 20 and not _CLOSED.search(text):
        return "heading"
    letters = _NO_LETTER.sub("", text)
    solid = len(text) - text.count(" ")
    if len(letters) < 0.85 * solid and len(words) > 8 or not letters:
        return "figures"
    if not letters.isascii() and sum(not character.isascii() for character in letters) > 0.03 * len(letters):
        return "other script"
    if sum(len(word) > 2 and word.isupper() for word in words) > 0.15 * len(words):
        return "capitals"
    if len(words) >= 12 and sum(word.lower().strip("\"'“‘,.;") in _COMMON for word in words) < 0.2 * len(words):
        return "not English prose"
    return ""


# -- excerpts -------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence of a paragraph, white space between them left out.

    >>> sentences("Mr. Hill left. It rained.")
    [(0, 14), (15, 25)]
    """
    found = []
    start = 0
    for cut in sentence_breaks(text):
        if cut > start and not _ABBREVIATION.search(text, start, cut):
            found.append((start, cut))
            start = _SPACE.match(text, cut).end()  # type: ignore[union-attr]
    if start < len(text):
        found.append((start, len(text)))
    return found


@dataclass(frozen=True)
class _Held:
    """A paragraph or a part of one: the line, the text, its words, and what to count where it is in no excerpt."""

    line: int
    text: str
    words: int
    reason: str


_WHOLE, _END, _COUNTED = "", "ends of paragraphs", "counted"


class Cutter:
    """Cuts the paragraphs of a chunk into excerpts of :data:`MIN_WORDS` to :data:`MAX_WORDS` words.

    Attributes:
        skipped: paragraphs, and ends of paragraphs, that are in no excerpt, by reason
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._held: list[_Held] = []
        self._words = 0
        self._ids: Counter[str] = Counter()

    def cut(self, chunk: Chunk) -> Iterator[Excerpt]:
        """Yield the excerpts of a chunk, in order."""
        self._ids.clear()
        for paragraph in chunk.paragraphs:
            if paragraph.problem:
                self.skipped[paragraph.problem] += 1
                yield from self._flush(chunk.name)
                continue
            words = len(paragraph.text.split())
            if self._words + words <= MAX_WORDS:
                self._hold(_Held(paragraph.line, paragraph.text, words, _WHOLE))
                if self._words >= self._target(chunk.name):
                    yield from self._flush(chunk.name)
                continue
            yield from self._split(chunk.name, paragraph)
        yield from self._flush(chunk.name)

    def _split(self, name: str, paragraph: Paragraph) -> Iterator[Excerpt]:
        """Cut a paragraph that does not fit between its sentences; what is left over begins the next excerpt."""
        begin = 0
        words = 0
        for start, end in sentences(paragraph.text):
            length = len(paragraph.text[start:end].split())
            if length > MIN_WORDS:  # the paragraph ends here
                self.skipped["sentence too long"] += 1
                self._hold(_Held(paragraph.line, paragraph.text[begin:start].rstrip(), words, _COUNTED))
                yield from self._flush(name)
                return
            if self._words + words + length > MAX_WORDS:
                self._hold(_Held(paragraph.line, paragraph.text[begin:start].rstrip(), words, _END))
                yield from self._flush(name)
                begin, words = start, 0
            words += length
            if self._words + words >= self._target(name, paragraph.line):
                self._hold(_Held(paragraph.line, paragraph.text[begin:end], words, _END))
                yield from self._flush(name)
                begin, words = end + 1, 0
        self._hold(_Held(paragraph.line, paragraph.text[begin:].strip(), words, _END if begin else _WHOLE))

    def _hold(self, held: _Held) -> None:
        if held.words:
            self._held.append(held)
            self._words += held.words

    def _skip(self, held: _Held, reason: str) -> None:
        if held.reason != _COUNTED:
            self.skipped[held.reason or reason] += 1

    def _target(self, name: str, line: int = 0) -> int:
        first = self._held[0].line if self._held else line
        return 200 + zlib.crc32(f"{name}:{first}".encode()) % 81

    def _flush(self, name: str) -> Iterator[Excerpt]:
        held, words = self._held, self._words
        self._held, self._words = [], 0
        while held and _OPEN_END.search(held[-1].text):
            words -= held[-1].words
            self._skip(held.pop(), "with an open end")
        if words < MIN_WORDS or len(held) > words / 10:
            for part in held:
                self._skip(part, "too little text in one place" if words < MIN_WORDS else "verse or list")
        else:
            name = f"{name}:{held[0].line}"
            self._ids[name] += 1
            number = self._ids[name]
            yield Excerpt(name if number == 1 else f"{name}.{number}", "\n\n".join(part.text for part in held))


def spool(folder: Path) -> Path:
    """Copy standard input to a file in *folder*, as text is read twice."""
    file = folder / _SPOOLED
    with open(file, "wb") as out:
        while True:
            block = sys.stdin.buffer.read(_LINE)
            if not block:
                return file
            out.write(block)
