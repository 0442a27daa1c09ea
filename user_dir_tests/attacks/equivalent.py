"""Mutations that change nothing that can be seen, for :mod:`.mutate`."""

from __future__ import annotations

import re

#: What is the same wherever it stands: pattern and replacement that undo the mutation, and why it is.
_ANYWHERE = [
    (r"\btype\((\w+)\) == ", r"type(\1) is ", "a type equals itself only"),
    (r"\((\w+ [<>]=? \w+)\) \* (?=\()", r"(\1) & ", "of arrays of truths both are the same"),
    (r"\b((?:os|fcntl)\.(?:O|LOCK)_\w+) [+^] (?=os|fcntl)", r"\1 | ", "flags have no bit in common"),
]

_NEGATIVE = "any number below 0 is no index"

#: Of a module: the changed lines → why they are the same.
_IN_ONE_PLACE: dict[str, dict[str, str]] = {
    "passages/text": {
        'if norm == "none": → if norm <= "none":': "of the two norms only 'none' is not above 'none'",
    },
    "passages/passage": {
        "index = answer if type(answer) is int else -1 → index = answer if type(answer) is int else ~1": _NEGATIVE,
        "index = answer if type(answer) is int else -1 → index = answer if type(answer) is int else - 2": _NEGATIVE,
    },
    "views/windows": {
        "richest = np.full(len(owner), -1)  # tokens on the poorer side of each blank, in its best window so far → "
        "richest = np.full(len(owner), - 2)  # tokens on the poorer side of each blank, in its best window so far": (
            "no side has fewer than 0"
        ),
    },
    "passages/reading": {
        "if self.labelled != self.blanks: → if self.labelled < self.blanks:": "no more are labelled than there are",
    },
}


def is_equivalent(module: str, change: str) -> bool:
    """Whether a mutation, its lines before and after, is known to change nothing."""
    if change in _IN_ONE_PLACE.get(module, {}):
        return True
    before, after = change.split(" → ")
    return any(re.sub(pattern, original, after, count=1) == before for pattern, original, _ in _ANYWHERE)
