"""Settings: how passages become input and how candidates are scored, by name.

Plain values, without torch, so that the command line can show them at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ClozeError

VIEWS = ("joint", "full", "neighbors")
SCORERS = ("mean", "kmask", "l2r", "head")
OTHER_BLANKS = ("remove", "mask", "gold")


@dataclass(frozen=True)
class Settings:
    """How passages are scored; the defaults are those of training.

    Raises:
        ClozeError: a value is unknown, or view and scorer do not go together
    """

    view: str = "joint"
    scorer: str = "mean"
    other_blanks: str = "remove"  #: in view ``full``
    contrast: float = 0.7  #: in view ``joint``, share of a candidate's mean score at other blanks to subtract, 0 to 1

    def __post_init__(self) -> None:
        for name, known in (("view", VIEWS), ("scorer", SCORERS), ("other_blanks", OTHER_BLANKS)):
            if getattr(self, name) not in known:
                option = name.replace("_", "-")
                raise ClozeError(f"--{option}: expected one of {', '.join(known)}, found '{getattr(self, name)}'")
        if not fits(self.view, self.scorer):
            needs = "mean, kmask or l2r" if self.view == "joint" else "mean or head"
            raise ClozeError(f"--view {self.view} needs --scorer {needs}, found --scorer {self.scorer}")
        if type(self.contrast) not in (int, float) or not 0.0 <= self.contrast <= 1.0:
            raise ClozeError(f"--contrast: expected a number from 0 to 1, found {self.contrast}")


#: Settings that training fixes and checkpoints carry.
CARRIED = ("view", "scorer", "other_blanks", "contrast")


@dataclass(frozen=True)
class PartialSettings:
    """Settings by choice: what is ``None`` was left open.  The fields are those of :class:`Settings`."""

    view: str | None = None
    scorer: str | None = None
    other_blanks: str | None = None
    contrast: float | None = None

    def completed(self, carried: PartialSettings | None = None) -> Settings:
        """What is in force: what was chosen, else what the checkpoint carries, else the default of training.

        A checkpoint's scorer is not taken over into another view where it does not fit.  Raises what :class:`Settings`
        raises.
        """
        values: dict[str, Any] = asdict(Settings())
        for settings in (carried or AS_TRAINED, self):
            values.update({name: value for name, value in asdict(settings).items() if value is not None})
        if self.scorer is None and values["scorer"] not in SCORERS:
            raise ClozeError(
                f"--scorer: expected one of {', '.join(SCORERS)}, found '{values['scorer']}', which the checkpoint was "
                "trained with; choose one, such as --scorer mean"
            )
        if self.scorer is None and not fits(values["view"], values["scorer"]):
            values["scorer"] = Settings.scorer
        return Settings(**values)


#: Nothing chosen: a checkpoint scores as it was trained.
AS_TRAINED = PartialSettings()


def fits(view: str, scorer: str) -> bool:
    """Whether a view can be scored so."""
    return scorer != "head" if view == "joint" else scorer in ("mean", "head")
