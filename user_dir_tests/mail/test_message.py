from __future__ import annotations

import gzip
import os
import random
import re
import socket
import tempfile
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import compat32, default
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_cloze.mail import message as mail_message
from fairseq_cloze.mail.message import Mail, clean, compose, last_lines
from fairseq_cloze.mail.settings import MailError, MailSettings

from ..support.pictures import png

SETTINGS = MailSettings("localhost", 25, "plain", sender="Zoë <me@example.org>", to=("you@example.org",))


def composed(subject: str = "subject", text: str = "text", **fields: Any) -> EmailMessage:
    """The message as a mail program reads it."""
    message = message_from_bytes(compose(Mail(subject, text, **fields), SETTINGS).message, policy=default)
    assert isinstance(message, EmailMessage)
    assert [part.defects for part in message.walk()] == [[]] * sum(1 for _ in message.walk())
    return message


def bodies(message: EmailMessage) -> tuple[str, str]:
    """Plain text and HTML."""
    plain, page = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None and page is not None
    return plain.get_content().replace("\r\n", "\n"), page.get_content().replace("\r\n", "\n")


def attachments(message: EmailMessage) -> list[tuple[str, str, bytes]]:
    """Content type as it stands there, file name, content."""
    return [
        (str(part["Content-Type"]), str(part.get_filename()), part.get_payload(decode=True))
        for part in message.iter_attachments()
    ]


# -- the body ----------------------------------------------------------------------------------------------------------


