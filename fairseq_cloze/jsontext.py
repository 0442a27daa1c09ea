"""JSON from strangers: read as the standard has it, or refused by what is wrong."""

import json
import math
from typing import Any

from .files import POINTER, POINTER_IS

#: Of whole numbers; Python converts no more than some thousand, and nothing here needs more than twenty.
_DIGITS = 1000

_LEVELS = 100  # of lists and objects in each other; who writes values out again recurses, too

_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"\0{", b"\0[", b"{\0", b"[\0")


class NotJson(ValueError):
    """What was expected and what was found; *rest* is the text from a mistake on, where there is a place."""

    def __init__(self, problem: str, rest: str | None = None) -> None:
        super().__init__(problem)
        self.rest = rest


def parse_json(content: bytes | str) -> Any:
    """A JSON text in UTF-8, with or without a byte-order mark.

    Keys that stand twice in an object, ``NaN``, ``Infinity`` and numbers beyond all bounds are refused: other readers
    would take them for something else.  Strings may hold half of a surrogate pair, as JSON may.

    Raises:
        NotJson: it is none; nothing else is raised
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > _LEVELS:
            _check_levels(value)
        return value
    except UnicodeDecodeError as error:
        if error.object.startswith(_UTF_16):
            raise NotJson("expected UTF-8 text, found UTF-16; save the file as UTF-8") from error
        found = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise NotJson(f"expected UTF-8 text, found {found}") from error
    except json.JSONDecodeError as error:
        if isinstance(content, bytes) and content.startswith(_UTF_16):
            raise NotJson("expected UTF-8 text, found UTF-16; save the file as UTF-8") from error
        if error.doc.startswith(POINTER.decode()):
            raise NotJson(f"expected JSON, found {POINTER_IS}") from error
        where = f"line {error.lineno}, column {error.colno}"
        raise NotJson(f"expected JSON, found a mistake in {where} ({error.msg})", error.doc[error.pos :]) from error
    except RecursionError as error:
        raise NotJson("expected JSON, found it nested too deeply") from error


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(_LEVELS):
        inner = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list)))
        level = [part for parts in inner for part in parts]
        if not level:
            return
    raise NotJson("expected JSON, found it nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"expected each key once, found {json.dumps(twice[:40])} twice")
    return fields


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise NotJson(f"expected a number of at most {_DIGITS:,} digits, found one of {len(digits):,}")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson(f"expected a finite number, found {digits[:40]}")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
