"""Headers of mails: no name of a checkpoint, a run or a file adds one, or changes who gets the mail."""

from __future__ import annotations

from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import compat32, default

from fairseq_cloze.mail.message import Mail, compose
from fairseq_cloze.mail.settings import MailError, MailSettings, split_address

HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]


def seeds() -> list[bytes]:
    """A subject, and behind a zero the name of a recipient."""
    return [
        "watch run: checkpoint_1_10.pt is the best so far\0Zoë".encode(),
        b"=?utf-8?q?=0d=0aReply-To:_x?=\0=?utf-8?b?DQpCY2M6IGF0dGFja2VyQGV4YW1wbGUub3Jn?=",
        "run\r\nBcc: evil@example.org\r\n\r\nbody \u202e語\0a, b; (c)".encode(),
        b"x" * 300 + b"\xff\xfe\0" + b"y " * 100,
    ]


def attack(data: bytes) -> None:
    """The message has the headers we mean, none else, and each says what was meant."""
    subject, _, name = data.decode("utf-8", "surrogateescape").partition("\0")
    try:
        to = f"{name} <you@example.org>"
        split_address(to)
    except MailError:
        to = "you@example.org"
    letter = compose(Mail(subject, "text", (to,)), MailSettings("localhost", 25, "plain", sender="me@example.org"))
    assert letter.message.isascii() and max(map(len, letter.message.split(b"\r\n"))) <= 998
    for policy in (default, compat32):
        message = message_from_bytes(letter.message, policy=policy)
        assert message.keys() == HEADERS and not message.defects
    parsed = message_from_bytes(letter.message, policy=default)
    assert str(parsed["Subject"]) == str(make_header(decode_header(message["Subject"]))) == letter.subject
    assert "=?" not in letter.subject and len(letter.subject.splitlines()) == 1
    assert [one.addr_spec for one in parsed["To"].addresses] == ["you@example.org"] == list(letter.to)
    assert str(parsed["From"]) == "me@example.org"
