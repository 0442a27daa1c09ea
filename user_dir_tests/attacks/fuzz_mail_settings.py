"""Mail settings: any file gives settings that fit together or an error that does not show the password."""

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.mail.settings import MailSettings, load_settings, split_address, split_addresses

PASSWORD = "qX7-s3cret"


def seeds() -> list[bytes]:
    return [
        b'user = "me@gmail.com"\npassword = "qX7-s3cret"\n',
        b'host = "mail.example.org"\nsecurity = "starttls"\nport = 587\nuser = "j"\npassword = "qX7-s3cret"\n'
        b'from = "Jane <j@example.org>"\nto = ["j@example.org", "\\"Doe, J\\" <k@example.org>"]\ntimeout = 2.5\n',
        'host = "relay"\nsecurity = "plain"\nfrom = "j@exämple.org"\nca_file = "~/ca.pem"\n'.encode(),
    ]


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    home = tempfile.TemporaryDirectory()
    (Path(home.name) / "fairseq-cloze").mkdir()
    return home


def attack(data: bytes) -> None:
    path = Path(_home().name) / "fairseq-cloze" / "mail.toml"
    path.write_bytes(data)
    path.chmod(0o600)
    with suppress(ClozeError):
        for text in split_addresses(data.decode("utf-8", "replace")):
            assert text == text.strip() and text
    try:
        # with a password in the environment no keyring is asked
        settings = load_settings({"XDG_CONFIG_HOME": _home().name, "FAIRSEQ_CLOZE_MAIL_PASSWORD": PASSWORD})
    except ClozeError as error:
        if data.count(PASSWORD.encode()) == data.count(f'password = "{PASSWORD}"'.encode()):
            assert PASSWORD not in str(error)
        return
    assert isinstance(settings, MailSettings) and PASSWORD not in repr(settings)
    assert 1 <= settings.port <= 65535 and 1 <= settings.timeout <= 600 and settings.to
    assert all(split_address(address)[1].isascii() for address in settings.to)
