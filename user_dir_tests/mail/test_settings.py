from __future__ import annotations

import fcntl
import os
import pty
import stat
import subprocess
import sys
import termios
import traceback
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.mail import settings as mail_settings
from fairseq_cloze.mail.settings import (
    MailError,
    MailSettings,
    load_settings,
    settings_path,
    split_address,
    split_addresses,
    state_path,
)

from ..support.commands import environment
from ..support.mail_server import fresh_home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    return fresh_home(tmp_path, monkeypatch)


def write(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / "mail.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


GMAIL = 'user = "me@gmail.com"\npassword = "abcd efgh ijkl mnop"\n'
RELAY = 'host = "relay.example.org"\nport = 25\nsecurity = "plain"\nfrom = "me@example.org"\n'


def test_gmail_needs_two_lines(home: Path) -> None:
    """The app password as Google shows it, in groups."""
    write(home, GMAIL)
    assert load_settings() == MailSettings(
        "smtp.gmail.com",
        465,
        "ssl",
        "me@gmail.com",
        "abcdefghijklmnop",
        "me@gmail.com",
        ("me@gmail.com",),
        20.0,
        None,
    )


def test_every_key(home: Path, tmp_path: Path) -> None:
    write(
        home,
        'host = "mail.example.org"\nport = 2525\nsecurity = "starttls"\nuser = "me"\npassword = "a b"\n'
        'from = "Me <me@example.org>"\nto = ["you@example.org", "Them <them@example.org>"]\ntimeout = 7.5\n'
        'ca_file = "~/ca.pem"\n',
    )
    assert load_settings() == MailSettings(
        "mail.example.org",
        2525,
        "starttls",
        "me",
        "a b",
        "Me <me@example.org>",
        ("you@example.org", "Them <them@example.org>"),
        7.5,
        str(tmp_path / "ca.pem"),
    )


@pytest.mark.parametrize(
    ("lines", "port", "security"),
    [
        ('security = "ssl"', 465, "ssl"),
        ('security = "starttls"', 587, "starttls"),
        ('security = "plain"', 25, "plain"),
        ("port = 587", 587, "starttls"),
        ("port = 465", 465, "ssl"),
        ("port = 2525", 2525, "ssl"),
        ("", 465, "ssl"),
    ],
)
def test_port_and_security_follow_each_other(home: Path, lines: str, port: int, security: str) -> None:
    write(home, f'host = "mail.example.org"\nfrom = "me@example.org"\n{lines}\n')
    settings = load_settings()
    assert (settings.port, settings.security) == (port, security)


def test_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, GMAIL + 'to = "me@example.org"\ntimeout = 5\n')
    for key, value in {
        "HOST": "mail.example.org",
        "PORT": "587",
        "PASSWORD": "other one",
        "FROM": "bot@example.org",
        "TO": "a@example.org, b@example.org",
        "TIMEOUT": "",
    }.items():
        monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{key}", value)
    assert load_settings() == MailSettings(
        "mail.example.org",
        587,
        "starttls",
        "me@gmail.com",
        "other one",
        "bot@example.org",
        ("a@example.org", "b@example.org"),
        5,
        None,
    )


def test_environment_alone() -> None:
    found = load_settings(
        {
            "FAIRSEQ_CLOZE_MAIL_HOST": "localhost",
            "FAIRSEQ_CLOZE_MAIL_SECURITY": "plain",
            "FAIRSEQ_CLOZE_MAIL_FROM": "me@example.org",
            "XDG_CONFIG_HOME": "/nowhere",
        }
    )
    assert found == MailSettings(
        "localhost", 25, "plain", None, None, "me@example.org", ("me@example.org",), 20.0, None
    )


