"""How mail leaves: the settings file, the environment, a keyring.  What is missing is an error; nobody is asked."""

import importlib.util
import ipaddress
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any

from ..errors import ClozeError

PORTS = {"ssl": 465, "starttls": 587, "plain": 25}  #: where each security is usually offered

#: Key of the settings file → what it holds; the environment has each as FAIRSEQ_CLOZE_MAIL_KEY.
KEYS = {
    "host": "the name of the SMTP server",
    "port": "a number from 1 to 65535",
    "security": '"ssl", "starttls" or "plain"',
    "user": "the name to log in with",
    "password": "a string",
    "from": 'an address such as "me@example.org" or "My Name <me@example.org>"',
    "to": "an address or a list of addresses",
    "timeout": "seconds, a number from 1 to 600",
    "ca_file": "a file with the certificates to trust",
}

PREFIX = "FAIRSEQ_CLOZE_MAIL_"
GMAIL = "smtp.gmail.com"
KEYRING_SECONDS = 5.0  #: after which a keyring is given up, as it waits for somebody to unlock it

_WORD = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = rf"{_WORD}(?:\.{_WORD})*@{_LABEL}(?:\.{_LABEL})*"
_QUOTED = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_MAILBOX = re.compile(rf"(?:(?P<name>{_QUOTED}\s*|[^<>@\x00-\x1f]*)<)?(?P<address>{_ADDRESS})(?(name)>)")
_ONE_OF_MANY = re.compile(rf"(?:{_QUOTED}|[^\"<>@,;])*<[^<>]*>|[^\s,:;]+")


class MailError(ClozeError):
    """Mail that cannot be sent as things stand; the text says why and what to do."""


@dataclass(frozen=True)
class MailSettings:
    """An SMTP server and what it is told; a :class:`MailError` where that does not fit together."""

    host: str = GMAIL
    port: int = 465
    security: str = "ssl"  #: TLS from the first byte, "starttls": before anything else is said, or "plain": none
    user: str | None = None  #: name to log in with, or None for servers that want no login
    password: str | None = field(default=None, repr=False)  #: never shown
    sender: str = ""  #: the address mail comes from
    to: tuple[str, ...] = ()  #: the addresses it goes to where a mail has none of its own
    timeout: float = 20.0  #: seconds that the server may take for one answer
    ca_file: str | None = None  #: certificates to trust instead of the system's

    def __post_init__(self) -> None:
        for address in (self.sender, *self.to):
            split_address(address)
        if self.user is None and self.password is not None:
            raise MailError("mail: there is a password, but no user; write the name to log in with as user")
        if self.user is not None and self.security == "plain" and not _is_loopback(self.host):
            raise MailError(
                f"mail: the password of {self.user} would go to {self.host} readable by everybody on the way, as "
                'security is "plain"; write security = "ssl" or "starttls", or leave out user and password where the '
                "server wants no login"
            )
        if self.password is not None and not self.password.isascii():
            raise MailError(
                "mail: the password has characters beyond ASCII, which SMTP cannot carry; choose another one"
            )


def load_settings(environ: Mapping[str, str] = os.environ) -> MailSettings:
    """The settings of the file and the environment, which goes before the file.

    Raises:
        MailError: there are none, or they do not fit; the text says what to write where
    """
    path = settings_path(environ)
    values = {**_read_file(path), **_read_environment(environ)}
    if not values:
        raise MailError(
            f"no mail settings: write {path} (mode 0600) with host, port, security, user, password, from and to, or "
            f"set {PREFIX}HOST and so on; for Gmail user and password, an app password, are enough"
        )
    user, host = values.get("user"), values.get("host", GMAIL).lower()
    security = values.get("security") or ("starttls" if values.get("port") == PORTS["starttls"] else "ssl")
    if host == GMAIL and user is None:
        raise MailError(f"{path}: no user; write your Gmail address as user, or another server as host")
    password = values.get("password")
    if user is not None and password is None:
        password = _keyring_password(user, environ)
        if password is None:
            raise MailError(
                f'{path}: no password for user {user}; write password = "..." into {path}, set {PREFIX}PASSWORD, or '
                "store it with 'keyring set yagmail USER'"
            )
    sender: str = values.pop("from", user or "")
    if not _is_address(sender):
        raise MailError(f"{path}: no from; expected {KEYS['from']}")
    if host == GMAIL and password is not None:
        password = "".join(password.split())  # Google shows app passwords in four groups, blanks not being part of them
    values = {"port": PORTS[security], "to": (sender,), **values}
    return MailSettings(**{**values, "host": host, "security": security, "password": password, "sender": sender})


