"""Mutations that change nothing that can be seen, for :mod:`.mutate`: the changed lines → why."""

_TYPES = "a type equals itself only"
_NEGATIVE = "any number below 0 is no index"

EQUIVALENT: dict[str, dict[str, str]] = {
    "passages/text": {
        'if norm == "none": → if norm <= "none":': "of the two norms only 'none' is not above 'none'",
    },
    "passages/passage": {
        "index = answer if type(answer) is int else -1 → index = answer if type(answer) == int else -1": _TYPES,
        "if type(answer) is int and answer == last + 1: → if type(answer) == int and answer == last + 1:": _TYPES,
        "return min((answer for answer in answers or () if type(answer) is int), default=None) → "
        "return min((answer for answer in answers or () if type(answer) == int), default=None)": _TYPES,
        "index = answer if type(answer) is int else -1 → index = answer if type(answer) is int else ~1": _NEGATIVE,
        "index = answer if type(answer) is int else -1 → index = answer if type(answer) is int else - 2": _NEGATIVE,
    },
}
