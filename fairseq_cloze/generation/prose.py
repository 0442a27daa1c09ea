"""Prose: text files of any size as chunks of paragraphs, and paragraphs as excerpts of a passage's length.

Paragraphs that are not English prose are left out with a reason, and no excerpt reaches across one.
"""

import codecs
import os
import re
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from ..errors import ClozeError
from ..files import PathLike
from ..passages.reading import UNREADABLE, files_under, open_file
from ..passages.text import normalise, sentence_breaks

SUFFIXES = (".txt", ".txt.gz", ".txt.xz")

TEMPORARY = "fairseq-cloze-generate."  # how the name of the temporary folder begins

#: Words of an excerpt: at least, at most; it ends after 200 to 280 where sentences allow.
MIN_WORDS, MAX_WORDS = 150, 350

_SUFFIX = re.compile(r"(?:\.txt)?(?:\.[gx]z)?\Z", re.I)
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
    """Some paragraphs of one file: its name without the suffix, they, and the bytes read for them."""

    name: str
    paragraphs: tuple[Paragraph, ...]
    size: int


@dataclass(frozen=True)
class Excerpt:
    """Text of a passage's length: its id, and its paragraphs with blank lines between them."""

    id: str
    text: str


def find_texts(paths: Sequence[PathLike]) -> list[tuple[Path, str]]:
    """List the text files under *paths* with their names, in the order given, those of a folder sorted.

    Raises:
        ClozeError: a path does not exist, holds no text file or is a pipe, or two files are the same or share a name
    """
    found: dict[str, tuple[Path, str]] = {}  # by absolute path
    seen: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ClozeError(
                f"{path}: no such file or folder; give text files, folders of them, or - for standard input"
            )
        if not path.is_dir() and not path.is_file():
            raise ClozeError(f"{path}: cannot be read twice; pipe the text in and give -")
        files = [path] if path.is_file() else sorted(filter(Path.is_file, files_under(path, SUFFIXES)[0]))
        if not files:
            raise ClozeError(f"{path}: expected a folder with {', '.join(SUFFIXES)} files, found none; check the path")
        for file in files:
            name = _SUFFIX.sub("", path.name if path.is_file() else file.relative_to(path).as_posix(), 1)
            name = name.encode("utf-8", "backslashreplace").decode()  # it goes into the ids of passages
            place = os.path.abspath(file)
            if place in found:
                raise ClozeError(f"{_shown(file)}: given twice; give it once")
            if name in seen:
                raise ClozeError(
                    f"{_shown(file)}: its passages would have the same ids as those of {_shown(seen[name])}; "
                    "rename one of them, or give the folder above both"
                )
            found[place] = (file, name)
            seen[name] = file
    return list(found.values())


def _shown(file: Path) -> str:
    """What the user calls a file."""
    return "standard input" if file.name == _SPOOLED and file.parent.name.startswith(TEMPORARY) else str(file)


def read_chunks(files: Sequence[tuple[Path, str]]) -> Iterator[Chunk]:
    """Yield the paragraphs of files in chunks of about 256 kB; a chunk is of one file.

    Raises:
        ClozeError: a file cannot be read or is not UTF-8
    """
    for file, name in files:
        paragraphs: list[Paragraph] = []
        characters = size = 0
        for paragraph, bytes_read in _paragraphs(file):
            paragraphs.append(paragraph)
            characters += len(paragraph.text)
            size += bytes_read
            if characters >= _CHUNK:
                yield Chunk(name, tuple(paragraphs), size)
                paragraphs, characters, size = [], 0, 0
        if paragraphs:
            yield Chunk(name, tuple(paragraphs), size)


class _Line(NamedTuple):
    number: int
    text: str
    size: int  # bytes
    too_long: bool


def _lines(file: Path) -> Iterator[_Line]:
    number = 0
    try:
        with open_file(file) as source:
            while raw := source.readline(_LINE):
                number += 1
                size = len(raw)
                too_long = size == _LINE and not raw.endswith(b"\n")
                while len(raw) == _LINE and not raw.endswith(b"\n"):
                    raw = source.readline(_LINE)
                    size += len(raw)
                if number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                yield _Line(number, "" if too_long else raw.decode("utf-8"), size, too_long)
    except UnicodeDecodeError as error:
        raise ClozeError(
            f"{_shown(file)}, line {number}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x}; "
            "convert the file, for example with iconv -f latin1 -t utf-8"
        ) from error
    except UNREADABLE as error:
        raise ClozeError(f"{_shown(file)}: cannot be read ({error}); check the file") from error


