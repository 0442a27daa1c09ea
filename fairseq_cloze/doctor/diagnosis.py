"""Diagnosis: what was checked of a checkpoint, and the verdict over all."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

OK, UNFIT, DOUBT, SKIPPED = "ok", "unfit", "doubt", "skipped"


@dataclass
class Check:
    """One check."""

    name: str  #: what was looked at
    verdict: str  #: ``ok``, ``unfit``, ``doubt`` or ``skipped``
    measured: str  #: what was found; for a skipped check, why
    expected: str = ""  #: what a sound checkpoint has
    fault: str = ""  #: its name; empty where there is none or it follows from an earlier one
    advice: str = ""  #: likely cause and what to do
    values: dict[str, Any] = field(default_factory=dict)  #: the figures in *measured*

    def line(self) -> str:
        """The check as one line."""
        expected = f" (expected {self.expected})" if self.expected else ""
        complaint = ": ".join(filter(None, (self.fault, self.advice)))
        return f"{self.verdict:9}{self.name:16}{self.measured}{expected}" + (f"; {complaint}" if complaint else "")


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

    def faults(self, verdict: str) -> list[str]:
        """Names of the faults with this verdict."""
        return [check.fault for check in self.checks if check.verdict == verdict and check.fault]

    def verdict_line(self) -> str:
        """The verdict over all."""
        if not self.fit:
            return f"unfit: {', '.join(self.faults(UNFIT))}"
        doubts = self.faults(DOUBT)
        return f"fit, in doubt: {', '.join(doubts)}" if doubts else "fit"

    def to_json(self) -> str:
        """The diagnosis as JSON; ``null`` where there is no number."""
        content = {
            "checkpoint": self.checkpoint,
            "data_bin": self.data_bin,
            "verdict": OK if self.fit else UNFIT,
            "faults": self.faults(UNFIT),
            "doubts": self.faults(DOUBT),
            "checks": [{**asdict(check), "values": _numbers(check.values)} for check in self.checks],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