def test_folders() -> None:
    """A relative XDG folder counts for nothing, as the XDG specification says."""
    home = os.environ["HOME"]
    assert settings_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/fairseq-cloze/mail.toml")
    assert settings_path({"XDG_CONFIG_HOME": "c"}) == Path(home, ".config/fairseq-cloze/mail.toml")
    assert settings_path({}) == Path(home, ".config/fairseq-cloze/mail.toml")
    assert state_path({"XDG_STATE_HOME": "/s"}) == Path("/s/fairseq-cloze/mail")
    assert state_path({}) == Path(home, ".local/state/fairseq-cloze/mail")


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_no_settings(home: Path) -> None:
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == (
        f"no mail settings: write {home / 'mail.toml'} (mode 0600) with host, port, security, user, password, from and "
        "to, or set FAIRSEQ_CLOZE_MAIL_HOST and so on; for Gmail user and password, an app password, are enough"
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_read(home: Path, mode: int) -> None:
    path = write(home, GMAIL, mode)
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == f"{path}: mode {mode:04o} lets others read it; run: chmod 600 '{path}'"
    assert stat.S_IMODE(path.stat().st_mode) == mode


EXPECTED = "expected one of host, port, security, user, password, from, to, timeout, ca_file"
ADDRESS = 'an address such as "me@example.org" or "My Name <me@example.org>"'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('hots = "x"', f"hots: there is no such setting; {EXPECTED}"),
        ('[mail]\nhost = "x"', f"mail: there is no such setting; {EXPECTED}"),
        ("host = 3", "host: expected the name of the SMTP server, found 3"),
        ('host = "smtp://x"', "host: expected the name of the SMTP server, found 'smtp://x'"),
        ('host = " "', "host: expected the name of the SMTP server, found ' '"),
        ('port = "465"', "port: expected a number from 1 to 65535, found '465'"),
        ("port = true", "port: expected a number from 1 to 65535, found True"),
        ("port = 70000", "port: expected a number from 1 to 65535, found 70000"),
        ('security = "tls"', 'security: expected "ssl", "starttls" or "plain", found \'tls\''),
        ("security = []", 'security: expected "ssl", "starttls" or "plain", found []'),
        ('from = "me"', f"from: expected {ADDRESS}, found 'me'"),
        ('from = "a@b.org\\nBcc: c@d.org"', f"from: expected {ADDRESS}, found 'a@b.org\\nBcc: c@d.org'"),
        ("to = []", "to: expected an address or a list of addresses, found []"),
        ('to = ["a@b.org", 3]', "to: expected an address or a list of addresses, found ['a@b.org', 3]"),
        ("timeout = 0", "timeout: expected seconds, a number from 1 to 600, found 0"),
        ("timeout = nan", "timeout: expected seconds, a number from 1 to 600, found nan"),
        ('password = ["secret"]', "password: expected a string, found something else"),
        (
            "password = secret",
            'not TOML: Invalid value (at line 1, column 12); strings stand in quotes, as in host = "smtp.gmail.com"',
        ),
    ],
)
def test_values_that_do_not_fit(home: Path, line: str, problem: str) -> None:
    path = write(home, line + "\n")
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == f"{path}: {problem}"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("PORT", "ssl", "expected a number from 1 to 65535, found 'ssl'"),
        ("TIMEOUT", "soon", "expected seconds, a number from 1 to 600, found 'soon'"),
        ("TO", "a@b.org,c", "expected an address or a list of addresses, found ['a@b.org', 'c']"),
        ("PASS", "secret", f"there is no such setting; {EXPECTED}"),
        ("PASSWORD", "sec\x1bret", "expected a string, found something else"),
    ],
)
def test_variables_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, key: str, value: str, problem: str) -> None:
    monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{key}", value)
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == f"FAIRSEQ_CLOZE_MAIL_{key}: {problem}"


