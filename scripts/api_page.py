"""Write docs/api.md, the public names of the package, from their docstrings: python scripts/api_page.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fairseq_cloze

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"

INTRODUCTION = """# In Python

*Made from the docstrings by `python scripts/api_page.py`; change those.*

```python
import fairseq_cloze

ranker = fairseq_cloze.load("examples/pretrained/mini/model.pt")
first, second = ranker.rank("She _ to school _ day.", [["went", "go", "gone"], ["every", "a", "all"]])
print(first.answer, first.probabilities, second.answer)

passages = [("It was _ outside.", [["cold", "book"]]), {"article": "He _ .", "options": [["left", "leaf", "lift"]]}]
for blanks in ranker.rank_many(passages):
    print([blank.answer for blank in blanks])
```

Several checkpoints are averaged: `fairseq_cloze.load("a.pt", "b.pt", weights=[2, 1])`. fairseq is not needed for any of
this. Where it is installed, its own way works, too: `fairseq_cloze.plugin.model.ClozeRobertaModel.from_pretrained`
takes a folder such as `examples/pretrained/mini` and ranks in the same way.

All names below are in `fairseq_cloze`; everything else in the package may change from version to version.
"""

#: Of a class, what is shown; all that is public where nothing is said.
MEMBERS = {"Ranker": ("rank", "rank_many", "notes")}

#: Sections of docstrings → their titles here.
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")


def page() -> str:
    """The whole page."""
    names = [name for name in fairseq_cloze.__all__ if not name.startswith("_")]
    objects = {name: getattr(fairseq_cloze, name) for name in names}
    errors = [name for name, value in objects.items() if _is_error(value)]
    parts = [INTRODUCTION]
    for name in ("load", "Ranker", "Ranked", "register"):
        parts += _describe(name, objects.pop(name))
    missing = sorted(set(objects) - set(errors))
    assert not missing, f"public names without a place on the page: {missing}"
    parts.append("## Errors\n")
    for name in sorted(errors, key=lambda name: (len(objects[name].__mro__), name)):
        base = objects[name].__bases__[0]
        of = "" if base is Exception else f" (a `{base.__name__}`)"
        parts.append(f"- `{name}`{of}: {_first_paragraph(objects[name])}")
    return "\n".join(parts).rstrip() + "\n"


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _describe(name: str, value: Any, level: int = 2) -> Iterator[str]:
    title = f"{'#' * level} {name}"
    if inspect.isfunction(value):
        title += f"\n\n```text\n{name.rpartition('.')[2]}{_signature(value)}\n```"
    yield f"{title}\n"
    yield _markdown(inspect.getdoc(value) or "") + "\n"
    if isinstance(value, type):
        shown = MEMBERS.get(name) or [key for key in vars(value) if not key.startswith("_")]
        for key in shown:
            member = vars(value)[key]
            if inspect.isfunction(member):
                yield from _describe(f"{name}.{key}", member, level + 1)
            elif isinstance(member, property):
                yield f"{'#' * (level + 1)} {name}.{key}\n\n{_markdown(inspect.getdoc(member) or '')}\n"


def _signature(function: Any) -> str:
    """As it is written, a line per parameter where it is long; types as in the source, without the package's name."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    texts = [re.sub(r"'([^']*)'", r"\1", str(each)) if each.default is each.empty else str(each) for each in parameters]
    texts = [text.replace(f": '{each.annotation}'", f": {each.annotation}") for text, each in zip(texts, parameters)]
    for place, each in enumerate(parameters):
        before = parameters[place - 1].kind if place else None
        if each.kind is each.KEYWORD_ONLY and before not in (each.KEYWORD_ONLY, each.VAR_POSITIONAL):
            texts.insert(place, "*")
            break
    end = f") -> {signature.return_annotation}"
    line = f"({', '.join(texts)}{end}"
    return line if len(line) <= 100 else "(\n" + "".join(f"    {text},\n" for text in texts) + end


def _first_paragraph(value: Any) -> str:
    return " ".join(_inline((inspect.getdoc(value) or "").split("\n\n")[0]).split())


def _inline(text: str) -> str:
    text = re.sub(r":\w+:`(?:fairseq_cloze\.(?=\w+`))?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def _markdown(docstring: str) -> str:
    """Paragraphs as they are, sections as lists."""
    out: list[str] = []
    inside = False
    for line in _inline(docstring).splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            out += [f"**{title}**", ""]
            inside = True
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            out.append(f"- `{name}`: {rest}" if colon and " " not in name.replace(", ", ",") else f"- {line.strip()}")
        elif inside and line.startswith("     "):
            out.append("  " + line.strip())
        else:
            inside = inside and not line.strip()
            out.append(line)
    return "\n".join(out).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
