"""Settings: how passages become input and how candidates are scored, by name.

Plain values, without torch, so that the command line can show them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ClozeError

VIEWS = ("joint", "full", "neighbors")
SCORERS = ("mean", "kmask", "l2r", "head")
OTHER_BLANKS = ("remove", "mask", "gold")

_DEFAULTS: dict[str, Any] = {"view": "joint", "scorer": "mean", "other_blanks": "remove", "contrast": 0.7}

#: Settings that training fixes and checkpoints carry.
CARRIED = tuple(_DEFAULTS)


@dataclass(frozen=True)
class Settings:
    """How a checkpoint scores; what is ``None`` is taken from the checkpoint, else from the defaults of training.

    Attributes:
        view: one of :data:`VIEWS`
        scorer: one of :data:`SCORERS`
        other_blanks: one of :data:`OTHER_BLANKS`, for view ``full``
        contrast: share of a candidate's mean score at the other blanks that its score is reduced by, 0 to 1, in
            view ``joint``
    """

    view: str | None = None
    scorer: str | None = None
    other_blanks: str | None = None
    contrast: float | None = None

    def completed(self, carried: dict[str, Any]) -> Settings:
        """Fill in what is ``None``.

        Args:
            carried: values by name that a checkpoint carries

        Raises:
            ClozeError: view and scorer do not go together, a value is out of range, or the checkpoint was trained with
                a scorer that this version does not have
        """
        values = {}
        for name, default in _DEFAULTS.items():
            given = getattr(self, name)
            values[name] = given if given is not None else carried.get(name, default)
        if self.scorer is None and not fits(values["view"], values["scorer"]):  # another view than the checkpoint's
            values["scorer"] = _DEFAULTS["scorer"]
        view, scorer, contrast = values["view"], values["scorer"], values["contrast"]
        if scorer not in SCORERS:
            origin = "" if self.scorer else ", which the checkpoint was trained with; choose one, such as --scorer mean"
            raise ClozeError(f"--scorer: expected one of {', '.join(SCORERS)}, found {scorer}{origin}")
        if not fits(view, scorer):
            needs = "mean, kmask or l2r" if view == "joint" else "mean or head"
            raise ClozeError(f"--view {view} needs --scorer {needs}, found --scorer {scorer}")
        if not 0.0 <= contrast <= 1.0:
            raise ClozeError(f"--contrast: expected a number from 0 to 1, found {contrast}")
        return Settings(**values)


def fits(view: str, scorer: str) -> bool:
    """Whether a view can be scored so."""
    return scorer != "head" if view == "joint" else scorer in ("mean", "head")


DEFAULT_SETTINGS = Settings()