HINT = (
    "write password = \"...\" into {path}, set FAIRSEQ_CLOZE_MAIL_PASSWORD, or store it with 'keyring set yagmail USER'"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('user = "me@gmail.com"', "{path}: no password for user me@gmail.com; " + HINT),
        ('password = "x"', "{path}: no user; write your Gmail address as user, or another server as host"),
        ('host = "x.org"\nuser = "me"\npassword = "x"', "{path}: no from; expected " + ADDRESS),
        (
            'host = "x.org"\npassword = "x"\nfrom = "a@b.org"',
            "mail: there is a password, but no user; write the name to log in with as user",
        ),
        (
            RELAY + 'user = "me"\npassword = "secret"',
            "mail: the password of me would go to relay.example.org readable by everybody on the way, as security is "
            '"plain"; write security = "ssl" or "starttls", or leave out user and password where the server wants no '
            "login",
        ),
        (
            GMAIL.replace("abcd", "äbcd"),
            "mail: the password has characters beyond ASCII, which SMTP cannot carry; choose another one",
        ),
    ],
)
def test_values_that_do_not_fit_together(home: Path, text: str, problem: str) -> None:
    path = write(home, text)
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == problem.format(path=path)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "::1"])
def test_a_password_may_go_plain_to_this_machine(host: str) -> None:
    assert MailSettings(host, 25, "plain", "me", "secret", "a@b.org").user == "me"


@pytest.mark.parametrize("host", ["localhost.example.org", "10.0.0.1", "127.0.0.1.nip.io", "relay"])
def test_a_password_goes_plain_nowhere_else(host: str) -> None:
    with pytest.raises(MailError, match="readable by everybody"):
        MailSettings(host, 25, "plain", "me", "secret", "a@b.org")


def test_a_file_that_is_no_text(home: Path) -> None:
    path = write(home, "")
    path.write_bytes(b'password = "\xff\xfe"\n')
    with pytest.raises(MailError) as caught:
        load_settings()
    assert str(caught.value) == f"{path}: cannot be read (it is not UTF-8)"


@pytest.mark.parametrize(
    "text",
    [
        'password = "s3cret"\nhots = 3',
        "password = s3cret",
        'password = "s3cret',
        'password = "s3cret" "',
        'user = "me"\npassword = ["s3cret"]',
        'host = "x.org"\npassword = "s3cret"\nfrom = "a@b.org"',
        RELAY + 'user = "me"\npassword = "s3cret"',
        'password = "s3cret\u00e4"\nuser="me@gmail.com"',
    ],
)
def test_passwords_are_never_shown(home: Path, text: str) -> None:
    """Neither in the text of an error nor in its traceback."""
    write(home, text)
    with pytest.raises(MailError) as caught:
        load_settings()
    assert "s3cret" not in "".join(traceback.format_exception(MailError, caught.value, caught.value.__traceback__))


def test_passwords_are_not_in_repr(home: Path) -> None:
    write(home, GMAIL)
    assert "abcd" not in f"{load_settings()!r} {load_settings()}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("me@example.org", ("", "me@example.org")),
        (" me+tag@sub.example.org ", ("", "me+tag@sub.example.org")),
        ("root@localhost", ("", "root@localhost")),
        ("Zoë Doe <zoe@example.org>", ("Zoë Doe", "zoe@example.org")),
        ('"Doe, Zoë" <zoe@example.org>', ("Doe, Zoë", "zoe@example.org")),
        (r'"Zoë \"Z\" <z@work>"<zoe@example.org>', ('Zoë "Z" <z@work>', "zoe@example.org")),
        ("me@exämple.org", ("", "me@xn--exmple-cua.org")),
    ],
)
def test_addresses(text: str, parts: Any) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", []),
        ("a@b.org,c@d.org e@f.org:g@h.org ; i@j.org", ["a@b.org", "c@d.org", "e@f.org", "g@h.org", "i@j.org"]),
        ("Jane Doe <jane@b.org>", ["Jane Doe <jane@b.org>"]),
        ('a@b.org "Doe, J: <x>" <j@b.org>, Bob <b@b.org>', ["a@b.org", '"Doe, J: <x>" <j@b.org>', "Bob <b@b.org>"]),
        ("Jane jane@b.org", ["Jane", "jane@b.org"]),
    ],
)
def test_lists_of_addresses(text: str, addresses: list[str]) -> None:
    """What is no address stays, so that it can be complained about."""
    assert split_addresses(text) == addresses


def test_a_list_without_an_end_is_not_searched() -> None:
    assert split_addresses("a" * 4096) == ["a" * 4096]
    with pytest.raises(
        MailError, match="^mail: expected addresses, at most 4,096 characters, found 4,097; name fewer$"
    ):
        split_addresses("a" * 4097)


