"""A mail as bytes: composed once, so that every try to send it sends the same message.

Whatever comes from logs is escaped and cleaned.  Attachments are read here and now, as a log may go on growing.
"""

import html
import io
import mimetypes
import os
import re
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .settings import MailSettings, split_address

COMPRESS_ABOVE = 1_000_000  #: bytes of an attachment
MOST_ATTACHED = 10_000_000  #: bytes of all attachments together, compressed; many servers take no mail above 25 MB
HEAD, TAIL = 1_000_000, 3_000_000  #: bytes that stay of the beginning and of the end of a text that is longer
LINES = 50  #: of a compressed log that the body shows

_MOST_TEXT, _MOST_SUBJECT, _MOST_PLAIN, _MOST_NAME = 200_000, 200, 66, 60  # characters

_TEXTS = (".log", ".txt", ".out", ".err", ".json", ".jsonl", ".csv", ".tsv", ".md", ".toml", ".yaml", ".yml", "")
_GZIP = "application/gzip"
_Attached = tuple[str, str, bytes]  # name, kind and content
_ESCAPES = re.compile(  # colours, cursor movements, titles and links
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Mail:
    """What a caller wants to say, in plain text."""

    subject: str
    text: str
    to: tuple[str, ...] = ()  #: addresses; the settings' where there are none
    attachments: tuple[Path, ...] = ()  #: one that cannot be read is told in the body
    picture: bytes | None = None  #: a PNG to show in the body


@dataclass(frozen=True)
class Letter:
    """A composed message, what it is about, and the addresses of its envelope."""

    subject: str
    sender: str
    to: tuple[str, ...]
    message: bytes


def compose(mail: Mail, settings: MailSettings) -> Letter:
    """The message of a mail, with its Message-ID and Date.

    Raises:
        MailError: an address is none
    """
    from email.header import Header
    from email.headerregistry import Address
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import localtime, make_msgid

    sender = split_address(settings.sender)[1]
    to = {address: name for name, address in map(split_address, mail.to or settings.to)}
    attached, notes = _read_attachments(mail.attachments, mail.text)
    text = _cut("\n\n".join(clean(part).rstrip("\n") for part in (mail.text, *notes))) + "\n"
    subject = one_line(mail.subject)[:_MOST_SUBJECT].strip() or "(no subject)"
    domain = sender.rpartition("@")[2]

    message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))  # servers need not take 8 bits
    message["From"] = Address(_display_name(split_address(settings.sender)[0]), addr_spec=sender)
    message["To"] = [Address(_display_name(name), addr_spec=address) for address, name in to.items()]
    coded = len(subject) > _MOST_PLAIN or not subject.isascii()  # folding it as it is would lose or add blanks
    message.set_raw(
        "Subject", Header(subject, "utf-8", header_name="Subject").encode(linesep="\r\n") if coded else subject
    )
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain=domain)  # of the sender: to ask for this machine's may take long
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text, charset="utf-8")
    body = f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
    cid = make_msgid("picture", domain=domain)
    if mail.picture is not None:
        body += f'\n<p><img src="cid:{cid[1:-1]}" alt="learning curve"></p>'
    message.add_alternative(f"<!DOCTYPE html>\n<html><body>\n{body}\n</body></html>\n", subtype="html", charset="utf-8")
    if mail.picture is not None:
        page = list(message.iter_parts())[1]
        assert isinstance(page, EmailMessage)
        page.add_related(mail.picture, "image", "png", cid=cid, filename="curve.png", disposition="inline")
    for name, kind, content in attached:
        main, sub = kind.split("/")
        charset = {"charset": "utf-8"} if main == "text" else None
        message.add_attachment(content, main, sub, filename=one_line(name), params=charset)
    return Letter(subject, sender, tuple(to), message.as_bytes())


def clean(text: str) -> str:
    """Text as it may stand in a mail: no control characters but new lines and tabs, no colours, no lone surrogates."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode("utf-8")


def last_lines(path: Path, lines: int = LINES) -> str:
    """The end of a text file, cleaned; only that much is read as is needed."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 1000 * lines))
        text = file.read(1000 * lines)
    return clean("\n".join(shown_lines(text.decode("utf-8", "replace"))[-lines:]))


def shown_lines(text: str) -> list[str]:
    """The lines of a log as a terminal shows them in the end: of a line that was drawn again its last state."""
    return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")]


def one_line(text: str) -> str:
    """Text as a header may hold it: one line, without the ``=?`` by which it could spell other headers in code."""
    return " ".join(clean(text).split()).replace("=?", "= ?")


def _display_name(name: str) -> str:
    """The name before an address: short, without the characters at which Python breaks long names wrongly."""
    return " ".join(re.sub(r'[()<>@:;\\"=?\[\],]', " ", one_line(name))[:_MOST_NAME].split())


def _cut(text: str) -> str:
    half = _MOST_TEXT // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def _read_attachments(paths: Sequence[Path], text: str) -> tuple[list[_Attached], list[str]]:
    """What can be attached, and what the body has to say about the rest."""
    attached: list[_Attached] = []
    notes: list[str] = []
    for path in paths:
        try:
            if path.exists() and not path.is_file():
                raise ValueError("not a file")
            entry, note = _read_attachment(path, MOST_ATTACHED - sum(len(content) for *_, content in attached))
            attached += [entry] if entry else []
            notes += [note] if note else []
            if _is_text(path) and (entry is None or entry[1] == _GZIP):
                end = last_lines(path)
                if end and end not in clean(text):
                    notes.append(f"The end of {path.name}:\n{end}")
        except (OSError, ValueError) as error:
            notes.append(f"{path} could not be attached: {getattr(error, 'strerror', None) or error}")
    return attached, notes


def _read_attachment(path: Path, room: int) -> tuple[_Attached | None, str]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= COMPRESS_ABOVE and size <= room:
            kind, encoding = ("text/plain", None) if _is_text(path) else mimetypes.guess_type(path.name)
            kind = "application/octet-stream" if kind is None or encoding is not None else kind
            return (path.name, kind, file.read(size)), ""
        packed = _compress(file, size, room)
        if packed is not None:
            return (f"{path.name}.gz", _GZIP, packed), ""
        if _is_text(path) and size > HEAD + TAIL:
            file.seek(0)
            ends = file.read(HEAD) + f"\n[... bytes {HEAD:,} to {size - TAIL:,} left out ...]\n".encode()
            file.seek(size - TAIL)
            ends += file.read(TAIL)
            packed = _compress(io.BytesIO(ends), len(ends), room)
    whole = f"the whole of it ({size:,} bytes) is {path.absolute()} on {socket.gethostname()}"
    if packed is None:
        return None, f"{path.name} is too large to attach; {whole}"
    name = f"{path.stem}.head-and-tail{path.suffix}.gz"
    return (name, _GZIP, packed), f"Only beginning and end of {path.name} are attached; {whole}"


def _compress(file: BinaryIO, size: int, most: int) -> bytes | None:
    """The next *size* bytes as gzip, or None where that would be more than *most* bytes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = bytearray()
    while len(packed) <= most and (piece := file.read(min(size, 1 << 20))):
        size -= len(piece)
        packed += packer.compress(piece)
    packed += packer.flush()
    return bytes(packed) if len(packed) <= most else None


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in _TEXTS
