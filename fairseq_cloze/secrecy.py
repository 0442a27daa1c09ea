"""Secrecy: passwords and tokens are left out of what logs, mails, records and messages show."""

import os
import re
from collections.abc import Mapping, Sequence

HIDDEN = "***"

#: Environment variable with URLs of chats and the like; they hold tokens.
SERVICES_VARIABLE = "FAIRSEQ_CLOZE_NOTIFY"

_SHORTEST = 6  # characters of a value of the environment that is looked for
_NAME = (
    r"(?i:(?<![a-z0-9_.-])[a-z0-9_.-]{0,60}(?:cloze_notify|password|passwd|passphrase|passcode|bearer|secret|token|credentials?|authorization"
    r"|(?:api|access|secret|private|account)[_-]?key(?:[_-]id)?|(?<![a-z0-9])(?:pass|auth)|(?<=[a-z0-9][_-])pwd"
    r"|(?-i:(?<=[A-Z0-9]_)KEY)))(?![A-Za-z0-9_-])"
)
_VARIABLE = re.compile(_NAME)
_LOG_IN = ("-u", "--user", "--proxy-user")  # whose value is NAME:PASSWORD
_FLAG = re.compile(rf"(?=-){_NAME}")
_WHOLE = re.compile(rf"({_NAME}[\"']?\s*[=:]\s*).+", re.S)  # all the rest of an argument
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'&;]+)"
_PAIR = re.compile(rf"({_NAME}[\"']?\s*[=:]\s*(?i:(?:bearer|basic|token)\s+)?|(?<!\S)(?=-){_NAME}\s+){_VALUE}")
_USER = re.compile(rf"(\s(?:{'|'.join(_LOG_IN)})[\s=]\s*[^\s:\"']+:)[^\s\"']+")
_USER_WORD = re.compile(rf"((?:-u|(?:{'|'.join(_LOG_IN[1:])})=)[^:]+:).+", re.S)
_URL = re.compile(r"(\w:/+)(?!git@)[^/\s@\"']+@")
_QUERY = re.compile(rf"([?&](?:{_NAME}|(?i:[a-z0-9-]{{0,20}}\bsig(?:nature)?))=)[^\s&\"']+")
_SHAPES = re.compile(  # of tokens that say themselves what they are
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|npm_|AKIA|AIza|eyJ[\w-]+\.eyJ[\w-]+\.)[A-Za-z0-9_-]{16,}"
)


def hide_secrets(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """A text without passwords in addresses, without tokens that look like one or
    stand in a query by name, and without the environment's own.

    >>> hide_secrets("git clone https://me:1234@example.org/x", {})
    'git clone https://***@example.org/x'
    """
    for name, value in environ.items():
        for secret in (value, *value.replace(",", " ").split()) if name == SERVICES_VARIABLE else (value,):
            if len(secret) >= _SHORTEST and secret in text and _VARIABLE.fullmatch(name):
                text = text.replace(secret, HIDDEN)
    return _SHAPES.sub(HIDDEN, _QUERY.sub(rf"\1{HIDDEN}", _URL.sub(rf"\1{HIDDEN}@", text)))


def hide_in_command(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """A command line without the values of options and variables that are named as secrets are, see also above.

    >>> hide_in_command(["env", "HF_TOKEN=abc", "train", "--password", "a b", "--max-tokens", "4096"], {})
    ['env', 'HF_TOKEN=***', 'train', '--password', '***', '--max-tokens', '4096']
    """
    shown: list[str] = []
    for before, word in zip(("", *words), words):
        user, colon, _ = word.partition(":")
        if before in _LOG_IN and colon:
            word = f"{user}:{HIDDEN}"
        elif _FLAG.fullmatch(before) and not word.startswith("--"):
            word = HIDDEN
        elif user_word := _USER_WORD.fullmatch(word):
            word = f"{user_word[1]}{HIDDEN}"
        elif whole := _WHOLE.fullmatch(word):
            word = f"{whole[1]}{HIDDEN}"
        else:
            word = _USER.sub(rf"\1{HIDDEN}", _PAIR.sub(rf"\1{HIDDEN}", word))
        shown.append(hide_secrets(word, environ))
    return shown
