"""The head of a log: any command is one line, from which the words come back, and which has no secret in it."""

import shlex

from fairseq_cloze.runlog.command import name_of, safe_name
from fairseq_cloze.runlog.surroundings import one_line, shell_line
from fairseq_cloze.secrecy import hide_in_command

SECRET = "qX7-s3cret-Zw9"


def seeds() -> list[bytes]:
    return [
        b"fairseq-train\0data-bin\0--max-tokens\x004096",
        b"env\0HF_TOKEN=@\0bash\0-c\0curl --token @ https://me:@@example.org/x?api_key=@&y=1",
        b"python\0-c\0print('a b')\n\t\x1b[0m",
        b"mysql\0--password\0@\0--user\0me:@",
        "sh\0-c\0echo 'ü €' \"x\"".encode(),
    ]


def attack(data: bytes) -> None:
    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")]
    line = shell_line(words)
    assert "\n" not in line and "\r" not in line
    if not any(ord(character) < 32 or ord(character) == 127 for character in line) and "$'" not in line:
        assert shlex.split(line) == words
    name = safe_name(name_of(words))
    assert name and "/" not in name and len(name) <= 50 and one_line(name) == name
    hidden = hide_in_command([word.replace("@", SECRET) for word in words], {"SOME_TOKEN": SECRET})
    assert len(hidden) == len(words) and SECRET not in " ".join(hidden)
    assert SECRET not in " ".join(hide_in_command(["--password", SECRET, *words, f"X_TOKEN={SECRET}"], {}))
