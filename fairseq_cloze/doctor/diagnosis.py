"""Diagnosis: what was checked of a checkpoint, and the verdict over all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

OK, UNFIT, DOUBT, SKIPPED = "ok", "unfit", "doubt", "skipped"


@dataclass
class Check:
    """One check.

    Attributes:
        name: what was looked at
        verdict: ``ok``, ``unfit``, ``doubt`` or ``skipped``
        measured: what was found; for a skipped check, why
        expected: what a sound checkpoint has
        fault: name of the fault, empty where there is none or it follows from an earlier one
        advice: likely cause and what to do
        values: the figures in *measured*
    """

    name: str
    verdict: str
    measured: str
    expected: str = ""
    fault: str = ""
    advice: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The check as one line."""
        text = f"{self.verdict:9}{self.name:16}{self.measured}"
        if self.expected:
            text += f" (expected {self.expected})"
        complaint = ": ".join(part for part in (self.fault, self.advice) if part)
        return f"{text}; {complaint}" if complaint else text


@dataclass
class Diagnosis:
    """All checks of one checkpoint."""

    checkpoint: str
    data_bin: str | None
    checks: list[Check] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        """No check found the checkpoint unfit."""
        return all(check.verdict != UNFIT for check in self.checks)

    def faults(self, *verdicts: str) -> list[str]:
        """Names of the faults with one of these verdicts."""
        return [check.fault or check.name for check in self.checks if check.verdict in verdicts and check.fault]

    def verdict_line(self) -> str:
        """The verdict over all."""
        if not self.fit:
            return f"unfit: {', '.join(self.faults(UNFIT))}"
        doubts = self.faults(DOUBT)
        return f"fit, in doubt: {', '.join(doubts)}" if doubts else "fit"

    def to_json(self) -> str:
        """The diagnosis as JSON; ``null`` where there is no number."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            check["values"] = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in check["values"].items()
            }
        content = {
            "checkpoint": self.checkpoint,
            "data_bin": self.data_bin,
            "verdict": OK if self.fit else UNFIT,
            "faults": self.faults(UNFIT),
            "doubts": self.faults(DOUBT),
            "checks": checks,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