def _paragraphs(file: Path) -> Iterator[tuple[Paragraph, int]]:
    """Paragraphs of a file, each with the bytes read since the last one."""
    lines = _lines(file)
    sample = list(islice(lines, _SAMPLE))
    width = _wrap_width([line.text.rstrip() for line in sample])
    block: list[_Line] = []
    size = 0
    for line in chain(sample, lines):
        size += line.size
        if line.too_long:
            yield Paragraph(line.number, "", "line over 1 MB"), size
            size = 0
        if line.text.strip():
            block.append(line)
            if width is not None and len(block) < 2000:
                continue
        if block:
            yield _paragraph(block, width), size
            block, size = [], 0
    if block:
        yield _paragraph(block, width), size


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
    full = [len(line.text.strip()) for line in block[:-1]]
    if "\t" in raw.strip():
        problem = "table"
    elif width is not None and len(full) > 1 and sum(full) < 0.75 * width * len(full):
        problem = "verse or list"
    else:
        problem = unsuitable(text)
    return Paragraph(block[0].number, text, problem)


def unsuitable(text: str) -> str:
    """Why a paragraph is not English prose, or nothing."""
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


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence of a paragraph, white space between them left out."""
    found = []
    start = 0
    for cut in sentence_breaks(text):
        if cut > start and not _ABBREVIATION.search(text, start, cut):
            found.append((start, cut))
            start = _SPACE.match(text, cut).end()  # type: ignore[union-attr]
    if start < len(text):
        found.append((start, len(text)))
    return found


class _Held(NamedTuple):
    """A paragraph or a part of one: the line, the text, its words, and what to count where it is in no excerpt."""

    line: int
    text: str
    words: int
    reason: str


_WHOLE, _END, _COUNTED = "", "ends of paragraphs", "counted"


class Cutter:
    """Cuts the paragraphs of a chunk into excerpts of :data:`MIN_WORDS` to :data:`MAX_WORDS` words."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()  #: paragraphs, and ends of them, that are in no excerpt, by reason
        self._name = ""
        self._held: list[_Held] = []
        self._words = 0
        self._ids: Counter[str] = Counter()

    def cut(self, chunk: Chunk) -> Iterator[Excerpt]:
        """Yield the excerpts of a chunk, in order."""
        self._name = chunk.name
        self._ids.clear()
        for paragraph in chunk.paragraphs:
            words = len(paragraph.text.split())
            if paragraph.problem:
                self.skipped[paragraph.problem] += 1
                yield from self._flush()
            elif self._words + words > MAX_WORDS:
                yield from self._split(paragraph)
            else:
                self._hold(paragraph.line, paragraph.text, words, _WHOLE)
                if self._words >= self._target(0):
                    yield from self._flush()
        yield from self._flush()

    def _split(self, paragraph: Paragraph) -> Iterator[Excerpt]:
        """Cut a paragraph that does not fit between its sentences; what is left over begins the next excerpt."""
        line, text = paragraph.line, paragraph.text
        begin = words = 0
        for start, end in sentences(text):
            length = len(text[start:end].split())
            if length > MIN_WORDS:  # the paragraph ends here
                self.skipped["sentence too long"] += 1
                self._hold(line, text[begin:start].rstrip(), words, _COUNTED)
                yield from self._flush()
                return
            if self._words + words + length > MAX_WORDS:
                self._hold(line, text[begin:start].rstrip(), words, _END)
                yield from self._flush()
                begin, words = start, 0
            words += length
            if self._words + words >= self._target(line):
                self._hold(line, text[begin:end], words, _END)
                yield from self._flush()
                begin, words = end + 1, 0
        self._hold(line, text[begin:].strip(), words, _END if begin else _WHOLE)

    def _hold(self, line: int, text: str, words: int, reason: str) -> None:
        if words:
            self._held.append(_Held(line, text, words, reason))
            self._words += words

    def _skip(self, held: _Held, reason: str) -> None:
        if held.reason != _COUNTED:
            self.skipped[held.reason or reason] += 1

    def _target(self, line: int) -> int:
        """Words from which an excerpt ends that begins in the line of what is held, or else in this one."""
        first = self._held[0].line if self._held else line
        return 200 + zlib.crc32(f"{self._name}:{first}".encode()) % 81

    def _flush(self) -> Iterator[Excerpt]:
        held, words = self._held, self._words
        self._held, self._words = [], 0
        while held and _OPEN_END.search(held[-1].text):
            words -= held[-1].words
            self._skip(held.pop(), "with an open end")
        if words < MIN_WORDS or len(held) > words / 10:
            for part in held:
                self._skip(part, "too little text in one place" if words < MIN_WORDS else "verse or list")
        else:
            name = f"{self._name}:{held[0].line}"
            self._ids[name] += 1
            number = self._ids[name]
            yield Excerpt(name if number == 1 else f"{name}.{number}", "\n\n".join(part.text for part in held))


def spool(folder: Path) -> Path:
    """Copy standard input to a file in *folder*, as text is read twice."""
    file = folder / _SPOOLED
    with open(file, "wb") as out:
        shutil.copyfileobj(sys.stdin.buffer, out)
    return file
