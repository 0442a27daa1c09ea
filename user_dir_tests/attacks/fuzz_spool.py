"""Files of the mail spool: no damage changes to whom a message goes, or what it says."""

from __future__ import annotations

import re

from fairseq_cloze.mail.message import Letter
from fairseq_cloze.mail.spool import _header, parse_letter

MESSAGE = b"Subject: s\r\n\r\ntext\r\n"


def seeds() -> list[bytes]:
    """Files as they are kept, and one of an earlier version."""
    letter = Letter("best = ?", "me@example.org", ("you@example.org", "b@x.org"), MESSAGE)
    old = b'{"subject": "s", "sender": "me@example.org", "to": ["you@example.org"]}  \n'
    return [_header(letter) + b"   \n" + MESSAGE, old + MESSAGE]


def attack(data: bytes) -> None:
    """What is accepted can be handed to a server."""
    header, end, message = data.partition(b"\n")
    try:
        letter = parse_letter(header + end, message)
    except ValueError:
        return
    assert letter.message == message
    for address in (letter.sender, *letter.to):
        assert re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", address)