def are_there(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody has written any, good or not."""
    return settings_path(environ).exists() or any(name.startswith(PREFIX) and environ[name] for name in environ)


def settings_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the settings file is looked for."""
    return _home(environ, "XDG_CONFIG_HOME", ".config") / "mail.toml"


def state_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder where unsent mail waits."""
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "mail"


def _home(environ: Mapping[str, str], variable: str, default: str) -> Path:
    # as the XDG specification says, a relative path counts for nothing
    named = environ.get(variable, "")
    home = os.path.expanduser("~")  # stays as it is for a user without a home, as containers have them
    base = Path(named) if os.path.isabs(named) else Path(home if os.path.isabs(home) else "/", default)
    return base / "fairseq-cloze"


def split_address(text: str) -> tuple[str, str]:
    """Name (may be empty) and address of ``me@example.org`` or ``My Name <me@example.org>``.

    The name of a server may have letters of any script; the address that is returned has it as the network wants it.

    Raises:
        MailError: it is neither
    """
    found = _MAILBOX.fullmatch(_with_plain_server(text.strip()))
    if not found:
        raise MailError(f"mail: expected {KEYS['from']}, found {text!r}")
    name = (found["name"] or "").strip()
    if name.startswith('"'):
        name = re.sub(r"\\(.)", r"\1", name)
    return name.strip(' "'), found["address"]


def split_addresses(text: str) -> list[str]:
    """What stands in a list of addresses, with or without names, with commas, semicolons, colons or blanks between.

    >>> split_addresses('me@example.org, "Doe, Jane" <jane@example.org>')
    ['me@example.org', '"Doe, Jane" <jane@example.org>']

    Raises:
        MailError: it is longer than any list of addresses, and would take long to search
    """
    if len(text) > _LONGEST_LIST:
        raise MailError(
            f"mail: expected addresses, at most {_LONGEST_LIST:,} characters, found {len(text):,}; name fewer"
        )
    return [found.strip() for found in _ONE_OF_MANY.findall(text)]


_LONGEST_LIST = 4096

#: Characters of a server's name (RFC 1035); of longer ones Python's codec takes quadratic time.
_LONGEST_SERVER = 253


def _with_plain_server(text: str) -> str:
    """An address with its server's name in ASCII, if that can be."""
    before, at, server = text.rpartition("@")
    server, bracket, rest = server.partition(">")
    if server.isascii() or len(server) > _LONGEST_SERVER:
        return text
    try:
        return f"{before}{at}{server.encode('idna').decode()}{bracket}{rest}"
    except UnicodeError:
        return text


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(split_address(value))
    except MailError:
        return False


def _is_loopback(host: str) -> bool:
    """Whether *host* is this very machine, where nobody listens on the way."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise MailError(f"{path}: mode {mode:04o} lets others read it; run: chmod 600 '{path}'")
            table = tomllib.load(file)
    except FileNotFoundError:
        return {}
    # never chained: a traceback of the parser shows the text, and with it the password
    except (OSError, UnicodeDecodeError) as error:
        raise MailError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})") from None
    except (ValueError, RecursionError) as error:
        raise MailError(f'{path}: not TOML: {error}; strings stand in quotes, as in host = "smtp.gmail.com"') from None
    return {key: _checked(f"{path}: {key}", key, value) for key, value in table.items()}


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name, text in environ.items():
        if name.startswith(PREFIX) and text:
            key = name.removeprefix(PREFIX).lower()
            value: Any = text
            if key in ("port", "timeout") and re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
                value = float(text) if "." in text else int(text)
            elif key == "to":
                value = split_addresses(text)
            values[key] = _checked(name, key, value)
    return values


def _checked(where: str, key: str, value: Any) -> Any:
    """The value of a key as :class:`MailSettings` has it."""
    match key:
        case "port":
            good = type(value) is int and 1 <= value <= 65535
        case "timeout":
            good = type(value) in (int, float) and 1 <= value <= 600
        case "security":
            good = value in list(PORTS)
        case "from":
            good = _is_address(value)
        case "to":
            value = split_addresses(value) if isinstance(value, str) else value if isinstance(value, list) else [value]
            good = bool(value) and all(map(_is_address, value))
        case "host" | "user" | "password" | "ca_file":
            good = isinstance(value, str) and bool(value.strip()) and value.isprintable()
            good = good and not (key == "host" and re.search(r"[\s:/@]", value))
        case _:
            raise MailError(f"{where}: there is no such setting; expected one of {', '.join(KEYS)}")
    if not good:
        found = "something else" if key == "password" else repr(value)
        raise MailError(f"{where}: expected {KEYS[key]}, found {found}")
    if key == "ca_file":
        return os.path.expanduser(value)
    return tuple(value) if key == "to" else value


def _keyring_password(user: str, environ: Mapping[str, str]) -> str | None:
    """The password that ``keyring set yagmail USER`` stored, or None.

    A keyring may ask to be unlocked, on the terminal or a screen far away, so a process without a terminal asks it, and
    gives it up after :data:`KEYRING_SECONDS`.
    """
    if importlib.util.find_spec("keyring") is None:
        return None
    code = (
        "import sys; sys.path = [path for path in sys.path if path]; import keyring; "  # nothing of this folder's
        "sys.stdout.write(keyring.get_password('yagmail', sys.argv[1]) or '')"
    )
    command = [sys.executable, "-c", code, user]
    limits: dict[str, Any] = {"stdin": DEVNULL, "stderr": DEVNULL, "timeout": KEYRING_SECONDS}
    try:
        answer: bytes = check_output(command, **limits, start_new_session=True, env=environ)
    except (OSError, SubprocessError):
        return None
    return answer.decode("utf-8", "replace").strip() or None
