"""What ``gpu_check.py`` found: a JSON line for each figure as it is found, and a page of all of them with verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_cloze.files import replacing


class Goal(NamedTuple):
    """A figure that is to be reached."""

    what: str
    figure: str
    least: float


#: Shares of the rate of matrix products that are to be reached, in percent.
GOALS = [
    *(
        Goal(f"fairseq-train, {name}, {dtype}", f"training / {shape}, {dtype} / share", 52.0)
        for shape, name in (("large", "RoBERTa-large"), ("modern", "ModernBERT-large"))
        for dtype in ("bf16", "fp16")
    ),
    *(
        Goal(f"scoring, {name}, {dtype}", f"scoring / {shape}, {dtype} / share", 62.0)
        for shape, name in (("large", "RoBERTa-large"), ("modern", "ModernBERT-large"))
        for dtype in ("bf16", "fp16")
    ),
]


class Report:
    """Lines of a file that several processes, one after the other, add to.

    Args:
        path: of the JSON lines; the page lies beside it, with the ending ``.md``
    """

    def __init__(self, path: Path) -> None:
        self.path, self.page_path = path, path.with_suffix(".md")

    def add(self, part: str, **fields: Any) -> None:
        """Write a line, and say it."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"part": part, **fields}) + "\n")
        if "figure" in fields:
            print(f"{part}: {fields['figure']} = {show(fields['value'])}", flush=True)
        elif "check" in fields:
            print(f"{part}: {'ok' if fields['holds'] else 'FAILED'}: {fields['check']}", flush=True)
        elif "outcome" in fields:
            print(f"{part}: {fields['outcome']}, {fields['seconds']:.0f} s", flush=True)

    def lines(self) -> list[dict[str, Any]]:
        """All lines that are whole."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # whoever wrote it was ended
                continue
        return found

    @property
    def figures(self) -> dict[str, Any]:
        """The latest value of each figure."""
        return {line["figure"]: line["value"] for line in self.lines() if "figure" in line}

    @property
    def checks(self) -> dict[str, bool]:
        """What holds, and what does not."""
        return {line["check"]: line["holds"] for line in self.lines() if "check" in line}

    @property
    def outcomes(self) -> dict[str, str]:
        """How each part ended the last time, by its name."""
        return {line["part"]: line["outcome"] for line in self.lines() if "outcome" in line}

    def verdicts(self, goals: list[Goal]) -> list[tuple[str, str]]:
        """What was to be shown, and what it says of that: checks, goals, and parts that did not end well."""
        figures = self.figures
        out = [(what, "ok" if holds else "FAILED") for what, holds in self.checks.items()]
        for goal in goals:
            value = figures.get(goal.figure)
            reached = "not measured" if value is None else "met" if value >= goal.least else "MISSED"
            shown = "" if value is None else f", {value:.1f}%"
            out.append((f"{goal.what}: at least {goal.least:g}% of the rate of matrix products", f"{reached}{shown}"))
        out += [(f"part '{part}'", outcome) for part, outcome in self.outcomes.items() if outcome != "done"]
        return out

    def write_page(self, goals: list[Goal]) -> str:
        """Write all that is known as a page; its text."""
        rows = [f"| {what} | {verdict} |" for what, verdict in self.verdicts(goals)]
        lines = ["# GPU check", "", "| verdict | |", "|---|---|", *rows, "", "| figure | |", "|---|---|"]
        lines += [f"| {name} | {show(value)} |" for name, value in self.figures.items()]
        text = "\n".join(lines) + "\n"
        with replacing(self.page_path) as new:
            new.write_text(text, encoding="utf-8")
        return text


def show(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {show(entry)}" for key, entry in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
