"""Settings: how passages become input and how candidates are scored, by name.

Plain values, without torch, so that the command line can show them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

from .errors import ClozeError

VIEWS = ("joint", "full", "neighbors")
SCORERS = ("lm", "head")
OTHER_BLANKS = ("remove", "mask", "gold")


@dataclass(frozen=True)
class Settings:
    """How a checkpoint scores; what is ``None`` is taken from the checkpoint, else from the defaults of training."""

    view: Optional[str] = None
    scorer: Optional[str] = None
    other_blanks: Optional[str] = None

    def completed(self, carried: Dict[str, Any]) -> Settings:
        """Fill in what is ``None``."""
        defaults = {"view": "joint", "scorer": "lm", "other_blanks": "remove"}
        values = {name: getattr(self, name) or carried.get(name) or default for name, default in defaults.items()}
        if self.view == "joint" and self.scorer is None:
            values["scorer"] = "lm"
        if values["view"] == "joint" and values["scorer"] == "head":
            raise ClozeError("scorer head needs view full or neighbors; view joint scores with the LM head")
        return Settings(**values)


DEFAULT_SETTINGS = Settings()