def test_a_mask_survives() -> None:
    """Twice: as text, and in HTML, where it would be a tag."""
    assert bodies(composed(text='the <mask> of "A & B"\n\tit\'s ünï 语\n')) == (
        'the <mask> of "A & B"\n\tit\'s ünï 语\n',
        '<!DOCTYPE html>\n<html><body>\n<pre style="white-space: pre-wrap">the &lt;mask&gt; of &quot;A &amp; B&quot;\n'
        "\tit&#x27;s ünï 语\n</pre>\n</body></html>\n",
    )


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\x00a\x07\x08b\x0b\x0c\x7f\x85\x9f", "ab"),
        ("\x1b[31mred\x1b[0m \x1b[2K\x1b[1;5Hend", "red end"),
        ("\x1b]0;title\x07x", "x"),
        ("tab\tnew\n", "tab\tnew\n"),
        (b"bad \xff\xc3 bytes".decode("utf-8", "surrogateescape"), "bad ?? bytes"),
        (b"bad \xff\xc3 bytes".decode("utf-8", "replace"), "bad \ufffd\ufffd bytes"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_weird_bytes(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert bodies(composed(text=text + "|"))[0] == cleaned + "|\n"


def test_a_text_that_is_a_path_is_text(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("secret")
    message = composed(text=str(path))
    assert (bodies(message)[0], attachments(message)) == (f"{path}\n", [])


def test_a_long_text_loses_its_middle() -> None:
    text = bodies(composed(text="a" * 150_000 + "b" * 150_000))[0]
    assert text == "a" * 100_000 + "\n[... 100,000 characters left out ...]\n" + "b" * 100_000 + "\n"


def test_seven_bits_and_short_lines() -> None:
    """What every server must take (RFC 5322: 998 characters): very long lines, lines of dots, "From " at the start."""
    text = "x" * 5000 + "\n.\n..\nFrom me\n" + "é" * 3000
    raw = compose(Mail("s", text), SETTINGS).message
    assert raw.isascii() and max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert bodies(composed(text=text))[0] == text + "\n"
    assert compose(Mail("ß", "ß"), SETTINGS).message.isascii()


# -- the headers -------------------------------------------------------------------------------------------------------


def test_headers() -> None:
    letter = compose(Mail("Ende: ü 语", "x", ("A B <a@b.org>", "c@d.org", "C <c@d.org>")), SETTINGS)
    message = message_from_bytes(letter.message, policy=default)
    assert (letter.sender, letter.to, letter.subject) == ("me@example.org", ("a@b.org", "c@d.org"), "Ende: ü 语")
    assert {key: str(message[key]) for key in ("From", "To", "Subject", "Auto-Submitted")} == {
        "From": "Zoë <me@example.org>",
        "To": "A B <a@b.org>, C <c@d.org>",
        "Subject": "Ende: ü 语",
        "Auto-Submitted": "auto-generated",
    }
    assert message["Message-ID"].endswith("@example.org>") and message["Date"].datetime.tzinfo is not None
    assert len({compose(Mail("s", "t"), SETTINGS).message.split(b"Message-ID: ")[1][:40] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "subject",
    [
        "run\nBcc: evil@example.org\n\nbody",
        "run\r\nBcc: evil@example.org\r\n\r\nbody",
        "run\rBcc: evil@example.org\r\rbody",
        "run\u2028Bcc: evil@example.org\x85 body",
        "ü\nBcc: evil@example.org\n body",
        "x" * 90 + "\nBcc: evil@example.org body",
    ],
)
def test_a_subject_stays_on_its_line(subject: str) -> None:
    message = composed(subject, to=("A B <a@b.org>",))
    assert message["Bcc"] is None and message["To"] == "A B <a@b.org>"
    # the control character \x85 goes altogether; every other break becomes a blank
    assert message["Subject"] == " ".join(subject.replace("\x85", "").split())
    assert bodies(message)[0] == "text\n"


def test_strange_subjects() -> None:
    assert composed("")["Subject"] == composed(" \n\x00")["Subject"] == "(no subject)"
    assert composed("s" * 500)["Subject"] == "s" * 200
    assert composed("\ud800 语" * 60)["Subject"] == ("? 语" * 60)[:200].strip()
    assert composed("a " * 5000)["Subject"] == ("a " * 100).strip()


def test_an_address_that_is_none() -> None:
    with pytest.raises(MailError, match="found 'you'"):
        compose(Mail("s", "t", ("you",)), SETTINGS)


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_stands_in_the_body(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("x")
    message = composed(picture=png(), attachments=(log,))
    shown = [part for part in message.walk() if part.get_content_type() == "image/png"]
    assert [part.get_payload(decode=True) for part in shown] == [png()]
    assert shown[0]["Content-Disposition"] == 'inline; filename="curve.png"'
    cid = shown[0]["Content-ID"].strip("<>")
    assert bodies(message)[1].count(f'<img src="cid:{cid}" alt="learning curve">') == 1
    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == [
        *("multipart/mixed", "multipart/alternative", "text/plain"),
        *("multipart/related", "text/html", "image/png", "text/plain"),
    ]


# -- attachments -------------------------------------------------------------------------------------------------------


def test_a_log_is_text(tmp_path: Path) -> None:
    """Byte for byte, whatever the bytes."""
    content = b"epoch 1\r\n\xff\x00 <mask>\nprogress\rprogress\n"
    path = tmp_path / "train 语.log"
    path.write_bytes(content)
    message = composed(attachments=(path,))
    assert [(part.get_content_type(), part.get_content_charset()) for part in message.iter_attachments()] == [
        ("text/plain", "utf-8")
    ]
    assert [entry[1:] for entry in attachments(message)] == [("train 语.log", content)]
    assert bodies(message)[0] == "text\n"


def test_kinds(tmp_path: Path) -> None:
    names = ["a.log", "a.json", "noext", "curve.PNG", "a.weights", "a.log.gz", "a.html"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    message = composed(attachments=tuple(tmp_path / name for name in names))
    assert [part.get_content_type() for part in message.iter_attachments()] == [
        *("text/plain", "text/plain", "text/plain", "image/png"),
        *("application/octet-stream", "application/octet-stream", "text/html"),
    ]


@pytest.mark.parametrize("more", [0, 1])
def test_compressed_above_a_megabyte(tmp_path: Path, more: int) -> None:
    lines = [f"{number:08} <mask>\n" for number in range(62_500)]  # 16 bytes each
    content = "".join(lines).encode() + b"!" * more
    path = tmp_path / "train.log"
    path.write_bytes(content)
    message = composed(attachments=(path,))
    ((kind, name, attached),) = attachments(message)
    text = bodies(message)[0]
    if not more:
        assert (len(content), kind, name, text) == (1_000_000, 'text/plain; charset="utf-8"', "train.log", "text\n")
        assert attached == content
    else:
        assert (kind, name, gzip.decompress(attached)) == ("application/gzip", "train.log.gz", content)
        assert text == "text\n\nThe end of train.log:\n" + "".join(lines[-49:]) + "!\n"


def test_the_end_of_a_log_stands_there_once(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("".join(f"line {number} {'x' * 1000}\n" for number in range(2000)))
    said = f"Failed.\n\n{last_lines(path)}\n"
    assert bodies(composed(text=said, attachments=(path,)))[0] == said


def test_what_cannot_be_compressed_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and tail of a text; nothing of other files."""
    content = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz0123456789 \n", k=3_000_000))
    log, weights = tmp_path / "train.log", tmp_path / "model.pt"
    log.write_bytes(content)
    weights.write_bytes(content)
    monkeypatch.setattr(mail_message, "MOST_ATTACHED", 1_500_000)
    monkeypatch.setattr(mail_message, "HEAD", 300_000)
    monkeypatch.setattr(mail_message, "TAIL", 700_000)
    message = composed(attachments=(log, weights))
    ((kind, name, attached),) = attachments(message)
    assert (kind, name) == ("application/gzip", "train.head-and-tail.log.gz")
    gap = b"\n[... bytes 300,000 to 2,300,000 left out ...]\n"
    assert gzip.decompress(attached) == content[:300_000] + gap + content[-700_000:]
    assert bodies(message)[0] == (
        f"text\n\nOnly beginning and end of train.log are attached; the whole of it (3,000,000 bytes) is {log} on "
        f"{socket.gethostname()}\n\nThe end of train.log:\n{last_lines(log)}\n\nmodel.pt is too large to attach; the "
        f"whole of it (3,000,000 bytes) is {weights} on {socket.gethostname()}\n"
    )


def test_all_attachments_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_message, "MOST_ATTACHED", 2500)
    paths = [tmp_path / f"{name}.bin" for name in "abc"]
    for path in paths:
        path.write_bytes(random.Random(2).randbytes(1000))
    message = composed(attachments=tuple(paths))
    assert [name for _, name, _ in attachments(message)] == ["a.bin", "b.bin"]
    assert "c.bin is too large to attach" in bodies(message)[0]


def test_what_cannot_be_attached_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.log")
    good = tmp_path / "good.log"
    good.write_text("good")
    paths = (tmp_path / "gone.log", tmp_path, tmp_path / "fifo.log", good, Path("a\0b"))
    message = composed(attachments=paths)
    assert [name for _, name, _ in attachments(message)] == ["good.log"]
    assert bodies(message)[0] == (
        f"text\n\n{paths[0]} could not be attached: No such file or directory\n\n"
        f"{tmp_path} could not be attached: not a file\n\n{paths[2]} could not be attached: not a file\n\n"
        "ab could not be attached: embedded null byte\n"
    )


def test_a_log_that_grows(tmp_path: Path) -> None:
    """What was there when the mail was made; the message does not change afterwards."""
    path = tmp_path / "train.log"
    path.write_text("before")
    letter = compose(Mail("s", "t", attachments=(path,)), SETTINGS)
    path.write_text("after")
    message = message_from_bytes(letter.message, policy=default)
    assert isinstance(message, EmailMessage)
    assert attachments(message)[0][2] == b"before"


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (b"", ""),
        (b"a", "a"),
        (b"a\nb\n", "a\nb"),
        (b"a\nb\nc\n\n", "b\nc"),
        (b"a\r\nb\r\nc\r\r\n", "b\nc"),
        (b"a\r\n 1%\r50%\r99%\r", "a\n99%"),
        (b"a\n\x1b[31mred\x1b[0m\x00\n", "a\nred"),
        (b"\xff\n", "\ufffd"),
    ],
)
def test_last_lines(tmp_path: Path, content: bytes, end: str) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(content)
    assert last_lines(path, 2) == end


def test_last_lines_of_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"a" * 5000 + b"b" * 2000)
    assert last_lines(path, 2) == "b" * 2000


# -- headers -----------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["=?utf-8?q?=0d=0aReply-To:_x?=", "=?utf-8?b?DQpCY2M6IGF0dGFja2VyQGV4YW1wbGUub3Jn?=", "=?", "?=", "=\udc80", "=\0?"]
    + ["\r\nBcc: attacker@example.org", "\n\nbody", "\r", "\x85", "\u2028", "%0d%0a", "utf-8''%0d%0aX:", '"', "\\", ";"]
    + [" filename=x", ",", "<", ">", "@", "(", ")", ":", " ", "\t", "語", "ü", "checkpoint_1_100.pt", "a" * 90]
)
NAMES = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=8).map("".join)
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]


def plain(text: str) -> str:
    """What is left of a name in a header: letters, in order."""
    return re.sub(r"[\W_]", "", text)


@settings(max_examples=300, deadline=None)
@given(subject=NAMES, name=NAMES)
@example(subject="\u202e語 " * 3000, name="")
@example(subject="watch run: checkpoInt_,10.d=0aReply-To:_: checkpoInt_1_10.d=0aReply-To:_xx?=", name="")
@example(subject="\x1b[31m=\x1b[0m?utf-8?q?=0d=0aBcc:_x?=", name="")
@example(subject="", name="(" + 3 * "=?utf-8?q?=0d=0aReply-To:_x?=")  # Python folds such names wrongly
@example(subject="", name=3 * "=?utf-8?q?=0d=0aReply-To:_x?=")
def test_no_name_spells_a_header(subject: str, name: str) -> None:
    """The message has the headers we mean, none else, and each stays what it is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, re.sub("[/\0]", "", name.encode("utf-8", "replace").decode())[:40] + ".log")
        file.write_text("content")
        shown = re.sub(r"[<>@\x00-\x1f]", "", name)
        written = MailSettings("localhost", 25, "plain", sender=f"{shown} <me@example.org>", to=SETTINGS.to)
        letter = compose(Mail(subject, "text", attachments=(file,)), written)
    for policy in (default, compat32):
        message = message_from_bytes(letter.message, policy=policy)
        assert message.keys() == HEADERS and not message.defects
    message = message_from_bytes(letter.message, policy=default)
    assert isinstance(message, EmailMessage)
    [sender] = message["From"].addresses
    assert sender.addr_spec == "me@example.org" and plain(clean(shown)).startswith(plain(sender.display_name))
    assert str(message["To"]) == "you@example.org"
    assert len(str(message["Subject"]).splitlines()) == 1
    assert str(message["Subject"]) == letter.subject
    assert "=?" not in letter.subject and letter.subject == " ".join(letter.subject.split()) != ""
    assert letter.subject == "(no subject)" or plain(clean(subject)).startswith(plain(letter.subject))
    assert str(make_header(decode_header(message_from_bytes(letter.message)["Subject"]))) == letter.subject
    [attachment] = message.iter_attachments()
    expected = ["Content-Disposition", "Content-Transfer-Encoding", "Content-Type", "MIME-Version"]
    assert sorted(attachment.keys()) == expected
    assert [len(str(value).splitlines()) for value in attachment.values()] == [1] * 4
    assert attachment.get_content() == "content" and attachment.get_content_disposition() == "attachment"
    assert plain(str(attachment.get_filename())) == plain(clean(file.name))
    assert letter.to == ("you@example.org",)


def test_an_encoded_word_is_read_as_it_is_written() -> None:
    message = composed("best checkpoint=?utf-8?q?=0d=0aReply-To:_x?=.pt")
    assert message["Reply-To"] is None
    assert message["Subject"] == "best checkpoint= ?utf-8?q?=0d=0aReply-To:_x?=.pt"