def test_a_list_in_the_settings(home: Path) -> None:
    to = "'\"Doe, Jane\" <j@b.org>, k@b.org'"
    write(home, f"{GMAIL}\nto = {to}")
    assert load_settings().to == ('"Doe, Jane" <j@b.org>', "k@b.org")
    environ = {**os.environ, "FAIRSEQ_CLOZE_MAIL_TO": "Jane Doe <j@b.org>, l@b.org"}
    assert load_settings(environ).to == ("Jane Doe <j@b.org>", "l@b.org")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run as a number; nothing is written to a folder called ``~``."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert settings_path({}) == Path("/.config/fairseq-cloze/mail.toml")
    assert state_path({}) == Path("/.local/state/fairseq-cloze/mail")


@pytest.mark.parametrize(
    "text",
    [
        *("", "me", "me@", "@example.org", "a@b@c", "a b@c.org", "a@b.org c@d.org", "a@b.org,c@d.org", "a@b.org\nX: y"),
        *("ä@b.org", "a@ä..org", "..a@b.org", "a@-b.org", "a@b..org", "A\nB <a@b.org>", "A <a@b.org> B", "<a@b.org>x"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MailError):
        split_address(text)


# -- keyring, and nobody there to answer -------------------------------------------------------------------------------


BACKEND = """
import time
from keyring.backend import KeyringBackend

class Keyring(KeyringBackend):
    priority = 1
    def get_password(self, service, user):
        {body}
    def set_password(self, service, user, password): pass
    def delete_password(self, service, user): pass
"""


def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A keyring of one's own, as keyring's documentation describes them."""
    (tmp_path / "own_keyring.py").write_text(BACKEND.format(body=body))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "own_keyring.Keyring")


def test_keyring(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend(tmp_path, monkeypatch, "return {'yagmail me@gmail.com': 'from the ring'}.get(f'{service} {user}')")
    monkeypatch.setattr(mail_settings, "KEYRING_SECONDS", 60.0)
    write(home, 'user = "me@gmail.com"\n')
    assert load_settings().password == "fromthering"
    write(home, GMAIL)
    assert load_settings().password == "abcdefghijklmnop"  # the file goes first
    write(home, 'user = "you@gmail.com"\n')
    with pytest.raises(MailError, match="no password for user you@gmail.com"):
        load_settings()


@pytest.mark.parametrize("body", ["time.sleep(3600)", "return input('Password: ')", "raise RuntimeError('locked')"])
def test_a_keyring_that_asks_or_hangs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    backend(tmp_path, monkeypatch, body)
    monkeypatch.setattr(mail_settings, "KEYRING_SECONDS", 2.0)
    write(home, 'user = "me@gmail.com"\n')
    with pytest.raises(MailError, match="no password for user me@gmail.com"):
        load_settings()


@pytest.mark.parametrize("asking", [False, True])
def test_nobody_is_asked_at_a_terminal(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asking: bool
) -> None:
    """At a terminal, without a password, even with a keyring that would ask: an error, not a question."""
    if asking:
        backend(tmp_path, monkeypatch, "import getpass; return getpass.getpass('Unlock: ')")
    path = write(home, 'user = "me@gmail.com"\n')
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from fairseq_cloze.cli import main; main()", "mail", "test"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(60) == 1
    hint = HINT.format(path=path)
    assert said.decode().replace("\r\n", "\n") == f"Error: {path}: no password for user me@gmail.com; {hint}\n"


def test_nothing_secret_in_the_arguments() -> None:
    """There is no option for a password."""
    text = subprocess.run(
        [sys.executable, "-c", "from fairseq_cloze.cli import main; main()", "mail", "test", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert text == (
        "Usage: -c mail test [OPTIONS]\n\n"
        "  Send a test message to the settings' own address and to the services of\n"
        "  FAIRSEQ_CLOZE_NOTIFY; say what happened.\n\n"
        "  Without settings for mail, only to the services.\n\n"
        "Options:\n  -h, --help  Show this message and exit.\n"
    )
